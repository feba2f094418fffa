//! What a job reads: the writing end of its standard input, and what it is slow to take.

use std::io;
use std::os::fd::OwnedFd;

use rustix::pipe::{PipeFlags, pipe_with};
use tokio::net::unix::pipe::Sender;

use super::output::non_blocking;

/// Bytes kept for a job that does not read. Beyond it the connection is not read either, which is the sender's back-pressure.
const QUEUE_MAX: usize = 1024 * 1024;

/// The writing end of a job's standard input.
#[derive(Debug, Default)]
pub struct Stdin {
    /// Open as long as the job reads and its end has not been said.
    pipe: Option<Sender>,
    queue: Vec<u8>,
    written: usize,
    /// Nothing comes after what is in the queue.
    ended: bool,
}

impl Stdin {
    /// Makes a pipe. The reading end is for the child.
    pub fn new() -> io::Result<(Self, OwnedFd)> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        let pipe = Some(Sender::from_owned_fd_unchecked(non_blocking(write)?)?);
        Ok((Self { pipe, ..Self::default() }, read))
    }

    /// Takes bytes for the job; none is the end. A job without standard input, or one that has closed it, ignores them.
    pub fn push(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            self.ended = true;
        } else if self.pipe.is_some() && !self.ended {
            self.queue.extend_from_slice(bytes);
        }
        self.write();
    }

    /// Nothing more will come.
    pub fn end(&mut self) {
        self.push(&[]);
    }

    /// Whether no more should be read for it now.
    pub fn is_full(&self) -> bool {
        self.queue.len() - self.written >= QUEUE_MAX
    }

    /// Whether something waits for the job to read.
    pub fn is_waiting(&self) -> bool {
        self.written < self.queue.len()
    }

    /// Waits until the job may have read something, or has stopped to read. Never returns without a pipe.
    pub async fn writable(&self) {
        match &self.pipe {
            Some(pipe) => drop(pipe.writable().await),
            None => std::future::pending().await,
        }
    }

    /// Writes what the job takes.
    pub fn write(&mut self) {
        while let (Some(pipe), true) = (&self.pipe, self.is_waiting()) {
            match pipe.try_write(&self.queue[self.written..]) {
                Ok(written) => self.written += written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // The job has closed it: what is left has no reader.
                Err(_) => self.pipe = None,
            }
        }
        self.queue = Vec::new();
        self.written = 0;
        if self.ended {
            self.pipe = None;
        }
    }
}
