//! A bound on what a loss of power takes where commits do not wait for the disk.
//!
//! Such a commit is in the write-ahead log, and the log in the kernel's memory, from where it goes to the disk when the kernel likes:
//! after half a minute. A thread that has nothing else to do asks for it a second after a commit at the latest.

use std::fs::File;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use super::{StoreError, begin_thread};

/// The longest time between a commit and its being on the disk, that of the disk itself aside.
const WITHIN: Duration = Duration::from_secs(1);

/// The way to the thread, which ends when this is dropped.
pub(super) struct Flusher(SyncSender<()>);

impl Flusher {
    /// Starts the thread for the log of the database `path`.
    pub(super) fn start(path: PathBuf) -> Result<Self, StoreError> {
        let mut log = path.into_os_string();
        log.push("-wal");
        let (commits, heard) = sync_channel(1);
        begin_thread("store-flush", move || flush(&heard, &PathBuf::from(log)))?;
        Ok(Self(commits))
    }

    /// Notes that there has been a commit.
    pub(super) fn committed(&self) {
        // When it is full, one that has not been heard of says the same.
        let _ = self.0.try_send(());
    }
}

fn flush(commits: &Receiver<()>, log: &PathBuf) {
    while commits.recv().is_ok() {
        // The next ones come along.
        let end = Instant::now() + WITHIN;
        let closed = loop {
            match commits.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(()) => {}
                Err(RecvTimeoutError::Timeout) => break false,
                Err(RecvTimeoutError::Disconnected) => break true,
            }
        };
        // The log is there for as long as the database is open; its end is in the database, which is flushed then.
        if let Err(error) = File::open(log).and_then(|log| log.sync_data())
            && !closed
        {
            tracing::warn!(%error, "what was committed is not on the disk yet");
        }
    }
}
