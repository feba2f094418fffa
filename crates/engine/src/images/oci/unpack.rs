//! Unpacking a layer: what an archive says becomes a [`Tree`], with whiteouts as overlay knows them.
//!
//! Runs in a thread of the server, as its user, and not in a process of its own: the archive and both compressions are read by safe Rust,
//! and the tree is reached by descriptors that cannot lead out of it. A process could do no less than that and would have to be root too.

use std::ffi::CString;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::ftruncate;

use super::decompress::{Allowance, Unpacked};
use super::reference::Digest;
use super::sparse::Piece;
use super::spool::check_ground;
use super::tar::{Archive, Entry, Kind};
use super::tree::{Dress, Path, Tree, dress_open, refused};

/// Ids in a box: see `UIDS_PER_BOX`.
pub(super) const ID_MAX: u32 = 65_535;

/// Before a name: this is gone (OCI image layer specification, "Whiteouts").
pub(super) const WHITEOUT: &[u8] = b".wh.";
/// Everything in this folder is gone.
pub(super) const OPAQUE: &[u8] = b".wh..wh..opq";
/// What the union file system that whiteouts come from keeps for itself.
const AUFS: &[u8] = b".wh..wh.";

/// What a program may do beyond its user.
pub(super) const CAPABILITY: &[u8] = b"security.capability";
/// Access control lists.
pub(super) const ACLS: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];
/// Overlay's own attributes, and those of an overlay in the box, as the one that shows the box its files keeps them (Linux 6.7).
pub(super) const OVERLAY: &[u8] = b"user.overlay.";
pub(super) const ESCAPED: &[u8] = b"user.overlay.overlay.";

/// Bytes of paths of folders that are kept to set their times at the end. Beyond it, times are those of the unpacking.
const KEPT_PATHS_MAX: usize = 64 << 20;

const BUFFER: usize = 128 * 1024;

/// Bytes that are written between looks at the room that is left.
const LOOK_EVERY: u64 = 16 << 20;

/// Bytes of a block of most file systems: what a file's last byte takes.
const DISK_BLOCK: u64 = 4096;

/// What unpacking did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Stats {
    pub entries: u64,
    /// Device nodes, which boxes have no use for.
    pub skipped: u64,
}

/// Bounds and how to be stopped.
#[derive(Debug)]
pub(super) struct Terms<'a> {
    pub allowance: Allowance,
    pub entries: u64,
    pub rules: Rules,
    /// Bytes that must be left free on the file system, if that is looked after.
    pub keep_free: Option<u64>,
    pub stop: &'a AtomicBool,
}

/// What is taken of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rules {
    /// What images need. Part of what layers of registries are: see `UNPACK_FORMAT`.
    Image,
    /// All that a box can have made: also access control lists, attributes for an overlay of its own, owner and mode of the root. Holes
    /// are as long as they like, since they take nothing.
    Snapshot,
}

/// Unpacks `source` into the empty folder `root`; what it unpacks to must hash to `diff_id`.
pub(super) fn unpack(source: impl Read, root: OwnedFd, diff_id: &Digest, terms: &Terms<'_>) -> io::Result<Stats> {
    let source = Unpacked::new(source, terms.allowance.clone())?;
    let mut work =
        Work { tree: Tree::new(root), times: Vec::new(), kept: 0, unseen: LOOK_EVERY, buffer: vec![0; BUFFER] };
    let mut archive = Archive::new(source);
    let mut stats = Stats::default();
    while let Some(entry) = archive.next()? {
        if terms.stop.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        stats.entries += 1;
        if stats.entries > terms.entries {
            let text = format!("the layer has more than {} entries", terms.entries);
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        if entry.kind == Kind::Device {
            stats.skipped += 1;
            continue;
        }
        let beyond = beyond(&entry);
        terms.allowance.take(beyond)?;
        work.spend(beyond.saturating_add(DISK_BLOCK), terms)?;
        work.take(&mut archive, entry, terms)?;
    }
    work.set_times();
    check(&archive.into_source().finish()?, diff_id)?;
    Ok(stats)
}

/// Whether a layer is what it should be.
pub(super) fn check(found: &Digest, diff_id: &Digest) -> io::Result<()> {
    if found == diff_id {
        return Ok(());
    }
    let text = format!("the layer unpacks to {found} and should to {diff_id}");
    Err(io::Error::new(io::ErrorKind::InvalidData, text))
}

/// Bytes that an entry takes on the disk and does not have in the archive: attributes that one header gives to all that follow, and blocks
/// that are begun for a few bytes of a file with holes.
fn beyond(entry: &Entry) -> u64 {
    let attributes: usize = entry.attributes.iter().map(|(name, value)| name.len() + value.len()).sum();
    let begun = |piece: &Piece| {
        let end = piece.offset.saturating_add(piece.length);
        let blocks = end.div_ceil(DISK_BLOCK).saturating_sub(piece.offset / DISK_BLOCK);
        blocks.saturating_mul(DISK_BLOCK).saturating_sub(piece.length)
    };
    // A file without holes takes a block more than it has, as everything does.
    let blocks =
        if entry.pieces.len() > 1 { entry.pieces.iter().filter(|piece| piece.length > 0).map(begun).sum() } else { 0 };
    blocks.saturating_add(attributes as u64)
}

struct Work {
    tree: Tree,
    times: Vec<(Path, (i64, u32))>,
    kept: usize,
    /// Bytes that were written since the room was looked at.
    unseen: u64,
    buffer: Vec<u8>,
}

impl Work {
    /// Counts what is written and looks at the room that is left, now and then: others write at the same time, and how much a file takes is
    /// the file system's to say.
    fn spend(&mut self, bytes: u64, terms: &Terms<'_>) -> io::Result<()> {
        self.unseen = self.unseen.saturating_add(bytes);
        match terms.keep_free {
            Some(keep_free) if self.unseen >= LOOK_EVERY => {
                self.unseen = 0;
                check_ground(self.tree.root(), keep_free)
            }
            Some(_) | None => Ok(()),
        }
    }

    fn take<R: Read>(&mut self, archive: &mut Archive<R>, entry: Entry, terms: &Terms<'_>) -> io::Result<()> {
        let path = Path::parse(&entry.path)?;
        if let Some(name) = path.name().map(|name| name.as_bytes())
            && name.starts_with(WHITEOUT)
        {
            return self.hide(&path, name, &entry.path);
        }
        let dress = dress(&entry, terms.rules)?;
        match &entry.kind {
            Kind::Folder if path.name().is_none() => {
                if terms.rules == Rules::Snapshot {
                    self.tree.dress_root(&dress)?;
                }
                self.times.push((path, dress.modified));
                Ok(())
            }
            Kind::Folder => {
                self.tree.make_folder(&path, &dress)?;
                self.kept += entry.path.len() + size_of::<Path>();
                if self.kept <= KEPT_PATHS_MAX {
                    self.times.push((path, dress.modified));
                }
                Ok(())
            }
            Kind::File => {
                let file = self.tree.make_file(&path)?;
                self.fill(archive, &file, &entry, terms)?;
                dress_open(&file, &dress, &path)
            }
            Kind::Symlink(target) if target.is_empty() => Err(refused(&entry.path, "is a link to nothing")),
            Kind::Symlink(target) => self.tree.make_symlink(&path, target, &dress),
            Kind::HardLink(target) => self.tree.make_hard_link(&path, &Path::parse(target)?),
            Kind::Fifo => self.tree.make_fifo(&path, &dress),
            Kind::Device => Ok(()),
        }
    }

    fn hide(&mut self, path: &Path, name: &[u8], whole: &[u8]) -> io::Result<()> {
        if name == OPAQUE {
            return self.tree.hide_all_in(&path.folder());
        }
        if name.starts_with(AUFS) {
            return Ok(());
        }
        let hidden = &name[WHITEOUT.len()..];
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(refused(whole, "hides nothing that could be there"));
        }
        let hidden = CString::new(hidden).map_err(|_| refused(whole, "has a NUL"))?;
        self.tree.hide(&path.with_name(hidden))
    }

    fn fill<R: Read>(
        &mut self,
        archive: &mut Archive<R>,
        file: &OwnedFd,
        entry: &Entry,
        terms: &Terms<'_>,
    ) -> io::Result<()> {
        let stored: u64 = entry.pieces.iter().map(|piece| piece.length).sum();
        // What is stored counts when it is read.
        if terms.rules == Rules::Image {
            terms.allowance.take(entry.size.saturating_sub(stored))?;
        }
        if stored != entry.size {
            ftruncate(file, entry.size)?;
        }
        for piece in &entry.pieces {
            let (mut offset, mut left) = (piece.offset, piece.length);
            while left > 0 {
                if terms.stop.load(Ordering::Relaxed) {
                    return Err(io::ErrorKind::Interrupted.into());
                }
                let most = usize::try_from(left).map_or(BUFFER, |left| left.min(BUFFER));
                let count = archive.read(&mut self.buffer[..most])?;
                if count == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                let mut rest = &self.buffer[..count];
                while !rest.is_empty() {
                    let written = rustix::io::pwrite(file, rest, offset)?;
                    rest = &rest[written..];
                    offset += written as u64;
                }
                left -= count as u64;
                self.spend(count as u64, terms)?;
            }
        }
        Ok(())
    }

    /// Only times are set here, so none of it changes another.
    fn set_times(&mut self) {
        for (path, modified) in std::mem::take(&mut self.times) {
            self.tree.set_folder_time(&path, modified);
        }
    }
}

fn dress(entry: &Entry, rules: Rules) -> io::Result<Dress> {
    let id = |id: u64| match u32::try_from(id) {
        Ok(small) if small <= ID_MAX => Ok(small),
        _ => Err(refused(&entry.path, &format!("belongs to {id}; boxes have the ids 0 to {ID_MAX}"))),
    };
    let attributes = entry.attributes.iter().filter_map(|(name, value)| attribute(name, value, rules));
    Ok(Dress {
        mode: entry.mode,
        uid: id(entry.uid)?,
        gid: id(entry.gid)?,
        modified: entry.modified,
        attributes: attributes.collect(),
    })
}

/// The extended attributes that are kept: capabilities of programs, and those of users, but for overlay's own, by which a layer could
/// make other files appear under its names.
fn attribute(name: &[u8], value: &[u8], rules: Rules) -> Option<(String, Vec<u8>)> {
    let text = str::from_utf8(name).ok().filter(|name| !name.contains('\0') && name.len() <= 255)?;
    if name == CAPABILITY {
        return Some((text.to_owned(), capabilities(value)?));
    }
    if let Some(rest) = name.strip_prefix(OVERLAY) {
        let escaped = || [ESCAPED, rest].concat();
        let kept = rules == Rules::Snapshot && !rest.is_empty();
        return kept.then(|| Some((String::from_utf8(escaped()).ok()?, value.to_vec()))).flatten();
    }
    if ACLS.contains(&name) {
        return (rules == Rules::Snapshot && is_acl(value)).then(|| (text.to_owned(), value.to_vec()));
    }
    (text.starts_with("user.") && text.len() > 5).then(|| (text.to_owned(), value.to_vec()))
}

/// Whether this is an access control list that names nobody but the users and groups of a box: four bytes of a version, then for each entry
/// a tag, permissions and an id (`posix_acl_xattr.h` of the kernel).
fn is_acl(value: &[u8]) -> bool {
    const VERSION: [u8; 4] = 2_u32.to_le_bytes();
    const USER: u16 = 0x02;
    const GROUP: u16 = 0x08;
    let Some(entries) = value.strip_prefix(&VERSION) else { return false };
    let (entries, rest) = entries.as_chunks::<8>();
    let known = |entry: &[u8; 8]| {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
        !matches!(tag, USER | GROUP) || id <= ID_MAX
    };
    rest.is_empty() && entries.iter().all(known)
}

/// A program's capabilities in the form that counts for the root of whoever sees the file (`VFS_CAP_REVISION_2` of the kernel's
/// `capability.h`). The third form names one user namespace by its root, which only makes sense when that is root itself.
fn capabilities(value: &[u8]) -> Option<Vec<u8>> {
    const REVISION_2: u8 = 0x02;
    const REVISION_3: u8 = 0x03;
    match (value.get(3)?, value.len()) {
        (&REVISION_2, 20) => Some(value.to_vec()),
        (&REVISION_3, 24) if value[20..] == [0; 4] => {
            let mut second = value[..20].to_vec();
            second[3] = REVISION_2;
            Some(second)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
