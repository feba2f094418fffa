//! The pool: a sparse file with a btrfs, for data folders on another file system.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use boxyard_proto::disk::Order;
use rustix::fs::statvfs;
use tokio::process::Command;

use crate::fail;
use crate::local::disk::DiskTool;

/// The pool's file in the data folder.
pub(in crate::local) const IMAGE: &str = "pool.img";

/// How much of the free space a pool may come to take that nobody gave a size: in hundredths.
const SHARE: u64 = 80;

/// The least that is worth a pool.
const SIZE_MIN: u64 = 1 << 30;

/// Sizes are multiples of this.
const UNIT: u64 = 1 << 20;

/// Mounts the pool at `<data>/pool`. Makes it first if there is none and `make` says so, and lets it grow to `size`. False if there is
/// none.
pub(super) async fn open(data: &Path, size: Option<u64>, make: bool, tool: &DiskTool) -> io::Result<bool> {
    let image = data.join(IMAGE);
    match fs::metadata(&image) {
        Ok(metadata) => {
            let size = size.unwrap_or_default() / UNIT * UNIT;
            if size > metadata.len() {
                tracing::info!(from = metadata.len(), to = size, "the pool for boxes' disks grows");
                OpenOptions::new().write(true).open(&image)?.set_len(size)?;
            } else if size > 0 && size < metadata.len() {
                tracing::warn!(
                    size,
                    is = metadata.len(),
                    "a pool never shrinks; the size that was asked for is ignored"
                );
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound && make => create(data, &image, size).await?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    }
    let at = data.join("pool");
    match fs::DirBuilder::new().mode(0o700).create(&at) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    tool.order(Order::Mount { image, at }).await?;
    Ok(true)
}

async fn create(data: &Path, image: &Path, size: Option<u64>) -> io::Result<()> {
    let size = match size {
        Some(size) => size,
        None => {
            let stat = statvfs(data)?;
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            // Divided first: no overflow, and rounded down.
            free / 100 * SHARE
        }
    } / UNIT
        * UNIT;
    if size < SIZE_MIN {
        let text = format!("{size} bytes for the boxes' pool are less than 1 GiB");
        return Err(io::Error::new(io::ErrorKind::StorageFull, text));
    }
    let draft = image.with_extension("img.new");
    let file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&draft)?;
    file.set_len(size)?;
    fail::point("open: pool drafted");
    tracing::info!(size, file = %image.display(), "making a pool for boxes' disks; it takes only what boxes write");
    // One copy of everything: the file's own file system knows how to keep files.
    let made = Command::new(mkfs_program())
        .args(["--quiet", "--metadata", "single", "--data", "single", "--label", "boxyard"])
        .arg(&draft)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .output()
        .await;
    let made = made.map_err(|error| {
        io::Error::new(error.kind(), format!("mkfs.btrfs: {error}; install btrfs-progs or set storage.kind to dir"))
    })?;
    if !made.status.success() {
        let text: String = String::from_utf8_lossy(&made.stderr).chars().take(1000).collect();
        return Err(io::Error::other(format!("mkfs.btrfs: {text}")));
    }
    file.sync_all()?;
    fs::rename(&draft, image)?;
    File::open(data)?.sync_all()
}

/// Where mkfs.btrfs is. Servers may run without `/usr/sbin` in their `PATH`.
pub(in crate::local) fn mkfs_program() -> PathBuf {
    let places = ["/usr/sbin/mkfs.btrfs", "/sbin/mkfs.btrfs", "/usr/bin/mkfs.btrfs"];
    places.into_iter().map(PathBuf::from).find(|path| path.exists()).unwrap_or_else(|| "mkfs.btrfs".into())
}
