//! The part of a run that talks to its job: pass bytes on, and end the job when somebody says so.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use boxyard_engine::agent::{self, AgentError, Event, Job, JobControl};
use boxyard_engine::{Engine, EngineError, ErrorKind, fail};
use boxyard_proto::RunId;
use boxyard_proto::wire::{self, Exit, OnClose, User};
use bytes::Bytes;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::kept::{Kept, Lease};
use super::order::Order;
use super::output::{Output, Stream};
use super::pipe::Writer;
use super::runs::{Collected, Ending};
use super::spool::Pen;

/// Between TERM and KILL when a run is ended.
const END_GRACE: Duration = Duration::from_secs(2);
/// How long after KILL a box may take to say that the run has ended. Then the run is over whatever the box says.
const END_DEADLINE: Duration = Duration::from_secs(10);
/// Bytes between what is written down of a run's output and what its box still has, at most. More is a lie.
const MISSING_MAX: u64 = 1 << 50;
/// What every command of a user gets beside the box's own environment.
pub(super) const ENVIRONMENT: [&str; 4] = ["HOME=/home/boxuser", "USER=boxuser", "LOGNAME=boxuser", "SHELL=/bin/bash"];

/// Where output goes.
pub(super) enum Sink {
    /// Is held.
    Hold(Output),
    /// Goes to a reader, both streams as one.
    Pipe(Writer),
    /// Goes nowhere.
    Drop,
}

impl Sink {
    async fn take(&mut self, stream: Stream, bytes: Bytes) {
        match self {
            Self::Hold(output) => output.hold(stream, &bytes),
            Self::Pipe(_) => self.pipe(bytes).await,
            Self::Drop => {}
        }
    }

    async fn pipe(&mut self, bytes: Bytes) {
        if let Self::Pipe(writer) = self
            && writer.send(bytes).await.is_err()
        {
            *self = Self::Drop;
        }
    }

    /// See [`Writer::hurry`].
    fn hurry(&self) -> CancellationToken {
        match self {
            Self::Pipe(writer) => writer.hurry(),
            Self::Hold(..) | Self::Drop => CancellationToken::new(),
        }
    }

    /// What is held. A pipe ends with this.
    pub(super) fn collected(self) -> Option<Output> {
        match self {
            Self::Hold(output) => Some(output),
            Self::Pipe(_) | Self::Drop => None,
        }
    }
}

/// A job's surroundings.
pub(super) struct Work<'a> {
    pub(super) engine: &'a dyn Engine,
    pub(super) lease: &'a Lease,
    pub(super) cancel: &'a CancellationToken,
    pub(super) leaving: &'a CancellationToken,
    pub(super) sink: Sink,
    /// Writes its output down.
    pub(super) pen: Pen,
}

/// What came of a job.
pub(super) struct Worked {
    pub(super) ending: Ending,
    /// What was held of its output.
    pub(super) output: Option<Output>,
    pub(super) pen: Pen,
    /// The connection on which it is to be said that its end is recorded, if it is of use for that.
    pub(super) job: Option<Job>,
}

/// Why a job is being ended.
#[derive(Debug, Clone, Copy)]
enum Reason {
    Cancelled,
    TimedOut(Duration),
}

impl Reason {
    fn ending(self, exit: Exit) -> Ending {
        match self {
            Self::Cancelled => Ending::Cancelled(exit),
            Self::TimedOut(after) => Ending::TimedOut(after, exit),
        }
    }
}

/// What happened to a job that was followed.
enum Followed {
    /// It is over; whether its connection is of further use: all of its input has been sent.
    Over { ending: Ending, fed: bool },
    /// It must be ended, and its connection is of no use for that: it is full of input that the job does not read.
    Stuck(Reason),
}

impl Work<'_> {
    /// Starts the order's program and follows it to its end. A collector whose client has left (`reply` is closed) stops holding.
    pub(super) async fn start(self, id: &RunId, order: Order, reply: &oneshot::Sender<Collected>) -> Worked {
        let limit = order.timeout.map(|limit| (limit, Instant::now() + limit));
        let exec = wire::Exec {
            env: ENVIRONMENT.iter().map(|&variable| variable.to_owned()).collect(),
            stdin: order.input.is_some(),
            on_close: OnClose::Keep,
            spool: true,
            ..wire::Exec::new(id.to_string(), order.argv, order.folder, User::BOXUSER)
        };
        let (kept, halts) = (self.lease.kept(), self.lease.kept().halts());
        let starting = async {
            let mut started = begin(self.engine, kept, exec.clone()).await;
            if let Err(error) = &started
                && kept.revived(halts, error).await
            {
                started = begin(self.engine, kept, exec).await;
            }
            match started {
                Err(error @ AgentError::Lost { .. }) => Err(match kept.halted_since(halts).await {
                    Some(halt) => Ending::Stopped(halt),
                    None => Ending::NotStarted(error),
                }),
                started => started.map_err(Ending::NotStarted),
            }
        };
        let job = tokio::select! {
            biased;
            () = self.lease.over().cancelled() => Err(Ending::BoxEnded),
            () = self.leaving.cancelled() => Err(Ending::Left),
            job = starting => job,
        };
        fail::point("run: begun");
        match job {
            Err(ending) => self.over(ending, None),
            Ok(job) => self.see_through(id, job, order.input, limit, Some(reply)).await,
        }
    }

    /// Finds a job that an earlier server started, when it is its turn, and follows it to its end.
    pub(super) async fn take_over(
        mut self,
        id: &RunId,
        turns: &Semaphore,
        limit: Option<(Duration, Instant)>,
    ) -> Worked {
        let kept = self.lease.kept();
        let attaching = async {
            // One that is frozen with its box is waited for.
            if !kept.shared.goes_on().await {
                return None;
            }
            let _turn = turns.acquire().await;
            let _awake = kept.shared.awake().await;
            Some(agent::attach(self.engine, kept.id(), id.to_string(), Some(self.pen.end())).await)
        };
        let job = tokio::select! {
            biased;
            () = self.lease.over().cancelled() => return self.over(Ending::BoxEnded, None),
            () = self.leaving.cancelled() => return self.over(Ending::Left, None),
            job = attaching => job,
        };
        let ending = match job {
            None => Ending::Stopped(self.lease.kept().halt()),
            Some(Err(AgentError::Refused { .. })) => Ending::Unknown,
            Some(Err(error)) => Ending::Lost(error),
            Some(Ok(job)) => match catch_up(&mut self.pen, &job) {
                Ok(()) => return self.see_through(id, job, None, limit, None).await,
                Err(error) => Ending::Lost(error),
            },
        };
        self.over(ending, None)
    }

    fn over(self, ending: Ending, job: Option<Job>) -> Worked {
        Worked { ending, output: self.sink.collected(), pen: self.pen, job }
    }

    async fn see_through(
        mut self,
        id: &RunId,
        mut job: Job,
        input: Option<Bytes>,
        limit: Option<(Duration, Instant)>,
        reply: Option<&oneshot::Sender<Collected>>,
    ) -> Worked {
        match self.follow(&mut job, input, limit, reply).await {
            Followed::Over { ending, fed } => self.over(ending, fed.then_some(job)),
            Followed::Stuck(reason) => {
                let ending = self.end_anew(id, reason).await;
                self.over(ending, None)
            }
        }
    }

    async fn follow(
        &mut self,
        job: &mut Job,
        input: Option<Bytes>,
        limit: Option<(Duration, Instant)>,
        reply: Option<&oneshot::Sender<Collected>>,
    ) -> Followed {
        let (control, hurry, halts) = (job.control(), self.sink.hurry(), self.lease.kept().halts());
        let mut feeding = input.is_some();
        let mut feed = pin!(feed(control.clone(), input));
        let spool = Arc::clone(self.pen.spool());
        let mut pump = pin!(pump(job, &mut self.sink, &mut self.pen, reply));
        let mut ending: Option<(Reason, Instant)> = None;
        loop {
            let deadline = ending.map(|(_, deadline)| deadline).or_else(|| limit.map(|(_, at)| at));
            let over = |ending| Followed::Over { ending, fed: !feeding };
            let reason = tokio::select! {
                biased;
                () = self.lease.over().cancelled() => return over(Ending::BoxEnded),
                () = self.leaving.cancelled() => return over(Ending::Left),
                result = &mut pump => return over(match (result, ending) {
                    (Ok(exit), Some((reason, _))) => reason.ending(exit),
                    // What stops a box kills what is in it, and the news of that may come first.
                    (Ok(Exit { signal: Some(_), .. }), None) if self.lease.kept().phase().is_stopped() => {
                        Ending::Stopped(self.lease.kept().halt())
                    }
                    (Ok(exit), None) => Ending::Exited(exit),
                    (Err(_), Some((reason, _))) => reason.ending(KILLED),
                    (Err(error), None) => match self.lease.kept().halted_since(halts).await {
                        Some(halt) => Ending::Stopped(halt),
                        None => Ending::Lost(error),
                    },
                }),
                () = self.cancel.cancelled(), if ending.is_none() => Reason::Cancelled,
                () = until(deadline) => match (ending, limit) {
                    (None, Some((after, _))) => Reason::TimedOut(after),
                    (Some((reason, _)), _) => return over(reason.ending(KILLED)),
                    (None, None) => continue,
                },
                () = &mut feed, if feeding => {
                    feeding = false;
                    // It may not have been possible to say so meanwhile, and the program may wait for it. If the connection is broken
                    // the pump finds out, too.
                    let _ = control.taken(spool.safe(), false).await;
                    continue;
                }
            };
            // A reader that has stopped reading must not keep the end from being heard of.
            hurry.cancel();
            if feeding {
                return Followed::Stuck(reason);
            }
            ending = Some((reason, Instant::now() + END_GRACE + END_DEADLINE));
            if control.end(END_GRACE).await.is_err() {
                // The connection is broken; the pump finds out too and says what is known of the end.
                tracing::debug!("a job could not be told to end");
            }
        }
    }

    /// Ends a job over a new connection.
    async fn end_anew(&mut self, id: &RunId, reason: Reason) -> Ending {
        let (engine, lease, leaving, pen) = (self.engine, self.lease, self.leaving, &mut self.pen);
        let over = async {
            let mut job = agent::attach(engine, lease.kept().id(), id.to_string(), Some(pen.end())).await?;
            catch_up(pen, &job)?;
            job.control().end(END_GRACE).await?;
            pump(&mut job, &mut Sink::Drop, pen, None).await
        };
        let over = timeout(END_GRACE + END_DEADLINE, over);
        tokio::select! {
            biased;
            () = lease.over().cancelled() => Ending::BoxEnded,
            () = leaving.cancelled() => Ending::Left,
            exit = over => match exit {
                Ok(Ok(exit)) => reason.ending(exit),
                Ok(Err(_)) | Err(_) => reason.ending(KILLED),
            },
        }
    }
}

/// What is reported of a job that was ended and did not say how it ended.
const KILLED: Exit = Exit { code: 137, signal: Some(9), cpu_ns: 0, memory_peak: 0 };

/// Notes what is missing between what is written down and what the box still has.
fn catch_up(pen: &mut Pen, job: &Job) -> Result<(), AgentError> {
    let missing = job.from().saturating_sub(pen.end());
    if missing > MISSING_MAX {
        return Err(AgentError::Protocol(format!("{missing} bytes of output that nobody has seen")));
    }
    if missing > 0 {
        pen.skip_to(job.from());
    }
    Ok(())
}

async fn begin(engine: &dyn Engine, kept: &Kept, exec: wire::Exec) -> Result<Job, AgentError> {
    let awake = kept.awake().await;
    let _awake =
        awake.map_err(|error| AgentError::Engine(EngineError::new(ErrorKind::Exhausted, error.to_string())))?;
    agent::exec(engine, kept.id(), exec).await
}

async fn feed(control: JobControl, input: Option<Bytes>) {
    let Some(input) = input else { return };
    // A program that exits without reading all of its input is no failure.
    if control.input(&input).await.is_ok() {
        let _ = control.end_input().await;
    }
}

async fn pump(
    job: &mut Job,
    sink: &mut Sink,
    pen: &mut Pen,
    reply: Option<&oneshot::Sender<Collected>>,
) -> Result<Exit, AgentError> {
    let control = job.control();
    loop {
        let (stream, bytes) = match job.next().await? {
            Event::Out(bytes) => (Stream::Out, bytes),
            Event::Err(bytes) => (Stream::Err, bytes),
            Event::Exit(exit) => return Ok(exit),
        };
        let (is_safer, ()) = tokio::join!(pen.append(stream, bytes.clone()), sink.take(stream, bytes));
        if is_safer {
            // A broken connection shows in the next read, after what is still in it.
            let _ = control.taken(pen.safe(), false).await;
        }
        if let Sink::Hold(..) = sink
            && reply.is_some_and(oneshot::Sender::is_closed)
        {
            *sink = Sink::Drop;
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
