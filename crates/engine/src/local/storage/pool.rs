//! The pool: a sparse file with a btrfs, for data folders on another file system.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use boxyard_proto::disk::Order;
use tokio::process::Command;

use super::grow::lengthen;
use super::room::Space;
use super::superblock::Superblock;
use crate::fail;
use crate::local::disk::DiskTool;

/// The pool's file in the data folder.
pub(in crate::local) const IMAGE: &str = "pool.img";

/// How much of the free space a pool may come to take that nobody gave a size: in hundredths.
const SHARE: u64 = 80;

/// The least that is worth a pool.
pub(super) const SIZE_MIN: u64 = 1 << 30;

/// Sizes are multiples of this.
pub(super) const UNIT: u64 = 1 << 20;

/// Mounts the pool at `<data>/pool`. Makes it first if there is none and `make` says so, and lets it grow to `size`. False if there is
/// none.
pub(super) async fn open(data: &Path, size: Option<u64>, make: bool, tool: &DiskTool) -> io::Result<bool> {
    let image = data.join(IMAGE);
    match fs::metadata(&image) {
        Ok(metadata) => {
            if Superblock::read(&image)?.is_some_and(|superblock| superblock.is_cut(metadata.len())) {
                // With a length of its own choice it could be mounted, and nobody would know that something is missing.
                let text = format!("{} was cut; boxyard doctor says what can be done", image.display());
                return Err(io::Error::other(text));
            }
            let size = size.unwrap_or_default() / UNIT * UNIT;
            if size > metadata.len() {
                tracing::info!(from = metadata.len(), to = size, "the pool for boxes' disks grows");
                let missing = size.saturating_sub(metadata.blocks().saturating_mul(512));
                if missing > Space::of(&image)?.free {
                    tracing::warn!(size, missing, "the pool is larger than what is free where its file lies");
                }
                lengthen(&image, size)?;
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
            // Divided first: no overflow, and rounded down.
            Space::of(data)?.free / 100 * SHARE
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
