//! Removing what is kept of outputs: when there is too much of it, when its box is deleted, and what killed servers have left.

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use boxyard_proto::{BoxId, RunId};
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::remove_file;
use crate::boxes::{Yard, chain};
use crate::store::StoreError;

/// Outputs that go at once to make room.
const AT_ONCE: u32 = 64;
/// The pause before it is tried again where nothing could be removed.
const PAUSE: Duration = Duration::from_secs(1);

impl Yard {
    /// Counts what earlier servers have kept. To be done before anything is written.
    pub(in crate::boxes) async fn count_outputs(&self) -> Result<(), StoreError> {
        let held = self.store.outputs_held().await?;
        self.spools.room.count(u64::try_from(held).unwrap_or(0));
        Ok(())
    }

    /// Keeps outputs within their bounds, until the server leaves.
    pub(in crate::boxes) async fn bound_outputs(self: Arc<Self>) {
        let bounding = async {
            if let Err(error) = self.sweep_outputs().await {
                tracing::warn!(error = chain(&*error), "outputs of earlier servers could not be looked through");
            }
            loop {
                while self.spools.room.is_crowded() {
                    match self.drop_oldest_outputs().await {
                        Ok(true) => {}
                        // All that is kept is of runs that go on; they drop their own oldest meanwhile.
                        Ok(false) => sleep(PAUSE).await,
                        Err(error) => {
                            tracing::warn!(error = chain(&error), "old outputs could not be removed");
                            sleep(PAUSE).await;
                        }
                    }
                }
                self.spools.room.crowded.notified().await;
            }
        };
        self.leaving.run_until_cancelled(bounding).await;
    }

    async fn drop_oldest_outputs(&self) -> Result<bool, StoreError> {
        let outputs = self.store.oldest_outputs(AT_ONCE).await?;
        if outputs.is_empty() {
            return Ok(false);
        }
        // First the records: a file without one is found at the next start.
        self.store.forget_outputs(outputs.iter().map(|output| output.run_id.clone()).collect()).await?;
        self.spools.remove(outputs).await;
        Ok(true)
    }

    /// Removes all that is kept of the outputs of a box that is deleted.
    pub(in crate::boxes) async fn forget_outputs_of(self: Arc<Self>, id: BoxId) {
        if let Err(error) = self.try_forget_outputs_of(&id).await {
            tracing::warn!(box_id = %id, error = chain(&error), "outputs of a deleted box are removed at the next start");
        }
    }

    async fn try_forget_outputs_of(&self, id: &BoxId) -> Result<(), StoreError> {
        loop {
            let outputs = self.store.forget_outputs_of(id.clone()).await?;
            if outputs.is_empty() {
                break;
            }
            self.spools.remove(outputs).await;
        }
        let folder = self.spools.room.folder.join(id.as_str());
        let removed = spawn_blocking(move || match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(folder = %folder.display(), %error, "outputs of a deleted box could not be removed");
            }
            Ok(()) | Err(_) => {}
        });
        // A panic there leaves files that the next start removes.
        let _ = removed.await;
        Ok(())
    }

    /// Removes files of which no record knows.
    async fn sweep_outputs(&self) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        for id in self.store.deleted_boxes_with_outputs().await? {
            self.try_forget_outputs_of(&id).await?;
        }
        let folder = self.spools.room.folder.clone();
        for (id, folder) in spawn_blocking(move || entries::<BoxId>(folder)).await?? {
            // The files before the records: a run has its record first.
            let within = folder.clone();
            let files = spawn_blocking(move || entries::<RunId>(within)).await??;
            let known: HashSet<RunId> = self.store.runs_with_files(&id).await?.into_iter().collect();
            spawn_blocking(move || {
                for (run, file) in files {
                    if !known.contains(&run) {
                        remove_file(&file);
                    }
                }
                // Only when nothing is left in it.
                let _ = std::fs::remove_dir(folder);
            })
            .await?;
        }
        Ok(())
    }
}

/// What is in a folder under names that are ids.
fn entries<T: std::str::FromStr>(folder: PathBuf) -> io::Result<Vec<(T, PathBuf)>> {
    let entries = match std::fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let named = |entry: io::Result<std::fs::DirEntry>| {
        let entry = entry?;
        Ok(entry.file_name().to_str().and_then(|name| name.parse().ok()).map(|id| (id, entry.path())))
    };
    entries.map(named).filter_map(Result::transpose).collect()
}
