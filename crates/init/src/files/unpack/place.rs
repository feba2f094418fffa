//! The folder that an archive is unpacked into.

use std::io::BufRead;
use std::os::fd::OwnedFd;

use boxyard_proto::files::Failure;
use rustix::fs::{
    AtFlags, Mode, OFlags, ResolveFlags, Timespec, Timestamps, ftruncate, futimens, linkat, mkdirat, openat, openat2,
    symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;

use super::entries::{Entries, Entry, What};
use crate::files::jail::{FOLDER, Spot};
use crate::files::path::parts;
use crate::files::refusal::Refusal;
use crate::files::write::New;
use crate::pipes::again;

/// Permission bits that are taken from archives.
const BITS: u32 = 0o1777;

/// Folders whose permission bits and times are set at the end, at most.
const DRESSED_MAX: usize = 100_000;

/// A folder, and what has been unpacked into it.
#[derive(Debug)]
pub struct Place {
    folder: OwnedFd,
    /// Something has been unpacked.
    pub begun: bool,
    /// The folder that the last entry was in.
    last: Option<(Vec<u8>, OwnedFd)>,
    /// Folders of the archive, with bits and times that they get when nothing more comes into them.
    dressed: Vec<(Vec<u8>, u32, i64)>,
}

impl Place {
    /// This folder.
    pub fn new(folder: OwnedFd) -> Self {
        Self { folder, begun: false, last: None, dressed: Vec::new() }
    }

    /// Unpacks an entry. False where it is of a sort that we do not make.
    pub fn put<R: BufRead>(&mut self, entry: &Entry, content: &mut Entries<R>) -> Result<bool, Refusal> {
        let names = checked(&entry.path)?;
        let Some((name, above)) = names.split_last() else {
            // The folder itself.
            return Ok(matches!(entry.what, What::Folder));
        };
        match &entry.what {
            What::File { size, pieces } => {
                let mut new = New::at_spot(self.spot(above, name)?, Some(Mode::from_raw_mode(entry.mode & BITS)))?;
                match pieces {
                    None => copy(content, &new.fd, 0, *size)?,
                    Some(pieces) => {
                        ftruncate(&new.fd, *size)?;
                        for &(offset, length) in pieces {
                            copy(content, &new.fd, offset, length)?;
                        }
                    }
                }
                futimens(&new.fd, &times(entry.modified))?;
                new.put()?;
            }
            What::Folder => self.make_folder(above, name, &names, entry)?,
            What::Link(target) => {
                let spot = self.spot(above, name)?;
                replacing(&spot, || symlinkat(target.as_slice(), &spot.folder, spot.name.as_slice()))?;
                // Nobody minds if it does not get its time.
                let link = AtFlags::SYMLINK_NOFOLLOW;
                let _ = utimensat(&spot.folder, spot.name.as_slice(), &times(entry.modified), link);
            }
            What::Same(target) => {
                let target = checked(target)?;
                if target == names {
                    return Err(Refusal::invalid("the archive has a file that is only itself"));
                }
                let Some((other, above_other)) = target.split_last() else { return Err(Errno::ISDIR.into()) };
                let other = self.spot(above_other, other)?;
                let spot = self.spot(above, name)?;
                replacing(&spot, || {
                    linkat(&other.folder, other.name.as_slice(), &spot.folder, spot.name.as_slice(), AtFlags::empty())
                })?;
            }
            What::Other => return Ok(false),
        }
        self.begun = true;
        Ok(true)
    }

    /// Gives the folders of the archive their bits and times.
    pub fn dress(&mut self) {
        for (path, mode, modified) in self.dressed.drain(..).rev() {
            // Whoever has moved or removed one meanwhile does not want it.
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            if let Ok(folder) = openat2(&self.folder, path.as_slice(), flags, Mode::empty(), inside()) {
                let _ = rustix::fs::fchmod(&folder, Mode::from_raw_mode(mode));
                let _ = futimens(&folder, &times(modified));
            }
        }
    }

    fn make_folder(&mut self, above: &[&[u8]], name: &[u8], names: &[&[u8]], entry: &Entry) -> Result<(), Refusal> {
        let spot = self.spot(above, name)?;
        // As long as something comes into it, it must let us in.
        match mkdirat(&spot.folder, name, Mode::from_raw_mode(entry.mode & BITS | 0o700)) {
            Ok(()) => {
                if self.dressed.len() < DRESSED_MAX {
                    self.dressed.push((names.join(&b'/'), entry.mode & BITS, entry.modified));
                }
            }
            Err(Errno::EXIST) => {
                openat(&spot.folder, name, FOLDER | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// A name in the folder that `above` leads to, which is made if it is missing.
    fn spot(&mut self, above: &[&[u8]], name: &[u8]) -> Result<Spot, Refusal> {
        let path = if above.is_empty() { b".".to_vec() } else { above.join(&b'/') };
        if self.last.as_ref().is_none_or(|(last, _)| *last != path) {
            let folder = match self.open(&path) {
                Err(Errno::NOENT) => {
                    self.make(above)?;
                    self.open(&path)
                }
                opened => opened,
            };
            self.last = Some((path, folder.map_err(through_link)?));
        }
        let folder = self.last.as_ref().map_or(&self.folder, |(_, folder)| folder);
        Ok(Spot { folder: folder.try_clone()?, name: name.to_vec(), is_of_folder: false })
    }

    fn open(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        openat2(&self.folder, path, FOLDER | OFlags::CLOEXEC, Mode::empty(), inside())
    }

    fn make(&self, above: &[&[u8]]) -> Result<(), Refusal> {
        let mut folder = self.folder.try_clone()?;
        for &name in above {
            match mkdirat(&folder, name, Mode::from_raw_mode(0o777)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            let flags = FOLDER | OFlags::CLOEXEC;
            folder = openat2(&folder, name, flags, Mode::empty(), inside()).map_err(through_link)?;
        }
        Ok(())
    }
}

/// How names are looked up.
fn inside() -> ResolveFlags {
    ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS
}

fn through_link(error: Errno) -> Refusal {
    match error {
        Errno::LOOP => Refusal::new(Failure::Denied, "a name in the archive leads through a link"),
        error => error.into(),
    }
}

/// The parts of a path of an archive, if it leads nowhere else.
fn checked(path: &[u8]) -> Result<Vec<&[u8]>, Refusal> {
    let names: Vec<_> = parts(path).collect();
    if path.starts_with(b"/") || names.contains(&&b".."[..]) {
        return Err(Refusal::new(Failure::Denied, "a name in the archive leads out of the folder"));
    }
    if path.contains(&0) {
        return Err(Refusal::invalid("a name in the archive contains a NUL"));
    }
    Ok(names)
}

/// Makes something, in place of what is there unless that is a folder.
fn replacing(spot: &Spot, make: impl Fn() -> Result<(), Errno>) -> Result<(), Refusal> {
    match make() {
        Err(Errno::EXIST) => {}
        made => return Ok(made?),
    }
    unlinkat(&spot.folder, spot.name.as_slice(), AtFlags::empty())?;
    Ok(make()?)
}

/// Copies `length` bytes of an entry's content into a file.
fn copy<R: BufRead>(from: &mut Entries<R>, to: &OwnedFd, mut offset: u64, mut length: u64) -> Result<(), Refusal> {
    while length > 0 {
        let piece = from.content()?;
        let count = piece.len().min(usize::try_from(length).unwrap_or(usize::MAX));
        let piece = piece.get(..count).unwrap_or_default();
        let count = again(|| rustix::io::pwrite(to, piece, offset))?;
        if count == 0 {
            return Err(Errno::IO.into());
        }
        from.take(count);
        offset = offset.checked_add(count as u64).ok_or(Errno::FBIG)?;
        length -= count as u64;
    }
    Ok(())
}

fn times(modified: i64) -> Timestamps {
    let time = Timespec { tv_sec: modified, tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}
