//! Reading tar archives (POSIX.1-2001 pax, ustar, and what GNU tar adds), one entry after the other, with a bound on everything.
//!
//! Our own because layers are hostile: names, links and extended headers are bounded before they are held in memory, and there is exactly
//! one meaning of a size. Where an archive is ambiguous it is refused.

use std::io::{self, Read};

use super::pax::{Pax, Stored};
use super::sparse::{self, Piece};

pub(super) const BLOCK: usize = 512;

/// Bytes of a path at most (the kernel's `PATH_MAX`).
pub(super) const PATH_MAX: usize = 4096;

/// Bytes of one extended header at most.
pub(super) const EXTENDED_MAX: u64 = 1024 * 1024;

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    /// Another name of what is at this path of the archive.
    HardLink(Vec<u8>),
    /// The target is any text.
    Symlink(Vec<u8>),
    Folder,
    Fifo,
    /// A device node.
    Device,
}

/// One entry, without its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub path: Vec<u8>,
    pub kind: Kind,
    /// Permission bits with set-user-id and the like.
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    /// Seconds since 1970, and nanoseconds.
    pub modified: (i64, u32),
    /// Extended attributes.
    pub attributes: Vec<(Vec<u8>, Vec<u8>)>,
    /// Bytes of the file.
    pub size: u64,
    /// Where in the file the bytes of the archive belong, in rising order; the rest are holes.
    pub pieces: Vec<Piece>,
}

/// An archive that is being read.
pub(super) struct Archive<R> {
    source: R,
    /// Bytes of the current entry's content that have not been read, and those that fill its last block up.
    left: u64,
    padding: u64,
    global: Pax,
    ended: bool,
}

fn bad(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the layer is no proper tar archive: {}", text.into()))
}

impl<R: Read> Archive<R> {
    pub fn new(source: R) -> Self {
        Self { source, left: 0, padding: 0, global: Pax::default(), ended: false }
    }

    /// What is left of the source, after the archive's end.
    pub fn into_source(self) -> R {
        self.source
    }

    /// The next entry. What was not read of the one before is skipped.
    pub fn next(&mut self) -> io::Result<Option<Entry>> {
        self.skip()?;
        let mut pax: Option<Pax> = None;
        let (mut long_path, mut long_link) = (None, None);
        loop {
            let Some(header) = self.header()? else {
                if pax.is_some() || long_path.is_some() || long_link.is_some() {
                    return Err(bad("it ends between a header and what the header belongs to"));
                }
                return Ok(None);
            };
            let size = number(&header[124..136])?;
            match header[156] {
                b'x' => {
                    if pax.is_some() {
                        return Err(bad("two extended headers in a row"));
                    }
                    let text = self.extended(size)?;
                    pax = Some(Pax::parse(&text, self.global.clone()).map_err(bad)?);
                }
                b'g' => {
                    let text = self.extended(size)?;
                    self.global = Pax::parse(&text, std::mem::take(&mut self.global)).map_err(bad)?;
                    if self.global.says_what_an_entry_is() {
                        return Err(bad("a global header that names a path, a size or a map of holes"));
                    }
                }
                b'L' => long_path = Some(self.long(size)?),
                b'K' => long_link = Some(self.long(size)?),
                _ => {
                    let pax = pax.unwrap_or_else(|| self.global.clone());
                    return self.entry(&header, size, pax, long_path, long_link).map(Some);
                }
            }
        }
    }

    /// Reads some of the current entry's bytes of the archive.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        if most == 0 {
            return Ok(0);
        }
        let count = self.source.read(&mut buffer[..most])?;
        if count == 0 {
            return Err(bad("it ends in the middle of a file"));
        }
        self.left -= count as u64;
        Ok(count)
    }

    fn skip(&mut self) -> io::Result<()> {
        let rest = self.left.saturating_add(self.padding);
        (self.left, self.padding) = (0, 0);
        let skipped = io::copy(&mut Read::by_ref(&mut self.source).take(rest), &mut io::sink())?;
        if skipped == rest { Ok(()) } else { Err(bad("it ends in the middle of a file")) }
    }

    /// The next header; nothing at the end, which is a block of zeros or of nothing.
    fn header(&mut self) -> io::Result<Option<[u8; BLOCK]>> {
        if self.ended {
            return Ok(None);
        }
        let mut block = [0; BLOCK];
        let mut have = 0;
        while have < BLOCK {
            match self.source.read(&mut block[have..])? {
                0 if have == 0 => {
                    self.ended = true;
                    return Ok(None);
                }
                0 => return Err(bad("it ends in the middle of a header")),
                count => have += count,
            }
        }
        if block.iter().all(|byte| *byte == 0) {
            self.ended = true;
            return Ok(None);
        }
        let sum = |signed: bool| -> i64 {
            let value = |(index, byte): (usize, &u8)| match index {
                148..156 => 32,
                _ if signed => i64::from(byte.cast_signed()),
                _ => i64::from(*byte),
            };
            block.iter().enumerate().map(value).sum()
        };
        // Old programs summed signed bytes.
        let told = octal(&block[148..156]).and_then(|told| i64::try_from(told).ok());
        if told.is_none_or(|told| told != sum(false) && told != sum(true)) {
            return Err(bad("a header's checksum is wrong"));
        }
        Ok(Some(block))
    }

    fn extended(&mut self, size: u64) -> io::Result<Vec<u8>> {
        if size > EXTENDED_MAX {
            return Err(bad(format!("an extended header of {size} bytes; at most {EXTENDED_MAX} are read")));
        }
        self.set_content(size)?;
        let mut text = Vec::new();
        let mut buffer = [0; 8192];
        loop {
            match self.read(&mut buffer)? {
                0 => break,
                count => text.extend_from_slice(&buffer[..count]),
            }
        }
        self.skip()?;
        Ok(text)
    }

    /// GNU's way of storing a name that is too long for its field.
    fn long(&mut self, size: u64) -> io::Result<Vec<u8>> {
        if size > PATH_MAX as u64 + 1 {
            return Err(bad(format!("a name of {size} bytes")));
        }
        let mut text = self.extended(size)?;
        if text.last() == Some(&0) {
            text.pop();
        }
        Ok(text)
    }

    fn set_content(&mut self, size: u64) -> io::Result<()> {
        if size > i64::MAX.unsigned_abs() {
            return Err(bad("a file that is longer than files can be"));
        }
        self.left = size;
        self.padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
        Ok(())
    }

    fn entry(
        &mut self,
        header: &[u8; BLOCK],
        size: u64,
        pax: Pax,
        long_path: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> io::Result<Entry> {
        let posix = header[257..263] == *b"ustar\0";
        let stored = pax.size.unwrap_or(size);
        let type_flag = header[156];
        let gnu_sparse = type_flag == b'S';
        // Links, folders and nodes have no content; those of old programs that say otherwise mean the file linked to.
        let with_content = matches!(type_flag, 0 | b'0' | b'7') || gnu_sparse;
        self.set_content(if with_content { stored } else { 0 })?;
        let has_more = gnu_sparse && header[482] != 0;
        let mut maps = Vec::new();
        if gnu_sparse {
            sparse::old_map(&header[386..482], &mut maps).map_err(bad)?;
            let mut more = has_more;
            while more {
                // Blocks of the map come before the content and are not part of its size.
                let mut block = [0; BLOCK];
                self.source.read_exact(&mut block).map_err(|_| bad("it ends in the middle of a map of holes"))?;
                sparse::old_map(&block[..504], &mut maps).map_err(bad)?;
                more = block[504] != 0;
            }
        }
        let path = match (pax.path, long_path) {
            (Some(path), _) | (None, Some(path)) => path,
            (None, None) => {
                let name = text(&header[..100]);
                let prefix = if posix { text(&header[345..500]) } else { &[] };
                if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
            }
        };
        let link = pax.link.or(long_link).unwrap_or_else(|| text(&header[157..257]).to_vec());
        if path.len() > PATH_MAX || link.len() >= PATH_MAX || path.contains(&0) || link.contains(&0) {
            return Err(bad("a path that is longer than paths can be, or has a NUL"));
        }
        let (size, pieces) = match pax.stored {
            Stored::Whole if gnu_sparse => (number(&header[483..495])?, maps),
            Stored::Whole => (if with_content { stored } else { 0 }, vec![Piece { offset: 0, length: stored }]),
            Stored::Sparse { size, map: Some(map) } => (size, map),
            Stored::Sparse { size, map: None } => {
                let (map, taken) = sparse::leading_map(&mut |buffer| self.read(buffer))?;
                debug_assert!(taken % BLOCK as u64 == 0, "the map fills whole blocks");
                (size, map)
            }
        };
        if with_content {
            sparse::check(&pieces, size, self.left).map_err(bad)?;
        }
        let kind = match type_flag {
            // Before POSIX, a folder was a file with a slash at its end.
            0 | b'0' | b'7' if path.ends_with(b"/") => Kind::Folder,
            0 | b'0' | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink(link),
            b'2' => Kind::Symlink(link),
            b'3' | b'4' => Kind::Device,
            b'5' => Kind::Folder,
            b'6' => Kind::Fifo,
            other => return Err(bad(format!("an entry of the unknown type {:?}", char::from(other)))),
        };
        let mode = u32::try_from(number(&header[100..108])? & 0o7777).unwrap_or_default();
        Ok(Entry {
            path: pax.name.unwrap_or(path),
            kind,
            mode,
            uid: pax.uid.map_or_else(|| number(&header[108..116]), Ok)?,
            gid: pax.gid.map_or_else(|| number(&header[116..124]), Ok)?,
            modified: match pax.modified {
                Some(modified) => modified,
                None => (signed(&header[136..148])?, 0),
            },
            attributes: pax.attributes.into_iter().collect(),
            size,
            pieces,
        })
    }
}

/// A field up to its first NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Digits between blanks and NULs; an empty field is 0.
fn octal(field: &[u8]) -> Option<u64> {
    let text = text(field).trim_ascii();
    if text.is_empty() {
        return Some(0);
    }
    if !text.iter().all(|byte| matches!(byte, b'0'..=b'7')) {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(text).ok()?, 8).ok()
}

/// A number: octal, or binary as GNU tar stores big ones.
pub(super) fn number(field: &[u8]) -> io::Result<u64> {
    u64::try_from(signed(field)?).map_err(|_| bad("a number that is negative"))
}

fn signed(field: &[u8]) -> io::Result<i64> {
    let wrong = || bad("a number that is none");
    match field.first() {
        Some(first) if first & 0x80 != 0 => {
            let negative = first & 0x40 != 0;
            let mut value: i128 = if negative { -1 } else { 0 };
            for (index, byte) in field.iter().enumerate() {
                let byte = match (index, negative) {
                    (0, false) => byte & 0x7f,
                    _ => *byte,
                };
                if value.unsigned_abs() >> 100 != 0 {
                    return Err(wrong());
                }
                value = (value << 8) | i128::from(byte);
            }
            i64::try_from(value).map_err(|_| wrong())
        }
        _ => octal(field).and_then(|value| i64::try_from(value).ok()).ok_or_else(wrong),
    }
}
