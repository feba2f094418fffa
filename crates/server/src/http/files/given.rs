//! What requests give: paths, modes, yes and no.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use boxyard_proto::api::files::{FileType, flag};
use boxyard_proto::files::{FileKind, PathText, Stat};
use jiff::Timestamp;

use crate::boxes::FilePath;
use crate::http::error::ApiError;

/// The path that a request has to give, as text or in base64. `name` is the field's.
pub(super) fn path(name: &str, text: Option<String>, base64: Option<String>) -> Result<FilePath, ApiError> {
    let given = given(name, text, base64)?.filter(|path| !path.is_empty());
    checked(
        name,
        &given.ok_or_else(|| ApiError::bad_request(format!("{name} is required: the path of a file or folder")))?,
    )
}

/// The folder that a request may give; the workspace when it gives none.
pub(super) fn folder(name: &str, text: Option<String>, base64: Option<String>) -> Result<FilePath, ApiError> {
    checked(name, &given(name, text, base64)?.unwrap_or_default())
}

/// A text, as it is or in base64.
pub(super) fn given(name: &str, text: Option<String>, base64: Option<String>) -> Result<Option<Vec<u8>>, ApiError> {
    let Some(base64) = base64 else { return Ok(text.map(String::into_bytes)) };
    if text.is_some() {
        return Err(ApiError::bad_request(format!("give either {name} or {name}_base64")));
    }
    let bytes = STANDARD.decode(base64);
    bytes.map(Some).map_err(|_| ApiError::bad_request(format!("{name}_base64 is not base64")))
}

/// A path from anywhere in a request.
pub(super) fn checked(name: &str, given: &[u8]) -> Result<FilePath, ApiError> {
    FilePath::new(given).map_err(|error| ApiError::bad_request(format!("{name} {error}")))
}

/// Permission bits, given in octal.
pub(super) fn mode(text: &str) -> Result<u32, ApiError> {
    let digits = text.len() <= 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| digits && *mode <= 0o7777);
    mode.ok_or_else(|| ApiError::bad_request("mode must be permission bits in octal, such as 0644"))
}

/// Whether something is asked for.
pub(super) fn yes(name: &str, text: Option<&str>) -> Result<bool, ApiError> {
    flag(text).ok_or_else(|| ApiError::bad_request(format!("{name} must be 0, 1, true or false")))
}

/// The encoding of a content in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Text,
    Base64,
}

impl Encoding {
    pub(super) fn parse(text: Option<&str>) -> Result<Self, ApiError> {
        match text {
            None | Some("" | "utf-8" | "utf8" | "UTF-8" | "text") => Ok(Self::Text),
            Some("base64") => Ok(Self::Base64),
            Some(_) => Err(ApiError::bad_request("encoding must be utf-8 or base64")),
        }
    }
}

/// A path's bytes as an answer tells them: as text, and in base64 where they are none.
pub(super) fn told(bytes: &[u8]) -> (String, Option<String>) {
    match str::from_utf8(bytes) {
        Ok(text) => (text.to_owned(), None),
        Err(_) => (String::from_utf8_lossy(bytes).into_owned(), Some(STANDARD.encode(bytes))),
    }
}

/// The same of what a box told.
pub(super) fn told_text(text: &PathText) -> (String, Option<String>) {
    told(&text.bytes().unwrap_or_default())
}

/// A time as answers have it. What no calendar has is told as its edge.
pub(super) fn time(nanoseconds: i64) -> String {
    // Every i64 of nanoseconds is between the years 1677 and 2262.
    Timestamp::from_second(nanoseconds.div_euclid(1_000_000_000)).unwrap_or(Timestamp::UNIX_EPOCH).to_string()
}

/// Permission bits as answers have them.
pub(super) fn octal(mode: u32) -> String {
    format!("{:04o}", mode & 0o7777)
}

/// Another text when the file is another, or has other content.
pub(super) fn version(stat: &Stat) -> String {
    format!("{}-{}-{}", stat.inode, stat.modified_ns, stat.size)
}

/// The sort of a file as answers have it.
pub(super) fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::File => FileType::File,
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Other => FileType::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_is_what_it_says_or_is_refused() {
        assert_eq!(mode("0755").ok(), Some(0o755));
        assert_eq!(mode("7777").ok(), Some(0o7777));
        for wrong in ["", "8", "+755", "-1", "10000", "000755", "rwx", "0o755"] {
            assert!(mode(wrong).is_err(), "{wrong}");
        }
        assert!(path("path", None, None).is_err() && path("path", Some(String::new()), None).is_err());
        assert!(path("path", Some("a".into()), Some("YQ==".into())).is_err());
        assert!(path("path", None, Some("?".into())).is_err());
        let bytes = path("path", None, Some("/w==".into())).expect("one byte");
        assert_eq!(bytes.bytes(), b"/workspace/home/\xff");
        assert_eq!(told(b"\xff"), ("\u{fffd}".into(), Some("/w==".into())));
        assert!(yes("x", Some("maybe")).is_err());
    }

    #[test]
    fn times_are_in_whole_seconds_and_never_fail() {
        assert_eq!(time(1_755_604_616_999_999_999), "2025-08-19T11:56:56Z");
        assert_eq!(time(-1), "1969-12-31T23:59:59Z");
        assert!(time(i64::MIN).starts_with("1677-") && time(i64::MAX).starts_with("2262-"));
    }
}
