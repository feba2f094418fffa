//! Folders and files as archives, made while they are sent.
//!
//! What an archive says of a file before its content is kept, whatever happens to the file meanwhile: what is missing is filled up with
//! zeros, what is too much is left out.

pub(super) mod content;
mod tar;
mod zip;

use std::collections::HashMap;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use boxyard_proto::files::{Answer, Format, PathText};
use flate2::Compression;
use flate2::write::GzEncoder;
use rustix::fs::{FileType, Mode, OFlags, Stat, fstat, openat, readlinkat};

use self::content::Content;
use self::tar::Tar;
use self::zip::Zip;
use super::channel::Channel;
use super::jail::{Jail, kind, read_place};
use super::path::{Path, parts};
use super::refusal::Refusal;
use super::session::{Done, Outcome};
use super::stat;
use super::tree::{Identity, Step, Tree};

/// Files with more than one name that are remembered at most; those beyond are stored as often as they are met.
const SAME_MAX: usize = 100_000;

/// How hard gzip and zip try: fast, because somebody waits for it.
const LEVEL: u32 = 3;

/// What writes a form of archive. Paths are relative, without a slash at the end.
trait Packer {
    /// Adds a folder.
    fn folder(&mut self, path: &[u8], stat: &Stat) -> io::Result<()>;
    /// Adds a link.
    fn link(&mut self, path: &[u8], stat: &Stat, target: &[u8]) -> io::Result<()>;
    /// Adds a file.
    fn file(&mut self, path: &[u8], stat: &Stat, content: &mut Content) -> io::Result<()>;
    /// Adds one more name of the file that is in the archive as `first`. False where the form knows no such thing.
    fn same(&mut self, path: &[u8], stat: &Stat, first: &[u8]) -> io::Result<bool>;
    /// Ends the archive.
    fn finish(self: Box<Self>) -> io::Result<()>;
}

/// Content that is sent.
struct Sent<'c, 'a>(&'c mut Channel<'a>);

impl Write for Sent<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.put(bytes).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What an archive is written to, which may have an end of its own.
trait Target: Write {
    /// Nothing more comes.
    fn end(&mut self) -> io::Result<()>;
}

impl Target for Sent<'_, '_> {
    fn end(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<W: Write> Target for GzEncoder<W> {
    fn end(&mut self) -> io::Result<()> {
        self.try_finish()
    }
}

/// Tells what is at `path` as an archive.
pub fn archive(jail: &Jail, path: &PathText, format: Format, channel: &mut Channel<'_>) -> Outcome {
    let (top, stat, name) = match top(jail, path) {
        Ok(top) => top,
        Err(refusal) => return Ok(Err(refusal)),
    };
    channel.say(&Answer::Opened { stat, length: None })?;
    let sent = Sent(channel);
    let packer: Box<dyn Packer + '_> = match format {
        Format::Tar => Box::new(Tar::new(sent)),
        Format::TarGz => Box::new(Tar::new(GzEncoder::new(sent, Compression::new(LEVEL)))),
        Format::Zip => Box::new(Zip::new(sent)),
    };
    let mut packing = Packing { packer, known: HashMap::new(), truncated: false };
    let packed = match top {
        Top::Folder(mut tree) => packing.all(&mut tree)?,
        Top::File(place) => packing.file(&name, &place)?,
    };
    packing.packer.finish()?;
    let truncated = packing.truncated;
    Ok(packed.map(|()| Done { truncated }))
}

/// What is packed.
enum Top {
    Folder(Tree),
    File(OwnedFd),
}

fn top(jail: &Jail, path: &PathText) -> Result<(Top, boxyard_proto::files::Stat, Vec<u8>), Refusal> {
    let path = Path::try_from(path)?;
    let place = jail.open(&path, OFlags::PATH)?;
    let stat = fstat(&place)?;
    let name = parts(path.bytes()).next_back().unwrap_or_default().to_vec();
    let top = match kind(&stat) {
        FileType::Directory => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            Top::Folder(Tree::new(openat(&place, c".", flags, Mode::empty())?)?)
        }
        FileType::RegularFile => {
            // That it cannot be read is said at once.
            read_place(&place)?;
            Top::File(place)
        }
        FileType::Symlink
        | FileType::Fifo
        | FileType::Socket
        | FileType::CharacterDevice
        | FileType::BlockDevice
        | FileType::Unknown => return Err(Refusal::special()),
    };
    Ok((top, stat::told(&stat), name))
}

struct Packing<'a> {
    packer: Box<dyn Packer + 'a>,
    /// Files with more than one name, by what they are, as they are called in the archive.
    known: HashMap<Identity, Vec<u8>>,
    truncated: bool,
}

impl Packing<'_> {
    fn all(&mut self, tree: &mut Tree) -> io::Result<Result<(), Refusal>> {
        loop {
            let (name, stat) = match tree.step() {
                Ok(Some(Step::Entry { name, stat })) => (name, stat),
                Ok(Some(Step::End)) => continue,
                Ok(None) => break,
                Err(refusal) => return Ok(Err(refusal)),
            };
            match kind(&stat) {
                FileType::Directory => {
                    self.packer.folder(tree.path(), &stat)?;
                    self.truncated |= tree.enter(&name).is_err();
                }
                FileType::RegularFile => self.named_file(tree, &name, &stat)?,
                FileType::Symlink => match readlinkat(tree.folder(), name.as_slice(), Vec::new()) {
                    Ok(target) => self.packer.link(tree.path(), &stat, target.as_bytes())?,
                    Err(_) => self.truncated = true,
                },
                FileType::Fifo
                | FileType::Socket
                | FileType::CharacterDevice
                | FileType::BlockDevice
                | FileType::Unknown => self.truncated = true,
            }
        }
        self.truncated |= tree.truncated;
        Ok(Ok(()))
    }

    fn named_file(&mut self, tree: &Tree, name: &[u8], stat: &Stat) -> io::Result<()> {
        let has_more_names = stat.st_nlink > 1;
        if has_more_names
            && let Some(first) = self.known.get(&Identity::from(stat))
            && self.packer.same(tree.path(), stat, first)?
        {
            return Ok(());
        }
        match place(tree.folder(), name) {
            Ok(place) => {
                let stored = self.file(tree.path(), &place)?;
                self.truncated |= stored.is_err();
                if stored.is_ok() && has_more_names && self.known.len() < SAME_MAX {
                    self.known.insert(Identity::from(stat), tree.path().to_vec());
                }
            }
            Err(_) => self.truncated = true,
        }
        Ok(())
    }

    /// Adds the file at `place`, whose content is opened now.
    fn file(&mut self, path: &[u8], place: &OwnedFd) -> io::Result<Result<(), Refusal>> {
        let (fd, stat) = match read_place(place) {
            Ok(opened) => opened,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let mut content = Content::new(fd, &stat);
        self.packer.file(path, &stat, &mut content)?;
        self.truncated |= content.is_short;
        Ok(Ok(()))
    }
}

/// The place `name` in a folder, without following a link.
fn place(folder: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Refusal> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(folder.as_fd(), name, flags, Mode::empty())?)
}
