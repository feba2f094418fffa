//! One connection: cutting what comes in into messages, and putting out what the other side is slow to take.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use boxyard_proto::wire::{self, FromInit, HEADER_LEN, Hello, Kind, Parsed, ToInit};
use rustix::buffer::spare_capacity;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::output::Scratch;

/// Bytes read of a connection at once.
const READ_SIZE: usize = 256 * 1024;

/// Bytes of what goes out that are kept room for.
const PENDING_KEPT: usize = 64 * 1024;

/// How long the other side may take to close after the last message. What it has not read by then stays readable for it.
pub const CLOSING: Duration = Duration::from_secs(10);

/// Something from the other side.
#[derive(Debug)]
pub enum Incoming {
    /// A message of this version.
    Message(ToInit),
    /// A message of another version; its `type`.
    Unknown(String),
    /// Bytes for standard input, as far as they have come; none at its end. They are [`Connection::input`] until the next is cut.
    Input(Range<usize>),
}

/// A connection to the engine.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    /// What has come in. The memory is lent by the scratch for as long as there is something in it.
    inbox: Vec<u8>,
    /// Bytes of the inbox that are cut already.
    cut: usize,
    /// Bytes still to come of the input frame under way.
    input_left: usize,
    /// What goes out next, before anything else may.
    pending: Vec<u8>,
    sent: usize,
    scratch: Rc<Scratch>,
    /// One of the places for connections, given back when this one closes.
    _place: OwnedSemaphorePermit,
}

impl Connection {
    /// Takes a fresh connection over. The greeting goes out with the first answer.
    pub fn new(stream: UnixStream, place: OwnedSemaphorePermit, scratch: Rc<Scratch>) -> Self {
        let pending = wire::json_frame(&FromInit::Hello(Hello::ours()));
        Self { stream, inbox: Vec::new(), cut: 0, input_left: 0, pending, sent: 0, scratch, _place: place }
    }

    /// The next thing that comes in. Cancel safe.
    ///
    /// # Errors
    /// The connection is gone, or (`InvalidData`) the other side breaks the protocol.
    pub async fn next(&mut self) -> io::Result<Incoming> {
        loop {
            if let Some(incoming) = self.cut()? {
                return Ok(incoming);
            }
            match self.fill() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                filled => {
                    filled?;
                    continue;
                }
            }
            // Nothing to do but to wait: the other side may be waiting for what we have not sent yet.
            self.flush()?;
            self.readable().await?;
        }
    }

    /// Waits until there may be something to [`fill`](Self::fill).
    pub async fn readable(&self) -> io::Result<()> {
        self.stream.readable().await
    }

    /// Waits until there may be room to [`flush`](Self::flush).
    pub async fn writable(&self) -> io::Result<()> {
        self.stream.writable().await
    }

    /// Waits until the other side has closed, without reading what it sent before.
    pub async fn closed(&self) {
        // An error of the event loop's is no better than a closed connection.
        let _ = self.stream.ready(Interest::PRIORITY).await;
    }

    /// Reads what is there.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is, `UnexpectedEof` when nothing will come any more, and what else the kernel says.
    pub fn fill(&mut self) -> io::Result<()> {
        if self.inbox.capacity() == 0 {
            self.inbox = self.scratch.lend();
        }
        self.inbox.drain(..self.cut);
        self.cut = 0;
        self.inbox.reserve(READ_SIZE);
        let read = self
            .stream
            .try_io(Interest::READABLE, || Ok(rustix::io::read(&self.stream, spare_capacity(&mut self.inbox))?));
        if self.inbox.is_empty() {
            self.scratch.take_back(std::mem::take(&mut self.inbox));
        }
        if read? == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    /// Cuts the next thing off what was read, if it is complete. Input is handed on in the pieces in which it arrives.
    ///
    /// # Errors
    /// `InvalidData`: the other side breaks the protocol.
    pub fn cut(&mut self) -> io::Result<Option<Incoming>> {
        let incoming = self.try_cut();
        if matches!(incoming, Ok(None)) && self.cut == self.inbox.len() {
            // An idle connection keeps no memory.
            self.cut = 0;
            self.scratch.take_back(std::mem::take(&mut self.inbox));
        }
        incoming
    }

    fn try_cut(&mut self) -> io::Result<Option<Incoming>> {
        let invalid = |message: String| io::Error::new(io::ErrorKind::InvalidData, message);
        if self.input_left > 0 {
            let start = self.cut;
            let piece = self.input_left.min(self.inbox.len() - start);
            self.input_left -= piece;
            self.cut += piece;
            return Ok((piece > 0).then_some(Incoming::Input(start..self.cut)));
        }
        let rest = &self.inbox[self.cut..];
        let Some(header) = rest.first_chunk::<HEADER_LEN>() else { return Ok(None) };
        let (kind, length) = wire::parse_header(*header).map_err(|error| invalid(error.to_string()))?;
        match kind {
            Kind::In => {
                self.cut += HEADER_LEN;
                if length == 0 {
                    return Ok(Some(Incoming::Input(self.cut..self.cut)));
                }
                self.input_left = length;
                self.try_cut()
            }
            Kind::Json => {
                let Some(payload) = rest.get(HEADER_LEN..HEADER_LEN + length) else { return Ok(None) };
                let parsed = wire::parse::<ToInit>(payload, &ToInit::KNOWN);
                let incoming = match parsed.map_err(|error| invalid(format!("message not understood: {error}")))? {
                    Parsed::Known(message) => Incoming::Message(message),
                    Parsed::Unknown(message) => Incoming::Unknown(message),
                };
                self.cut += HEADER_LEN + length;
                Ok(Some(incoming))
            }
            Kind::Out | Kind::Err => Err(invalid("output from an engine".into())),
        }
    }

    /// The bytes of an [`Incoming::Input`].
    pub fn input(&self, range: Range<usize>) -> &[u8] {
        self.inbox.get(range).unwrap_or_default()
    }

    /// Puts a message behind what is waiting to go out.
    pub fn say(&mut self, message: &FromInit) {
        self.pending.extend_from_slice(&wire::json_frame(message));
    }

    /// Whether something is waiting to go out.
    pub fn is_pending(&self) -> bool {
        self.sent < self.pending.len()
    }

    /// Sends `payload` as one frame; what the other side does not take at once is kept. Only when nothing [is
    /// pending](Self::is_pending).
    ///
    /// # Errors
    /// The connection is gone.
    pub fn send(&mut self, kind: Kind, payload: &[u8]) -> io::Result<()> {
        debug_assert!(!self.is_pending(), "callers read no more output while some is waiting");
        let header = wire::header(kind, payload.len());
        let sent = match self.stream.try_write_vectored(&[IoSlice::new(&header), IoSlice::new(payload)]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            result => result?,
        };
        if sent < HEADER_LEN {
            self.pending.extend_from_slice(&header[sent..]);
        }
        self.pending.extend_from_slice(&payload[sent.saturating_sub(HEADER_LEN)..]);
        Ok(())
    }

    /// Sends from these buffers, which are not all empty, what the other side takes at once, and returns how much that was. Only when
    /// nothing [is pending](Self::is_pending), or amid a frame.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn write(&self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        match self.stream.try_write_vectored(buffers) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            written => written,
        }
    }

    /// Says that nothing more will be sent.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn end(&self) -> io::Result<()> {
        Ok(rustix::net::shutdown(&self.stream, rustix::net::Shutdown::Write)?)
    }

    /// Sends what is waiting, as far as the other side takes it.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn flush(&mut self) -> io::Result<()> {
        while self.is_pending() {
            match self.stream.try_write(&self.pending[self.sent..]) {
                Ok(sent) => self.sent += sent,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.sent = 0;
        self.pending.clear();
        self.pending.shrink_to(PENDING_KEPT);
        Ok(())
    }

    /// Sends what is waiting, however long the other side takes to read it, and closes. Says whether the other side has certainly read
    /// everything.
    pub async fn deliver(mut self) -> bool {
        let delivered = async {
            self.flush()?;
            while self.is_pending() {
                self.writable().await?;
                self.flush()?;
            }
            Ok::<_, io::Error>(())
        };
        delivered.await.is_ok() && matches!(timeout(CLOSING, self.wait_read()).await, Ok(Ok(())))
    }

    /// Says that nothing more comes and waits until the other side has closed: having read everything when this returns `Ok`.
    async fn wait_read(&mut self) -> io::Result<()> {
        self.end()?;
        loop {
            self.cut = self.inbox.len();
            match self.fill() {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable().await?,
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                // A Unix socket that is closed with something unread in it resets the connection.
                Err(error) => return Err(error),
            }
        }
    }
}
