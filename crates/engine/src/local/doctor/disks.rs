//! Whether boxes' disks can be limited and saved, and have room.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use boxyard_proto::disk::{Answer, Order, Quotas};
use rustix::fs::statvfs;

use super::super::storage::{POOL_IMAGE, StorageChoice, is_btrfs, mkfs_program};
use super::{LocalConfig, Verdict, existing, run, wrong};

/// A pool with less than one of so many parts free should grow.
const FULL: u64 = 10;

pub(super) fn check(config: &LocalConfig) -> Verdict {
    let data = &config.data_dir;
    let image = data.join(POOL_IMAGE);
    if image.exists() {
        return pool(data, &image);
    }
    if config.storage == StorageChoice::Dir {
        return Ok(());
    }
    if is_btrfs(&existing(data)).unwrap_or(false) {
        return quotas(config);
    }
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let without = "without it boxes' disks are not limited, and saving them copies them; set storage.kind to dir if \
                   that is meant";
    if !known.lines().any(|line| line.ends_with("\tbtrfs"))
        && run("modprobe", &["--dry-run", "--quiet", "btrfs"]).is_err()
    {
        return wrong("the kernel has no btrfs", format!("use a kernel with CONFIG_BTRFS_FS; {without}"));
    }
    if !Path::new("/dev/loop-control").exists() && run("modprobe", &["--dry-run", "--quiet", "loop"]).is_err() {
        return wrong("the kernel has no loop devices", format!("use a kernel with CONFIG_BLK_DEV_LOOP; {without}"));
    }
    let mkfs = Command::new(mkfs_program()).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !mkfs.is_ok_and(|status| status.success()) {
        return wrong("the program mkfs.btrfs is missing", format!("apt-get install btrfs-progs; {without}"));
    }
    Ok(())
}

/// A pool that is there: it must be able to grow to its size, and have room inside.
fn pool(data: &Path, image: &Path) -> Verdict {
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let Ok((file, host)) = fs::metadata(image).and_then(|file| Ok((file, statvfs(data)?))) else {
        return wrong(format!("{} cannot be examined", image.display()), "make it root's alone");
    };
    let (missing, free) = (file.len().saturating_sub(file.blocks() * 512), host.f_bavail.saturating_mul(host.f_frsize));
    if missing > free && free < file.len() / FULL {
        return wrong(
            format!(
                "{} may still grow by {:.1} GiB, and {:.1} GiB are free there",
                image.display(),
                gib(missing),
                gib(free)
            ),
            "make room: when the pool cannot grow, boxes' writes fail and their disks become read-only",
        );
    }
    let folder = data.join("pool");
    let mounted = folder.metadata().ok().zip(data.metadata().ok()).is_some_and(|(pool, data)| pool.dev() != data.dev());
    if mounted && let Ok(stat) = statvfs(&folder) {
        if stat.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY) {
            return wrong(
                format!("the kernel has made {} read-only after an error", folder.display()),
                "make room on the disk under it, look at dmesg, stop the boxes and unmount it; the server mounts it again",
            );
        }
        if stat.f_bavail < stat.f_blocks / FULL {
            let (left, size) = (gib(stat.f_bavail * stat.f_frsize), gib(stat.f_blocks * stat.f_frsize));
            return wrong(
                format!("{left:.1} of the pool's {size:.1} GiB are left for boxes"),
                "remove boxes or snapshots, or let it grow: set storage.pool_size to more and start the server again",
            );
        }
    }
    Ok(())
}

/// The data folder's own btrfs: limits need its quotas.
fn quotas(config: &LocalConfig) -> Verdict {
    let order = Order::Quotas { at: existing(&config.data_dir), enable: Quotas::Off };
    let asked = serde_json::to_vec(&order).map_err(std::io::Error::from).and_then(|order| ask(&config.init, &order));
    match asked {
        Ok(Answer::Quotas { on: Quotas::Simple | Quotas::Full, .. }) => Ok(()),
        _ if config.storage == StorageChoice::Btrfs => Ok(()),
        _ => wrong(
            "quotas are off on the data folder's file system, so boxes' disks are not limited",
            format!(
                "btrfs quota enable {}, or set storage.kind to btrfs and the server does it",
                existing(&config.data_dir).display()
            ),
        ),
    }
}

fn ask(init: &Path, order: &[u8]) -> std::io::Result<Answer> {
    let mut child = Command::new(init)
        .arg("disk")
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        std::io::Write::write_all(&mut stdin, order)?;
    }
    Ok(serde_json::from_slice(&child.wait_with_output()?.stdout)?)
}
