//! How much there is for boxes' disks, and how much of it is left.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::statvfs;

use crate::DiskRoom;

/// What a file system has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::local) struct Space {
    /// Bytes in all.
    pub(in crate::local) bytes: u64,
    /// Bytes that are free for everybody.
    pub(in crate::local) free: u64,
}

impl Space {
    /// Asks the file system that `at` is on.
    pub(in crate::local) fn of(at: &Path) -> io::Result<Self> {
        let stat = statvfs(at)?;
        Ok(Self {
            bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
            free: stat.f_bavail.saturating_mul(stat.f_frsize),
        })
    }
}

/// Where disks lie in folders or subvolumes of the file system of `at`.
pub(super) fn of_file_system(at: &Path) -> io::Result<DiskRoom> {
    let Space { bytes, free } = Space::of(at)?;
    Ok(DiskRoom { bytes, left: free })
}

/// Where they lie in the pool that is mounted at `pool` and grows in the file `image`.
pub(super) fn of_pool(pool: &Path, image: &Path) -> io::Result<DiskRoom> {
    let taken = fs::metadata(image)?.blocks().saturating_mul(512);
    Ok(in_pool(Space::of(pool)?, taken, Space::of(image)?))
}

/// Bytes of a sparse file that it does not take yet.
pub(super) fn not_taken(image: &Path) -> io::Result<u64> {
    let file = fs::metadata(image)?;
    Ok(file.len().saturating_sub(file.blocks().saturating_mul(512)))
}

/// A pool is as large as it says only if its file can grow to that, `taken` being what it takes so far. What is left is what is free in
/// both: a pool that boxes can write to on a host that is full is the end of them, for then their writes fail below the file system.
fn in_pool(pool: Space, taken: u64, host: Space) -> DiskRoom {
    DiskRoom { bytes: pool.bytes.min(taken.saturating_add(host.free)), left: pool.free.min(host.free) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_has_the_room_that_it_and_its_host_have() {
        let room = |[size, free]: [u64; 2], taken, host_free| {
            let DiskRoom { bytes, left } =
                in_pool(Space { bytes: size, free }, taken, Space { bytes: 1000, free: host_free });
            [bytes, left]
        };
        assert_eq!(room([100, 80], 20, 500), [100, 80], "the pool is smaller");
        assert_eq!(room([100, 80], 20, 30), [50, 30], "the host has been filled by others");
        assert_eq!(room([100, 0], 100, 500), [100, 0], "the pool is full");
        assert_eq!(room([100, 80], 20, 0), [20, 0], "the host is full");
    }
}
