//! Runs: orders that are being carried out or were. One record each, whatever door they came through.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use boxyard_engine::agent::AgentError;
use boxyard_proto::api::logs::{LogLevel, LogSource};
use boxyard_proto::api::runs::{RunData, RunStatus, RunType};
use boxyard_proto::wire::Exit;
use boxyard_proto::{BoxId, RunId};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::halt::Halt;
use super::keeper::backoff;
use super::kept::{Kept, Lease};
use super::order::Order;
use super::output::{Output, Share};
use super::pipe::{self, Reader};
use super::spool::{Pen, Spool};
use super::work::{Sink, Work, Worked};
use super::{BoxError, Boxes, Yard, chain, memory, now_ms};
use crate::metrics::Door;
use crate::store::{Claim, ClaimRow, LogRow, OutputRow, RunEnd, RunRow, StoreError};

/// How long a cancellation waits for the run's end before it is answered all the same.
const CANCEL_WAIT: Duration = Duration::from_secs(20);
/// Characters of a prompt that the log shows.
const LOG_PROMPT_CHARS: usize = 200;

/// A run that has been started. Dropping it does not end the run.
#[derive(Debug)]
pub struct Started {
    /// Its id, known before anything happens.
    pub id: RunId,
    /// Resolves when its record is stored; fails when that was not possible. Says which run was begun under the same claim before, if one
    /// was: then this one does not exist, and has no end.
    pub recorded: oneshot::Receiver<Option<ClaimRow>>,
    /// How it ended.
    pub end: oneshot::Receiver<Collected>,
}

/// What came out of a run.
#[derive(Debug)]
pub struct Collected {
    /// How it ended.
    pub ending: Ending,
    /// Its standard output as far as it was held; empty for a streamed run.
    pub out: Vec<u8>,
    /// Its standard error as far as it was held; empty for a streamed run.
    pub err: Vec<u8>,
    /// Whether there was more than is held.
    pub truncated: bool,
    /// The output's share of what may be held. To be dropped when the output is.
    pub share: Share,
}

impl Collected {
    fn new(ending: Ending, output: Option<Output>) -> Self {
        match output {
            Some(Output { out, err, truncated, share, .. }) => Self { ending, out, err, truncated, share },
            None => Self { ending, out: Vec::new(), err: Vec::new(), truncated: false, share: Share::default() },
        }
    }
}

/// How a run ended.
#[derive(Debug)]
pub enum Ending {
    /// Its program exited.
    Exited(Exit),
    /// It took longer than it might, and was ended.
    TimedOut(Duration, Exit),
    /// It was cancelled.
    Cancelled(Exit),
    /// Its program could not be started.
    NotStarted(AgentError),
    /// Its record could not be stored, so that it was not started.
    NotRecorded(StoreError),
    /// Its box was deleted or lost.
    BoxEnded,
    /// Its box's processes have ended, for this reason; the box is there and can be used.
    Stopped(Halt),
    /// The connection to it was lost.
    Lost(AgentError),
    /// It was begun by an earlier server, and its box does not know it.
    Unknown,
    /// The server leaves; the run goes on and the next server takes it over.
    Left,
}

impl Ending {
    fn exit(&self) -> Option<Exit> {
        match self {
            Self::Exited(exit) | Self::TimedOut(_, exit) | Self::Cancelled(exit) => Some(*exit),
            Self::NotStarted(_)
            | Self::NotRecorded(_)
            | Self::BoxEnded
            | Self::Stopped(_)
            | Self::Lost(_)
            | Self::Unknown
            | Self::Left => None,
        }
    }

    fn status(&self) -> RunStatus {
        match self {
            Self::Exited(Exit { code: 0, .. }) => RunStatus::Completed,
            Self::Cancelled(_) => RunStatus::Cancelled,
            Self::Left => RunStatus::Running,
            Self::Exited(_)
            | Self::TimedOut(..)
            | Self::NotStarted(_)
            | Self::NotRecorded(_)
            | Self::BoxEnded
            | Self::Stopped(_)
            | Self::Lost(_)
            | Self::Unknown => RunStatus::Failed,
        }
    }

    /// What to tell its user beside an exit code, if anything.
    pub fn complaint(&self) -> Option<String> {
        match self {
            Self::Exited(_) | Self::Cancelled(_) => None,
            Self::TimedOut(after, _) => Some(format!("code timed out after {} ms", after.as_millis())),
            Self::NotStarted(error) => Some(format!("could not be started: {error}").replace('\0', "\u{fffd}")),
            Self::NotRecorded(_) => Some("could not be recorded, so it was not started".into()),
            Self::BoxEnded => Some("the box was deleted or lost while this ran".into()),
            Self::Stopped(halt) => Some(halt.complaint().into()),
            Self::Lost(error) => Some(error.to_string()),
            Self::Unknown => Some("lost when the server was restarted".into()),
            Self::Left => Some("the server is shutting down; the run goes on".into()),
        }
    }

    /// CPU time of its process tree in nanoseconds, 0 when that is not known.
    pub fn cpu_ns(&self) -> i64 {
        self.exit().map_or(0, |exit| i64::try_from(exit.cpu_ns).unwrap_or(i64::MAX))
    }

    /// The exit code to report: 124 for a timeout, as the program `timeout` does.
    pub fn code(&self) -> Option<i32> {
        match self {
            Self::TimedOut(..) => Some(124),
            Self::Exited(exit) | Self::Cancelled(exit) => Some(exit.code),
            Self::NotStarted(_)
            | Self::NotRecorded(_)
            | Self::BoxEnded
            | Self::Stopped(_)
            | Self::Lost(_)
            | Self::Unknown
            | Self::Left => None,
        }
    }
}

/// The runs that this server carries out now.
#[derive(Default)]
pub(super) struct LiveRuns(Mutex<HashMap<RunId, Live>>);

#[derive(Clone)]
pub(super) struct Live {
    box_id: BoxId,
    cancel: CancellationToken,
    pub(super) ended: CancellationToken,
    /// Its output, once that has been found.
    pub(super) spool: Arc<watch::Sender<Option<Arc<Spool>>>>,
}

impl LiveRuns {
    fn lock(&self) -> MutexGuard<'_, HashMap<RunId, Live>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn find(&self, box_id: &BoxId, id: &RunId) -> Option<Live> {
        self.lock().get(id).filter(|live| live.box_id == *box_id).cloned()
    }
}

/// Keeps a run in [`LiveRuns`] for as long as it is carried out, whichever way that ends.
struct Listed {
    yard: Arc<Yard>,
    id: RunId,
    live: Live,
}

impl Listed {
    fn new(yard: &Arc<Yard>, id: &RunId, box_id: &BoxId) -> Self {
        let live = Live {
            box_id: box_id.clone(),
            cancel: CancellationToken::new(),
            ended: CancellationToken::new(),
            spool: Arc::new(watch::Sender::new(None)),
        };
        yard.runs.lock().insert(id.clone(), live.clone());
        yard.metrics.execs_running.inc();
        Self { yard: Arc::clone(yard), id: id.clone(), live }
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.yard.runs.lock().remove(&self.id);
        self.yard.metrics.execs_running.dec();
        self.live.ended.cancel();
        // Those who follow a run that goes on without this server hear that the server leaves.
        if let (Some(spool), false) = (&*self.live.spool.borrow(), self.yard.leaving.is_cancelled()) {
            spool.publish(true);
        }
    }
}

impl Boxes {
    /// Carries an order out and holds its output, up to the configured cap.
    pub fn run(&self, lease: Lease, order: Order, claim: Option<Claim>, door: &'static str) -> Started {
        let (reply, end) = oneshot::channel();
        self.start(lease, (order, claim), door, Sink::Hold(self.yard.outputs.output()), reply, end)
    }

    /// Carries an order out and hands its output on as it comes; a slow reader slows the program. When the reader is dropped the
    /// program goes on.
    pub fn stream(&self, lease: Lease, order: Order, claim: Option<Claim>, door: &'static str) -> (Started, Reader) {
        let (reply, end) = oneshot::channel();
        let (writer, reader) = pipe::pipe();
        (self.start(lease, (order, claim), door, Sink::Pipe(writer), reply, end), reader)
    }

    /// Carries an order out and hands its output to nobody.
    pub fn detach(&self, lease: Lease, order: Order, claim: Option<Claim>, door: &'static str) -> Started {
        let (reply, end) = oneshot::channel();
        self.start(lease, (order, claim), door, Sink::Drop, reply, end)
    }

    fn start(
        &self,
        lease: Lease,
        (order, claim): (Order, Option<Claim>),
        door: &'static str,
        sink: Sink,
        reply: oneshot::Sender<Collected>,
        end: oneshot::Receiver<Collected>,
    ) -> Started {
        let id = RunId::from_entropy(rand::random());
        let (stored, recorded) = oneshot::channel();
        let listed = Listed::new(&self.yard, &id, lease.kept().id());
        self.yard.metrics.execs.get_or_create(&Door { door }).inc();
        let run = Run { yard: Arc::clone(&self.yard), lease, id: id.clone(), listed, begun_at: now_ms() };
        self.yard.tasks.spawn(run.carry_out(order, claim, sink, stored, reply));
        Started { id, recorded, end }
    }

    /// Takes a run over that an earlier server began.
    pub(super) fn take_over(&self, lease: Lease, row: RunRow) {
        let listed = Listed::new(&self.yard, &row.id, lease.kept().id());
        let run = Run { yard: Arc::clone(&self.yard), lease, id: row.id.clone(), listed, begun_at: row.created_at };
        self.yard.tasks.spawn(run.take_over(row.timeout_ms));
    }

    /// Records the `end` of a run that is lost, when it is known what is kept of its output.
    pub(super) fn lose_later(&self, row: RunRow, end: fn(&RunRow, OutputRow) -> RunEnd) {
        let listed = Listed::new(&self.yard, &row.id, &row.box_id);
        let yard = Arc::clone(&self.yard);
        self.yard.tasks.spawn(async move {
            let pen = yard.spools.resume(&row.box_id, &row.id).await;
            listed.live.spool.send_replace(Some(Arc::clone(pen.spool())));
            let end = end(&row, pen.finish().await);
            if let Err(error) = yard.store.finish_run(row.id.clone(), end.clone()).await {
                tracing::error!(run_id = %row.id, error = chain(&error), "a run's end could not be recorded");
                record_later(listed, row.id, end).await;
            }
        });
    }

    /// The box's newest runs.
    ///
    /// # Errors
    /// The store failed.
    pub async fn list_runs(&self, kept: &Kept, limit: u32) -> Result<Vec<RunData>, BoxError> {
        Ok(self.yard.store.list_runs(kept.id(), limit).await?.into_iter().map(run_data).collect())
    }

    /// One run of the box.
    ///
    /// # Errors
    /// It has none with this id, or the store failed.
    pub async fn find_run(&self, kept: &Kept, id: &str) -> Result<RunData, BoxError> {
        let id = id.parse::<RunId>().map_err(|_| BoxError::RunNotFound)?;
        self.yard.store.find_run(kept.id(), &id).await?.map(run_data).ok_or(BoxError::RunNotFound)
    }

    /// Ends a run's whole process tree, and returns when the run is recorded as cancelled. Cancelling it again changes nothing.
    ///
    /// # Errors
    /// The box has no such run, or it has ended by itself.
    pub async fn cancel_run(&self, kept: &Kept, id: &str) -> Result<(), BoxError> {
        let id = id.parse::<RunId>().map_err(|_| BoxError::RunNotFound)?;
        if let Some(live) = self.yard.runs.find(kept.id(), &id) {
            live.cancel.cancel();
            timeout(CANCEL_WAIT, live.ended.cancelled()).await.map_err(|_| BoxError::Busy)?;
        }
        match self.yard.store.find_run(kept.id(), &id).await? {
            None => Err(BoxError::RunNotFound),
            Some(RunRow { status: RunStatus::Cancelled, .. }) => Ok(()),
            Some(row) => Err(BoxError::RunEnded(row.status)),
        }
    }
}

/// One run, from its record to its record's end.
struct Run {
    yard: Arc<Yard>,
    lease: Lease,
    id: RunId,
    listed: Listed,
    begun_at: i64,
}

impl Run {
    async fn carry_out(
        self,
        order: Order,
        claim: Option<Claim>,
        sink: Sink,
        stored: oneshot::Sender<Option<ClaimRow>>,
        reply: oneshot::Sender<Collected>,
    ) {
        let pen = self.yard.spools.begin(self.lease.kept().id(), &self.id);
        self.listed.live.spool.send_replace(Some(Arc::clone(pen.spool())));
        let row = RunRow {
            id: self.id.clone(),
            box_id: self.lease.kept().id().clone(),
            account: self.lease.kept().account().clone(),
            kind: RunType::Shell,
            status: RunStatus::Running,
            prompt: order.prompt.clone(),
            exit_code: None,
            cpu_ns: 0,
            memory_peak: 0,
            created_at: self.begun_at,
            completed_at: None,
            error: None,
            timeout_ms: order.timeout.map(|limit| i64::try_from(limit.as_millis()).unwrap_or(i64::MAX)),
        };
        let shown: String = order.prompt.chars().take(LOG_PROMPT_CHARS).collect();
        let inserted = match claim {
            Some(claim) => self.yard.store.insert_claimed_run(row, claim).await,
            None => self.yard.store.insert_run(row).await.map(|()| None),
        };
        let before = match inserted {
            Ok(before) => before,
            Err(error) => {
                tracing::error!(run_id = %self.id, error = chain(&error), "a run could not be recorded");
                drop(stored);
                let ending = Ending::NotRecorded(error);
                let worked = Worked { ending, output: sink.collected(), pen, job: None };
                self.end(worked, Some(reply)).await;
                return;
            }
        };
        let claimed = before.is_some();
        // The client of a run that is neither detached nor claimed does not listen.
        let _ = stored.send(before);
        if claimed {
            return;
        }
        self.log(LogLevel::Info, format!("Run {} started: {shown}", self.id));
        let worked = self.work(sink, pen).start(&self.id, order, &reply).await;
        self.end(worked, Some(reply)).await;
    }

    async fn take_over(self, timeout_ms: Option<i64>) {
        let begun_at = self.begun_at;
        let limit = timeout_ms.map(|limit| {
            let span = |ms: i64| Duration::from_millis(u64::try_from(ms).unwrap_or(0));
            // The time that passed without a server counts.
            (span(limit), Instant::now() + span(begun_at.saturating_add(limit).saturating_sub(now_ms())))
        });
        let pen = self.yard.spools.resume(self.lease.kept().id(), &self.id).await;
        self.listed.live.spool.send_replace(Some(Arc::clone(pen.spool())));
        let worked = self.work(Sink::Drop, pen).take_over(&self.id, &self.yard.take_overs, limit).await;
        self.end(worked, None).await;
    }

    fn work(&self, sink: Sink, pen: Pen) -> Work<'_> {
        Work {
            engine: self.yard.engine.as_ref(),
            lease: &self.lease,
            cancel: &self.listed.live.cancel,
            leaving: &self.yard.leaving,
            sink,
            pen,
        }
    }

    /// Records the end, then frees the box, then answers: whoever has the answer finds everything as it says.
    async fn end(self, worked: Worked, reply: Option<oneshot::Sender<Collected>>) {
        let Worked { ending, output, pen, job } = worked;
        let written = pen.end();
        let exit = ending.exit();
        let status = ending.status();
        let mut unrecorded = None;
        if let Ending::NotStarted(AgentError::Engine(error)) | Ending::Lost(AgentError::Engine(error)) = &ending
            && error.kind == boxyard_engine::ErrorKind::NotFound
        {
            self.lease.kept().report_gone();
        }
        if status != RunStatus::Running {
            let cpu_ns = ending.cpu_ns();
            let kept = if self.lease.kept().phase().is_gone() || matches!(ending, Ending::NotRecorded(_)) {
                pen.discard().await;
                OutputRow::default()
            } else {
                pen.finish().await
            };
            let completed_at = now_ms();
            let end = RunEnd {
                status,
                exit_code: ending.code(),
                cpu_ns,
                memory_peak: exit.map_or(0, |exit| i64::try_from(exit.memory_peak).unwrap_or(i64::MAX)),
                completed_at,
                error: ending.complaint(),
                output: kept,
            };
            self.lease.worked(cpu_ns);
            self.log_end(&ending);
            let took = Duration::from_millis(u64::try_from(completed_at - self.begun_at).unwrap_or(0));
            self.yard.metrics.exec_seconds.observe(took.as_secs_f64());
            if let Err(error) = self.yard.store.finish_run(self.id.clone(), end.clone()).await {
                tracing::error!(run_id = %self.id, error = chain(&error), "a run's end could not be recorded");
                unrecorded = Some(end);
            }
        }
        let Self { yard, lease, id, listed, .. } = self;
        if let Some(exit) = exit {
            memory::look(&yard, &lease.kept().shared, exit);
        }
        drop(lease);
        // Only when its end is recorded, so that a server that is killed before is told it once more.
        let done = job.filter(|_| exit.is_some() && unrecorded.is_none());
        match unrecorded {
            // A run without an end would be shown as running for as long as this server lives.
            Some(end) => drop(yard.tasks.spawn(record_later(listed, id, end))),
            None => drop(listed),
        }
        if let Some(reply) = reply {
            // Nobody waits when the client has left.
            let _ = reply.send(Collected::new(ending, output));
        }
        if let Some(job) = done {
            // A box that does not hear of it keeps the end until it has many others.
            let _ = job.control().taken(written, true).await;
        }
    }

    fn log_end(&self, ending: &Ending) {
        let id = &self.id;
        match ending {
            Ending::Exited(exit) if exit.code == 0 => {
                self.log(LogLevel::Info, format!("Run {id} completed with exit code 0"));
            }
            Ending::Exited(exit) => self.log(LogLevel::Warn, format!("Run {id} failed with exit code {}", exit.code)),
            Ending::Cancelled(_) => self.log(LogLevel::Warn, format!("Run {id} was cancelled")),
            Ending::TimedOut(..)
            | Ending::NotStarted(_)
            | Ending::NotRecorded(_)
            | Ending::BoxEnded
            | Ending::Stopped(_)
            | Ending::Lost(_)
            | Ending::Unknown
            | Ending::Left => {
                let complaint = ending.complaint().unwrap_or_default();
                self.log(LogLevel::Error, format!("Run {id} failed: {complaint}"));
            }
        }
    }

    fn log(&self, level: LogLevel, message: String) {
        let entry = LogRow { at: now_ms(), level, source: LogSource::User, message };
        self.yard.store.append_log_queued(self.lease.kept().id().clone(), entry);
    }
}

/// Records the end of a run that could not be recorded at once, and keeps it listed until then.
async fn record_later(listed: Listed, id: RunId, end: RunEnd) {
    let yard = &listed.yard;
    let mut failures = 0;
    loop {
        failures += 1;
        tokio::select! {
            () = sleep(backoff(failures)) => {}
            // The next server asks the box how the run ended.
            () = yard.leaving.cancelled() => return,
        }
        match yard.store.finish_run(id.clone(), end.clone()).await {
            Ok(_) | Err(StoreError::Closed) => return,
            Err(error) => tracing::error!(run_id = %id, error = chain(&error), "a run's end is still not recorded"),
        }
    }
}

fn run_data(row: RunRow) -> RunData {
    RunData {
        duration_ms: (row.completed_at.unwrap_or_else(now_ms) - row.created_at).max(0),
        id: row.id,
        box_id: row.box_id,
        customer_id: row.account,
        r#type: row.kind,
        status: row.status,
        prompt: row.prompt,
        input_tokens: 0,
        output_tokens: 0,
        cpu_ns: row.cpu_ns,
        cost_usd: 0.0,
        compute_cost_usd: 0.0,
        created_at: row.created_at / 1000,
        completed_at: row.completed_at.map(|at| at / 1000),
        error_message: row.error,
    }
}
