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

#[tokio::test(flavor = "multi_thread")]
async fn a_box_that_takes_all_its_inotify_instances_leaves_others_theirs() {
    let yard = Yard::open().await;
    let (greedy, other) = (yard.make().await, yard.make().await);
    // 294 is inotify_init1.
    let take = "$| = 1; my $n = 0; $n++ while $n < 100000 && syscall(294, 0) >= 0; print qq($n\\n);";
    let hold = format!("mkfifo /tmp/f; (setsid perl -e '{take} sleep 600' > /tmp/f 2>&1 &); head -1 /tmp/f");
    let taken: u32 = yard.sh(&greedy, &hold).await.out.trim().parse().unwrap();
    assert!(taken > 0, "the limit is a box's own");
    assert_eq!(yard.sh(&other, &format!("perl -e '{take}'")).await.out, format!("{taken}\n"), "another box");
    let host = rustix::fs::inotify::init(rustix::fs::inotify::CreateFlags::CLOEXEC);
    assert!(host.is_ok(), "the host: {host:?}");
    yard.close().await;
}
