//! Everything below a folder, without following links.
//!
//! However deep it is, one descriptor is open: the way back up is the folder's own `..`, and where it leads is checked against where we
//! came from, so that nothing outside is touched when somebody moves folders meanwhile.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use boxyard_proto::files::{Failure, PATH_MAX};
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, Stat, fstat, openat, openat2, statat};
use rustix::io::Errno;

use super::list::first_names;
use super::path::child;
use super::refusal::Refusal;
use crate::guard::is_of_proc;

/// Names that are kept for later at most, in all folders on the way together.
const NAMES_MAX: usize = 2_000_000;

/// Which folder it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity(pub u64, pub u64);

impl Identity {
    /// Of what this is open on.
    pub fn of(fd: impl AsFd) -> Result<Self, Errno> {
        fstat(fd).map(|stat| Self::from(&stat))
    }
}

impl From<&Stat> for Identity {
    fn from(stat: &Stat) -> Self {
        Self(stat.st_dev, stat.st_ino)
    }
}

/// Opens the folder `name` in the folder `current`.
pub fn down(current: impl AsFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let folder = openat2(current, name, flags, Mode::empty(), resolve)?;
    if is_of_proc(&folder)? { Err(Errno::ACCESS) } else { Ok(folder) }
}

/// Opens the folder above, which must be the one that we came from.
pub fn up(current: &OwnedFd, above: Identity) -> Result<OwnedFd, Refusal> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = openat(current, c"..", flags, Mode::empty())?;
    if Identity::of(&parent)? == above {
        Ok(parent)
    } else {
        Err(Refusal::new(Failure::Other, "the folder was moved while it was worked on"))
    }
}

/// A way through everything below a folder: folders before what is in them, names in order.
#[derive(Debug)]
pub struct Tree {
    current: OwnedFd,
    levels: Vec<Level>,
    /// Where we are below the folder, with the name that was told last.
    path: Vec<u8>,
    kept: usize,
    /// The current folder is left with the next step.
    leaving: bool,
    /// Something was left out, because there was too much of it or it was too deep.
    pub truncated: bool,
}

/// A folder on the way.
#[derive(Debug)]
struct Level {
    above: Identity,
    names: std::vec::IntoIter<Vec<u8>>,
    /// Bytes of its own path.
    path: usize,
}

/// What comes next.
#[derive(Debug)]
pub enum Step {
    /// Something in [`Tree::folder`].
    Entry {
        /// Its name.
        name: Vec<u8>,
        /// What it is; a link itself.
        stat: Box<Stat>,
    },
    /// The end of a folder that was entered, which is [`Tree::folder`] for this moment.
    End,
}

impl Tree {
    /// Everything below `folder`, which is open for reading.
    pub fn new(folder: OwnedFd) -> Result<Self, Errno> {
        let above = Identity::of(&folder)?;
        let (names, truncated) = first_names(&folder, b"", NAMES_MAX)?;
        let kept = names.len();
        let levels = vec![Level { above, names: names.into_iter(), path: 0 }];
        Ok(Self { current: folder, levels, path: Vec::new(), kept, leaving: false, truncated })
    }

    /// The folder that we are in.
    pub fn folder(&self) -> BorrowedFd<'_> {
        self.current.as_fd()
    }

    /// The path, below the folder that we began with, of what was told last.
    pub fn path(&self) -> &[u8] {
        &self.path
    }

    /// The next step; none when we are through.
    pub fn step(&mut self) -> Result<Option<Step>, Refusal> {
        if self.leaving {
            self.leaving = false;
            let Some(level) = self.levels.pop() else { return Ok(None) };
            self.current = up(&self.current, level.above)?;
        }
        let depth = self.levels.len();
        while let Some(level) = self.levels.last_mut() {
            self.path.truncate(level.path);
            let Some(name) = level.names.next() else {
                if depth == 1 {
                    return Ok(None);
                }
                self.leaving = true;
                return Ok(Some(Step::End));
            };
            self.kept = self.kept.saturating_sub(1);
            if self.path.len() + 1 + name.len() >= PATH_MAX {
                self.truncated = true;
                continue;
            }
            // What vanishes meanwhile is left out.
            if let Ok(stat) = statat(&self.current, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW) {
                self.path = child(&self.path, &name);
                return Ok(Some(Step::Entry { name, stat: Box::new(stat) }));
            }
        }
        Ok(None)
    }

    /// Goes into the folder `name`, which was told last.
    pub fn enter(&mut self, name: &[u8]) -> Result<(), Errno> {
        let folder = down(&self.current, name)?;
        let above = Identity::of(&self.current)?;
        let (names, truncated) = first_names(&folder, b"", NAMES_MAX.saturating_sub(self.kept))?;
        self.truncated |= truncated;
        self.kept += names.len();
        self.levels.push(Level { above, names: names.into_iter(), path: self.path.len() });
        self.current = folder;
        Ok(())
    }
}
