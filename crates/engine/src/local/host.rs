//! What this instance has on the host, and how it all goes away again. Shared by the engine and its background tasks; runs none itself.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use boxyard_proto::BoxId;
use boxyard_proto::launch::UIDS_PER_BOX;
use tokio::net::UnixStream;

use super::cgroup::Cgroups;
use super::instance::Instance;
use super::launcher::Launcher;
use super::network::{interface, link::Links};
use super::slots::Slots;
use super::trash::Trash;

/// The instance's things on the host.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) instance: Instance,
    pub(super) cgroups: Cgroups,
    pub(super) links: Links,
    pub(super) launcher: Launcher,
    pub(super) trash: Arc<Trash>,
    uid_start: u32,
    slots: Mutex<Slots>,
    /// Throw-away boxes of image builds, which nobody is told of.
    builds: Mutex<BTreeSet<BoxId>>,
}

impl Host {
    pub(super) fn new(
        instance: Instance,
        cgroups: Cgroups,
        links: Links,
        launcher: Launcher,
        uid_start: u32,
        slots: Slots,
    ) -> Self {
        let trash = Trash::new(instance.trash());
        Self {
            instance,
            cgroups,
            links,
            launcher,
            trash,
            uid_start,
            slots: Mutex::new(slots),
            builds: Mutex::default(),
        }
    }

    /// The slots. Hold the lock for a moment only.
    pub(super) fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The throw-away boxes. Hold the lock for a moment only.
    pub(super) fn builds(&self) -> MutexGuard<'_, BTreeSet<BoxId>> {
        self.builds.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Ends the box's processes and removes what exists while it runs: groups, link, socket. Its files stay.
    pub(super) async fn end(&self, id: &BoxId) -> io::Result<()> {
        self.launcher.settle(id).await?;
        self.cgroups.clear(id).await?;
        // The kernel removes the link with the box's network namespace, some time after the last process. Its name must be free by
        // the time that the slot is, so it is removed here.
        let slot = self.slots().get(id);
        if let Some(slot) = slot {
            self.links.remove(&interface(self.instance.tag(), slot)).await?;
        }
        remove_file(&self.instance.socket(id))
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
