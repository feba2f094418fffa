//! Copying a disk file by file, where the file system has nothing better.
//!
//! Everything that overlay and a box can see is kept: owners, modes, times, links between files, holes, extended attributes (overlay's
//! own marks and file capabilities are such), whiteouts, fifos, sockets. Contents are shared where the file system can.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, Uid, chmodat, chownat,
    copy_file_range, fchmod, fchown, fgetxattr, flistxattr, fsetxattr, ftruncate, futimens, ioctl_ficlone, linkat,
    mkdirat, mknodat, openat, readlinkat, seek, symlinkat, utimensat,
};
use rustix::io::Errno;

use super::walk::{FOLDER, Visitor, walk, with_room};

/// Bytes that an attribute, or the list of them, has at most; the kernel's own limit.
const ATTRIBUTE_MAX: usize = 64 * 1024;

/// Copies the folder `from`, in which nothing may change meanwhile, to `into`, which must not exist.
///
/// # Errors
/// What the kernel says. What has been copied by then stays.
pub(super) async fn copy(from: PathBuf, into: PathBuf) -> io::Result<()> {
    with_room(move |stop| {
        let mut copy = Copy::new(&into)?;
        let copied = walk(&from, &mut copy, stop);
        let tidied = fs::remove_dir_all(&copy.links_path);
        copied.and(tidied)
    })
    .await
}

/// Waits until all that was written to the file system of `folder` is on the disk: what is recorded after this is never there without it.
///
/// # Errors
/// What the kernel says.
pub(super) async fn settle(folder: PathBuf) -> io::Result<()> {
    // Not one of the few places for copies: this costs no CPU.
    let settled = tokio::task::spawn_blocking(move || Ok(rustix::fs::syncfs(File::open(folder)?)?));
    settled.await.map_err(io::Error::other)?
}

struct Copy {
    into: PathBuf,
    /// The folder that is being filled, when the first has been entered.
    here: Option<OwnedFd>,
    /// Files with several names, by their numbers: in a folder of their own, so that the other names can be made from anywhere.
    links: OwnedFd,
    links_path: PathBuf,
    linked: HashSet<u64>,
    buffer: Vec<u8>,
}

impl Copy {
    fn new(into: &Path) -> io::Result<Self> {
        let mut name = into.file_name().unwrap_or_default().to_owned();
        name.push(".links");
        let links_path = into.with_file_name(name);
        match fs::remove_dir_all(&links_path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::DirBuilder::new().mode(0o700).create(&links_path)?;
        let links = openat(CWD, &links_path, FOLDER, Mode::empty())?;
        let buffer = vec![0; ATTRIBUTE_MAX];
        Ok(Self { into: into.to_owned(), here: None, links, links_path, linked: HashSet::new(), buffer })
    }

    fn here(&self) -> io::Result<&OwnedFd> {
        self.here.as_ref().ok_or_else(|| io::Error::other("a file before its folder"))
    }

    fn attributes(&mut self, from: impl AsFd, into: impl AsFd) -> io::Result<()> {
        let mut names = vec![0; ATTRIBUTE_MAX];
        let length = match flistxattr(&from, &mut names[..]) {
            Err(Errno::OPNOTSUPP) => return Ok(()),
            listed => listed?,
        };
        for name in names[..length].split_inclusive(|byte| *byte == 0) {
            let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
            let length = fgetxattr(&from, name, &mut self.buffer[..])?;
            fsetxattr(&into, name, &self.buffer[..length], rustix::fs::XattrFlags::empty())?;
        }
        Ok(())
    }

    fn regular(&mut self, folder: &OwnedFd, name: &CStr, stat: &Stat) -> io::Result<()> {
        let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let from = openat(folder, name, flags | OFlags::RDONLY, Mode::empty())?;
        let create = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let into = openat(self.here()?, name, flags | create, Mode::from_raw_mode(0o600))?;
        if stat.st_size > 0 && ioctl_ficlone(&into, &from).is_err() {
            contents(&from, &into, u64::try_from(stat.st_size).unwrap_or_default())?;
        }
        fchown(&into, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
        fchmod(&into, mode(stat))?;
        self.attributes(&from, &into)?;
        Ok(futimens(&into, &times(stat))?)
    }
}

impl Visitor for Copy {
    fn enter(&mut self, name: Option<&CStr>) -> io::Result<()> {
        let folder = match (name, &self.here) {
            (Some(name), Some(here)) => {
                mkdirat(here, name, Mode::from_raw_mode(0o700))?;
                openat(here, name, FOLDER, Mode::empty())?
            }
            _ => {
                fs::DirBuilder::new().mode(0o700).create(&self.into)?;
                openat(CWD, &self.into, FOLDER, Mode::empty())?
            }
        };
        self.here = Some(folder);
        Ok(())
    }

    fn file(&mut self, folder: &OwnedFd, name: &CStr, stat: &Stat) -> io::Result<()> {
        let number = CString::new(format!("{:x}", stat.st_ino))?;
        if stat.st_nlink > 1 && self.linked.contains(&stat.st_ino) {
            return Ok(linkat(&self.links, &number, self.here()?, name, AtFlags::empty())?);
        }
        let here = self.here()?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => self.regular(folder, name, stat)?,
            FileType::Symlink => {
                symlinkat(readlinkat(folder, name, Vec::new())?, here, name)?;
                own(here, name, stat)?;
                utimensat(here, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)?;
            }
            // Of devices a box can make one, which means nothing: overlay's mark for a file that was deleted.
            kind @ (FileType::Fifo | FileType::Socket | FileType::CharacterDevice)
                if kind != FileType::CharacterDevice || stat.st_rdev == 0 =>
            {
                mknodat(here, name, kind, Mode::from_raw_mode(0o600), 0)?;
                own(here, name, stat)?;
                chmodat(here, name, mode(stat), AtFlags::empty())?;
                utimensat(here, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)?;
            }
            FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Directory
            | FileType::Unknown => return Ok(()),
        }
        if stat.st_nlink > 1 {
            linkat(self.here()?, name, &self.links, &number, AtFlags::empty())?;
            self.linked.insert(stat.st_ino);
        }
        Ok(())
    }

    fn leave(&mut self, folder: &OwnedFd, stat: &Stat) -> io::Result<()> {
        let Some(here) = self.here.take() else { return Err(io::Error::other("left before it was entered")) };
        fchown(&here, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
        fchmod(&here, mode(stat))?;
        self.attributes(folder, &here)?;
        futimens(&here, &times(stat))?;
        self.here = Some(openat(&here, "..", FOLDER, Mode::empty())?);
        Ok(())
    }
}

fn own(folder: &OwnedFd, name: &CStr, stat: &Stat) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    Ok(chownat(folder, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
}

fn mode(stat: &Stat) -> Mode {
    Mode::from_raw_mode(stat.st_mode & 0o7777)
}

fn times(stat: &Stat) -> Timestamps {
    let time = |seconds, nanos| Timespec { tv_sec: seconds, tv_nsec: i64::try_from(nanos).unwrap_or_default() };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

/// Copies what is in a file, and not its holes.
fn contents(from: &OwnedFd, into: &OwnedFd, size: u64) -> io::Result<()> {
    ftruncate(into, size)?;
    let mut at = 0;
    while at < size {
        let start = match seek(from, SeekFrom::Data(at)) {
            Ok(start) => start,
            // Nothing but a hole is left.
            Err(Errno::NXIO) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let end = seek(from, SeekFrom::Hole(start))?.min(size);
        piece(from, into, start, end)?;
        at = end.max(start + 1);
    }
    Ok(())
}

fn piece(from: &OwnedFd, into: &OwnedFd, start: u64, end: u64) -> io::Result<()> {
    let (mut read_at, mut write_at) = (start, start);
    while read_at < end {
        let left = usize::try_from(end - read_at).unwrap_or(usize::MAX).min(1 << 30);
        match copy_file_range(from, Some(&mut read_at), into, Some(&mut write_at), left) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            // The two file systems do not do this for each other.
            Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => break,
            Err(error) => return Err(error.into()),
        }
    }
    let mut buffer = vec![0; 256 * 1024];
    while read_at < end {
        let left = usize::try_from(end - read_at).unwrap_or(usize::MAX).min(buffer.len());
        let read = rustix::io::pread(from, &mut buffer[..left], read_at)?;
        if read == 0 {
            return Ok(());
        }
        let mut written = 0;
        while written < read {
            written += rustix::io::pwrite(into, &buffer[written..read], write_at + written as u64)?;
        }
        read_at += read as u64;
        write_at += read as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};

    use super::*;

    #[tokio::test]
    async fn a_copy_has_everything_that_can_be_seen() {
        // Not in /tmp, which may be a file system with fewer abilities.
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let (from, into) = (dir.path().join("from"), dir.path().join("into"));
        fs::create_dir_all(from.join("a/b")).unwrap();
        fs::write(from.join("a/b/file"), "text").unwrap();
        chown(from.join("a/b/file"), Some(1000), Some(1001)).unwrap();
        fs::set_permissions(from.join("a/b/file"), fs::Permissions::from_mode(0o4751)).unwrap();
        fs::set_permissions(from.join("a"), fs::Permissions::from_mode(0o1777)).unwrap();
        fs::hard_link(from.join("a/b/file"), from.join("other")).unwrap();
        symlink("/etc/passwd", from.join("link")).unwrap();
        let open = File::open(from.join("a")).unwrap();
        fsetxattr(&open, "user.overlay.opaque", b"y", rustix::fs::XattrFlags::empty()).unwrap();
        let top = openat(CWD, &from, FOLDER, Mode::empty()).unwrap();
        mknodat(&top, "gone", FileType::CharacterDevice, Mode::from_raw_mode(0o600), 0).unwrap();
        mknodat(&top, "fifo", FileType::Fifo, Mode::from_raw_mode(0o620), 0).unwrap();
        let holes = File::create(from.join("holes")).unwrap();
        holes.set_len(64 << 20).unwrap();
        std::os::unix::fs::FileExt::write_at(&holes, b"middle", 32 << 20).unwrap();
        holes.sync_all().unwrap();

        copy(from.clone(), into.clone()).await.unwrap();
        let names = |path: &Path| {
            let mut names: Vec<_> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(names(dir.path()), ["from", "into"]);
        assert_eq!(names(&into), names(&from));
        for name in ["", "a", "a/b", "a/b/file", "other", "link", "gone", "fifo", "holes"] {
            let (old, new) = (from.join(name).symlink_metadata().unwrap(), into.join(name).symlink_metadata().unwrap());
            let seen = |stat: &fs::Metadata| {
                let (mode, mtime) = (stat.mode(), (stat.mtime(), stat.mtime_nsec()));
                let size = if stat.is_dir() { 0 } else { stat.len() };
                (mode, stat.uid(), stat.gid(), stat.rdev(), mtime, size)
            };
            assert_eq!(seen(&old), seen(&new), "{name}");
        }
        assert_eq!(fs::read(into.join("other")).unwrap(), b"text");
        assert_eq!(into.join("other").metadata().unwrap().ino(), into.join("a/b/file").metadata().unwrap().ino());
        assert_eq!(fs::read_link(into.join("link")).unwrap(), Path::new("/etc/passwd"));
        let mut value = [0; 8];
        let copied = File::open(into.join("a")).unwrap();
        assert_eq!(fgetxattr(&copied, "user.overlay.opaque", &mut value[..]).unwrap(), 1);
        assert!(into.join("holes").metadata().unwrap().blocks() < 1000, "holes stay holes");
        assert_eq!(fs::read(into.join("holes")).unwrap()[32 << 20..][..6], *b"middle");
    }

    #[tokio::test]
    async fn depth_is_no_obstacle() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let (from, into) = (dir.path().join("from"), dir.path().join("into"));
        fs::create_dir(&from).unwrap();
        let mut deepest = openat(CWD, &from, FOLDER, Mode::empty()).unwrap();
        for _ in 0..5000 {
            mkdirat(&deepest, "d", Mode::from_raw_mode(0o700)).unwrap();
            deepest = openat(&deepest, "d", FOLDER, Mode::empty()).unwrap();
        }
        copy(from, into.clone()).await.unwrap();
        let mut depth = 0;
        let mut here = openat(CWD, &into, FOLDER, Mode::empty()).unwrap();
        while let Ok(inner) = openat(&here, "d", FOLDER, Mode::empty()) {
            (here, depth) = (inner, depth + 1);
        }
        assert_eq!(depth, 5000);
    }
}
