//! A few threads that read the database, so that no read waits for a write and no async task for the disk.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc::error::SendTimeoutError;
use tokio::sync::{mpsc, oneshot, watch};

use super::sqlite::Db;
use super::{StoreError, begin_thread};

/// Reads that wait at most.
const QUEUE_MAX: usize = 1024;
/// How long a read waits for a place in the queue.
const QUEUE_DEADLINE: Duration = Duration::from_secs(10);

type Read = Box<dyn FnOnce(&Db) + Send>;

/// The way to the threads. When the last clone is dropped, the threads end.
#[derive(Clone)]
pub(super) struct Readers {
    queue: mpsc::Sender<Option<Read>>,
    ended: watch::Receiver<()>,
}

impl Readers {
    pub(super) fn start(connections: Vec<Db>) -> Result<Self, StoreError> {
        let (queue, reads) = mpsc::channel(QUEUE_MAX);
        let (end, ended) = watch::channel(());
        let reads = Arc::new(Mutex::new(reads));
        for db in connections {
            let (reads, end) = (Arc::clone(&reads), end.clone());
            begin_thread("store-read", move || {
                work_off(&db, &reads);
                drop(db);
                drop(end);
            })?;
        }
        Ok(Self { queue, ended })
    }

    /// Runs `read` on one of the connections. It sees everything that was acknowledged before this call.
    pub(super) async fn read<T, F>(&self, doing: &'static str, read: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Db) -> rusqlite::Result<T> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel::<rusqlite::Result<T>>();
        let read: Read = Box::new(move |db| {
            if !answer.is_closed() {
                // Whoever asked may have left meanwhile.
                let _ = answer.send(read(db));
            }
        });
        self.queue.send_timeout(Some(read), QUEUE_DEADLINE).await.map_err(|error| match error {
            SendTimeoutError::Timeout(_) => StoreError::Busy,
            SendTimeoutError::Closed(_) => StoreError::Closed,
        })?;
        answered.await.map_err(|_| StoreError::Closed)?.map_err(|error| StoreError::broken(doing, error))
    }

    /// Refuses further reads and returns when the threads have ended.
    pub(super) async fn close(&self) {
        // An error means that they are closed already.
        let _ = self.queue.send(None).await;
        let mut ended = self.ended.clone();
        while ended.changed().await.is_ok() {}
    }
}

fn work_off(db: &Db, reads: &Mutex<mpsc::Receiver<Option<Read>>>) {
    loop {
        // One thread waits for the queue, the others for that one. The lock is not held while reading.
        let next = {
            let mut reads = reads.lock().unwrap_or_else(PoisonError::into_inner);
            let next = reads.blocking_recv();
            if let Some(None) = next {
                reads.close();
            }
            next
        };
        match next {
            Some(Some(read)) => read(db),
            Some(None) => {}
            None => return,
        }
    }
}
