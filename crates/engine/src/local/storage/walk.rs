//! Going through a box's files from the host: they are hostile, and as deep as the box likes.
//!
//! One folder is open at a time. The way up is `..`, which is trusted only as far as it leads where we came from; no link is followed,
//! and nothing is opened but folders.

use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use boxyard_proto::BoxId;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, fstat, openat, statat};
use rustix::io::Errno;
use tokio::sync::Semaphore;

pub(super) const FOLDER: OFlags =
    OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC).union(OFlags::RDONLY);

/// Files of one box that are gone through at most.
const FILES_MAX: u64 = 20_000_000;

/// Bytes of names of folders that wait to be entered, and about what keeping each takes besides. A box may make millions of folders with
/// the longest names in one.
const WAITING_MAX: usize = if cfg!(test) { 1 << 20 } else { 256 << 20 };
const WAITING_EACH: usize = 32;

/// How old a size may be that is told instead of another walk.
const SIZE_AGE: Duration = Duration::from_secs(60);

/// Walks at once. Each keeps a thread and the disk busy.
static ROOM: Semaphore = Semaphore::const_new(2);

/// Who is told what there is.
pub(super) trait Visitor {
    /// A folder is entered; it is `name` in the folder that was entered last, and the first has no name.
    fn enter(&mut self, name: Option<&CStr>) -> io::Result<()>;

    /// Something that is no folder.
    fn file(&mut self, folder: &OwnedFd, name: &CStr, stat: &Stat) -> io::Result<()>;

    /// The folder that was entered last is left again.
    fn leave(&mut self, folder: &OwnedFd, stat: &Stat) -> io::Result<()>;
}

/// What is bounded.
#[derive(Default)]
struct Held {
    files: u64,
    waiting: usize,
}

struct Level {
    stat: Stat,
    folders: Vec<CString>,
}

/// Shows `visitor` all that is in `top`, until `stop` is set.
///
/// # Errors
/// What the kernel or the visitor says; folders were moved meanwhile.
pub(super) fn walk(top: &std::path::Path, visitor: &mut dyn Visitor, stop: &AtomicBool) -> io::Result<()> {
    let mut here = openat(CWD, top, FOLDER, Mode::empty())?;
    let mut held = Held::default();
    visitor.enter(None)?;
    let mut levels = vec![look(&here, visitor, stop, &mut held)?];
    while let Some(level) = levels.last_mut() {
        if let Some(name) = level.folders.pop() {
            held.waiting = held.waiting.saturating_sub(name.as_bytes().len() + WAITING_EACH);
            let inner = match openat(&here, &name, FOLDER, Mode::empty()) {
                // Gone meanwhile, or something else now.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                opened => opened?,
            };
            visitor.enter(Some(&name))?;
            here = inner;
            levels.push(look(&here, visitor, stop, &mut held)?);
            continue;
        }
        visitor.leave(&here, &level.stat)?;
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

/// Shows the files of a folder and lists its folders.
fn look(folder: &OwnedFd, visitor: &mut dyn Visitor, stop: &AtomicBool, held: &mut Held) -> io::Result<Level> {
    let mut folders = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        held.files += 1;
        if held.files > FILES_MAX || held.waiting > WAITING_MAX || stop.load(Ordering::Relaxed) {
            return Err(io::Error::new(io::ErrorKind::Interrupted, "there are too many files, or nobody waits"));
        }
        let stat = match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => continue,
            stat => stat?,
        };
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            held.waiting += name.to_bytes().len() + WAITING_EACH;
            folders.push(name.to_owned());
        } else {
            visitor.file(folder, name, &stat)?;
        }
    }
    Ok(Level { stat: fstat(folder)?, folders })
}

/// Runs `work` on a thread of its own when there is room. What it is handed is set when nobody waits for it any more.
pub(super) async fn with_room<T: Send + 'static>(
    work: impl FnOnce(&AtomicBool) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    struct SetOnDrop(Arc<AtomicBool>);
    impl Drop for SetOnDrop {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let place = ROOM.acquire().await.map_err(io::Error::other)?;
    let stop = SetOnDrop(Arc::default());
    let seen = Arc::clone(&stop.0);
    let done = tokio::task::spawn_blocking(move || {
        let _place = place;
        work(&seen)
    });
    done.await.map_err(io::Error::other)?
}

/// Bytes that the files below `top` take on the disk, folders included.
///
/// # Errors
/// What the kernel says. Files that change meanwhile are no error but make the number one of no moment.
pub(super) async fn measure(top: PathBuf) -> io::Result<u64> {
    with_room(move |stop| {
        let mut sum = Sum::default();
        walk(&top, &mut sum, stop)?;
        Ok(sum.bytes)
    })
    .await
}

/// Sizes of boxes' disks that it took a look at every file to find, for a while.
#[derive(Debug, Default)]
pub(super) struct Sizes(Mutex<HashMap<BoxId, (Instant, u64)>>);

impl Sizes {
    /// What `measure` says of the box's disk, or said not long ago.
    pub(super) async fn recall(&self, id: &BoxId, measure: impl Future<Output = io::Result<u64>>) -> io::Result<u64> {
        if let Some((at, bytes)) = self.known().get(id).copied()
            && at.elapsed() < SIZE_AGE
        {
            return Ok(bytes);
        }
        let bytes = measure.await?;
        let mut known = self.known();
        known.retain(|_, (at, _)| at.elapsed() < SIZE_AGE);
        known.insert(id.clone(), (Instant::now(), bytes));
        Ok(bytes)
    }

    fn known(&self) -> MutexGuard<'_, HashMap<BoxId, (Instant, u64)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
struct Sum {
    bytes: u64,
    linked: HashSet<u64>,
}

impl Sum {
    fn add(&mut self, stat: &Stat) {
        self.bytes = self.bytes.saturating_add(u64::try_from(stat.st_blocks).unwrap_or_default().saturating_mul(512));
    }
}

impl Visitor for Sum {
    fn enter(&mut self, _name: Option<&CStr>) -> io::Result<()> {
        Ok(())
    }

    fn file(&mut self, _folder: &OwnedFd, _name: &CStr, stat: &Stat) -> io::Result<()> {
        if stat.st_nlink == 1 || self.linked.insert(stat.st_ino) {
            self.add(stat);
        }
        Ok(())
    }

    fn leave(&mut self, _folder: &OwnedFd, stat: &Stat) -> io::Result<()> {
        self.add(stat);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_folder_of_millions_of_folders_is_not_held_in_memory() {
        let dir = tempfile::tempdir().unwrap();
        let make = |number: u32| std::fs::create_dir(dir.path().join(format!("{number:0200}"))).unwrap();
        (0..4000).for_each(make);
        measure(dir.path().to_owned()).await.unwrap();
        (4000..6000).for_each(make);
        assert_eq!(measure(dir.path().to_owned()).await.unwrap_err().kind(), io::ErrorKind::Interrupted);
    }
}
