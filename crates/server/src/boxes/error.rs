//! Why boxes did not do as asked.

use boxyard_engine::{EngineError, ErrorKind};
use boxyard_proto::api::runs::RunStatus;
use boxyard_proto::api::snapshots::SnapshotStatus;
use boxyard_proto::names::{InvalidName, LABELS_MAX};

use super::Full;
use crate::store::StoreError;

/// Why boxes did not do as asked. Texts are fit for users.
#[derive(Debug, thiserror::Error)]
pub enum BoxError {
    /// There is no such box, it is another account's, or it is deleted: the same to whoever asks.
    #[error("Box not found")]
    NotFound,
    /// The box could not be made, or was lost.
    #[error("the box failed and can only be deleted: {text}")]
    Failed {
        /// What sort of failure.
        kind: ErrorKind,
        /// What went wrong.
        text: String,
    },
    /// The engine could not do what was asked of it; the box is as it was.
    #[error("the box could not be {doing}: {text}")]
    Undone {
        /// What was to be done to it, such as "paused".
        doing: &'static str,
        /// What sort of failure.
        kind: ErrorKind,
        /// What went wrong.
        text: String,
    },
    /// The box is not to be paused.
    #[error("a keep-alive box is never paused; delete it when it is not needed any more")]
    KeptAlive,
    /// Something else is being done with the box and was not done in time.
    #[error("the box is busy; try again")]
    Busy,
    /// There is no image for the runtime.
    #[error(transparent)]
    Runtime(InvalidName),
    /// There is no such size.
    #[error(transparent)]
    Size(InvalidName),
    /// The account has a live box with this name.
    #[error("a box named '{0}' exists already; choose another name or delete it first")]
    NameTaken(String),
    /// There is no place for another box.
    #[error(transparent)]
    Full(#[from] Full),
    /// A variable breaks a rule, perhaps only together with those that are there.
    #[error(transparent)]
    Env(#[from] InvalidName),
    /// The engine does not say what the box uses.
    #[error("what the box uses could not be found out")]
    Usage(#[source] EngineError),
    /// As much works in the box as this server allows.
    #[error("the limit of {0} commands at once in one box is reached; wait for some to end or cancel them")]
    TooManyRuns(u64),
    /// The box has the label already.
    #[error("Label already added")]
    LabelTaken,
    /// The box has as many labels as it may have.
    #[error("a box can have at most {LABELS_MAX} labels; remove one first")]
    LabelsFull,
    /// The box does not have the label.
    #[error("Label not found")]
    LabelMissing,
    /// The box has no such run.
    #[error("Run not found")]
    RunNotFound,
    /// What the run wrote was not recorded: it was begun by an older version.
    #[error("the output of this run was not recorded: it was begun by an older version of the server")]
    OutputUnknown,
    /// Something else was asked for under the same idempotency key.
    #[error("this Idempotency-Key was used for another request in this box; take a new key for a new request")]
    ClaimDiffers,
    /// A run that has ended cannot be cancelled.
    #[error("the run has ended already, it is {}", run_word(*.0))]
    RunEnded(RunStatus),
    /// The account has no such snapshot.
    #[error("Snapshot not found")]
    SnapshotNotFound,
    /// No box can be made from the snapshot, not yet or not ever.
    #[error("the snapshot is {}, not ready", .0.as_str())]
    SnapshotNotReady(SnapshotStatus),
    /// The account has as many snapshots as this server allows.
    #[error("the limit of {0} snapshots is reached; delete some first")]
    TooManySnapshots(u32),
    /// The box could not be saved.
    #[error("the snapshot could not be made: {text}")]
    NotSaved {
        /// What sort of failure.
        kind: ErrorKind,
        /// What went wrong.
        text: String,
    },
    /// As many archives go in and out as this server allows, of this account or in all.
    #[error("too many archives of snapshots are under way; try again when one of them is through")]
    TooManyTransfers,
    /// A snapshot cannot be packed.
    #[error("the snapshot could not be exported: {text}")]
    NotPacked {
        /// What sort of failure.
        kind: ErrorKind,
        /// What went wrong.
        text: String,
    },
    /// No snapshot can be made from an archive.
    #[error("the archive could not be imported: {text}")]
    NotUnpacked {
        /// What sort of failure.
        kind: ErrorKind,
        /// What went wrong.
        text: String,
    },
    /// The server is shutting down.
    #[error("the server is shutting down")]
    Leaving,
    /// The database failed.
    #[error("the server's database failed")]
    Store(#[from] StoreError),
}

fn run_word(status: RunStatus) -> &'static str {
    match status {
        RunStatus::Running => "running",
        RunStatus::Completed => "completed",
        RunStatus::Failed => "failed",
        RunStatus::Cancelled => "cancelled",
    }
}
