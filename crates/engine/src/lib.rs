//! Engines: places where boxes live.
//!
//! An [`Engine`] makes boxes and hands out a byte stream to `boxyard-init` inside them. Everything done *in* a box goes over such a
//! stream, through [`agent`], and is written once, whatever made the box. An engine knows nothing of HTTP, SQL, users or keys, and it
//! takes and returns plain data only, so that it can later be served to another host over a network.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::fmt;

use archive::{ArchiveBytes, ArchiveLimits, ExportOrder, Exported, Imported};
use async_trait::async_trait;
use boxyard_proto::{BoxId, SnapshotId};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};

pub mod agent;
pub mod archive;
pub mod fail;
pub mod fake;
pub mod images;
pub mod local;

/// A byte stream to `boxyard-init` in a box.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A place where boxes live.
///
/// Every call is idempotent: calling it again after a crash or a failure finishes what was begun. Calls for one box are never made at
/// the same time (its keeper makes them), except [`connect`](Self::connect), [`ended`](Self::ended) and [`usage`](Self::usage); calls for
/// different boxes are.
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

    /// Waits until the box has no processes, whoever ended them; returns at once for one that has none, or is not there. Asks nothing of the
    /// box. Dropping the future changes nothing.
    ///
    /// # Errors
    /// It cannot be watched.
    async fn ended(&self, id: &BoxId) -> Result<(), EngineError>;

    /// Freezes the box: its processes stand still and keep all that they have, memory and connections included. Nobody should connect to
    /// it meanwhile: a connection is taken, and answered when the box goes on. A stopped box stays stopped.
    async fn pause(&self, id: &BoxId) -> Result<(), EngineError>;

    /// Ends all processes of the box and keeps its disk, whatever state it is in.
    async fn stop(&self, id: &BoxId) -> Result<(), EngineError>;

    /// Lets a frozen box go on, or starts a stopped one with its disk. The box accepts connections when this returns.
    async fn resume(&self, id: &BoxId) -> Result<Resumed, EngineError>;

    /// Saves the box's disk, from which other boxes can be made. A running box stands still meanwhile: for milliseconds where
    /// [`Abilities::disk_limit`] says that disks are limited, else for as long as a copy takes. When this is called again for a snapshot
    /// that is complete, nothing is done.
    async fn save(&self, id: &BoxId, into: &SnapshotId) -> Result<Saved, EngineError>;

    /// The same for a snapshot from which one box will be made and which is dropped then: both take less time.
    async fn save_once(&self, id: &BoxId, into: &SnapshotId) -> Result<Saved, EngineError>;

    /// Removes a snapshot. One that is not there is removed already; boxes made from it are not touched.
    async fn drop_snapshot(&self, id: &SnapshotId) -> Result<(), EngineError>;

    /// Lists every snapshot that is complete, whatever the database says, and removes what is left of those that were broken off.
    async fn snapshots(&self) -> Result<Vec<SnapshotId>, EngineError>;

    /// Packs a snapshot, which must not be dropped meanwhile, as an archive that [`import`](Self::import) and programs for OCI images read.
    /// The answer comes when all of it is packed, which may take minutes; then nothing keeps it from coming.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when it holds something that no archive can.
    async fn export(&self, id: &SnapshotId, order: &ExportOrder) -> Result<Exported, EngineError>;

    /// Makes a snapshot from an archive, wholly or not at all. Another try needs another id, or [`drop_snapshot`](Self::drop_snapshot)
    /// first.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when it is no archive of a snapshot, or not all of it.
    async fn import(
        &self,
        into: &SnapshotId,
        archive: ArchiveBytes,
        limits: &ArchiveLimits,
    ) -> Result<Imported, EngineError>;

    /// Ends the box and removes everything that exists because of it. A box that is not there is removed already.
    async fn remove(&self, id: &BoxId) -> Result<(), EngineError>;

    /// Lists every box of which anything exists here, whatever the database says.
    async fn observe(&self) -> Result<Vec<Observed>, EngineError>;

    /// How much room there is for the disks of new boxes at this moment.
    async fn disk_room(&self) -> Result<DiskRoom, EngineError>;

    /// What the box uses at this moment. A stopped box uses its disk only.
    async fn usage(&self, id: &BoxId) -> Result<Usage, EngineError>;
}

/// What an engine can do beyond making and removing boxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Abilities {
    /// [`Engine::pause`], [`Engine::stop`] and [`Engine::resume`] work.
    pub pause: bool,
    /// [`Engine::save`] works, and [`BoxSpec::from`].
    pub save: bool,
    /// [`Limits::disk_bytes`] holds for new boxes.
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
    /// The snapshot that its disk starts as a copy of. Then the image is what the snapshot was made over, whatever `image` says.
    #[serde(default)]
    pub from: Option<SnapshotId>,
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
    /// Bytes that the box may hold on its disk beyond its image; holds where [`Abilities::disk_limit`] says so. A box from a snapshot that
    /// is larger may write 64 MiB all the same.
    pub disk_bytes: u64,
}

/// A box that an engine knows of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// Its id.
    pub id: BoxId,
    /// What there is of it.
    pub state: ObservedState,
    /// What it was made to use at most, whatever its size stands for by now; `None` when that is not known any more.
    #[serde(default)]
    pub limits: Option<Limits>,
}

/// What there is of a box.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ObservedState {
    /// It accepts connections.
    Running,
    /// Its processes are there and stand still.
    Frozen,
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
    /// Bytes on its disk beyond its image. Half a minute behind, and as good as what the box cannot change while it is counted.
    #[serde(default)]
    pub disk_bytes: u64,
    /// Bytes that the box has received over its network since it was started.
    #[serde(default)]
    pub network_received: u64,
    /// Bytes that the box has sent over its network since it was started.
    #[serde(default)]
    pub network_sent: u64,
    /// Processes that the kernel has ended since the box was started because the box was out of memory.
    #[serde(default)]
    pub oom_kills: u64,
}

/// How much room there is where the disks of new boxes lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskRoom {
    /// Bytes that disks can take in all: those of boxes that are there, and whatever else lies there, included.
    pub bytes: u64,
    /// Bytes that can still be written.
    pub left: u64,
}

/// What [`Engine::resume`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resumed {
    /// Its processes go on, or have never stood still.
    Thawed,
    /// It was started anew with its disk; what ran before is gone.
    Started,
}

/// A saved disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// Bytes that the saved disk holds beyond its image, whether it shares them with others or not.
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
    /// What was handed in is wrong, or cannot be done with. The error with its sources is for whoever did so.
    Invalid,
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

    /// The same as [`broken`](Self::broken), but of the kind that an error of the file system's asks for: a full one may have room later.
    pub fn of_disk(doing: impl Into<String>, source: std::io::Error) -> Self {
        use std::io::ErrorKind as Io;
        let full = [Io::StorageFull, Io::QuotaExceeded, Io::OutOfMemory, Io::FileTooLarge].contains(&source.kind());
        let kind = if full { ErrorKind::Exhausted } else { ErrorKind::Broken };
        Self { kind, ..Self::broken(doing, source) }
    }

    /// The same error, about this box.
    #[must_use]
    pub fn about(mut self, id: &BoxId) -> Self {
        self.id = Some(id.clone());
        self
    }
}
