//! A job's terminal: its master side, which is input and output of the job, and how it is made.

use std::cell::Cell;
use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use boxyard_proto::wire::{Pty, PtySize, User};
use rustix::fs::{CWD, FileType, Gid, Mode, OFlags, Uid, fchmod, fchown, fstat, major, minor, openat};
use rustix::process::Pid;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, ptsname, unlockpt};
use rustix::termios::{OptionalActions, Winsize, tcgetattr, tcgetpgrp, tcsetattr, tcsetwinsize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::modes;
use crate::sys;

/// Group `tty`, which may write to other users' terminals through `write` and `wall`. The same in every distribution, and in the box's
/// devpts.
const TTY_GROUP: u32 = 5;

/// What owner and group may do with a terminal.
const PERMISSIONS: u32 = 0o620;

/// More than the kernel ever holds of what was written to a terminal: 64 KiB in flight and 4 KiB ready to be read.
pub const HELD_MAX: u64 = 128 * 1024;

/// Bytes that are put together at most: who types must not wait for all of a long output.
const GATHERED_MAX: usize = 32 * 1024;

/// The master side of a terminal. When the last copy is dropped the kernel hangs up: the leader of the session gets SIGHUP, and whoever
/// still reads from the terminal sees its end.
#[derive(Debug)]
pub struct Terminal {
    master: AsyncFd<OwnedFd>,
    /// Nobody had the slave side open at some time. The event loop never forgets that, so somebody who has it open again later is not
    /// waited for: it would be without end, and OpenSSH's server does not either.
    hung_up: Cell<bool>,
}

impl Terminal {
    /// Makes a terminal of the shape `asked` that belongs to `owner`. Returns the slave side too, which is for the child.
    ///
    /// # Errors
    /// What the kernel says; `ENOSPC` when there are no more terminals, `ENODEV` when the box has put something else in the place of
    /// `/dev/ptmx`.
    pub fn open(asked: &Pty, owner: User) -> io::Result<(Rc<Self>, OwnedFd)> {
        // Whatever the box has put there, this neither waits nor makes it our controlling terminal.
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let master = openat(CWD, c"/dev/ptmx", flags, Mode::empty())?;
        let stat = fstat(&master)?;
        let is_device = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
        if !is_device || (major(stat.st_rdev), minor(stat.st_rdev)) != (5, 2) {
            return Err(io::Error::from_raw_os_error(libc::ENODEV));
        }
        unlockpt(&master)?;
        // Not by its path, where the box may have put something too.
        let slave = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        fchown(&slave, Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(TTY_GROUP)))?;
        fchmod(&slave, Mode::from_raw_mode(PERMISSIONS))?;
        let mut settings = tcgetattr(&slave)?;
        modes::apply(&mut settings, &asked.modes);
        tcsetattr(&slave, OptionalActions::Now, &settings)?;
        let master = sys::watch(master, Interest::READABLE | Interest::WRITABLE)?;
        let terminal = Self { master, hung_up: Cell::new(false) };
        terminal.resize(asked.size)?;
        Ok((Rc::new(terminal), slave))
    }

    /// Where the job finds it.
    pub fn path(&self) -> io::Result<CString> {
        Ok(ptsname(&self.master, Vec::new())?)
    }

    /// Gives it another size. The kernel tells its foreground process group, if it is another.
    pub fn resize(&self, size: PtySize) -> io::Result<()> {
        let PtySize { columns, rows, width, height } = size;
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: width, ws_ypixel: height };
        Ok(tcsetwinsize(&self.master, size)?)
    }

    /// The process group in its foreground, in our own process ids. None when no session has it, or its foreground is outside of them.
    pub fn foreground(&self) -> Option<Pid> {
        tcgetpgrp(&self.master).ok()
    }

    /// Waits until there may be something to read, or nobody has the terminal open.
    pub async fn readable(&self) {
        // An error of the event loop's shows again in the read.
        if let Ok(guard) = self.master.readable().await
            && guard.ready().is_read_closed()
        {
            self.hung_up.set(true);
        }
    }

    /// Waits until there may be room to write, or nobody has the terminal open.
    pub async fn writable(&self) {
        if let Ok(guard) = self.master.writable().await
            && guard.ready().is_write_closed()
        {
            self.hung_up.set(true);
        }
    }

    /// Reads what is there, the pieces in which the kernel hands it out put together. 0 is the end.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is there; `EIO` when nobody has the terminal open any more.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let read =
            gather(buffer, |rest| self.master.try_io(Interest::READABLE, |master| Ok(rustix::io::read(master, rest)?)));
        match read {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && self.hung_up.get() => Ok(0),
            read => read,
        }
    }

    /// As [`read`](Self::read), but asks the kernel itself and not what the event loop has last heard. The kernel says `WouldBlock` only
    /// when everything that has been written so far has been read.
    pub fn read_rest(&self, buffer: &mut [u8]) -> io::Result<usize> {
        gather(buffer, |rest| Ok(rustix::io::read(self.master.get_ref(), rest)?))
    }

    /// Writes as much as fits, even when nobody has the terminal open any more.
    ///
    /// # Errors
    /// `WouldBlock` when nothing fits; `EIO` when nothing ever will.
    pub fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.master.try_io(Interest::WRITABLE, |master| match rustix::io::write(master, bytes)? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            written => Ok(written),
        });
        match written {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && self.hung_up.get() => {
                Err(io::Error::from_raw_os_error(libc::EIO))
            }
            written => written,
        }
    }
}

/// Calls `read` until enough or nothing more is there. The kernel hands out 4 KiB of a terminal at a time.
fn gather(buffer: &mut [u8], mut read: impl FnMut(&mut [u8]) -> io::Result<usize>) -> io::Result<usize> {
    let size = buffer.len().min(GATHERED_MAX);
    let mut filled = 0;
    while filled < size {
        match read(&mut buffer[filled..size]) {
            Ok(0) => break,
            Ok(piece) => filled += piece,
            // Shows again in the next read.
            Err(_) if filled > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
