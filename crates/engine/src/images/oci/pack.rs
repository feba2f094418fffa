//! Packing a tree as a layer: what [`unpack`](super::unpack) makes of a layer, the other way round.
//!
//! | in the tree | in the archive |
//! |---|---|
//! | character device 0/0 | an empty file `.wh.NAME`: what lies below is gone |
//! | `user.overlay.opaque` | a file `.wh..wh..opq` in the folder: all that lies below is gone |
//! | other attributes of overlay's | nothing, they mean something on this file system only |
//! | `user.overlay.overlay.X` | `user.overlay.X`, as which the box sees it |
//! | holes of files | holes |
//! | sockets and devices | nothing; no archive of files has them |

use std::collections::HashMap;
use std::ffi::CStr;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FileType, Mode, OFlags, SeekFrom, Stat, fgetxattr, flistxattr, openat, readlinkat, seek};
use rustix::io::Errno;

use super::pax::ATTRIBUTES_MAX;
use super::scan::{Visitor, scan};
use super::sparse::{PIECES_MAX, Piece};
use super::unpack::{ACLS, CAPABILITY, ESCAPED, ID_MAX, OPAQUE, OVERLAY, WHITEOUT};
use super::write::{self, Head, Kind, begin, fill, shown};

const BUFFER: usize = 256 * 1024;

/// Bytes that an attribute, or the list of them, has at most; the kernel's own limit.
const ATTRIBUTE_MAX: usize = 64 * 1024;

/// Bytes of paths of files with several names that are kept to find the others by, and about what keeping each takes besides.
const LINKS_MAX: usize = 64 << 20;
const LINKS_EACH: usize = 64;

/// Bounds, and how to be stopped.
#[derive(Debug)]
pub(super) struct Terms<'a> {
    /// Bytes of files.
    pub bytes: u64,
    pub entries: u64,
    pub stop: &'a AtomicBool,
}

/// What packing did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Stats {
    /// Bytes of files.
    pub bytes: u64,
    /// Sockets and devices.
    pub left_out: u64,
}

/// Packs `tree` into `out`, uncompressed. Nothing may change in it meanwhile.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`] for what no archive can hold; else what the kernel says.
pub(super) fn pack(tree: &Path, out: &mut dyn Write, terms: &Terms<'_>) -> io::Result<Stats> {
    let mut pack = Pack {
        out,
        terms,
        stats: Stats::default(),
        links: HashMap::new(),
        links_bytes: 0,
        buffer: vec![0; BUFFER],
        device: None,
    };
    scan(tree, &mut pack, terms.entries, terms.stop)?;
    let stats = pack.stats;
    write::end(&mut pack.out)?;
    Ok(stats)
}

struct Pack<'a> {
    out: &'a mut dyn Write,
    terms: &'a Terms<'a>,
    stats: Stats,
    /// The first name of each file with several.
    links: HashMap<u64, Vec<u8>>,
    links_bytes: usize,
    buffer: Vec<u8>,
    /// The tree's. A tree has no other: what is mounted in it is not a part of it.
    device: Option<u64>,
}

fn cannot(path: &[u8], why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{:?} {why}", shown(path)))
}

impl Pack<'_> {
    fn begin(
        &mut self,
        path: &[u8],
        kind: Kind<'_>,
        stat: &Stat,
        attributes: &[(Vec<u8>, Vec<u8>)],
    ) -> io::Result<u64> {
        if stat.st_uid > ID_MAX || stat.st_gid > ID_MAX {
            return Err(cannot(path, "belongs to somebody whom no box knows"));
        }
        let head = Head {
            path,
            kind,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            modified: (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or_default()),
            attributes,
        };
        begin(&mut self.out, &head)
    }

    /// An empty file that says what is gone.
    fn mark(&mut self, path: &[u8]) -> io::Result<()> {
        let head = Head { path, kind: Kind::File(0), mode: 0, uid: 0, gid: 0, modified: (0, 0), attributes: &[] };
        begin(&mut self.out, &head).map(drop)
    }

    fn regular(&mut self, path: &[u8], folder: &OwnedFd, name: &CStr, stat: &Stat) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(folder, name, flags, Mode::empty())?;
        let size = u64::try_from(stat.st_size).unwrap_or_default();
        let (attributes, _) = attributes(&file, path)?;
        let pieces = pieces(&file, stat, size)?;
        let kind = if pieces == [Piece { offset: 0, length: size }] || size == 0 {
            Kind::File(size)
        } else {
            Kind::Sparse(size, &pieces)
        };
        let stored = self.begin(path, kind, stat, &attributes)?;
        self.stats.bytes = self.stats.bytes.saturating_add(stored);
        if self.stats.bytes > self.terms.bytes {
            let text = format!("there are more than {} bytes in it, and so many are packed at most", self.terms.bytes);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        for piece in &pieces {
            self.copy(&file, *piece, path)?;
        }
        fill(&mut self.out, stored)
    }

    fn copy(&mut self, file: &OwnedFd, piece: Piece, path: &[u8]) -> io::Result<()> {
        let (mut at, mut left) = (piece.offset, piece.length);
        while left > 0 {
            if self.terms.stop.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let most = usize::try_from(left).map_or(BUFFER, |left| left.min(BUFFER));
            let count = rustix::io::pread(file, &mut self.buffer[..most], at)?;
            if count == 0 {
                return Err(io::Error::other(format!("{:?} changed while it was packed", shown(path))));
            }
            self.out.write_all(&self.buffer[..count])?;
            at += count as u64;
            left -= count as u64;
        }
        Ok(())
    }

    /// The first name of a file that has been met before under another; else remembers this one.
    fn first_name(&mut self, path: &[u8], stat: &Stat) -> io::Result<Option<Vec<u8>>> {
        if let Some(first) = self.links.get(&stat.st_ino) {
            return Ok(Some(first.clone()));
        }
        self.links_bytes += path.len() + LINKS_EACH;
        if self.links_bytes > LINKS_MAX {
            return Err(cannot(path, "is one of too many files with several names for an archive"));
        }
        self.links.insert(stat.st_ino, path.to_vec());
        Ok(None)
    }
}

impl Visitor for Pack<'_> {
    fn folder(&mut self, path: &[u8], folder: &OwnedFd, stat: &Stat) -> io::Result<()> {
        if *self.device.get_or_insert(stat.st_dev) != stat.st_dev {
            return Err(io::Error::other("something is mounted in the tree"));
        }
        if path.rsplit(|byte| *byte == b'/').next().is_some_and(|name| name.starts_with(WHITEOUT)) {
            return Err(cannot(path, "has a name that means a deleted file in an archive"));
        }
        let (attributes, opaque) = attributes(folder, path)?;
        let path = if path.is_empty() { b"./".to_vec() } else { [path, b"/"].concat() };
        self.begin(&path, Kind::Folder, stat, &attributes)?;
        if opaque {
            self.mark(&[path.as_slice(), OPAQUE].concat())?;
        }
        Ok(())
    }

    fn file(&mut self, path: &[u8], folder: &OwnedFd, name: &CStr, stat: &Stat) -> io::Result<()> {
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::CharacterDevice && stat.st_rdev == 0 {
            let (above, name) = path.split_at(path.len() - name.to_bytes().len());
            return self.mark(&[above, WHITEOUT, name].concat());
        }
        if name.to_bytes().starts_with(WHITEOUT) {
            return Err(cannot(path, "has a name that means a deleted file in an archive"));
        }
        if stat.st_nlink > 1
            && matches!(kind, FileType::RegularFile | FileType::Symlink | FileType::Fifo)
            && let Some(first) = self.first_name(path, stat)?
        {
            return self.begin(path, Kind::HardLink(&first), stat, &[]).map(drop);
        }
        match kind {
            FileType::RegularFile => self.regular(path, folder, name, stat),
            FileType::Symlink => {
                let target = readlinkat(folder, name, Vec::new())?;
                self.begin(path, Kind::Symlink(target.as_bytes()), stat, &[]).map(drop)
            }
            FileType::Fifo => self.begin(path, Kind::Fifo, stat, &[]).map(drop),
            FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Directory
            | FileType::Unknown => {
                self.stats.left_out += 1;
                Ok(())
            }
        }
    }
}

/// Names and values.
type Attributes = Vec<(Vec<u8>, Vec<u8>)>;

/// The attributes of a file or folder that archives hold, in the order of their names, and whether overlay takes the folder for opaque.
fn attributes(file: impl AsFd, path: &[u8]) -> io::Result<(Attributes, bool)> {
    let mut list = vec![0; ATTRIBUTE_MAX];
    let length = match flistxattr(&file, &mut list[..]) {
        Err(Errno::OPNOTSUPP) | Ok(0) => return Ok((Vec::new(), false)),
        listed => listed?,
    };
    let (mut found, mut opaque) = (Vec::new(), false);
    let mut value = vec![0; ATTRIBUTE_MAX];
    for raw in list[..length].split_inclusive(|byte| *byte == 0) {
        let Ok(raw) = CStr::from_bytes_with_nul(raw) else { continue };
        let name = raw.to_bytes();
        let escaped = name.strip_prefix(ESCAPED);
        let known = name.starts_with(b"user.") || name == CAPABILITY || ACLS.contains(&name);
        if !known || str::from_utf8(name).is_err() {
            continue;
        }
        let length = fgetxattr(&file, raw, &mut value[..])?;
        let value = &value[..length];
        if escaped.is_none() && name.starts_with(OVERLAY) {
            opaque |= name == b"user.overlay.opaque" && value == b"y";
            continue;
        }
        let name = escaped.map_or_else(|| name.to_vec(), |rest| [OVERLAY, rest].concat());
        found.push((name, value.to_vec()));
        if found.len() > ATTRIBUTES_MAX {
            return Err(cannot(path, "has more extended attributes than an archive can hold"));
        }
    }
    found.sort_unstable();
    Ok((found, opaque))
}

/// Where a file has bytes: between them are holes. One piece for a file without holes.
fn pieces(file: &OwnedFd, stat: &Stat, size: u64) -> io::Result<Vec<Piece>> {
    let on_disk = u64::try_from(stat.st_blocks).unwrap_or_default().saturating_mul(512);
    if on_disk >= size {
        return Ok(vec![Piece { offset: 0, length: size }]);
    }
    let mut pieces: Vec<Piece> = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            // Nothing but a hole is left.
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = seek(file, SeekFrom::Hole(start))?.min(size);
        pieces.push(Piece { offset: start, length: end.saturating_sub(start) });
        at = end.max(start + 1);
        // One more is to come at the end.
        if pieces.len() >= PIECES_MAX - 1 {
            pieces = pieces.chunks(2).map(joined).collect();
        }
    }
    if pieces.last().is_none_or(|last| last.offset + last.length < size) {
        // Says how long it is, as GNU tar does.
        pieces.push(Piece { offset: size, length: 0 });
    }
    Ok(pieces)
}

/// One piece for these, with the holes in between as zeros.
fn joined(pieces: &[Piece]) -> Piece {
    let offset = pieces.first().map_or(0, |piece| piece.offset);
    let end = pieces.last().map_or(offset, |piece| piece.offset + piece.length);
    Piece { offset, length: end - offset }
}
