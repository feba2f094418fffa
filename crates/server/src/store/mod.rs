//! What outlives the server: accounts, keys, SSH keys and tokens, boxes, snapshots, runs and logs, in one SQLite database.
//!
//! ```text
//!   callers ──▶ bounded queue ──▶ one writer thread ──▶ several writes, one commit ──▶ answers
//!          └──▶ bounded queue ──▶ four reader threads, each with its own connection
//! ```
//! Two promises: what was acknowledged is there after `kill -9`, and a read sees everything that was acknowledged before it began.
//! A write whose caller goes away is done all the same. Texts are plain SQL that PostgreSQL would run unchanged (see `sql.rs`); only
//! `sqlite.rs` knows which database it is. All times are milliseconds since 1970.

use std::error::Error as StdError;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

mod account_env;
mod accounts;
mod boxes;
mod claims;
mod flush;
mod git;
mod keys;
mod log_followers;
mod logs;
mod outputs;
mod pruning;
mod readers;
mod runs;
mod snapshots;
mod sql;
mod sqlite;
mod ssh_keys;
mod ssh_tokens;
mod writer;

pub use accounts::Account;
pub use boxes::{BoxRow, LIST_MAX};
pub use claims::{Claim, ClaimRow};
pub use keys::{KeyRow, NewKey};
pub use log_followers::{LogFollower, NumberedLog};
pub use logs::{LogRow, MESSAGE_MAX, Pruned};
pub use outputs::{KeptOutput, OutputRow};
pub use pruning::PrunedBoxes;
pub use runs::{RunEnd, RunRow};
pub use snapshots::{Inherits, Purpose, SnapshotRow, SnapshotState, Which};
pub use ssh_keys::SshKeyRow;
pub use ssh_tokens::{NewSshToken, SshToken, SshTokenRow};

use flush::Flusher;
use log_followers::LogFollowers;
use readers::Readers;
use sqlite::Db;
use writer::{Failure, Writer};

/// Connections that only read.
const READERS: usize = 4;

/// How the database is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StoreOptions {
    /// When an acknowledged write is safe.
    pub synchronous: Synchronous,
}

/// When an acknowledged write is safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Synchronous {
    /// From the end of the server, however it ends. A power cut may take the last second, see [`flush`].
    #[default]
    Normal,
    /// From a power cut too, at the price of one disk flush for each commit.
    Full,
}

/// The database. Clones are cheap and share it; it is closed by [`close`](Self::close), or when the last clone is dropped.
#[derive(Clone)]
pub struct Store {
    writer: Writer,
    readers: Readers,
    shared: Arc<Shared>,
}

struct Shared {
    /// The last number given by [`Store::next_seq`].
    seq: AtomicI64,
    logs_dropped: AtomicU64,
    log_followers: Arc<LogFollowers>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("queued", &self.writer.depth()).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the database file `path`, makes it where it is missing, and brings its schema up to date. Its folder must exist.
    ///
    /// # Errors
    /// [`StoreError::Newer`] when a newer version of the program has used the file; [`StoreError::Broken`] when it cannot be used.
    pub async fn open(path: &Path, options: StoreOptions) -> Result<Self, StoreError> {
        let path = path.to_owned();
        let open = move || {
            let db = Db::open(&path, &options, now_ms())?;
            let readers = (0..READERS).map(|_| Db::open_reader(&path)).collect::<Result<_, _>>()?;
            let shared = Arc::new(Shared {
                seq: AtomicI64::new(0),
                logs_dropped: AtomicU64::new(0),
                log_followers: Arc::default(),
            });
            let flusher = match options.synchronous {
                Synchronous::Normal => Some(Flusher::start(path)?),
                Synchronous::Full => None,
            };
            Ok(Self { writer: Writer::start(db, flusher)?, readers: Readers::start(readers)?, shared })
        };
        tokio::task::spawn_blocking(open).await.map_err(|error| StoreError::broken("opening the database", error))?
    }

    /// Commits what is queued, empties the write-ahead log into the database and closes it. All later calls, of other clones too,
    /// answer [`StoreError::Closed`].
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    /// Writes that wait to be done.
    pub fn queue_depth(&self) -> usize {
        self.writer.depth()
    }

    /// Log entries that found the queue full and were dropped, since the store was opened.
    pub fn logs_dropped(&self) -> u64 {
        self.shared.logs_dropped.load(Ordering::Relaxed)
    }

    async fn write<T, F>(&self, doing: &'static str, write: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Db) -> Result<T, Failure> + Send + 'static,
    {
        self.writer.write(doing, write).await
    }

    async fn read<T, F>(&self, doing: &'static str, read: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Db) -> rusqlite::Result<T> + Send + 'static,
    {
        self.readers.read(doing, read).await
    }

    /// A number that grows with every call, across restarts too: it orders what happens in the same millisecond.
    fn next_seq(&self) -> i64 {
        let floor = now_ms().saturating_mul(1_000_000);
        let next = |last: i64| Some(last.saturating_add(1).max(floor));
        match self.shared.seq.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next) {
            Ok(last) | Err(last) => last.saturating_add(1).max(floor),
        }
    }
}

/// Why the store did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another account, or a live box of the same account, has this name.
    #[error("the name is taken")]
    NameTaken,
    /// There is a row with this id, or a key with this hash, already.
    #[error("the id is taken")]
    IdTaken,
    /// The row that was to be changed does not exist.
    #[error("there is no such row")]
    NotFound,
    /// There are as many rows of this kind as there may be.
    #[error("there are as many as there may be")]
    Full,
    /// The store has been closed.
    #[error("the store is closed")]
    Closed,
    /// The queue was full for too long; later it may have room.
    #[error("the store is too busy")]
    Busy,
    /// A newer version of the program has used this database. Nothing was changed.
    #[error("the database has schema version {found}, this program knows versions up to {known}: use a newer boxyard")]
    Newer {
        /// Version of the database's schema.
        found: i64,
        /// Newest version that this program knows.
        known: i64,
    },
    /// The database or its disk failed.
    #[error("{doing} failed")]
    Broken {
        /// What was being done, for example "listing boxes".
        doing: String,
        /// What SQLite or the system said.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
}

impl StoreError {
    fn broken(doing: impl Into<String>, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Broken { doing: doing.into(), source: source.into() }
    }
}

/// A write that must have changed a row.
fn changed(rows: usize) -> Result<(), Failure> {
    if rows == 0 { Err(StoreError::NotFound.into()) } else { Ok(()) }
}

/// Starts a thread that ends by itself when its queue is closed.
fn begin_thread(name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), StoreError> {
    let started = std::thread::Builder::new().name(name.into()).spawn(run);
    started.map(drop).map_err(|error| StoreError::broken("starting a thread", error))
}

/// Milliseconds since 1970.
fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
