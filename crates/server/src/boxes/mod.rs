//! Boxes: the only owner of their state, and the only user of the engine.
//!
//! Doors (HTTP, later SSH and others) come in through [`Boxes`]: they find a [`Kept`] box, take a [`Lease`] of it and have an [`Order`]
//! carried out. [`lifecycle`] decides, [`keeper`] acts, [`registry`] finds, [`runs`] executes, [`snapshots`] keeps disks, [`recovery`] picks up what an earlier
//! server left. Nothing here knows of HTTP.

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use boxyard_engine::archive::ArchiveLimits;
use boxyard_engine::{BoxSpec, Engine, Limits};
use boxyard_proto::api::boxes::{BoxData, BoxStatus};
use boxyard_proto::api::logs::LogEntry;
use boxyard_proto::{AccountId, BoxId};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Config, Git, Sizes};
use crate::metrics::{self, Metrics};
use crate::store::{BoxRow, Store};

mod account_env;
mod admission;
mod archives;
mod clock;
mod contexts;
mod create;
mod error;
mod files;
mod gate;
mod git;
mod halt;
mod keeper;
mod kept;
mod labels;
mod life;
pub mod lifecycle;
mod log_follow;
mod memory;
mod order;
mod output;
mod outputs;
mod pipe;
mod pressure;
mod psi;
mod recovery;
mod registry;
mod restore;
mod runs;
mod sessions;
mod snapshots;
mod spool;
mod startup;
mod usage;
mod work;

pub use admission::Full;
pub use archives::Transfer;
pub use contexts::{CodeReply, ContextCode, ContextError, ContextOrder, Finished, Part, Shown, Value as ShownValue};
pub use create::NewBox;
pub use error::BoxError;
pub use files::{FileContent, FileError, FilePath, FileWork, InvalidPath};
pub use git::{
    Checkout, Cloning, Commit, Committed, GitError, GitWork, Identity, Looked, Proposal, Proposed, Push, Ran, Raw,
    Refusal, Token,
};
pub use halt::Halt;
pub use kept::{Kept, Lease};
pub use life::{Life, check_init_command};
pub use log_follow::{LogCursor, LogFrom, LogStream};
pub(crate) use order::folder_of;
pub use order::{InvalidOrder, Language, Order, WORKSPACE};
pub use output::Share;
pub(crate) use outputs::same_run;
pub use outputs::{Ended, Replayed, RunOutput};
pub use pipe::Reader as PipeReader;
pub use recovery::RecoveryError;
pub use restore::{Restore, RestoreError};
pub use runs::{Collected, Ending, Started};
pub use sessions::{Program, Session, SessionError, SessionListener, SessionOrder, SessionSocket};
pub use spool::{Cut, Reader, Streams};

use admission::Admission;
use archives::Transfers;
use contexts::ContextLimits;
use keeper::Before;
use labels::LabelChange;
use lifecycle::{Phase, Wanted};
use output::Budget;
use pressure::{HostMemory, Relief, ThisHost};
use registry::Registry;
use runs::LiveRuns;
use snapshots::Uses;
use spool::Spools;
use usage::{Figures, USAGES};

/// Runs of an earlier server that are being taken over at once.
const TAKE_OVERS: usize = 64;

/// Snapshots that are being removed at once.
const DROPS: usize = 8;

/// All boxes. Clones are cheap and share them.
#[derive(Clone)]
pub struct Boxes {
    yard: Arc<Yard>,
}

impl std::fmt::Debug for Boxes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Boxes").field("engine", &self.yard.engine.name()).finish_non_exhaustive()
    }
}

/// What keepers and runs share.
struct Yard {
    engine: Arc<dyn Engine>,
    store: Store,
    metrics: Arc<Metrics>,
    registry: Arc<Registry>,
    runs: LiveRuns,
    /// Gives each box its place.
    admission: Admission,
    /// Makes room where memory is short.
    relief: Arc<Relief>,
    sizes: Sizes,
    /// See [`Config::idle_pause_after`].
    pause_after: Option<Duration>,
    /// See [`Config::pause_keep_memory_for`].
    keep_memory_for: Duration,
    /// How git in boxes is helped.
    git: Git,
    /// What commands may hold of their output.
    outputs: Budget,
    /// What contexts are bound by.
    contexts: ContextLimits,
    /// What is kept of what commands have written.
    spools: Spools,
    /// Bounds how many runs of an earlier server are being taken over at once.
    take_overs: Semaphore,
    /// Bounds how many boxes' usage is being found out at once.
    usages: Semaphore,
    /// What all boxes together have used so far.
    figures: Figures,
    /// Snapshots of one account at most.
    snapshots_max: u32,
    /// Snapshots that boxes are being made from.
    uses: Uses,
    /// Bounds how many snapshots are being removed at once.
    drops: Semaphore,
    /// Bounds of archives of snapshots.
    archives: ArchiveLimits,
    /// Archives that go in or out.
    transfers: Transfers,
    /// Every task of this module.
    tasks: TaskTracker,
    /// Cancelled when the server leaves: tasks end, boxes and their jobs go on.
    leaving: CancellationToken,
}

impl Yard {
    fn count_phase(&self, phase: Phase, change: i64) {
        self.metrics.boxes.get_or_create(&metrics::Phase { phase: phase.to_string() }).inc_by(change);
    }
}

impl Boxes {
    /// No boxes yet; [`recover`](Self::recover) brings those of an earlier server.
    pub fn new(config: &Config, engine: Arc<dyn Engine>, store: Store, metrics: Arc<Metrics>) -> Self {
        Self::on_host(config, engine, store, metrics, Box::new(ThisHost))
    }

    fn on_host(
        config: &Config,
        engine: Arc<dyn Engine>,
        store: Store,
        metrics: Arc<Metrics>,
        host: Box<dyn HostMemory>,
    ) -> Self {
        let (registry, admission) = (Arc::<Registry>::default(), Admission::new(config, Arc::clone(&engine)));
        let relief = Relief::new(Arc::clone(&registry), admission.clone(), host, config.pause_memory_floor);
        let spools = Spools::new(config, metrics.outputs.clone());
        let yard = Yard {
            engine,
            store,
            metrics,
            registry,
            runs: LiveRuns::default(),
            admission,
            relief,
            sizes: config.sizes.clone(),
            pause_after: config.idle_pause_after,
            keep_memory_for: config.pause_keep_memory_for,
            git: config.git.clone(),
            outputs: Budget::new(
                usize::try_from(config.limits.output_cap).unwrap_or(usize::MAX),
                usize::try_from(config.limits.output_budget).unwrap_or(usize::MAX),
            ),
            contexts: ContextLimits::new(config),
            spools,
            take_overs: Semaphore::new(TAKE_OVERS),
            usages: Semaphore::new(USAGES),
            figures: Figures::default(),
            snapshots_max: config.snapshots_max,
            uses: Uses::default(),
            drops: Semaphore::new(DROPS),
            archives: archives::limits(config),
            transfers: Transfers::default(),
            tasks: TaskTracker::new(),
            leaving: CancellationToken::new(),
        };
        Self { yard: Arc::new(yard) }
    }

    /// The account's live box with this id or name.
    ///
    /// # Errors
    /// There is none.
    pub fn find(&self, account: &AccountId, id_or_name: &str) -> Result<Kept, BoxError> {
        let kept = self.yard.registry.find(account, id_or_name).ok_or(BoxError::NotFound)?;
        if kept.phase().is_gone() { Err(BoxError::NotFound) } else { Ok(kept) }
    }

    /// The account of the live box with this id. For limits and logs: what it says must not reach a client, who could tell by it which
    /// boxes of others there are.
    pub(crate) fn owner_of(&self, id: &BoxId) -> Option<AccountId> {
        self.yard.registry.owner_of(id)
    }

    /// The record of the account's box with this id or name, of a deleted one too when its id is given.
    ///
    /// # Errors
    /// There is none.
    pub async fn show(&self, account: &AccountId, id_or_name: &str) -> Result<BoxData, BoxError> {
        if let Some(kept) = self.yard.registry.find(account, id_or_name) {
            return Ok(kept.data());
        }
        let row = self.yard.store.find_box(account, id_or_name).await?.ok_or(BoxError::NotFound)?;
        Ok(kept::data_of_row(row))
    }

    /// The account's live boxes that carry this label, if one is given; the newest first.
    pub fn list(&self, account: &AccountId, label: Option<&str>) -> Vec<BoxData> {
        let boxes = self.yard.registry.of_account(account).into_iter().map(|kept| kept.data());
        boxes.filter(|data| data.status != BoxStatus::Deleted && carries(data, label)).collect()
    }

    /// The account's deleted boxes, as [`list`](Self::list) does the live ones.
    ///
    /// # Errors
    /// The store failed.
    pub async fn list_deleted(&self, account: &AccountId, label: Option<&str>) -> Result<Vec<BoxData>, BoxError> {
        let leaving = self.yard.registry.of_account(account).into_iter().map(|kept| kept.data());
        let mut boxes: Vec<BoxData> =
            leaving.filter(|data| data.status == BoxStatus::Deleted && carries(data, label)).collect();
        for row in self.yard.store.list_boxes(account, true, label).await? {
            if !boxes.iter().any(|data| data.id == row.id) {
                boxes.push(kept::data_of_row(row));
            }
        }
        boxes.sort_by_key(|data| std::cmp::Reverse(data.created_at));
        Ok(boxes)
    }

    /// Deletes a box. When this returns that is stored and no list shows it any more; the engine removes it meanwhile.
    ///
    /// # Errors
    /// There is no such box, or the store failed.
    pub async fn delete(&self, account: &AccountId, id_or_name: &str) -> Result<(), BoxError> {
        self.find(account, id_or_name)?.want(Wanted::Delete).await
    }

    /// Changes what runs whenever the box is started; an empty command stands for none. A box that sleeps is not woken: it is run when
    /// the box wakes. Otherwise it is run when the box is next started.
    ///
    /// # Errors
    /// The box is gone, or the store failed.
    pub async fn set_init_command(&self, kept: &Kept, command: String) -> Result<(), BoxError> {
        kept.set_init(command).await
    }

    /// Adds a label; returns all of them.
    ///
    /// # Errors
    /// The box has it already or has too many, or the store failed.
    pub async fn add_label(&self, kept: &Kept, label: String) -> Result<Vec<String>, BoxError> {
        kept.label(LabelChange::Add(label)).await
    }

    /// Removes a label; returns those that are left.
    ///
    /// # Errors
    /// The box does not have it, or the store failed.
    pub async fn remove_label(&self, kept: &Kept, label: String) -> Result<Vec<String>, BoxError> {
        kept.label(LabelChange::Remove(label)).await
    }

    /// A page of the box's log, oldest first.
    ///
    /// # Errors
    /// The store failed.
    pub async fn logs(&self, kept: &Kept, offset: u32, limit: u32) -> Result<Vec<LogEntry>, BoxError> {
        let rows = self.yard.store.logs(kept.id(), offset, limit).await?;
        Ok(rows.into_iter().map(log_follow::entry).collect())
    }

    /// Cancelling this makes runs leave their jobs to the next server and answer, and keepers end.
    pub fn leaving(&self) -> CancellationToken {
        self.yard.leaving.clone()
    }

    /// Ends all tasks and waits for them. Boxes, and the jobs in them, go on without the server.
    pub async fn leave(&self) {
        self.yard.leaving.cancel();
        self.yard.tasks.close();
        self.yard.tasks.wait().await;
    }
}

impl Yard {
    /// Makes a stored box known, which may use as much as `limits` say. Its keeper must be started next.
    fn adopt(&self, row: &BoxRow, phase: Phase, limits: Limits) -> (Kept, mpsc::Receiver<kept::Message>) {
        let spec = BoxSpec {
            id: row.id.clone(),
            image: row.runtime.clone(),
            limits,
            env: row.env.clone(),
            from: row.from_snapshot.clone(),
        };
        let (kept, mailbox) = Kept::of_row(row, spec, phase, self.registry.next_place(), Arc::downgrade(&self.relief));
        self.registry.insert(kept.clone());
        self.count_phase(phase, 1);
        (kept, mailbox)
    }
}

/// What a keeper must know of a stored box.
fn before(row: &BoxRow) -> Before {
    let now = now_ms();
    let span = |ms: i64| Duration::from_millis(u64::try_from(ms).unwrap_or(0));
    Before {
        lasted: span(now.saturating_sub(row.updated_at)),
        left: row.expires_at.map(|at| span(at.saturating_sub(now))),
        init_due: row.init_due,
    }
}

fn carries(data: &BoxData, label: Option<&str>) -> bool {
    label.is_none_or(|label| data.labels.iter().any(|carried| carried == label))
}

/// An error with all its causes, for the server's own log.
pub(crate) fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> i64 {
    millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}
