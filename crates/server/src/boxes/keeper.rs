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

use boxyard_engine::{EngineError, ErrorKind, Resumed, fail};
use boxyard_proto::api::logs::{LogLevel, LogSource};
use boxyard_proto::{BoxId, SnapshotId};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::admission::Place;
use super::clock::{self, Clock};
use super::git;
use super::halt::Halt;
use super::kept::{Failure, Kept, Message, Shared};
use super::labels::LabelChange;
use super::lifecycle::{self, Asked, Asleep, Deed, Phase, Refused, Report, Wanted};
use super::snapshots::Saving;
use super::{BoxError, Yard, chain, now_ms};
use crate::metrics::Outcome;
use crate::store::{LogRow, StoreError};

mod alarm;
mod death;
mod init;

use death::Vigil;

/// How long a box may take to be made, an image that must be built first included.
const CREATE_DEADLINE: Duration = Duration::from_secs(3600);
/// How long the saving of a box may take: where disks are plain folders it is a copy of all files.
const SAVE_DEADLINE: Duration = Duration::from_secs(3600);
/// How long any other call of the engine may take.
const DEED_DEADLINE: Duration = Duration::from_secs(300);
/// How long the engine may take to say whether a box is there.
const LOOK_DEADLINE: Duration = Duration::from_secs(10);
/// Why a box failed that the engine does not have.
const GONE: &str = "the box is no longer there";
/// The longest wait before a failed removal, or a failed write, is tried again.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// The task's own part of a box.
pub(super) struct Keeper {
    yard: Arc<Yard>,
    shared: Arc<Shared>,
    mailbox: mpsc::Receiver<Message>,
    deed: Option<AbortOnDropHandle<Result<Done, EngineError>>>,
    /// Calls of the engine that have failed so far, in this phase.
    failures: u32,
    /// What the next save is for.
    saving: Option<Saving>,
    /// When the deed began, earlier attempts included.
    began: Instant,
    clock: Clock,
    /// Leases that had ended when the box was last found at work.
    ended: u64,
    /// Whether the init command has yet to be run, when the box takes work next.
    init_due: bool,
    /// Follows the init command, if there was one since this server began.
    startup: Option<AbortOnDropHandle<()>>,
    /// The box's place among those that may exist; given back with the box.
    place: Place,
    /// The box's memory was taken for its being resumed now, and goes back if that fails.
    woken: bool,
    /// Why the box's processes are being ended, or were.
    halt: Halt,
    /// Ends when a box that rests with its processes has none any more.
    vigil: Option<Vigil>,
}

/// What came of a deed that succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Done {
    /// What was to come of it.
    Plainly,
    /// A box was to go on and had to be started anew.
    Started,
}

/// What a keeper must know of its box beside what others see.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Before {
    /// How long the box has been as it is.
    pub(super) lasted: Duration,
    /// How long it has left to live, if it is ephemeral.
    pub(super) left: Option<Duration>,
    /// Whether its init command has yet to be run.
    pub(super) init_due: bool,
}

impl Keeper {
    /// Starts the task for a box whose phase is in the store already, and does the phase's deed if it has one. `turn` bounds how many
    /// deeds begin at once; the deed waits for its turn.
    pub(super) fn start(
        yard: &Arc<Yard>,
        shared: Arc<Shared>,
        mailbox: mpsc::Receiver<Message>,
        before: Before,
        place: Place,
        turn: Option<Arc<Semaphore>>,
        saving: Option<Saving>,
    ) {
        let now = Instant::now();
        let pause_after = yard.pause_after.filter(|_| !shared.fixed.keep_alive);
        let mut keeper = Self {
            yard: Arc::clone(yard),
            shared,
            mailbox,
            deed: None,
            failures: 0,
            saving,
            began: now,
            clock: Clock::new(now, pause_after, yard.keep_memory_for, before.lasted, before.left),
            halt: Halt::default(),
            vigil: None,
            ended: 0,
            init_due: before.init_due,
            startup: None,
            place,
            woken: false,
        };
        if keeper.shared.fixed.keep_alive {
            keeper.clock.restart = Some(now);
        }
        keeper.begin_deed(turn);
        if keeper.phase() == Phase::Ready {
            keeper.begin_startup();
        }
        yard.tasks.spawn(keeper.keep());
    }

    async fn keep(mut self) {
        let leaving = self.yard.leaving.clone();
        loop {
            let next = self.clock.next(self.phase(), self.shared.gate.leases() > 0);
            self.keep_vigil();
            tokio::select! {
                () = leaving.cancelled() => break,
                result = ended(&mut self.deed) => {
                    self.deed = None;
                    fail::point("deed: done");
                    self.hear_of_deed(result).await;
                }
                message = self.mailbox.recv() => match message {
                    Some(message) => self.take(message).await,
                    None => break,
                },
                () = self.shared.activity_changed.notified() => {
                    self.has_worked();
                    self.store_activity().await;
                }
                watched = death::over(&mut self.vigil) => self.hear_of_end(watched).await,
                due = clock::wait(next) => self.come(due).await,
            }
            if self.phase() == Phase::Deleted {
                self.yard.registry.remove(&self.shared.fixed);
                let id = self.shared.fixed.id.clone();
                drop(self.yard.tasks.spawn(Arc::clone(&self.yard).forget_outputs_of(id)));
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
                if answer.is_ok() {
                    self.clock.succeeded();
                }
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
            Message::Init(command, reply) => {
                let answer = self.set_init(command).await;
                let _ = reply.send(answer);
            }
            Message::Gone => {
                if self.phase() == Phase::Ready && self.is_gone().await {
                    // Its disk may be there: the call that clears up after it says whether it is.
                    self.has_died().await;
                }
            }
            Message::Relieve(reply) => {
                let answer = if self.phase() == Phase::Paused {
                    self.halt = Halt::ShortOfMemory;
                    self.want(Wanted::Stop).await
                } else {
                    Ok(())
                };
                let _ = reply.send(answer);
            }
        }
    }

    async fn want(&mut self, wanted: Wanted) -> Result<(), BoxError> {
        let phase = self.phase();
        if wanted == Wanted::Pause && self.shared.fixed.keep_alive {
            return Err(BoxError::KeptAlive);
        }
        let (next, _) = match lifecycle::ask(phase, wanted) {
            Ok(Asked::Already) => return Ok(()),
            Ok(Asked::Go(next, deed)) => (next, deed),
            Err(Refused::Busy) => return Err(BoxError::Busy),
            Err(Refused::Failed) => return Err(self.shared.failure().unwrap_or(BoxError::Busy)),
            Err(Refused::Gone) => return Err(BoxError::NotFound),
        };
        if matches!(next, Phase::Resuming { .. }) {
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
            self.startup = None;
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

    /// Whether the engine does not have a box that takes work. Whoever says so may have come too late for a box that was stopped.
    async fn is_gone(&self) -> bool {
        let connected = timeout(LOOK_DEADLINE, self.yard.engine.connect(&self.shared.fixed.id)).await;
        matches!(connected, Ok(Err(error)) if error.kind == ErrorKind::NotFound)
    }

    async fn hear_of_deed(&mut self, result: Result<Done, EngineError>) {
        match result {
            Ok(done) => {
                // A stopped box that goes on was started by a server that was killed before it could note that.
                let was_stopped = self.phase() == Phase::Resuming { from: Asleep::Stopped };
                if done == Done::Started || was_stopped {
                    self.has_started().await;
                }
                self.hear(Report::Done, None).await;
            }
            Err(error) => {
                let id = &self.shared.fixed.id;
                let report = match (self.phase(), error.kind) {
                    (
                        Phase::Deleting
                        | Phase::Pausing
                        | Phase::Stopping
                        | Phase::Resuming { .. }
                        | Phase::Saving { .. },
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
            let setback = match (report, phase.deed(), &why) {
                (Report::Failed, Some(deed), Some(why)) => Some((deed, why.clone())),
                _ => None,
            };
            let failure = if next == Phase::Failed { why } else { None };
            self.shared.gate.close();
            let text = failure.as_ref().map(|failure| failure.text.to_string());
            if !self.store_phase_surely(next, text.clone()).await {
                return;
            }
            match (phase, next) {
                (Phase::Resuming { .. }, Phase::Paused | Phase::Stopped) => self.doze(),
                (Phase::Resuming { .. }, Phase::Ready) => self.woken = false,
                (_, Phase::Stopped) => self.place.sleep(),
                _ => {}
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
                (Phase::Pausing, Phase::Paused) => self.log(LogLevel::Info, "Box paused"),
                (Phase::Stopping, Phase::Stopped) => self.tell_of_halt(),
                (Phase::Resuming { from: Asleep::Paused }, Phase::Ready) => self.log(LogLevel::Info, "Box resumed"),
                (Phase::Resuming { from: Asleep::Stopped }, Phase::Ready) => {
                    self.log(LogLevel::Info, "Box resumed: started anew with its disk");
                }
                _ => {}
            }
            if let Some((deed, Failure { text, .. })) = &setback {
                self.log(LogLevel::Error, &format!("Box could not be {}: {text}", deed.done_to()));
            }
            if report == Report::Failed {
                self.clock.failed(Instant::now());
            } else {
                self.clock.succeeded();
            }
            self.publish_with(next, failure, setback);
            if next == Phase::Paused {
                self.yard.relief.has_frozen();
            }
            if next == Phase::Ready {
                self.halt = Halt::Paused;
                // That it was saved, or could not be paused, is no work in it.
                if matches!(phase, Phase::Creating | Phase::Resuming { .. }) {
                    self.clock.idle_since = Instant::now();
                }
                self.begin_startup();
            } else if next == Phase::Stopped || next == Phase::Failed {
                self.startup = None;
            } else if phase == Phase::Pausing {
                self.clock.paused_since = Instant::now();
            }
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
        self.publish_with(phase, failure, None);
    }

    /// The same, with what has failed if something has.
    fn publish_with(&self, phase: Phase, failure: Option<Failure>, setback: Option<(Deed, Failure)>) {
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
                state.since = Instant::now();
                if phase == Phase::Stopping {
                    state.halts += 1;
                    state.halt = self.halt;
                }
            }
            state.phase = phase;
            state.failure = failure;
            state.setback = setback;
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
        let (engine, shared) = (Arc::clone(&self.yard.engine), Arc::clone(&self.shared));
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
            fail::point("deed: begun");
            let id = &shared.fixed.id;
            let call = async {
                let done = |()| Done::Plainly;
                match deed {
                    Deed::Create => {
                        engine.create(&shared.fixed.spec).await?;
                        git::introduce(&yard, &shared).await;
                        Ok(Done::Plainly)
                    }
                    Deed::Remove => engine.remove(id).await.map(done),
                    Deed::Pause => {
                        // What is just being started there is started first.
                        let _none_starts = shared.starts.write().await;
                        engine.pause(id).await.map(done)
                    }
                    Deed::Stop => engine.stop(id).await.map(done),
                    Deed::Resume => engine.resume(id).await.map(|resumed| match resumed {
                        Resumed::Thawed => Done::Plainly,
                        Resumed::Started => Done::Started,
                    }),
                    Deed::Save => yard.save(id, saving).await.map(done),
                }
            };
            let deadline = match deed {
                Deed::Create => CREATE_DEADLINE,
                Deed::Save => SAVE_DEADLINE,
                Deed::Pause | Deed::Stop | Deed::Resume | Deed::Remove => DEED_DEADLINE,
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
        Deed::Stop => "stopping the box in time",
        Deed::Resume => "resuming the box in time",
        Deed::Save => "saving the box in time",
    };
    EngineError::new(ErrorKind::Broken, doing).about(id)
}

/// Waits for a deed; for ever when there is none.
async fn ended(deed: &mut Option<AbortOnDropHandle<Result<Done, EngineError>>>) -> Result<Done, EngineError> {
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
mod tests;
