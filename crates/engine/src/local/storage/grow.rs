//! Letting a pool grow, whether a server uses it or not.
//!
//! ```text
//!   file longer, on the disk ──▶ loop device ──▶ file system        any prefix of this is a pool that works
//! ```
//! The file is never made shorter, not even by two that grow it at once, and whoever mounts the pool next does what is left to do.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use boxyard_proto::disk::Order;
use rustix::fs::{FallocateFlags, fallocate};

use super::pool::{IMAGE, SIZE_MIN, UNIT};
use super::room::Space;
use super::superblock::Superblock;
use crate::local::LocalConfig;
use crate::local::disk::DiskTool;
use crate::{EngineError, ErrorKind};

/// Bytes that stay free where the pool's file lies, however large it is made.
const HOST_KEEPS: u64 = 1 << 30;

/// What growing has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolGrowth {
    /// Bytes that the pool had.
    pub from: u64,
    /// Bytes that it has, or will have.
    pub to: u64,
    /// Whether boxes can use them already; otherwise from the server's next start on.
    pub in_use: bool,
}

/// Lets the pool of boxes' disks grow to `size` bytes, also while a server and boxes use it. Broken off at any moment it leaves a pool
/// that works; called again it goes on.
///
/// # Errors
/// There is no pool, it is larger already, or the file system that its file lies on has not got as much.
pub async fn grow_pool(config: &LocalConfig, size: u64) -> Result<PoolGrowth, EngineError> {
    let (growing, size) = ("letting the pool grow", size / UNIT * UNIT);
    let broken = |error| EngineError::of_disk(growing, error);
    // What is mounted where is told by the folders themselves, not by links to them.
    let data = std::fs::canonicalize(&config.data_dir).map_err(broken)?;
    let image = data.join(IMAGE);
    let file = match std::fs::metadata(&image) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let text = format!("there is no {}; a server makes it when it first starts", image.display());
            return Err(EngineError { kind: ErrorKind::NotFound, ..EngineError::broken(growing, text) });
        }
        file => file.map_err(broken)?,
    };
    if size < file.len().max(SIZE_MIN) {
        let text = format!("it has {} bytes and never shrinks", file.len());
        return Err(EngineError { kind: ErrorKind::Unsupported, ..EngineError::broken(growing, text) });
    }
    if Superblock::read(&image).map_err(broken)?.is_none_or(|superblock| superblock.is_cut(file.len())) {
        return Err(EngineError::broken(growing, "its file is not whole; boxyard doctor says what can be done"));
    }
    let taken = file.blocks().saturating_mul(512);
    let free = Space::of(&image).map_err(broken)?.free.saturating_sub(HOST_KEEPS);
    if size > file.len() && size.saturating_sub(taken) > free {
        let most = taken.saturating_add(free) / UNIT * UNIT;
        let text = format!("{} can hold {most} bytes of it at most, 1 GiB being left for others", data.display());
        return Err(EngineError { kind: ErrorKind::Exhausted, ..EngineError::broken(growing, text) });
    }
    lengthen(&image, size).map_err(broken)?;
    let at = data.join("pool");
    let tool = DiskTool::new(config.init.clone());
    tool.order(Order::Grow { image: image.clone(), at: at.clone() }).await.map_err(broken)?;
    let in_use = is_mounted(&at).map_err(broken)? && Space::of(&at).map_err(broken)?.bytes >= size;
    Ok(PoolGrowth { from: file.len(), to: size, in_use })
}

/// Makes a file `size` bytes long that is shorter, and lets no loss of power undo that: a file system must not be larger than what it is on.
pub(super) fn lengthen(image: &Path, size: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(image)?;
    // Unlike setting its length this never shortens it, whatever somebody else has done to it meanwhile.
    fallocate(&file, FallocateFlags::empty(), size.saturating_sub(1), 1)?;
    file.sync_all()
}

/// Whether a file system of its own is mounted at this folder.
pub(in crate::local) fn is_mounted(at: &Path) -> io::Result<bool> {
    let parent = at.parent().unwrap_or(at);
    match std::fs::symlink_metadata(at) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        found => Ok(found?.dev() != std::fs::symlink_metadata(parent)?.dev()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_never_made_shorter_and_keeps_what_it_holds() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"contents").unwrap();
        for (size, expected) in [(100, 100), (50, 100), (8, 100), (1 << 20, 1 << 20), (100, 1 << 20)] {
            lengthen(file.path(), size).unwrap();
            let found = std::fs::metadata(file.path()).unwrap();
            assert_eq!(found.len(), expected);
            assert!(found.blocks() < 64, "it takes no more than it holds");
        }
        assert!(std::fs::read(file.path()).unwrap().starts_with(b"contents\0"));
    }
}
