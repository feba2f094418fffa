//! Whether boxes' disks can be limited and saved.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use boxyard_proto::disk::{Answer, Order, Quotas};

use super::super::storage::{POOL_IMAGE, StorageChoice, is_btrfs, mkfs_program};
use super::{LocalConfig, Verdict, existing, pool, run, wrong};

pub(super) fn check(config: &LocalConfig) -> Verdict {
    let data = &config.data_dir;
    let image = data.join(POOL_IMAGE);
    if image.exists() {
        return Ok(());
    }
    pool::missing(data, &image)?;
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

/// The data folder's own btrfs: limits need its quotas.
fn quotas(config: &LocalConfig) -> Verdict {
    let order = Order::Quotas { at: existing(&config.data_dir), enable: Quotas::Off };
    match ask(&config.init, &order) {
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

/// Has `boxyard-init` do something.
pub(super) fn ask(init: &Path, order: &Order) -> std::io::Result<Answer> {
    let order = serde_json::to_vec(order)?;
    let mut child = Command::new(init)
        .arg("disk")
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        std::io::Write::write_all(&mut stdin, &order)?;
    }
    Ok(serde_json::from_slice(&child.wait_with_output()?.stdout)?)
}
