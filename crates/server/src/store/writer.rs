//! The one thread that changes the database.
//!
//! Writes wait in a bounded queue. The thread takes all that are there, up to [`BATCH_MAX`], and commits them together, so that the
//! price of a commit is shared by whoever asks at the same time. Each write has a savepoint of its own: one that fails leaves no trace
//! and does not disturb the others. An answer is sent after the commit and never before it.

use std::sync::Arc;
use std::time::Duration;

use boxyard_engine::fail;
use tokio::sync::mpsc::error::{SendTimeoutError, TrySendError};
use tokio::sync::{mpsc, oneshot, watch};

use super::flush::Flusher;
use super::sqlite::Db;
use super::{StoreError, begin_thread};

/// Writes that wait at most.
pub(super) const QUEUE_MAX: usize = 4096;
/// Writes of one commit at most.
const BATCH_MAX: usize = 256;
/// How long a write waits for a place in the queue.
const QUEUE_DEADLINE: Duration = Duration::from_secs(10);

/// Why a write was not done.
#[derive(Debug)]
pub(super) enum Failure {
    /// The database said no.
    Sql(rusqlite::Error),
    /// The write itself found a reason.
    Refused(StoreError),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Refused(error)
    }
}

impl Failure {
    fn into_error(self, doing: &'static str) -> StoreError {
        match self {
            Self::Sql(error) => StoreError::broken(doing, error),
            Self::Refused(error) => error,
        }
    }
}

/// The way to the thread. When the last clone is dropped, the thread finishes what is queued and ends.
#[derive(Clone)]
pub(super) struct Writer {
    queue: mpsc::Sender<Order>,
    ended: watch::Receiver<()>,
}

enum Order {
    Write(Box<dyn Write>),
    Close,
}

impl Writer {
    /// Starts the thread; it tells `flusher` of what it has committed.
    pub(super) fn start(db: Db, flusher: Option<Flusher>) -> Result<Self, StoreError> {
        let (queue, orders) = mpsc::channel(QUEUE_MAX);
        let (end, ended) = watch::channel(());
        begin_thread("store-write", move || {
            work_off(&db, flusher.as_ref(), orders);
            db.checkpoint();
            drop(db);
            drop(end);
        })?;
        Ok(Self { queue, ended })
    }

    /// Does `write` in a transaction and returns when it is committed. The write is done even if nobody waits for it any more.
    pub(super) async fn write<T, F>(&self, doing: &'static str, write: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Db) -> Result<T, Failure> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let write = Box::new(One { doing, write: Some(write), result: None, answer: Some(answer), done: None });
        self.queue.send_timeout(Order::Write(write), QUEUE_DEADLINE).await.map_err(|error| match error {
            SendTimeoutError::Timeout(_) => StoreError::Busy,
            SendTimeoutError::Closed(_) => StoreError::Closed,
        })?;
        answered.await.map_err(|_| StoreError::Closed)?
    }

    /// Queues `write` without waiting for anything. `done` is called when it is committed.
    pub(super) fn write_later<F>(
        &self,
        doing: &'static str,
        write: F,
        done: impl FnOnce() + Send + 'static,
    ) -> Result<(), StoreError>
    where
        F: FnOnce(&Db) -> Result<(), Failure> + Send + 'static,
    {
        let done = Some(Box::new(done) as Box<dyn FnOnce() + Send>);
        let write = Box::new(One { doing, write: Some(write), result: None, answer: None, done });
        self.queue.try_send(Order::Write(write)).map_err(|error| match error {
            TrySendError::Full(_) => StoreError::Busy,
            TrySendError::Closed(_) => StoreError::Closed,
        })
    }

    /// Writes that wait for the thread.
    pub(super) fn depth(&self) -> usize {
        self.queue.max_capacity() - self.queue.capacity()
    }

    /// Refuses further writes and returns when all queued ones are committed and the thread has ended.
    pub(super) async fn close(&self) {
        // An error means that it is closed already.
        let _ = self.queue.send(Order::Close).await;
        let mut ended = self.ended.clone();
        while ended.changed().await.is_ok() {}
    }
}

fn work_off(db: &Db, flusher: Option<&Flusher>, mut orders: mpsc::Receiver<Order>) {
    let mut taken = Vec::with_capacity(BATCH_MAX);
    let mut batch = Vec::with_capacity(BATCH_MAX);
    while orders.blocking_recv_many(&mut taken, BATCH_MAX) > 0 {
        for order in taken.drain(..) {
            match order {
                Order::Write(write) => batch.push(write),
                Order::Close => orders.close(),
            }
        }
        commit(db, &mut batch);
        if let Some(flusher) = flusher {
            flusher.committed();
        }
    }
}

fn commit(db: &Db, batch: &mut Vec<Box<dyn Write>>) {
    let run = |batch: &mut Vec<Box<dyn Write>>| {
        if batch.is_empty() {
            return Ok(());
        }
        // Immediate: a transaction that reads first and asks for the write lock later fails at once when another process writes.
        db.control("begin immediate")?;
        for write in batch.iter_mut() {
            db.control("savepoint one")?;
            if !write.run(db) {
                db.control("rollback to one")?;
            }
            db.control("release one")?;
        }
        db.control("commit")?;
        for write in batch.iter() {
            fail::point(write.doing());
        }
        Ok(())
    };
    let outcome = run(batch).map_err(Arc::new);
    if let Err(error) = &outcome {
        tracing::error!(%error, writes = batch.len(), "a commit failed");
        db.roll_back();
    }
    for write in batch.drain(..) {
        write.answer(&outcome);
    }
}

trait Write: Send {
    /// Does it, and says whether it went well.
    fn run(&mut self, db: &Db) -> bool;
    /// What it is called.
    fn doing(&self) -> &'static str;
    /// Tells the asker, given how the commit went.
    fn answer(self: Box<Self>, commit: &Result<(), Arc<rusqlite::Error>>);
}

struct One<T, F> {
    doing: &'static str,
    write: Option<F>,
    result: Option<Result<T, Failure>>,
    answer: Option<oneshot::Sender<Result<T, StoreError>>>,
    done: Option<Box<dyn FnOnce() + Send>>,
}

impl<T, F> Write for One<T, F>
where
    T: Send,
    F: FnOnce(&Db) -> Result<T, Failure> + Send,
{
    fn run(&mut self, db: &Db) -> bool {
        self.result = self.write.take().map(|write| write(db));
        matches!(self.result, Some(Ok(_)))
    }

    fn doing(&self) -> &'static str {
        self.doing
    }

    fn answer(self: Box<Self>, commit: &Result<(), Arc<rusqlite::Error>>) {
        let doing = self.doing;
        let result = match (commit, self.result) {
            (Err(error), _) => Err(StoreError::broken(doing, Arc::clone(error))),
            (Ok(()), Some(result)) => result.map_err(|failure| failure.into_error(doing)),
            (Ok(()), None) => Err(StoreError::Closed),
        };
        match (self.answer, result) {
            // Whoever asked may have left; the write is done all the same.
            (Some(answer), result) => drop(answer.send(result)),
            (None, Err(error)) => tracing::warn!(error = &error as &dyn std::error::Error, "a queued write failed"),
            (None, Ok(_)) => {
                if let Some(done) = self.done {
                    done();
                }
            }
        }
    }
}
