//! An SFTP server on two pipes: version 3 (draft-ietf-secsh-filexfer-02) with the extensions of OpenSSH's `PROTOCOL`, section 4.
//!
//! It runs as a job of its own inside the box, as the job's user, so the kernel itself says what it may touch, and nothing on the host
//! opens a file that a box controls. It is ours rather than russh-sftp's server because that one answers and flushes one request at a
//! time, which is several times slower, and would bring an asynchronous runtime and its codecs into PID 1's program for it.
//!
//! ```text
//!  stdin ──▶ input: one buffer, cut into packets ──▶ packet: a request ──▶ session ──▶ files, folders, paths, extensions
//!                       WRITE: written to the file out of this buffer                        │
//!  stdout ◀── answers: one buffer, written when no whole request is left ◀───────────────────┘
//!                       READ: read from the file into this buffer
//! ```
//!
//! `input`, `packet`, `attributes` and `answers` do no system calls on files and are total: any bytes are a request, or an answer that
//! says what is wrong with them, or the end of the session. Of the rest of the program this module uses only `guard` and `pipes`, so
//! that the fuzz targets can take it as it is.

mod accounts;
mod answers;
mod attributes;
mod extensions;
mod files;
mod folders;
mod handles;
mod input;
mod longname;
mod packet;
mod paths;
mod session;
mod status;

#[cfg(any(test, feature = "fuzzing"))]
pub mod exercise;

use std::io;
use std::os::fd::BorrowedFd;

use self::answers::Answers;
use self::input::{Input, TooLong};
use self::packet::Packet;
use self::session::Session;
use crate::{guard, pipes};

/// Serves one session until its input ends. Blocks; needs no runtime.
///
/// The process must be one of its own, because it hides itself: see [`guard::hide`].
///
/// # Errors
/// The pipes broke, or the peer does not speak SFTP.
pub fn serve(input: BorrowedFd<'_>, output: BorrowedFd<'_>) -> io::Result<()> {
    guard::hide()?;
    pipes::widen([input, output]);
    let mut requests = Input::new();
    let mut answers = Answers::new();
    let mut session = Session::new();
    let mut greeted = false;
    loop {
        while let Some(bytes) =
            requests.cut().map_err(|TooLong(length)| broken(&format!("packet of {length} bytes")))?
        {
            match packet::parse(bytes) {
                Packet::Init => {
                    greeted = true;
                    extensions::announce(&mut answers);
                }
                Packet::Request { .. } | Packet::Malformed { .. } if !greeted => {
                    return Err(broken("a request before the greeting"));
                }
                Packet::Request { id, request } => session.answer(id, &request, &mut answers),
                Packet::Malformed { id } => answers.status(id, status::BAD_MESSAGE, "Bad message"),
                Packet::Broken => return Err(broken("a packet without an id")),
            }
            if answers.is_full() {
                answers.write(output)?;
            }
        }
        answers.write(output)?;
        if !requests.fill(input)? {
            return Ok(());
        }
    }
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
