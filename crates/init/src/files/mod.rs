//! Work on files for the files API, inside a box: the other side of [`boxyard_proto::files`].
//!
//! It runs as a job of its own, as the job's user, so the kernel itself says what it may touch, and nothing on the host opens a path of
//! a box. A process serves one connection, one request after the other, without a runtime or threads.
//!
//! ```text
//!  stdin ──▶ channel: frames ──▶ a request ──▶ session ──▶ jail: where it is (walk, where the kernel cannot say in one step)
//!               content ──────────────────────────────┐       read, write, list, names, remove, tree, archive, unpack, search, watch
//!  stdout ◀── channel: one buffer, sent when nothing more is there to be done ◀───┘
//! ```
//!
//! Of the rest of the program it uses only `guard` and `pipes`, so that the fuzz targets can take it as it is.

mod archive;
mod channel;
mod jail;
mod list;
mod modes;
mod names;
mod path;
mod read;
mod refusal;
mod remove;
mod search;
mod session;
mod stat;
mod tree;
mod unpack;
mod walk;
mod watch;
mod write;

#[cfg(any(test, feature = "fuzzing"))]
pub mod exercise;
#[cfg(test)]
#[expect(clippy::wildcard_enum_match_arm, reason = "a test names what it wants; everything else is a failure")]
mod testing;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::Mode;

use self::channel::Channel;
use self::jail::Jail;
use self::session::Session;
use crate::{guard, pipes};

/// Serves requests about what is in `roots`, absolute paths of folders, until the input ends. Blocks; needs no runtime.
///
/// The process must be one of its own, because it hides itself: see [`guard::hide`].
///
/// # Errors
/// The pipes broke, or what comes are no frames.
pub fn serve<P: AsRef<[u8]>>(
    roots: impl IntoIterator<Item = P>,
    input: BorrowedFd<'_>,
    output: BorrowedFd<'_>,
) -> io::Result<()> {
    guard::hide()?;
    pipes::widen([input, output]);
    // A box's PID 1 has it too; on a host that is none, new files are as in a box.
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let (mut from, mut to) = (pipes::Pipe(input), pipes::Pipe(output));
    let mut channel = Channel::of(input, &mut from, &mut to);
    Session::new(Jail::new(roots)).run(&mut channel)
}
