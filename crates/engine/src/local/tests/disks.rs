//! The limits of disks, and the pool that they lie in.

use std::fs;
use std::path::Path;
use std::process::Command;

use boxyard_proto::SnapshotId;
use rustix::fs::statvfs;

use super::yard::{LIMITS, Yard, explain, spec};
use crate::local::storage::Budget;
use crate::local::{StorageChoice, check_host};
use crate::{BoxSpec, Engine, ErrorKind, Limits, ObservedState, Resumed};

fn limited(mebibytes: u64) -> Limits {
    Limits { disk_bytes: mebibytes << 20, ..LIMITS }
}

/// What the file system has counted, after it has written its books.
async fn disk_bytes(yard: &Yard, id: &boxyard_proto::BoxId) -> u64 {
    let pool = fs::File::open(yard.config.data_dir.join("pool")).unwrap();
    rustix::fs::syncfs(&pool).unwrap();
    yard.engine
        .host
        .storages
        .of(yard.engine.host.storages.default_kind())
        .unwrap()
        .used(id, Budget::default())
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_a_box_writes_gets_past_its_limit() {
    let yard = Yard::with_pool().await;
    assert!(yard.engine.abilities().disk_limit);
    let other = yard.make().await;
    let scripts = [
        ("one large file", "dd if=/dev/zero of=/big bs=1M count=200"),
        ("space reserved", "for i in 1 2 3 4; do fallocate -l 50M /r$i; done"),
        (
            "holes that are filled",
            "truncate -s 1G /sparse; dd if=/dev/urandom of=/sparse conv=notrunc bs=1M count=200 seek=300",
        ),
        (
            "appending, and all at once",
            "for i in $(seq 8); do dd if=/dev/zero of=/b$i bs=1M count=40 2>>/dev/shm/err & done; wait; cat /dev/shm/err >&2",
        ),
        (
            "many small files",
            "python3 -c 'import os\nfor d in range(400):\n  os.mkdir(f\"/m{d}\")\n  for f in range(1000): open(f\"/m{d}/{f:0100}\", \"w\").write(\"x\" * 1500)'",
        ),
        (
            "names and attributes",
            "python3 -c 'import os\nfor d in range(400):\n  os.mkdir(f\"/n{d}\")\n  for f in range(1000): os.symlink(\"y\" * 2000, f\"/n{d}/{f:0200}\")'",
        ),
    ];
    for (what, script) in scripts {
        let id = yard.make_limited(limited(100)).await;
        let done = yard.sh(&id, script).await;
        let refused = ["quota exceeded", "No space left"].iter().any(|text| done.err.contains(text));
        assert!(refused, "{what}: {done:?}");
        let held = disk_bytes(&yard, &id).await;
        assert!(held > 50 << 20 && held <= 101 << 20, "{what}: {held}");
        // It can make room for itself again.
        let again =
            yard.sh(&id, "rm -rf /big /r* /sparse /b[0-9]* /m* /n*; sync; echo ok > /small && cat /small").await;
        assert_eq!(again.out, "ok\n", "{what}: {again:?}");
        yard.engine.remove(&id).await.map_err(explain).unwrap();
        assert_eq!(yard.sh(&other, "echo fine > /file && cat /file").await.out, "fine\n");
    }
    // Names of one file count once.
    let id = yard.make_limited(limited(100)).await;
    let done =
        yard.sh(&id, "dd if=/dev/zero of=/one bs=1M count=60 2>&1 && ln /one /two && ln /one /three && echo ok").await;
    assert!(done.out.ends_with("ok\n"), "{done:?}");
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_has_the_limit_of_its_own_box_and_deleting_makes_room_though_a_snapshot_holds_it() {
    let yard = Yard::with_pool().await;
    let id = yard.make_limited(limited(200)).await;
    yard.sh(&id, "dd if=/dev/urandom of=/big bs=1M count=150; sync").await;
    let snapshot = SnapshotId::from_entropy(rand::random());
    let saved = yard.engine.save(&id, &snapshot).await.map_err(explain).unwrap();
    assert!((150 << 20..160 << 20).contains(&saved.size_bytes), "{saved:?}");
    let done = yard.sh(&id, "rm /big; sync; dd if=/dev/urandom of=/new bs=1M count=150 && echo ok").await;
    assert_eq!(done.out, "ok\n", "{done:?}");
    let write =
        |name: &str, count| format!("dd if=/dev/urandom of=/{name} bs=1M count={count} 2>/dev/null && echo {name}");
    // One that is smaller than what it starts with may still write a little, and a larger one what it has more.
    let copies = [(100, ["a", "b"], [40, 60]), (400, ["a", "b"], [200, 80])];
    for (size, [fits, too_much], [first, second]) in copies {
        let copy = BoxSpec { from: Some(snapshot.clone()), ..spec(limited(size)) };
        yard.engine.create(&copy).await.map_err(explain).unwrap();
        let done = yard.sh(&copy.id, &format!("{}; {}", write(fits, first), write(too_much, second))).await;
        assert_eq!(done.out, format!("{fits}\n"), "{size}: {done:?}");
        // Started again it has the same limit.
        yard.engine.stop(&copy.id).await.map_err(explain).unwrap();
        yard.engine.resume(&copy.id).await.map_err(explain).unwrap();
        assert_eq!(yard.sh(&copy.id, &write(too_much, second)).await.out, "", "{size}");
        let used = yard.engine.usage(&copy.id).await.unwrap().disk_bytes;
        assert!(used >= (150 + first) << 20 && used < (150 + first + second + 20) << 20, "{used}");
    }
    // Without its snapshot the first box has what it had.
    yard.engine.drop_snapshot(&snapshot).await.map_err(explain).unwrap();
    assert_eq!(yard.sh(&id, &write("more", 100)).await.out, "");
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_box_that_was_saved_again_and_again_held_its_limit_with_each_time_once_more() {
    let yard = Yard::with_pool().await;
    let id = yard.make_limited(limited(100)).await;
    let save = async || {
        let snapshot = SnapshotId::from_entropy(rand::random());
        let saved = yard.engine.save(&id, &snapshot).await.map_err(explain).unwrap();
        (snapshot, saved.size_bytes)
    };
    // One is kept for ever: only with its last does a box lose what it was given for them.
    let _kept = save().await;
    for time in 0..4 {
        yard.sh(&id, &format!("dd if=/dev/urandom of=/{time} bs=1M count=120; sync")).await;
        let (snapshot, held) = save().await;
        assert!(held < 215 << 20, "{time}: {held}");
        yard.engine.drop_snapshot(&snapshot).await.map_err(explain).unwrap();
    }
    // What it deletes it may write again, whoever holds it still.
    yard.sh(&id, "rm /0 /1; sync").await;
    assert!(save().await.1 < 10 << 20);
    let done = yard.sh(&id, "dd if=/dev/urandom of=/new bs=1M count=90 && sync && echo ok").await;
    assert_eq!(done.out, "ok\n", "{done:?}");
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_names_and_attributes_was_not_counted_in_snapshots() {
    let yard = Yard::with_pool().await;
    let attributes = r#"import os
for number in range(60):
  os.close(os.open(f"/x{number}", os.O_CREAT))
  for name in range(60): os.setxattr(f"/x{number}", f"user.{name}", b"v" * 3800)"#;
    let names = r#"import os
os.close(os.open("/one", os.O_CREAT))
for number in range(20000): os.link("/one", f"/{number:06}" + "l" * 200)"#;
    for script in [attributes, names] {
        let id = yard.make_limited(limited(200)).await;
        let done = yard.sh(&id, &format!("python3 -c '{script}' && echo ok")).await;
        assert_eq!(done.out, "ok\n", "{done:?}");
        let snapshot = SnapshotId::from_entropy(rand::random());
        let saved = yard.engine.save(&id, &snapshot).await.map_err(explain).unwrap();
        assert!((12 << 20..30 << 20).contains(&saved.size_bytes), "{saved:?}");
    }
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_box_that_holds_more_than_it_may_was_neither_saved_nor_started_again() {
    let yard = Yard::with_pool().await;
    let id = yard.make_limited(limited(200)).await;
    let snapshot = || SnapshotId::from_entropy(rand::random());
    let first = snapshot();
    yard.sh(&id, "dd if=/dev/urandom of=/first bs=1M count=150; sync").await;
    yard.engine.save(&id, &first).await.map_err(explain).unwrap();
    let done = yard.sh(&id, "dd if=/dev/urandom of=/second bs=1M count=150 && sync && echo ok").await;
    assert_eq!(done.out, "ok\n", "{done:?}");
    // With its last snapshot goes what it was given for it.
    yard.engine.drop_snapshot(&first).await.map_err(explain).unwrap();
    assert!(yard.sh(&id, "echo more > /more").await.err.contains("quota exceeded"));
    let second = snapshot();
    yard.engine.save(&id, &second).await.map_err(explain).unwrap();
    yard.engine.drop_snapshot(&second).await.map_err(explain).unwrap();
    yard.engine.stop(&id).await.map_err(explain).unwrap();
    assert_eq!(yard.engine.resume(&id).await.map_err(explain).unwrap(), Resumed::Started);
    assert!(yard.sh(&id, "echo more > /more").await.err.contains("quota exceeded"));
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_box_could_not_write_for_a_while_when_its_last_snapshot_had_been_deleted() {
    let yard = Yard::with_pool().await;
    let id = yard.make_limited(limited(100)).await;
    for _ in 0..2 {
        let snapshot = SnapshotId::from_entropy(rand::random());
        yard.sh(&id, "dd if=/dev/urandom of=/big bs=1M count=60; sync").await;
        yard.engine.save(&id, &snapshot).await.map_err(explain).unwrap();
        let done = yard.sh(&id, "rm /big; sync; dd if=/dev/urandom of=/big bs=1M count=60 && sync && echo ok").await;
        assert_eq!(done.out, "ok\n", "{done:?}");
        yard.engine.drop_snapshot(&snapshot).await.map_err(explain).unwrap();
        let done = yard.sh(&id, "dd if=/dev/urandom of=/more bs=1M count=20 && sync && echo ok").await;
        assert_eq!(done.out, "ok\n", "{done:?}");
        assert!(yard.sh(&id, "dd if=/dev/urandom of=/much bs=1M count=40").await.err.contains("quota exceeded"));
        yard.sh(&id, "rm /more /much; sync").await;
    }
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_pool_is_full_for_boxes_and_the_end_of_nothing() {
    let yard = Yard::open_with(|config| {
        config.storage = StorageChoice::Btrfs;
        config.pool_size = Some(1 << 30);
    })
    .await;
    let (greedy, other) = (yard.make_limited(limited(100_000)).await, yard.make().await);
    let done = yard.sh(&greedy, "dd if=/dev/urandom of=/big bs=1M count=2000").await;
    assert!(done.err.contains("No space left"), "{done:?}");
    let ill: Vec<_> = check_host(&yard.config).into_iter().filter(|check| !check.ok).collect();
    assert_eq!(ill.iter().map(|check| check.name).collect::<Vec<_>>(), ["room in the pool"], "{ill:?}");
    let room = yard.engine.disk_room().await.unwrap();
    assert!(room.bytes > 900 << 20 && room.bytes <= 1 << 30 && room.left < 100 << 20, "{room:?}");
    assert!(ill[0].remedy.contains("storage.pool_size"), "{ill:?}");
    assert_eq!(yard.sh(&other, "echo runs").await.out, "runs\n");
    // More boxes may or may not be had; whichever, it is said, and all goes on afterwards.
    let late = spec(LIMITS);
    if let Err(error) = yard.engine.create(&late).await {
        assert_eq!(error.kind, ErrorKind::Exhausted, "{error:?}");
    }
    yard.engine.remove(&late.id).await.map_err(explain).unwrap();
    yard.engine.remove(&greedy).await.map_err(explain).unwrap();
    let pool = yard.config.data_dir.join("pool");
    // The kernel frees the space in the background: the first wakes it, the second waits for it.
    for what in ["filesystem", "subvolume"] {
        assert!(Command::new("btrfs").args([what, "sync"]).arg(&pool).output().unwrap().status.success());
    }
    let done = yard.sh(&other, "dd if=/dev/zero of=/big bs=1M count=100 && sync && echo ok").await;
    assert_eq!(done.out, "ok\n", "{done:?}");
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_grows_when_it_is_told_to_and_never_shrinks() {
    let yard = Yard::with_pool().await;
    let id = yard.make().await;
    yard.sh(&id, "echo kept > /root/file").await;
    let size = |yard: &Yard| {
        let stat = statvfs(yard.config.data_dir.join("pool")).unwrap();
        stat.f_blocks * stat.f_frsize
    };
    assert_eq!(size(&yard), 2 << 30);
    let yard = yard.reopen_with(|config| config.pool_size = Some(3 << 30)).await;
    assert_eq!(size(&yard), 3 << 30);
    let yard = yard.reopen_with(|config| config.pool_size = Some(1 << 30)).await;
    assert_eq!(size(&yard), 3 << 30);
    assert_eq!(yard.sh(&id, "cat /root/file").await.out, "kept\n", "the box runs all the while");
    let ill: Vec<_> = check_host(&yard.config).into_iter().filter(|check| !check.ok).collect();
    assert_eq!(ill, []);
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_host_was_restarted_boxes_are_stopped_and_start_with_their_disks() {
    for storage in [StorageChoice::Dir, StorageChoice::Btrfs] {
        let yard = Yard::with(storage).await;
        let (running, frozen, stopped) = (yard.make().await, yard.make().await, yard.make().await);
        for id in [&running, &frozen, &stopped] {
            yard.sh(id, "hostname > /root/file; sync /root/file").await;
        }
        let snapshot = SnapshotId::from_entropy(rand::random());
        yard.engine.save(&running, &snapshot).await.map_err(explain).unwrap();
        yard.engine.pause(&frozen).await.map_err(explain).unwrap();
        yard.engine.stop(&stopped).await.map_err(explain).unwrap();
        for id in [&running, &frozen] {
            yard.engine.host.cgroups.clear(id).await.unwrap();
        }
        yard.links_gone().await;
        let restart = async |config: &crate::local::LocalConfig, tag: &str| {
            fs::remove_dir_all(format!("/run/boxyard-{tag}")).unwrap();
            if storage == StorageChoice::Btrfs {
                rustix::mount::unmount(config.data_dir.join("pool"), rustix::mount::UnmountFlags::empty()).unwrap();
                assert!(!config.data_dir.join("pool/boxes").exists());
            }
        };
        let yard = yard.reopen_after(restart, |_| {}).await;
        let observed = yard.engine.observe().await.unwrap();
        assert_eq!(observed.len(), 3);
        for seen in observed {
            assert_eq!(seen.state, ObservedState::Stopped);
            assert_eq!(yard.engine.resume(&seen.id).await.map_err(explain).unwrap(), Resumed::Started);
            assert_eq!(yard.sh(&seen.id, "cat /root/file").await.out, format!("{}\n", seen.id));
        }
        assert_eq!(yard.engine.snapshots().await.unwrap(), [snapshot]);
        yard.close().await;
    }
}

/// A file system of the host's own, mounted for a test.
struct Native(tempfile::TempDir);

impl Native {
    fn mount() -> Self {
        let place = tempfile::tempdir_in("/var/tmp").unwrap();
        let (image, folder) = (place.path().join("image"), place.path().join("mounted"));
        fs::File::create(&image).unwrap().set_len(1 << 30).unwrap();
        fs::create_dir(&folder).unwrap();
        let run = |program: &str, arguments: &[&Path]| {
            assert!(Command::new(program).args(arguments).output().unwrap().status.success(), "{program}");
        };
        run("mkfs.btrfs", &[&image]);
        run("mount", &["-o".as_ref(), "loop".as_ref(), &image, &folder]);
        Self(place)
    }

    fn folder(&self) -> std::path::PathBuf {
        self.0.path().join("mounted")
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.folder(), rustix::mount::UnmountFlags::DETACH);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_btrfs_of_the_hosts_own_quotas_are_used_and_not_switched_on_unasked() {
    let native = Native::mount();
    let data = native.folder().join("data");
    let yard = Yard::open_with(|config| {
        config.data_dir = data.clone();
        config.storage = StorageChoice::Auto;
    })
    .await;
    assert!(!yard.engine.abilities().disk_limit);
    assert!(!data.join("pool.img").exists());
    let ill: Vec<_> =
        check_host(&yard.config).into_iter().filter(|check| check.name == "boxes' disks" && !check.ok).collect();
    assert!(ill.len() == 1 && ill[0].remedy.contains("btrfs quota enable"), "{ill:?}");
    let id = yard.make_limited(limited(100)).await;
    yard.sh(&id, "dd if=/dev/urandom of=/root/big bs=1M count=20; sync").await;
    let snapshot = SnapshotId::from_entropy(rand::random());
    let saved = yard.engine.save(&id, &snapshot).await.map_err(explain).unwrap();
    assert!((20 << 20..22 << 20).contains(&saved.size_bytes), "{saved:?}");

    let yard = yard.reopen_with(|config| config.storage = StorageChoice::Btrfs).await;
    assert!(yard.engine.abilities().disk_limit);
    let copy = BoxSpec { from: Some(snapshot.clone()), ..spec(limited(100)) };
    yard.engine.create(&copy).await.map_err(explain).unwrap();
    let done = yard.sh(&copy.id, "stat -c %s /root/big; dd if=/dev/zero of=/more bs=1M count=200").await;
    assert!(done.out == "20971520\n" && done.err.contains("quota exceeded"), "{done:?}");
    yard.engine.remove(&copy.id).await.map_err(explain).unwrap();
    yard.engine.remove(&id).await.map_err(explain).unwrap();
    yard.engine.drop_snapshot(&snapshot).await.map_err(explain).unwrap();
    yard.engine.close().await.map_err(explain).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_cannot_be_mounted_keeps_the_server_from_starting() {
    let yard = Yard::with(StorageChoice::Dir).await;
    let config = yard.config.clone();
    yard.close().await;
    fs::create_dir_all(&config.data_dir).unwrap();
    fs::write(config.data_dir.join("pool.img"), vec![0; 1 << 20]).unwrap();
    let error = super::yard::open(crate::local::LocalConfig { storage: StorageChoice::Auto, ..config.clone() })
        .await
        .unwrap_err();
    assert!(error.contains("preparing the boxes' disks") && error.contains("pool.img"), "{error}");
    let loops = Command::new("losetup").arg("--list").output().unwrap();
    let data = config.data_dir.to_str().unwrap();
    assert!(!String::from_utf8_lossy(&loops.stdout).contains(data), "no loop device is left");
    assert!(Path::new(data).join("pool.img").exists(), "and the file is not touched");
    fs::remove_dir_all(&config.data_dir).unwrap();
}
