//! What everybody else holds of a box: its facts, its state as last published, and the gate at which leases are taken.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use boxyard_engine::{BoxSpec, ErrorKind, Limits};
use boxyard_proto::api::boxes::{BoxData, BoxStatus};
use boxyard_proto::names::{LABELS_MAX, Size};
use boxyard_proto::{AccountId, BoxId};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::keeper::request;
use super::lifecycle::{self, Asked, Phase, Refused, Resting, Wanted};
use super::snapshots::Saving;
use super::{BoxError, now_ms};
use crate::store::BoxRow;

/// How long work waits for a box that is being made or resumed.
const READY_DEADLINE: Duration = Duration::from_secs(300);
/// Requests to one box's keeper that may wait.
const MAILBOX: usize = 64;
/// Leases of one box at most: fewer than the connections that `boxyard-init` takes at once (512), some of which end runs.
const LEASES_MAX: u64 = 480;

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
}

/// What changes about a box, as last published by its keeper.
#[derive(Debug, Clone)]
pub(super) struct State {
    pub(super) phase: Phase,
    pub(super) failure: Option<Failure>,
    pub(super) labels: Arc<[String]>,
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
    /// Somebody found that the engine does not have the box.
    Gone,
}

#[derive(Debug)]
pub(super) enum LabelChange {
    Add(String),
    Remove(String),
}

impl LabelChange {
    pub(super) fn apply(self, labels: &[String]) -> Result<Vec<String>, BoxError> {
        match self {
            Self::Add(label) if labels.contains(&label) => Err(BoxError::LabelTaken),
            Self::Add(_) if labels.len() >= LABELS_MAX => Err(BoxError::LabelsFull),
            Self::Add(label) => Ok(labels.iter().cloned().chain([label]).collect()),
            Self::Remove(label) if !labels.contains(&label) => Err(BoxError::LabelMissing),
            Self::Remove(label) => Ok(labels.iter().filter(|kept| **kept != label).cloned().collect()),
        }
    }
}

/// Counts leases, and gives none while it is closed. One number: the highest bit says open, the others count.
pub(super) struct Gate(AtomicU64);

const OPEN: u64 = 1 << 63;

impl Gate {
    pub(super) fn open(&self) {
        self.0.fetch_or(OPEN, Ordering::AcqRel);
    }

    pub(super) fn close(&self) {
        self.0.fetch_and(!OPEN, Ordering::AcqRel);
    }

    fn enter(&self) -> Entered {
        let enter = |value: u64| (value & OPEN != 0 && value & !OPEN < LEASES_MAX).then(|| value + 1);
        match self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, enter) {
            Ok(_) => Entered::Yes,
            Err(value) if value & OPEN != 0 => Entered::Full,
            Err(_) => Entered::Closed,
        }
    }

    /// Says whether this was the last lease.
    fn leave(&self) -> bool {
        self.0.fetch_sub(1, Ordering::AcqRel) & !OPEN == 1
    }

    fn leases(&self) -> u64 {
        self.0.load(Ordering::Acquire) & !OPEN
    }
}

enum Entered {
    Yes,
    Full,
    Closed,
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
        let shared = &self.kept.shared;
        let mut counted = 0;
        let add = |total: i64| {
            counted = cpu_ns.clamp(0, (CPU_NS_MAX - total).max(0));
            Some(total + counted)
        };
        if shared.total_cpu_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_ok() {
            shared.cpu_ns_unstored.fetch_add(counted, Ordering::Relaxed);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let shared = &self.kept.shared;
        shared.last_activity_at.fetch_max(now_ms(), Ordering::Relaxed);
        shared.activity_unstored.store(true, Ordering::Release);
        shared.gate.leave();
        shared.activity_changed.notify_one();
    }
}

impl Shared {
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
    pub(super) fn of_row(row: &BoxRow, spec: BoxSpec, phase: Phase, place: u64) -> (Self, mpsc::Receiver<Message>) {
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
        };
        let failure = |text: &String| Failure { kind: ErrorKind::Broken, text: text.as_str().into() };
        let state = State {
            phase,
            failure: row.error.as_ref().map(failure),
            labels: row.labels.clone().into(),
            updated_at: row.updated_at,
        };
        let gate = Gate(AtomicU64::new(if phase == Phase::Ready { OPEN } else { 0 }));
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
    /// The box is gone, has failed, is not ready in time, or too much works in it already.
    pub async fn lease(&self) -> Result<Lease, BoxError> {
        match self.shared.gate.enter() {
            Entered::Yes => Ok(Lease { kept: self.clone() }),
            Entered::Full => Err(BoxError::TooManyRuns(LEASES_MAX)),
            Entered::Closed => timeout(READY_DEADLINE, self.lease_when_ready()).await.unwrap_or(Err(BoxError::Busy)),
        }
    }

    /// Permission to work in the box if it is ready now.
    pub(super) fn lease_now(&self) -> Option<Lease> {
        match self.shared.gate.enter() {
            Entered::Yes => Some(Lease { kept: self.clone() }),
            Entered::Full | Entered::Closed => None,
        }
    }

    async fn lease_when_ready(&self) -> Result<Lease, BoxError> {
        let mut states = self.shared.state.subscribe();
        loop {
            let phase = states.borrow_and_update().phase;
            match self.shared.gate.enter() {
                Entered::Yes => return Ok(Lease { kept: self.clone() }),
                Entered::Full => return Err(BoxError::TooManyRuns(LEASES_MAX)),
                Entered::Closed => {}
            }
            match lifecycle::ask(phase, Wanted::Work) {
                // The gate of a ready box is closed: its keeper is about to publish another phase.
                Ok(Asked::Already) | Err(Refused::Busy) => {}
                Ok(Asked::Go(..)) => match self.want(Wanted::Work).await {
                    Ok(()) | Err(BoxError::Busy) => {}
                    Err(error) => return Err(error),
                },
                Err(Refused::Failed) => return Err(self.failure().unwrap_or(BoxError::Busy)),
                Err(Refused::Gone) => return Err(BoxError::NotFound),
            }
            states.changed().await.map_err(|_| BoxError::NotFound)?;
        }
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

    /// Tells the keeper that the engine does not have the box. A full mailbox means that others have told it.
    pub(super) fn report_gone(&self) {
        let _ = self.mailbox.try_send(Message::Gone);
    }

    /// Waits until the box is no longer being made, or `wait` is over.
    pub async fn made(&self, wait: Duration) {
        let mut states = self.shared.state.subscribe();
        let made = states.wait_for(|state| state.phase != Phase::Creating);
        // Whichever comes first: callers look at the phase.
        let _ = timeout(wait, made).await;
    }

    /// Waits until a box that takes work takes none any more, and says what it does instead. Its disk's being saved is no such thing.
    pub async fn unready(&self) -> Phase {
        let mut states = self.shared.state.subscribe();
        let works = |phase| matches!(phase, Phase::Ready | Phase::Saving { from: Resting::Ready });
        let phase = states.wait_for(|state| !works(state.phase)).await.map(|state| state.phase);
        match phase {
            Ok(phase) => phase,
            // The sender lives as long as `self`.
            Err(_) => std::future::pending().await,
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
}

/// The record of a box that has no keeper: of a deleted one.
pub(super) fn data_of_row(row: BoxRow) -> BoxData {
    let facts = Facts {
        status: Phase::parse(&row.phase).map_or(BoxStatus::Error, |phase| status(phase, false)),
        labels: row.labels,
        total_cpu_ns: row.total_cpu_ns,
        last_activity_at: row.last_activity_at,
        updated_at: row.updated_at,
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
        keep_alive: false,
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
        Phase::Pausing | Phase::Paused | Phase::Resuming | Phase::Saving { from: Resting::Paused } => BoxStatus::Paused,
        Phase::Failed => BoxStatus::Error,
        Phase::Deleting | Phase::Deleted => BoxStatus::Deleted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_gate_gives_no_lease_and_keeps_count_of_those_it_gave() {
        let gate = Gate(AtomicU64::new(0));
        assert!(matches!(gate.enter(), Entered::Closed));
        gate.open();
        assert!(matches!((gate.enter(), gate.enter()), (Entered::Yes, Entered::Yes)));
        gate.close();
        assert!(matches!(gate.enter(), Entered::Closed));
        assert_eq!(gate.leases(), 2);
        assert!(!gate.leave());
        assert!(gate.leave());
        gate.open();
        for _ in 0..LEASES_MAX {
            assert!(matches!(gate.enter(), Entered::Yes));
        }
        assert!(matches!(gate.enter(), Entered::Full));
    }

    #[test]
    fn labels_are_added_once_and_removed_if_there() {
        let labels: Vec<String> = vec!["a".into(), "b".into()];
        assert!(matches!(LabelChange::Add("a".into()).apply(&labels), Err(BoxError::LabelTaken)));
        assert!(matches!(LabelChange::Remove("c".into()).apply(&labels), Err(BoxError::LabelMissing)));
        assert_eq!(LabelChange::Add("c".into()).apply(&labels).ok(), Some(vec!["a".into(), "b".into(), "c".into()]));
        assert_eq!(LabelChange::Remove("a".into()).apply(&labels).ok(), Some(vec!["b".into()]));
        let full: Vec<String> = (0..LABELS_MAX).map(|n| n.to_string()).collect();
        assert!(matches!(LabelChange::Add("x".into()).apply(&full), Err(BoxError::LabelsFull)));
    }
}
