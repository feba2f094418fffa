//! What `serve` prepares where `launch` has not.

use std::io;

use rustix::fs::{CWD, Mode, OFlags, openat};

/// Makes `/dev/null` the standard input of this process, and with it of all jobs that want none.
pub fn silence_stdin() -> io::Result<()> {
    let null = openat(CWD, c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    Ok(rustix::stdio::dup2_stdin(&null)?)
}
