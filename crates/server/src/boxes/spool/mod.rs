//! What runs write, kept so that nobody has to be there when they do.
//!
//! ```text
//!   run ──▶ Pen ──▶ Spool: a tail in memory ──▶ a ring in DATA/spool/BOX/RUN, once there is more than fits into the tail
//!                     │      boxyard-init holds what is in the tail and not in the file, so a killed server loses nothing
//!                     └────▶ Reader, from any byte, of a run that goes on or has ended; as many as there are
//! ```
//! A run keeps about [`Config::output_keep`](crate::config::Config) bytes, the newest; all runs together at most `output_total`, and when
//! that is used up what is kept of the runs that ended first goes. Most outputs are short: they never see a file, and are stored with
//! the run's end. Readers hold nothing up: one that is slower than the ring turns is told so and left.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use boxyard_proto::{BoxId, RunId};
use tokio::sync::{Notify, Semaphore};
use tokio::task::spawn_blocking;

use crate::config::Config;
use crate::metrics::OutputBytes;
use crate::store::{KeptOutput, OutputRow};

mod clear;
mod pen;
mod reader;
mod ring;
mod short;
#[cfg(test)]
mod tests;

pub(super) use pen::Pen;
pub(super) use reader::Spool;
pub use reader::{Cut, Reader, Streams};

use reader::Tail;
use ring::{Ring, Shape};

/// Files that are read through at once to find out what is in them.
const SCANS: usize = 8;
/// Bytes by which files may grow at once.
const STEP: u64 = 64 * 1024;

/// Where all outputs are kept.
#[derive(Debug)]
pub(super) struct Spools {
    room: Arc<Room>,
    scans: Semaphore,
}

/// What all outputs share.
#[derive(Debug)]
struct Room {
    folder: PathBuf,
    shape: Shape,
    /// Bytes at most.
    max: u64,
    /// Bytes in use.
    used: OutputBytes,
    /// It is getting full.
    crowded: Notify,
}

impl Room {
    /// Takes `bytes` if there are so many left.
    fn reserve(&self, bytes: u64) -> bool {
        let take = |used: u64| used.checked_add(bytes).filter(|used| *used <= self.max);
        let taken = self.used.inner().fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok();
        if self.is_crowded() {
            self.crowded.notify_one();
        }
        taken
    }

    /// Takes them whether or not.
    fn count(&self, bytes: u64) {
        self.used.inner().fetch_add(bytes, Ordering::Relaxed);
        if self.is_crowded() {
            self.crowded.notify_one();
        }
    }

    fn release(&self, bytes: u64) {
        let give = |used: u64| Some(used.saturating_sub(bytes));
        let _ = self.used.inner().fetch_update(Ordering::Relaxed, Ordering::Relaxed, give);
    }

    /// An eighth is to be left for what comes in a hurry.
    fn is_crowded(&self) -> bool {
        self.used.get() > self.max - self.max / 8
    }

    fn path(&self, box_id: &BoxId, run_id: &RunId) -> PathBuf {
        self.folder.join(box_id.as_str()).join(run_id.as_str())
    }
}

impl Spools {
    /// Counts in `used` what is kept.
    pub(super) fn new(config: &Config, used: OutputBytes) -> Self {
        let room = Room {
            folder: config.data_dir.join("spool"),
            shape: Shape::of(config.output_keep),
            max: config.output_total,
            used,
            crowded: Notify::new(),
        };
        Self { room: Arc::new(room), scans: Semaphore::new(SCANS) }
    }

    /// For the output of a run that begins. Nothing is done before it writes.
    pub(super) fn begin(&self, box_id: &BoxId, run_id: &RunId) -> Pen {
        Pen::new(Spool::new(Arc::clone(&self.room), self.room.path(box_id, run_id)))
    }

    /// For the output of a run that an earlier server began, as far as that one has got.
    pub(super) async fn resume(&self, box_id: &BoxId, run_id: &RunId) -> Pen {
        let (room, path) = (Arc::clone(&self.room), self.room.path(box_id, run_id));
        match self.open(&path, true).await {
            Ok(spool) => Pen::new(spool),
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(%run_id, %error, "what an earlier server has kept of a run's output cannot be read");
                }
                Pen::new(Spool::new(room, path))
            }
        }
    }

    /// Whether an earlier server has kept something of a run in a file.
    pub(super) fn has_file(&self, box_id: &BoxId, run_id: &RunId) -> bool {
        self.room.path(box_id, run_id).exists()
    }

    /// The output of a run that has ended, as its record says. `None` when it says nothing.
    pub(super) async fn find(&self, box_id: &BoxId, run_id: &RunId, row: &OutputRow) -> Option<Arc<Spool>> {
        let end = row.end.and_then(|end| u64::try_from(end).ok())?;
        let short = row.short.as_deref().and_then(short::decode);
        if let Some(tail) = short {
            return Some(Spool::short(&self.room, tail));
        }
        let gone = || Spool::short(&self.room, Tail { start: end, ..Tail::default() });
        if row.held == 0 {
            return Some(gone());
        }
        match self.open(&self.room.path(box_id, run_id), false).await {
            Ok(spool) => Some(spool),
            Err(error) => {
                tracing::warn!(%run_id, %error, "what is kept of a run's output cannot be read");
                Some(gone())
            }
        }
    }

    async fn open(&self, path: &Path, writing: bool) -> io::Result<Arc<Spool>> {
        let _turn = self.scans.acquire().await.map_err(io::Error::other)?;
        let (room, path) = (Arc::clone(&self.room), path.to_owned());
        let opened = spawn_blocking(move || {
            let file = std::fs::OpenOptions::new().read(true).write(writing).open(&path)?;
            let ring = Ring::scan(&file)?;
            let length = file.metadata()?.len();
            Ok::<_, io::Error>(Spool::of_file(room, path, file, ring, length, writing))
        });
        opened.await.map_err(io::Error::other)?
    }

    /// Removes files of outputs of which the records have been changed, or that are gone.
    pub(super) async fn remove(&self, outputs: Vec<KeptOutput>) {
        let room = Arc::clone(&self.room);
        let removed = spawn_blocking(move || {
            for KeptOutput { run_id, box_id, held } in outputs {
                remove_file(&room.path(&box_id, &run_id));
                room.release(u64::try_from(held).unwrap_or(0));
            }
        });
        if let Err(error) = removed.await {
            tracing::error!(%error, "outputs could not be removed");
        }
    }
}

/// Removes a file that may not be there.
fn remove_file(path: &Path) {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "a kept output could not be removed");
        }
        Ok(()) | Err(_) => {}
    }
}
