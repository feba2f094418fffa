//! Moving bytes between a connection and a socket in the box, each way on its own until both have ended.

use std::io;

use boxyard_proto::wire::{FromInit, Kind, ToInit};
use tokio::task::yield_now;

use super::connection::{Connection, Incoming};
use super::dial::Dialled;
use super::output::Scratch;
use super::stream::Stream;

/// Bytes read of a socket at once, and of a frame of output at most.
const READ_SIZE: usize = 256 * 1024;

/// Tells that `dialled` is open and carries its bytes until both directions have ended or either side is gone. What may have come in for
/// it already is in the connection.
pub async fn carry(mut connection: Connection, dialled: Dialled, scratch: &Scratch) {
    let Dialled { stream, host, port } = dialled;
    connection.say(&FromInit::Opened { host, port });
    let mut relay =
        Relay { connection, stream, queue: Vec::new(), written: 0, input: Input::Open, output: Output::Open };
    if relay.until_over(scratch).await.is_ok() {
        let Relay { connection, stream, .. } = relay;
        drop(stream);
        connection.deliver().await;
    }
}

/// How far the direction into the box has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Input {
    /// More may come.
    Open,
    /// The last of it is in the queue.
    Ending,
    /// The socket has it all.
    Ended,
    /// The socket takes no more; what comes is dropped.
    Refused,
}

/// How far the direction out of the box has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Output {
    Open,
    Ended,
}

/// What a read has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Read {
    /// Bytes, the end, or nothing yet.
    Some,
    /// That the other side has broken the socket off.
    Broken,
}

struct Relay {
    connection: Connection,
    stream: Stream,
    /// What the socket has not taken yet. While there is any, no more is read.
    queue: Vec<u8>,
    written: usize,
    input: Input,
    output: Output,
}

impl Relay {
    /// Moves bytes until both directions have ended or the socket was broken off.
    ///
    /// # Errors
    /// The connection is gone.
    async fn until_over(&mut self, scratch: &Scratch) -> io::Result<()> {
        // Input may have come with the request already.
        self.heed()?;
        loop {
            self.connection.flush()?;
            if self.output == Output::Ended {
                match self.input {
                    Input::Ended | Input::Refused => return Ok(()),
                    Input::Open | Input::Ending if self.stream.is_over() => return Ok(()),
                    Input::Open | Input::Ending => {}
                }
            }
            let pending = self.connection.is_pending();
            let waiting = self.written < self.queue.len();
            let open = self.output == Output::Open;
            tokio::select! {
                readable = self.connection.readable(), if !waiting => {
                    readable?;
                    self.hear()?;
                }
                () = self.connection.closed(), if waiting => return Err(io::ErrorKind::UnexpectedEof.into()),
                writable = self.connection.writable(), if pending => writable?,
                () = self.stream.writable(), if waiting => self.write(),
                () = self.stream.readable(), if open && !pending => match self.read(scratch)? {
                    Read::Some => {}
                    Read::Broken => return Ok(()),
                },
                () = self.stream.broken(), if !open => return Ok(()),
            }
            // Jobs and other sockets get their turn, even when this one always has more.
            yield_now().await;
        }
    }

    /// Reads what the other side says and does it.
    fn hear(&mut self) -> io::Result<()> {
        match self.connection.fill() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            filled => filled.and_then(|()| self.heed()),
        }
    }

    /// Does what the other side has said.
    fn heed(&mut self) -> io::Result<()> {
        while let Some(incoming) = self.connection.cut()? {
            match incoming {
                Incoming::Input(_) if self.input != Input::Open => {}
                Incoming::Input(range) if range.is_empty() => {
                    self.input = Input::Ending;
                    self.write();
                }
                Incoming::Input(range) => {
                    let bytes = self.connection.input(range).to_vec();
                    self.push(bytes);
                }
                Incoming::Unknown(message) => self.connection.say(&FromInit::Unsupported { message }),
                Incoming::Message(ToInit::Hello(_)) => {}
                Incoming::Message(ToInit::End { .. }) => return Err(io::ErrorKind::ConnectionAborted.into()),
                Incoming::Message(
                    ToInit::Exec(_)
                    | ToInit::Attach { .. }
                    | ToInit::Taken { .. }
                    | ToInit::Signal { .. }
                    | ToInit::SignalJob { .. }
                    | ToInit::Resize { .. }
                    | ToInit::Dial { .. }
                    | ToInit::Listen { .. }
                    | ToInit::Accept { .. },
                ) => {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "a message that means nothing to a socket"));
                }
            }
        }
        Ok(())
    }

    /// Takes bytes for the socket. No more than one read of the connection is ever in the queue.
    fn push(&mut self, bytes: Vec<u8>) {
        if self.written < self.queue.len() {
            self.queue.extend_from_slice(&bytes);
        } else {
            self.queue = bytes;
            self.written = 0;
        }
        self.write();
    }

    /// Writes what the socket takes.
    fn write(&mut self) {
        while self.written < self.queue.len() {
            match self.stream.try_write(&self.queue[self.written..]) {
                Ok(written) => self.written += written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // What it has said before may still be there to be read.
                Err(_) => {
                    self.input = Input::Refused;
                    break;
                }
            }
        }
        self.queue = Vec::new();
        self.written = 0;
        if self.input == Input::Ending {
            self.stream.end_writing();
            self.input = Input::Ended;
        }
    }

    /// Moves what the socket has to the connection.
    ///
    /// # Errors
    /// The connection is gone.
    fn read(&mut self, scratch: &Scratch) -> io::Result<Read> {
        let Self { connection, stream, output, .. } = self;
        scratch.with(READ_SIZE, |buffer| match stream.try_read(buffer) {
            Ok(0) => {
                connection.say(&FromInit::OutEnd);
                *output = Output::Ended;
                Ok(Read::Some)
            }
            Ok(read) => connection.send(Kind::Out, &buffer[..read]).map(|()| Read::Some),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Read::Some),
            Err(_) => Ok(Read::Broken),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::IoSlice;
    use std::mem::MaybeUninit;
    use std::os::fd::AsFd;
    use std::rc::Rc;
    use std::sync::Arc;

    use boxyard_proto::wire::User;
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    use tokio::net::UnixStream;
    use tokio::runtime::Builder;
    use tokio::sync::Semaphore;
    use tokio::task::{LocalSet, spawn_local, yield_now};

    use super::super::stream::Stream;
    use super::*;

    #[test]
    fn a_socket_that_always_has_a_little_more_lets_the_others_have_their_turn() {
        /// Bytes, each of which the kernel hands out on its own.
        const BYTES: usize = 100;
        let runtime = Builder::new_current_thread().enable_io().enable_time().build().expect("a runtime");
        LocalSet::new().block_on(&runtime, async {
            let (peer, socket) = UnixStream::pair().expect("a pair");
            // A byte that comes with a descriptor is read alone, so whoever sends many is cheaper off than we are.
            for _ in 0..BYTES {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                let descriptors = [peer.as_fd()];
                assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
                sendmsg(&peer, &[IoSlice::new(b"x")], &mut control, SendFlags::empty()).expect("send");
            }
            drop(peer);
            let turns = Rc::new(Cell::new(0));
            let other = Rc::clone(&turns);
            let other = spawn_local(async move {
                loop {
                    other.set(other.get() + 1);
                    yield_now().await;
                }
            });
            let (engine, ours) = UnixStream::pair().expect("a pair");
            let place = Arc::new(Semaphore::new(1)).acquire_owned().await.expect("a place");
            let scratch = Rc::new(Scratch::new());
            let connection = Connection::new(ours, place, Rc::clone(&scratch));
            let stream = Stream::Unix(socket, User::BOXUSER);
            let dialled = Dialled { stream, host: String::new(), port: 0 };
            let carrying = spawn_local(async move { carry(connection, dialled, &scratch).await });
            // The end of the connection comes when everything has been carried.
            let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
            loop {
                engine.readable().await.expect("wait for frames");
                match engine.try_read(&mut buffer) {
                    Ok(0) => break,
                    Ok(read) => seen.extend_from_slice(&buffer[..read]),
                    Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
                }
            }
            let frames = seen.windows(6).filter(|frame| *frame == [0, 0, 0, 1, Kind::Out.number(), b'x']).count();
            assert_eq!(frames, BYTES);
            drop(engine);
            carrying.await.expect("the end");
            other.abort();
            assert!(turns.get() >= BYTES, "others had only {} turns", turns.get());
        });
    }
}
