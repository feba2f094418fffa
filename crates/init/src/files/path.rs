//! Paths as they are asked for.

use std::borrow::Cow;

use boxyard_proto::files::{PATH_MAX, PathText};

use super::refusal::Refusal;

/// An absolute path that the kernel would take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path(Vec<u8>);

impl Path {
    /// Checks a path.
    pub fn new(bytes: Cow<'_, [u8]>) -> Result<Self, Refusal> {
        if bytes.first() != Some(&b'/') {
            return Err(Refusal::invalid("the path is not absolute"));
        }
        if bytes.len() >= PATH_MAX {
            return Err(Refusal::invalid("the path is too long"));
        }
        if bytes.contains(&0) {
            return Err(Refusal::invalid("the path contains a NUL"));
        }
        Ok(Self(bytes.into_owned()))
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether only a folder can be meant.
    pub fn is_of_folder(&self) -> bool {
        is_of_folder(&self.0)
    }

    /// The path of `name` in this folder.
    pub fn child(&self, name: &[u8]) -> Vec<u8> {
        child(&self.0, name)
    }
}

impl TryFrom<&PathText> for Path {
    type Error = Refusal;

    fn try_from(text: &PathText) -> Result<Self, Refusal> {
        Self::new(text.bytes().ok_or_else(|| Refusal::invalid("the path is not base64"))?)
    }
}

/// The path of `name` in `folder`.
pub fn child(folder: &[u8], name: &[u8]) -> Vec<u8> {
    let slash: &[u8] = if folder.ends_with(b"/") || folder.is_empty() { b"" } else { b"/" };
    [folder, slash, name].concat()
}

/// The parts of a path that say anything.
pub fn parts(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/').filter(|part| !part.is_empty() && *part != b".")
}

/// Whether a path ends so that only a folder can be meant.
pub fn is_of_folder(path: &[u8]) -> bool {
    path.ends_with(b"/") || matches!(path.rsplit(|&byte| byte == b'/').next(), Some(b"." | b".."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_absolute_short_paths_without_nul_are_taken() {
        let refused = |path: &[u8]| Path::new(Cow::Borrowed(path)).expect_err("refused").message;
        assert_eq!(refused(b""), "the path is not absolute");
        assert_eq!(refused(b"a/b"), "the path is not absolute");
        assert_eq!(refused(b"/a\0b"), "the path contains a NUL");
        assert_eq!(refused(&[b'/'; PATH_MAX]), "the path is too long");
        assert!(Path::new(Cow::Borrowed(&[b'/'; PATH_MAX - 1])).is_ok());
        assert!(Path::try_from(&PathText::Bytes { base64: "!".into() }).is_err());
    }

    #[test]
    fn parts_are_what_says_something() {
        assert_eq!(parts(b"//a/./b/../").collect::<Vec<_>>(), [&b"a"[..], b"b", b".."]);
        let folder = |path: &str| is_of_folder(path.as_bytes());
        assert!(folder("/a/") && folder("/a/.") && folder("/..") && folder("/") && !folder("/a.") && !folder("/a/..b"));
        assert_eq!(
            (child(b"/", b"a"), child(b"/a", b"b"), child(b"", b"c")),
            (b"/a".to_vec(), b"/a/b".to_vec(), b"c".to_vec())
        );
    }
}
