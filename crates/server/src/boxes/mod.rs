//! Boxes: the only owner of their state, and the only user of the engine.
//!
//! Doors (HTTP, later SSH and others) come in through [`Boxes`]: they find a [`Kept`] box, take a [`Lease`] of it and have an [`Order`]
//! carried out. [`lifecycle`] decides, [`keeper`] acts, [`registry`] finds, [`runs`] executes, [`snapshots`] keeps disks, [`recovery`] picks up what an earlier
//! server left. Nothing here knows of HTTP.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use boxyard_engine::archive::ArchiveLimits;
use boxyard_engine::{BoxSpec, Engine, EngineError, ErrorKind, Limits, fail};
use boxyard_proto::api::boxes::{BoxData, BoxStatus};
use boxyard_proto::api::logs::LogEntry;
use boxyard_proto::api::runs::RunStatus;
use boxyard_proto::api::snapshots::SnapshotStatus;
use boxyard_proto::names::{self, InvalidName, LABELS_MAX, Size};
use boxyard_proto::{AccountId, BoxId, SnapshotId};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Config, Sizes};
use crate::metrics::{self, Metrics, Outcome};
use crate::store::{BoxRow, Store, StoreError};

mod account_env;
mod admission;
mod archives;
mod clock;
mod contexts;
mod gate;
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
pub use halt::Halt;
pub use kept::{Kept, Lease};
pub use life::{Life, check_init_command};
pub use log_follow::LogStream;
pub use order::{InvalidOrder, Language, Order, WORKSPACE};
pub use output::Share;
pub(crate) use outputs::same_run;
pub use outputs::{Ended, Replayed, RunOutput};
pub use pipe::Reader as PipeReader;
pub use recovery::RecoveryError;
pub use runs::{Collected, Ending, Started};
pub use sessions::{Program, Session, SessionError, SessionListener, SessionOrder, SessionSocket};
pub use snapshots::{Restore, RestoreError};
pub use spool::{Cut, Reader, Streams};

use admission::{Admission, Place};
use archives::Transfers;
use contexts::ContextLimits;
use keeper::{Before, Keeper};
use labels::LabelChange;
use lifecycle::{Phase, Wanted};
use output::Budget;
use pressure::{HostMemory, Relief, ThisHost};
use registry::Registry;
use runs::LiveRuns;
use snapshots::Uses;
use spool::Spools;
use usage::{Figures, USAGES};

/// How many random ids are tried before the store is taken to be broken.
const ID_ATTEMPTS: u32 = 20;

/// How long making room for a new box may take.
const PLACE_DEADLINE: Duration = Duration::from_secs(60);

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

/// A box to make. Everything in it has been checked.
#[derive(Debug, Clone, Default)]
pub struct NewBox {
    name: Option<String>,
    labels: Vec<String>,
    /// Of which [`Boxes::create`] knows whether there is such a one, as with the runtime.
    size: String,
    runtime: String,
    env: BTreeMap<String, String>,
    /// The snapshot that its disk starts as a copy of.
    from: Option<SnapshotId>,
    life: Life,
}

impl NewBox {
    /// Checks what was asked for.
    ///
    /// # Errors
    /// Says which rule is broken.
    pub fn check(
        name: Option<String>,
        labels: Vec<String>,
        size: Option<&str>,
        runtime: Option<&str>,
        env: BTreeMap<String, String>,
    ) -> Result<Self, InvalidName> {
        if let Some(name) = &name {
            names::check_box_name(name)?;
        }
        names::check_env(&env)?;
        Ok(Self {
            name,
            labels: names::check_labels(labels)?,
            size: size.map_or_else(|| Size::default().to_string(), str::to_owned),
            runtime: names::check_runtime(runtime.unwrap_or(names::DEFAULT_RUNTIME))?.to_owned(),
            env,
            from: None,
            life: Life::default(),
        })
    }

    /// The same, to live like this.
    #[must_use]
    pub fn living(self, life: Life) -> Self {
        Self { life, ..self }
    }
}

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
            outputs: Budget::new(
                usize::try_from(config.limits.output_cap).unwrap_or(usize::MAX),
                usize::try_from(config.limits.output_budget).unwrap_or(usize::MAX),
            ),
            contexts: ContextLimits::new(config),
            spools: Spools::new(config),
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

    /// Makes a box and returns when its record is stored; see [`Kept::made`] for its being ready.
    ///
    /// # Errors
    /// There is no such runtime or size, the name is taken, there is no place for another box, the account's environment and the box's are too much together, or the
    /// store failed.
    pub async fn create(&self, account: &AccountId, mut new: NewBox) -> Result<Kept, BoxError> {
        // A box from a snapshot has the image that it was made over, whatever has become of the name.
        if new.from.is_none() {
            let known = self.yard.engine.check_image(&new.runtime);
            known.map_err(|known| BoxError::Runtime(names::unknown_runtime(&known)))?;
        }
        let (size, limits) = self.size(&new)?;
        new.env = self.with_account_env(account, new.env).await?;
        let place = self.place(account, limits).await;
        let place = place.inspect_err(|_| {
            self.yard.metrics.creates.get_or_create(&Outcome::REFUSED).inc();
        })?;
        fail::point("create: admitted");
        let (yard, account) = (Arc::clone(&self.yard), account.clone());
        // Nothing is removed of a snapshot while a box is being made from it.
        let using = new.from.as_ref().map(|from| self.yard.uses.begin(from));
        // In a task: a client that leaves now must not leave a record without a keeper.
        let made = self.yard.tasks.spawn(async move {
            let mut row = new_row(account, new, size, yard.engine.name());
            let mut attempts = 0;
            loop {
                match yard.store.insert_box(row.clone()).await {
                    Ok(()) => break,
                    Err(StoreError::NotFound) => return Err(BoxError::SnapshotNotFound),
                    Err(StoreError::NameTaken) => return Err(BoxError::NameTaken(row.name.unwrap_or_default())),
                    Err(StoreError::IdTaken) if attempts < ID_ATTEMPTS => {
                        attempts += 1;
                        row.id = BoxId::from_entropy(rand::random());
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            let (kept, mailbox) = yard.adopt(&row, Phase::Creating, limits);
            Keeper::start(&yard, Arc::clone(&kept.shared), mailbox, before(&row), place, None, None);
            yard.hold_until_made(&kept, using);
            Ok(kept)
        });
        made.await.unwrap_or(Err(BoxError::Leaving))
    }

    /// The size that is asked for, and what it stands for.
    fn size(&self, new: &NewBox) -> Result<(Size, Limits), BoxError> {
        self.yard.sizes.find(&new.size).map_err(BoxError::Size)
    }

    /// A place for a new box; paused boxes lose their processes where that makes room for it.
    async fn place(&self, account: &AccountId, limits: Limits) -> Result<Place, Full> {
        let placing = async {
            loop {
                match self.yard.admission.admit(account, limits).await {
                    Err(full) if self.yard.relief.make_room(full, limits).await => {}
                    other => return other,
                }
            }
        };
        timeout(PLACE_DEADLINE, placing).await.unwrap_or(Err(Full::MemoryLeft))
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

fn new_row(account: AccountId, new: NewBox, size: Size, engine: &str) -> BoxRow {
    let now = now_ms();
    BoxRow {
        id: BoxId::from_entropy(rand::random()),
        account,
        name: new.name,
        labels: new.labels,
        size,
        runtime: new.runtime,
        env: new.env,
        engine: engine.to_owned(),
        phase: Phase::Creating.to_string(),
        error: None,
        total_cpu_ns: 0,
        last_activity_at: now,
        created_at: now,
        updated_at: now,
        deleted_at: None,
        from_snapshot: new.from,
        keep_alive: new.life.keep_alive,
        init_due: !new.life.init_command.is_empty(),
        init_command: new.life.init_command,
        expires_at: new.life.ttl.map(|ttl| now.saturating_add(millis(ttl))),
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

fn run_word(status: RunStatus) -> &'static str {
    match status {
        RunStatus::Running => "running",
        RunStatus::Completed => "completed",
        RunStatus::Failed => "failed",
        RunStatus::Cancelled => "cancelled",
    }
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
