//! The client of `boxyard-init`: the only code that talks to a box.
//!
//! [`exec`] and [`attach`] open a connection, which is then one [`Job`]. Its events come from [`Job::next`]; a [`JobControl`] sends
//! input and signals from elsewhere. Dropping the job closes the connection; what that means for the processes is the job's own
//! [`OnClose`](wire::OnClose). [`dial`], [`listen`] and [`accept`] open sockets in a box in the same manner.
//!
//! The peer is not trusted: lengths are capped by the protocol, greetings and starts have deadlines, texts are cut.

use std::io::IoSlice;
use std::time::Duration;

use boxyard_proto::BoxId;
use boxyard_proto::wire::{self, Exit, FailedKind, FromInit, Hello, Kind, PtySize, Scope, ToInit, ability};
use bytes::{Buf, Bytes};
use tokio::io::{AsyncWriteExt, WriteHalf};
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::{Duplex, Engine, EngineError};

pub mod files;
mod reader;
mod socket;
#[cfg(test)]
mod tests;

pub use socket::{Incoming, Listener, Socket, accept, dial, listen};

use reader::{Incoming as Read, Reader};

/// How long a box may take to say that a job has started. Generous: a box that is out of CPU is slow, not broken.
const START_DEADLINE: Duration = Duration::from_secs(30);

/// How long a box may take to read a control message.
const WRITE_DEADLINE: Duration = Duration::from_secs(30);

/// Bytes asked of the connection at once. Output moves through the server in pieces of this size.
const READ_SIZE: usize = 256 * 1024;

/// Characters of a box's own error text that are kept.
const MESSAGE_MAX: usize = 1000;

/// Why a job could not be started or followed.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The engine gave no connection.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// `boxyard-init` refused the job.
    #[error("{message}")]
    Refused {
        /// What sort of refusal.
        kind: FailedKind,
        /// Its text, cut to a sane length.
        message: String,
    },
    /// The connection ended or said nothing for too long.
    #[error("lost the connection to the box while {doing}")]
    Lost {
        /// What was being done.
        doing: &'static str,
        /// What the connection said.
        #[source]
        source: Option<std::io::Error>,
    },
    /// The peer broke the protocol.
    #[error("the box answered out of turn: {0}")]
    Protocol(String),
    /// The box was started by an older version, whose `boxyard-init` does not know how to do this.
    #[error("this box was started by an older version of the server, which had no {0}; make a new one")]
    TooOld(&'static str),
}

/// What comes out of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Bytes of its standard output.
    Out(Bytes),
    /// Bytes of its standard error.
    Err(Bytes),
    /// It has ended; nothing comes after.
    Exit(Exit),
}

/// A job in a box: one connection to `boxyard-init`.
pub struct Job {
    pid: u32,
    from: u64,
    reader: Reader,
    control: JobControl,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job").field("pid", &self.pid).finish_non_exhaustive()
    }
}

/// Starts a program in a box and returns when it runs.
///
/// # Errors
/// No connection, a refusal (unknown folder or program, no more processes), a box that is too old for what `exec` asks for, or a peer
/// that breaks the protocol.
pub async fn exec(engine: &dyn Engine, id: &BoxId, exec: wire::Exec) -> Result<Job, AgentError> {
    let needs = match (&exec.pty, exec.on_close, exec.builtin) {
        (_, _, Some(wire::Builtin::Sftp)) => Some(ability::SFTP),
        (_, _, Some(wire::Builtin::Files)) => Some(ability::FILES),
        (Some(_), ..) | (_, wire::OnClose::Hangup, _) => Some(ability::PTY),
        (None, wire::OnClose::End | wire::OnClose::Keep, None) => None,
    };
    begin(engine.connect(id).await?, ToInit::Exec(exec), needs).await
}

/// Takes over a job whose connection was lost, by its name. Of one with [`wire::Exec::spool`], byte `from` of its output comes first, or
/// the first one after it that is not lost: [`Job::from`] tells. Without `from`, what it writes from now on.
///
/// # Errors
/// As [`exec`]; a job that the box does not know is [`AgentError::Refused`] with [`FailedKind::NotFound`].
pub async fn attach(engine: &dyn Engine, id: &BoxId, job: String, from: Option<u64>) -> Result<Job, AgentError> {
    begin(engine.connect(id).await?, ToInit::Attach { job, from }, None).await
}

/// Sends signal `signal` (its number on Linux) to processes of a job by its name, whatever its own connection is full of.
///
/// # Errors
/// As [`attach`].
pub async fn signal_job(
    engine: &dyn Engine,
    id: &BoxId,
    job: String,
    signal: i32,
    scope: Scope,
) -> Result<(), AgentError> {
    let message = ToInit::SignalJob { job, signal, scope };
    begin(engine.connect(id).await?, message, Some(ability::SIGNAL_JOB)).await.map(drop)
}

async fn begin(stream: Box<dyn Duplex>, first: ToInit, needs: Option<&'static str>) -> Result<Job, AgentError> {
    let (reader, control, answer) = open(stream, first, needs, START_DEADLINE).await?;
    if let FromInit::Started { pid: pid @ 1.., from } = answer {
        return Ok(Job { pid, from, reader, control });
    }
    Err(AgentError::Protocol(format!("{} instead of a start", Read::Message(answer).describe())))
}

/// Sends the first message and returns the answer to it, which has to come within `deadline`.
async fn open(
    stream: Box<dyn Duplex>,
    first: ToInit,
    needs: Option<&'static str>,
    deadline: Duration,
) -> Result<(Reader, JobControl, FromInit), AgentError> {
    let (read, write) = tokio::io::split(stream);
    let mut control = JobControl { write: std::sync::Arc::new(Mutex::new(write)), spools: false };
    let mut reader = Reader::new(read);
    let mut opening = wire::json_frame(&ToInit::Hello(Hello::ours()));
    opening.extend_from_slice(&wire::json_frame(&first));
    let answered = async {
        control.send(&opening).await?;
        loop {
            match reader.next().await? {
                Read::Message(FromInit::Hello(hello)) => {
                    control.spools = hello.can(ability::SPOOL);
                    match needs {
                        Some(ability) if !hello.can(ability) => return Err(AgentError::TooOld(ability)),
                        Some(_) | None => {}
                    }
                }
                Read::Message(FromInit::Failed { kind, message }) => return Err(refused(kind, &message)),
                Read::Message(answer) => return Ok(answer),
                data @ Read::Data(..) => {
                    return Err(AgentError::Protocol(format!("{} instead of a start", data.describe())));
                }
            }
        }
    };
    let answer = timeout(deadline, answered)
        .await
        .map_err(|_| AgentError::Lost { doing: "starting the job", source: None })??;
    Ok((reader, control, answer))
}

fn writing_input(source: std::io::Error) -> AgentError {
    AgentError::Lost { doing: "writing input", source: Some(source) }
}

fn refused(kind: FailedKind, message: &str) -> AgentError {
    AgentError::Refused { kind, message: fit_to_show(message) }
}

/// A box's own text, or one with parts of it, cut to a sane length and without what would steer a terminal: it is shown to people outside
/// of any session of the box's.
fn fit_to_show(text: &str) -> String {
    text.chars().take(MESSAGE_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

impl Job {
    /// The process id inside the box.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The number of the first byte of output that comes, of a job with [`wire::Exec::spool`]. A box may say anything.
    pub fn from(&self) -> u64 {
        self.from
    }

    /// Whether the box holds output until it is taken. One that was started by an older version does not, and [`from`](Self::from) means
    /// nothing then.
    pub fn spools(&self) -> bool {
        self.control.spools
    }

    /// A handle for input and signals.
    pub fn control(&self) -> JobControl {
        self.control.clone()
    }

    /// The next event. After [`Event::Exit`] or an error the job is over. Cancel safe.
    ///
    /// # Errors
    /// The connection broke before the job's end was known, or the peer broke the protocol.
    pub async fn next(&mut self) -> Result<Event, AgentError> {
        loop {
            match self.reader.next().await? {
                Read::Data(Kind::Out, bytes) => return Ok(Event::Out(bytes)),
                Read::Data(Kind::Err, bytes) => return Ok(Event::Err(bytes)),
                Read::Message(FromInit::Exit(exit)) => {
                    return Ok(Event::Exit(Exit { code: exit.code.clamp(0, 255), ..exit }));
                }
                Read::Message(FromInit::Failed { kind, message }) => return Err(refused(kind, &message)),
                Read::Message(FromInit::Unsupported { message }) => {
                    // A box can send as many of these as it likes: no line in the log for each.
                    tracing::debug!(
                        message = message.chars().take(40).collect::<String>(),
                        "boxyard-init is too old for a message"
                    );
                }
                other @ (Read::Message(
                    FromInit::Hello(_)
                    | FromInit::Started { .. }
                    | FromInit::Opened { .. }
                    | FromInit::Incoming { .. }
                    | FromInit::OutEnd,
                )
                | Read::Data(Kind::In | Kind::Json, _)) => return Err(AgentError::Protocol(other.describe())),
            }
        }
    }
}

/// Sends input and signals to a job, or bytes to a socket. Cheap to clone; the job itself may be awaited elsewhere.
#[derive(Clone)]
pub struct JobControl {
    write: std::sync::Arc<Mutex<WriteHalf<Box<dyn Duplex>>>>,
    /// Whether the other side knows what [`ToInit::Taken`] means.
    spools: bool,
}

impl std::fmt::Debug for JobControl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JobControl").finish_non_exhaustive()
    }
}

impl JobControl {
    /// Writes to the job's standard input. Waits for the job to read; callers bound that wait where they must.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn input(&self, bytes: &[u8]) -> Result<(), AgentError> {
        let mut write = self.write.lock().await;
        for piece in bytes.chunks(READ_SIZE) {
            // Header and bytes in one system call, and one wake-up of the box.
            let header = wire::header(Kind::In, piece.len());
            write.write_all_buf(&mut header.as_slice().chain(piece)).await.map_err(writing_input)?;
        }
        write.flush().await.map_err(writing_input)
    }

    /// As [`input`](Self::input), of several pieces that make one frame of at most [`wire::FRAME_MAX`] bytes.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn input_pieces(&self, pieces: &[Bytes]) -> Result<(), AgentError> {
        let header = wire::header(Kind::In, pieces.iter().map(Bytes::len).sum());
        let slices = [header.as_slice()].into_iter().chain(pieces.iter().map(|piece| &piece[..]));
        let mut slices: Vec<IoSlice<'_>> = slices.map(IoSlice::new).collect();
        let mut left = &mut slices[..];
        let mut write = self.write.lock().await;
        while !left.is_empty() {
            let written = write.write_vectored(left).await.map_err(writing_input)?;
            if written == 0 {
                return Err(writing_input(std::io::ErrorKind::WriteZero.into()));
            }
            IoSlice::advance_slices(&mut left, written);
        }
        write.flush().await.map_err(writing_input)
    }

    /// Ends the job's standard input. Waits as [`input`](Self::input) does: a paused box reads nothing, for as long as it is paused.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn end_input(&self) -> Result<(), AgentError> {
        let lost = |source| AgentError::Lost { doing: "ending the input", source: Some(source) };
        let mut write = self.write.lock().await;
        write.write_all(&wire::header(Kind::In, 0)).await.map_err(lost)?;
        write.flush().await.map_err(lost)
    }

    /// Sends signal `signal` (its number on Linux) to processes of the job.
    ///
    /// # Errors
    /// The connection is gone, or full of input that the job does not read; see [`signal_job`].
    pub async fn signal(&self, signal: i32, scope: Scope) -> Result<(), AgentError> {
        self.send(&wire::json_frame(&ToInit::Signal { signal, scope })).await
    }

    /// Changes the size of the job's terminal. Waits as [`input`](Self::input) does, behind which it comes: a size that was given up
    /// would be wrong until the next one.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn resize(&self, size: PtySize) -> Result<(), AgentError> {
        let lost = |source| AgentError::Lost { doing: "sending a message", source: Some(source) };
        let mut write = self.write.lock().await;
        write.write_all(&wire::json_frame(&ToInit::Resize { size })).await.map_err(lost)?;
        write.flush().await.map_err(lost)
    }

    /// Ends every process of the job: TERM, and KILL after `grace`.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn end(&self, grace: Duration) -> Result<(), AgentError> {
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        self.send(&wire::json_frame(&ToInit::End { grace_ms })).await
    }

    /// Says that output up to this byte is safe, and, with `ended`, how the job ended. Says whether it was said: not while input is being
    /// written, which may be what the job's output waits for.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn taken(&self, upto: u64, ended: bool) -> Result<bool, AgentError> {
        if !self.spools {
            return Ok(true);
        }
        let Ok(mut write) = self.write.try_lock() else { return Ok(false) };
        let frame = wire::json_frame(&ToInit::Taken { upto, ended });
        let writing = async {
            write.write_all(&frame).await?;
            write.flush().await
        };
        Self::in_time(writing).await.map(|()| true)
    }

    async fn send(&self, frames: &[u8]) -> Result<(), AgentError> {
        let writing = async {
            let mut write = self.write.lock().await;
            write.write_all(frames).await?;
            write.flush().await
        };
        Self::in_time(writing).await
    }

    async fn in_time(writing: impl Future<Output = std::io::Result<()>>) -> Result<(), AgentError> {
        match timeout(WRITE_DEADLINE, writing).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(source)) => Err(AgentError::Lost { doing: "sending a message", source: Some(source) }),
            Err(_) => Err(AgentError::Lost { doing: "sending a message", source: None }),
        }
    }
}
