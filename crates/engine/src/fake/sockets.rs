//! Sockets of pretended boxes. What is dialled is a service by its name: `echo` (or the path `/echo.sock`) sends back what comes and ends
//! when its client does, `break` breaks off at the first byte, anything else refuses. What listens waits for the test to connect, see
//! [`super::FakeEngine::connect_in`]; who wants to listen at the address `silent` comes to the gate of that name and gets no answer.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use boxyard_proto::wire::{Endpoint, FailedKind, FromInit, Kind};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, WriteHalf};
use tokio::sync::mpsc;

use super::FakeBox;
use super::lock;
use super::serve::{Frame, Reader, send, send_data};

/// Bytes that a socket holds in each direction, and that are read of it at once.
const SOCKET_BYTES: usize = 64 * 1024;
/// Connections that may wait for a listener.
const INCOMING: usize = 16;

/// What listens in a box, and who waits to be accepted.
#[derive(Default)]
pub(super) struct Sockets {
    /// By port or path.
    listening: Mutex<HashMap<String, mpsc::Sender<u64>>>,
    waiting: Mutex<HashMap<u64, DuplexStream>>,
    connections: AtomicU64,
}

impl Sockets {
    /// Connects to what listens at this port or path.
    pub(super) async fn connect(&self, at: &str) -> Option<DuplexStream> {
        let listener = lock(&self.listening).get(at).cloned()?;
        let (ours, theirs) = tokio::io::duplex(SOCKET_BYTES);
        let number = self.connections.fetch_add(1, Ordering::Relaxed);
        lock(&self.waiting).insert(number, theirs);
        listener.send(number).await.ok()?;
        Some(ours)
    }
}

/// Serves a connection that begins with `dial`.
pub(super) async fn dial(to: Endpoint, read: &mut Reader, write: &mut WriteHalf<DuplexStream>) -> Option<()> {
    let (host, port) = match to {
        Endpoint::Tcp { host, port } => (host, port),
        Endpoint::Unix { path } => (path, 0),
        Endpoint::AgentSocket => (String::new(), 0),
    };
    if host == "break" {
        send(write, &FromInit::Opened { host, port }).await?;
        return read.message().await.map(drop);
    }
    if host != "echo" && host != "/echo.sock" {
        return fail(write, "connection refused").await;
    }
    let (ours, theirs) = tokio::io::duplex(SOCKET_BYTES);
    let echo = async {
        let (mut from, mut to) = tokio::io::split(theirs);
        // A client that leaves ends the service, too.
        let _ = tokio::io::copy(&mut from, &mut to).await;
        let _ = to.shutdown().await;
        std::future::pending().await
    };
    send(write, &FromInit::Opened { host, port }).await?;
    tokio::select! {
        carried = carry(ours, read, write) => carried,
        () = echo => None,
    }
}

/// Serves a connection that begins with `listen`, until it closes.
pub(super) async fn listen(
    home: &FakeBox,
    at: Endpoint,
    read: &mut Reader,
    write: &mut WriteHalf<DuplexStream>,
) -> Option<()> {
    let (key, host, port) = match at {
        Endpoint::Tcp { host, port } => {
            let port = if port == 0 { 40_001 } else { port };
            (port.to_string(), host, port)
        }
        Endpoint::Unix { path } => (path.clone(), path, 0),
        Endpoint::AgentSocket => ("/tmp/ssh-fake/agent".to_owned(), "/tmp/ssh-fake/agent".to_owned(), 0),
    };
    if host == "silent" {
        tokio::select! {
            () = home.gates.pass("silent") => {}
            _ = read.message() => return None,
        }
    }
    let (announce, mut announced) = mpsc::channel(INCOMING);
    let taken = {
        let mut listening = lock(&home.sockets.listening);
        let taken = listening.contains_key(&key);
        listening.entry(key.clone()).or_insert(announce);
        taken
    };
    if taken {
        return fail(write, "address already in use").await;
    }
    send(write, &FromInit::Opened { host, port }).await?;
    loop {
        tokio::select! {
            connection = announced.recv() => {
                let incoming = FromInit::Incoming { connection: connection?, host: "127.0.0.1".into(), port: 50_000 };
                send(write, &incoming).await?;
            }
            closed = read.message() => if closed.is_none() {
                lock(&home.sockets.listening).remove(&key);
                return None;
            }
        }
    }
}

/// Serves a connection that begins with `accept`.
pub(super) async fn accept(
    home: &FakeBox,
    connection: u64,
    read: &mut Reader,
    write: &mut WriteHalf<DuplexStream>,
) -> Option<()> {
    let waiting = lock(&home.sockets.waiting).remove(&connection);
    let Some(stream) = waiting else { return fail(write, "nobody waits with this number").await };
    send(write, &FromInit::Opened { host: String::new(), port: 0 }).await?;
    carry(stream, read, write).await
}

async fn fail(write: &mut WriteHalf<DuplexStream>, message: &str) -> Option<()> {
    send(write, &FromInit::Failed { kind: FailedKind::NotFound, message: message.into() }).await
}

/// Both directions, each at its own speed, until both have ended or the connection closes.
async fn carry(stream: DuplexStream, read: &mut Reader, write: &mut WriteHalf<DuplexStream>) -> Option<()> {
    let (mut from, mut to) = tokio::io::split(stream);
    let inward = async {
        loop {
            match read.message().await {
                Some(Frame::Data(bytes)) if bytes.is_empty() => return to.shutdown().await.map_err(drop),
                Some(Frame::Data(bytes)) => to.write_all(&bytes).await.map_err(drop)?,
                Some(Frame::Message(_)) | None => return Err(()),
            }
        }
    };
    let outward = async {
        let mut buffer = vec![0; SOCKET_BYTES];
        loop {
            match from.read(&mut buffer).await.map_err(drop)? {
                0 => return send(write, &FromInit::OutEnd).await.ok_or(()),
                count => send_data(write, Kind::Out, &buffer[..count]).await.ok_or(())?,
            }
        }
    };
    tokio::try_join!(inward, outward).ok().map(drop)
}
