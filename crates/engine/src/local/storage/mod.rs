//! Where boxes' disks lie: what they have written over their images, and what of it was saved.
//!
//! ```text
//!   <data>/boxes/<id>/upper, work             kind `folder`: any file system; saving copies, nothing limits
//!   <data>/volumes/boxes/<id>/upper, work     kind `volume`: subvolumes of the data folder's own btrfs
//!   <data>/pool/boxes/<id>/upper, work        kind `pool`: the same in a btrfs that lies in the file <data>/pool.img
//!                 /snapshots/<id>/upper       saved disks, read-only
//! ```
//!
//! A box keeps the kind of storage that it was made with; the configuration says what new ones get. `volume` and `pool` save and copy
//! disks of any size in the same few milliseconds and limit them by btrfs's quota groups, of which every subvolume has one.
//!
//! # Quotas
//!
//! A pool has *simple* quotas where the kernel knows them (Linux 6.7), else *full* ones, as has a file system of the operator's own
//! unless it has simple ones already. Full ones say exactly what a disk holds, and cost too much: when a copy of a disk is removed, the
//! kernel goes through all of it, for about a second where it has 50,000 files, and everybody who writes waits at times. Measured on
//! such a disk of 1.2 GB on two busy cores, while copies of it come and go: making a box from it takes 59 to 74 ms with full quotas and
//! 15 ms with simple ones, when making an empty box takes 8 to 11 ms.
//!
//! With simple quotas a box is charged for what it has written itself, as long as anybody holds it. Hence three rules, see [`Budget`]:
//! a box from a snapshot may write its limit less what the snapshot holds, and a quarter of its limit at least, for deleting what it
//! started with gives it nothing back; what it had written when it was last saved is added to its limit while it has snapshots, for
//! they hold it, whatever the box deletes, less what it holds beyond its limit; and the size of a snapshot is counted file by file.

mod btrfs;
mod copy;
mod dir;
mod grow;
mod pool;
mod room;
mod superblock;
mod walk;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use boxyard_proto::disk::{Disk, Quotas};
use boxyard_proto::{BoxId, SnapshotId};
use serde::{Deserialize, Serialize};

use self::btrfs::Subvolumes;
use self::dir::Folders;
pub(super) use self::grow::is_mounted;
pub use self::grow::{PoolGrowth, grow_pool};
pub(super) use self::pool::{IMAGE as POOL_IMAGE, mkfs_program};
pub(super) use self::room::Space;
pub(super) use self::superblock::Superblock;
use super::disk::DiskTool;
use super::trash::Trash;
use crate::DiskRoom;

/// What a box may write, at least, above what the snapshot holds that it starts from.
const ROOM_MIN: u64 = 64 << 20;

/// Where the writable layers of new boxes lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StorageChoice {
    /// The data folder's own btrfs, else a pool where the host can make one, else plain folders. Quotas of a file system that we did not
    /// make are used if they are on, and not switched on.
    #[default]
    Auto,
    /// The data folder's own btrfs, with quotas, or a pool. Nothing else will do.
    Btrfs,
    /// Plain folders.
    Dir,
}

/// Where a disk lies. Stored with each box and snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// A folder of the box's own.
    #[default]
    Folder,
    /// A subvolume of the data folder's file system.
    Volume,
    /// A subvolume of the pool.
    Pool,
}

/// One kind of storage. Everything is idempotent.
#[async_trait]
pub(super) trait Storage: Send + Sync + std::fmt::Debug {
    /// The folder in which a box's `upper` and `work` lie.
    fn disk(&self, id: &BoxId) -> PathBuf;

    /// The folder in which a snapshot's `upper` lies.
    fn saved(&self, id: &SnapshotId) -> PathBuf;

    /// Whether limits hold.
    fn limits(&self) -> bool;

    /// Whether a disk that starts as a copy of the saved one in `from` is copied file by file, which takes a while.
    fn copies(&self, from: &Path) -> bool;

    /// Makes the box's disk, from the saved one in `from` where one is given, or says how the launcher is to make it. A disk that
    /// is complete stays as it is.
    async fn prepare(&self, id: &BoxId, from: Option<&Source>, budget: Budget) -> io::Result<Option<Disk>>;

    /// Does what it can of a save while the box still runs.
    async fn flush(&self, id: &BoxId, into: &SnapshotId) -> io::Result<()>;

    /// Copies the box's disk, in which nothing may change meanwhile; with `taken`, so that it can be [taken](Source::take). Returns the
    /// bytes to be noted as [`Budget::saved`] of the box.
    async fn save(&self, id: &BoxId, into: &SnapshotId, taken: bool) -> io::Result<u64>;

    /// Waits until a saved disk is safe from a loss of power, and returns the bytes that it holds.
    async fn finish(&self, id: &SnapshotId) -> io::Result<u64>;

    /// Begins a saved disk that comes from elsewhere: its empty `upper`, to be filled.
    async fn receive(&self, id: &SnapshotId) -> io::Result<PathBuf>;

    /// Keeps what was filled as the saved disk; [`finish`](Self::finish) is next.
    async fn received(&self, id: &SnapshotId) -> io::Result<()>;

    /// Waits until the box is not charged any more for what only removed disks held, if that is much beside `budget` and the kernel
    /// lets one wait.
    async fn freed(&self, id: &BoxId, budget: Budget) -> io::Result<()>;

    /// Bytes that the box's disk holds.
    async fn used(&self, id: &BoxId, budget: Budget) -> io::Result<u64>;

    /// Lets the box write as much as `budget` says from now on.
    async fn limit(&self, id: &BoxId, budget: Budget) -> io::Result<()>;

    /// Removes a box's disk, which nothing uses any more.
    async fn remove(&self, id: &BoxId) -> io::Result<()>;

    /// Removes a saved disk, or what there is of it.
    async fn forget(&self, id: &SnapshotId) -> io::Result<()>;

    /// Names of the boxes and of the snapshots that have a disk here, besides their own folders.
    fn names(&self) -> io::Result<[Vec<String>; 2]>;
}

/// All kinds of storage that this instance has.
#[derive(Debug)]
pub(super) struct Storages {
    default: Kind,
    folders: Folders,
    volumes: Option<Subvolumes>,
    pool: Option<Subvolumes>,
    pool_folder: PathBuf,
}

impl Storages {
    /// Finds, mounts and, where it has to be, makes what `choice` says.
    ///
    /// # Errors
    /// What was chosen is not to be had, or a pool that is there cannot be mounted: boxes may lie in it.
    pub(super) async fn open(
        data: &Path,
        choice: StorageChoice,
        pool_size: Option<u64>,
        tool: &Arc<DiskTool>,
        trash: &Arc<Trash>,
    ) -> io::Result<Self> {
        let native = is_btrfs(data)?;
        let volumes_folder = data.join("volumes");
        let wants_volumes = choice != StorageChoice::Dir && native;
        let volumes = match wants_volumes || volumes_folder.exists() {
            true => {
                // Simple ones would keep older kernels from mounting what is not ours.
                let enable = if choice == StorageChoice::Btrfs { Quotas::Full } else { Quotas::Off };
                Some(Subvolumes::open(&volumes_folder, tool, enable).await?)
            }
            false => None,
        };
        let wants_pool = choice != StorageChoice::Dir && !native;
        let pool_folder = data.join("pool");
        let pool = match pool::open(data, pool_size, wants_pool, tool).await {
            Ok(true) => Some(Subvolumes::open(&pool_folder, tool, Quotas::Simple).await?),
            Ok(false) => None,
            Err(error) if choice == StorageChoice::Auto && !data.join(POOL_IMAGE).exists() => {
                tracing::warn!(%error, "no pool for boxes' disks: they are not limited, and saving them copies them");
                None
            }
            Err(error) => return Err(error),
        };
        let default = match (wants_volumes, wants_pool && pool.is_some()) {
            (true, _) => Kind::Volume,
            (_, true) => Kind::Pool,
            _ => Kind::Folder,
        };
        let folders = Folders::new(data, trash);
        Ok(Self { default, folders, volumes, pool, pool_folder })
    }

    /// What new boxes get.
    pub(super) fn default_kind(&self) -> Kind {
        self.default
    }

    /// The storage of this kind.
    ///
    /// # Errors
    /// This instance has it no longer.
    pub(super) fn of(&self, kind: Kind) -> io::Result<&dyn Storage> {
        let found = match kind {
            Kind::Folder => Some(&self.folders as &dyn Storage),
            Kind::Volume => self.volumes.as_ref().map(|found| found as &dyn Storage),
            Kind::Pool => self.pool.as_ref().map(|found| found as &dyn Storage),
        };
        found.ok_or_else(|| io::Error::other(format!("there is no storage of the kind {kind:?} here")))
    }

    /// Every kind that there is.
    pub(super) fn all(&self) -> impl Iterator<Item = &dyn Storage> {
        [Kind::Folder, Kind::Volume, Kind::Pool].into_iter().filter_map(|kind| self.of(kind).ok())
    }

    /// Whether the box has a disk of this kind.
    pub(super) fn has(&self, kind: Kind, id: &BoxId) -> bool {
        self.of(kind).is_ok_and(|storage| storage.disk(id).join("upper").is_dir())
    }

    /// How much room there is for the disks of new boxes. Blocks.
    ///
    /// # Errors
    /// The file system does not say.
    pub(super) fn room(&self, data: &Path) -> io::Result<DiskRoom> {
        match self.default {
            Kind::Folder | Kind::Volume => room::of_file_system(data),
            Kind::Pool => room::of_pool(&self.pool_folder, &data.join(POOL_IMAGE)),
        }
    }

    /// Bytes that the pool's file may still come to take of the data folder's file system. Blocks.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn promised(&self, data: &Path) -> io::Result<u64> {
        match self.pool {
            Some(_) => room::not_taken(&data.join(POOL_IMAGE)),
            None => Ok(0),
        }
    }

    /// Unmounts the pool. Nothing may use it any more.
    pub(super) fn close(&self) -> io::Result<()> {
        if self.pool.is_none() {
            return Ok(());
        }
        match rustix::mount::unmount(&self.pool_folder, rustix::mount::UnmountFlags::NOFOLLOW) {
            // It is not mounted.
            Err(rustix::io::Errno::INVAL) => Ok(()),
            unmounted => Ok(unmounted?),
        }
    }
}

/// A saved disk that a box's own starts as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    /// The folder in which its `upper` lies.
    pub(super) folder: PathBuf,
    /// Whether nobody else wants it: the box gets itself rather than a copy, where no copying file by file is needed.
    pub(super) take: bool,
}

/// What decides how much a box may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Budget {
    /// What it may hold.
    pub(super) limit: u64,
    /// What the snapshot holds that it started from.
    pub(super) started_with: u64,
    /// What it was charged for when it was last saved, if its snapshots are still there.
    pub(super) saved: u64,
}

impl Budget {
    /// The limit of its quota group.
    fn charge(self, quotas: Quotas) -> Option<u64> {
        let limit = match quotas {
            Quotas::Off => return None,
            Quotas::Full if self.started_with == 0 => self.limit,
            Quotas::Full => self.limit.max(self.started_with.saturating_add(ROOM_MIN)),
            Quotas::Simple => self.own().saturating_add(self.saved),
        };
        // The kernel takes larger ones for negative.
        (limit <= i64::MAX.cast_unsigned()).then_some(limit)
    }

    /// What it may write itself, beyond what it started with.
    fn own(self) -> u64 {
        let room = if self.started_with == 0 { 0 } else { ROOM_MIN.max(self.limit / 4) };
        self.limit.saturating_sub(self.started_with).max(room)
    }

    /// What to note as [`saved`](Self::saved) of a box that was charged `charged` when it was saved and held `held` then. What it holds
    /// beyond its limit already is not given to it once more: else it could hold more with each time that it is saved.
    pub(super) fn credit(self, charged: u64, held: u64) -> u64 {
        let may_hold = self.started_with.saturating_add(self.own());
        // Files that share their bytes are counted as if they did not.
        let held = held.min(self.started_with.saturating_add(charged));
        charged.saturating_sub(held.saturating_sub(may_hold))
    }
}

/// Whether a folder lies on btrfs.
pub(super) fn is_btrfs(folder: &Path) -> io::Result<bool> {
    const BTRFS: i64 = 0x9123_683E;
    Ok(rustix::fs::statfs(folder)?.f_type == BTRFS)
}

/// Names in a folder.
fn entries(folder: &Path) -> io::Result<Vec<String>> {
    fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_box_may_write_follows_from_what_it_holds_and_what_others_hold_of_it() {
        let gib = |count: u64| count << 30;
        let charge = |quotas, limit, started_with, saved| Budget { limit, started_with, saved }.charge(quotas);
        assert_eq!(charge(Quotas::Simple, gib(5), 0, 0), Some(gib(5)));
        assert_eq!(charge(Quotas::Simple, gib(8), gib(1), 0), Some(gib(7)));
        assert_eq!(charge(Quotas::Simple, gib(8), gib(9), 0), Some(gib(2)), "a quarter");
        assert_eq!(charge(Quotas::Simple, 1 << 20, gib(9), 0), Some(64 << 20));
        assert_eq!(charge(Quotas::Simple, gib(5), 0, gib(3)), Some(gib(8)));
        assert_eq!(charge(Quotas::Full, gib(5), gib(2), gib(3)), Some(gib(5)));
        assert_eq!(charge(Quotas::Full, gib(5), gib(6), 0), Some(gib(6) + (64 << 20)));
        assert_eq!(charge(Quotas::Off, gib(5), 0, 0), None);
        assert_eq!(charge(Quotas::Simple, u64::MAX, 0, 0), None);
    }

    #[test]
    fn however_often_a_box_is_saved_it_never_holds_more_than_twice_its_limit() {
        for (limit, started_with) in [(5_u64 << 30, 0), (8 << 30, 1 << 30), (8 << 30, 9 << 30)] {
            let mut budget = Budget { limit, started_with, saved: 0 };
            let may_hold = started_with + budget.own();
            let mut charged = 0;
            for time in 0..10 {
                // It writes all that it may, and deletes nothing: all that it is charged for it holds.
                charged = budget.charge(Quotas::Simple).unwrap();
                assert!(started_with + charged <= may_hold + budget.own(), "{limit} {started_with} {time}");
                budget.saved = budget.credit(charged, started_with + charged);
            }
            let half = budget.own() / 2;
            assert_eq!(budget.credit(half, 100 * limit), half, "files that share what they hold");
            // It deletes all of it, which its snapshots hold: then it may write its limit anew.
            budget.saved = budget.credit(charged, started_with);
            assert_eq!(budget.charge(Quotas::Simple), Some(charged + budget.own()));
        }
    }
}
