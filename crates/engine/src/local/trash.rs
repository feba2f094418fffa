//! Folders that are being deleted.
//!
//! A box's files may be a million, and they are hostile: deep, oddly named, full of links. So a folder is first renamed into the
//! trash, which is done at once, and then deleted there in the background. What a crash leaves is deleted at the next start.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, renameat, unlinkat};
use rustix::io::Errno;
use tokio::sync::{Mutex, Notify};

/// The folder of folders to delete.
#[derive(Debug)]
pub(super) struct Trash {
    folder: PathBuf,
    filled: Notify,
    /// Held while the folder is emptied: two at once would miss each other's files.
    emptying: Mutex<()>,
}

impl Trash {
    /// Uses `folder`, which must be on one file system with what is thrown into it.
    pub(super) fn new(folder: PathBuf) -> Arc<Self> {
        Arc::new(Self { folder, filled: Notify::new(), emptying: Mutex::new(()) })
    }

    /// Throws `path` away; one that is not there is gone already.
    pub(super) fn throw(&self, path: &Path) -> io::Result<()> {
        let name = format!("{:016x}", rand::random::<u64>());
        match fs::rename(path, self.folder.join(name)) {
            Ok(()) => {
                self.filled.notify_one();
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Empties the trash whenever something is thrown into it, for ever. To be run by one task at a time.
    pub(super) async fn sweep(self: Arc<Self>) {
        loop {
            if let Err(error) = self.empty().await {
                tracing::warn!(%error, "deleting the files of removed boxes; trying again later");
            }
            self.filled.notified().await;
        }
    }

    /// Empties the trash now.
    pub(super) async fn empty(&self) -> io::Result<()> {
        let _emptying = self.emptying.lock().await;
        let folder = self.folder.clone();
        tokio::task::spawn_blocking(move || empty(&folder)).await.map_err(io::Error::other)?
    }
}

/// Deletes everything in `folder`, however deep: with a fixed number of open files and without recursion, since depth is the box's
/// choice. A folder's own folders are moved up beside it before it is deleted. Never follows a link.
fn empty(folder: &Path) -> io::Result<()> {
    let top = openat(CWD, folder, FOLDER, Mode::empty())?;
    // What cannot be deleted must not keep the rest.
    let mut failed = None;
    let mut moved = 0u64;
    loop {
        let mut progress = false;
        for name in folders_after_files(&top, &mut failed)? {
            match flatten(&top, &name, &mut moved) {
                Ok(()) => progress = true,
                Err(errno) => failed = Some(errno),
            }
        }
        if !progress {
            return failed.map_or(Ok(()), |errno| Err(errno.into()));
        }
    }
}

const FOLDER: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC).union(OFlags::RDONLY);

/// How many names are held in memory at once.
const BATCH: usize = 4096;

/// Deletes the folder `name` of `top` after moving its folders into `top`.
fn flatten(top: &OwnedFd, name: &std::ffi::CStr, moved: &mut u64) -> Result<(), Errno> {
    match unlinkat(top, name, AtFlags::REMOVEDIR) {
        Err(Errno::NOTEMPTY | Errno::EXIST) => {}
        other => return other,
    }
    let folder = openat(top, name, FOLDER, Mode::empty())?;
    loop {
        let mut failed = None;
        let folders = folders_after_files(&folder, &mut failed)?;
        if let Some(errno) = failed {
            return Err(errno);
        }
        if folders.is_empty() {
            return unlinkat(top, name, AtFlags::REMOVEDIR);
        }
        for inner in folders {
            if unlinkat(&folder, &inner, AtFlags::REMOVEDIR).is_err() {
                *moved += 1;
                renameat(&folder, &inner, top, format!("{:016x}.{moved}", rand::random::<u64>()))?;
            }
        }
    }
}

/// Deletes all in `folder` that is no folder, and names up to [`BATCH`] folders in it.
fn folders_after_files(folder: &OwnedFd, failed: &mut Option<Errno>) -> Result<Vec<std::ffi::CString>, Errno> {
    let mut folders = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        if entry.file_type() != FileType::Directory {
            match unlinkat(folder, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => continue,
                // The kind was not known to the file system.
                Err(Errno::ISDIR) => {}
                Err(errno) => {
                    *failed = Some(errno);
                    continue;
                }
            }
        }
        folders.push(name.to_owned());
        if folders.len() == BATCH {
            break;
        }
    }
    Ok(folders)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[tokio::test]
    async fn whatever_a_box_leaves_is_deleted_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let (bin, precious) = (dir.path().join("trash"), dir.path().join("precious"));
        fs::create_dir(&bin).unwrap();
        fs::create_dir(&precious).unwrap();
        fs::write(precious.join("file"), "kept").unwrap();

        let upper = dir.path().join("upper");
        fs::create_dir_all(upper.join("odd \n name/empty")).unwrap();
        fs::write(upper.join("odd \n name/file"), "x").unwrap();
        symlink(&precious, upper.join("link")).unwrap();
        symlink(&precious, upper.join("odd \n name/link")).unwrap();
        for number in 0..5000 {
            fs::create_dir_all(upper.join(format!("many/{number}/sub"))).unwrap();
        }
        // Deeper than any stack, any limit of open files and any path.
        let mut deepest = openat(CWD, &upper, FOLDER, Mode::empty()).unwrap();
        for _ in 0..20_000 {
            rustix::fs::mkdirat(&deepest, "d", Mode::from(0o700)).unwrap();
            deepest = openat(&deepest, "d", FOLDER, Mode::empty()).unwrap();
        }
        drop(deepest);

        let trash = Trash::new(bin.clone());
        trash.throw(&upper).unwrap();
        assert!(!upper.exists());
        trash.throw(&upper).expect("what is gone is gone");
        trash.empty().await.unwrap();
        assert_eq!(fs::read_dir(&bin).unwrap().count(), 0);
        assert_eq!(fs::read_to_string(precious.join("file")).unwrap(), "kept");
    }
}
