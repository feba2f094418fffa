//! Writing tar archives: POSIX.1-2001 pax, as everybody reads it and as [`tar`](super::tar) does. The same entries always make the same bytes.

use std::io::{self, Write};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::sparse::Piece;
use super::tar::{BLOCK, EXTENDED_MAX, PATH_MAX};

/// The largest number of eleven octal digits.
const OCTAL_11: u64 = 0o777_7777_7777;

/// What is to be written of one file, folder or link.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head<'a> {
    /// From the root of the archive, without a slash at its beginning.
    pub path: &'a [u8],
    pub kind: Kind<'a>,
    /// Permission bits with set-user-id and the like.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds since 1970, and nanoseconds.
    pub modified: (i64, u32),
    /// Extended attributes, in their order.
    pub attributes: &'a [(Vec<u8>, Vec<u8>)],
}

/// What it is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind<'a> {
    /// A file of this many bytes, which follow.
    File(u64),
    /// A file of this many bytes, of which only these pieces follow; there is nothing but zeros in between.
    Sparse(u64, &'a [Piece]),
    HardLink(&'a [u8]),
    Symlink(&'a [u8]),
    Folder,
    Fifo,
}

/// A header of a file whose size may be of any length, for an archive of files with short names.
pub(super) fn plain_header(path: &str, type_flag: u8, size: u64) -> [u8; BLOCK] {
    let mode = if type_flag == b'5' { 0o755 } else { 0o644 };
    header(path.as_bytes(), type_flag, mode, 0, 0, 0, size, b"")
}

/// Zeros that fill the last block of `size` bytes.
pub(super) fn padding(size: u64) -> usize {
    // Less than a block.
    usize::try_from(size.next_multiple_of(BLOCK as u64) - size).unwrap_or_default()
}

/// Writes an entry but for its content, which the caller writes next, and then [`fill`]. Says how many bytes the content has.
///
/// # Errors
/// The entry cannot be stored, and which it is; or what `out` says.
pub(super) fn begin(out: &mut impl Write, head: &Head<'_>) -> io::Result<u64> {
    let cannot = |why: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("{:?} {why}", shown(head.path)));
    if head.path.len() > PATH_MAX {
        return Err(cannot("has a path that is too long for an archive"));
    }
    let mut records = Records::default();
    let (type_flag, link, mut size, mut map) = match head.kind {
        Kind::File(size) => (b'0', &b""[..], size, Vec::new()),
        Kind::Sparse(size, pieces) => {
            records.add(b"GNU.sparse.major", b"1");
            records.add(b"GNU.sparse.minor", b"0");
            records.add(b"GNU.sparse.name", head.path);
            records.add(b"GNU.sparse.realsize", size.to_string().as_bytes());
            (b'0', &b""[..], pieces.iter().map(|piece| piece.length).sum(), sparse_map(pieces))
        }
        Kind::HardLink(target) => (b'1', target, 0, Vec::new()),
        Kind::Symlink(target) => (b'2', target, 0, Vec::new()),
        Kind::Folder => (b'5', &b""[..], 0, Vec::new()),
        Kind::Fifo => (b'6', &b""[..], 0, Vec::new()),
    };
    if link.len() >= PATH_MAX {
        return Err(cannot("is a link to a path that is too long for an archive"));
    }
    let content = size;
    size += map.len() as u64;
    let fits = |text: &[u8]| text.len() <= 100 && text.is_ascii();
    let sparse = matches!(head.kind, Kind::Sparse(..));
    if !sparse && !fits(head.path) {
        records.add(b"path", head.path);
    }
    if !fits(link) {
        records.add(b"linkpath", link);
    }
    if size > OCTAL_11 {
        records.add(b"size", size.to_string().as_bytes());
    }
    let (seconds, nanoseconds) = head.modified;
    let in_header = u64::try_from(seconds).ok().filter(|seconds| *seconds <= OCTAL_11);
    if nanoseconds != 0 || in_header.is_none() {
        records.add(b"mtime", time(seconds, nanoseconds).as_bytes());
    }
    for (name, value) in head.attributes {
        if name.contains(&b'=') {
            // A key ends at the first of these. As libarchive writes such names.
            let key = [b"LIBARCHIVE.xattr.", percent_encoded(name).as_slice()].concat();
            records.add(&key, BASE64_STANDARD.encode(value).as_bytes());
        } else {
            records.add(&[b"SCHILY.xattr.", name.as_slice()].concat(), value);
        }
    }
    if !records.text.is_empty() {
        if str::from_utf8(head.path).is_err() || str::from_utf8(link).is_err() {
            // Else readers may take what follows for UTF-8, as they must.
            records.text.splice(0..0, record(b"hdrcharset", b"BINARY"));
        }
        let text = records.text;
        if text.len() as u64 > EXTENDED_MAX {
            return Err(cannot("has more extended attributes than an archive can hold"));
        }
        out.write_all(&header(b"PaxHeader", b'x', 0o644, 0, 0, 0, text.len() as u64, b""))?;
        out.write_all(&text)?;
        fill(out, text.len() as u64)?;
    }
    let name = if sparse { b"GNUSparseFile.0/file" } else { head.path };
    let in_field = if size > OCTAL_11 { 0 } else { size };
    let mtime = in_header.unwrap_or_default();
    out.write_all(&header(name, type_flag, head.mode, head.uid, head.gid, mtime, in_field, link))?;
    out.write_all(&map)?;
    map.clear();
    Ok(content)
}

/// Fills the last block of content of `size` bytes up.
pub(super) fn fill(out: &mut impl Write, size: u64) -> io::Result<()> {
    out.write_all(&[0; BLOCK][..padding(size)])
}

/// Ends the archive.
pub(super) fn end(out: &mut impl Write) -> io::Result<()> {
    out.write_all(&[0; 2 * BLOCK])
}

/// Extended records.
#[derive(Default)]
struct Records {
    text: Vec<u8>,
}

impl Records {
    fn add(&mut self, key: &[u8], value: &[u8]) {
        self.text.extend(record(key, value));
    }
}

/// `LENGTH KEY=VALUE\n`, whose length counts itself.
fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length.to_string().len() + rest != length {
        length += 1;
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

/// The map before the content (GNU tar's format 1.0), in whole blocks.
fn sparse_map(pieces: &[Piece]) -> Vec<u8> {
    let mut map = format!("{}\n", pieces.len()).into_bytes();
    for piece in pieces {
        map.extend(format!("{}\n{}\n", piece.offset, piece.length).bytes());
    }
    map.resize(map.len().next_multiple_of(BLOCK), 0);
    map
}

fn time(seconds: i64, nanoseconds: u32) -> String {
    match (seconds, nanoseconds) {
        (_, 0) => seconds.to_string(),
        (0.., _) => format!("{seconds}.{nanoseconds:09}"),
        // -1 second and 0.75 of the next is -0.25.
        _ => format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanoseconds),
    }
}

fn percent_encoded(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for byte in name {
        match byte {
            b'%' | b'=' => out.extend(format!("%{byte:02X}").bytes()),
            byte => out.push(*byte),
        }
    }
    out
}

/// Text from a box, fit for a message.
pub(super) fn shown(text: &[u8]) -> String {
    String::from_utf8_lossy(text).chars().filter(|c| !c.is_control()).take(200).collect()
}

#[expect(clippy::too_many_arguments, reason = "the fields of a header")]
fn header(
    path: &[u8],
    type_flag: u8,
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: u64,
    size: u64,
    link: &[u8],
) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, length: usize, text: &[u8]| {
        let length = text.len().min(length);
        block[at..at + length].copy_from_slice(&text[..length]);
    };
    let octal = |digits: usize, value: u64| format!("{value:0digits$o}").into_bytes();
    put(0, 100, path);
    put(100, 7, &octal(7, u64::from(mode & 0o7777)));
    put(108, 7, &octal(7, u64::from(uid)));
    put(116, 7, &octal(7, u64::from(gid)));
    if size > OCTAL_11 {
        // As GNU tar has it: the first bit says that the rest is the number itself.
        put(124, 1, &[0x80]);
        put(128, 8, &size.to_be_bytes());
    } else {
        put(124, 11, &octal(11, size));
    }
    put(136, 11, &octal(11, mtime));
    put(156, 1, &[type_flag]);
    put(157, 100, link);
    put(257, 8, b"ustar\x0000");
    put(148, 8, b"        ");
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    let text = format!("{sum:06o}\0 ");
    block[148..156].copy_from_slice(text.as_bytes());
    block
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::super::tar::{Archive, Kind as Found};
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let long = [b"d/".repeat(100).as_slice(), b"\xff\xfename"].concat();
        let attributes = [(b"user.a=b%".to_vec(), b"x\ny\0z".to_vec()), (b"user.c".to_vec(), Vec::new())];
        let pieces = [Piece { offset: 4096, length: 5 }, Piece { offset: 1 << 40, length: 0 }];
        let base = Head {
            path: b"a",
            kind: Kind::Folder,
            mode: 0o7751,
            uid: 65_535,
            gid: 7,
            modified: (-2, 750_000_000),
            attributes: &attributes,
        };
        let heads = [
            base,
            Head { path: &long, kind: Kind::File(3), modified: (1_700_000_000, 0), attributes: &[], ..base },
            Head { path: b"s", kind: Kind::Sparse(1 << 40, &pieces), ..base },
            Head { path: b"l", kind: Kind::Symlink(&long), ..base },
            Head { path: b"h", kind: Kind::HardLink(&long), ..base },
            Head { path: b"f", kind: Kind::Fifo, ..base },
        ];
        let mut out = Vec::new();
        for head in &heads {
            let size = begin(&mut out, head).unwrap();
            out.extend(std::iter::repeat_n(b'z', usize::try_from(size).unwrap()));
            // Whole blocks come before it.
            fill(&mut out, size).unwrap();
        }
        end(&mut out).unwrap();
        assert_eq!(out.len() % BLOCK, 0);
        let mut archive = Archive::new(&out[..]);
        for head in &heads {
            let entry = archive.next().unwrap().expect("an entry");
            let seen = (entry.path.as_slice(), entry.mode, entry.uid, entry.gid, entry.modified);
            assert_eq!(seen, (head.path, head.mode, u64::from(head.uid), 7, head.modified));
            assert_eq!(entry.attributes, head.attributes);
            match head.kind {
                Kind::File(size) => assert_eq!((entry.kind, entry.size), (Found::File, size)),
                Kind::Sparse(size, pieces) => {
                    assert_eq!((entry.kind, entry.size, entry.pieces), (Found::File, size, pieces.to_vec()));
                    let mut content = Vec::new();
                    let mut buffer = [0; 8];
                    while let count @ 1.. = archive.read(&mut buffer).unwrap() {
                        content.extend_from_slice(&buffer[..count]);
                    }
                    assert_eq!(content, b"zzzzz");
                }
                Kind::HardLink(target) => assert_eq!(entry.kind, Found::HardLink(target.to_vec())),
                Kind::Symlink(target) => assert_eq!(entry.kind, Found::Symlink(target.to_vec())),
                Kind::Folder => assert_eq!(entry.kind, Found::Folder),
                Kind::Fifo => assert_eq!(entry.kind, Found::Fifo),
            }
        }
        assert!(archive.next().unwrap().is_none());
    }

    #[test]
    fn others_read_it_too() {
        let mut out = Vec::new();
        let head = Head {
            path: b"a/file",
            kind: Kind::File(4),
            mode: 0o4755,
            uid: 1,
            gid: 2,
            modified: (12, 0),
            attributes: &[(b"user.x".to_vec(), b"y".to_vec())],
        };
        begin(&mut out, &head).unwrap();
        out.extend(b"text");
        fill(&mut out, 4).unwrap();
        out.extend(plain_header("big", b'0', 1 << 40));
        let mut archive = ::tar::Archive::new(&out[..]);
        let mut entries = archive.entries().unwrap();
        let mut entry = entries.next().unwrap().unwrap();
        let header = entry.header();
        assert_eq!((header.mode().unwrap(), header.uid().unwrap(), header.mtime().unwrap()), (0o4755, 1, 12));
        let extension = entry.pax_extensions().unwrap().unwrap().next().unwrap().unwrap();
        assert_eq!((extension.key_bytes(), extension.value_bytes()), (&b"SCHILY.xattr.user.x"[..], &b"y"[..]));
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        assert_eq!(text, "text");
        assert_eq!(entries.next().unwrap().unwrap().header().size().unwrap(), 1 << 40);
    }
}
