//! The task of one context: it owns the interpreter, runs one piece of code after the other in it, and ends with it.
//!
//! ```text
//!            ┌─ code ─────────────▶ Live ──┐ the interpreter ends, lies or does not stop
//!   start ───┘                       ▲     ▼
//!                  the next code ────┴── Dead
//! ```
//! The task holds no lease by itself, so a box whose contexts are idle is idle; a piece of code brings one. The context is over when its
//! box's processes are, when it is deleted, when it has not been used for long, and when the server leaves: dropping the interpreter's
//! connection ends it in the box, with all that it started.

use std::future::pending;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use boxyard_proto::api::contexts::{CodeError, ContextStatus};
use boxyard_proto::api::logs::LogLevel;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::DropGuard;

use super::ContextError;
use super::answer::Sink;
use super::context::{Context, Order, Queues, Steer};
use super::driver;
use super::interpreter::{CellEnd, Interpreter, NotStarted, count, said_of};
use super::list::Counted;
use crate::boxes::Yard;
use crate::boxes::kept::{Kept, Lease, State};
use crate::boxes::lifecycle::Phase;

/// How often code that is over its time is interrupted before its interpreter is ended: it may catch the first interrupt.
const INTERRUPTS: u32 = 2;
/// How long code may take to come to its end after each.
const INTERRUPT_GRACE: Duration = Duration::from_secs(2);
/// How long a signal on its way is waited for.
const SIGNAL_DEADLINE: Duration = Duration::from_secs(2);

/// The task's own part of a context.
pub(super) struct Course {
    pub(super) yard: Arc<Yard>,
    pub(super) kept: Kept,
    pub(super) context: Arc<Context>,
    pub(super) queues: Queues,
    pub(super) now: Now,
    /// How often the box's processes had ended when the context was made: it does not outlive them.
    pub(super) halts: u64,
    pub(super) counted: Counted,
}

/// What there is of the interpreter.
pub(super) enum Now {
    Live(Box<Interpreter>),
    /// It has ended; why.
    Dead(String),
}

/// Why a context is over.
#[derive(Debug, Clone)]
pub(super) enum Over {
    /// The server leaves.
    Leaving,
    /// A text that continues "the context is over: ".
    Because(String),
}

/// What came of following a piece of code.
enum Verdict {
    /// It came to its end, perhaps after so long a time had been too long for it.
    End(CellEnd, Option<Duration>),
    /// It does not come to its end although it was interrupted when it had taken so long.
    Overdue(Duration),
    /// Somebody wants a new interpreter.
    Restart(Lease, oneshot::Sender<Result<(), ContextError>>),
    Over(Over),
}

impl Course {
    /// From the interpreter's being ready to the context's end.
    pub(super) async fn run(mut self, _ended: DropGuard) {
        let over = self.follow().await;
        let id = self.context.facts.id.clone();
        let why = match &over {
            Over::Leaving => "the server has shut down",
            Over::Because(why) => why.as_str(),
        };
        self.kept.shared.contexts.end(&id, why);
        self.queues.orders.close();
        while let Some(order) = self.queues.orders.recv().await {
            let _ = order.reply.send(Err(ContextError::of_over(&id, &over)));
        }
        self.queues.steers.close();
        while let Some(steer) = self.queues.steers.recv().await {
            match steer {
                Steer::Interrupt(answer) => drop(answer.send(false)),
                Steer::Restart(_, answer) => drop(answer.send(Err(ContextError::of_over(&id, &over)))),
            }
        }
        if let (Over::Because(why), Now::Live(interpreter)) = (&over, self.now) {
            self.yard.say(&self.kept, LogLevel::Info, format!("Context {id} ended: {why}"));
            interpreter.end(&self.yard, &self.kept).await;
        }
        drop(self.counted);
    }

    async fn follow(&mut self) -> Over {
        let idle = self.yard.contexts.idle;
        let mut idle_at = Instant::now() + idle;
        loop {
            let next = {
                let Self { yard, kept, context, now, queues, halts, .. } = &mut *self;
                tokio::select! {
                    biased;
                    over = over(yard, kept, context, *halts) => return over,
                    Some(steer) = queues.steers.recv() => Next::Steer(steer),
                    Some(order) = queues.orders.recv() => Next::Order(Box::new(order)),
                    end = end_of(now) => Next::End(end),
                    () = sleep_until(idle_at) => Next::Idle,
                }
            };
            let is_use = !matches!(next, Next::End(_));
            let done = match next {
                Next::Steer(steer) => self.heed(steer).await,
                Next::Order(order) => self.carry_out(*order).await,
                Next::End(end) => self.heed_end(end).await.map(|why| self.has_died(why)),
                // What is frozen cannot be used, and would free nothing by its end.
                Next::Idle if !self.kept.phase().is_awake() => Ok(()),
                Next::Idle => Err(Over::Because(format!("it was not used for {} seconds", idle.as_secs()))),
            };
            if let Err(over) = done {
                return over;
            }
            if is_use {
                idle_at = Instant::now() + idle;
            }
        }
    }

    /// Does what is asked while no code runs.
    async fn heed(&mut self, steer: Steer) -> Result<(), Over> {
        match steer {
            Steer::Interrupt(answer) => drop(answer.send(false)),
            Steer::Restart(lease, answer) => {
                let old = std::mem::replace(&mut self.now, Now::Dead("it was being started anew".into()));
                if let Now::Live(interpreter) = old {
                    self.discard(interpreter).await;
                }
                let begun = self.begin().await?;
                // Whoever asked may have left.
                let _ = answer.send(begun.map_err(|error| ContextError::of_start(error, &self.context.facts)));
                drop(lease);
            }
        }
        Ok(())
    }

    /// Runs a piece of code.
    async fn carry_out(&mut self, order: Order) -> Result<(), Over> {
        let Order { code, timeout: limit, lease, mut sink, mut reply, restarts, share: _share } = order;
        // Code that nobody waits for any more is not begun; what has been begun goes on.
        if reply.is_closed() {
            return Ok(());
        }
        if restarts != self.context.restarts() {
            let _ = reply.send(Err(ContextError::Superseded));
            return Ok(());
        }
        let mut note = None;
        if let Now::Dead(why) = &self.now {
            let why = format!("the interpreter was started anew, its variables are gone: {why}");
            match self.begin().await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    let _ = reply.send(Err(ContextError::of_start(error, &self.context.facts)));
                    return Ok(());
                }
                Err(over) => {
                    let _ = reply.send(Err(ContextError::of_over(&self.context.facts.id, &over)));
                    return Err(over);
                }
            }
            note = Some(why);
        }
        let Now::Live(mut interpreter) = std::mem::replace(&mut self.now, Now::Dead("it was lost".into())) else {
            return Ok(());
        };
        interpreter.cells += 1;
        let cells = interpreter.cells;
        self.context.is_now(ContextStatus::Busy, cells);
        let finished = match self.see_through(&mut interpreter, &code, limit, &mut sink, &mut reply).await {
            Verdict::End(CellEnd::Done, late) => {
                if let Some(limit) = late {
                    let interrupted = sink.error.take();
                    let kept = "it was interrupted, and the context's variables are kept";
                    sink.error = Some(CodeError {
                        traceback: interrupted.map(|error| error.traceback).unwrap_or_default(),
                        ..timed_out(limit, kept)
                    });
                }
                self.context.is_now(ContextStatus::Idle, cells);
                self.now = Now::Live(interpreter);
                Ok(())
            }
            Verdict::End(end, late) => {
                let broken = matches!(end, CellEnd::Broken(_));
                match self.heed_end(end).await {
                    Ok(why) => {
                        if broken {
                            self.discard(interpreter).await;
                        }
                        let next = "the next code starts a new one, without its variables";
                        let message = format!("the interpreter ended while the code ran: {why}; {next}");
                        sink.error = Some(match late {
                            Some(limit) => timed_out(limit, &message),
                            None => own_error("InterpreterEnded", message),
                        });
                        self.has_died(why);
                        Ok(())
                    }
                    Err(over) => Err(over),
                }
            }
            Verdict::Overdue(limit) => {
                let gone = "it did not stop when it was interrupted, so the interpreter is started anew: its variables are gone";
                sink.error = Some(timed_out(limit, gone));
                let _ = reply.send(Ok(sink.finish(cells, note)));
                self.discard(interpreter).await;
                if let Err(error) = self.begin().await? {
                    self.has_died(error.to_string());
                }
                drop(lease);
                return Ok(());
            }
            Verdict::Restart(own, answer) => {
                let message = "the context was started anew while the code ran".to_owned();
                sink.error = Some(own_error("Restarted", message));
                let _ = reply.send(Ok(sink.finish(cells, note)));
                self.now = Now::Live(interpreter);
                return self.heed(Steer::Restart(own, answer)).await;
            }
            Verdict::Over(over) => {
                self.now = Now::Live(interpreter);
                Err(over)
            }
        };
        let id = &self.context.facts.id;
        // Whoever asked may have left.
        let _ = match &finished {
            Ok(()) => reply.send(Ok(sink.finish(cells, note))),
            Err(over) => reply.send(Err(ContextError::of_over(id, over))),
        };
        drop(lease);
        finished
    }

    /// Sends a piece of code to the interpreter and follows it for as long as that makes sense.
    async fn see_through<T>(
        &mut self,
        interpreter: &mut Interpreter,
        code: &str,
        limit: Option<Duration>,
        sink: &mut Sink,
        reply: &mut oneshot::Sender<T>,
    ) -> Verdict {
        let (control, hurry, name) = (interpreter.control(), sink.hurry(), interpreter.name().to_owned());
        let cells = interpreter.cells;
        let cell = driver::cell(cells, code);
        let mut late_at = limit.map(|limit| Instant::now() + limit);
        let mut feed = pin!(control.input(&cell));
        let mut over = pin!(over(&self.yard, &self.kept, &self.context, self.halts));
        let mut following = pin!(interpreter.follow(sink, reply));
        let (mut feeding, mut frozen, mut interrupts) = (true, false, 0);
        let mut interrupting: Option<Pin<Box<dyn Future<Output = ()> + Send>>> = None;
        let late = |interrupts: u32| limit.filter(|_| interrupts > 0);
        loop {
            let is_asked_for = tokio::select! {
                biased;
                over = &mut over => return Verdict::Over(over),
                end = &mut following => {
                    // A signal on its way must not reach the next piece of code.
                    let _ = timeout(SIGNAL_DEADLINE, maybe_done(interrupting)).await;
                    return Verdict::End(end, late(interrupts));
                }
                // What is wrong with the connection is told by the other direction.
                _ = &mut feed, if feeding => {
                    feeding = false;
                    continue;
                }
                () = maybe(&mut interrupting) => {
                    interrupting = None;
                    continue;
                }
                Some(steer) = self.queues.steers.recv() => match steer {
                    Steer::Interrupt(answer) => {
                        let _ = answer.send(true);
                        true
                    }
                    Steer::Restart(lease, answer) => return Verdict::Restart(lease, answer),
                },
                // The time of code in a box that is frozen is up when the box goes on.
                _ = self.kept.shared.goes_on(), if frozen => {
                    frozen = false;
                    late_at = Some(Instant::now());
                    continue;
                }
                () = until(late_at) => {
                    if !self.kept.phase().is_awake() {
                        (frozen, late_at) = (true, None);
                        continue;
                    }
                    if interrupts == INTERRUPTS {
                        return Verdict::Overdue(limit.unwrap_or_default());
                    }
                    interrupts += 1;
                    late_at = Some(Instant::now() + INTERRUPT_GRACE);
                    false
                }
            };
            tracing::debug!(context = %self.context.facts.id, is_asked_for, "code is interrupted");
            // A reader that has stopped reading must not keep the end from being heard of.
            hurry.cancel();
            if interrupting.is_none() {
                let (yard, kept) = (Arc::clone(&self.yard), self.kept.clone());
                let interrupt = Interpreter::interrupt(yard, kept, name.clone(), control.clone(), cells);
                interrupting = Some(Box::pin(interrupt));
            }
        }
    }

    /// Starts an interpreter. Without one the context stays as it was.
    async fn begin(&mut self) -> Result<Result<(), NotStarted>, Over> {
        self.context.is_now(ContextStatus::Starting, 0);
        let begun = tokio::select! {
            biased;
            over = over(&self.yard, &self.kept, &self.context, self.halts) => return Err(over),
            begun = Interpreter::start(&self.yard, &self.kept, &self.context.facts) => begun,
        };
        Ok(match begun {
            Ok(interpreter) => {
                self.now = Now::Live(Box::new(interpreter));
                self.context.is_now(ContextStatus::Idle, 0);
                Ok(())
            }
            Err(error) => {
                self.context.has_died();
                Err(error)
            }
        })
    }

    /// Ends an interpreter that is of no more use. The context may be over meanwhile: then this is broken off, and its end is that of its
    /// connection.
    async fn discard(&mut self, interpreter: Box<Interpreter>) {
        tokio::select! {
            biased;
            _ = over(&self.yard, &self.kept, &self.context, self.halts) => {}
            () = interpreter.end(&self.yard, &self.kept) => {}
        }
    }

    fn has_died(&mut self, why: String) {
        let id = &self.context.facts.id;
        self.yard.say(&self.kept, LogLevel::Warn, format!("Context {id}: the interpreter ended: {why}"));
        self.context.has_died();
        self.now = Now::Dead(why);
    }

    /// Why an interpreter has ended or is of no more use, unless its box's processes have ended with it.
    async fn heed_end(&mut self, end: CellEnd) -> Result<String, Over> {
        let why = match end {
            CellEnd::Done => return Ok("it said so".into()),
            CellEnd::Broken(malformed) => return Ok(malformed.to_string()),
            CellEnd::Ended(exit) => {
                count(&self.yard, &self.kept, exit);
                // What stops a box kills what is in it, and the news of that may come first.
                if exit.signal.is_none() || self.kept.phase().is_awake() {
                    return Ok(said_of(exit));
                }
                said_of(exit)
            }
            CellEnd::Lost(error) => error.to_string(),
        };
        match self.kept.halted_since(self.halts).await {
            Some(halt) => Err(Over::Because(format!("it {}", halt.complaint()))),
            None => Ok(why),
        }
    }
}

/// What comes next to a context whose code does not run.
enum Next {
    Steer(Steer),
    Order(Box<Order>),
    End(CellEnd),
    Idle,
}

/// Waits for the end of the interpreter, while no code runs in it.
async fn end_of(now: &mut Now) -> CellEnd {
    match now {
        Now::Live(interpreter) => interpreter.idle().await,
        Now::Dead(_) => pending().await,
    }
}

/// Waits until there is no more sense in a context.
async fn over(yard: &Yard, kept: &Kept, context: &Context, halts: u64) -> Over {
    let mut states = kept.shared.state.subscribe();
    let has_ended = |state: &State| state.halts != halts || state.phase.is_gone() || state.phase == Phase::Failed;
    let why = tokio::select! {
        biased;
        () = yard.leaving.cancelled() => return Over::Leaving,
        () = context.ending.cancelled() => return Over::Because("it was deleted".into()),
        state = states.wait_for(has_ended) => match state {
            Ok(state) if state.phase.is_gone() => "its box was deleted".to_owned(),
            Ok(state) if state.halts != halts => format!("it {}", state.halt.complaint()),
            Ok(_) => "its box was lost".to_owned(),
            // The sender lives as long as `kept`.
            Err(_) => "its box was forgotten".to_owned(),
        },
    };
    Over::Because(why)
}

async fn maybe(future: &mut Option<Pin<Box<dyn Future<Output = ()> + Send>>>) {
    match future {
        Some(future) => future.await,
        None => pending().await,
    }
}

async fn maybe_done(future: Option<Pin<Box<dyn Future<Output = ()> + Send>>>) {
    if let Some(future) = future {
        future.await;
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}

fn timed_out(limit: Duration, what_then: &str) -> CodeError {
    own_error("Timeout", format!("the code took longer than {} ms: {what_then}", limit.as_millis()))
}

fn own_error(name: &str, message: String) -> CodeError {
    CodeError { name: name.to_owned(), message, traceback: String::new() }
}
