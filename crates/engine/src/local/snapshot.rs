//! Snapshots: saved disks.
//!
//! ```text
//!   save: folder ─▶ flush ─▶ freeze ─▶ copy ─▶ thaw ─▶ record        (a snapshot without a record was broken off)
//!   drop: record ─▶ copy ─▶ folder
//! ```
//! Flushing costs as much as copying, and is left out where there is nothing to speak of to write.
//!
//! A snapshot holds all that a box is made from but the image's layers, which it names. It depends on no box and no other snapshot.

mod export;
mod import;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::time::Instant;

use boxyard_proto::{BoxId, SnapshotId};
use tokio::sync::Semaphore;

use super::LocalEngine;
use super::create::broken;
use super::host::Host;
use super::pause::Still;
use super::record::{Record, SnapshotRecord};
use super::storage::Budget;
use crate::fail;
use crate::{EngineError, ErrorKind, Saved};

/// Archives that are packed or unpacked at once. Each keeps a CPU and the disk busy, for hours if it is made for that. One more than an
/// account may have under way: none keeps all others waiting.
static TRANSFERS: Semaphore = Semaphore::const_new(3);

/// Bytes in memory for the disk that copying may write as well as a flush before it: some milliseconds' worth of a slow disk.
const LITTLE: u64 = 4 << 20;

/// Keeps a snapshot that is being made from being taken for one that was broken off.
#[derive(Debug)]
struct Making<'a>(&'a Host, &'a SnapshotId);

impl Drop for Making<'_> {
    fn drop(&mut self) {
        self.0.saving().remove(self.1);
    }
}

impl LocalEngine {
    /// Saves the box's disk; with `once`, for one box that takes it over.
    pub(super) async fn make_snapshot(&self, id: &BoxId, into: &SnapshotId, once: bool) -> Result<Saved, EngineError> {
        let record = self.recorded(id, "saving the box")?;
        let folder = self.host.snapshot(into);
        if let Some(complete) = SnapshotRecord::read(&folder).map_err(broken("reading the snapshot's record"))? {
            return Ok(Saved { size_bytes: complete.size_bytes });
        }
        let storage = self.host.storages.of(record.storage).map_err(broken("finding the box's disk"))?;
        if !self.host.storages.has(record.storage, id) {
            return Err(EngineError::new(ErrorKind::NotFound, "finding the box's disk"));
        }
        if !self.host.saving().insert(into.clone()) {
            return Err(EngineError::new(ErrorKind::Broken, "making the same snapshot twice at a time"));
        }
        let _making = Making(&self.host, into);
        let saving = |doing: &'static str| move |error| EngineError::of_disk(doing, error);
        self.host.forget_snapshot(into).await.map_err(saving("removing an earlier attempt"))?;
        fs::DirBuilder::new().mode(0o700).create(&folder).map_err(saving("making the snapshot's folder"))?;
        fail::point("save: begun");

        let begun = Instant::now();
        if self.host.cgroups.unwritten(id).map_err(broken("looking at the box's memory"))? > LITTLE {
            storage.flush(id, into).await.map_err(saving("writing out the box's files"))?;
        }
        fail::point("save: flushed");
        let flushed = begun.elapsed();
        let still = Still::begin(&self.host, id).await.map_err(broken("freezing the box"))?;
        fail::point("save: frozen");
        let copied = storage.save(id, into, once).await;
        fail::point("save: copied");
        still.end().await.map_err(broken("letting the box go on"))?;
        let charged = copied.map_err(saving("copying the box's disk"))?;
        tracing::debug!(%id, snapshot = %into, ?flushed, frozen = ?begun.elapsed() - flushed, "disk copied");
        fail::point("save: thawed");

        // Before the snapshot is complete: one that nobody knows of is never taken off the box's limit again.
        let size_bytes = storage.finish(into).await.map_err(saving("measuring the snapshot"))?;
        let limited = async {
            let credit = record.budget(&self.host.instance.of(id))?.credit(charged, size_bytes);
            self.limit_anew(id, &record, credit).await
        };
        if !once {
            limited.await.map_err(saving("letting the box write anew what the snapshot holds"))?;
        }
        let snapshot = SnapshotRecord {
            layers: record.layers.clone(),
            image_env: record.image_env.clone(),
            storage: record.storage,
            size_bytes,
            // Soon gone, and then the box is limited as it was.
            source: (!once).then(|| id.clone()),
            once,
        };
        snapshot.write(&folder).map_err(saving("writing the snapshot's record"))?;
        fail::point("save: recorded");
        Ok(Saved { size_bytes })
    }

    pub(super) async fn remove_snapshot(&self, id: &SnapshotId) -> Result<(), EngineError> {
        let removing = |error| EngineError::of_disk("removing the snapshot", error);
        let record = SnapshotRecord::read(&self.host.snapshot(id)).unwrap_or_default();
        let imported = record.as_ref().is_some_and(|record| self.stands_on_imported(&record.layers));
        // A box whose disk a loss of power took would be made from it once more.
        self.host.settler.now().await.map_err(removing)?;
        self.host.forget_snapshot(id).await.map_err(removing)?;
        if imported {
            self.release_layers();
        }
        match record.and_then(|record| record.source) {
            Some(source) => match self.take_back(&source).await {
                // The box is going as well.
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                taken => taken.map_err(removing),
            },
            None => Ok(()),
        }
    }

    /// Takes back what the box was given to write for the sake of its snapshots, if it has none any more.
    async fn take_back(&self, source: &BoxId) -> io::Result<()> {
        let dir = self.host.instance.of(source);
        let Ok(Some(record)) = Record::read(&dir) else { return Ok(()) };
        let budget = record.budget(&dir)?;
        if budget.saved == 0 {
            return Ok(());
        }
        // Until then the box is charged for what only the snapshot held, and might not be able to write.
        self.host.storages.of(record.storage)?.freed(source, Budget { saved: 0, ..budget }).await?;
        // What is being saved at this moment counts as well, whose ever it is.
        if !self.host.saving().is_empty() {
            return Ok(());
        }
        for other in self.host.known_snapshots()? {
            let other = SnapshotRecord::read(&self.host.snapshot(&other)).unwrap_or_default();
            if other.and_then(|other| other.source).as_ref() == Some(source) {
                return Ok(());
            }
        }
        self.limit_anew(source, &record, 0).await
    }

    /// Notes what a box was charged for when it was saved, and limits it accordingly.
    async fn limit_anew(&self, id: &BoxId, record: &Record, saved: u64) -> io::Result<()> {
        let dir = self.host.instance.of(id);
        record.note_saved(&dir, saved)?;
        self.host.storages.of(record.storage)?.limit(id, record.budget(&dir)?).await
    }

    pub(super) async fn list_snapshots(&self) -> Result<Vec<SnapshotId>, EngineError> {
        let mut complete = Vec::new();
        for id in self.host.known_snapshots().map_err(broken("looking for snapshots"))? {
            if self.host.saving().contains(&id) {
                continue;
            }
            match SnapshotRecord::read(&self.host.snapshot(&id)) {
                Ok(Some(_)) => complete.push(id),
                Ok(None) => {
                    tracing::info!(snapshot = %id, "removing a snapshot that was broken off");
                    self.remove_snapshot(&id).await?;
                }
                // Not removed: what cannot be understood may be worth something to somebody.
                Err(error) => tracing::warn!(snapshot = %id, %error, "the snapshot's record cannot be read"),
            }
        }
        // What a server did not come to that ended in between.
        self.release_layers();
        Ok(complete)
    }
}

impl Host {
    /// The folder of a snapshot's record.
    pub(super) fn snapshot(&self, id: &SnapshotId) -> PathBuf {
        self.instance.snapshots().join(id.as_str())
    }

    /// Removes a snapshot or what there is of it.
    async fn forget_snapshot(&self, id: &SnapshotId) -> io::Result<()> {
        let folder = self.snapshot(id);
        SnapshotRecord::remove(&folder)?;
        fail::point("drop: unrecorded");
        for storage in self.storages.all() {
            storage.forget(id).await?;
        }
        fail::point("drop: removed");
        self.trash.throw(&folder)
    }

    /// Every snapshot of which anything is here.
    fn known_snapshots(&self) -> io::Result<BTreeSet<SnapshotId>> {
        let mut names = BTreeSet::new();
        for entry in fs::read_dir(self.instance.snapshots())? {
            names.insert(entry?.file_name().to_string_lossy().into_owned());
        }
        for storage in self.storages.all() {
            let [_, snapshots] = storage.names()?;
            names.extend(snapshots.into_iter().map(|name| name.trim_start_matches('.').to_owned()));
        }
        Ok(names.into_iter().filter_map(|name| name.parse().ok()).collect())
    }
}
