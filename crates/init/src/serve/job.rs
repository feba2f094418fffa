//! A job under way: one task that moves its bytes, signals it, waits for its end and tells of it.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use boxyard_proto::wire::{Exec, Exit, FromInit, OnClose, Scope, ToInit};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{spawn_local, yield_now};
use tokio::time::{Instant, sleep_until};

use super::cgroup::Leaf;
use super::connection::{Connection, Incoming};
use super::finished::Finished;
use super::hangup::{self, Concerned};
use super::held::{Held, Sending};
use super::jobs::{Comer, Jobs};
use super::members::Members;
use super::output::{Output, Target};
use super::pty::Terminal;
use super::stdin::Stdin;
use super::stdio::Stdio;
use crate::sys::Ended;

/// Between TERM and KILL for a job whose connection has closed.
const GRACE: Duration = Duration::from_secs(1);

/// Between TERM and KILL at most.
const GRACE_MAX: Duration = Duration::from_secs(24 * 3600);

/// How long the output of what a job left running must be quiet before the job counts as over.
const QUIET: Duration = Duration::from_millis(50);

/// How long a job's end is held back for such output at most.
const PATIENCE: Duration = Duration::from_millis(250);

/// How often a connection that is taken over from is read at most.
const HEARD_OUT: usize = 64;

/// A job's process and all that belongs to it.
#[derive(Debug)]
pub struct Job {
    /// Its processes.
    pub members: Rc<Members>,
    name: String,
    on_close: OnClose,
    ended: oneshot::Receiver<Ended>,
    stdin: Stdin,
    outputs: [Output; 2],
    /// Whether its output is held until it is taken.
    spool: bool,
    /// What input and output are, where they are a terminal.
    terminal: Option<Rc<Terminal>>,
}

impl Job {
    /// The job of the process `pid`, which has just been made in `leaf`.
    pub fn new(exec: &Exec, pid: u32, leaf: Option<Leaf>, ended: oneshot::Receiver<Ended>, stdio: Stdio) -> Self {
        let Stdio { stdin, outputs, terminal, variable: _ } = stdio;
        let members = Rc::new(Members::new(leaf, pid, terminal.as_ref()));
        let spool = exec.spool && exec.on_close == OnClose::Keep;
        Self { members, name: exec.job.clone(), on_close: exec.on_close, ended, stdin, outputs, spool, terminal }
    }

    /// Forgets a job whose process never became its program and has ended, or is about to.
    pub async fn abandon(self, jobs: &Jobs) {
        // It always comes; and a job that cannot be waited for can be forgotten as well.
        let _ = self.ended.await;
        jobs.close_door(&self.name);
        jobs.retire(self.members.leaf());
    }

    /// Sees the job through to its end.
    pub async fn run(self, connection: Connection, jobs: &Rc<Jobs>) {
        let comers = (self.on_close == OnClose::Keep).then(|| jobs.open_door(&self.name));
        let held = self.spool.then(|| jobs.hold());
        let sending = Sending::default();
        let mut course =
            Course { job: self, connection: None, comers, held, sending, alone: None, ending: None, hung_up: false };
        course.take_over(Comer { connection, from: Some(0) });
        match course.until_over(jobs).await {
            Some(ended) => course.finish(ended, jobs).await,
            None => course.hang_up(jobs).await,
        }
    }

    /// Ends every process of it at once.
    pub fn kill(&self) {
        self.members.kill();
    }
}

/// A job and who follows it.
struct Course {
    job: Job,
    connection: Option<Connection>,
    /// Connections that take the job over.
    comers: Option<mpsc::Receiver<Comer>>,
    /// Its output that is not known to be safe yet, where that is held.
    held: Option<Held>,
    /// How far the connection has got with that.
    sending: Sending,
    /// How long the job waits at most for a connection that takes what is held.
    alone: Option<Instant>,
    /// When what is left of the process tree is killed.
    ending: Option<Instant>,
    /// The connection of a remote login has closed.
    hung_up: bool,
}

/// The first process has ended; its output may not have.
struct Closing {
    ended: Ended,
    /// How long more is waited for where the end of the output is not.
    patience: Option<Patience>,
}

struct Patience {
    /// The job is over at this time if nothing is heard of it.
    quiet: Instant,
    /// And at this one whatever is heard.
    latest: Instant,
}

impl Patience {
    fn new() -> Self {
        let now = Instant::now();
        Self { quiet: now + QUIET, latest: now + PATIENCE }
    }

    fn end(&self) -> Instant {
        self.quiet.min(self.latest)
    }
}

impl Course {
    /// Moves bytes and messages until the job has ended and its output is complete, or has been waited for long enough. Returns nothing
    /// when a remote login was left before.
    async fn until_over(&mut self, jobs: &Jobs) -> Option<Ended> {
        let scratch = jobs.scratch();
        let mut closing: Option<Closing> = None;
        loop {
            if self.put_out().is_err() {
                self.lose_connection();
            }
            let stuck = self.is_stuck(jobs);
            if self.hung_up {
                return None;
            }
            if let Some(closing) = &closing
                && self.is_complete()
            {
                return Some(closing.ended);
            }
            let pending = self.is_pending();
            let full = self.job.stdin.is_full();
            let [out, err] = &self.job.outputs;
            let moved = tokio::select! {
                ended = &mut self.job.ended, if closing.is_none() => {
                    // The reaper knows every child, so it never drops the other end; if it did, waiting on would be for ever.
                    let ended = ended.unwrap_or(Ended { pid: 0, code: 255, signal: None, cpu_ns: 0, memory_peak: 0 });
                    closing = Some(Closing { ended, patience: self.patience() });
                    self.job.outputs.iter_mut().for_each(Output::note_owed);
                    continue;
                }
                comer = next_comer(&mut self.comers) => {
                    // What the one before has said, and that it is gone, comes first.
                    self.hear_out();
                    self.take_over(comer);
                    continue;
                }
                readable = when(self.connection.as_ref().filter(|_| !full), Connection::readable) => {
                    if readable.is_err() || self.hear().is_err() {
                        self.lose_connection();
                    }
                    yield_now().await;
                    continue;
                }
                // A job that reads nothing more must still end when its client goes.
                () = when(self.connection.as_ref().filter(|_| full && self.job.on_close != OnClose::Keep), Connection::closed) => {
                    self.lose_connection();
                    continue;
                }
                writable = when(self.connection.as_ref().filter(|_| pending), Connection::writable) => {
                    if writable.is_err() {
                        self.lose_connection();
                    }
                    continue;
                }
                () = self.job.stdin.writable(), if self.job.stdin.is_waiting() => {
                    self.job.stdin.write();
                    continue;
                }
                () = at(self.ending) => {
                    self.job.kill();
                    self.ending = None;
                    continue;
                }
                () = at(self.alone) => {
                    self.held.iter_mut().for_each(Held::overwrite);
                    continue;
                }
                () = at(closing.as_ref().and_then(|closing| closing.patience.as_ref()).map(Patience::end)), if !stuck => {
                    match &mut closing {
                        Some(closing) if self.job.outputs.iter().all(Output::is_settled) => return Some(closing.ended),
                        Some(closing) => closing.patience = Some(Patience::new()),
                        None => {}
                    }
                    continue;
                }
                () = out.readable(), if !stuck => 0,
                () = err.readable(), if !stuck => 1,
            };
            let target = match (&mut self.held, &mut self.connection) {
                (Some(held), _) => Target::Held(held),
                (None, Some(connection)) => Target::Sent(connection),
                (None, None) => Target::Lost,
            };
            match self.job.outputs[moved].pump(&scratch, target) {
                Ok(true) => {
                    if let Some(Closing { patience: Some(patience), .. }) = &mut closing {
                        patience.quiet = Instant::now() + QUIET;
                    }
                }
                Ok(false) => {}
                Err(_) => self.lose_connection(),
            }
            // Other jobs get their turn, and are heard of, even when this one always has more.
            yield_now().await;
        }
    }

    /// Sends what there is to send, as far as the other side takes it.
    fn put_out(&mut self) -> io::Result<()> {
        match (&mut self.connection, &mut self.held) {
            (Some(connection), Some(held)) => held.send(&mut self.sending, connection),
            (Some(connection), None) => connection.flush(),
            (None, _) => Ok(()),
        }
    }

    /// Whether something waits for the other side to take it.
    fn is_pending(&self) -> bool {
        let has_more = |held: &Held| held.has_more(&self.sending);
        self.connection
            .as_ref()
            .is_some_and(|connection| connection.is_pending() || self.held.as_ref().is_some_and(has_more))
    }

    /// Whether no more of the output can be read for now.
    fn is_stuck(&mut self, jobs: &Jobs) -> bool {
        let Some(held) = &mut self.held else { return self.is_pending() };
        if held.is_full() && self.connection.is_some() && self.job.stdin.is_full() {
            // What the other side says of it stands behind input that the job does not read, perhaps because nobody reads its output.
            held.take(u64::MAX, &self.sending);
        }
        let full = held.is_full();
        if !full || self.connection.is_some() {
            self.alone = None;
        } else if self.alone.is_none() {
            self.alone = Some(Instant::now() + jobs.grace().to_be_taken);
        }
        full
    }

    /// Whether nothing of the output is missing, once the first process has ended.
    fn is_complete(&self) -> bool {
        match &self.job.terminal {
            // Who else has it open does not keep the job.
            Some(_) => self.job.outputs.iter().all(Output::is_settled),
            None => !self.job.outputs.iter().any(Output::is_open),
        }
    }

    /// How long to wait for what is missing of the output, if not for ever.
    fn patience(&self) -> Option<Patience> {
        let for_ever = self.job.terminal.is_some() || self.job.on_close == OnClose::Hangup;
        (!for_ever).then(Patience::new)
    }

    /// Reads what the other side says and does it. Returns whether there was anything.
    fn hear(&mut self) -> io::Result<bool> {
        let Some(connection) = &mut self.connection else { return Ok(false) };
        match connection.fill() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            filled => filled.and_then(|()| self.heed()).map(|()| true),
        }
    }

    /// Reads all that the other side has said, as far as the job takes it.
    fn hear_out(&mut self) {
        for _ in 0..HEARD_OUT {
            match self.hear() {
                Ok(true) if !self.job.stdin.is_full() => {}
                Ok(_) => return,
                Err(_) => return self.lose_connection(),
            }
        }
    }

    /// Does what the other side has said.
    fn heed(&mut self) -> io::Result<()> {
        while let Some(connection) = &mut self.connection {
            let Some(incoming) = connection.cut()? else { break };
            match incoming {
                Incoming::Input(range) => self.job.stdin.push(connection.input(range)),
                Incoming::Unknown(message) => connection.say(&FromInit::Unsupported { message }),
                Incoming::Message(ToInit::Hello(_)) => {}
                Incoming::Message(ToInit::Taken { upto, .. }) => {
                    if let Some(held) = &mut self.held {
                        held.take(upto, &self.sending);
                    }
                }
                Incoming::Message(ToInit::Signal { signal, scope }) => {
                    if (1..=64).contains(&signal) {
                        self.job.members.signal(signal, scope);
                    }
                }
                Incoming::Message(ToInit::Resize { size }) => {
                    // A terminal that has been hung up on has no size.
                    let _ = self.job.terminal.as_ref().map(|terminal| terminal.resize(size));
                }
                Incoming::Message(ToInit::End { grace_ms }) => self.end(Duration::from_millis(grace_ms)),
                Incoming::Message(
                    ToInit::Exec(_)
                    | ToInit::Attach { .. }
                    | ToInit::SignalJob { .. }
                    | ToInit::Dial { .. }
                    | ToInit::Listen { .. }
                    | ToInit::Accept { .. },
                ) => {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "a second job on one connection"));
                }
            }
        }
        Ok(())
    }

    /// Asks every process of the job to end, and sees to it after `grace`.
    fn end(&mut self, grace: Duration) {
        if grace.is_zero() {
            self.ending = None;
            self.job.kill();
            return;
        }
        let at = Instant::now() + grace.min(GRACE_MAX);
        match self.ending {
            // Asked already: only the time can become shorter.
            Some(earlier) => self.ending = Some(earlier.min(at)),
            None => {
                self.ending = Some(at);
                self.job.members.signal(libc::SIGTERM, Scope::All);
                // A stopped process hears of it only when it goes on.
                self.job.members.signal(libc::SIGCONT, Scope::All);
            }
        }
    }

    fn lose_connection(&mut self) {
        self.connection = None;
        self.job.stdin.end();
        match self.job.on_close {
            OnClose::End if self.ending.is_none() => self.end(GRACE),
            OnClose::Hangup => self.hung_up = true,
            OnClose::End | OnClose::Keep => {}
        }
    }

    /// Makes `comer` the connection of this job, and does what it may have said already.
    fn take_over(&mut self, comer: Comer) {
        let Comer { mut connection, from } = comer;
        let from = self.held.as_mut().map_or(0, |held| held.follow(from));
        self.sending = Sending::new(from);
        connection.say(&FromInit::Started { pid: self.job.members.first(), from });
        self.connection = Some(connection);
        if self.heed().is_err() {
            self.lose_connection();
        }
    }

    /// Tells how the job ended and lets go of what it left running.
    async fn finish(mut self, ended: Ended, jobs: &Rc<Jobs>) {
        let leaf = self.job.members.leaf();
        let exit = Exit {
            code: ended.code,
            signal: ended.signal,
            cpu_ns: leaf.and_then(Leaf::cpu_ns).unwrap_or(ended.cpu_ns),
            memory_peak: leaf.and_then(Leaf::memory_peak).unwrap_or(ended.memory_peak),
        };
        jobs.close_door(&self.job.name);
        if let Some(comer) = self.comers.take().and_then(|mut comers| comers.try_recv().ok()) {
            self.take_over(comer);
        }
        let finished = Finished::new(self.job.members.first(), exit, self.held.take());
        if self.job.on_close == OnClose::Keep {
            jobs.keep_result(&self.job.name, &finished);
        }
        let (name, connection, sending) =
            (self.job.name.clone(), self.connection.take(), std::mem::take(&mut self.sending));
        self.let_go(jobs);
        if let Some(connection) = connection
            && finished.tell(connection, sending).await
        {
            jobs.forget_result(&name, &finished);
        }
    }

    /// Hangs up on a job that nobody follows any more.
    async fn hang_up(self, jobs: &Rc<Jobs>) {
        jobs.close_door(&self.job.name);
        let members = Rc::clone(&self.job.members);
        let terminal = self.job.terminal.as_ref();
        let concerned = terminal.map_or(Concerned::Session, |terminal| Concerned::Terminal(terminal.foreground()));
        self.let_go(jobs);
        hangup::hang_up(&members, concerned, jobs.grace()).await;
    }

    /// Leaves the rest of the process tree alone, except that it still ends where that was asked for, and that the kernel hangs up on
    /// who has its terminal open.
    fn let_go(self, jobs: &Rc<Jobs>) {
        let Self { job: Job { members, outputs, .. }, ending, .. } = self;
        for output in outputs.into_iter().filter(Output::is_held) {
            let scratch = jobs.scratch();
            spawn_local(async move { output.discard(&scratch).await });
        }
        let gone = jobs.retire(members.leaf());
        if let (Some(at), false) = (ending, gone) {
            spawn_local(async move {
                sleep_until(at).await;
                members.kill();
            });
        }
    }
}

/// Does `wait` on `thing` where there is one, and else waits for ever.
async fn when<'a, T, F: Future>(thing: Option<&'a T>, wait: impl FnOnce(&'a T) -> F) -> F::Output {
    match thing {
        Some(thing) => wait(thing).await,
        None => std::future::pending().await,
    }
}

/// Waits until `time`, or for ever.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Waits for a connection that takes over. Never returns for a job that cannot be taken over.
async fn next_comer(comers: &mut Option<mpsc::Receiver<Comer>>) -> Comer {
    match comers {
        Some(comers) => match comers.recv().await {
            Some(comer) => comer,
            None => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}
