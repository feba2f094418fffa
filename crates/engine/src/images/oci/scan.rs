//! Going through a tree that becomes a layer, in an order that depends on nothing but the names: every folder before what is in it.
//!
//! The tree is hostile and nothing changes in it. One folder is open at a time; the way up is `..`, trusted only as far as it leads where
//! we came from; no link is followed.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, fstat, openat, statat};

use super::tar::PATH_MAX;
use super::tree::DEPTH_MAX;
use super::write::shown;

const FOLDER: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC).union(OFlags::RDONLY);

/// Names of one folder that are sorted at a time. A larger folder comes in several such parts.
const SORTED: usize = 65_536;

/// Bytes of names of folders that wait to be entered, and about what keeping each takes besides.
const WAITING_MAX: usize = 64 << 20;
const WAITING_EACH: usize = 32;

/// Who is told what there is.
pub(super) trait Visitor {
    /// A folder; `path` is empty for the top.
    fn folder(&mut self, path: &[u8], folder: &OwnedFd, stat: &Stat) -> io::Result<()>;

    /// Something else, which is `name` in `folder`.
    fn file(&mut self, path: &[u8], folder: &OwnedFd, name: &CStr, stat: &Stat) -> io::Result<()>;
}

struct Level {
    stat: Stat,
    /// Bytes of the path down to here.
    path: usize,
    /// The last is the next.
    folders: Vec<CString>,
}

struct Scan<'a> {
    visitor: &'a mut dyn Visitor,
    stop: &'a AtomicBool,
    entries: u64,
    entries_max: u64,
    path: Vec<u8>,
    waiting: usize,
}

/// Shows `visitor` all that is in `top`, until `stop` is set.
///
/// # Errors
/// There is more, or deeper, than archives can hold; or what the kernel or the visitor says.
pub(super) fn scan(top: &Path, visitor: &mut dyn Visitor, entries_max: u64, stop: &AtomicBool) -> io::Result<()> {
    let mut here = openat(CWD, top, FOLDER, Mode::empty())?;
    let mut scan = Scan { visitor, stop, entries: 0, entries_max, path: Vec::new(), waiting: 0 };
    let mut levels = vec![scan.look(&here)?];
    while let Some(level) = levels.last_mut() {
        scan.path.truncate(level.path);
        if let Some(name) = level.folders.pop() {
            scan.waiting = scan.waiting.saturating_sub(name.as_bytes().len() + WAITING_EACH);
            scan.push(&name);
            if levels.len() > DEPTH_MAX {
                return Err(scan.cannot("is in more folders within folders than archives are made of"));
            }
            here = openat(&here, &name, FOLDER, Mode::empty())?;
            levels.push(scan.look(&here)?);
            continue;
        }
        levels.pop();
        if let Some(above) = levels.last() {
            here = openat(&here, "..", FOLDER, Mode::empty())?;
            let stat = fstat(&here)?;
            if (stat.st_dev, stat.st_ino) != (above.stat.st_dev, above.stat.st_ino) {
                return Err(io::Error::other("folders were moved while they were looked at"));
            }
        }
    }
    Ok(())
}

impl Scan<'_> {
    fn push(&mut self, name: &CStr) {
        if !self.path.is_empty() {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(name.to_bytes());
    }

    fn cannot(&self, why: &str) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidInput, format!("{:?} {why}", shown(&self.path)))
    }

    /// Shows a folder and the files in it, and lists the folders in it.
    fn look(&mut self, folder: &OwnedFd) -> io::Result<Level> {
        let stat = fstat(folder)?;
        let path = self.path.len();
        self.visitor.folder(&self.path, folder, &stat)?;
        let mut folders = Vec::new();
        let mut entries = Dir::read_from(folder)?;
        loop {
            let mut names = Vec::new();
            while names.len() < SORTED
                && let Some(entry) = entries.next()
            {
                let entry = entry?;
                let name = entry.file_name();
                if name != c"." && name != c".." {
                    names.push(name.to_owned());
                }
            }
            if names.is_empty() {
                break;
            }
            names.sort_unstable();
            for name in names {
                self.show(folder, name, &mut folders)?;
                self.path.truncate(path);
            }
        }
        folders.reverse();
        Ok(Level { stat, path, folders })
    }

    fn show(&mut self, folder: &OwnedFd, name: CString, folders: &mut Vec<CString>) -> io::Result<()> {
        self.entries += 1;
        if self.stop.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        if self.entries > self.entries_max {
            let text = format!("there are more than {} files, which is too many for an archive", self.entries_max);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let stat = statat(folder, &name, AtFlags::SYMLINK_NOFOLLOW)?;
        self.push(&name);
        // With the slash of a folder.
        if self.path.len() >= PATH_MAX {
            return Err(self.cannot("has a path that is too long for an archive"));
        }
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return self.visitor.file(&self.path, folder, &name, &stat);
        }
        self.waiting += name.as_bytes().len() + WAITING_EACH;
        if self.waiting > WAITING_MAX {
            return Err(self.cannot("is in a folder with too many folders for an archive"));
        }
        folders.push(name);
        Ok(())
    }
}
