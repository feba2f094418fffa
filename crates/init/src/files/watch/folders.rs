//! Which folders are watched.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use boxyard_proto::files::WATCH_MAX;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;

use crate::guard::by_descriptor;

/// The folders that are watched.
#[derive(Debug)]
pub struct Folders {
    inotify: OwnedFd,
    /// Their paths, by the kernel's numbers.
    paths: HashMap<i32, Vec<u8>>,
    /// Some folders are not watched.
    pub is_lossy: bool,
}

impl AsFd for Folders {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

impl Folders {
    /// None yet.
    pub fn new() -> Result<Self, Errno> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        Ok(Self { inotify, paths: HashMap::new(), is_lossy: false })
    }

    /// Watches a folder. Returns the kernel's number of it, none if there is no room for one more.
    pub fn add(&mut self, folder: impl AsFd, path: Vec<u8>) -> Result<Option<i32>, Errno> {
        if self.paths.len() >= WATCH_MAX {
            self.is_lossy = true;
            return Ok(None);
        }
        let what = WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MODIFY
            | WatchFlags::ATTRIB
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR
            | WatchFlags::EXCL_UNLINK;
        match inotify::add_watch(&self.inotify, by_descriptor(folder), what) {
            Ok(number) => {
                self.paths.insert(number, path);
                Ok(Some(number))
            }
            Err(Errno::NOSPC) => {
                self.is_lossy = true;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The path of a folder.
    pub fn path(&self, number: i32) -> Option<&[u8]> {
        self.paths.get(&number).map(Vec::as_slice)
    }

    /// The kernel watches a folder no more.
    pub fn forget(&mut self, number: i32) {
        self.paths.remove(&number);
    }

    /// A folder has another path now, and so has what is below it.
    pub fn rename(&mut self, from: &[u8], to: &[u8]) {
        for path in self.paths.values_mut() {
            if let Some(rest) = below(path, from) {
                *path = [to, rest].concat();
            }
        }
    }

    /// A folder is of no more interest, nor is what is below it.
    pub fn drop_below(&mut self, path: &[u8]) {
        let gone: Vec<i32> =
            self.paths.iter().filter(|(_, its)| below(its, path).is_some()).map(|(&number, _)| number).collect();
        for number in gone {
            self.paths.remove(&number);
            // It may be gone already.
            let _ = inotify::remove_watch(&self.inotify, number);
        }
    }
}

/// What `path` says below `folder`, with its slash; nothing for the folder itself.
fn below<'a>(path: &'a [u8], folder: &[u8]) -> Option<&'a [u8]> {
    path.strip_prefix(folder).filter(|rest| matches!(rest.first(), None | Some(b'/')))
}
