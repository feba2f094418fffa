//! Extended headers of pax: records of `LENGTH KEY=VALUE\n`.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD_NO_PAD;

use super::sparse::{self, Piece};

/// Extended attributes of one entry at most, and bytes of one value (the kernel's `XATTR_SIZE_MAX`).
pub(super) const ATTRIBUTES_MAX: usize = 64;
const ATTRIBUTE_MAX: usize = 64 * 1024;

/// What extended headers say of an entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Pax {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    /// Bytes of content in the archive.
    pub size: Option<u64>,
    pub uid: Option<u64>,
    pub gid: Option<u64>,
    pub modified: Option<(i64, u32)>,
    pub attributes: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The real path of a file with holes; `path` is a made-up one then.
    pub name: Option<Vec<u8>>,
    pub stored: Stored,
}

/// How a file's bytes lie in the archive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Stored {
    #[default]
    Whole,
    /// With holes left out. Where its map is not here it comes before the content.
    Sparse {
        /// Bytes of the file.
        size: u64,
        map: Option<Vec<Piece>>,
    },
}

impl Pax {
    /// Reads records over what earlier ones have said. The error says what is wrong.
    pub fn parse(text: &[u8], earlier: Self) -> Result<Self, String> {
        let mut pax = earlier;
        let mut sparse = Sparse::default();
        let mut rest = text;
        while !rest.is_empty() {
            let blank = rest.iter().position(|byte| *byte == b' ').filter(|blank| *blank <= 10);
            let blank = blank.ok_or("an extended header without a length")?;
            let length = decimal(&rest[..blank])?;
            let length = usize::try_from(length).ok().filter(|length| *length > blank + 1 && *length <= rest.len());
            let length = length.ok_or("an extended header of a wrong length")?;
            let record = rest[blank + 1..length].strip_suffix(b"\n").ok_or("an extended header without its end")?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or("an extended header without a value")?;
            pax.record(&record[..equals], &record[equals + 1..], &mut sparse)?;
            rest = &rest[length..];
        }
        if let Some(stored) = sparse.stored()? {
            pax.stored = stored;
        }
        Ok(pax)
    }

    /// Whether this must not hold for several entries.
    pub fn says_what_an_entry_is(&self) -> bool {
        self.path.is_some()
            || self.link.is_some()
            || self.size.is_some()
            || self.name.is_some()
            || self.stored != Stored::Whole
    }

    fn record(&mut self, key: &[u8], value: &[u8], sparse: &mut Sparse) -> Result<(), String> {
        match key {
            b"path" => self.path = name(value)?,
            b"linkpath" => self.link = name(value)?,
            b"size" => self.size = Some(decimal(value)?),
            b"uid" => self.uid = Some(decimal(value)?),
            b"gid" => self.gid = Some(decimal(value)?),
            b"mtime" => self.modified = Some(time(value)?),
            b"GNU.sparse.name" => self.name = name(value)?,
            b"GNU.sparse.major" => sparse.major = Some(decimal(value)?),
            b"GNU.sparse.minor" => sparse.minor = Some(decimal(value)?),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => sparse.size = Some(decimal(value)?),
            b"GNU.sparse.map" => sparse.map = Some(sparse::listed_map(value)?),
            // The oldest form, of one version of GNU tar from 2003: the map is spread over records of the same key.
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                return Err("a file with holes in the first of the formats for that".into());
            }
            _ => {
                if let Some(attribute) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.attribute(attribute.to_vec(), value.to_vec())?;
                } else if let Some(encoded) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
                    // How libarchive stores what would break a record; what it says twice, it says the same.
                    let padded = value.strip_suffix(b"==").or_else(|| value.strip_suffix(b"=")).unwrap_or(value);
                    if let (Some(name), Ok(value)) = (percent_decoded(encoded), BASE64_STANDARD_NO_PAD.decode(padded)) {
                        self.attribute(name, value)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn attribute(&mut self, name: Vec<u8>, value: Vec<u8>) -> Result<(), String> {
        if value.len() > ATTRIBUTE_MAX {
            return Err("an extended attribute that is longer than attributes can be".into());
        }
        self.attributes.insert(name, value);
        if self.attributes.len() > ATTRIBUTES_MAX {
            return Err(format!("more than {ATTRIBUTES_MAX} extended attributes of one file"));
        }
        Ok(())
    }
}

fn percent_decoded(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        if *first == b'%' {
            let digits = str::from_utf8(after.get(..2)?).ok()?;
            out.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &after[2..];
        } else {
            out.push(*first);
            rest = after;
        }
    }
    Some(out)
}

#[derive(Default)]
struct Sparse {
    major: Option<u64>,
    minor: Option<u64>,
    size: Option<u64>,
    map: Option<Vec<Piece>>,
}

impl Sparse {
    fn stored(self) -> Result<Option<Stored>, String> {
        match (self.major, self.minor, self.size, self.map) {
            (None, None, None, None) => Ok(None),
            (Some(1), Some(0), Some(size), None) => Ok(Some(Stored::Sparse { size, map: None })),
            (None, None, Some(size), Some(map)) => Ok(Some(Stored::Sparse { size, map: Some(map) })),
            _ => Err("a file with holes in an unknown format".into()),
        }
    }
}

/// An empty value takes back what was said before.
fn name(value: &[u8]) -> Result<Option<Vec<u8>>, String> {
    match value {
        [] => Ok(None),
        value if value.len() > super::tar::PATH_MAX => Err("a path that is longer than paths can be".into()),
        value => Ok(Some(value.to_vec())),
    }
}

pub(super) fn decimal(text: &[u8]) -> Result<u64, String> {
    let digits = !text.is_empty() && text.len() <= 20 && text.iter().all(u8::is_ascii_digit);
    let value = digits.then(|| std::str::from_utf8(text).ok()?.parse().ok()).flatten();
    value.ok_or_else(|| "a number in an extended header that is none".into())
}

/// Seconds with or without a fraction.
fn time(text: &[u8]) -> Result<(i64, u32), String> {
    let (whole, fraction) = match text.iter().position(|byte| *byte == b'.') {
        Some(point) => (&text[..point], &text[point + 1..]),
        None => (text, &[][..]),
    };
    let (negative, digits) = match whole.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, whole),
    };
    let seconds = i64::try_from(decimal(digits)?).map_err(|_| "a time that is out of range")?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err("a time that is none".into());
    }
    let nanoseconds =
        (0..9).fold(0, |sum, index| sum * 10 + fraction.get(index).map_or(0, |digit| u32::from(digit - b'0')));
    Ok(match (negative, nanoseconds) {
        (false, _) => (seconds, nanoseconds),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanoseconds),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &str, value: &str) -> Vec<u8> {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length.to_string().len() + rest != length {
            length += 1;
        }
        format!("{length} {key}={value}\n").into_bytes()
    }

    #[test]
    fn records_are_read_and_nothing_else() {
        let mut text = record("path", "a b/ü=c");
        text.extend(record("mtime", "-1.25"));
        text.extend(record("SCHILY.xattr.user.x", "y"));
        text.extend(record("comment", "any"));
        let pax = Pax::parse(&text, Pax::default()).unwrap();
        assert_eq!(pax.path.as_deref(), Some("a b/ü=c".as_bytes()));
        assert_eq!(pax.modified, Some((-2, 750_000_000)));
        assert_eq!(pax.attributes[&b"user.x"[..]], b"y");
        for wrong in [
            &b"5 a=b\n"[..],
            b"7 a=b\n",
            b"0 a=b\n",
            b"99999999999999999999 a=b\n",
            b" a=b\n",
            b"6 a=bb",
            b"5 abb\n",
            b"a=b\n",
            b"10 size=-1\n",
            b"9 size=\n",
            b"3 \n",
        ] {
            assert!(Pax::parse(wrong, Pax::default()).is_err(), "{}", String::from_utf8_lossy(wrong));
        }
        assert_eq!(time(b"12"), Ok((12, 0)));
        assert_eq!(time(b"12.0000000019"), Ok((12, 1)));
        assert!(time(b"12.x").is_err() && time(b"99999999999999999999").is_err() && time(b"--1").is_err());
    }
}
