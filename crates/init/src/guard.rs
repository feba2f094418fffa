//! Opening files, except those of this very process, for the parts of this program that work on files for others.
//!
//! The kernel lets every process see itself: its address space in `/proc/self/maps`, its program in `/proc/self/exe`. This one may be a
//! copy of PID 1 of a box, whose layout and environment are not the box's to know and whose program is a file of the host's. Not being
//! dumpable keeps other processes out ([`hide`]); this keeps out what comes through ourselves.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, PROC_SUPER_MAGIC, ResolveFlags};
use rustix::io::Errno;
use rustix::process::DumpableBehavior;

/// Hides this process from debuggers, `/proc/PID/mem` and dumps, because it may be a copy of a process with memory that is not its user's
/// to see, and because its user could otherwise run code in it through `/proc/self/mem`.
pub fn hide() -> Result<(), Errno> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
}

/// Who we are in `/proc`.
#[derive(Debug)]
pub struct Guard {
    /// `/proc/PID`.
    folder: Vec<u8>,
    /// Where our program is, if that can be told: nobody's business in a box.
    program: Option<Vec<u8>>,
}

impl Guard {
    /// For this process.
    pub fn new() -> Self {
        let folder = format!("/proc/{}", rustix::process::getpid().as_raw_nonzero()).into_bytes();
        let program = rustix::fs::readlink("/proc/self/exe", Vec::new()).ok().map(std::ffi::CString::into_bytes);
        Self { folder, program }
    }

    /// Opens `path`. Links of `/proc` that are no paths, like `/proc/PID/exe` and `/proc/PID/fd/0`, are not followed.
    pub fn open(&self, path: &[u8], flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY;
        let mode = if flags.contains(OFlags::CREATE) { mode } else { Mode::empty() };
        let fd = rustix::fs::openat2(CWD, path, flags, mode, ResolveFlags::NO_MAGICLINKS)?;
        if is_of_proc(&fd)? {
            let place = rustix::fs::readlink(by_descriptor(&fd), Vec::new())?.into_bytes();
            if place.strip_prefix(self.folder.as_slice()).is_some_and(|rest| matches!(rest.first(), None | Some(b'/')))
            {
                return Err(Errno::ACCESS);
            }
        }
        Ok(fd)
    }

    /// Refuses to tell `path` when it is where our program is.
    pub fn tell(&self, path: Vec<u8>) -> Result<Vec<u8>, Errno> {
        if self.program.as_ref() == Some(&path) { Err(Errno::ACCESS) } else { Ok(path) }
    }
}

/// Whether `fd` is open on something of `/proc`.
pub fn is_of_proc(fd: impl AsFd) -> Result<bool, Errno> {
    Ok(rustix::fs::fstatfs(fd)?.f_type == PROC_SUPER_MAGIC)
}

/// A path that leads to what `fd` is open on, for calls that take no descriptor of a mere place.
pub fn by_descriptor(fd: impl AsFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}
