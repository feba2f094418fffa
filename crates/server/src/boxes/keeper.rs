//! One task per box, the only writer of its phase.
//!
//! ```text
//!   requests ──▶ mailbox ──▶ ┌────────┐ 1. new phase into the store
//!                            │ keeper │ 2. deed: a call of the engine, in a task of its own
//!   reports of the deed ───▶ └───┬────┘ 3. published
//!                                ├──▶ watch: phase, error, labels
//!                                └──▶ gate: open while the box is ready
//! ```
//! A [`Lease`] is taken at the gate without asking the keeper: one atomic step. The keeper closes the gate *before* it stores that the
//! box leaves `Ready`, so that no lease is given out afterwards; work that holds one is told by [`Lease::over`] when the box ends.
//!
//! It fails in two ways. A store that refuses a phase asked for by a request: the request fails, nothing has changed. A store that
//! refuses a phase that follows from what the engine did: the keeper tries until it succeeds, because the deed cannot be taken back.

use std::sync::Arc;
use std::time::Duration;

use boxyard_engine::{EngineError, ErrorKind};
use boxyard_proto::api::logs::{LogLevel, LogSource};
use boxyard_proto::{BoxId, SnapshotId};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::admission::Place;
use super::kept::{Failure, Kept, LabelChange, Message, Shared};
use super::lifecycle::{self, Asked, Deed, Phase, Refused, Report, Wanted};
use super::snapshots::Saving;
use super::{BoxError, Yard, chain, now_ms};
use crate::metrics::Outcome;
use crate::store::{LogRow, StoreError};

/// How long a box may take to be made, an image that must be built first included.
const CREATE_DEADLINE: Duration = Duration::from_secs(3600);
/// How long the saving of a box may take: where disks are plain folders it is a copy of all files.
const SAVE_DEADLINE: Duration = Duration::from_secs(3600);
/// How long any other call of the engine may take.
const DEED_DEADLINE: Duration = Duration::from_secs(300);
/// Why a box failed that the engine does not have.
const GONE: &str = "the box is no longer there";
/// The longest wait before a failed removal, or a failed write, is tried again.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// The task's own part of a box.
pub(super) struct Keeper {
    yard: Arc<Yard>,
    shared: Arc<Shared>,
    mailbox: mpsc::Receiver<Message>,
    deed: Option<AbortOnDropHandle<Result<(), EngineError>>>,
    /// Calls of the engine that have failed so far, in this phase.
    failures: u32,
    /// What the next save is for.
    saving: Option<Saving>,
    /// When the deed began, earlier attempts included.
    began: Instant,
    /// The box's place among those that may exist; given back with the box.
    place: Place,
    /// The box's memory was taken for its being resumed now, and goes back if that fails.
    woken: bool,
}

impl Keeper {
    /// Starts the task for a box whose phase is in the store already, and does the phase's deed if it has one. `turn` bounds how many
    /// deeds begin at once; the deed waits for its turn.
    pub(super) fn start(
        yard: &Arc<Yard>,
        shared: Arc<Shared>,
        mailbox: mpsc::Receiver<Message>,
        place: Place,
        turn: Option<Arc<Semaphore>>,
    ) {
        Self::start_saving(yard, shared, mailbox, place, turn, None);
    }

    /// The same for a box that an earlier server was saving.
    pub(super) fn start_saving(
        yard: &Arc<Yard>,
        shared: Arc<Shared>,
        mailbox: mpsc::Receiver<Message>,
        place: Place,
        turn: Option<Arc<Semaphore>>,
        saving: Option<Saving>,
    ) {
        let mut keeper = Self {
            yard: Arc::clone(yard),
            shared,
            mailbox,
            deed: None,
            failures: 0,
            saving,
            began: Instant::now(),
            place,
            woken: false,
        };
        keeper.begin_deed(turn);
        yard.tasks.spawn(keeper.keep());
    }

    async fn keep(mut self) {
        let leaving = self.yard.leaving.clone();
        loop {
            tokio::select! {
                () = leaving.cancelled() => break,
                result = ended(&mut self.deed) => {
                    self.deed = None;
                    self.hear_of_deed(result).await;
                }
                message = self.mailbox.recv() => match message {
                    Some(message) => self.take(message).await,
                    None => break,
                },
                () = self.shared.activity_changed.notified() => self.store_activity().await,
            }
            if self.phase() == Phase::Deleted {
                self.yard.registry.remove(&self.shared.fixed);
                break;
            }
        }
        self.store_activity().await;
    }

    fn phase(&self) -> Phase {
        self.shared.state.borrow().phase
    }

    async fn take(&mut self, message: Message) {
        match message {
            Message::Want(wanted, reply) => {
                let answer = self.want(wanted).await;
                // Whoever asked may have left; the deed goes on all the same.
                let _ = reply.send(answer);
            }
            Message::Save(saving, reply) => {
                self.saving = Some(saving);
                let answer = self.want(Wanted::Save).await;
                self.saving = None;
                let _ = reply.send(answer);
            }
            Message::Label(change, reply) => {
                let answer = self.label(change).await;
                let _ = reply.send(answer);
            }
            Message::Gone => {
                if self.deed.is_none() {
                    self.hear(Report::Gone, Some(Failure { kind: ErrorKind::NotFound, text: GONE.into() })).await;
                }
            }
        }
    }

    async fn want(&mut self, wanted: Wanted) -> Result<(), BoxError> {
        let phase = self.phase();
        let (next, _) = match lifecycle::ask(phase, wanted) {
            Ok(Asked::Already) => return Ok(()),
            Ok(Asked::Go(next, deed)) => (next, deed),
            Err(Refused::Busy) => return Err(BoxError::Busy),
            Err(Refused::Failed) => return Err(self.shared.failure().unwrap_or(BoxError::Busy)),
            Err(Refused::Gone) => return Err(BoxError::NotFound),
        };
        if next == Phase::Resuming {
            // A stopped box gave its memory back, and others may have it now.
            self.woken = self.place.wake().await?;
        }
        self.shared.gate.close();
        let stored = match &self.saving {
            Some(saving) if matches!(next, Phase::Saving { .. }) => self.store_saving(next, saving.into()).await,
            Some(_) | None => self.store_phase(next, None).await,
        };
        if let Err(error) = stored {
            self.doze();
            let failure = self.shared.state.borrow().failure.clone();
            self.publish(phase, failure);
            return Err(error.into());
        }
        // Calls of the engine for one box are never made at the same time.
        if let Some(deed) = self.deed.take() {
            deed.abort();
            let _ = deed.await;
        }
        if next.is_gone() {
            self.log(LogLevel::Info, "Box is being deleted");
        }
        self.publish(next, None);
        self.failures = 0;
        self.began = Instant::now();
        self.begin_deed(None);
        Ok(())
    }

    async fn label(&mut self, change: LabelChange) -> Result<Vec<String>, BoxError> {
        if self.phase().is_gone() {
            return Err(BoxError::NotFound);
        }
        let before = self.shared.state.borrow().labels.clone();
        let labels = change.apply(&before)?;
        let at = now_ms();
        self.yard.store.set_labels(self.shared.fixed.id.clone(), labels.clone(), at).await?;
        self.shared.state.send_modify(|state| {
            state.labels = labels.clone().into();
            state.updated_at = at;
        });
        Ok(labels)
    }

    async fn hear_of_deed(&mut self, result: Result<(), EngineError>) {
        let id = &self.shared.fixed.id;
        match result {
            Ok(()) => self.hear(Report::Done, None).await,
            Err(error) => {
                let report = match (self.phase(), error.kind) {
                    (
                        Phase::Deleting | Phase::Pausing | Phase::Resuming | Phase::Saving { .. },
                        ErrorKind::NotFound,
                    ) => Report::Gone,
                    _ => Report::Failed,
                };
                tracing::warn!(box_id = %id, phase = %self.phase(), error = chain(&error), "an engine call failed");
                self.failures = self.failures.saturating_add(1);
                let text = if report == Report::Gone { GONE.into() } else { error.to_string().into() };
                self.hear(report, Some(Failure { kind: error.kind, text })).await;
            }
        }
    }

    async fn hear(&mut self, report: Report, why: Option<Failure>) {
        let phase = self.phase();
        let next = lifecycle::hear(phase, report);
        if next != phase {
            let failure = if next == Phase::Failed { why } else { None };
            self.shared.gate.close();
            let text = failure.as_ref().map(|failure| failure.text.to_string());
            if !self.store_phase_surely(next, text.clone()).await {
                return;
            }
            if (phase, next) == (Phase::Resuming, Phase::Paused) {
                self.doze();
            }
            let metrics = &self.yard.metrics;
            let text = text.unwrap_or_default();
            match (phase, next) {
                (Phase::Creating, Phase::Ready) => {
                    metrics.creates.get_or_create(&Outcome::OK).inc();
                    metrics.create_seconds.observe(self.began.elapsed().as_secs_f64());
                    self.log(LogLevel::Info, "Box created");
                }
                (Phase::Creating, Phase::Failed) => {
                    metrics.creates.get_or_create(&Outcome::FAILED).inc();
                    self.log(LogLevel::Error, &format!("Box creation failed: {text}"));
                }
                (_, Phase::Failed) => self.log(LogLevel::Error, &format!("Box failed: {text}")),
                (_, Phase::Deleted) => {
                    metrics.deletes.get_or_create(&Outcome::OK).inc();
                    metrics.delete_seconds.observe(self.began.elapsed().as_secs_f64());
                    self.log(LogLevel::Info, "Box deleted");
                }
                _ => {}
            }
            self.publish(next, failure);
        } else if phase == Phase::Deleting {
            self.yard.metrics.deletes.get_or_create(&Outcome::FAILED).inc();
        }
        self.begin_deed(None);
    }

    /// Gives the memory back that a stopped box was to be started with.
    fn doze(&mut self) {
        if std::mem::take(&mut self.woken) {
            self.place.sleep();
        }
    }

    fn log(&self, level: LogLevel, message: &str) {
        let entry = LogRow { at: now_ms(), level, source: LogSource::System, message: message.to_owned() };
        self.yard.store.append_log_queued(self.shared.fixed.id.clone(), entry);
    }

    /// Makes a phase that is in the store known, and opens the gate if it takes work.
    fn publish(&self, phase: Phase, failure: Option<Failure>) {
        if phase.is_gone() {
            self.yard.registry.free_name(&self.shared.fixed);
        }
        self.yard.count_phase(self.phase(), -1);
        if phase != Phase::Deleted {
            self.yard.count_phase(phase, 1);
        }
        if phase == Phase::Ready {
            self.shared.gate.open();
        }
        self.shared.state.send_modify(|state| {
            if state.phase != phase {
                state.updated_at = now_ms();
            }
            state.phase = phase;
            state.failure = failure;
        });
        if phase.is_gone() || phase == Phase::Failed {
            self.shared.over.cancel();
        }
    }

    async fn store_phase(&self, phase: Phase, error: Option<String>) -> Result<(), StoreError> {
        self.yard.store.set_phase(self.shared.fixed.id.clone(), phase.to_string(), error, now_ms()).await
    }

    async fn store_saving(&self, phase: Phase, into: &SnapshotId) -> Result<(), StoreError> {
        let id = self.shared.fixed.id.clone();
        self.yard.store.begin_snapshot(into.clone(), id, phase.to_string(), now_ms()).await
    }

    /// Says whether the phase was stored; otherwise the server is leaving and the next one finds out by itself.
    async fn store_phase_surely(&self, phase: Phase, error: Option<String>) -> bool {
        let mut failures = 0;
        loop {
            match self.store_phase(phase, error.clone()).await {
                Ok(()) => return true,
                Err(StoreError::Closed) => return false,
                Err(error) => {
                    tracing::error!(box_id = %self.shared.fixed.id, %phase, error = chain(&error), "the phase could not be stored");
                    failures += 1;
                    tokio::select! {
                        () = sleep(backoff(failures)) => {}
                        () = self.yard.leaving.cancelled() => return false,
                    }
                }
            }
        }
    }

    async fn store_activity(&self) {
        let Some((cpu_ns, at)) = self.shared.take_unstored_activity() else { return };
        if let Err(error) = self.yard.store.add_activity(self.shared.fixed.id.clone(), cpu_ns, at).await {
            tracing::error!(box_id = %self.shared.fixed.id, error = chain(&error), "a box's activity could not be stored");
        }
    }

    fn begin_deed(&mut self, turn: Option<Arc<Semaphore>>) {
        let Some(deed) = self.phase().deed() else { return };
        let (engine, fixed) = (Arc::clone(&self.yard.engine), Arc::clone(&self.shared.fixed));
        let (yard, saving) = (Arc::clone(&self.yard), self.saving.take());
        let wait = (deed == Deed::Remove && self.failures > 0).then(|| backoff(self.failures));
        let task = async move {
            if let Some(wait) = wait {
                sleep(wait).await;
            }
            let _turn = match turn {
                Some(turn) => turn.acquire_owned().await.ok(),
                None => None,
            };
            let id = &fixed.id;
            let call = async {
                match deed {
                    Deed::Create => engine.create(&fixed.spec).await,
                    Deed::Remove => engine.remove(id).await,
                    Deed::Pause => engine.pause(id).await,
                    Deed::Resume => engine.resume(id).await.map(drop),
                    Deed::Save => yard.save(id, saving).await,
                }
            };
            let deadline = match deed {
                Deed::Create => CREATE_DEADLINE,
                Deed::Save => SAVE_DEADLINE,
                Deed::Pause | Deed::Resume | Deed::Remove => DEED_DEADLINE,
            };
            timeout(deadline, call).await.unwrap_or_else(|_| Err(overdue(deed, id)))
        };
        self.deed = Some(AbortOnDropHandle::new(tokio::spawn(task)));
    }
}

fn overdue(deed: Deed, id: &BoxId) -> EngineError {
    let doing = match deed {
        Deed::Create => "making the box in time",
        Deed::Remove => "removing the box in time",
        Deed::Pause => "pausing the box in time",
        Deed::Resume => "resuming the box in time",
        Deed::Save => "saving the box in time",
    };
    EngineError::new(ErrorKind::Broken, doing).about(id)
}

/// Waits for a deed; for ever when there is none.
async fn ended(deed: &mut Option<AbortOnDropHandle<Result<(), EngineError>>>) -> Result<(), EngineError> {
    match deed {
        Some(task) => task.await.unwrap_or_else(|error| Err(EngineError::broken("calling the engine", error))),
        None => std::future::pending().await,
    }
}

/// The wait after so many failures in a row.
pub(super) fn backoff(failures: u32) -> Duration {
    Duration::from_secs(1 << failures.saturating_sub(1).min(6)).min(RETRY_MAX)
}

/// Sends a request to a keeper and waits for its answer.
pub(super) async fn request<T>(
    kept: &Kept,
    message: impl FnOnce(oneshot::Sender<Result<T, BoxError>>) -> Message,
) -> Result<T, BoxError> {
    let (reply, answer) = oneshot::channel();
    // A keeper that has ended has either deleted its box or is leaving with the server.
    let ended = || if kept.state().phase.is_gone() { BoxError::NotFound } else { BoxError::Leaving };
    kept.mailbox.send(message(reply)).await.map_err(|_| ended())?;
    answer.await.map_err(|_| ended())?
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use boxyard_engine::fake::{Call, FakeEngine};
    use boxyard_proto::AccountId;
    use boxyard_proto::api::snapshots::SnapshotStatus;
    use tempfile::TempDir;

    use super::super::{Boxes, NewBox};
    use super::*;
    use crate::config::{Config, Flags};
    use crate::metrics::Metrics;
    use crate::store::{Account, Store, StoreOptions};

    struct World {
        _folder: TempDir,
        engine: Arc<FakeEngine>,
        store: Store,
        boxes: Boxes,
        account: AccountId,
    }

    impl World {
        async fn new() -> Self {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let store =
                Store::open(&folder.path().join("test.db"), StoreOptions::default()).await.expect("open a store");
            let account = AccountId::from_entropy(1);
            let row = Account { id: account.clone(), name: "default".into(), created_at: 1 };
            store.insert_account(row).await.expect("add the account");
            let nothing = BTreeMap::new();
            let config = Config::load(&Flags::default(), &nothing, &BTreeMap::new(), Path::new("/bin/boxyard"));
            let config = config.expect("the default configuration");
            let engine = FakeEngine::new();
            let metrics = Arc::new(Metrics::new(store.clone()));
            let boxes = Boxes::new(&config, Arc::clone(&engine) as _, store.clone(), metrics);
            Self { _folder: folder, engine, store, boxes, account }
        }

        async fn ready_box(&self) -> Kept {
            let new = NewBox::check(None, Vec::new(), None, None, BTreeMap::new()).expect("all defaults");
            let kept = self.boxes.create(&self.account, new).await.expect("create");
            kept.made(Duration::from_secs(20)).await;
            assert_eq!(kept.phase(), Phase::Ready);
            kept
        }
    }

    #[tokio::test]
    async fn an_engine_that_cannot_pause_leaves_the_box_ready() {
        let world = World::new().await;
        let kept = world.ready_box().await;
        let held = kept.lease().await.expect("a lease");
        kept.want(Wanted::Pause).await.expect("the request is taken");
        // Work that comes meanwhile waits until it is decided.
        let lease = kept.lease().await.expect("a lease");
        assert_eq!(kept.phase(), Phase::Ready);
        assert!(!held.over().is_cancelled() && !lease.over().is_cancelled());
    }

    #[tokio::test]
    async fn a_phase_that_cannot_be_stored_is_not_entered() {
        let world = World::new().await;
        let kept = world.ready_box().await;
        let lease = kept.lease().await.expect("a lease");
        world.store.close().await;
        assert!(matches!(kept.want(Wanted::Delete).await, Err(BoxError::Store(StoreError::Closed))));
        assert_eq!(kept.phase(), Phase::Ready);
        assert!(!lease.over().is_cancelled());
        kept.lease().await.expect("the gate is open again");
        assert_eq!(world.engine.calls(Call::Remove, kept.id()), 0, "store first, act second");
    }

    #[tokio::test]
    async fn no_lease_is_given_once_deletion_has_begun() {
        let world = World::new().await;
        let kept = world.ready_box().await;
        let lease = kept.lease().await.expect("a lease");
        world.engine.hold(Call::Remove, Some("removal"));
        kept.want(Wanted::Delete).await.expect("delete");
        assert!(lease.over().is_cancelled());
        assert!(matches!(kept.lease().await, Err(BoxError::NotFound)));
        assert!(matches!(world.boxes.find(&world.account, kept.id().as_str()), Err(BoxError::NotFound)));
        kept.want(Wanted::Delete).await.expect("asking again changes nothing");
        world.engine.came_to("removal", 1).await;
        assert_eq!(world.engine.calls(Call::Remove, kept.id()), 1);
    }

    #[tokio::test]
    async fn a_failed_removal_is_tried_again() {
        let world = World::new().await;
        let kept = world.ready_box().await;
        world.engine.fail_next(Call::Remove, ErrorKind::Broken);
        let mut states = kept.shared.state.subscribe();
        kept.want(Wanted::Delete).await.expect("delete");
        states.wait_for(|state| state.phase == Phase::Deleted).await.expect("the keeper goes on");
        assert_eq!(world.engine.calls(Call::Remove, kept.id()), 2);
        assert!(world.engine.ids().is_empty());
    }

    #[tokio::test]
    async fn a_paused_box_is_saved_and_stays_paused() {
        let world = World::new().await;
        let kept = world.ready_box().await;
        kept.want(Wanted::Pause).await.expect("pause");
        // Asked for while the box is being paused: its turn comes after that.
        let made = world.boxes.snapshot(&kept, None, Duration::from_secs(20)).await.expect("a snapshot");
        assert_eq!((made.status, kept.phase()), (SnapshotStatus::Ready, Phase::Paused));
        assert_eq!(world.engine.calls(Call::Resume, kept.id()), 0);
    }

    #[tokio::test]
    async fn what_is_wanted_of_a_box_that_is_being_saved_waits_or_is_told_so() {
        let world = World::new().await;
        let kept = world.ready_box().await;
        world.engine.hold(Call::Save, Some("save"));
        let held = kept.lease().await.expect("a lease");
        let saving = tokio::spawn({
            let (boxes, kept) = (world.boxes.clone(), kept.clone());
            async move { boxes.snapshot(&kept, None, Duration::from_secs(20)).await }
        });
        world.engine.came_to("save", 1).await;
        assert!(matches!(kept.want(Wanted::Pause).await, Err(BoxError::Busy)));
        assert!(kept.lease_now().is_none() && !held.over().is_cancelled());
        world.engine.open("save");
        saving.await.expect("no panic").expect("a snapshot");
        assert!(kept.lease_now().is_some(), "who is told of the snapshot can go on at once");
        kept.want(Wanted::Pause).await.expect("pause");
    }
}
