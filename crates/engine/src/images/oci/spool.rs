//! A file without a name, which is gone when nobody holds it any more, however the server ends: archives pass through one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, fstatvfs};
use rustix::io::Errno;

/// One in so many of a file system's inodes stays free for others, where it has a number of them.
const INODES_KEPT: u64 = 20;

/// Bytes that are written between looks at the room that is left.
const LOOK_EVERY: u64 = 16 << 20;

/// The file while it is written. What is left of the file system for others is looked after.
#[derive(Debug)]
pub(crate) struct Spool {
    file: File,
    at: u64,
    /// Where the room is looked at next.
    look_at: u64,
    /// Bytes that must be left free on the file system.
    keep_free: u64,
    /// Bytes at most.
    most: u64,
}

impl Spool {
    /// A new file on the file system of `folder`, of `most` bytes at most.
    ///
    /// # Errors
    /// There is no room, or what the kernel says.
    pub fn new(folder: &Path, most: u64, keep_free: u64) -> io::Result<Self> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = match rustix::fs::open(folder, flags, Mode::from_raw_mode(0o600)) {
            Ok(file) => File::from(file),
            // A file system that does not know files without names.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
                let path = folder.join(format!("spool-{:016x}", rand::random::<u64>()));
                let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
                fs::remove_file(&path)?;
                file
            }
            Err(error) => return Err(error.into()),
        };
        check_room(&file, keep_free)?;
        Ok(Self { file, at: 0, look_at: LOOK_EVERY, keep_free, most })
    }

    /// Bytes that were written.
    pub fn len(&self) -> u64 {
        self.at
    }

    /// Writes over what was written at `at`.
    pub fn rewrite(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, at)
    }

    /// Takes back what was written after `at`.
    pub fn cut(&mut self, at: u64) -> io::Result<()> {
        self.file.set_len(at)?;
        self.at = at;
        Ok(())
    }

    /// The file.
    pub fn into_file(self) -> File {
        self.file
    }
}

impl Write for Spool {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.at >= self.look_at {
            check_room(&self.file, self.keep_free)?;
            self.look_at = self.at + LOOK_EVERY;
        }
        if self.at.saturating_add(bytes.len() as u64) > self.most {
            let text = format!("the archive has more than the {} bytes that archives may have here", self.most);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let count = self.file.write_at(bytes, self.at)?;
        self.at += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Bytes that may be written to the file system of `file` before less than `keep_free` are left.
///
/// # Errors
/// What the kernel says.
pub(crate) fn room(file: impl AsFd, keep_free: u64) -> io::Result<u64> {
    let stat = fstatvfs(file)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize).saturating_sub(keep_free))
}

fn check_room(file: impl AsFd, keep_free: u64) -> io::Result<()> {
    match room(file, keep_free)? {
        0 => Err(short()),
        _ => Ok(()),
    }
}

/// The same for whoever makes files: a file system can be out of inodes long before it is out of bytes.
///
/// # Errors
/// [`io::ErrorKind::StorageFull`], or what the kernel says.
pub(super) fn check_ground(folder: impl AsFd, keep_free: u64) -> io::Result<()> {
    let stat = fstatvfs(&folder)?;
    if stat.f_favail < stat.f_files / INODES_KEPT {
        return Err(short());
    }
    check_room(folder, keep_free)
}

fn short() -> io::Error {
    io::Error::new(io::ErrorKind::StorageFull, "this host is short of disk space now")
}

/// A part of such a file, to be read.
#[derive(Debug, Clone)]
pub(crate) struct Slice {
    file: Arc<File>,
    at: u64,
    left: u64,
}

impl Slice {
    pub fn new(file: &Arc<File>, at: u64, length: u64) -> Self {
        Self { file: Arc::clone(file), at, left: length }
    }
}

impl Read for Slice {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let count = self.file.read_at(&mut buffer[..most], self.at)?;
        if count == 0 && most > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}
