//! An interpreter: a job in a box that runs one piece of code after the other and tells what came of each.

use std::sync::Arc;
use std::time::Duration;

use boxyard_engine::agent::{self, AgentError, Event, Job, JobControl};
use boxyard_proto::api::contexts::CodeError;
use boxyard_proto::wire::{self, Exit, FailedKind, OnClose, Scope, User};
use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};

use super::answer::{RESULTS_MAX, Sink};
use super::context::Facts;
use super::driver;
use super::frames::{Heard, Malformed, Mark, Split, WORDS_MAX, Word};
use crate::boxes::kept::Kept;
use crate::boxes::output::Stream;
use crate::boxes::work::ENVIRONMENT;
use crate::boxes::{BoxError, Yard, memory};

/// How long an interpreter may take to begin to read, and to be ready.
const READY_DEADLINE: Duration = Duration::from_secs(30);
/// How long the end of one pipe's output is waited for after that of the other's.
const MARKS_APART: Duration = Duration::from_secs(5);
/// Between TERM and KILL for an interpreter that is of no more use.
const END_GRACE: Duration = Duration::from_millis(500);
/// How long it may take to be gone after that.
const END_DEADLINE: Duration = Duration::from_secs(5);
/// Bytes that are kept of what an interpreter writes while no code runs.
const STRAY_MAX: usize = 64 * 1024;
/// What the smallest piece of that counts for.
const STRAY_PIECE_MIN: usize = 64;
/// Bytes of what an interpreter says before it is ready.
const LAST_WORDS_MAX: usize = 16 * 1024;
/// Characters of that that are told.
const LAST_WORDS_CHARS: usize = 500;
/// SIGINT.
pub(super) const INTERRUPT: i32 = 2;

/// An interpreter that is ready for code.
pub(super) struct Interpreter {
    job: Job,
    /// The job's name in the box.
    name: String,
    out: Split,
    err: Split,
    /// Pieces of code so far.
    pub(super) cells: u64,
    /// What was written since the last piece of code ended: for the next one to tell.
    stray: Vec<(Stream, Bytes)>,
    stray_bytes: usize,
}

/// Why there is no interpreter.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotStarted {
    #[error(transparent)]
    Box(#[from] BoxError),
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// It ended before it was ready; what it said.
    #[error("the interpreter did not start: {0}")]
    Ended(String),
    #[error("the interpreter did not start: {0}")]
    Broken(#[from] Malformed),
    #[error("the interpreter was not ready in time")]
    Slow,
}

/// How a piece of code came to its end.
#[derive(Debug)]
pub(super) enum CellEnd {
    /// By itself.
    Done,
    /// The interpreter has ended.
    Ended(Exit),
    /// The connection is lost.
    Lost(AgentError),
    /// The interpreter does not keep to the protocol.
    Broken(Malformed),
}

impl Interpreter {
    /// Starts one and returns when it is ready. Dropped before that, it ends in the box.
    pub(super) async fn start(yard: &Yard, kept: &Kept, facts: &Facts) -> Result<Self, NotStarted> {
        let mark = Mark::random();
        let name = format!("{}-{:08x}", facts.id, rand::random::<u32>());
        let exec = wire::Exec {
            env: ENVIRONMENT.iter().map(|&variable| variable.to_owned()).chain(facts.env.iter().cloned()).collect(),
            stdin: true,
            on_close: OnClose::End,
            ..wire::Exec::new(name.clone(), driver::argv(facts.language), facts.folder.clone(), User::BOXUSER)
        };
        let halts = kept.halts();
        let mut job = begin(yard, kept, exec.clone()).await;
        if let Err(NotStarted::Agent(error)) = &job
            && kept.revived(halts, error).await
        {
            job = begin(yard, kept, exec).await;
        }
        let most = yard.contexts.results_cap;
        let mut interpreter = Self {
            job: job?,
            name,
            out: Split::new(&mark, most.saturating_add(WORDS_MAX), &yard.outputs),
            err: Split::new(&mark, WORDS_MAX, &yard.outputs),
            cells: 0,
            stray: Vec::new(),
            stray_bytes: 0,
        };
        let setup = driver::setup(facts.language, &mark, RESULTS_MAX, most);
        timeout(READY_DEADLINE, interpreter.ready(&setup)).await.unwrap_or(Err(NotStarted::Slow))?;
        Ok(interpreter)
    }

    async fn ready(&mut self, setup: &[u8]) -> Result<(), NotStarted> {
        let control = self.job.control();
        // One that has ended already says so below.
        let feed = async {
            let _ = control.input(setup).await;
        };
        let (.., said) = tokio::join!(feed, self.hear_ready());
        said
    }

    async fn hear_ready(&mut self) -> Result<(), NotStarted> {
        let mut last_words = Vec::new();
        loop {
            match self.job.next().await? {
                Event::Out(bytes) => {
                    self.out.push(bytes);
                    while let Some(heard) = self.out.next()? {
                        match heard {
                            Heard::Said(kind, message) => {
                                return match Word::read(kind, &message)? {
                                    Word::Ready => Ok(()),
                                    Word::Result(_) | Word::Error(_) | Word::Done { .. } => {
                                        Err(Malformed::OUT_OF_TURN.into())
                                    }
                                };
                            }
                            Heard::Written(bytes) => keep(&mut last_words, &bytes),
                            Heard::Dropped(_) => return Err(Malformed::OUT_OF_TURN.into()),
                        }
                    }
                }
                Event::Err(bytes) => keep(&mut last_words, &bytes),
                Event::Exit(exit) => {
                    let text = String::from_utf8_lossy(&last_words);
                    let text: String = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
                    let from = text.char_indices().rev().nth(LAST_WORDS_CHARS).map_or(0, |(at, _)| at);
                    let how = said_of(exit);
                    let text = text[from..].trim();
                    return Err(NotStarted::Ended(if text.is_empty() { how } else { format!("{how}: {text}") }));
                }
            }
        }
    }

    /// For input and signals.
    pub(super) fn control(&self) -> JobControl {
        self.job.control()
    }

    /// The next thing that is written while no code runs. It comes with the next piece of code. When that would be too much nothing more
    /// is taken, so that whoever writes it waits. Never returns except with the interpreter's end. Cancel safe.
    pub(super) async fn idle(&mut self) -> CellEnd {
        self.out.keep(false);
        self.err.keep(false);
        loop {
            if self.stray_bytes >= STRAY_MAX {
                return std::future::pending().await;
            }
            let (stream, bytes) = match self.job.next().await {
                Ok(Event::Out(bytes)) => (Stream::Out, bytes),
                Ok(Event::Err(bytes)) => (Stream::Err, bytes),
                Ok(Event::Exit(exit)) => return CellEnd::Ended(exit),
                Err(error) => return CellEnd::Lost(error),
            };
            let split = if stream == Stream::Out { &mut self.out } else { &mut self.err };
            split.push(bytes);
            loop {
                match split.next() {
                    Ok(Some(Heard::Written(bytes))) => {
                        // What holds a piece takes memory, too.
                        self.stray_bytes += bytes.len().max(STRAY_PIECE_MIN);
                        // Small pieces are copied: they would keep the large ones alive that they were read in.
                        self.stray.push((stream, Bytes::copy_from_slice(&bytes)));
                    }
                    // What is shown by a thread that goes on has no piece of code that it belongs to.
                    Ok(Some(Heard::Said(b'R', _) | Heard::Dropped(_))) => {}
                    Ok(Some(Heard::Said(..))) => return CellEnd::Broken(Malformed::OUT_OF_TURN),
                    Ok(None) => break,
                    Err(malformed) => return CellEnd::Broken(malformed),
                }
            }
        }
    }

    /// Follows the piece of code number [`cells`](Self::cells), which it has been sent, to its end. What is held for an answer is let go
    /// of when nobody waits for `reply` any more.
    pub(super) async fn follow<T>(&mut self, sink: &mut Sink, reply: &mut oneshot::Sender<T>) -> CellEnd {
        self.out.keep(true);
        self.err.keep(true);
        for (stream, bytes) in std::mem::take(&mut self.stray) {
            sink.written(stream, bytes).await;
        }
        self.stray_bytes = 0;
        let (mut out_done, mut err_done) = (false, false);
        let mut latest = None;
        while !(out_done && err_done) {
            let next = async {
                match latest {
                    None => Some(self.job.next().await),
                    Some(latest) => timeout_at(latest, self.job.next()).await.ok(),
                }
            };
            let event = tokio::select! {
                biased;
                () = reply.closed(), if sink.holds() => {
                    sink.forget();
                    continue;
                }
                event = next => event,
            };
            let Some(event) = event else { return CellEnd::Broken(Malformed::UNFINISHED) };
            let (stream, bytes) = match event {
                Ok(Event::Out(bytes)) => (Stream::Out, bytes),
                Ok(Event::Err(bytes)) => (Stream::Err, bytes),
                Ok(Event::Exit(exit)) => {
                    let rest = (self.out.finish(), self.err.finish());
                    sink.written(Stream::Out, rest.0).await;
                    sink.written(Stream::Err, rest.1).await;
                    return CellEnd::Ended(exit);
                }
                Err(error) => return CellEnd::Lost(error),
            };
            let heard = match stream {
                Stream::Out => self.heed_out(bytes, sink, &mut out_done).await,
                Stream::Err => self.heed_err(bytes, sink, &mut err_done).await,
            };
            if let Err(malformed) = heard {
                return CellEnd::Broken(malformed);
            }
            if out_done != err_done && latest.is_none() && out_done {
                latest = Some(Instant::now() + MARKS_APART);
            }
        }
        CellEnd::Done
    }

    async fn heed_out(&mut self, bytes: Bytes, sink: &mut Sink, done: &mut bool) -> Result<(), Malformed> {
        self.out.push(bytes);
        while let Some(heard) = self.out.next()? {
            let (kind, message) = match heard {
                Heard::Written(bytes) => {
                    sink.written(Stream::Out, bytes).await;
                    continue;
                }
                Heard::Dropped(kind) => {
                    sink.cut();
                    if kind == b'E' {
                        sink.error = Some(CodeError {
                            name: "Error".into(),
                            message: "the code raised an error whose text the server had no memory for".into(),
                            traceback: String::new(),
                        });
                    }
                    continue;
                }
                Heard::Said(kind, message) => (kind, message),
            };
            match Word::read(kind, &message)? {
                Word::Result(shown) => sink.shown(shown).await,
                Word::Error(error) => sink.error = Some(error),
                Word::Done { n, cut } if n == self.cells && !*done => {
                    *done = true;
                    if cut {
                        sink.cut();
                    }
                }
                Word::Ready | Word::Done { .. } => return Err(Malformed::OUT_OF_TURN),
            }
        }
        Ok(())
    }

    async fn heed_err(&mut self, bytes: Bytes, sink: &mut Sink, done: &mut bool) -> Result<(), Malformed> {
        self.err.push(bytes);
        while let Some(heard) = self.err.next()? {
            match heard {
                Heard::Written(bytes) => sink.written(Stream::Err, bytes).await,
                Heard::Dropped(_) => return Err(Malformed::OUT_OF_TURN),
                Heard::Said(kind, message) => match Word::read(kind, &message)? {
                    Word::Done { n, .. } if n == self.cells && !*done => *done = true,
                    Word::Done { .. } | Word::Ready | Word::Result(_) | Word::Error(_) => {
                        return Err(Malformed::OUT_OF_TURN);
                    }
                },
            }
        }
        Ok(())
    }

    /// Interrupts its piece of code number `n`, and what that started in its own process group, as Ctrl-C does. Returns when the signal has
    /// been sent. That goes over a connection of its own: the job's may be full of code that it does not read.
    pub(super) async fn interrupt(yard: Arc<Yard>, kept: Kept, name: String, control: JobControl, n: u64) {
        let sent = agent::signal_job(yard.engine.as_ref(), kept.id(), name, INTERRUPT, Scope::Group).await;
        let told = control.input(&driver::interrupt(n)).await;
        if let Err(error) = sent.and(told) {
            tracing::debug!(box_id = %kept.id(), %error, "an interpreter could not be interrupted");
        }
    }

    /// Its job's name in the box.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Ends it and all that it started, and returns when they are gone, or soon. In a box that is frozen they end when it goes on.
    pub(super) async fn end(mut self, yard: &Arc<Yard>, kept: &Kept) {
        if !kept.phase().is_awake() {
            return;
        }
        let ended = async {
            self.job.control().end(END_GRACE).await.ok()?;
            loop {
                if let Event::Exit(exit) = self.job.next().await.ok()? {
                    return Some(exit);
                }
            }
        };
        if let Ok(Some(exit)) = timeout(END_DEADLINE, ended).await {
            count(yard, kept, exit);
        }
    }
}

/// Counts what an interpreter has used.
pub(super) fn count(yard: &Arc<Yard>, kept: &Kept, exit: Exit) {
    kept.shared.worked(i64::try_from(exit.cpu_ns).unwrap_or(i64::MAX));
    memory::look(yard, &kept.shared, exit);
}

/// How an interpreter ended.
pub(super) fn said_of(exit: Exit) -> String {
    match (exit.signal, exit.code) {
        (Some(9), _) => "it was killed, perhaps because its box was out of memory".into(),
        (Some(signal), _) => format!("it was ended by signal {signal}"),
        (None, code) => format!("it ended with exit code {code}"),
    }
}

async fn begin(yard: &Yard, kept: &Kept, exec: wire::Exec) -> Result<Job, NotStarted> {
    let _awake = kept.awake().await?;
    Ok(agent::exec(yard.engine.as_ref(), kept.id(), exec).await?)
}

fn keep(words: &mut Vec<u8>, bytes: &[u8]) {
    let room = LAST_WORDS_MAX.saturating_sub(words.len());
    words.extend_from_slice(&bytes[..bytes.len().min(room)]);
}

impl NotStarted {
    /// Whether the folder that it was to be started in is not there.
    pub(super) fn is_about_folder(&self) -> bool {
        matches!(self, Self::Agent(AgentError::Refused { kind: FailedKind::NotFound, .. }))
    }
}
