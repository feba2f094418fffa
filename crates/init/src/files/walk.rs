//! Resolving a path step by step, where the kernel cannot do it in one: absolute links that lead into a root, `..` that leads from one
//! root into the other, folders that are to be made on the way.
//!
//! At every moment the walk is either in a root, with a descriptor of the folder, or above the roots, where there is only a path to
//! compare with theirs and nothing is ever opened. Each step opens one name in the folder, through no link.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat, openat, readlinkat};
use rustix::io::Errno;

use super::jail::{FOLDER, Jail, kind};
use super::path::parts;
use super::refusal::Refusal;
use crate::guard::is_of_proc;

/// Links that are followed on one way at most, as for the kernel.
const LINKS_MAX: usize = 40;

/// What becomes of a link as the last part of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Last {
    /// It is meant itself.
    Keep,
    /// What it leads to is meant, whether that is there or not.
    Follow,
}

/// What becomes of folders that are missing on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// It ends there.
    Fail,
    /// They are made.
    Make,
}

/// Where a walk is.
enum At {
    /// Above the roots.
    Above(Vec<Vec<u8>>),
    /// In a root: in which, by which names, and there.
    In(usize, Vec<Vec<u8>>, OwnedFd),
}

/// Where a walk has ended: a folder, and a name in it unless the folder itself is meant.
pub type End = (OwnedFd, Option<Vec<u8>>);

/// A walk under way.
pub struct Walk<'a> {
    jail: &'a Jail,
    at: At,
    /// Parts that are still to be gone, the next one last.
    ahead: Vec<Vec<u8>>,
    links: usize,
}

impl<'a> Walk<'a> {
    /// Walks to the last name of `path`: the folder that it is in, and it. Without a name where the way ends in a root itself or with
    /// `..`: the folder is then what is meant.
    pub fn to(jail: &'a Jail, path: &[u8], last: Last, missing: Missing) -> Result<End, Refusal> {
        let mut walk = Self { jail, at: At::Above(Vec::new()), ahead: Vec::new(), links: 0 };
        walk.add(path);
        while let Some(part) = walk.ahead.pop() {
            if part == b".." {
                walk.up()?;
            } else if let Some(end) = walk.step(part, last, missing)? {
                return Ok(end);
            }
        }
        match walk.at {
            At::Above(_) => Err(Refusal::outside()),
            At::In(_, _, folder) => Ok((folder, None)),
        }
    }

    fn add(&mut self, path: &[u8]) {
        self.ahead.extend(parts(path).rev().map(<[u8]>::to_vec));
    }

    fn up(&mut self) -> Result<(), Refusal> {
        match &mut self.at {
            At::Above(names) => {
                names.pop();
            }
            At::In(root, names, folder) => {
                let root = self.jail.roots().get(*root).ok_or_else(Refusal::outside)?;
                if names.pop().is_some() {
                    // Not the folder's own `..`: somebody may have moved it.
                    let path = if names.is_empty() { b".".to_vec() } else { names.join(&b'/') };
                    *folder = root.open(&path, FOLDER, ResolveFlags::NO_SYMLINKS).map_err(changed)?;
                } else {
                    let mut names = root.names.clone();
                    names.pop();
                    self.at = At::Above(names);
                }
            }
        }
        Ok(())
    }

    fn step(&mut self, part: Vec<u8>, last: Last, missing: Missing) -> Result<Option<End>, Refusal> {
        let (names, folder) = match &mut self.at {
            At::Above(names) => {
                names.push(part);
                return self.come_in().map(|()| None);
            }
            At::In(_, names, folder) => (names, folder),
        };
        let is_last = self.ahead.is_empty();
        let end = |folder: &OwnedFd, part: Vec<u8>| Ok(Some((folder.try_clone()?, Some(part))));
        if is_last && last == Last::Keep {
            return end(folder, part);
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let next = match openat(folder.as_fd(), part.as_slice(), flags, Mode::empty()) {
            Err(Errno::NOENT) if is_last => return end(folder, part),
            Err(Errno::NOENT) if missing == Missing::Make => {
                match mkdirat(folder.as_fd(), part.as_slice(), Mode::from_raw_mode(0o777)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
                openat(folder.as_fd(), part.as_slice(), flags, Mode::empty())?
            }
            opened => opened?,
        };
        match kind(&fstat(&next)?) {
            FileType::Symlink => {
                self.links += 1;
                if self.links > LINKS_MAX {
                    return Err(Errno::LOOP.into());
                }
                let target = readlinkat(&next, c"", Vec::new())?.into_bytes();
                self.add(&target);
                if target.starts_with(b"/") {
                    self.at = At::Above(Vec::new());
                }
            }
            _ if is_last => return end(folder, part),
            FileType::Directory => {
                if is_of_proc(&next)? {
                    return Err(Errno::ACCESS.into());
                }
                names.push(part);
                *folder = next;
            }
            FileType::RegularFile
            | FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown => return Err(Errno::NOTDIR.into()),
        }
        Ok(None)
    }

    /// Above the roots: in one of them now, or still on the way to one, or lost.
    fn come_in(&mut self) -> Result<(), Refusal> {
        let At::Above(names) = &self.at else { return Ok(()) };
        let mut on_the_way = false;
        for (number, root) in self.jail.roots().iter().enumerate() {
            if root.names == *names {
                let folder = root.fd()?.try_clone_to_owned()?;
                self.at = At::In(number, Vec::new(), folder);
                return Ok(());
            }
            on_the_way |= root.names.starts_with(names);
        }
        if on_the_way { Ok(()) } else { Err(Refusal::outside()) }
    }
}

/// Somebody has put a link, or something else, where we came along.
fn changed(error: Errno) -> Refusal {
    match error {
        Errno::LOOP | Errno::XDEV | Errno::NOTDIR => Errno::NOENT.into(),
        error => error.into(),
    }
}
