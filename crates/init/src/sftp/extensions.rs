//! OpenSSH's extensions (`PROTOCOL`, section 4) beyond those that are one call each.

use std::os::fd::BorrowedFd;

use rustix::fs::{StatVfs, StatVfsMountFlags};
use rustix::io::Errno;

use super::accounts::Accounts;
use super::answers::Answers;
use super::files::{self, Done, READ_MAX};
use super::handles::{HANDLES_MAX, Handles};
use super::status::{self, Refusal};
use crate::pipes::again;

/// Names and versions of what we have, in OpenSSH's order.
const EXTENSIONS: [(&str, &str); 11] = [
    ("posix-rename@openssh.com", "1"),
    ("statvfs@openssh.com", "2"),
    ("fstatvfs@openssh.com", "2"),
    ("hardlink@openssh.com", "1"),
    ("fsync@openssh.com", "1"),
    ("lsetstat@openssh.com", "1"),
    ("limits@openssh.com", "1"),
    ("expand-path@openssh.com", "1"),
    ("copy-data", "1"),
    ("home-directory", "1"),
    ("users-groups-by-id@openssh.com", "1"),
];

/// Answers the greeting.
pub fn announce(to: &mut Answers) {
    to.version(&EXTENSIONS);
}

/// `limits@openssh.com`: bytes of a packet, a read and a write, and handles, at most.
pub fn limits(id: u32, to: &mut Answers) {
    to.extended(id, |answers| {
        for limit in [PACKET, READ_MAX as u64, READ_MAX as u64, HANDLES_MAX as u64] {
            answers.put_u64(limit);
        }
    });
}

/// Bytes of a packet at most, as OpenSSH announces it.
const PACKET: u64 = 256 * 1024;

/// `statvfs@openssh.com` and `fstatvfs@openssh.com`: what is known of a file system.
pub fn file_system(id: u32, known: &StatVfs, to: &mut Answers) {
    const READ_ONLY: u64 = 1;
    const NO_SETUID: u64 = 2;
    let flag = |is: StatVfsMountFlags, flag: u64| if known.f_flag.contains(is) { flag } else { 0 };
    let flags = flag(StatVfsMountFlags::RDONLY, READ_ONLY) | flag(StatVfsMountFlags::NOSUID, NO_SETUID);
    to.extended(id, |answers| {
        for number in [
            known.f_bsize,
            known.f_frsize,
            known.f_blocks,
            known.f_bfree,
            known.f_bavail,
            known.f_files,
            known.f_ffree,
            known.f_favail,
            known.f_fsid,
            flags,
            known.f_namemax,
        ] {
            answers.put_u64(number);
        }
    });
}

/// Ids that are named in one answer at most, so that it is no longer than a packet.
const IDS_MAX: usize = 3600;

/// `users-groups-by-id@openssh.com`: the names of users and groups, empty for those that nobody has named.
pub fn names(accounts: &Accounts, id: u32, uids: &[u8], gids: &[u8], to: &mut Answers) -> Done {
    let (uids, no_uid) = uids.as_chunks::<4>();
    let (gids, no_gid) = gids.as_chunks::<4>();
    if !no_uid.is_empty() || !no_gid.is_empty() {
        return Err(Refusal::new(status::BAD_MESSAGE, "Bad message"));
    }
    if uids.len() + gids.len() > IDS_MAX {
        return Err(Refusal::new(status::FAILURE, "Too many ids"));
    }
    let list = |ids: &[[u8; 4]], name: &dyn Fn(u32) -> Vec<u8>| {
        let named = ids.iter().map(|id| name(u32::from_be_bytes(*id)));
        named.flat_map(|name| [&u32::try_from(name.len()).unwrap_or(0).to_be_bytes()[..], &name].concat()).collect()
    };
    let users: Vec<u8> = list(uids, &|id| accounts.user_name(id).unwrap_or_default().to_vec());
    let groups: Vec<u8> = list(gids, &|id| accounts.group_name(id).unwrap_or_default().to_vec());
    to.extended(id, |answers| {
        answers.put_string(&users);
        answers.put_string(&groups);
    });
    Ok(())
}

/// Bytes copied at once. The kernel does not come back before it is through with them.
const COPY: u64 = 64 * 1024 * 1024;

/// `copy-data`: copies `length` bytes, or for 0 up to the end, from one open file to another.
pub fn copy(handles: &mut Handles, from: (&[u8], u64), length: u64, to: (&[u8], u64)) -> Done {
    let [(from_fd, _), (to_fd, appends)] = handles.files(from.0, to.0)?;
    let place = |fd: BorrowedFd<'_>| rustix::fs::fstat(fd).map(|stat| (stat.st_dev, stat.st_ino));
    if place(from_fd)? == place(to_fd)? {
        // It could run after its own end for ever.
        return Err(Refusal::new(status::FAILURE, "A file cannot be copied to itself"));
    }
    let mut left = if length == 0 { u64::MAX } else { length };
    let (mut from, mut to) = (from.1, to.1);
    // The kernel copies on its own where both are files of its liking; not to the end of one that is appended to.
    while left > 0 && !appends {
        let size = usize::try_from(left.min(COPY)).unwrap_or(usize::MAX);
        match again(|| rustix::fs::copy_file_range(from_fd, Some(&mut from), to_fd, Some(&mut to), size)) {
            // The end; or a file of /proc, which claims to be empty.
            Ok(0) | Err(Errno::INVAL | Errno::XDEV | Errno::NOSYS | Errno::OPNOTSUPP | Errno::IO) => break,
            copied => left -= copied? as u64,
        }
    }
    let mut buffer = vec![0; BUFFER];
    while left > 0 {
        let size = usize::try_from(left).unwrap_or(BUFFER).min(BUFFER);
        let read = again(|| rustix::io::pread(from_fd, &mut buffer[..size], from))?;
        if read == 0 {
            break;
        }
        files::write_all(to_fd, to, &buffer[..read])?;
        let read = read as u64;
        left -= read;
        (from, to) = (from.saturating_add(read), to.saturating_add(read));
    }
    Ok(())
}

/// Bytes copied at once where the kernel does not do it on its own.
const BUFFER: usize = 128 * 1024;
