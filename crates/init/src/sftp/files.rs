//! Files: opening, reading, writing, and what is known of them.

use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::answers::Answers;
use super::attributes::Attributes;
use super::handles::{Handles, Open};
use super::status::{self, Refusal};
use crate::guard::{Guard, by_descriptor};
use crate::pipes::again;

/// Bytes of a read at most: OpenSSH's, a packet less what is around the data.
pub const READ_MAX: usize = 255 * 1024;

/// How a client wants a file opened (draft-ietf-secsh-filexfer-02, section 6.3).
mod wanted {
    pub const READ: u32 = 1;
    pub const WRITE: u32 = 2;
    pub const APPEND: u32 = 4;
    pub const CREATE: u32 = 8;
    pub const TRUNCATE: u32 = 16;
    pub const EXCLUSIVE: u32 = 32;
}

fn open_flags(flags: u32) -> OFlags {
    let mut open = match (flags & wanted::READ != 0, flags & wanted::WRITE != 0) {
        (true, true) => OFlags::RDWR,
        (false, true) => OFlags::WRONLY,
        (_, false) => OFlags::RDONLY,
    };
    for (flag, meaning) in [
        (wanted::APPEND, OFlags::APPEND),
        (wanted::CREATE, OFlags::CREATE),
        (wanted::TRUNCATE, OFlags::TRUNC),
        (wanted::EXCLUSIVE, OFlags::EXCL),
    ] {
        if flags & flag != 0 {
            open |= meaning;
        }
    }
    open
}

/// Opens a file.
pub fn open(guard: &Guard, path: &[u8], flags: u32, attributes: &Attributes) -> Result<Open, Refusal> {
    let flags = open_flags(flags);
    let fd = guard.open(path, flags, Mode::from_raw_mode(attributes.mode().unwrap_or(0o666)))?;
    if !flags.contains(OFlags::WRONLY) {
        // Clients mostly read from start to end. What is no file does not care.
        let _ = rustix::fs::fadvise(&fd, 0, None, rustix::fs::Advice::Sequential);
    }
    Ok(Open::File { fd, appends: flags.contains(OFlags::APPEND) })
}

/// Reads from a file straight into the answer.
pub fn read(handles: &mut Handles, id: u32, (handle, offset, length): (&[u8], u64, u32), to: &mut Answers) -> Done {
    let Open::File { fd, .. } = handles.get(handle)? else { return Err(Errno::ISDIR.into()) };
    let length = usize::try_from(length).unwrap_or(READ_MAX).min(READ_MAX);
    to.data(id, length, |room| match again(|| rustix::io::pread(&*fd, &mut *room, offset))? {
        0 if length > 0 => Err(Refusal::eof()),
        count => Ok(count),
    })
}

/// Writes all of `data` to a file.
pub fn write(handles: &mut Handles, handle: &[u8], offset: u64, data: &[u8]) -> Done {
    let Open::File { fd, .. } = handles.get(handle)? else { return Err(Errno::ISDIR.into()) };
    Ok(write_all(&*fd, offset, data)?)
}

/// Writes all of `data` from `offset` on, or at the end of a file that is open for that.
pub fn write_all(fd: impl std::os::fd::AsFd, mut offset: u64, mut data: &[u8]) -> Result<(), Errno> {
    while !data.is_empty() {
        let count = again(|| rustix::io::pwrite(&fd, data, offset))?;
        if count == 0 {
            return Err(Errno::IO);
        }
        data = data.get(count..).unwrap_or_default();
        offset = offset.checked_add(count as u64).ok_or(Errno::FBIG)?;
    }
    Ok(())
}

/// Whether something was done.
pub type Done = Result<(), Refusal>;

/// What is known of the file at `path`, or of the link that is there.
pub fn stat(path: &[u8], follow: bool) -> Result<Attributes, Refusal> {
    let stat: Stat = if follow { rustix::fs::stat(path)? } else { rustix::fs::lstat(path)? };
    Ok(Attributes::from(&stat))
}

/// Does every part, also after one that failed, and tells of the first that did: OpenSSH's order.
fn each(parts: [Option<Done>; 4]) -> Done {
    parts.into_iter().flatten().find(Result::is_err).unwrap_or(Ok(()))
}

/// Changes the file at `path`.
pub fn change(guard: &Guard, path: &[u8], wanted: &Attributes) -> Done {
    let size = wanted.size.map(|size| {
        // A pipe without a reader is an error here and not a wait.
        let fd = guard.open(path, OFlags::WRONLY | OFlags::NONBLOCK, Mode::empty())?;
        Ok(rustix::fs::ftruncate(fd, size)?)
    });
    let mode = wanted.mode().map(|mode| Ok(rustix::fs::chmod(path, Mode::from_raw_mode(mode))?));
    let times = wanted.times.map(|times| Ok(rustix::fs::utimensat(CWD, path, &timestamps(times), AtFlags::empty())?));
    let owner = wanted.owner.map(|owner| {
        let (user, group) = ids(owner);
        Ok(rustix::fs::chownat(CWD, path, user, group, AtFlags::empty())?)
    });
    each([size, mode, times, owner])
}

/// Changes the file at `path` or the link that is there. A link has no size or mode to change.
pub fn change_link(path: &[u8], wanted: &Attributes) -> Done {
    let link = AtFlags::SYMLINK_NOFOLLOW;
    let size = wanted.size.map(|_| Err(Refusal::new(status::BAD_MESSAGE, "Bad message")));
    let mode = wanted.mode().map(|mode| {
        let place = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        if rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&place)?.st_mode).is_symlink() {
            return Err(Errno::OPNOTSUPP.into());
        }
        Ok(rustix::fs::chmod(by_descriptor(&place), Mode::from_raw_mode(mode))?)
    });
    let times = wanted.times.map(|times| Ok(rustix::fs::utimensat(CWD, path, &timestamps(times), link)?));
    let owner = wanted.owner.map(|owner| {
        let (user, group) = ids(owner);
        Ok(rustix::fs::chownat(CWD, path, user, group, link)?)
    });
    each([size, mode, times, owner])
}

/// Changes an open file.
pub fn change_open(fd: BorrowedFd<'_>, wanted: &Attributes) -> Done {
    each([
        wanted.size.map(|size| Ok(rustix::fs::ftruncate(fd, size)?)),
        wanted.mode().map(|mode| Ok(rustix::fs::fchmod(fd, Mode::from_raw_mode(mode))?)),
        wanted.times.map(|times| Ok(rustix::fs::futimens(fd, &timestamps(times))?)),
        wanted.owner.map(|owner| {
            let (user, group) = ids(owner);
            Ok(rustix::fs::fchown(fd, user, group)?)
        }),
    ])
}

fn timestamps((access, change): (u32, u32)) -> Timestamps {
    let time = |seconds: u32| Timespec { tv_sec: i64::from(seconds), tv_nsec: 0 };
    Timestamps { last_access: time(access), last_modification: time(change) }
}

/// The largest number means "leave it" to the kernel.
fn ids((user, group): (u32, u32)) -> (Option<Uid>, Option<Gid>) {
    let given = |id: &u32| *id != u32::MAX;
    (Some(user).filter(given).map(Uid::from_raw), Some(group).filter(given).map(Gid::from_raw))
}
