//! What this instance has on the host, and how it all goes away again. Shared by the engine and its background tasks; runs none itself.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use boxyard_proto::launch::UIDS_PER_BOX;
use boxyard_proto::{BoxId, SnapshotId};
use tokio::net::UnixStream;
use tokio::sync::Notify;

use super::cgroup::Cgroups;
use super::cidr::Cidr;
use super::instance::Instance;
use super::launcher::Launcher;
use super::network::{interface, link};
use super::settle::Settler;
use super::slots::Slots;
use super::storage::Storages;
use super::trash::Trash;

/// The instance's things on the host.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) instance: Instance,
    pub(super) cgroups: Cgroups,
    pub(super) launcher: Launcher,
    pub(super) trash: Arc<Trash>,
    pub(super) storages: Storages,
    pub(super) settler: Arc<Settler>,
    uid_start: u32,
    pub(super) range: Cidr,
    slots: Mutex<Slots>,
    /// Boxes that were stopped and whose connections the host still knows.
    stopped: Mutex<BTreeSet<BoxId>>,
    /// There is something for [`sweep_slots`](Self::sweep_slots) to do.
    pub(super) retiring: Notify,
    /// A slot is free again.
    pub(super) freed: Notify,
    /// Throw-away boxes of image builds, which nobody is told of.
    builds: Mutex<BTreeSet<BoxId>>,
    /// Snapshots that are being made.
    saving: Mutex<BTreeSet<SnapshotId>>,
}

impl Host {
    pub(super) fn new(
        instance: Instance,
        cgroups: Cgroups,
        launcher: Launcher,
        (uid_start, range, slots): (u32, Cidr, Slots),
        trash: Arc<Trash>,
        storages: Storages,
    ) -> Self {
        Self {
            instance,
            cgroups,
            launcher,
            trash,
            storages,
            settler: Settler::new(),
            uid_start,
            range,
            slots: Mutex::new(slots),
            stopped: Mutex::default(),
            retiring: Notify::new(),
            freed: Notify::new(),
            builds: Mutex::default(),
            saving: Mutex::default(),
        }
    }

    /// The slots. Hold the lock for a moment only.
    pub(super) fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The stopped boxes. Hold the lock for a moment only.
    pub(super) fn stopped(&self) -> MutexGuard<'_, BTreeSet<BoxId>> {
        self.stopped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The throw-away boxes. Hold the lock for a moment only.
    pub(super) fn builds(&self) -> MutexGuard<'_, BTreeSet<BoxId>> {
        self.builds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The snapshots that are being made. Hold the lock for a moment only.
    pub(super) fn saving(&self) -> MutexGuard<'_, BTreeSet<SnapshotId>> {
        self.saving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// First host uid of the box with `slot`.
    pub(super) fn uid_start(&self, slot: u32) -> u32 {
        self.uid_start + slot * UIDS_PER_BOX
    }

    /// Whether the box has processes and accepts connections.
    pub(super) async fn is_running(&self, id: &BoxId) -> io::Result<bool> {
        if !self.cgroups.is_populated(id)? {
            return Ok(false);
        }
        Ok(match UnixStream::connect(self.instance.socket(id)).await {
            Ok(_) => true,
            // Somebody listens, if slowly.
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        })
    }

    /// Whether any box has processes.
    pub(super) fn any_runs(&self) -> io::Result<bool> {
        for name in self.cgroups.names()? {
            if let Ok(id) = name.parse()
                && self.cgroups.is_populated(&id)?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Ends the box's processes and removes what exists while it runs. Its files stay.
    ///
    /// The link goes with the box's network namespace, which the kernel takes apart some hundredths of a second after the last process,
    /// many at a time. That is not waited for; see [`free_link`](Self::free_link).
    pub(super) async fn end(&self, id: &BoxId) -> io::Result<()> {
        self.launcher.settle(id).await?;
        self.cgroups.clear(id).await?;
        remove_file(&self.instance.socket(id))
    }

    /// Makes sure that no link of an earlier box has the name that belongs to `slot`.
    pub(super) async fn free_link(&self, slot: u32) -> io::Result<()> {
        let name = interface(self.instance.tag(), slot);
        if Path::new("/sys/class/net").join(&name).exists() { link::remove(name).await } else { Ok(()) }
    }

    /// Removes what is there for all boxes, the network aside. There must be no box.
    pub(super) fn remove_folders(&self) -> io::Result<()> {
        self.cgroups.remove_folders()?;
        self.instance.remove_run()
    }
}

fn remove_file(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
