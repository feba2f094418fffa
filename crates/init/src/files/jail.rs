//! The folders that work is done in, and how paths are found in them.
//!
//! A path is resolved by the kernel, relative to a root's descriptor and without a way out (`openat2` with `RESOLVE_BENEATH` and
//! `RESOLVE_NO_MAGICLINKS`), so that links, `..` and races that lead out are refused at the moment of the deed. What the kernel refuses
//! so but may be meant well, absolute links that lead into a root above all, is walked step by step by [`super::walk`].
//!
//! Everything else is done with a descriptor of the folder and one name in it, through no link at all.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, openat2, statat};
use rustix::io::Errno;

use super::path::{Path, parts};
use super::refusal::Refusal;
use super::walk::{Last, Missing, Walk};
use crate::guard::{by_descriptor, is_of_proc};

/// How often what somebody else keeps changing is looked at again.
pub const TRIES: usize = 16;

/// A folder and the way to it: for looking up names in it, not for reading it.
pub const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY);

/// The folders, and nothing else.
#[derive(Debug, Default)]
pub struct Jail {
    roots: Vec<Root>,
}

/// A folder that work is done in.
#[derive(Debug)]
pub struct Root {
    /// The names on the way to it.
    pub names: Vec<Vec<u8>>,
    fd: Result<OwnedFd, Errno>,
}

impl Root {
    /// Its descriptor.
    pub fn fd(&self) -> Result<BorrowedFd<'_>, Errno> {
        self.fd.as_ref().map(AsFd::as_fd).map_err(|error| *error)
    }

    /// What `path` says in it.
    pub fn open(&self, path: &[u8], flags: OFlags, resolve: ResolveFlags) -> Result<OwnedFd, Errno> {
        open_in(self.fd()?, path, flags, resolve)
    }
}

/// A name in a folder. There need not be anything of that name.
#[derive(Debug)]
pub struct Spot {
    /// The folder.
    pub folder: OwnedFd,
    /// The name: one part, and not `.` or `..`.
    pub name: Vec<u8>,
    /// The path ends so that only a folder can be meant.
    pub is_of_folder: bool,
}

/// Opens what `path` says in `folder`, through nothing that leads out of it.
fn open_in(folder: BorrowedFd<'_>, path: &[u8], flags: OFlags, resolve: ResolveFlags) -> Result<OwnedFd, Errno> {
    let resolve = resolve | ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    // The kernel does not like the second with a mere place.
    let flags = flags | if flags.contains(OFlags::PATH) { OFlags::CLOEXEC } else { OFlags::CLOEXEC | OFlags::NOCTTY };
    let mut tries = 0;
    loop {
        match openat2(folder, path, flags, Mode::empty(), resolve) {
            Err(Errno::INTR) => {}
            // Something was renamed while `..` was looked up.
            Err(Errno::AGAIN) if tries < TRIES => tries += 1,
            opened => return opened,
        }
    }
}

impl Jail {
    /// The folders at these absolute paths. One that is not there, or is a link, has nothing in it.
    pub fn new<P: AsRef<[u8]>>(roots: impl IntoIterator<Item = P>) -> Self {
        let open = |path: &[u8]| {
            let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
            let fd = openat2(CWD, path, FOLDER | OFlags::CLOEXEC, Mode::empty(), resolve)?;
            if is_of_proc(&fd)? { Err(Errno::ACCESS) } else { Ok(fd) }
        };
        let root =
            |path: P| Root { names: parts(path.as_ref()).map(<[u8]>::to_vec).collect(), fd: open(path.as_ref()) };
        Self { roots: roots.into_iter().map(root).collect() }
    }

    /// The folders.
    pub fn roots(&self) -> &[Root] {
        &self.roots
    }

    /// The root that `path` plainly leads into, and the rest of it. None where `..` or a link may still lead into one.
    fn locate<'p>(&self, path: &'p [u8]) -> Option<(&Root, &'p [u8])> {
        self.roots.iter().find_map(|root| {
            let mut rest = path;
            for name in &root.names {
                loop {
                    rest = rest.strip_prefix(b"/")?;
                    let end = rest.iter().position(|&byte| byte == b'/').unwrap_or(rest.len());
                    let (part, after) = rest.split_at(end);
                    rest = after;
                    match part {
                        b"" | b"." => {}
                        part if part == name => break,
                        _ => return None,
                    }
                }
            }
            let start = rest.iter().position(|&byte| byte != b'/').unwrap_or(rest.len());
            let rest = &rest[start..];
            Some((root, if rest.is_empty() { b"." } else { rest }))
        })
    }

    /// Opens what is at `path`, as a mere place where `flags` says so. A link at its end is followed unless `flags` says otherwise.
    pub fn open(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Refusal> {
        if let Some((root, rest)) = self.locate(path.bytes()) {
            match root.open(rest, flags, ResolveFlags::empty()) {
                Err(Errno::XDEV | Errno::LOOP | Errno::AGAIN) => {}
                opened => return not_proc(opened?),
            }
        }
        let last = if flags.contains(OFlags::NOFOLLOW) && !path.is_of_folder() { Last::Keep } else { Last::Follow };
        for _ in 0..TRIES {
            let (folder, name) = Walk::to(self, path.bytes(), last, Missing::Fail)?;
            let name = name.as_deref().unwrap_or(b".");
            match open_in(folder.as_fd(), name, flags | OFlags::NOFOLLOW, ResolveFlags::NO_SYMLINKS) {
                // It has become a link meanwhile.
                Err(Errno::LOOP) => {}
                opened => return not_proc(opened?),
            }
        }
        Err(Errno::LOOP.into())
    }

    /// Opens a regular file for reading. What is none is never opened, so nobody notices.
    pub fn open_file(&self, path: &Path) -> Result<(OwnedFd, Stat), Refusal> {
        read_place(&self.open(path, OFlags::PATH)?)
    }

    /// The folder that the last name of `path` is in, and that name. `missing` says what becomes of folders that are not there, `last`
    /// of a link of that name.
    pub fn spot(&self, path: &Path, last: Last, missing: Missing) -> Result<Spot, Refusal> {
        let is_of_folder = path.is_of_folder();
        if let Some((root, rest)) = self.locate(path.bytes()) {
            let trimmed = trim(rest);
            let slash = trimmed.iter().rposition(|&byte| byte == b'/');
            let (parent, name) =
                slash.map_or((&b"."[..], trimmed), |slash| (&trimmed[..=slash], &trimmed[slash + 1..]));
            if !matches!(name, b"" | b"." | b"..") {
                match root.open(parent, FOLDER, ResolveFlags::empty()) {
                    Ok(folder) if last == Last::Keep || !is_link(&folder, name) => {
                        return Ok(Spot { folder, name: name.to_vec(), is_of_folder });
                    }
                    Ok(_) | Err(Errno::XDEV | Errno::LOOP | Errno::AGAIN) => {}
                    Err(Errno::NOENT) if missing == Missing::Make => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        match Walk::to(self, path.bytes(), last, missing)? {
            (folder, Some(name)) => Ok(Spot { folder, name, is_of_folder }),
            (_, None) if parts(path.bytes()).next_back() == Some(b"..") => {
                Err(Refusal::invalid("the path ends in '..'"))
            }
            (_, None) => Err(Refusal::outside()),
        }
    }
}

/// `path` without what at its end says only that it is a folder.
fn trim(mut path: &[u8]) -> &[u8] {
    loop {
        path = match path {
            [rest @ .., b'/'] | [rest @ .., b'/', b'.'] => rest,
            b"." => b"",
            _ => return path,
        }
    }
}

fn is_link(folder: impl AsFd, name: &[u8]) -> bool {
    statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|stat| kind(&stat).is_symlink())
}

/// What sort of file it is.
pub fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

fn not_proc(fd: OwnedFd) -> Result<OwnedFd, Refusal> {
    if is_of_proc(&fd)? { Err(Errno::ACCESS.into()) } else { Ok(fd) }
}

/// Opens the regular file at this place for reading.
pub fn read_place(place: &OwnedFd) -> Result<(OwnedFd, Stat), Refusal> {
    let stat = fstat(place)?;
    match kind(&stat) {
        FileType::RegularFile => {}
        FileType::Directory => return Err(Errno::ISDIR.into()),
        FileType::Symlink => return Err(Errno::LOOP.into()),
        FileType::Fifo | FileType::Socket | FileType::CharacterDevice | FileType::BlockDevice | FileType::Unknown => {
            return Err(Refusal::special());
        }
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let fd = rustix::fs::open(by_descriptor(place), flags, Mode::empty())?;
    // Its size is that of the moment when it was opened.
    Ok((fd, fstat(place)?))
}
