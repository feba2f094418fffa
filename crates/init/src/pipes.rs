//! The two pipes of a process that serves requests: what the parts of this program that do have in common.

use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;

use rustix::io::Errno;

/// Room in the pipes, as far as the kernel gives it.
const PIPE_SIZE: usize = 1024 * 1024;

/// Asks for more room in `pipes`, which means fewer turns between us and the other side. The box may be over its allowance for pipes,
/// and they may be none; that is no failure.
pub fn widen(pipes: [BorrowedFd<'_>; 2]) {
    for pipe in pipes {
        let _ = rustix::pipe::fcntl_setpipe_size(pipe, PIPE_SIZE);
    }
}

/// Does a call until no signal interrupts it.
pub fn again<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            done => return done,
        }
    }
}

/// A descriptor that is read or written as it is, without a buffer.
#[derive(Debug, Clone, Copy)]
pub struct Pipe<'a>(pub BorrowedFd<'a>);

impl Read for Pipe<'_> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        Ok(again(|| rustix::io::read(self.0, &mut *room))?)
    }
}

impl Write for Pipe<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(again(|| rustix::io::write(self.0, bytes))?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
