//! Reading tar archives: ustar, with the extended headers of POSIX.1-2001 ("pax") and GNU's long names, and its form 1.0 of files with
//! holes. Any bytes are entries, or an archive that is damaged.

use std::io::BufRead;

use boxyard_proto::files::PATH_MAX;

use super::damaged;
use crate::files::refusal::Refusal;

/// Bytes of a header, and what everything is filled up to.
const BLOCK: usize = 512;

/// Bytes of an extended header, of a map of holes, or of a long name, at most.
const EXTENDED_MAX: u64 = 1024 * 1024;

/// Entries of an archive at most.
const ENTRIES_MAX: u64 = 5_000_000;

/// An entry of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its path as it is written there.
    pub path: Vec<u8>,
    /// What it is.
    pub what: What,
    /// Permission bits.
    pub mode: u32,
    /// Seconds since 1970 of its last change.
    pub modified: i64,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A file. Its content is to be read before the next entry, or else is skipped.
    File {
        /// Bytes, holes included.
        size: u64,
        /// Where there is content, as offsets and lengths in order, if there are holes.
        pieces: Option<Vec<(u64, u64)>>,
    },
    /// A folder.
    Folder,
    /// A symbolic link, and where it leads.
    Link(Vec<u8>),
    /// One more name of what is at this path in the archive.
    Same(Vec<u8>),
    /// What we do not make: a device, a FIFO, something newer.
    Other,
}

/// What was said before an entry about it.
#[derive(Debug, Default)]
struct Said {
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    size: Option<u64>,
    modified: Option<i64>,
    /// The form of a file with holes, its own size and name.
    sparse: [Option<u64>; 2],
    real_size: Option<u64>,
    real_path: Option<Vec<u8>>,
    /// Older forms, which we do not read.
    is_old_sparse: bool,
}

/// An archive that is being read.
#[derive(Debug)]
pub struct Entries<R> {
    from: R,
    /// Bytes of the current entry's content that are not read yet, and what it is filled up with.
    left: u64,
    fill: u64,
    count: u64,
}

impl<R: BufRead> Entries<R> {
    /// The archive that comes from here.
    pub fn new(from: R) -> Self {
        Self { from, left: 0, fill: 0, count: 0 }
    }

    /// The next entry; none at the end, after which nothing is read.
    pub fn next(&mut self) -> Result<Option<Entry>, Refusal> {
        let mut said = Said::default();
        loop {
            self.skip()?;
            self.count += 1;
            if self.count > ENTRIES_MAX {
                return Err(Refusal::invalid("the archive has too many entries"));
            }
            let Some(block) = self.block()? else { return Ok(None) };
            if block.iter().all(|&byte| byte == 0) {
                return Ok(None);
            }
            let header = Header(&block);
            header.check()?;
            let size = header.number(124, 12).ok_or_else(wrong)?;
            let kind = header.byte(156);
            match kind {
                b'x' => {
                    let records = self.extended(size)?;
                    said.add(&records)?;
                }
                b'L' => said.path = Some(self.long(size)?),
                b'K' => said.target = Some(self.long(size)?),
                // What holds for all entries: nothing that we need.
                b'g' => self.begin(size)?,
                _ => return self.entry(&header, kind, size, said).map(Some),
            }
        }
    }

    fn entry(&mut self, header: &Header<'_>, kind: u8, size: u64, said: Said) -> Result<Entry, Refusal> {
        let size = said.size.unwrap_or(size);
        let has_content = !matches!(kind, b'1'..=b'6');
        self.begin(if has_content { size } else { 0 })?;
        let is_sparse = said.sparse == [Some(1), Some(0)];
        if kind == b'S' || said.is_old_sparse || (said.sparse != [None; 2] && !is_sparse) {
            return Err(Refusal::invalid("the archive has a file with holes in a form that is not supported"));
        }
        let target = said.target.unwrap_or_else(|| header.text(157, 100).to_vec());
        let path = said.real_path.filter(|_| is_sparse).or(said.path).unwrap_or_else(|| header.path());
        if path.len() >= PATH_MAX || target.len() >= PATH_MAX {
            return Err(Refusal::invalid("the archive has a path that is too long"));
        }
        let what = match kind {
            // Before POSIX, folders were files whose name ends so.
            b'0' | 0 | b'7' if path.ends_with(b"/") => What::Folder,
            b'0' | 0 | b'7' if is_sparse => {
                let size = said.real_size.ok_or_else(wrong)?;
                What::File { size, pieces: Some(self.map(size)?) }
            }
            b'0' | 0 | b'7' => What::File { size, pieces: None },
            b'1' => What::Same(target),
            b'2' => What::Link(target),
            b'5' => What::Folder,
            _ => What::Other,
        };
        let mode = u32::try_from(header.number(100, 8).unwrap_or(0o644) & 0o7777).unwrap_or(0o644);
        let modified = said.modified.or_else(|| header.number(136, 12).and_then(|time| i64::try_from(time).ok()));
        Ok(Entry { path, what, mode, modified: modified.unwrap_or(0) })
    }

    /// Shows what has come of the current entry's content; empty at its end.
    pub fn content(&mut self) -> Result<&[u8], Refusal> {
        if self.left == 0 {
            return Ok(&[]);
        }
        let there = self.from.fill_buf().map_err(damaged)?;
        if there.is_empty() {
            return Err(wrong());
        }
        let count = usize::try_from(self.left).unwrap_or(usize::MAX).min(there.len());
        Ok(there.get(..count).unwrap_or_default())
    }

    /// Takes as much of what [`Self::content`] showed.
    pub fn take(&mut self, count: usize) {
        self.from.consume(count);
        self.left = self.left.saturating_sub(count as u64);
    }

    /// Begins content of `size` bytes.
    fn begin(&mut self, size: u64) -> Result<(), Refusal> {
        let whole = size.checked_next_multiple_of(BLOCK as u64).ok_or_else(wrong)?;
        (self.left, self.fill) = (size, whole - size);
        Ok(())
    }

    /// Skips what is left of the content.
    fn skip(&mut self) -> Result<(), Refusal> {
        self.left = self.left.checked_add(std::mem::take(&mut self.fill)).ok_or_else(wrong)?;
        loop {
            let count = self.content()?.len();
            if count == 0 {
                return Ok(());
            }
            self.take(count);
        }
    }

    /// The next block; none where the archive ends without saying so.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, Refusal> {
        if self.from.fill_buf().map_err(damaged)?.is_empty() {
            return Ok(None);
        }
        let mut block = [0; BLOCK];
        self.from.read_exact(&mut block).map_err(damaged)?;
        Ok(Some(block))
    }

    /// Content that says something about the next entry.
    fn extended(&mut self, size: u64) -> Result<Vec<u8>, Refusal> {
        if size > EXTENDED_MAX {
            return Err(Refusal::invalid("the archive has an extended header that is too long"));
        }
        self.begin(size)?;
        let mut bytes = Vec::new();
        loop {
            let piece = self.content()?;
            if piece.is_empty() {
                return Ok(bytes);
            }
            bytes.extend_from_slice(piece);
            let count = piece.len();
            self.take(count);
        }
    }

    /// GNU's long names.
    fn long(&mut self, size: u64) -> Result<Vec<u8>, Refusal> {
        let mut name = self.extended(size)?;
        let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
        name.truncate(end);
        Ok(name)
    }

    /// The map of a file with holes, which its content begins with.
    fn map(&mut self, size: u64) -> Result<Vec<(u64, u64)>, Refusal> {
        let mut read = 0;
        let mut number = || -> Result<u64, Refusal> {
            let mut digits = Vec::new();
            loop {
                let &byte = self.content()?.first().ok_or_else(wrong)?;
                self.take(1);
                read += 1;
                if read > EXTENDED_MAX || digits.len() > 20 {
                    return Err(wrong());
                }
                if byte == b'\n' {
                    return std::str::from_utf8(&digits).ok().and_then(|text| text.parse().ok()).ok_or_else(wrong);
                }
                digits.push(byte);
            }
        };
        let count = number()?;
        let (mut pieces, mut end) = (Vec::new(), 0);
        for _ in 0..count {
            let (offset, length) = (number()?, number()?);
            if offset < end {
                return Err(wrong());
            }
            end = offset.checked_add(length).filter(|end| *end <= size).ok_or_else(wrong)?;
            pieces.push((offset, length));
        }
        // The rest of the block.
        let mut rest = usize::try_from(read.next_multiple_of(BLOCK as u64) - read).unwrap_or(0);
        while rest > 0 {
            let count = self.content()?.len().min(rest);
            if count == 0 {
                return Err(wrong());
            }
            self.take(count);
            rest -= count;
        }
        let stored: u64 = pieces.iter().map(|(_, length)| length).sum();
        if stored == self.left { Ok(pieces) } else { Err(wrong()) }
    }
}

impl Said {
    /// Adds the records of an extended header. Those that we do not know are skipped.
    fn add(&mut self, mut records: &[u8]) -> Result<(), Refusal> {
        while !records.is_empty() {
            let blank = records.iter().take(20).position(|&byte| byte == b' ').ok_or_else(wrong)?;
            let length = number(&records[..blank]).and_then(|length| usize::try_from(length).ok());
            let length = length.filter(|length| (blank + 2..=records.len()).contains(length)).ok_or_else(wrong)?;
            let record = records.get(blank + 1..length - 1).ok_or_else(wrong)?;
            let equals = record.iter().position(|&byte| byte == b'=').ok_or_else(wrong)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            if value.contains(&0) {
                return Err(wrong());
            }
            self.note(key, value)?;
            records = &records[length..];
        }
        Ok(())
    }

    fn note(&mut self, key: &[u8], value: &[u8]) -> Result<(), Refusal> {
        let digits = || number(value).map(Some).ok_or_else(wrong);
        match key {
            // An empty value takes back what was said before, as POSIX has it.
            b"path" => self.path = Some(value.to_vec()).filter(|value| !value.is_empty()),
            b"linkpath" => self.target = Some(value.to_vec()).filter(|value| !value.is_empty()),
            b"size" => self.size = digits()?,
            b"mtime" => {
                let whole = value.split(|&byte| byte == b'.').next().unwrap_or_default();
                self.modified = std::str::from_utf8(whole).ok().and_then(|text| text.parse().ok());
            }
            b"GNU.sparse.major" => self.sparse[0] = digits()?,
            b"GNU.sparse.minor" => self.sparse[1] = digits()?,
            b"GNU.sparse.realsize" => self.real_size = digits()?,
            b"GNU.sparse.name" => self.real_path = Some(value.to_vec()),
            b"GNU.sparse.map" | b"GNU.sparse.numblocks" => self.is_old_sparse = true,
            _ => {}
        }
        Ok(())
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    // `parse` would take a plus sign.
    let is_number = digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits).ok().filter(|_| is_number)?.parse().ok()
}

/// The fields of a header.
struct Header<'a>(&'a [u8; BLOCK]);

impl Header<'_> {
    fn field(&self, at: usize, length: usize) -> &[u8] {
        self.0.get(at..at + length).unwrap_or_default()
    }

    fn byte(&self, at: usize) -> u8 {
        self.0.get(at).copied().unwrap_or(0)
    }

    /// A text, which ends with a NUL or its field.
    fn text(&self, at: usize, length: usize) -> &[u8] {
        let field = self.field(at, length);
        let end = field.iter().position(|&byte| byte == 0).unwrap_or(length);
        &field[..end]
    }

    fn path(&self) -> Vec<u8> {
        let prefix = if self.field(257, 6) == b"ustar\0" { self.text(345, 155) } else { b"" };
        if prefix.is_empty() { self.text(0, 100).to_vec() } else { [prefix, b"/", self.text(0, 100)].concat() }
    }

    /// A number in octal digits, or as GNU has it, in bytes, where it is too large for them.
    fn number(&self, at: usize, length: usize) -> Option<u64> {
        let field = self.field(at, length);
        if let [0x80, bytes @ ..] = field {
            return bytes
                .iter()
                .try_fold(0_u64, |number, &byte| number.checked_mul(256).map(|number| number | u64::from(byte)));
        }
        let digits = field.trim_ascii_start();
        let end = digits.iter().position(|&byte| matches!(byte, 0 | b' ')).unwrap_or(digits.len());
        digits[..end].iter().try_fold(0_u64, |number, &byte| match byte {
            b'0'..=b'7' => number.checked_mul(8).map(|number| number | u64::from(byte - b'0')),
            _ => None,
        })
    }

    /// Refuses what is no header.
    fn check(&self) -> Result<(), Refusal> {
        let sum = |value: fn(u8) -> i64| -> i64 {
            let blank = |at: usize, byte: u8| if (148..156).contains(&at) { b' ' } else { byte };
            self.0.iter().enumerate().map(|(at, &byte)| value(blank(at, byte))).sum()
        };
        let said = self.number(148, 8).and_then(|sum| i64::try_from(sum).ok());
        // Old programs have summed up signed bytes.
        if said == Some(sum(i64::from)) || said == Some(sum(|byte| i64::from(byte.cast_signed()))) {
            Ok(())
        } else {
            Err(Refusal::invalid("this is no tar archive, or a damaged one"))
        }
    }
}

fn wrong() -> Refusal {
    Refusal::invalid("the archive is damaged or ends too early")
}
