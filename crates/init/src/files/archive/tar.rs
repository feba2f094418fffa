//! Tar archives: ustar with the extended headers of POSIX.1-2001 ("pax") where something does not fit, and GNU's form 1.0 of files with
//! holes, which every reader of today knows.

use std::io;

use rustix::fs::Stat;

use super::content::Content;
use super::{Packer, Target};

/// Bytes of a header, and what everything is filled up to.
const BLOCK: usize = 512;

/// The largest number of eleven octal digits: of a size, a time, ...
const ELEVEN: u64 = 0o777_7777_7777;

/// ... and of seven: of an owner.
const SEVEN: u64 = 0o777_7777;

/// Bytes of a name that fits into a header.
const NAME: usize = 100;

/// An archive that is being written.
pub struct Tar<W: Target> {
    to: W,
}

/// A header's fields.
struct Header<'a> {
    kind: u8,
    path: &'a [u8],
    target: &'a [u8],
    size: u64,
}

impl<W: Target> Tar<W> {
    /// An empty one.
    pub fn new(to: W) -> Self {
        Self { to }
    }

    /// Writes a header, and before it what does not fit into one. `records` are further such.
    fn header(&mut self, header: &Header<'_>, stat: &Stat, mut records: Vec<u8>) -> io::Result<()> {
        let (uid, gid) = (u64::from(stat.st_uid), u64::from(stat.st_gid));
        let time = stat.st_mtime;
        let mut texts = Vec::new();
        for (key, text) in [("path", header.path), ("linkpath", header.target)] {
            if text.len() > NAME {
                texts.push((key, text));
            }
        }
        if texts.iter().any(|(_, text)| std::str::from_utf8(text).is_err()) {
            // Extended headers are UTF-8 unless they say otherwise.
            record(&mut records, "hdrcharset", b"BINARY");
        }
        for (key, text) in texts {
            record(&mut records, key, text);
        }
        for (key, number, most) in [("size", header.size, ELEVEN), ("uid", uid, SEVEN), ("gid", gid, SEVEN)] {
            if number > most {
                record(&mut records, key, number.to_string().as_bytes());
            }
        }
        if u64::try_from(time).is_ok_and(|time| time > ELEVEN) || time < 0 {
            record(&mut records, "mtime", time.to_string().as_bytes());
        }
        if !records.is_empty() {
            let extended = Header { kind: b'x', path: b"././@PaxHeader", target: b"", size: records.len() as u64 };
            self.to.write_all(&block(&extended, 0o644, (0, 0), 0))?;
            self.to.write_all(&records)?;
            self.fill(records.len() as u64)?;
        }
        self.to.write_all(&block(header, stat.st_mode & 0o7777, (uid, gid), time))
    }

    /// Fills up the last block of `length` bytes.
    fn fill(&mut self, length: u64) -> io::Result<()> {
        let over = usize::try_from(length % BLOCK as u64).unwrap_or(0);
        if over == 0 { Ok(()) } else { self.to.write_all(&[0; BLOCK][over..]) }
    }
}

impl<W: Target> Packer for Tar<W> {
    fn folder(&mut self, path: &[u8], stat: &Stat) -> io::Result<()> {
        let path = [path, b"/"].concat();
        self.header(&Header { kind: b'5', path: &path, target: b"", size: 0 }, stat, Vec::new())
    }

    fn link(&mut self, path: &[u8], stat: &Stat, target: &[u8]) -> io::Result<()> {
        self.header(&Header { kind: b'2', path, target, size: 0 }, stat, Vec::new())
    }

    fn file(&mut self, path: &[u8], stat: &Stat, content: &mut Content) -> io::Result<()> {
        let Some(pieces) = content.pieces(stat) else {
            let size = content.size;
            self.header(&Header { kind: b'0', path, target: b"", size }, stat, Vec::new())?;
            content.copy(0, size, &mut self.to)?;
            return self.fill(size);
        };
        let mut map = format!("{}\n", pieces.len());
        for (offset, length) in &pieces {
            map.push_str(&format!("{offset}\n{length}\n"));
        }
        let mut map = map.into_bytes();
        map.resize(map.len().next_multiple_of(BLOCK), 0);
        let stored: u64 = pieces.iter().map(|(_, length)| length).sum();
        let mut records = Vec::new();
        record(&mut records, "GNU.sparse.major", b"1");
        record(&mut records, "GNU.sparse.minor", b"0");
        record(&mut records, "GNU.sparse.name", path);
        record(&mut records, "GNU.sparse.realsize", content.size.to_string().as_bytes());
        // Who does not know the form shall not take this for the file.
        let slash = path.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
        let (folder, name) = path.split_at(slash);
        let hidden = [folder, b"GNUSparseFile.0/", name].concat();
        let size = map.len() as u64 + stored;
        self.header(&Header { kind: b'0', path: &hidden, target: b"", size }, stat, records)?;
        self.to.write_all(&map)?;
        for (offset, length) in pieces {
            content.copy(offset, length, &mut self.to)?;
        }
        self.fill(stored)
    }

    fn same(&mut self, path: &[u8], stat: &Stat, first: &[u8]) -> io::Result<bool> {
        self.header(&Header { kind: b'1', path, target: first, size: 0 }, stat, Vec::new())?;
        Ok(true)
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        self.to.write_all(&[0; 2 * BLOCK])?;
        self.to.end()
    }
}

/// A header. What does not fit is cut, and said before.
fn block(header: &Header<'_>, mode: u32, (uid, gid): (u64, u64), time: i64) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let cut = |text: &'_ [u8]| text.len().min(NAME);
    block[..cut(header.path)].copy_from_slice(&header.path[..cut(header.path)]);
    block[157..157 + cut(header.target)].copy_from_slice(&header.target[..cut(header.target)]);
    octal(&mut block[100..108], u64::from(mode));
    octal(&mut block[108..116], uid.min(SEVEN));
    octal(&mut block[116..124], gid.min(SEVEN));
    octal(&mut block[124..136], header.size.min(ELEVEN));
    octal(&mut block[136..148], u64::try_from(time).unwrap_or(0).min(ELEVEN));
    block[148..156].fill(b' ');
    block[156] = header.kind;
    block[257..265].copy_from_slice(b"ustar\x0000");
    let sum = block.iter().map(|&byte| u64::from(byte)).sum();
    octal(&mut block[148..155], sum);
    block
}

/// Octal digits and a NUL.
fn octal(place: &mut [u8], number: u64) {
    let digits = place.len() - 1;
    place.copy_from_slice(format!("{number:0digits$o}\0").as_bytes());
}

/// Adds a record of an extended header, which begins with its own length.
fn record(to: &mut Vec<u8>, key: &str, value: &[u8]) {
    // Key, value, blank, equals sign and line end; and the digits of all that.
    let rest = key.len() + value.len() + 3;
    let mut length = rest;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    to.extend_from_slice(format!("{length} {key}=").as_bytes());
    to.extend_from_slice(value);
    to.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_itself() {
        for length in 0..2000 {
            let mut bytes = Vec::new();
            record(&mut bytes, "path", &vec![b'x'; length]);
            let text = String::from_utf8(bytes).expect("text");
            assert_eq!(text.split(' ').next().map(str::to_owned), Some(text.len().to_string()));
        }
    }
}
