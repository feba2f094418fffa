//! What the kernel says, as changes.

use std::collections::{HashMap, HashSet};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use boxyard_proto::files::{Change, ChangeKind, ENTRIES_MAX, PathText};
use rustix::fs::inotify::{ReadFlags, Reader};
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

use super::folders::Folders;
use crate::files::jail::{FOLDER, Jail, kind};
use crate::files::path::{Path, child};
use crate::files::refusal::Refusal;
use crate::files::tree::{Step, Tree};
use crate::files::write::is_hidden;

/// Bytes of what the kernel says that are read at once.
const BUFFER: usize = 64 * 1024;

/// Bytes of paths in an answer, counted as they are at the longest in JSON, at which no more are added.
const ANSWER: usize = 512 * 1024;

/// Changes that wait to be told at most; what is more is lost. Only new folders with much in them get there.
const WAITING_MAX: usize = 50_000;

/// The first half of a rename.
#[derive(Debug)]
struct Half {
    cookie: u32,
    path: Vec<u8>,
    is_dir: bool,
}

/// Something the kernel said.
#[derive(Debug)]
struct Event {
    number: i32,
    flags: ReadFlags,
    cookie: u32,
    name: Option<Vec<u8>>,
}

/// A folder that is watched.
#[derive(Debug)]
pub struct Watch<'a> {
    jail: &'a Jail,
    top: Path,
    /// The kernel's number of the folder itself.
    number: Option<i32>,
    recursive: bool,
    folders: Folders,
    waiting: Vec<Change>,
    /// What was said last of each path in what is waiting.
    latest: HashMap<Vec<u8>, ChangeKind>,
    /// Paths in new folders that were told when these were looked into; the kernel may tell of them too.
    told: HashSet<Vec<u8>>,
    halves: Vec<Half>,
    /// The rename of one of our own hidden files that is under way.
    ours: Option<u32>,
    lost: bool,
    gone: bool,
}

impl AsFd for Watch<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.folders.as_fd()
    }
}

impl<'a> Watch<'a> {
    /// Watches the folder at `path`.
    pub fn new(jail: &'a Jail, path: &Path, recursive: bool) -> Result<Self, Refusal> {
        let mut watch = Self {
            jail,
            top: path.clone(),
            number: None,
            recursive,
            folders: Folders::new()?,
            waiting: Vec::new(),
            latest: HashMap::new(),
            told: HashSet::new(),
            halves: Vec::new(),
            ours: None,
            lost: false,
            gone: false,
        };
        let folder = jail.open(path, FOLDER)?;
        watch.number = watch.folders.add(&folder, trimmed(path.bytes()))?;
        if watch.number.is_none() {
            return Err(Errno::NOSPC.into());
        }
        if recursive {
            watch.look_into(&folder, &trimmed(path.bytes()), false)?;
        }
        Ok(watch)
    }

    /// Whether some folders are not watched.
    pub fn is_lossy(&self) -> bool {
        self.folders.is_lossy
    }

    /// Whether the folder itself is gone.
    pub fn is_gone(&self) -> bool {
        self.gone
    }

    /// Whether a rename has begun and its second half has not come yet.
    pub fn waits_for_half(&self) -> bool {
        !self.halves.is_empty()
    }

    /// Hears what the kernel says. Returns whether there is more.
    pub fn hear(&mut self) -> Result<bool, Errno> {
        let mut buffer = vec![MaybeUninit::uninit(); BUFFER];
        let mut events = Vec::new();
        {
            let mut reader = Reader::new(&self.folders, &mut buffer);
            loop {
                match reader.next() {
                    Ok(event) => {
                        let name = event.file_name().map(|name| name.to_bytes().to_vec());
                        let (number, flags, cookie) = (event.wd(), event.events(), event.cookie());
                        events.push(Event { number, flags, cookie, name });
                    }
                    Err(Errno::AGAIN | Errno::INTR) => break,
                    Err(error) => return Err(error),
                }
                if reader.is_buffer_empty() {
                    break;
                }
            }
        }
        let is_any = !events.is_empty();
        for event in events {
            self.note(event);
        }
        Ok(is_any)
    }

    /// Nothing more comes for the moment: what has begun and not ended is what it is.
    pub fn settle(&mut self) {
        self.told.clear();
        for Half { path, is_dir, .. } in std::mem::take(&mut self.halves) {
            if is_dir {
                self.folders.drop_below(&path);
            }
            self.push(ChangeKind::Delete, &path, None, is_dir);
        }
    }

    /// The changes that come next, and whether some before them were lost.
    pub fn take(&mut self) -> Option<(Vec<Change>, bool)> {
        if self.waiting.is_empty() && !self.lost {
            return None;
        }
        self.latest.clear();
        let mut bytes = 0;
        let longest = |text: &PathText| 6 * crate::files::list::length(text);
        let count = self.waiting.iter().take(ENTRIES_MAX).take_while(|change| {
            bytes += longest(&change.path) + change.from.as_ref().map_or(0, longest);
            bytes < ANSWER
        });
        let count = count.count().max(1).min(self.waiting.len());
        Some((self.waiting.drain(..count).collect(), std::mem::take(&mut self.lost)))
    }

    fn note(&mut self, Event { number, flags, cookie, name }: Event) {
        if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
            self.lost = true;
            // New folders may have been among it.
            let path = trimmed(self.top.bytes());
            if self.recursive
                && self.jail.open(&self.top, FOLDER).and_then(|top| self.look_into(&top, &path, false)).is_err()
            {
                self.folders.is_lossy = true;
            }
            return;
        }
        if flags.contains(ReadFlags::IGNORED) {
            self.folders.forget(number);
            return;
        }
        let Some(name) = name else {
            if Some(number) == self.number
                && flags.intersects(ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::UNMOUNT)
            {
                self.gone = true;
                self.push(ChangeKind::Delete, &trimmed(self.top.bytes()), None, true);
            }
            return;
        };
        let Some(folder) = self.folders.path(number) else { return };
        let path = child(folder, &name);
        let is_dir = flags.contains(ReadFlags::ISDIR);
        if is_hidden(&name) {
            // A file of ours that takes the place of another is a change of that.
            if flags.contains(ReadFlags::MOVED_FROM) {
                self.ours = Some(cookie);
            }
        } else if flags.contains(ReadFlags::CREATE) {
            self.created(&path, is_dir);
        } else if flags.contains(ReadFlags::DELETE) {
            self.told.remove(&path);
            self.push(ChangeKind::Delete, &path, None, is_dir);
        } else if flags.contains(ReadFlags::MOVED_FROM) {
            self.halves.push(Half { cookie, path, is_dir });
        } else if flags.contains(ReadFlags::MOVED_TO) {
            if self.ours.take_if(|ours| *ours == cookie).is_some() {
                self.push(ChangeKind::Modify, &path, None, is_dir);
            } else if let Some(half) = self.halves.iter().position(|half| half.cookie == cookie) {
                let half = self.halves.remove(half);
                if is_dir {
                    self.folders.rename(&half.path, &path);
                }
                self.push(ChangeKind::Rename, &path, Some(&half.path), is_dir);
            } else {
                self.created(&path, is_dir);
            }
        } else if flags.intersects(ReadFlags::MODIFY | ReadFlags::ATTRIB) && !self.is_nameless(&name, &path) {
            self.push(ChangeKind::Modify, &path, None, is_dir);
        }
    }

    /// Whether this is what the kernel calls a file without a name that somebody writes.
    fn is_nameless(&self, name: &[u8], path: &[u8]) -> bool {
        name.starts_with(b"#")
            && Path::new(path.into()).and_then(|path| self.jail.open(&path, OFlags::PATH | OFlags::NOFOLLOW)).is_err()
    }

    fn created(&mut self, path: &[u8], is_dir: bool) {
        if self.told.remove(path) {
            // What is in it was told, and is watched, when the folder that it is in was looked into.
            return;
        }
        self.push(ChangeKind::Create, path, None, is_dir);
        if is_dir && self.recursive {
            // One that is gone again, or has become something else, has nothing in it.
            let watched = Path::new(path.into()).and_then(|at| {
                let folder = self.jail.open(&at, FOLDER | OFlags::NOFOLLOW)?;
                self.folders.add(&folder, path.to_vec())?;
                self.look_into(&folder, path, true)
            });
            if watched.is_err_and(|refusal| refusal != Errno::NOENT.into()) {
                self.lost = true;
            }
            self.lost |= self.folders.is_lossy;
        }
    }

    /// Watches the folders below one, and tells what is in them if they are `new`.
    fn look_into(&mut self, folder: &OwnedFd, path: &[u8], new: bool) -> Result<(), Refusal> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut tree = Tree::new(openat(folder, c".", flags, Mode::empty())?)?;
        while let Some(step) = tree.step()? {
            let Step::Entry { name, stat } = step else { continue };
            let at = child(path, tree.path());
            let is_dir = kind(&stat).is_dir();
            if new && !is_hidden(&name) {
                if self.told.len() < WAITING_MAX {
                    self.told.insert(at.clone());
                }
                self.push(ChangeKind::Create, &at, None, is_dir);
            }
            if is_dir {
                let place =
                    openat(tree.folder(), name.as_slice(), FOLDER | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
                // One that we may not read cannot be watched; one that is gone need not.
                if let Ok(place) = place
                    && (self.folders.add(&place, at).is_err() || tree.enter(&name).is_err())
                {
                    self.folders.is_lossy = true;
                }
            }
        }
        Ok(())
    }

    fn push(&mut self, kind: ChangeKind, path: &[u8], from: Option<&[u8]>, is_dir: bool) {
        if self.waiting.len() >= WAITING_MAX {
            self.lost = true;
            return;
        }
        let latest = self.latest.insert(path.to_vec(), kind);
        let is_known = kind == ChangeKind::Modify && matches!(latest, Some(ChangeKind::Modify | ChangeKind::Create));
        if !is_known {
            let from = from.map(PathText::new);
            self.waiting.push(Change { kind, path: PathText::new(path), from, is_dir });
        }
    }
}

/// A folder's path as what is below it is told.
fn trimmed(path: &[u8]) -> Vec<u8> {
    let mut path = path;
    while let [rest @ .., b'/'] | [rest @ .., b'/', b'.'] = path {
        path = rest;
    }
    path.to_vec()
}
