//! The client of `boxyard-init`: the only code that talks to a box.
//!
//! [`exec`] and [`attach`] open a connection, which is then one [`Job`]. Its events come from [`Job::next`]; a [`JobControl`] sends
//! input and signals from elsewhere. Dropping the job closes the connection; what that means for the processes is the job's own
//! [`OnClose`](wire::OnClose).
//!
//! The peer is not trusted: lengths are capped by the protocol, greetings and starts have deadlines, texts are cut.

use std::time::Duration;

use boxyard_proto::BoxId;
use boxyard_proto::wire::{self, Exit, FailedKind, FromInit, Hello, Kind, Parsed, ToInit};
use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::{Duplex, Engine, EngineError};

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
/// No connection, a refusal (unknown folder or program, no more processes), or a peer that breaks the protocol.
pub async fn exec(engine: &dyn Engine, id: &BoxId, exec: wire::Exec) -> Result<Job, AgentError> {
    open(engine, id, ToInit::Exec(exec)).await
}

/// Takes over a job whose connection was lost, by its name.
///
/// # Errors
/// As [`exec`]; a job that the box does not know is [`AgentError::Refused`] with [`FailedKind::NotFound`].
pub async fn attach(engine: &dyn Engine, id: &BoxId, job: String) -> Result<Job, AgentError> {
    open(engine, id, ToInit::Attach { job }).await
}

async fn open(engine: &dyn Engine, id: &BoxId, first: ToInit) -> Result<Job, AgentError> {
    begin(engine.connect(id).await?, first).await
}

async fn begin(stream: Box<dyn Duplex>, first: ToInit) -> Result<Job, AgentError> {
    let (read, write) = tokio::io::split(stream);
    let control = JobControl { write: std::sync::Arc::new(Mutex::new(write)) };
    let mut reader = Reader { read, buffer: BytesMut::new(), data: None };
    let mut opening = wire::json_frame(&ToInit::Hello(Hello::ours()));
    opening.extend_from_slice(&wire::json_frame(&first));
    let started = async {
        control.send(&opening).await?;
        loop {
            match reader.next().await? {
                Incoming::Message(FromInit::Hello(_)) => {}
                Incoming::Message(FromInit::Started { pid }) if pid > 0 => return Ok(pid),
                Incoming::Message(FromInit::Failed { kind, message }) => {
                    return Err(AgentError::Refused { kind, message: message.chars().take(MESSAGE_MAX).collect() });
                }
                other @ (Incoming::Message(
                    FromInit::Started { .. } | FromInit::Exit(_) | FromInit::Unsupported { .. },
                )
                | Incoming::Data(..)) => {
                    return Err(AgentError::Protocol(format!("{} instead of a start", other.describe())));
                }
            }
        }
    };
    let pid = timeout(START_DEADLINE, started)
        .await
        .map_err(|_| AgentError::Lost { doing: "starting the job", source: None })??;
    Ok(Job { pid, reader, control })
}

impl Job {
    /// The process id inside the box.
    pub fn pid(&self) -> u32 {
        self.pid
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
                Incoming::Data(Kind::Out, bytes) => return Ok(Event::Out(bytes)),
                Incoming::Data(Kind::Err, bytes) => return Ok(Event::Err(bytes)),
                Incoming::Message(FromInit::Exit(exit)) => {
                    return Ok(Event::Exit(Exit { code: exit.code.clamp(0, 255), ..exit }));
                }
                Incoming::Message(FromInit::Failed { kind, message }) => {
                    return Err(AgentError::Refused { kind, message: message.chars().take(MESSAGE_MAX).collect() });
                }
                Incoming::Message(FromInit::Unsupported { message }) => {
                    // A box can send as many of these as it likes: no line in the log for each.
                    tracing::debug!(
                        message = message.chars().take(40).collect::<String>(),
                        "boxyard-init is too old for a message"
                    );
                }
                other @ (Incoming::Message(FromInit::Hello(_) | FromInit::Started { .. })
                | Incoming::Data(Kind::In | Kind::Json, _)) => return Err(AgentError::Protocol(other.describe())),
            }
        }
    }
}

/// Sends input and signals to a job. Cheap to clone; the job itself may be awaited elsewhere.
#[derive(Clone)]
pub struct JobControl {
    write: std::sync::Arc<Mutex<WriteHalf<Box<dyn Duplex>>>>,
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
            let lost = |source| AgentError::Lost { doing: "writing input", source: Some(source) };
            write.write_all(&wire::header(Kind::In, piece.len())).await.map_err(lost)?;
            write.write_all(piece).await.map_err(lost)?;
        }
        write.flush().await.map_err(|source| AgentError::Lost { doing: "writing input", source: Some(source) })
    }

    /// Ends the job's standard input.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn end_input(&self) -> Result<(), AgentError> {
        self.send(&wire::header(Kind::In, 0)).await
    }

    /// Sends signal `signal` (its number on Linux) to every process of the job.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn signal(&self, signal: i32) -> Result<(), AgentError> {
        self.send(&wire::json_frame(&ToInit::Signal { signal })).await
    }

    /// Ends every process of the job: TERM, and KILL after `grace`.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn end(&self, grace: Duration) -> Result<(), AgentError> {
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        self.send(&wire::json_frame(&ToInit::End { grace_ms })).await
    }

    async fn send(&self, frames: &[u8]) -> Result<(), AgentError> {
        let write = async {
            let mut write = self.write.lock().await;
            write.write_all(frames).await?;
            write.flush().await
        };
        match timeout(WRITE_DEADLINE, write).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(source)) => Err(AgentError::Lost { doing: "sending a message", source: Some(source) }),
            Err(_) => Err(AgentError::Lost { doing: "sending a message", source: None }),
        }
    }
}

/// Cuts a connection's bytes into messages and data. Data is handed on as it arrives, without waiting for the whole frame.
struct Reader {
    read: ReadHalf<Box<dyn Duplex>>,
    buffer: BytesMut,
    /// Bytes still to come of the data frame under way.
    data: Option<(Kind, usize)>,
}

enum Incoming {
    Message(FromInit),
    Data(Kind, Bytes),
}

impl Incoming {
    fn describe(&self) -> String {
        match self {
            Self::Message(FromInit::Hello(_)) => "a second greeting".into(),
            Self::Message(FromInit::Started { .. }) => "a start".into(),
            Self::Message(FromInit::Exit(_)) => "an end".into(),
            Self::Message(FromInit::Failed { .. }) => "a failure".into(),
            Self::Message(FromInit::Unsupported { .. }) => "a refusal".into(),
            Self::Data(kind, bytes) => format!("{} bytes of {kind:?}", bytes.len()),
        }
    }
}

impl Reader {
    /// Cancel safe: bytes that were read stay in the buffer.
    async fn next(&mut self) -> Result<Incoming, AgentError> {
        loop {
            if let Some(incoming) = self.cut()? {
                return Ok(incoming);
            }
            self.buffer.reserve(READ_SIZE);
            let lost = |source| AgentError::Lost { doing: "waiting for the job", source };
            match self.read.read_buf(&mut self.buffer).await {
                Ok(0) => return Err(lost(None)),
                Ok(_) => {}
                Err(error) => return Err(lost(Some(error))),
            }
        }
    }

    fn cut(&mut self) -> Result<Option<Incoming>, AgentError> {
        loop {
            if let Some((kind, left)) = self.data.take() {
                if left == 0 {
                    continue;
                }
                let piece = left.min(self.buffer.len());
                if piece < left {
                    self.data = Some((kind, left - piece));
                }
                if piece == 0 {
                    return Ok(None);
                }
                return Ok(Some(Incoming::Data(kind, self.buffer.split_to(piece).freeze())));
            }
            let Some(header) = self.buffer.first_chunk::<{ wire::HEADER_LEN }>() else { return Ok(None) };
            let (kind, length) =
                wire::parse_header(*header).map_err(|error| AgentError::Protocol(error.to_string()))?;
            match kind {
                Kind::Out | Kind::Err => {
                    self.buffer.advance(wire::HEADER_LEN);
                    self.data = Some((kind, length));
                }
                Kind::In => return Err(AgentError::Protocol("input from a box".into())),
                Kind::Json => {
                    if self.buffer.len() < wire::HEADER_LEN + length {
                        return Ok(None);
                    }
                    self.buffer.advance(wire::HEADER_LEN);
                    let payload = self.buffer.split_to(length);
                    match wire::parse::<FromInit>(&payload, &FromInit::KNOWN) {
                        Ok(Parsed::Known(message)) => return Ok(Some(Incoming::Message(message))),
                        // A newer boxyard-init's extra news is no business of this version.
                        Ok(Parsed::Unknown(_)) => {}
                        Err(error) => return Err(AgentError::Protocol(error.to_string())),
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex};

    use super::*;

    /// A job whose other end is ours: it has been started, and `sent` follows.
    async fn job(sent: &[u8]) -> (Result<Job, AgentError>, DuplexStream) {
        let (ours, theirs) = duplex(8 * 1024 * 1024);
        let mut bytes = wire::json_frame(&FromInit::Hello(Hello::ours()));
        bytes.extend_from_slice(sent);
        let (mut read, mut write) = tokio::io::split(theirs);
        write.write_all(&bytes).await.expect("it fits");
        let job = begin(Box::new(ours), ToInit::Attach { job: "j".into() }).await;
        let mut greeting = [0; wire::HEADER_LEN];
        read.read_exact(&mut greeting).await.expect("a greeting");
        (job, read.unsplit(write))
    }

    fn started() -> Vec<u8> {
        wire::json_frame(&FromInit::Started { pid: 7 })
    }

    #[tokio::test]
    async fn output_comes_in_order_whatever_the_frames_and_the_end_comes_last() {
        let mut sent = started();
        for (kind, bytes) in [(Kind::Out, &b"one"[..]), (Kind::Err, b""), (Kind::Err, b"two"), (Kind::Out, b"three")] {
            sent.extend_from_slice(&wire::header(kind, bytes.len()));
            sent.extend_from_slice(bytes);
        }
        let exit = Exit { code: 300, signal: None, cpu_ns: 1, memory_peak: 2 };
        sent.extend_from_slice(&wire::json_frame(&FromInit::Unsupported { message: "x".repeat(5000) }));
        sent.extend_from_slice(&wire::json_frame(&FromInit::Exit(exit)));
        let (job, _peer) = job(&sent).await;
        let mut job = job.expect("started");
        assert_eq!(job.pid(), 7);
        assert_eq!(job.next().await.expect("output"), Event::Out(Bytes::from_static(b"one")));
        assert_eq!(job.next().await.expect("output"), Event::Err(Bytes::from_static(b"two")));
        assert_eq!(job.next().await.expect("output"), Event::Out(Bytes::from_static(b"three")));
        let end = Event::Exit(Exit { code: 255, ..exit });
        assert_eq!(job.next().await.expect("the end"), end, "a code that no process has is cut to one");
    }

    #[tokio::test]
    async fn a_peer_that_breaks_the_protocol_is_left() {
        let too_long = [0xff, 0xff, 0xff, 0xff, Kind::Out.number()];
        let unknown_kind = [0, 0, 0, 1, 9, 0];
        let no_json = [0, 0, 0, 2, Kind::Json.number(), b'{', b'{'];
        for sent in [&too_long[..], &unknown_kind, &no_json, &wire::header(Kind::In, 1), &started()] {
            let (job, _peer) = job(&[&started(), sent].concat()).await;
            let answer = job.expect("started").next().await;
            assert!(matches!(answer, Err(AgentError::Protocol(_))), "{sent:?}: {answer:?}");
        }
        let exit = FromInit::Exit(Exit { code: 0, signal: None, cpu_ns: 0, memory_peak: 0 });
        for first in [FromInit::Started { pid: 0 }, exit] {
            let (job, _peer) = job(&wire::json_frame(&first)).await;
            assert!(matches!(job, Err(AgentError::Protocol(_))), "{first:?}: {job:?}");
        }
    }

    #[tokio::test]
    async fn a_refusal_is_passed_on_and_its_text_is_cut() {
        let message = "no such folder ".repeat(1000);
        let (job, _peer) = job(&wire::json_frame(&FromInit::Failed { kind: FailedKind::NotFound, message })).await;
        let Err(AgentError::Refused { kind, message }) = job else { panic!("refused: {job:?}") };
        assert_eq!((kind, message.len()), (FailedKind::NotFound, MESSAGE_MAX));
    }

    #[tokio::test]
    async fn a_connection_that_ends_before_the_job_is_lost() {
        let (job, peer) = job(&[&started()[..], &wire::header(Kind::Out, 10), b"half"].concat()).await;
        let mut job = job.expect("started");
        drop(peer);
        assert_eq!(job.next().await.expect("what came"), Event::Out(Bytes::from_static(b"half")));
        assert!(matches!(job.next().await, Err(AgentError::Lost { .. })));
    }
}
