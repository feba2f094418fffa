//! Sessions: what lives no longer than a client's connection. Shells, commands with live input, SFTP, sockets in a box.
//!
//! Unlike a run a session has no record, and it ends with whoever follows it: dropping a [`Session`], a [`SessionSocket`] or a
//! [`SessionListener`] ends the thing in the box. Each holds a lease of its own, so a box is `running` while it has one, and takes only
//! so many.

use boxyard_engine::ErrorKind;
use boxyard_engine::agent::{self, AgentError, Event, Job, JobControl};
use boxyard_proto::BoxId;
use boxyard_proto::api::logs::{LogLevel, LogSource};
use boxyard_proto::wire::{self, Builtin, Endpoint, OnClose, Pty, Scope, User};
use tokio_util::sync::CancellationToken;

use super::kept::{Kept, Lease};
use super::order::{Order, WORKSPACE};
use super::work::ENVIRONMENT;
use super::{BoxError, Boxes, memory, now_ms};
use crate::store::LogRow;

/// What a session runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program {
    /// The login shell.
    Shell,
    /// A command line, read by the login shell.
    Command(String),
    /// An SFTP server on standard input and output.
    Sftp,
    /// A program as it was ordered, in the folder that was ordered. When the session ends, everything that it started ends with it.
    Exact(Order),
}

impl Program {
    fn argv(&self) -> Vec<String> {
        match self {
            Self::Shell => vec!["/bin/bash".into(), "-l".into()],
            Self::Command(line) => vec!["/bin/bash".into(), "-c".into(), line.clone()],
            Self::Sftp => vec!["sftp-server".into()],
            Self::Exact(order) => order.argv.clone(),
        }
    }

    fn folder(&self) -> &str {
        match self {
            Self::Shell | Self::Command(_) | Self::Sftp => WORKSPACE,
            Self::Exact(order) => &order.folder,
        }
    }

    fn on_close(&self) -> OnClose {
        match self {
            Self::Shell | Self::Command(_) | Self::Sftp => OnClose::Hangup,
            Self::Exact(_) => OnClose::End,
        }
    }
}

/// A session to open. Texts have no NUL and have been cut to sane lengths by the door.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionOrder {
    /// What it runs, as boxuser.
    pub program: Program,
    /// `NAME=value` over the box's own variables.
    pub env: Vec<String>,
    /// A terminal, if it shall have one.
    pub pty: Option<Pty>,
}

/// Why there is no session. Texts are fit for users.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The box takes no work.
    #[error(transparent)]
    Box(#[from] BoxError),
    /// The box did not do as asked.
    #[error(transparent)]
    Agent(#[from] AgentError),
}

/// A program that runs for as long as this lives.
#[derive(Debug)]
pub struct Session {
    boxes: Boxes,
    lease: Lease,
    name: String,
    job: Job,
}

impl Session {
    /// What it says next. After [`Event::Exit`] or an error it is over. Cancel safe.
    ///
    /// # Errors
    /// The connection to the box is lost.
    pub async fn next(&mut self) -> Result<Event, AgentError> {
        let event = self.job.next().await?;
        if let Event::Exit(exit) = &event {
            self.lease.worked(i64::try_from(exit.cpu_ns).unwrap_or(i64::MAX));
            memory::look(&self.boxes.yard, &self.lease.kept().shared, *exit);
        }
        Ok(event)
    }

    /// The process id of its first process inside the box.
    pub fn pid(&self) -> u32 {
        self.job.pid()
    }

    /// A handle for input and changes of size.
    pub fn control(&self) -> JobControl {
        self.job.control()
    }

    /// The session's name in its box, for [`Boxes::signal_session`].
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Cancelled when the box ends.
    pub fn over(&self) -> &CancellationToken {
        self.lease.over()
    }
}

/// A socket in a box, open for as long as this lives.
#[derive(Debug)]
pub struct SessionSocket {
    /// The socket.
    pub socket: agent::Socket,
    /// What keeps the box running meanwhile.
    pub lease: Lease,
}

/// A listening socket in a box, open for as long as this lives.
#[derive(Debug)]
pub struct SessionListener {
    /// The socket.
    pub listener: agent::Listener,
    /// What keeps the box running meanwhile.
    pub lease: Lease,
}

impl Boxes {
    /// Starts a session; returns when it runs.
    ///
    /// # Errors
    /// The box takes no work, or refuses this.
    pub async fn open_session(&self, kept: &Kept, order: SessionOrder) -> Result<Session, SessionError> {
        let lease = kept.lease().await?;
        let name = format!("session-{:032x}", rand::random::<u128>());
        let builtin = (order.program == Program::Sftp).then_some(Builtin::Sftp);
        let exec = wire::Exec {
            env: ENVIRONMENT.iter().map(|&variable| variable.to_owned()).chain(order.env).collect(),
            stdin: true,
            on_close: order.program.on_close(),
            pty: order.pty,
            builtin,
            ..wire::Exec::new(name.clone(), order.program.argv(), order.program.folder(), User::BOXUSER)
        };
        let (engine, halts) = (self.yard.engine.as_ref(), kept.halts());
        let mut job = agent::exec(engine, kept.id(), exec.clone()).await;
        if let Err(error) = &job
            && kept.revived(halts, error).await
        {
            job = agent::exec(engine, kept.id(), exec).await;
        }
        let job = job?;
        Ok(Session { boxes: self.clone(), lease, name, job })
    }

    /// Sends signal `signal` (its number on Linux) to processes of a session, whatever its own connection is full of.
    ///
    /// # Errors
    /// The box does not know the session any more, or cannot be reached.
    pub async fn signal_session(&self, kept: &Kept, name: &str, signal: i32, scope: Scope) -> Result<(), SessionError> {
        let engine = self.yard.engine.as_ref();
        let sent = agent::signal_job(engine, kept.id(), name.to_owned(), signal, scope).await;
        Ok(sent.map_err(|error| lost(kept, error))?)
    }

    /// Connects to a socket from inside the box.
    ///
    /// # Errors
    /// The box takes no work, or there is no connection to be had.
    pub async fn dial(&self, kept: &Kept, to: Endpoint) -> Result<SessionSocket, SessionError> {
        let lease = kept.lease().await?;
        let (engine, halts) = (self.yard.engine.as_ref(), kept.halts());
        let mut socket = agent::dial(engine, kept.id(), to.clone(), User::BOXUSER).await;
        if let Err(error) = &socket
            && kept.revived(halts, error).await
        {
            socket = agent::dial(engine, kept.id(), to, User::BOXUSER).await;
        }
        Ok(SessionSocket { socket: socket?, lease })
    }

    /// Listens on a socket inside the box.
    ///
    /// # Errors
    /// The box takes no work, or the address cannot be listened on.
    pub async fn listen(&self, kept: &Kept, at: Endpoint) -> Result<SessionListener, SessionError> {
        let lease = kept.lease().await?;
        let (engine, halts) = (self.yard.engine.as_ref(), kept.halts());
        let mut listener = agent::listen(engine, kept.id(), at.clone(), User::BOXUSER).await;
        if let Err(error) = &listener
            && kept.revived(halts, error).await
        {
            listener = agent::listen(engine, kept.id(), at, User::BOXUSER).await;
        }
        Ok(SessionListener { listener: listener?, lease })
    }

    /// Takes a connection that a listener told of.
    ///
    /// # Errors
    /// The box takes no work, or nobody waits any more.
    pub async fn accept(&self, kept: &Kept, connection: u64) -> Result<SessionSocket, SessionError> {
        let lease = kept.lease().await?;
        let socket = agent::accept(self.yard.engine.as_ref(), kept.id(), connection).await;
        Ok(SessionSocket { socket: socket.map_err(|error| lost(kept, error))?, lease })
    }

    /// Writes a line into the box's log, soon. Under an onslaught lines are dropped and counted.
    pub fn log(&self, id: &BoxId, level: LogLevel, message: String) {
        let entry = LogRow { at: now_ms(), level, source: LogSource::System, message };
        self.yard.store.append_log_queued(id.clone(), entry);
    }
}

/// Tells the keeper where an error says that the engine does not have the box.
pub(super) fn lost(kept: &Kept, error: AgentError) -> AgentError {
    if let AgentError::Engine(engine) = &error
        && engine.kind == ErrorKind::NotFound
    {
        kept.report_gone();
    }
    error
}
