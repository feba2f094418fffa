//! What a job reads: the writing end of its standard input, a pipe or a terminal, and what it is slow to take.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::pipe::{PipeFlags, pipe_with};
use tokio::net::unix::pipe::Sender;

use super::output::non_blocking;
use super::pty::Terminal;

/// Bytes kept for a job that does not read. Beyond it the connection is not read either, which is the sender's back-pressure.
const QUEUE_MAX: usize = 1024 * 1024;

/// The writing end of a job's standard input.
#[derive(Debug, Default)]
pub struct Stdin {
    /// Open as long as the job reads and its end has not been said.
    sink: Option<Sink>,
    queue: Vec<u8>,
    /// Bytes at the front of the queue that the job has taken.
    written: usize,
    /// Nothing comes after what is in the queue.
    ended: bool,
}

/// What a job's input is written to.
#[derive(Debug)]
enum Sink {
    Pipe(Sender),
    Terminal(Rc<Terminal>),
}

impl Stdin {
    /// Makes a pipe. The reading end is for the child.
    pub fn new() -> io::Result<(Self, OwnedFd)> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        let pipe = Sender::from_owned_fd_unchecked(non_blocking(write)?)?;
        Ok((Self { sink: Some(Sink::Pipe(pipe)), ..Self::default() }, read))
    }

    /// The input of a job that has a terminal.
    pub fn terminal(terminal: Rc<Terminal>) -> Self {
        Self { sink: Some(Sink::Terminal(terminal)), ..Self::default() }
    }

    /// Takes bytes for the job; none is the end, of which a terminal is told nothing. A job without standard input, or one that has
    /// closed it, ignores them.
    pub fn push(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            self.ended |= !matches!(self.sink, Some(Sink::Terminal(_)));
        } else if self.sink.is_some() && !self.ended {
            let taken = if self.is_waiting() { 0 } else { self.try_write(bytes) };
            let bytes = &bytes[taken..];
            if self.written >= QUEUE_MAX {
                // The job takes what comes, but never so fast that nothing is left: what it has taken must go nevertheless.
                self.queue.drain(..self.written);
                self.written = 0;
            }
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

    /// Waits until the job may have read something, or has stopped to read. Never returns when there is nothing to write to.
    pub async fn writable(&self) {
        match &self.sink {
            Some(Sink::Pipe(pipe)) => drop(pipe.writable().await),
            Some(Sink::Terminal(terminal)) => terminal.writable().await,
            None => std::future::pending().await,
        }
    }

    /// Writes as much of `bytes` as the job takes now; returns how much.
    fn try_write(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        while let (Some(sink), true) = (&self.sink, taken < bytes.len()) {
            let written = match sink {
                Sink::Pipe(pipe) => pipe.try_write(&bytes[taken..]),
                Sink::Terminal(terminal) => terminal.write(&bytes[taken..]),
            };
            match written {
                Ok(written) => taken += written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // The job has closed it: what is left has no reader.
                Err(_) => self.sink = None,
            }
        }
        taken
    }

    /// Writes what the job takes.
    pub fn write(&mut self) {
        if self.is_waiting() {
            let queue = std::mem::take(&mut self.queue);
            self.written += self.try_write(&queue[self.written..]);
            self.queue = queue;
            if self.is_waiting() && self.sink.is_some() {
                return;
            }
        }
        self.queue = Vec::new();
        self.written = 0;
        if self.ended {
            self.sink = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::runtime::Builder;

    use super::*;

    #[test]
    fn a_job_that_never_quite_catches_up_costs_bounded_memory() {
        let runtime = Builder::new_current_thread().enable_io().build().expect("a runtime");
        runtime.block_on(async {
            let (mut stdin, read) = Stdin::new().expect("a pipe");
            let mut taken = vec![0; 64 * 1024];
            stdin.push(&[7; 512 * 1024]);
            stdin.writable().await;
            stdin.write();
            for _ in 0..200 {
                stdin.push(&[7; 64 * 1024]);
                let mut left = taken.len();
                while left > 0 {
                    left -= rustix::io::read(&read, &mut taken[..left]).expect("read");
                    stdin.writable().await;
                    stdin.write();
                }
                assert!(stdin.is_waiting(), "it never catches up");
                assert!(stdin.queue.len() < 3 * QUEUE_MAX, "{} bytes are kept", stdin.queue.len());
            }
        });
    }
}
