//! What a box's root can see and do of what is not its own.

use super::yard::Yard;

#[tokio::test(flavor = "multi_thread")]
async fn boxes_have_ranges_of_uids_of_their_own() {
    let yard = Yard::open().await;
    let (one, two) = (yard.make().await, yard.make().await);
    let map = "cat /proc/self/uid_map";
    let fields = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let (first, second) = (fields(&yard.sh(&one, map).await.out), fields(&yard.sh(&two, map).await.out));
    assert_eq!((first.len(), first[0].as_str(), first[2].as_str()), (3, "0", "65536"));
    assert_ne!(first[1], second[1]);
    assert!(first[1].parse::<u32>().unwrap() >= yard.config.uid_start);
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_box_sees_only_its_own_processes_and_cannot_raise_its_limits() {
    let yard = Yard::open().await;
    let (one, two) = (yard.make().await, yard.make().await);
    yard.sh(&two, "sleep 12345 > /dev/null 2>&1 &").await;
    assert_eq!(yard.sh(&one, "pgrep -fc 'sleep 1234[5]'").await.out, "0\n");
    let raise = yard.sh(
        &one,
        "mount -t cgroup2 none /mnt 2>/dev/null; for f in /mnt/cgroup.max.depth /sys/fs/cgroup/cgroup.max.depth /mnt/pids.max /sys/fs/cgroup/pids.max; do [ -e $f ] && (echo max > $f) 2>/dev/null && echo raised $f; done; true",
    );
    assert_eq!(raise.await.out, "");
    yard.close().await;
}
