//! Subvolumes of btrfs: a box's disk, and copies of it.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use boxyard_proto::disk::Disk;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, fchmod, fstat, mkdirat, openat, unlinkat};
use rustix::io::Errno;

use crate::sys;
use crate::trouble::{Doing, Trouble};

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The number of every subvolume's root folder.
const ROOT: u64 = 256;

/// How often a subvolume is written out before it is copied, at most.
const FLUSHES: u32 = 4;

/// What takes less is not worth doing again: so long may a box stand still.
const FLUSHED: Duration = Duration::from_millis(30);

/// Levels below overlay's work folder that are cleaned: its `work` folder, and what a copy-up that was broken off left in there.
const WORK_DEPTH: u32 = 4;

/// Bytes of metadata that go with a file, at least: its inode, its name twice, and some.
const METADATA_OF_FILE: u64 = 512;

/// Bytes that a box needs on its disk to be started: some folders of overlay's and some small files.
const START_ROOM: u64 = 2 << 20;

/// A disk that is ready for its box to be started on it.
#[derive(Debug)]
pub struct Made {
    parent: OwnedFd,
    /// The subvolume's id and its limit.
    limit: Option<(u64, u64)>,
}

impl Made {
    /// The box has started: its limit holds from here on.
    pub fn finish(&self) -> Result<(), Trouble> {
        match self.limit {
            Some((id, limit)) => {
                sys::disks::btrfs_limit(self.parent.as_fd(), id, limit).doing("limiting the box's disk")
            }
            None => Ok(()),
        }
    }
}

/// Makes the disk of a box, or finishes making it; what is on it stays. What overlay shows as the root of the box has the mode of
/// `upper`. A disk that is full gets a little room until [`Made::finish`]: else its box could never be started again.
pub fn make(disk: &Disk) -> Result<Made, Trouble> {
    let doing = || format!("making the subvolume {}", disk.subvolume.display());
    let (parent, name) = place(&disk.subvolume)?;
    let from = match &disk.from {
        Some(from) => Some(open(from).doing_with(|| format!("opening the subvolume {}", from.display()))?),
        None => None,
    };
    let made = match sys::disks::btrfs_make(parent.as_fd(), name, from.as_ref().map(AsFd::as_fd), false, disk.limit) {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => false,
        made => made.doing_with(doing).map(|()| true)?,
    };
    let subvolume = openat(&parent, name, FOLDER, Mode::empty()).doing_with(doing)?;
    if fstat(&subvolume).doing_with(doing)?.st_ino != ROOT {
        return Err(Trouble::new(doing(), "a folder is in its place"));
    }
    // It may be another limit than when the subvolume was made; and a copy has got that of its source, whatever was asked for.
    let limit = match disk.limit.filter(|_| !made || from.is_some()) {
        Some(limit) => {
            let id = sys::disks::btrfs_subvolume_id(subvolume.as_fd()).doing("measuring the box's disk")?;
            let charged = sys::disks::btrfs_charged(subvolume.as_fd(), id).doing("measuring the box's disk")?;
            let room = charged.unwrap_or_default().saturating_add(START_ROOM);
            sys::disks::btrfs_limit(parent.as_fd(), id, limit.max(room)).doing("limiting the box's disk")?;
            Some((id, limit))
        }
        None => None,
    };
    if from.is_some() || disk.taken {
        // The work folder of another box; overlay wants its own. One that cannot be cleaned is left to overlay, which tries too.
        let _ = remove(subvolume.as_fd(), c"work", WORK_DEPTH);
    }
    for name in ["upper", "work"] {
        match mkdirat(&subvolume, name, Mode::from_raw_mode(0o755)) {
            Ok(()) => {
                let folder = openat(&subvolume, name, FOLDER, Mode::empty()).doing_with(doing)?;
                fchmod(&folder, Mode::from_raw_mode(0o755)).doing_with(doing)?;
            }
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error).doing_with(doing),
        }
    }
    if made {
        fchmod(&subvolume, Mode::from_raw_mode(0o700)).doing_with(doing)?;
    }
    Ok(Made { parent, limit })
}

/// Limits a subvolume that may be there.
pub fn limit(subvolume: &Path, limit: u64) -> Result<(), Trouble> {
    let doing = || format!("limiting the subvolume {}", subvolume.display());
    let (parent, _) = place(subvolume)?;
    match open(subvolume) {
        Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error).doing_with(doing),
        Ok(subvolume) => {
            let id = sys::disks::btrfs_subvolume_id(subvolume.as_fd()).doing_with(doing)?;
            sys::disks::btrfs_limit(parent.as_fd(), id, limit).doing_with(doing)
        }
    }
}

/// Writes out what the subvolume's files hold in memory, which making a copy of it does, while they are in use. What is written while
/// that takes long is written out as well, unless it never becomes less.
pub fn flush(subvolume: &Path, draft: &Path) -> Result<(), Trouble> {
    for _ in 0..FLUSHES {
        let begun = Instant::now();
        snapshot(subvolume, draft, true)?;
        destroy(draft)?;
        if begun.elapsed() < FLUSHED {
            break;
        }
    }
    Ok(())
}

/// Makes a copy, which is on the disk when this returns. Returns the bytes that the subvolume itself is charged for, if they are
/// counted.
pub fn snapshot(subvolume: &Path, into: &Path, read_only: bool) -> Result<Option<u64>, Trouble> {
    let doing = || format!("making the snapshot {}", into.display());
    let source = open(subvolume).doing_with(doing)?;
    let (parent, name) = place(into)?;
    sys::disks::btrfs_make(parent.as_fd(), name, Some(source.as_fd()), read_only, None).doing_with(doing)?;
    let charged = sys::disks::btrfs_subvolume_id(source.as_fd());
    charged.and_then(|id| sys::disks::btrfs_charged(source.as_fd(), id)).doing("measuring the box's disk")
}

/// Removes a subvolume that may be there.
pub fn destroy(subvolume: &Path) -> Result<(), Trouble> {
    let (parent, name) = place(subvolume)?;
    match sys::disks::btrfs_destroy(parent.as_fd(), name) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        destroyed => destroyed.doing_with(|| format!("removing the subvolume {}", subvolume.display())),
    }
}

/// Waits until what removed subvolumes held is free.
pub fn freed(at: &Path) -> Result<(), Trouble> {
    let doing = || format!("waiting for {} to free what was removed", at.display());
    let folder = open(at).doing_with(doing)?;
    match sys::disks::btrfs_free_removed(folder.as_fd()) {
        Err(error) if error.raw_os_error() == Some(libc::ENOTTY) => Ok(()),
        waited => waited.doing_with(doing),
    }
}

/// Bytes that the subvolumes in `folder` are charged for.
pub fn sizes(folder: &Path, only: Option<&str>) -> Result<BTreeMap<String, u64>, Trouble> {
    let doing = || format!("measuring the subvolumes in {}", folder.display());
    let folder = openat(CWD, folder, FOLDER, Mode::empty()).doing_with(doing)?;
    let mut names = Vec::new();
    match only {
        Some(name) => names.push(name.to_owned()),
        None => {
            for entry in Dir::read_from(&folder).doing_with(doing)? {
                let entry = entry.doing_with(doing)?;
                if let Ok(name) = entry.file_name().to_str()
                    && !name.starts_with('.')
                {
                    names.push(name.to_owned());
                }
            }
        }
    }
    let mut bytes = BTreeMap::new();
    for name in names {
        match size(&folder, &name) {
            Ok(Some(size)) => {
                bytes.insert(name, size);
            }
            Ok(None) => {}
            // Removed meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) => return Err(error).doing_with(doing),
        }
    }
    Ok(bytes)
}

/// Bytes that the files of a subvolume hold, and what is known of them. Reads the file system's own lists: nothing that happens in the
/// subvolume meanwhile can hide a file, and no file comes into memory for this.
pub fn measure(subvolume: &Path) -> Result<u64, Trouble> {
    let doing = || format!("measuring {}", subvolume.display());
    let folder = open(subvolume).doing_with(doing)?;
    let (mut total, mut known, mut first) = (0_u64, 0_u64, Some((0, 0, 0)));
    while let Some(place) = first {
        let (sum, next) = sys::disks::btrfs_add_up(folder.as_fd(), place).doing_with(doing)?;
        total = total.saturating_add(sum.bytes);
        // A file may have attributes of many times its size, and as many names.
        known = known.saturating_add(sum.known.max(sum.files.saturating_mul(METADATA_OF_FILE)));
        first = next;
    }
    Ok(total.saturating_add(known))
}

fn size(folder: &OwnedFd, name: &str) -> io::Result<Option<u64>> {
    let subvolume = match openat(folder, name, FOLDER, Mode::empty()) {
        Err(Errno::NOTDIR | Errno::LOOP) => return Ok(None),
        opened => opened?,
    };
    if fstat(&subvolume)?.st_ino != ROOT {
        return Ok(None);
    }
    sys::disks::btrfs_charged(subvolume.as_fd(), sys::disks::btrfs_subvolume_id(subvolume.as_fd())?)
}

fn open(path: &Path) -> Result<OwnedFd, Errno> {
    openat(CWD, path, FOLDER, Mode::empty())
}

/// The folder that a subvolume is in, opened, and its name there.
fn place(path: &Path) -> Result<(OwnedFd, &str), Trouble> {
    let parts = path.parent().zip(path.file_name().and_then(|name| name.to_str()));
    let Some((parent, name)) = parts else {
        return Err(Trouble::new("reading the order", "a path names no subvolume"));
    };
    Ok((open(parent).doing_with(|| format!("opening {}", parent.display()))?, name))
}

/// Removes a file or folder and what is in it, down to `depth` levels.
fn remove(parent: BorrowedFd<'_>, name: &std::ffi::CStr, depth: u32) -> Result<(), Errno> {
    let folder = match openat(parent, name, FOLDER, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTDIR | Errno::LOOP) => return unlinkat(parent, name, AtFlags::empty()),
        opened => opened?,
    };
    for entry in Dir::read_from(&folder)? {
        let entry = entry?;
        let inner = entry.file_name();
        if inner == c"." || inner == c".." {
            continue;
        }
        if entry.file_type() == FileType::Directory {
            if depth == 0 {
                return Err(Errno::NOTEMPTY);
            }
            remove(folder.as_fd(), inner, depth - 1)?;
        } else {
            unlinkat(&folder, inner, AtFlags::empty())?;
        }
    }
    unlinkat(parent, name, AtFlags::REMOVEDIR)
}
