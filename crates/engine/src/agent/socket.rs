//! Sockets in a box: dialled from here, or listened on.

use std::time::Duration;

use boxyard_proto::BoxId;
use boxyard_proto::wire::{Endpoint, FromInit, Kind, ToInit, User, ability};
use bytes::Bytes;

use super::{AgentError, JobControl, Read, Reader, open};
use crate::Engine;

/// Characters of an address that a box tells us.
const HOST_MAX: usize = 255;

/// How long a box may take to open a socket: it looks a name up for 10 seconds and tries its addresses for 30 at most.
const OPEN_DEADLINE: Duration = Duration::from_secs(50);

/// A socket in a box. Bytes for it go through [`Socket::control`]: `input` sends, `end_input` says that nothing more comes. Dropping the
/// socket and its controls closes it.
pub struct Socket {
    host: String,
    port: u16,
    reader: Reader,
    control: JobControl,
    ended: bool,
}

/// Listens on a socket in a box for as long as it lives.
pub struct Listener {
    host: String,
    port: u16,
    reader: Reader,
    /// Keeps the connection whole: it closes when both halves are dropped.
    _control: JobControl,
}

/// Somebody who has connected to a [`Listener`], to be taken by [`accept`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incoming {
    /// What to give to [`accept`].
    pub connection: u64,
    /// The address that it comes from, empty for Unix sockets. A box can say anything here.
    pub host: String,
    /// Its port, 0 for Unix sockets.
    pub port: u16,
}

/// Connects to a socket from inside the box, with the rights of `user` where it is a Unix socket.
///
/// # Errors
/// No connection to the box, a refusal (nobody listens there, no such name, not allowed), a box that is too old, or a peer that breaks
/// the protocol.
pub async fn dial(engine: &dyn Engine, id: &BoxId, to: Endpoint, user: User) -> Result<Socket, AgentError> {
    socket(engine, id, ToInit::Dial { to, user }, ability::DIAL).await
}

/// Takes a connection that a [`Listener`] told of, within [`boxyard_proto::wire::ACCEPT_SECONDS`].
///
/// # Errors
/// As [`dial`]; one that nobody waits with any more is refused with [`NotFound`](boxyard_proto::wire::FailedKind::NotFound).
pub async fn accept(engine: &dyn Engine, id: &BoxId, connection: u64) -> Result<Socket, AgentError> {
    socket(engine, id, ToInit::Accept { connection }, ability::LISTEN).await
}

async fn socket(engine: &dyn Engine, id: &BoxId, first: ToInit, needs: &'static str) -> Result<Socket, AgentError> {
    let (reader, control, answer) = open(engine.connect(id).await?, first, Some(needs), OPEN_DEADLINE).await?;
    let (host, port) = opened(answer)?;
    Ok(Socket { host, port, reader, control, ended: false })
}

/// Listens on a socket inside the box, made with the rights of `user`.
///
/// # Errors
/// As [`dial`]; an address in use or a port that is not allowed is a refusal.
pub async fn listen(engine: &dyn Engine, id: &BoxId, at: Endpoint, user: User) -> Result<Listener, AgentError> {
    let first = ToInit::Listen { at, user };
    let (reader, control, answer) =
        open(engine.connect(id).await?, first, Some(ability::LISTEN), OPEN_DEADLINE).await?;
    let (host, port) = opened(answer)?;
    Ok(Listener { host, port, reader, _control: control })
}

fn opened(answer: FromInit) -> Result<(String, u16), AgentError> {
    if let FromInit::Opened { host, port } = &answer {
        return Ok((cut(host), *port));
    }
    Err(AgentError::Protocol(format!("{} instead of a socket", Read::Message(answer).describe())))
}

fn cut(host: &str) -> String {
    host.chars().filter(|c| !c.is_control()).take(HOST_MAX).collect()
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Socket").field("host", &self.host).field("port", &self.port).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listener").field("host", &self.host).field("port", &self.port).finish_non_exhaustive()
    }
}

impl Socket {
    /// A handle to send with.
    pub fn control(&self) -> JobControl {
        self.control.clone()
    }

    /// The next bytes; `None` when no more will come. Cancel safe.
    ///
    /// # Errors
    /// The connection broke, or the peer broke the protocol.
    pub async fn next(&mut self) -> Result<Option<Bytes>, AgentError> {
        loop {
            if self.ended {
                return Ok(None);
            }
            match self.reader.next().await? {
                Read::Data(Kind::Out, bytes) => return Ok(Some(bytes)),
                Read::Message(FromInit::OutEnd) => self.ended = true,
                Read::Message(FromInit::Unsupported { .. }) => {}
                other @ (Read::Data(..) | Read::Message(_)) => return Err(AgentError::Protocol(other.describe())),
            }
        }
    }

    /// Waits until the other side of the connection is gone, after [`next`](Self::next) gave `None`.
    pub async fn closed(&mut self) {
        // Whatever ends it, it is over; a peer that still talks breaks the protocol.
        let _ = self.reader.next().await;
    }
}

impl Listener {
    /// Where it listens: an IP address, or a path.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port it got, 0 for Unix sockets.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The next connection. Cancel safe.
    ///
    /// # Errors
    /// The listening has ended, or the peer broke the protocol.
    pub async fn next(&mut self) -> Result<Incoming, AgentError> {
        loop {
            match self.reader.next().await? {
                Read::Message(FromInit::Incoming { connection, host, port }) => {
                    return Ok(Incoming { connection, host: cut(&host), port });
                }
                Read::Message(FromInit::Unsupported { .. }) => {}
                other @ (Read::Data(..) | Read::Message(_)) => return Err(AgentError::Protocol(other.describe())),
            }
        }
    }
}
