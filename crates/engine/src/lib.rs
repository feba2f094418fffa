//! Engines: places where boxes live.
//!
//! An [`Engine`] makes boxes and hands out a byte stream to `boxyard-init` inside them. Everything done *in* a box goes over such a
//! stream, through [`agent`], and is written once, whatever made the box. An engine knows nothing of HTTP, SQL, users or keys, and it
//! takes and returns plain data only, so that it can later be served to another host over a network.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::fmt;

use async_trait::async_trait;
use boxyard_proto::{BoxId, SnapshotId};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};

pub mod agent;
pub mod fake;
pub mod images;
pub mod local;

/// A byte stream to `boxyard-init` in a box.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A place where boxes live.
///
/// Every call is idempotent: calling it again after a crash or a failure finishes what was begun. Calls for one box are never made at
/// the same time (its keeper makes them), except [`connect`](Self::connect) and [`usage`](Self::usage); calls for different boxes are.
/// Dropping a call's future may leave its work half done, never in a state that calling it again, or [`remove`](Self::remove), does not
/// mend.
#[async_trait]
pub trait Engine: Send + Sync + fmt::Debug {
    /// What the engine is called; stored with each box that it makes.
    fn name(&self) -> &'static str;

    /// What this engine can do beyond making and removing boxes.
    fn abilities(&self) -> Abilities;

    /// Whether boxes can be made from an image called `name`, built or not. Quick: asks nobody else.
    ///
    /// # Errors
    /// There is none; returns the names that there are.
    fn check_image(&self, name: &str) -> Result<(), Vec<String>>;

    /// Makes a box and starts it; builds its image first where that is missing, which may take minutes. The box accepts connections
    /// when this returns.
    async fn create(&self, spec: &BoxSpec) -> Result<(), EngineError>;

    /// Opens a fresh stream to `boxyard-init` in a running box.
    async fn connect(&self, id: &BoxId) -> Result<Box<dyn Duplex>, EngineError>;

    /// Stops the box's processes from running without ending them.
    async fn pause(&self, id: &BoxId) -> Result<(), EngineError>;

    /// Lets a paused box run again.
    async fn resume(&self, id: &BoxId) -> Result<(), EngineError>;

    /// Saves the box's disk, from which other boxes can be made.
    async fn save(&self, id: &BoxId, into: &SnapshotId) -> Result<Saved, EngineError>;

    /// Ends the box and removes everything that exists because of it. A box that is not there is removed already.
    async fn remove(&self, id: &BoxId) -> Result<(), EngineError>;

    /// Lists every box of which anything exists here, whatever the database says.
    async fn observe(&self) -> Result<Vec<Observed>, EngineError>;

    /// What the box uses at this moment.
    async fn usage(&self, id: &BoxId) -> Result<Usage, EngineError>;
}

/// What an engine can do beyond making and removing boxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Abilities {
    /// [`Engine::pause`] and [`Engine::resume`] work.
    pub pause: bool,
    /// [`Engine::save`] works.
    pub save: bool,
    /// [`Limits::disk_bytes`] holds.
    pub disk_limit: bool,
}

/// A box to make.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BoxSpec {
    /// Its id.
    pub id: BoxId,
    /// Name of the image recipe that it starts from: its runtime.
    pub image: String,
    /// What it may use.
    pub limits: Limits,
    /// Variables of every process in it, over those of the image.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
}

/// How much of a host a box may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Thousandths of a CPU.
    pub cpu_millis: u32,
    /// Bytes of memory; there is no swap besides.
    pub memory_bytes: u64,
    /// Processes and threads.
    pub pids: u32,
    /// Bytes that the box may write to its disk; holds where [`Abilities::disk_limit`] says so.
    pub disk_bytes: u64,
}

/// A box that an engine knows of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// Its id.
    pub id: BoxId,
    /// What there is of it.
    pub state: ObservedState,
}

/// What there is of a box.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ObservedState {
    /// It accepts connections.
    Running,
    /// Its disk is there and its processes are not.
    Stopped,
    /// Leftovers of an unfinished create or remove.
    Partial,
}

/// What a box uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// CPU time since the box was started, in nanoseconds.
    pub cpu_ns: u64,
    /// Bytes of memory in use, caches included.
    pub memory_bytes: u64,
    /// Processes and threads.
    pub pids: u64,
}

/// A saved disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// Bytes that the snapshot takes by itself.
    pub size_bytes: u64,
}

/// Why an engine could not do as asked.
#[derive(Debug, thiserror::Error)]
#[error("{doing} failed")]
pub struct EngineError {
    /// What to make of it; decides retry and HTTP status.
    pub kind: ErrorKind,
    /// What was being done, as a fragment: "mounting the overlay".
    pub doing: String,
    /// The box concerned, if one was.
    pub id: Option<BoxId>,
    /// What went wrong underneath.
    #[source]
    pub source: Option<Box<dyn StdError + Send + Sync>>,
}

/// What to make of an [`EngineError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The box, image or snapshot is not there.
    NotFound,
    /// The host has no room for it now; later it may.
    Exhausted,
    /// This engine does not do that.
    Unsupported,
    /// Something is broken that the caller can do nothing about.
    Broken,
}

impl EngineError {
    /// An error without anything underneath.
    pub fn new(kind: ErrorKind, doing: impl Into<String>) -> Self {
        Self { kind, doing: doing.into(), id: None, source: None }
    }

    /// Something broke: `doing` failed because of `source`.
    pub fn broken(doing: impl Into<String>, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self { kind: ErrorKind::Broken, doing: doing.into(), id: None, source: Some(source.into()) }
    }

    /// The same error, about this box.
    #[must_use]
    pub fn about(mut self, id: &BoxId) -> Self {
        self.id = Some(id.clone());
        self
    }
}
