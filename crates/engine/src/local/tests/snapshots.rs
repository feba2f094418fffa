//! Saving disks, and making boxes from them.

use std::time::Duration;

use boxyard_proto::SnapshotId;

use super::yard::{LIMITS, Yard, explain, spec};
use crate::local::StorageChoice;
use crate::{BoxSpec, Engine, ErrorKind, Limits, ObservedState};

const BOTH: [StorageChoice; 2] = [StorageChoice::Dir, StorageChoice::Btrfs];

fn new_id() -> SnapshotId {
    SnapshotId::from_entropy(rand::random())
}

fn from(snapshot: &SnapshotId) -> BoxSpec {
    // The image's name does not count.
    BoxSpec { from: Some(snapshot.clone()), image: "whatever".into(), ..spec(LIMITS) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_box_made_from_a_snapshot_has_its_disk_and_depends_on_nothing() {
    for storage in BOTH {
        let yard = Yard::with(storage).await;
        let id = yard.make().await;
        // Overlay's marks too: a file of the image that is gone, a folder of it that is new, links, owners, capabilities.
        let make = "cd /root; echo one > file; ln file link; chown 1000:1001 file; mkfifo fifo; rm /etc/debian_version
            rm -r /etc/apt; mkdir /etc/apt; chmod 4755 file; head -c 3000000 /dev/urandom > big; sha1sum big > sum";
        assert_eq!(yard.sh(&id, make).await.code, 0);
        let snapshot = new_id();
        let saved = yard.engine.save(&id, &snapshot).await.map_err(explain).unwrap();
        assert!(saved.size_bytes > 3_000_000 && saved.size_bytes < 8_000_000, "{saved:?}");
        yard.sh(&id, "echo two > /root/file").await;
        assert_eq!(yard.engine.save(&id, &snapshot).await.map_err(explain).unwrap(), saved, "it is complete");
        assert_eq!(yard.engine.snapshots().await.unwrap(), std::slice::from_ref(&snapshot));

        let first = from(&snapshot);
        yard.engine.create(&first).await.map_err(explain).unwrap();
        yard.engine.remove(&id).await.map_err(explain).unwrap();
        let second = from(&snapshot);
        yard.engine.create(&second).await.map_err(explain).unwrap();
        let look = "cd /root; cat link; stat -c '%u:%g %a %h' file; test -p fifo && ls -d /etc/debian_version /etc/apt/* 2>/dev/null
            sha1sum -c sum; echo $OF_THE_IMAGE $GREETING; hostname";
        let text = |id| format!("one\n1000:1001 4755 2\nbig: OK\nyes hello from the spec\n{id}\n");
        assert_eq!(yard.sh(&first.id, look).await.out, text(&first.id));
        assert_eq!(yard.sh(&second.id, "echo changed > /root/file; rm /root/big").await.code, 0);

        yard.engine.drop_snapshot(&snapshot).await.map_err(explain).unwrap();
        yard.engine.drop_snapshot(&snapshot).await.map_err(explain).expect("it is gone already");
        assert_eq!(yard.engine.snapshots().await.unwrap(), []);
        assert_eq!(yard.sh(&first.id, look).await.out, text(&first.id));
        // They start again although the snapshot is gone.
        yard.engine.stop(&first.id).await.map_err(explain).unwrap();
        yard.engine.resume(&first.id).await.map_err(explain).unwrap();
        assert_eq!(yard.sh(&first.id, look).await.out, text(&first.id));
        let late = from(&snapshot);
        assert_eq!(yard.engine.create(&late).await.unwrap_err().kind, ErrorKind::NotFound);
        yard.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_was_saved_for_one_box_becomes_its_disk() {
    for storage in BOTH {
        let yard = Yard::with(storage).await;
        let id = yard.make().await;
        // Overlay's own folder is another's in the copy: what is removed and copied up needs it.
        yard.sh(&id, "echo one > /root/file; rm /etc/debian_version; echo x >> /etc/profile").await;
        let snapshot = new_id();
        let saved = yard.engine.save_once(&id, &snapshot).await.map_err(explain).unwrap();
        assert!(saved.size_bytes > 0, "{saved:?}");
        yard.sh(&id, "echo two > /root/file").await;
        let copy = from(&snapshot);
        yard.engine.create(&copy).await.map_err(explain).unwrap();
        yard.engine.drop_snapshot(&snapshot).await.map_err(explain).unwrap();
        assert_eq!(yard.engine.snapshots().await.unwrap(), []);
        let look =
            "cat /root/file; ls /etc/debian_version 2>/dev/null; tail -n 1 /etc/profile; echo y >> /etc/bash.bashrc
            rm /etc/hostname; rm -r /root/* && echo removed";
        assert_eq!(yard.sh(&copy.id, look).await.out, "one\nx\nremoved\n");
        yard.engine.remove(&id).await.map_err(explain).unwrap();
        yard.engine.stop(&copy.id).await.map_err(explain).unwrap();
        yard.engine.resume(&copy.id).await.map_err(explain).unwrap();
        assert_eq!(yard.sh(&copy.id, "ls /root; tail -n 1 /etc/bash.bashrc").await.out, "y\n");
        yard.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn running_frozen_and_stopped_boxes_can_be_saved_and_stay_what_they_are() {
    for storage in BOTH {
        let yard = Yard::with(storage).await;
        let id = yard.make().await;
        yard.sh(&id, "sleep 1000 > /dev/null 2>&1 &").await;
        let states = [ObservedState::Running, ObservedState::Frozen, ObservedState::Stopped];
        for (number, state) in states.into_iter().enumerate() {
            match state {
                ObservedState::Frozen => {
                    assert_eq!(yard.sh(&id, "pgrep -c sleep").await.out, "1\n", "it goes on after being saved");
                    yard.engine.pause(&id).await.map_err(explain).unwrap();
                }
                ObservedState::Stopped => yard.engine.stop(&id).await.map_err(explain).unwrap(),
                ObservedState::Running | ObservedState::Partial => {
                    yard.sh(&id, "echo here > /root/file").await;
                }
            }
            let snapshot = new_id();
            yard.engine.save(&id, &snapshot).await.map_err(explain).unwrap();
            let observed = yard.engine.observe().await.unwrap();
            let seen = observed.iter().find(|seen| seen.id == id).unwrap();
            assert_eq!(seen.state, state);
            let copy = from(&snapshot);
            yard.engine.create(&copy).await.map_err(explain).unwrap();
            assert_eq!(yard.sh(&copy.id, "cat /root/file").await.out, "here\n", "{number}");
        }
        yard.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_box_writes_while_it_is_saved_and_all_snapshots_are_whole() {
    let yard = Yard::with_pool().await;
    let id = yard.make().await;
    // The counter is written first into one file and then into another, so the first is never behind.
    let script = "mkdir /root/w; cat > /root/w.sh <<'E'\ni=0; while :; do i=$((i+1)); echo $i > /root/w/a; echo $i > /root/w/b; done\nE\n\
                  sh /root/w.sh > /dev/null 2>&1 & sleep 0";
    yard.sh(&id, script).await;
    let mut last = 0;
    for _ in 0..5 {
        let snapshot = new_id();
        yard.engine.save(&id, &snapshot).await.map_err(explain).unwrap();
        let copy = from(&snapshot);
        yard.engine.create(&copy).await.map_err(explain).unwrap();
        let text = yard.sh(&copy.id, "cat /root/w/a; echo; cat /root/w/b").await.out;
        let numbers: Vec<u64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        // A file that has just been cut and not yet written is empty; otherwise they are as close as when it was frozen.
        if let [a, b] = numbers[..] {
            assert!(a == b || a == b + 1, "{a} {b}");
            assert!(a >= last);
            last = a;
        }
    }
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn saves_that_are_broken_off_leave_a_box_that_runs_and_no_snapshot() {
    for storage in BOTH {
        let yard = Yard::with(storage).await;
        let id = yard.make().await;
        yard.sh(&id, "echo here > /root/file").await;
        for micros in (0..20_000).step_by(1000) {
            let snapshot = new_id();
            let _ = tokio::time::timeout(Duration::from_micros(micros), yard.engine.save(&id, &snapshot)).await;
            assert_eq!(yard.sh(&id, "cat /root/file").await.out, "here\n", "{micros}");
            if micros % 2000 == 0 {
                yard.engine.save(&id, &snapshot).await.map_err(explain).unwrap();
                assert_eq!(yard.engine.snapshots().await.unwrap(), std::slice::from_ref(&snapshot));
            }
            yard.engine.drop_snapshot(&snapshot).await.map_err(explain).unwrap();
            assert_eq!(yard.engine.snapshots().await.unwrap(), []);
        }
        yard.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn boxes_and_snapshots_of_another_kind_of_storage_go_on_to_be_useful() {
    let yard = Yard::with(StorageChoice::Dir).await;
    assert!(!yard.engine.abilities().disk_limit);
    let id = yard.make().await;
    yard.sh(&id, "echo plain > /root/file; rm /etc/debian_version").await;
    let snapshot = new_id();
    yard.engine.save(&id, &snapshot).await.map_err(explain).unwrap();

    let yard = yard
        .reopen_with(|config| {
            config.storage = StorageChoice::Auto;
            config.pool_size = Some(2 << 30);
        })
        .await;
    assert!(yard.engine.abilities().disk_limit);
    assert_eq!(yard.sh(&id, "cat /root/file").await.out, "plain\n");
    yard.engine.stop(&id).await.map_err(explain).unwrap();
    yard.engine.resume(&id).await.map_err(explain).unwrap();
    assert_eq!(yard.sh(&id, "cat /root/file").await.out, "plain\n");
    let copy = BoxSpec { limits: Limits { disk_bytes: 100 << 20, ..LIMITS }, ..from(&snapshot) };
    yard.engine.create(&copy).await.map_err(explain).unwrap();
    let done =
        yard.sh(&copy.id, "cat /root/file; ls /etc/debian_version; dd if=/dev/zero of=/big bs=1M count=200").await;
    assert!(done.out == "plain\n" && done.err.contains("quota exceeded"), "{done:?}");
    let pooled = new_id();
    yard.sh(&copy.id, "rm /big").await;
    yard.engine.save(&copy.id, &pooled).await.map_err(explain).unwrap();

    // And back.
    let yard = yard.reopen_with(|config| config.storage = StorageChoice::Dir).await;
    let back = from(&pooled);
    yard.engine.create(&back).await.map_err(explain).unwrap();
    for id in [&id, &copy.id, &back.id] {
        assert_eq!(yard.sh(id, "cat /root/file").await.out, "plain\n");
    }
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_goes_with_its_box_does_not_make_the_boxes_disk_anew() {
    let yard = Yard::with_pool().await;
    let disks = yard.config.data_dir.join("pool/boxes");
    for _ in 0..10 {
        let (id, snapshot) = (yard.make().await, new_id());
        yard.engine.save(&id, &snapshot).await.map_err(explain).unwrap();
        let (removed, _dropped) = tokio::join!(yard.engine.remove(&id), yard.engine.drop_snapshot(&snapshot));
        removed.map_err(explain).unwrap();
        // Its first try may have met the box as it went.
        yard.engine.drop_snapshot(&snapshot).await.map_err(explain).unwrap();
        assert!(!disks.join(id.as_str()).exists());
    }
    yard.close().await;
}
