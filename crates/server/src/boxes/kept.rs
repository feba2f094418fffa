//! What everybody else holds of a box: its facts, its state as last published, and the gate at which leases are taken.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use boxyard_engine::{BoxSpec, ErrorKind, Limits};
use boxyard_proto::api::boxes::{BoxData, BoxStatus};
use boxyard_proto::names::Size;
use boxyard_proto::{AccountId, BoxId};
use tokio::sync::{Notify, RwLock, RwLockReadGuard, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::contexts::Contexts;
use super::gate::{Entered, Gate, LEASES_MAX};
use super::git::Identity;
use super::halt::Halt;
use super::keeper::request;
use super::labels::LabelChange;
use super::lifecycle::{self, Asked, Asleep, Deed, Phase, Refused, Resting, Wanted};
use super::pressure::Relief;
use super::snapshots::Saving;
use super::{BoxError, now_ms};
use crate::store::BoxRow;

/// How long work waits for a box that is being made or resumed.
const READY_DEADLINE: Duration = Duration::from_secs(300);
/// Requests to one box's keeper that may wait.
const MAILBOX: usize = 64;

/// CPU time of one box at most, in nanoseconds: 73 years of it.
const CPU_NS_MAX: i64 = 1 << 61;

/// A box that is not deleted. Cheap to clone.
#[derive(Clone)]
pub struct Kept {
    pub(super) shared: Arc<Shared>,
    pub(super) mailbox: mpsc::Sender<Message>,
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kept").field("id", self.id()).field("phase", &self.state().phase).finish_non_exhaustive()
    }
}

/// What the keeper and the holders of a box share.
pub(super) struct Shared {
    pub(super) fixed: Arc<Fixed>,
    pub(super) state: watch::Sender<State>,
    pub(super) gate: Gate,
    /// Cancelled when work in the box has no future: the box is being deleted, or was lost.
    pub(super) over: CancellationToken,
    /// Asks the keeper to store what [`Shared::take_unstored_activity`] gives.
    pub(super) activity_changed: Notify,
    /// Held by whoever starts something in the box, and by the deed that freezes it: so nothing is frozen half started.
    pub(super) starts: RwLock<()>,
    /// Leases that have ended so far.
    pub(super) ended: AtomicU64,
    /// Makes room where memory is short, for as long as the server runs.
    pub(super) relief: Weak<Relief>,
    /// The interpreters that go on in the box.
    pub(super) contexts: Contexts,
    /// How many processes the kernel was known to have ended for want of memory.
    pub(super) oom_kills: AtomicU64,
    activity_unstored: AtomicBool,
    cpu_ns_unstored: AtomicI64,
    total_cpu_ns: AtomicI64,
    last_activity_at: AtomicI64,
}

/// What never changes about a box.
#[derive(Debug)]
pub(super) struct Fixed {
    pub(super) id: BoxId,
    pub(super) account: AccountId,
    pub(super) name: Option<String>,
    pub(super) size: Size,
    pub(super) runtime: String,
    pub(super) created_at: i64,
    /// Orders boxes that were made in the same millisecond.
    pub(super) place: u64,
    pub(super) spec: BoxSpec,
    /// Who commits in it, as git is told when it is made.
    pub(super) identity: Identity,
    /// Whether it is never paused.
    pub(super) keep_alive: bool,
    /// When it is deleted, if it is ephemeral.
    pub(super) expires_at: Option<i64>,
}

/// What changes about a box, as last published by its keeper.
#[derive(Debug, Clone)]
pub(super) struct State {
    pub(super) phase: Phase,
    /// Since when it is in this phase.
    pub(super) since: Instant,
    /// How often its processes have been ended, or have ended, since this server began.
    pub(super) halts: u64,
    /// Why, the last time.
    pub(super) halt: Halt,
    pub(super) failure: Option<Failure>,
    /// Which deed failed last and why, until another is done.
    pub(super) setback: Option<(Deed, Failure)>,
    pub(super) labels: Arc<[String]>,
    /// What runs whenever it is started; empty when nothing does.
    pub(super) init_command: Arc<str>,
    pub(super) updated_at: i64,
}

/// Why a box is [`Phase::Failed`].
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) kind: ErrorKind,
    pub(super) text: Arc<str>,
}

pub(super) enum Message {
    Want(Wanted, oneshot::Sender<Result<(), BoxError>>),
    /// As [`Wanted::Save`], into this snapshot.
    Save(Saving, oneshot::Sender<Result<(), BoxError>>),
    Label(LabelChange, oneshot::Sender<Result<Vec<String>, BoxError>>),
    Init(String, oneshot::Sender<Result<(), BoxError>>),
    /// Somebody found that the engine does not have the box.
    Gone,
    /// The box is to give up the memory that it keeps while it is paused: the host is short of it.
    Relieve(oneshot::Sender<Result<(), BoxError>>),
}

/// Permission to work in a ready box. While one lives the box is `running`; when the last is dropped its idle time begins.
pub struct Lease {
    kept: Kept,
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lease").field("id", self.kept.id()).finish_non_exhaustive()
    }
}

impl Lease {
    /// The box.
    pub fn kept(&self) -> &Kept {
        &self.kept
    }

    /// Cancelled when the box ends and work in it with it.
    pub fn over(&self) -> &CancellationToken {
        &self.kept.shared.over
    }

    /// Counts CPU time that the work took. The box itself says how much, so the sum stops at a number that all storage can hold.
    pub fn worked(&self, cpu_ns: i64) {
        self.kept.shared.worked(cpu_ns);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let shared = &self.kept.shared;
        shared.last_activity_at.fetch_max(now_ms(), Ordering::Relaxed);
        shared.activity_unstored.store(true, Ordering::Release);
        shared.ended.fetch_add(1, Ordering::Release);
        shared.gate.leave();
        shared.activity_changed.notify_one();
    }
}

impl Shared {
    /// See [`Lease::worked`].
    pub(super) fn worked(&self, cpu_ns: i64) {
        let mut counted = 0;
        let add = |total: i64| {
            counted = cpu_ns.clamp(0, (CPU_NS_MAX - total).max(0));
            Some(total + counted)
        };
        if self.total_cpu_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_ok() {
            self.cpu_ns_unstored.fetch_add(counted, Ordering::Relaxed);
        }
    }

    /// Waits until programs in the box run. While what it returns is held, the box is not frozen: to be held for as long as it takes to
    /// start something there, and no longer.
    pub(super) async fn awake(&self) -> RwLockReadGuard<'_, ()> {
        loop {
            if !self.state.borrow().phase.is_awake() {
                // The sender lives as long as `self`.
                let _ = self.state.subscribe().wait_for(|state| state.phase.is_awake()).await;
            }
            let held = self.starts.read().await;
            if self.state.borrow().phase.is_awake() {
                return held;
            }
        }
    }

    /// Waits until what ran in the box when it was paused goes on, and says whether it does: otherwise it has ended.
    pub(super) async fn goes_on(&self) -> bool {
        let decided =
            |phase: Phase| phase.is_awake() || phase.is_stopped() || phase.is_gone() || phase == Phase::Failed;
        let phase = self.state.subscribe().wait_for(|state| decided(state.phase)).await.map(|state| state.phase);
        phase.is_ok_and(Phase::is_awake)
    }

    pub(super) fn failure(&self) -> Option<BoxError> {
        let state = self.state.borrow();
        let failed = || match &state.failure {
            Some(Failure { kind, text }) => BoxError::Failed { kind: *kind, text: text.to_string() },
            None => BoxError::Failed { kind: ErrorKind::Broken, text: "unknown cause".into() },
        };
        (state.phase == Phase::Failed).then(failed)
    }

    /// What was not stored yet: CPU time, and the last moment of work. `None` when all is stored.
    pub(super) fn take_unstored_activity(&self) -> Option<(i64, i64)> {
        self.activity_unstored
            .swap(false, Ordering::AcqRel)
            .then(|| (self.cpu_ns_unstored.swap(0, Ordering::Relaxed), self.last_activity_at.load(Ordering::Relaxed)))
    }
}

impl Kept {
    /// A box as its row says, without a keeper yet: its mailbox's other end comes with it.
    pub(super) fn of_row(
        row: &BoxRow,
        spec: BoxSpec,
        phase: Phase,
        place: u64,
        relief: Weak<Relief>,
    ) -> (Self, mpsc::Receiver<Message>) {
        let (mailbox, receiver) = mpsc::channel(MAILBOX);
        let fixed = Fixed {
            id: row.id.clone(),
            account: row.account.clone(),
            name: row.name.clone(),
            size: row.size,
            runtime: row.runtime.clone(),
            created_at: row.created_at,
            place,
            spec,
            identity: Identity { name: row.git_user_name.clone(), email: row.git_user_email.clone() },
            keep_alive: row.keep_alive,
            expires_at: row.expires_at,
        };
        let failure = |text: &String| Failure { kind: ErrorKind::Broken, text: text.as_str().into() };
        let lasted = Duration::from_millis(u64::try_from(now_ms().saturating_sub(row.updated_at)).unwrap_or(0));
        let now = Instant::now();
        let state = State {
            phase,
            // A machine that has run for less has not kept what was paused before.
            since: now.checked_sub(lasted).unwrap_or(now),
            halts: 0,
            halt: Halt::default(),
            failure: row.error.as_ref().map(failure),
            setback: None,
            labels: row.labels.clone().into(),
            init_command: row.init_command.as_str().into(),
            updated_at: row.updated_at,
        };
        let gate = Gate::new(phase == Phase::Ready);
        let over = CancellationToken::new();
        if phase.is_gone() || phase == Phase::Failed {
            over.cancel();
        }
        let shared = Shared {
            fixed: Arc::new(fixed),
            state: watch::Sender::new(state),
            gate,
            over,
            activity_changed: Notify::new(),
            starts: RwLock::new(()),
            ended: AtomicU64::new(0),
            relief,
            contexts: Contexts::default(),
            oom_kills: AtomicU64::new(0),
            activity_unstored: AtomicBool::new(false),
            cpu_ns_unstored: AtomicI64::new(0),
            total_cpu_ns: AtomicI64::new(row.total_cpu_ns),
            last_activity_at: AtomicI64::new(row.last_activity_at),
        };
        (Self { shared: Arc::new(shared), mailbox }, receiver)
    }

    /// Its id.
    pub fn id(&self) -> &BoxId {
        &self.shared.fixed.id
    }

    /// The account that owns it.
    pub fn account(&self) -> &AccountId {
        &self.shared.fixed.account
    }

    /// Its phase as last published.
    pub fn phase(&self) -> Phase {
        self.shared.state.borrow().phase
    }

    pub(super) fn state(&self) -> State {
        self.shared.state.borrow().clone()
    }

    /// Why it failed, if it did; fit for its owner.
    pub fn failure(&self) -> Option<BoxError> {
        self.shared.failure()
    }

    /// Permission to work in the box. At once when it is ready; otherwise waits, up to five minutes, until it is made or resumed.
    ///
    /// # Errors
    /// The box is gone, has failed, cannot be resumed, is not ready in time, or too much works in it already.
    pub async fn lease(&self) -> Result<Lease, BoxError> {
        let enter = |_| match self.shared.gate.enter() {
            Entered::Yes => Some(Ok(Lease { kept: self.clone() })),
            Entered::Full => Some(Err(BoxError::TooManyRuns(LEASES_MAX))),
            // The gate of a ready box is closed: its keeper is about to publish another phase.
            Entered::Closed => None,
        };
        match enter(Phase::Ready) {
            Some(entered) => entered,
            None => self.reach(Wanted::Work, Deed::Resume, enter).await,
        }
    }

    /// Permission for what an earlier server began in the box and what may still be there, running or frozen.
    pub(super) fn lease_again(&self) -> Option<Lease> {
        match self.phase() {
            Phase::Ready
            | Phase::Pausing
            | Phase::Paused
            | Phase::Resuming { from: Asleep::Paused }
            | Phase::Saving { from: Resting::Ready | Resting::Paused } => {
                self.shared.gate.enter_again();
                Some(Lease { kept: self.clone() })
            }
            Phase::Creating
            | Phase::Stopping
            | Phase::Stopped
            | Phase::Resuming { from: Asleep::Stopped }
            | Phase::Saving { from: Resting::Stopped }
            | Phase::Deleting
            | Phase::Deleted
            | Phase::Failed => None,
        }
    }

    /// Pauses the box, whatever works in it, and returns when it stands still. A paused box stays as it is.
    ///
    /// # Errors
    /// It is kept alive, gone, has failed, is busy with something else for five minutes, or the engine could not pause it.
    pub async fn pause(&self) -> Result<(), BoxError> {
        if self.shared.fixed.keep_alive {
            return Err(BoxError::KeptAlive);
        }
        let rests = |phase| match phase {
            Phase::Paused | Phase::Stopping | Phase::Stopped => Some(Ok(())),
            Phase::Creating
            | Phase::Ready
            | Phase::Pausing
            | Phase::Resuming { .. }
            | Phase::Saving { .. }
            | Phase::Deleting
            | Phase::Deleted
            | Phase::Failed => None,
        };
        self.reach(Wanted::Pause, Deed::Pause, rests).await
    }

    /// Resumes the box, and returns when it takes work. A box that does already stays as it is.
    ///
    /// # Errors
    /// It is gone, has failed, is busy with something else for five minutes, or the engine could not resume it.
    pub async fn resume(&self) -> Result<(), BoxError> {
        self.reach(Wanted::Work, Deed::Resume, |phase: Phase| phase.is_awake().then_some(Ok(()))).await
    }

    /// Asks for what is wanted, again where need be, until `arrived` has an answer. `deed` is what leads there.
    async fn reach<T>(
        &self,
        wanted: Wanted,
        deed: Deed,
        arrived: impl Fn(Phase) -> Option<Result<T, BoxError>>,
    ) -> Result<T, BoxError> {
        let reaching = async {
            let mut states = self.shared.state.subscribe();
            let mut tried = false;
            loop {
                let (phase, setback) = {
                    let state = states.borrow_and_update();
                    (state.phase, state.setback.clone())
                };
                if let Some(answer) = arrived(phase) {
                    return answer;
                }
                // What has just failed is not tried again for the same request.
                if let Some((failed, Failure { kind, text })) = setback
                    && tried
                    && failed == deed
                {
                    return Err(BoxError::Undone { doing: deed.done_to(), kind, text: text.to_string() });
                }
                match lifecycle::ask(phase, wanted) {
                    Ok(Asked::Already) | Err(Refused::Busy) => tried |= phase.deed() == Some(deed),
                    Ok(Asked::Go(..)) => match self.want(wanted).await {
                        Ok(()) => tried = true,
                        Err(BoxError::Busy) => {}
                        Err(BoxError::Full(full)) => match self.shared.relief.upgrade() {
                            Some(relief) if relief.make_room(full, self.limits()).await => continue,
                            Some(_) | None => return Err(full.into()),
                        },
                        Err(error) => return Err(error),
                    },
                    Err(Refused::Failed) => return Err(self.failure().unwrap_or(BoxError::Busy)),
                    Err(Refused::Gone) => return Err(BoxError::NotFound),
                }
                states.changed().await.map_err(|_| BoxError::NotFound)?;
            }
        };
        timeout(READY_DEADLINE, reaching).await.unwrap_or(Err(BoxError::Busy))
    }

    /// Asks the keeper for something; returns when the phase that it leads to is stored. What it leads to is then under way.
    ///
    /// # Errors
    /// The request is refused, or the phase could not be stored.
    pub async fn want(&self, wanted: Wanted) -> Result<(), BoxError> {
        request(self, |reply| Message::Want(wanted, reply)).await
    }

    pub(super) async fn label(&self, change: LabelChange) -> Result<Vec<String>, BoxError> {
        request(self, |reply| Message::Label(change, reply)).await
    }

    pub(super) async fn set_init(&self, command: String) -> Result<(), BoxError> {
        request(self, |reply| Message::Init(command, reply)).await
    }

    /// What runs in it whenever it is started; empty when nothing does.
    pub fn init_command(&self) -> String {
        self.shared.state.borrow().init_command.to_string()
    }

    /// Tells the keeper that the engine does not have the box. A full mailbox means that others have told it.
    pub(super) fn report_gone(&self) {
        let _ = self.mailbox.try_send(Message::Gone);
    }

    /// Since when it is as it is.
    pub(super) fn since(&self) -> Instant {
        self.shared.state.borrow().since
    }

    /// Waits until the box is no longer being made, or `wait` is over.
    pub async fn made(&self, wait: Duration) {
        let mut states = self.shared.state.subscribe();
        let made = states.wait_for(|state| state.phase != Phase::Creating);
        // Whichever comes first: callers look at the phase.
        let _ = timeout(wait, made).await;
    }

    /// Waits until a box that takes work takes none any more, or has been started anew, and says what it does instead, and why its
    /// processes have ended if they have. Its disk's being saved is no such thing.
    pub async fn unready(&self) -> (Phase, Option<Halt>) {
        let (mut states, halts) = (self.shared.state.subscribe(), self.halts());
        let over = |state: &State| !state.phase.is_awake() || state.halts != halts;
        let over = states.wait_for(over).await.map(|state| (state.phase, (state.halts != halts).then_some(state.halt)));
        match over {
            Ok(over) => over,
            // The sender lives as long as `self`.
            Err(_) => std::future::pending().await,
        }
    }

    /// What to tell those who worked in the box when it is in `phase` and takes no work any more, for the reason `halt` if it was halted.
    pub fn farewell(&self, phase: Phase, halt: Option<Halt>) -> String {
        let id = self.id();
        match phase {
            Phase::Ready | Phase::Stopping | Phase::Stopped | Phase::Resuming { .. } | Phase::Saving { .. }
                if halt == Some(Halt::Died) =>
            {
                format!(
                    "the first process of box {id} ended unexpectedly, and all others with it; connect again to use the box"
                )
            }
            Phase::Deleting | Phase::Deleted => format!("box {id} was deleted"),
            Phase::Pausing
            | Phase::Paused
            | Phase::Stopping
            | Phase::Stopped
            | Phase::Resuming { .. }
            | Phase::Saving { .. } => format!("box {id} was paused"),
            Phase::Failed | Phase::Creating | Phase::Ready => match self.failure() {
                Some(error) => format!("box {id} was lost: {error}"),
                None => format!("box {id} was lost"),
            },
        }
    }

    /// How much of the host it may use.
    pub fn limits(&self) -> Limits {
        self.shared.fixed.spec.limits
    }

    /// What it is doing, in the API's words.
    pub fn status(&self) -> BoxStatus {
        status(self.phase(), self.shared.gate.leases() > 0)
    }

    /// The box as the API shows it.
    pub fn data(&self) -> BoxData {
        let (fixed, state) = (&self.shared.fixed, self.state());
        let facts = Facts {
            status: status(state.phase, self.shared.gate.leases() > 0),
            labels: state.labels.to_vec(),
            total_cpu_ns: self.shared.total_cpu_ns.load(Ordering::Relaxed),
            last_activity_at: self.shared.last_activity_at.load(Ordering::Relaxed),
            updated_at: state.updated_at,
            keep_alive: fixed.keep_alive,
            expires_at: fixed.expires_at,
        };
        data(&fixed.id, &fixed.account, fixed.name.clone(), fixed.size, fixed.runtime.clone(), fixed.created_at, facts)
    }
}

struct Facts {
    status: BoxStatus,
    labels: Vec<String>,
    total_cpu_ns: i64,
    last_activity_at: i64,
    updated_at: i64,
    keep_alive: bool,
    expires_at: Option<i64>,
}

/// The record of a box that has no keeper: of a deleted one.
pub(super) fn data_of_row(row: BoxRow) -> BoxData {
    let facts = Facts {
        status: Phase::parse(&row.phase).map_or(BoxStatus::Error, |phase| status(phase, false)),
        labels: row.labels,
        total_cpu_ns: row.total_cpu_ns,
        last_activity_at: row.last_activity_at,
        updated_at: row.updated_at,
        keep_alive: row.keep_alive,
        expires_at: row.expires_at,
    };
    data(&row.id, &row.account, row.name, row.size, row.runtime, row.created_at, facts)
}

fn data(
    id: &BoxId,
    account: &AccountId,
    name: Option<String>,
    size: Size,
    runtime: String,
    created_at: i64,
    facts: Facts,
) -> BoxData {
    BoxData {
        id: id.clone(),
        customer_id: account.clone(),
        name,
        labels: facts.labels,
        size,
        runtime,
        status: facts.status,
        keep_alive: facts.keep_alive,
        ephemeral: facts.expires_at.map(|_| true),
        // Rounded up: it is there until then.
        expires_at: facts.expires_at.map(|at| at.saturating_add(999) / 1000),
        enabled_skills: Vec::new(),
        total_input_tokens: 0,
        total_output_tokens: 0,
        total_prompts: 0,
        total_cpu_ns: facts.total_cpu_ns,
        total_compute_cost_usd: 0.0,
        total_token_cost_usd: 0.0,
        last_activity_at: facts.last_activity_at / 1000,
        created_at: created_at / 1000,
        updated_at: facts.updated_at / 1000,
    }
}

fn status(phase: Phase, working: bool) -> BoxStatus {
    match phase {
        Phase::Creating => BoxStatus::Creating,
        Phase::Ready | Phase::Saving { from: Resting::Ready } if working => BoxStatus::Running,
        Phase::Ready | Phase::Saving { from: Resting::Ready } => BoxStatus::Idle,
        Phase::Pausing
        | Phase::Paused
        | Phase::Stopping
        | Phase::Stopped
        | Phase::Resuming { .. }
        | Phase::Saving { from: Resting::Paused | Resting::Stopped } => BoxStatus::Paused,
        Phase::Failed => BoxStatus::Error,
        Phase::Deleting | Phase::Deleted => BoxStatus::Deleted,
    }
}
