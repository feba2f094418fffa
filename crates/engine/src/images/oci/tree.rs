//! A folder that is filled with what strangers wrote. Nothing outside it is ever touched.
//!
//! No path is ever put together: every parent is opened by the kernel as a process whose root is the folder would see it (`openat2` with
//! `RESOLVE_IN_ROOT`), so links that earlier entries have planted lead inside, and the last part is used through no link at all. The tree
//! has one writer, and nobody else can enter the folder above it.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags, chownat, fchmod,
    fchown, fgetxattr, fsetxattr, linkat, mkdirat, mknodat, openat, openat2, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;

use super::tar::PATH_MAX;
use super::unpack::WHITEOUT;

/// How overlay marks a folder that hides the one below it, with the option `userxattr` (the kernel's `filesystems/overlayfs`).
const OPAQUE: &str = "user.overlay.opaque";

/// Folders within folders at most.
pub(super) const DEPTH_MAX: usize = 256;
const NAME_MAX: usize = 255;

/// Owner, mode and so on of something in the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Dress {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub modified: (i64, u32),
    pub attributes: Vec<(String, Vec<u8>)>,
}

/// A path of an archive, in its parts; empty for the tree's root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Path(Vec<CString>);

pub(super) fn refused(path: &[u8], why: &str) -> io::Error {
    let path: String = String::from_utf8_lossy(path).chars().filter(|c| !c.is_control()).take(200).collect();
    io::Error::new(io::ErrorKind::InvalidData, format!("the layer's entry {path:?} {why}"))
}

impl Path {
    /// Takes a path apart. An absolute one is meant from the tree's root, as all others are.
    pub fn parse(path: &[u8]) -> io::Result<Self> {
        let mut parts = Vec::new();
        for part in path.split(|byte| *byte == b'/') {
            match part {
                b"" | b"." => {}
                b".." => return Err(refused(path, "leads out of its folder")),
                // What marks a deleted file has its name and a little more.
                part if part.len() > NAME_MAX
                    && !(part.starts_with(WHITEOUT) && part.len() <= NAME_MAX + WHITEOUT.len()) =>
                {
                    return Err(refused(path, "has a name that is too long"));
                }
                part => parts.push(CString::new(part).map_err(|_| refused(path, "has a NUL"))?),
            }
        }
        if parts.len() > DEPTH_MAX || path.len() > PATH_MAX {
            return Err(refused(path, "is too deep"));
        }
        Ok(Self(parts))
    }

    /// The last part.
    pub fn name(&self) -> Option<&CString> {
        self.0.last()
    }

    fn parent(&self) -> &[CString] {
        self.0.split_last().map_or(&[], |(_, parent)| parent)
    }

    /// The same path with another last part.
    pub fn with_name(&self, name: CString) -> Self {
        Self(self.parent().iter().cloned().chain([name]).collect())
    }

    /// The folder that it is in.
    pub fn folder(&self) -> Self {
        Self(self.parent().to_vec())
    }

    fn join(parts: &[CString]) -> Vec<u8> {
        if parts.is_empty() {
            b".".to_vec()
        } else {
            parts.iter().map(|part| part.as_bytes()).collect::<Vec<_>>().join(&b'/')
        }
    }

    /// As people write it.
    pub fn bytes(&self) -> Vec<u8> {
        Self::join(&self.0)
    }
}

/// The folder.
#[derive(Debug)]
pub(super) struct Tree {
    root: OwnedFd,
    /// The parent that was used last: archives are sorted.
    near: Option<(Vec<CString>, OwnedFd)>,
}

impl Tree {
    pub fn new(root: OwnedFd) -> Self {
        Self { root, near: None }
    }

    /// The folder itself.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    fn open(&self, parts: &[CString]) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let plain = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let path = Path::join(parts);
        match openat2(&self.root, &path, flags, Mode::empty(), plain) {
            Err(Errno::LOOP) => {}
            opened => return opened,
        }
        let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        let opened = openat2(&self.root, &path, flags, Mode::empty(), inside)?;
        // Through links, folders could be nested deeper than a program that removes them has room on its stack.
        if depth(&opened)? > depth(&self.root)? + DEPTH_MAX { Err(Errno::NAMETOOLONG) } else { Ok(opened) }
    }

    /// The folder with these parts; made where it is missing, as root's with mode 0755.
    fn folder(&mut self, parts: &[CString]) -> io::Result<BorrowedFd<'_>> {
        if self.near.as_ref().is_none_or(|(near, _)| near != parts) {
            let opened = match self.open(parts) {
                Ok(opened) => opened,
                Err(Errno::NOENT | Errno::NOTDIR) => self.make_folders(parts)?,
                Err(error) => return Err(about(&Path::join(parts), error)),
            };
            self.near = Some((parts.to_vec(), opened));
        }
        self.near.as_ref().map(|(_, opened)| opened.as_fd()).ok_or_else(|| io::Error::other("a folder was lost"))
    }

    fn make_folders(&self, parts: &[CString]) -> io::Result<OwnedFd> {
        let mut parent = self.open(&[]).map_err(|error| about(b".", error))?;
        for (index, name) in parts.iter().enumerate() {
            let so_far = &parts[..=index];
            parent = match self.open(so_far) {
                Ok(opened) => opened,
                Err(Errno::NOENT) => match mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
                    Ok(()) => open_folder(&parent, name)?,
                    Err(Errno::EXIST) => return Err(refused(&Path::join(parts), "goes through a link to nowhere")),
                    Err(error) => return Err(about(&Path::join(so_far), error)),
                },
                // A whiteout, and now something in a new folder of the same name.
                Err(Errno::NOTDIR) if is_whiteout(&parent, name) => {
                    unlinkat(&parent, name, AtFlags::empty())?;
                    mkdirat(&parent, name, Mode::from_raw_mode(0o755))?;
                    let made = open_folder(&parent, name)?;
                    set_opaque(&made)?;
                    made
                }
                Err(Errno::NOTDIR) => return Err(refused(&Path::join(parts), "is in something that is no folder")),
                Err(error) => return Err(about(&Path::join(so_far), error)),
            };
        }
        Ok(parent)
    }

    /// Makes room for something that is no folder: what an earlier entry has left there goes.
    fn clear(&mut self, path: &Path, name: &CString) -> io::Result<()> {
        let parent = self.folder(path.parent())?;
        match unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) => {}
            Err(Errno::NOENT) => return Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => remove_folder(parent, name, 0)?,
            Err(error) => return Err(about(&path.bytes(), error)),
        }
        // The way to what was used last may have led through it.
        self.near = None;
        Ok(())
    }

    /// Makes a folder, or dresses the one that is there anew.
    pub fn make_folder(&mut self, path: &Path, dress: &Dress) -> io::Result<()> {
        let Some(name) = path.name() else { return Ok(()) };
        let parent = self.folder(path.parent())?;
        let made = match mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
            Ok(()) => open_folder(parent, name)?,
            Err(Errno::EXIST) => match open_folder(parent, name) {
                Ok(there) => there,
                Err(_) => {
                    let hides = is_whiteout(parent, name);
                    unlinkat(parent, name, AtFlags::empty())?;
                    mkdirat(parent, name, Mode::from_raw_mode(0o755))?;
                    let made = open_folder(parent, name)?;
                    if hides {
                        set_opaque(&made)?;
                    }
                    self.near = None;
                    made
                }
            },
            Err(error) => return Err(about(&path.bytes(), error)),
        };
        dress_open(&made, dress, path)
    }

    /// Dresses the tree's own root, but for its time.
    pub fn dress_root(&self, dress: &Dress) -> io::Result<()> {
        dress_open(&self.root, dress, &Path(Vec::new()))
    }

    /// Makes an empty file, which is dressed once it is written.
    pub fn make_file(&mut self, path: &Path) -> io::Result<OwnedFd> {
        let name = self.free(path)?;
        let parent = self.folder(path.parent())?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(parent, &name, flags, Mode::from_raw_mode(0o600)).map_err(|error| about(&path.bytes(), error))
    }

    /// Makes a symbolic link to any text.
    pub fn make_symlink(&mut self, path: &Path, target: &[u8], dress: &Dress) -> io::Result<()> {
        let name = self.free(path)?;
        let parent = self.folder(path.parent())?;
        symlinkat(target, parent, &name).map_err(|error| about(&path.bytes(), error))?;
        chownat(parent, &name, owner(dress.uid), group(dress.gid), AtFlags::SYMLINK_NOFOLLOW)?;
        set_time(parent, &name, dress.modified);
        // What follows may lead through the link.
        self.near = None;
        Ok(())
    }

    /// Makes a named pipe.
    pub fn make_fifo(&mut self, path: &Path, dress: &Dress) -> io::Result<()> {
        let name = self.free(path)?;
        let parent = self.folder(path.parent())?;
        let mode = Mode::from_raw_mode(dress.mode & 0o777);
        mknodat(parent, &name, FileType::Fifo, mode, 0).map_err(|error| about(&path.bytes(), error))?;
        chownat(parent, &name, owner(dress.uid), group(dress.gid), AtFlags::SYMLINK_NOFOLLOW)?;
        rustix::fs::chmodat(parent, &name, mode, AtFlags::empty())?;
        set_time(parent, &name, dress.modified);
        Ok(())
    }

    /// Gives what is at `target` in this tree another name.
    pub fn make_hard_link(&mut self, path: &Path, target: &Path) -> io::Result<()> {
        let Some(target_name) = target.name() else { return Err(refused(&path.bytes(), "is a hard link to a folder")) };
        if path == target {
            return Ok(());
        }
        // Not made where it is missing: it must be there.
        let from = self
            .open(target.parent())
            .map_err(|_| refused(&path.bytes(), "is a hard link to what is not in its layer"))?;
        let kind =
            statat(&from, target_name, AtFlags::SYMLINK_NOFOLLOW).map(|stat| FileType::from_raw_mode(stat.st_mode));
        match kind {
            Ok(FileType::RegularFile | FileType::Symlink | FileType::Fifo) => {}
            Ok(_) => return Err(refused(&path.bytes(), "is a hard link to what cannot have two names")),
            Err(_) => return Err(refused(&path.bytes(), "is a hard link to what is not in its layer")),
        }
        let name = self.free(path)?;
        let parent = self.folder(path.parent())?;
        linkat(&from, target_name, parent, &name, AtFlags::empty()).map_err(|error| about(&path.bytes(), error))
    }

    /// Hides what lies below this layer at `path`. What this layer itself has there stays, whatever the order of entries.
    pub fn hide(&mut self, path: &Path) -> io::Result<()> {
        let Some(name) = path.name() else { return Ok(()) };
        let parent = self.folder(path.parent())?;
        match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode).is_dir() => set_opaque(&open_folder(parent, name)?),
            Ok(_) => Ok(()),
            Err(Errno::NOENT) => mknodat(parent, name, FileType::CharacterDevice, Mode::empty(), 0)
                .map_err(|error| about(&path.bytes(), error)),
            Err(error) => Err(about(&path.bytes(), error)),
        }
    }

    /// Hides all that lies below this layer in the folder `path`.
    pub fn hide_all_in(&mut self, path: &Path) -> io::Result<()> {
        let folder = self.folder(&path.0)?;
        set_opaque(folder)
    }

    /// Sets when a folder was changed; after everything else, because filling it changes that.
    pub fn set_folder_time(&mut self, path: &Path, modified: (i64, u32)) {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        // A later entry may have put something else in its place; and a time is nothing to fail for.
        if let Ok(folder) = openat2(&self.root, path.bytes(), flags, Mode::empty(), resolve) {
            let _ = rustix::fs::futimens(&folder, &times(modified));
        }
    }

    fn free(&mut self, path: &Path) -> io::Result<CString> {
        let name = path.name().cloned().ok_or_else(|| refused(b"/", "must be a folder"))?;
        self.clear(path, &name)?;
        Ok(name)
    }
}

/// Gives an open file or folder its owner, mode, attributes and time.
pub(super) fn dress_open(file: &OwnedFd, dress: &Dress, path: &Path) -> io::Result<()> {
    let about = |error| about(&path.bytes(), error);
    // Changing the owner takes set-user-id bits and capabilities away, so it comes first.
    fchown(file, owner(dress.uid), group(dress.gid)).map_err(about)?;
    fchmod(file, Mode::from_raw_mode(dress.mode & 0o7777)).map_err(about)?;
    for (name, value) in &dress.attributes {
        match fsetxattr(file, name.as_str(), value, XattrFlags::empty()) {
            // Not all file systems have them, and programs cannot count on theirs.
            Err(Errno::OPNOTSUPP | Errno::NOSPC | Errno::TOOBIG) if name.starts_with("user.") => {}
            Err(Errno::OPNOTSUPP) if name.starts_with("system.") => {}
            set => set.map_err(about)?,
        }
    }
    // A time that the file system cannot store is nothing to fail for.
    let _ = rustix::fs::futimens(file, &times(dress.modified));
    Ok(())
}

fn about(path: &[u8], error: Errno) -> io::Error {
    let path: String = String::from_utf8_lossy(path).chars().filter(|c| !c.is_control()).take(200).collect();
    io::Error::new(io::Error::from(error).kind(), format!("making {path:?} of the layer: {error}"))
}

fn open_folder(parent: impl AsFd, name: &CString) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty()).map_err(|error| about(name.as_bytes(), error))
}

fn set_opaque(folder: impl AsFd) -> io::Result<()> {
    Ok(fsetxattr(folder, OPAQUE, b"y", XattrFlags::empty())?)
}

/// Whether the folder hides all that lies below it.
pub(in crate::images) fn is_opaque(folder: impl AsFd) -> bool {
    let mut value = [0; 8];
    fgetxattr(folder, OPAQUE, &mut value[..]).is_ok_and(|length| value[..length] == *b"y")
}

fn is_whiteout(parent: impl AsFd, name: &CString) -> bool {
    statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0)
}

/// Removes a folder with all in it, through no link.
fn remove_folder(parent: BorrowedFd<'_>, name: &CString, depth: usize) -> io::Result<()> {
    // Each of at most two paths' length, the second through a link.
    if depth > 3 * DEPTH_MAX {
        return Err(refused(name.as_bytes(), "is too deep"));
    }
    let folder = open_folder(parent, name)?;
    for entry in Dir::read_from(&folder)? {
        let entry = entry?;
        let inner = entry.file_name().to_owned();
        if matches!(inner.as_bytes(), b"." | b"..") {
            continue;
        }
        match unlinkat(&folder, &inner, AtFlags::empty()) {
            Err(Errno::ISDIR | Errno::PERM) => remove_folder(folder.as_fd(), &inner, depth + 1)?,
            removed => removed?,
        }
    }
    Ok(unlinkat(parent, name, AtFlags::REMOVEDIR)?)
}

/// How many folders lie above an open one, as the kernel sees it.
fn depth(folder: &OwnedFd) -> Result<usize, Errno> {
    use std::os::fd::AsRawFd;
    let path = rustix::fs::readlink(format!("/proc/self/fd/{}", folder.as_raw_fd()), Vec::new())?;
    Ok(path.as_bytes().iter().filter(|byte| **byte == b'/').count())
}

fn owner(uid: u32) -> Option<Uid> {
    Some(Uid::from_raw(uid))
}

fn group(gid: u32) -> Option<Gid> {
    Some(Gid::from_raw(gid))
}

fn times((seconds, nanoseconds): (i64, u32)) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: i64::from(nanoseconds) };
    Timestamps { last_access: time, last_modification: time }
}

fn set_time(parent: BorrowedFd<'_>, name: &CString, modified: (i64, u32)) {
    let _ = utimensat(parent, name, &times(modified), AtFlags::SYMLINK_NOFOLLOW);
}
