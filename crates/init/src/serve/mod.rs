//! Serving jobs: one connection is one job (see [`boxyard_proto::wire`]).
//!
//! ```text
//!  listener ──▶ opening: hello, exec | attach ──▶ job: a task that owns the process, its pipes or terminal, and its cgroup leaf
//!                        dial | accept ─────────▶ relay: the same for a socket in the box
//!                        listen ────────────────▶ listener that announces who comes
//!
//!  SIGCHLD ──▶ reaper: takes every dead child and tells its job (orphans of the box are just taken)
//! ```
//!
//! Everything runs on one thread. A job's task outlives its connection where the job asked for that, and the connection of a later
//! `attach` is handed to it. What a finished job left running stays in its leaf, which is removed when it is empty. A remote login whose
//! connection closes is hung up on (see [`hangup`]).

mod address;
mod bind;
pub mod builtin;
mod cgroup;
mod connection;
mod dial;
mod exec;
mod finished;
mod hangup;
mod held;
mod host;
mod job;
mod jobs;
mod listen;
mod members;
mod modes;
mod names;
pub mod oom;
mod output;
mod pty;
mod reaper;
mod relay;
mod rights;
mod socket_file;
mod sockets;
mod stdin;
mod stdio;
mod stream;
mod tree;

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener as StdListener;
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use boxyard_proto::wire::{Endpoint, FailedKind, FromInit, ToInit, User};
use rustix::io::Errno;
use tokio::net::UnixListener;
use tokio::runtime::Builder;
use tokio::sync::Semaphore;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{sleep, timeout};

use self::bind::Bound;
use self::connection::{Connection, Incoming};
use self::dial::Dialled;
use self::exec::{Refusal, Started};
pub use self::hangup::Grace;
pub use self::jobs::Jobs;
use self::reaper::Reaper;
use self::sockets::Sockets;
use crate::sys;

/// Connections at once.
const CONNECTIONS: usize = 512;

/// How long a connection may take to say what it is for.
const OPENING: Duration = Duration::from_secs(10);

/// How long to leave the listener alone when the box is out of descriptors.
const EXHAUSTED: Duration = Duration::from_millis(50);

/// Serves on the listening socket that is descriptor 3, for a process that is in no box of `launch`'s making. Jobs get cgroups of
/// their own below `cgroup`, where one is given.
pub fn on_host(cgroup: Option<&Path>, grace: Grace) -> ExitCode {
    let prepared = || {
        let listener = sys::inherited(3)?;
        sys::reset_signals();
        sys::ignore_broken_pipes();
        host::silence_stdin()?;
        // Orphans of jobs come to us, as they would to PID 1.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some(format!("{}={}", name.into_string().ok()?, value.into_string().ok()?)));
        Ok((listener, Jobs::on_host(environment.collect(), cgroup, grace)?))
    };
    let error = match prepared() {
        Ok((listener, jobs)) => run(listener, jobs, || ()),
        Err(error) => error,
    };
    eprintln!("boxyard-init: cannot serve: {error}");
    ExitCode::FAILURE
}

/// Serves until something breaks that nothing can be done about. `ready` is called when connections are accepted.
pub fn run(listener: OwnedFd, jobs: Jobs, ready: impl FnOnce()) -> io::Error {
    let Err(error) = try_run(listener, jobs, ready);
    error
}

fn try_run(listener: OwnedFd, jobs: Jobs, ready: impl FnOnce()) -> io::Result<std::convert::Infallible> {
    let runtime = Builder::new_current_thread().enable_io().enable_time().build()?;
    let tasks = LocalSet::new();
    tasks.block_on(&runtime, async {
        let listener = StdListener::from(listener);
        listener.set_nonblocking(true)?;
        let listener = UnixListener::from_std(listener)?;
        let jobs = Rc::new(jobs);
        let reaper = Reaper::new()?;
        let orphans = Rc::clone(&jobs);
        let mut reaping = spawn_local(async move { reaper.run(&orphans).await });
        ready();
        tokio::select! {
            error = accept(listener, jobs) => Err(error),
            reaped = &mut reaping => Err(match reaped {
                Ok(error) => error,
                Err(panic) => io::Error::other(panic),
            }),
        }
    })
}

async fn accept(listener: UnixListener, jobs: Rc<Jobs>) -> io::Error {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let sockets = Rc::new(Sockets::new());
    loop {
        let place = match Arc::clone(&places).acquire_owned().await {
            Ok(place) => place,
            Err(closed) => return io::Error::other(closed),
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (jobs, sockets) = (Rc::clone(&jobs), Rc::clone(&sockets));
                spawn_local(async move {
                    serve(Connection::new(stream, place, jobs.scratch()), &jobs, &sockets).await;
                });
            }
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => sleep(EXHAUSTED).await,
                Some(Errno::CONNABORTED | Errno::INTR | Errno::AGAIN) => {}
                Some(_) | None => return error,
            },
        }
    }
}

/// Learns what a connection is for and does it.
async fn serve(mut connection: Connection, jobs: &Rc<Jobs>, sockets: &Rc<Sockets>) {
    match timeout(OPENING, open(&mut connection)).await {
        Ok(Ok(ToInit::Exec(exec))) => match jobs.start(&exec) {
            Ok(started) => follow(started, connection, jobs).await,
            Err(refusal) => refuse(connection, refusal).await,
        },
        Ok(Ok(ToInit::Attach { job, from })) => {
            if let Err((connection, refusal)) = jobs.attach(&job, from, connection).await {
                refuse(connection, refusal).await;
            }
        }
        Ok(Ok(ToInit::SignalJob { job, signal, scope })) => match jobs.signal(&job, signal, scope) {
            Ok(pid) => conclude(connection, &FromInit::Started { pid, from: 0 }).await,
            Err(refusal) => refuse(connection, refusal).await,
        },
        Ok(Ok(ToInit::Dial { to, user })) => dial(connection, &to, user, jobs, sockets).await,
        Ok(Ok(ToInit::Listen { at, user })) => listen(connection, &at, user, jobs, sockets).await,
        Ok(Ok(ToInit::Accept { connection: number })) => match sockets.take(number) {
            Some(stream) => {
                let (host, port) = stream.peer();
                relay::carry(connection, Dialled { stream, host, port }, &jobs.scratch()).await;
            }
            None => refuse(connection, Refusal::new(FailedKind::NotFound, "there is no such connection")).await,
        },
        Ok(Ok(_)) => refuse(connection, Refusal::new(FailedKind::Invalid, "there is no job yet")).await,
        Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {
            refuse(connection, Refusal::new(FailedKind::Invalid, error.to_string())).await;
        }
        // Gone, or too slow: there is nobody to tell.
        Ok(Err(_)) | Err(_) => {}
    }
}

/// The first message after the greeting.
async fn open(connection: &mut Connection) -> io::Result<ToInit> {
    loop {
        match connection.next().await? {
            Incoming::Message(ToInit::Hello(_)) => {}
            Incoming::Message(message) => return Ok(message),
            Incoming::Unknown(message) => connection.say(&FromInit::Unsupported { message }),
            Incoming::Input(_) => return Err(io::Error::new(io::ErrorKind::InvalidData, "input before a job")),
        }
    }
}

/// Sees a job through whose process has just been made.
async fn follow(started: Started, connection: Connection, jobs: &Rc<Jobs>) {
    match started.confirmed(jobs).await {
        Ok(job) => job.run(connection, jobs).await,
        Err(refusal) => refuse(connection, refusal).await,
    }
}

async fn dial(connection: Connection, to: &Endpoint, user: User, jobs: &Rc<Jobs>, sockets: &Sockets) {
    match while_open(&connection, dial::dial(to, user, jobs, sockets)).await {
        Some(Ok(dialled)) => relay::carry(connection, dialled, &jobs.scratch()).await,
        Some(Err(refusal)) => refuse(connection, refusal).await,
        None => {}
    }
}

async fn listen(connection: Connection, at: &Endpoint, user: User, jobs: &Rc<Jobs>, sockets: &Rc<Sockets>) {
    let Some(queue) = sockets.queue() else {
        return refuse(connection, Refusal::new(FailedKind::Exhausted, "the box has too many listeners")).await;
    };
    match while_open(&connection, Bound::make(at, user, queue.number(), jobs, sockets)).await {
        Some(Ok(bound)) => listen::announce(connection, bound, queue).await,
        Some(Err(refusal)) => refuse(connection, refusal).await,
        None => {}
    }
}

/// Does something for a connection for as long as it is wanted.
async fn while_open<T>(connection: &Connection, deed: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        done = deed => Some(done),
        () = connection.closed() => None,
    }
}

async fn refuse(connection: Connection, refusal: Refusal) {
    conclude(connection, &FromInit::Failed { kind: refusal.kind, message: refusal.message }).await;
}

/// Says the last message of a connection.
async fn conclude(mut connection: Connection, message: &FromInit) {
    connection.say(message);
    // A client that does not read it loses it.
    let _ = timeout(OPENING, connection.deliver()).await;
}
