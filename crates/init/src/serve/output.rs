//! What a job writes, to its two pipes or its terminal, and the one buffer that everything passes through.

use std::cell::RefCell;
use std::io::{self, IoSliceMut};
use std::os::fd::OwnedFd;
use std::rc::Rc;

use boxyard_proto::wire::Kind;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use tokio::net::unix::pipe::Receiver;
use tokio::task::yield_now;

use super::connection::Connection;
use super::held::Held;
use super::pty::{HELD_MAX, Terminal};

/// Bytes moved at once.
pub const READ_SIZE: usize = 256 * 1024;

/// Bytes of memory that are kept for the next who needs some.
const SPARE_MAX: usize = 1024 * 1024;

/// Room in a job's output pipes, so that a busy writer and we take turns less often. A box may be over its allowance for pipes.
const PIPE_SIZE: usize = 1024 * 1024;

/// A buffer for bytes on their way from one descriptor to another. There is one thread and no pause on the way, so one is enough.
///
/// Beside it lies one spare piece of memory for what a connection has not dealt with at once.
#[derive(Debug)]
pub struct Scratch {
    buffer: RefCell<Vec<u8>>,
    spare: RefCell<Vec<u8>>,
}

impl Scratch {
    /// Sets memory aside, which the kernel gives only as far as it is used.
    pub fn new() -> Self {
        Self { buffer: RefCell::new(vec![0; READ_SIZE]), spare: RefCell::default() }
    }

    /// Lends empty memory that somebody has used before, if there is some.
    pub fn lend(&self) -> Vec<u8> {
        self.spare.take()
    }

    /// Takes memory that is of no more use to somebody, for the next who needs some.
    pub fn take_back(&self, mut memory: Vec<u8>) {
        memory.clear();
        let mut spare = self.spare.borrow_mut();
        if memory.capacity() > spare.capacity() && memory.capacity() <= SPARE_MAX {
            *spare = memory;
        }
    }

    /// Lends `size` bytes, or all there are.
    pub fn with<T>(&self, size: usize, pass: impl FnOnce(&mut [u8]) -> T) -> T {
        let mut buffer = self.buffer.borrow_mut();
        let size = size.min(buffer.len());
        pass(&mut buffer[..size])
    }
}

/// The reading end of a job's standard output or error.
#[derive(Debug)]
pub struct Output {
    kind: Kind,
    /// Open as long as somebody may write.
    source: Option<Source>,
    /// Bytes that may have been written before the job's first process ended and have not been read yet.
    owed: u64,
}

/// Where output goes.
#[derive(Debug)]
pub enum Target<'a> {
    /// Nowhere.
    Lost,
    /// Out, and that is that.
    Sent(&'a mut Connection),
    /// Into what is held, to be sent from there.
    Held(&'a mut Held),
}

/// What a job's output is read from.
#[derive(Debug)]
enum Source {
    Pipe(Receiver),
    Terminal(Rc<Terminal>),
}

impl Output {
    /// Makes a pipe. The writing end is for the child.
    pub fn new(kind: Kind) -> io::Result<(Self, OwnedFd)> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        let _ = fcntl_setpipe_size(&read, PIPE_SIZE);
        let pipe = Receiver::from_owned_fd_unchecked(non_blocking(read)?)?;
        Ok((Self { kind, source: Some(Source::Pipe(pipe)), owed: 0 }, write))
    }

    /// All output of a job that has a terminal.
    pub fn terminal(terminal: Rc<Terminal>) -> Self {
        Self { kind: Kind::Out, source: Some(Source::Terminal(terminal)), owed: 0 }
    }

    /// The output of a job that cannot write any more.
    pub fn closed() -> Self {
        Self { kind: Kind::Out, source: None, owed: 0 }
    }

    /// Whether somebody may still write.
    pub fn is_open(&self) -> bool {
        self.source.is_some()
    }

    /// Waits for something to read or the end. Never returns when it has ended.
    pub async fn readable(&self) {
        match &self.source {
            // An error of the event loop's shows again in the read.
            Some(Source::Pipe(pipe)) => drop(pipe.readable().await),
            // What it may owe is read without waiting.
            Some(Source::Terminal(terminal)) if self.owed == 0 => terminal.readable().await,
            Some(Source::Terminal(_)) => {}
            None => std::future::pending().await,
        }
    }

    /// Notes how much the job has written by now. Of a terminal that cannot be known before it is read.
    pub fn note_owed(&mut self) {
        self.owed = match &self.source {
            Some(Source::Pipe(pipe)) => rustix::io::ioctl_fionread(pipe).unwrap_or(0),
            Some(Source::Terminal(_)) => HELD_MAX,
            None => 0,
        };
    }

    /// Whether everything that the job's first process wrote has been read.
    pub fn is_settled(&self) -> bool {
        self.source.is_none() || self.owed == 0
    }

    /// Moves what is there. Returns whether there was anything, the end included.
    ///
    /// # Errors
    /// The connection is gone. What was read is lost with it.
    pub fn pump(&mut self, scratch: &Scratch, target: Target<'_>) -> io::Result<bool> {
        let Some(source) = &self.source else { return Ok(false) };
        let terminal = |terminal: &Terminal, buffer: &mut [u8]| match self.owed {
            0 => terminal.read(buffer),
            _ => terminal.read_rest(buffer),
        };
        let read_into = |buffer: &mut [u8]| match source {
            Source::Pipe(pipe) => pipe.try_read(buffer),
            Source::Terminal(source) => terminal(source, buffer),
        };
        let read = match target {
            Target::Held(held) => held.fill(self.kind, scratch, |buffers: &mut [IoSliceMut<'_>]| match source {
                Source::Pipe(pipe) => pipe.try_read_vectored(buffers),
                Source::Terminal(source) => buffers.first_mut().map_or(Ok(0), |buffer| terminal(source, buffer)),
            }),
            Target::Lost => scratch.with(READ_SIZE, read_into),
            Target::Sent(connection) => {
                let sent = scratch.with(READ_SIZE, |buffer| {
                    let read = read_into(buffer)?;
                    let sent = if read > 0 { connection.send(self.kind, &buffer[..read]) } else { Ok(()) };
                    Ok::<_, io::Error>((read, sent))
                });
                return self.note(sent);
            }
        };
        self.note(read.map(|read| (read, Ok(()))))
    }

    /// Draws the conclusions of a read, and of sending what it gave.
    fn note(&mut self, read: io::Result<(usize, io::Result<()>)>) -> io::Result<bool> {
        match read {
            Ok((0, _)) => {
                self.source = None;
                Ok(true)
            }
            Ok((read, sent)) => {
                self.owed = self.owed.saturating_sub(read as u64);
                sent.map(|()| true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if let Some(Source::Terminal(_)) = &self.source {
                    self.owed = 0;
                }
                Ok(false)
            }
            // What cannot be read has ended as far as we can tell; for a terminal that nobody has open that is the way to say so.
            Err(_) => {
                self.source = None;
                Ok(true)
            }
        }
    }

    /// Whether somebody may still write to its pipe.
    pub fn is_held(&self) -> bool {
        matches!(self.source, Some(Source::Pipe(_)))
    }

    /// Reads and drops everything until nobody can write any more, so that what a job left running does not die of a broken pipe.
    pub async fn discard(mut self, scratch: &Scratch) {
        while self.is_open() {
            self.readable().await;
            // Without a connection there is nothing that could fail.
            let _ = self.pump(scratch, Target::Lost);
            yield_now().await;
        }
    }
}

/// Makes reads and writes on our end of a pipe fail instead of wait. The child's end is another and keeps waiting.
pub fn non_blocking(fd: OwnedFd) -> io::Result<OwnedFd> {
    let flags = fcntl_getfl(&fd)?;
    fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
    Ok(fd)
}
