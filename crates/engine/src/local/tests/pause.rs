//! Pausing in both depths.

use boxyard_proto::BoxId;

use super::yard::{LIMITS, Yard, explain};
use crate::local::StorageChoice;
use crate::{Engine, ErrorKind, Limits, Observed, ObservedState, Resumed};

async fn state(yard: &Yard, id: &BoxId) -> ObservedState {
    let observed = yard.engine.observe().await.unwrap();
    let [Observed { id: found, state, .. }] = &observed[..] else { panic!("{observed:?}") };
    assert_eq!(found, id);
    *state
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_box_stands_still_with_all_that_it_has_and_goes_on() {
    let yard = Yard::open().await;
    let id = yard.make().await;
    yard.sh(&id, "sh -c 'echo secret > /dev/shm/file; while :; do :; done' > /dev/null 2>&1 &").await;
    yard.engine.pause(&id).await.map_err(explain).unwrap();
    yard.engine.pause(&id).await.map_err(explain).expect("it is so already");
    assert_eq!(state(&yard, &id).await, ObservedState::Frozen);
    let (before, after) = (yard.engine.usage(&id).await.unwrap(), yard.engine.usage(&id).await.unwrap());
    assert_eq!(before.cpu_ns, after.cpu_ns, "it uses no CPU");
    assert!(before.memory_bytes > 0 && before.pids > 1, "{before:?}");

    assert_eq!(yard.engine.resume(&id).await.map_err(explain).unwrap(), Resumed::Thawed);
    assert_eq!(yard.engine.resume(&id).await.map_err(explain).unwrap(), Resumed::Thawed, "it runs already");
    assert_eq!(state(&yard, &id).await, ObservedState::Running);
    assert_eq!(yard.sh(&id, "cat /dev/shm/file; pgrep -fc 'echo secret'").await.out, "secret\n2\n");
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_box_keeps_its_disk_and_starts_again() {
    for storage in [StorageChoice::Dir, StorageChoice::Btrfs] {
        let yard = Yard::with(storage).await;
        let id = yard.make().await;
        yard.sh(&id, "echo kept > /root/file; echo gone > /dev/shm/file").await;
        yard.engine.pause(&id).await.map_err(explain).unwrap();
        yard.engine.stop(&id).await.map_err(explain).expect("a frozen one can be stopped");
        yard.engine.stop(&id).await.map_err(explain).expect("it is so already");
        yard.engine.pause(&id).await.map_err(explain).expect("it is paused, and more than that");
        assert_eq!(state(&yard, &id).await, ObservedState::Stopped);
        let usage = yard.engine.usage(&id).await.unwrap();
        assert_eq!((usage.pids, usage.memory_bytes), (0, 0));
        let error = yard.engine.connect(&id).await.err().map(|error| error.kind);
        assert_eq!(error, Some(ErrorKind::NotFound));

        assert_eq!(yard.engine.resume(&id).await.map_err(explain).unwrap(), Resumed::Started);
        let done = yard.sh(&id, "cat /root/file; cat /dev/shm/file 2>/dev/null; echo $GREETING $OF_THE_IMAGE").await;
        assert_eq!(done.out, "kept\nhello from the spec yes\n");
        yard.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_box_outlives_the_server_and_can_be_removed() {
    let yard = Yard::open().await;
    let id = yard.make().await;
    yard.engine.pause(&id).await.map_err(explain).unwrap();
    let yard = yard.reopen().await;
    assert_eq!(state(&yard, &id).await, ObservedState::Frozen);
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_cannot_be_paused_or_saved() {
    let yard = Yard::open().await;
    let id = BoxId::from_entropy(1);
    let kinds = [
        yard.engine.pause(&id).await.unwrap_err().kind,
        yard.engine.stop(&id).await.unwrap_err().kind,
        yard.engine.resume(&id).await.unwrap_err().kind,
        yard.engine.save(&id, &boxyard_proto::SnapshotId::from_entropy(1)).await.unwrap_err().kind,
    ];
    assert_eq!(kinds, [ErrorKind::NotFound; 4]);
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_box_is_told_what_it_sent_received_and_lost_for_want_of_memory() {
    let yard = Yard::open().await;
    let id = yard.make_limited(Limits { memory_bytes: 64 << 20, ..LIMITS }).await;
    let before = yard.engine.usage(&id).await.unwrap();
    assert_eq!(before.oom_kills, 0);
    yard.sh(&id, "python3 -c 'x = bytearray(200 << 20)'").await;
    // To the name server's address, where nothing listens and ping is answered: one way only, and some 100 kB.
    let script = "python3 -c 'import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\nfor _ in range(100): s.sendto(bytes(1000), (\"198.51.100.1\", 9))'";
    yard.sh(&id, script).await;
    let after = yard.engine.usage(&id).await.unwrap();
    assert_eq!(after.oom_kills, 1);
    let (sent, received) = (after.network_sent - before.network_sent, after.network_received - before.network_received);
    assert!(sent > 100_000 && received < sent / 2, "sent {sent}, received {received}");
    yard.close().await;
}
