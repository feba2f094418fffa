//! Removing files and whole folders.
//!
//! As in [`super::tree`], one descriptor is open however deep a folder is.

use std::os::fd::{AsFd, OwnedFd};

use boxyard_proto::files::PathText;
use rustix::fs::{AtFlags, Dir, FileType, statat, unlinkat};
use rustix::io::Errno;

use super::jail::{Jail, kind};
use super::path::Path;
use super::refusal::Refusal;
use super::tree::{self, Identity};
use super::walk::{Last, Missing};

/// How often a folder that should be empty and is not is emptied again, in one request.
const AGAIN_MAX: usize = 64;

/// Removes a file or link, or a folder with all that is in it.
pub fn remove(jail: &Jail, path: &PathText, recursive: bool) -> Result<(), Refusal> {
    let spot = jail.spot(&Path::try_from(path)?, Last::Keep, Missing::Fail)?;
    let is_folder = kind(&statat(&spot.folder, spot.name.as_slice(), AtFlags::SYMLINK_NOFOLLOW)?).is_dir();
    if spot.is_of_folder && !is_folder {
        return Err(Errno::NOTDIR.into());
    }
    match (is_folder, recursive) {
        (false, _) => Ok(unlinkat(&spot.folder, spot.name.as_slice(), AtFlags::empty())?),
        (true, false) => Err(Errno::ISDIR.into()),
        (true, true) => Emptying::default().run(&spot.folder, &spot.name),
    }
}

/// A folder that is being emptied, and its name in the one above.
#[derive(Debug)]
struct Level {
    above: Identity,
    name: Vec<u8>,
}

#[derive(Debug, Default)]
struct Emptying {
    levels: Vec<Level>,
    /// Something is gone already.
    begun: bool,
    again: usize,
}

impl Emptying {
    fn run(&mut self, folder: &OwnedFd, name: &[u8]) -> Result<(), Refusal> {
        let emptied = self.empty(folder.try_clone()?, name);
        emptied.map_err(
            |refusal| if self.begun { refusal.after("a part of the folder has been removed") } else { refusal },
        )
    }

    fn empty(&mut self, folder: OwnedFd, name: &[u8]) -> Result<(), Refusal> {
        let top = folder.try_clone()?;
        let mut current = self.down(folder.as_fd(), name)?;
        drop(folder);
        loop {
            if let Some(deeper) = self.scan(&current)? {
                current = self.down(current.as_fd(), &deeper)?;
                continue;
            }
            let Some(Level { above, name }) = self.levels.pop() else { return Ok(()) };
            let parent = if self.levels.is_empty() { top.try_clone()? } else { tree::up(&current, above)? };
            match unlinkat(&parent, name.as_slice(), AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => self.begun = true,
                // Somebody has put something into it meanwhile.
                Err(Errno::NOTEMPTY | Errno::EXIST) if self.again < AGAIN_MAX => {
                    self.again += 1;
                    current = self.down(parent.as_fd(), &name)?;
                    continue;
                }
                // Or a file in its place.
                Err(Errno::NOTDIR) => unlinkat(&parent, name.as_slice(), AtFlags::empty())?,
                Err(error) => return Err(error.into()),
            }
            if self.levels.is_empty() {
                return Ok(());
            }
            current = parent;
        }
    }

    /// Opens a folder in the current one.
    fn down(&mut self, current: impl AsFd, name: &[u8]) -> Result<OwnedFd, Refusal> {
        let folder = tree::down(&current, name)?;
        self.levels.push(Level { above: Identity::of(current)?, name: name.to_vec() });
        Ok(folder)
    }

    /// Removes all that is in a folder but folders with something in them: the first such is returned.
    fn scan(&mut self, folder: &OwnedFd) -> Result<Option<Vec<u8>>, Refusal> {
        for entry in Dir::read_from(folder)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            let is_folder = if entry.file_type() == FileType::Unknown {
                statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|stat| kind(&stat).is_dir())
            } else {
                entry.file_type().is_dir()
            };
            let removed = if is_folder {
                unlinkat(folder, name, AtFlags::REMOVEDIR)
            } else {
                unlinkat(folder, name, AtFlags::empty())
            };
            match removed {
                Ok(()) => self.begun = true,
                Err(Errno::NOENT) => {}
                Err(Errno::NOTEMPTY | Errno::EXIST | Errno::ISDIR) => return Ok(Some(name.to_vec())),
                // It has become a file meanwhile.
                Err(Errno::NOTDIR) => unlinkat(folder, name, AtFlags::empty())?,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }
}
