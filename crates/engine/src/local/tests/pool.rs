//! The pool that boxes' disks lie in: letting it grow, and what the doctor finds wrong with it.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use rustix::fs::statvfs;
use rustix::mount::{UnmountFlags, unmount};

use super::yard::{LIMITS, Yard, explain};
use crate::local::{Check, LocalConfig, PoolGrowth, StorageChoice, check_host, grow_pool};
use crate::{DiskRoom, Engine, ErrorKind, Limits};

const GIB: u64 = 1 << 30;

fn size(config: &LocalConfig) -> u64 {
    let stat = statvfs(config.data_dir.join("pool")).unwrap();
    stat.f_blocks * stat.f_frsize
}

/// What the doctor finds wrong with disks and pool.
fn ill(config: &LocalConfig) -> Vec<Check> {
    check_host(config).into_iter().filter(|check| !check.ok).collect()
}

#[track_caller]
fn only(ill: &[Check], name: &str, problem: &str, remedy: &str) {
    assert_eq!(ill.iter().map(|check| check.name).collect::<Vec<_>>(), [name], "{ill:?}");
    assert!(ill[0].problem.contains(problem) && ill[0].remedy.contains(remedy), "{ill:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_grows_while_a_box_writes_to_it() {
    let yard = Yard::with_pool().await;
    let (writer, other) = (yard.make().await, yard.make_limited(Limits { disk_bytes: 100 * GIB, ..LIMITS }).await);
    yard.sh(&writer, "mkfifo /written /grown").await;
    // Writes until it is told that the pool has grown, and says when it has begun.
    let script = "cd /root; exec 3<>/grown; n=0
        while ! read -t 0 <&3; do
            dd if=/dev/urandom of=f$((n % 40)) bs=1M count=4 2>/dev/null && sync f$((n % 40)) || exit 1
            sha256sum f$((n % 40)) > s$((n % 40)); n=$((n + 1)); [ $n = 3 ] && echo > /written
        done; cat s* | sha256sum --quiet -c && echo $((n > 3))";
    let bash = format!("exec bash -c '{script}'");
    let grow = async {
        assert_eq!(yard.sh(&other, "echo ready").await.out, "ready\n");
        yard.sh(&writer, "read x < /written").await;
        for (from, to) in [(2, 3), (3, 4), (4, 4)] {
            let grown = grow_pool(&yard.config, to * GIB).await.map_err(explain).unwrap();
            assert_eq!(grown, PoolGrowth { from: from * GIB, to: to * GIB, in_use: true });
        }
        yard.sh(&writer, "echo > /grown").await
    };
    let (written, _) = tokio::join!(yard.sh(&writer, &bash), grow);
    assert_eq!((written.out.as_str(), written.code), ("1\n", 0), "{written:?}");
    assert_eq!(size(&yard.config), 4 * GIB);
    assert_eq!(yard.engine.disk_room().await.unwrap().bytes, 4 * GIB);
    // More than there was at first.
    let done = yard.sh(&other, "fallocate -l 3G /big && sync && echo ok").await;
    assert_eq!(done.out, "ok\n", "{done:?}");
    yard.engine.remove(&other).await.map_err(explain).unwrap();
    let pool = yard.config.data_dir.join("pool");
    let scrub = Command::new("btrfs").args(["scrub", "start", "-B"]).arg(&pool).output().unwrap();
    assert!(scrub.status.success(), "{scrub:?}");
    let yard = yard.reopen().await;
    assert_eq!(size(&yard.config), 4 * GIB, "whatever the configuration says");
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn growing_that_was_broken_off_anywhere_leaves_a_pool_that_works_and_is_finished_later() {
    let yard = Yard::with_pool().await;
    let id = yard.make().await;
    let image = yard.config.data_dir.join("pool.img");
    let lengthen = |size| OpenOptions::new().write(true).open(&image).unwrap().set_len(size).unwrap();
    let works = async |yard: &Yard| {
        let done = yard.sh(&id, "dd if=/dev/urandom of=/root/f bs=1M count=20 && sync && echo ok").await;
        assert_eq!(done.out, "ok\n", "{done:?}");
    };

    // Killed when the file was longer.
    lengthen(3 * GIB);
    works(&yard).await;
    assert_eq!(size(&yard.config), 2 * GIB);
    only(&ill(&yard.config), "pool's file", "its growing was broken off", "--grow-pool 3221225472");
    let grown = grow_pool(&yard.config, 3 * GIB).await.map_err(explain).unwrap();
    assert_eq!((grown.in_use, size(&yard.config)), (true, 3 * GIB));
    assert_eq!(ill(&yard.config), []);

    // Killed when the loop device was larger, too; the next server goes on.
    lengthen(4 * GIB);
    let shown = Command::new("losetup").args(["--noheadings", "--output", "NAME", "-j"]).arg(&image).output().unwrap();
    let device = String::from_utf8(shown.stdout).unwrap();
    assert_eq!(device.lines().count(), 1, "{device}");
    let seen = Command::new("losetup").args(["-c", device.trim()]).status().unwrap();
    assert!(seen.success());
    works(&yard).await;
    let yard = yard.reopen().await;
    assert_eq!(size(&yard.config), 4 * GIB);
    works(&yard).await;

    // Two at once, and one that comes too late: nothing is taken away again.
    let (one, two) = tokio::join!(grow_pool(&yard.config, 5 * GIB), grow_pool(&yard.config, 6 * GIB));
    assert!(two.is_ok() && size(&yard.config) == 6 * GIB, "{one:?} {two:?}");
    let late = grow_pool(&yard.config, 5 * GIB).await.unwrap_err();
    assert_eq!(late.kind, ErrorKind::Unsupported);
    assert!(explain(late).contains("never shrinks"));
    works(&yard).await;
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_grows_without_a_server_and_not_past_what_its_host_has() {
    let yard = Yard::with_pool().await;
    let id = yard.make().await;
    yard.sh(&id, "echo kept > /root/file").await;
    yard.engine.stop(&id).await.map_err(explain).unwrap();
    yard.engine.close().await.map_err(explain).unwrap();
    let between = async |config: &LocalConfig, _: &str| {
        let grown = grow_pool(config, 3 * GIB).await.map_err(explain).unwrap();
        assert_eq!(grown, PoolGrowth { from: 2 * GIB, to: 3 * GIB, in_use: false });
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(config.data_dir.to_str().unwrap()), "nothing is mounted: {mounts}");
        let error = grow_pool(config, 1 << 50).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Exhausted);
        assert!(explain(error).contains("1 GiB being left for others"));
        assert_eq!(fs::metadata(config.data_dir.join("pool.img")).unwrap().len(), 3 * GIB, "nothing has changed");
    };
    let yard = yard.reopen_after(between, |_| {}).await;
    assert_eq!(size(&yard.config), 3 * GIB);
    yard.engine.resume(&id).await.map_err(explain).unwrap();
    assert_eq!(yard.sh(&id, "cat /root/file").await.out, "kept\n");
    yard.close().await;

    let yard = Yard::with(StorageChoice::Dir).await;
    assert_eq!(grow_pool(&yard.config, 3 * GIB).await.unwrap_err().kind, ErrorKind::NotFound);
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_was_cut_or_is_missing_is_found_before_a_server_needs_it() {
    let yard = Yard::with_pool().await;
    let id = yard.make().await;
    yard.sh(&id, "echo kept > /root/file").await;
    yard.engine.stop(&id).await.map_err(explain).unwrap();
    yard.engine.close().await.map_err(explain).unwrap();
    let between = async |config: &LocalConfig, _: &str| {
        let image = config.data_dir.join("pool.img");
        let file = OpenOptions::new().write(true).open(&image).unwrap();
        file.set_len(GIB).unwrap();
        only(
            &ill(config),
            "pool's file",
            "was cut: it has 1073741824 of the 2147483648 bytes",
            "truncate -s 2147483648",
        );
        let refused = super::yard::open(config.clone()).await.unwrap_err();
        assert!(refused.contains("preparing the boxes' disks") && refused.contains("was cut"), "{refused}");
        assert!(explain(grow_pool(config, 3 * GIB).await.unwrap_err()).contains("not whole"));
        assert_eq!(file.metadata().unwrap().len(), GIB, "nobody hides it by making it longer");
        // Nothing lay in the end of it.
        file.set_len(2 * GIB).unwrap();
        assert_eq!(ill(config), []);

        let aside = config.data_dir.join("aside");
        fs::rename(&image, &aside).unwrap();
        only(&ill(config), "boxes' disks", "is not there, and 1 boxes have their disks in it", "put it back");
        fs::rename(&aside, &image).unwrap();

        let magic = 64 * 1024 + 64;
        file.write_all_at(b"_bhrfs_m", magic).unwrap();
        only(&ill(config), "pool's file", "holds no btrfs", "backup");
        file.write_all_at(b"_BHRfS_M", magic).unwrap();
    };
    let yard = yard.reopen_after(between, |config| config.pool_size = None).await;
    yard.engine.resume(&id).await.map_err(explain).unwrap();
    assert_eq!(yard.sh(&id, "cat /root/file").await.out, "kept\n");
    yard.close().await;
}

/// A small file system, mounted for a test.
struct Small(tempfile::TempDir);

impl Small {
    fn mount(megabytes: u32) -> Self {
        let place = tempfile::tempdir_in("/var/tmp").unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={megabytes}M"), "tmpfs"])
            .arg(place.path())
            .status();
        assert!(mounted.unwrap().success(), "this test needs root");
        Self(place)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = unmount(self.0.path().join("data/pool"), UnmountFlags::DETACH);
        let _ = unmount(self.0.path(), UnmountFlags::DETACH);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_on_a_host_that_fills_up_is_told_of_before_and_after_it_breaks() {
    let small = Small::mount(300);
    let yard = Yard::open_with(|config| {
        config.data_dir = small.path().join("data");
        config.storage = StorageChoice::Btrfs;
        config.pool_size = Some(4 * GIB);
    })
    .await;
    let DiskRoom { bytes, left } = yard.engine.disk_room().await.unwrap();
    assert!(bytes <= 300 << 20 && left <= 300 << 20, "no more than what the host has: {bytes} {left}");
    let wrong = |name: &str| {
        let found = ill(&yard.config).into_iter().find(|check| check.name == name);
        found.map(|check| (check.problem, check.remedy)).unwrap_or_default()
    };
    assert!(wrong("room for the pool").0.contains("may still grow by 4.0 GiB"));
    assert_eq!(wrong("pool's health"), Default::default());

    // By others, so that what the pool's own file system still takes for free is not there.
    let pool = yard.config.data_dir.join("pool");
    let write = |path: &Path, megabytes: u32| {
        let count = format!("count={megabytes}");
        let of = format!("of={}", path.display());
        Command::new("dd").args(["if=/dev/urandom", "bs=1M", "conv=fsync", &count, &of]).output().unwrap()
    };
    assert!(write(&pool.join("first"), 20).status.success());
    write(&small.path().join("others"), 400);
    assert_eq!(yard.engine.disk_room().await.unwrap().left, 0);
    assert!(!write(&pool.join("second"), 200).status.success());
    let (problem, remedy) = wrong("pool's health");
    let broken = problem.contains("read-only after an error") || problem.contains("write_errs");
    assert!(broken && remedy.contains("dmesg"), "{problem}: {remedy}");
    assert!(yard.engine.observe().await.is_err() || problem.contains("write_errs"), "nothing is taken for gone");

    // With room again the next server finds everything as it was last safe.
    yard.engine.host.storages.close().unwrap();
    let room = async |_: &LocalConfig, _: &str| fs::remove_file(small.path().join("others")).unwrap();
    let yard = yard.reopen_after(room, |_| {}).await;
    assert_eq!(fs::metadata(pool.join("first")).unwrap().len(), 20 << 20);
    let id = yard.make().await;
    assert_eq!(yard.sh(&id, "echo works > /root/file; sync; cat /root/file").await.out, "works\n");
    yard.engine.remove(&id).await.map_err(explain).unwrap();
    yard.links_gone().await;
    yard.engine.close().await.map_err(explain).unwrap();
}
