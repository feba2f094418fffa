//! Making sure that disks of boxes outlive a loss of power.
//!
//! A box is ready when the kernel has made its disk, in memory; until the file system has written that out, a loss of power takes the
//! disk away, and nothing that ran in the box can have been written out either. Waiting for it would make creating boxes several times as
//! slow. So it is done a moment later, for all boxes of that moment together, and noted by a file in the box's folder. A box without
//! that note and without a disk is as new, and is started with a new disk.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use boxyard_proto::BoxId;
use tokio::sync::Notify;

/// The note that the box's disk is written out.
const NOTE: &str = "settled";

/// What a file system is asked for at most once in.
const EVERY: Duration = Duration::from_secs(1);

/// Boxes whose disks may not be written out yet.
#[derive(Debug, Default)]
pub(super) struct Settler {
    /// The folder of each, and the one that its disk lies in.
    pending: Mutex<BTreeMap<BoxId, (PathBuf, PathBuf)>>,
    filled: Notify,
    /// Held while it is done: who waits for it must not miss what somebody else does.
    settling: tokio::sync::Mutex<()>,
}

/// Whether the disk of the box whose folder is `dir` has been written out.
pub(super) fn is_settled(dir: &Path) -> bool {
    dir.join(NOTE).exists()
}

impl Settler {
    pub(super) fn new() -> Arc<Self> {
        Arc::default()
    }

    fn pending(&self) -> MutexGuard<'_, BTreeMap<BoxId, (PathBuf, PathBuf)>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the disk of a box written out soon, unless it is: the folder `disk`, which lies beside those of all others of its kind.
    pub(super) fn add(&self, id: &BoxId, dir: PathBuf, disk: PathBuf) {
        if is_settled(&dir) {
            return;
        }
        self.pending().insert(id.clone(), (dir, disk));
        self.filled.notify_one();
    }

    /// Writes disks out whenever there are new ones, for ever. To be run by one task at a time.
    pub(super) async fn work(self: Arc<Self>) {
        loop {
            self.filled.notified().await;
            // Others come meanwhile, and all of them cost as much as one.
            tokio::time::sleep(EVERY).await;
            if let Err(error) = self.now().await {
                tracing::warn!(%error, "writing boxes' disks out; trying again with the next box");
            }
        }
    }

    /// Writes out the disks of all boxes that have been made.
    pub(super) async fn now(&self) -> io::Result<()> {
        let _settling = self.settling.lock().await;
        let pending = std::mem::take(&mut *self.pending());
        if pending.is_empty() {
            return Ok(());
        }
        let again = pending.clone();
        let settled = tokio::task::spawn_blocking(move || settle(&pending)).await.map_err(io::Error::other)?;
        if settled.is_err() {
            let mut pending = self.pending();
            for (id, folders) in again {
                pending.entry(id).or_insert(folders);
            }
        }
        settled
    }
}

fn settle(pending: &BTreeMap<BoxId, (PathBuf, PathBuf)>) -> io::Result<()> {
    let mut done: Vec<&Path> = Vec::new();
    for (_, disk) in pending.values() {
        // All disks of one kind lie in one folder, on one file system. This one may not be there.
        let folder = disk.parent().unwrap_or(disk);
        if !done.contains(&folder) {
            rustix::fs::syncfs(File::open(folder)?)?;
            done.push(folder);
        }
    }
    for (dir, disk) in pending.values() {
        if !disk.join("upper").exists() {
            continue;
        }
        match File::create(dir.join(NOTE)) {
            // The box has been removed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            made => drop(made?),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn a_disk_is_noted_when_it_is_written_out_and_one_that_is_gone_is_no_failure() {
        let data = tempfile::tempdir().unwrap();
        let (boxes, disks) = (data.path().join("boxes"), data.path().join("disks"));
        fs::create_dir_all(&boxes).unwrap();
        fs::create_dir_all(&disks).unwrap();
        let settler = Settler::new();
        let [made, gone, removed] = [1, 2, 3].map(|seed| {
            let id = BoxId::from_entropy(seed);
            let (dir, disk) = (boxes.join(id.as_str()), disks.join(id.as_str()));
            fs::create_dir(&dir).unwrap();
            fs::create_dir_all(disk.join("upper")).unwrap();
            settler.add(&id, dir.clone(), disk.clone());
            (dir, disk)
        });
        // By a loss of power.
        fs::remove_dir_all(&gone.1).unwrap();
        fs::remove_dir_all(&removed.0).unwrap();
        settler.now().await.unwrap();
        assert_eq!([&made, &gone, &removed].map(|(dir, _)| is_settled(dir)), [true, false, false]);
    }
}
