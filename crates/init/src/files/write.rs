//! Writing files in one step.
//!
//! The content goes to a file without a name (`O_TMPFILE`), which takes its name when it is complete: by a link where there is nothing
//! yet, by a hidden name and a rename where there is something. So whatever fails or ends in between leaves the old file as it was, and
//! next to never a file of ours. Where the file system has no such files, the hidden name is there from the start.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use boxyard_proto::files::PathText;
use rustix::fs::{
    Access, AtFlags, CWD, FileType, Gid, Mode, OFlags, Stat, Uid, accessat, fchmod, fchown, linkat, openat, renameat,
    statat, unlinkat,
};
use rustix::io::Errno;

use super::channel::Channel;
use super::jail::{Jail, Spot, TRIES, kind};
use super::modes;
use super::path::Path;
use super::refusal::Refusal;
use super::walk::{Last, Missing};
use crate::guard::by_descriptor;
use crate::pipes::again;

/// How the hidden names begin. Sixteen hexadecimal digits follow.
const HIDDEN: &[u8] = b".boxyard-";

/// Whether this is a name that only a file has that is being written.
pub fn is_hidden(name: &[u8]) -> bool {
    let digits = name.strip_prefix(HIDDEN);
    digits.is_some_and(|digits| digits.len() == 16 && digits.iter().all(u8::is_ascii_hexdigit))
}

/// Bits of a file that is replaced that the new one gets as well: those that write(2) does not take away.
const KEPT: u32 = 0o1777;

/// How a new file is opened, and its bits before the umask.
const FLAGS: OFlags = OFlags::WRONLY.union(OFlags::CLOEXEC);
const BITS: u32 = 0o666;

/// Writes the content that comes to the file at `path`.
pub fn write(
    jail: &Jail,
    path: &PathText,
    mode: Option<u32>,
    channel: &mut Channel<'_>,
) -> io::Result<Result<(), Refusal>> {
    let mut new = match Path::try_from(path).and_then(|path| New::at(jail, &path, mode)) {
        Ok(new) => new,
        Err(refusal) => return Ok(Err(refusal)),
    };
    while let Some(mut piece) = channel.content()? {
        while !piece.is_empty() {
            match again(|| rustix::io::write(&new.fd, piece)) {
                Ok(0) => return Ok(Err(Errno::IO.into())),
                Ok(count) => piece = piece.get(count..).unwrap_or_default(),
                Err(error) => return Ok(Err(error.into())),
            }
        }
    }
    Ok(new.put())
}

/// A file that is being written. Dropping it before [`Self::put`] leaves nothing.
#[derive(Debug)]
pub struct New {
    spot: Spot,
    /// The file without a name, or with a hidden one.
    pub fd: OwnedFd,
    hidden: Option<Vec<u8>>,
    /// Permission bits that are wanted, or that the file it takes the place of has.
    mode: Option<Mode>,
    owner: Option<(u32, u32)>,
    replaces: bool,
}

impl New {
    /// Makes a file for `path`, and folders that are missing.
    pub fn at(jail: &Jail, path: &Path, mode: Option<u32>) -> Result<Self, Refusal> {
        let mode = mode.map(modes::mode).transpose()?;
        if path.is_of_folder() {
            return Err(Errno::ISDIR.into());
        }
        for _ in 0..TRIES {
            let spot = jail.spot(path, Last::Follow, Missing::Make)?;
            match statat(&spot.folder, spot.name.as_slice(), AtFlags::SYMLINK_NOFOLLOW) {
                // It has become a link meanwhile, or leads on to one.
                Ok(stat) if kind(&stat).is_symlink() => {}
                Ok(stat) => return Self::in_place_of(spot, mode, &stat),
                Err(Errno::NOENT) => return Self::at_spot(spot, mode),
                Err(error) => return Err(error.into()),
            }
        }
        Err(Errno::LOOP.into())
    }

    /// Makes a file that takes the place of another.
    fn in_place_of(spot: Spot, mode: Option<Mode>, stat: &Stat) -> Result<Self, Refusal> {
        match kind(stat) {
            FileType::RegularFile => {}
            FileType::Directory => return Err(Errno::ISDIR.into()),
            FileType::Symlink
            | FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown => return Err(Refusal::special()),
        }
        // It is the folder that a rename needs rights to. But who may not write the file shall not replace it either.
        accessat(&spot.folder, spot.name.as_slice(), Access::WRITE_OK, AtFlags::EACCESS)?;
        let mode = mode.unwrap_or_else(|| Mode::from_raw_mode(stat.st_mode & KEPT));
        let owner = Some((stat.st_uid, stat.st_gid));
        let mut new = Self::at_spot(spot, Some(mode))?;
        (new.owner, new.replaces) = (owner, true);
        Ok(new)
    }

    /// Makes a file for a name.
    pub fn at_spot(spot: Spot, mode: Option<Mode>) -> Result<Self, Refusal> {
        let made = openat(&spot.folder, c".", FLAGS | OFlags::TMPFILE, Mode::from_raw_mode(BITS));
        match made {
            // As the manual has it for file systems, and kernels, that do not know it.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT | Errno::INVAL | Errno::NOSYS) => {
                Self::hidden(spot, mode)
            }
            made => Ok(Self { spot, fd: made?, hidden: None, mode, owner: None, replaces: false }),
        }
    }

    /// The same with a hidden name from the start.
    pub fn hidden(spot: Spot, mode: Option<Mode>) -> Result<Self, Refusal> {
        let flags = FLAGS | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let (fd, name) = with_hidden_name(|name| openat(&spot.folder, name, flags, Mode::from_raw_mode(BITS)))?;
        Ok(Self { spot, fd, hidden: Some(name), mode, owner: None, replaces: false })
    }

    /// Gives it its name.
    pub fn put(&mut self) -> Result<(), Refusal> {
        if let Some((uid, gid)) = self.owner {
            // Ours already most of the time; and not ours to give away, else.
            if (uid, gid) != (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()) {
                let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
                let _ = fchown(&self.fd, None, Some(gid));
                let _ = fchown(&self.fd, Some(uid), None);
            }
        }
        if let Some(mode) = self.mode {
            fchmod(&self.fd, mode)?;
        }
        let (folder, name) = (self.spot.folder.as_fd(), self.spot.name.as_slice());
        if !self.replaces {
            match self.link(name) {
                // Somebody was quicker.
                Err(Errno::EXIST) => {}
                linked => return Ok(linked?),
            }
        }
        if self.hidden.is_none() {
            self.hidden = Some(with_hidden_name(|name| self.link(name))?.1);
        }
        let hidden = self.hidden.as_deref().unwrap_or_default();
        renameat(folder, hidden, folder, name)?;
        self.hidden = None;
        Ok(())
    }

    /// Gives the file one more name.
    fn link(&self, name: &[u8]) -> Result<(), Errno> {
        let folder = self.spot.folder.as_fd();
        match &self.hidden {
            None => linkat(CWD, by_descriptor(&self.fd), folder, name, AtFlags::SYMLINK_FOLLOW),
            Some(hidden) => linkat(folder, hidden.as_slice(), folder, name, AtFlags::empty()),
        }
    }
}

impl Drop for New {
    fn drop(&mut self) {
        if let Some(hidden) = &self.hidden {
            let _ = unlinkat(&self.spot.folder, hidden.as_slice(), AtFlags::empty());
        }
    }
}

/// Does something with a name that nothing has.
fn with_hidden_name<T>(deed: impl Fn(&[u8]) -> Result<T, Errno>) -> Result<(T, Vec<u8>), Errno> {
    let mut tries = 0;
    loop {
        let mut random = [0; 8];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        let name = [HIDDEN, format!("{:016x}", u64::from_ne_bytes(random)).as_bytes()].concat();
        match deed(&name) {
            Err(Errno::EXIST) if tries < TRIES => tries += 1,
            done => return done.map(|done| (done, name)),
        }
    }
}
