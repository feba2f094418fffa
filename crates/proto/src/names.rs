//! Texts that users choose: box names, labels, environment variables, sizes and runtimes, with their rules.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::BoxId;

/// Labels that one box may carry at most. (Upstash Box: 5.)
pub const LABELS_MAX: usize = 5;
/// Characters of a label at most. (Upstash Box: 20.)
pub const LABEL_CHARS_MAX: usize = 20;
/// Characters of a box name at most: as for a DNS label.
pub const NAME_CHARS_MAX: usize = 63;
/// Environment variables that one box may carry at most.
pub const ENV_VARS_MAX: usize = 512;
/// Bytes that names and values of a box's environment may take together: a quarter of what Linux lets one program be started with.
pub const ENV_BYTES_MAX: usize = 512 * 1024;
/// Bytes of one `NAME=value`: Linux refuses to start a program with a longer one.
pub const ENV_VAR_BYTES_MAX: usize = 128 * 1024 - 1;

/// Variables that a box's own environment may not set, because they decide what else is run. (Upstash Box documents the list.)
pub const BLOCKED_ENV: [&str; 5] = ["PATH", "HOME", "LD_PRELOAD", "LD_LIBRARY_PATH", "NODE_OPTIONS"];

/// Path segments beside `{id}` in the API, which a box therefore cannot be named.
const RESERVED_NAMES: [&str; 8] =
    ["snapshots", "settings", "logs", "from-snapshot", "apikey", "apikeys", "agent-credentials", "github"];

/// A chosen text that breaks a rule. The message says which, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidName(pub String);

/// Checks a box name: 1 to 63 characters of `[A-Za-z0-9._-]` that begin and end with a letter or digit, do not look like a box id and
/// are no path segment of the API. Uniqueness is the store's to check.
///
/// # Errors
/// Says which rule is broken.
pub fn check_box_name(name: &str) -> Result<(), InvalidName> {
    let edge = |byte: Option<u8>| byte.is_some_and(|b| b.is_ascii_alphanumeric());
    if name.is_empty() || name.len() > NAME_CHARS_MAX {
        return Err(InvalidName(format!("name must have 1 to {NAME_CHARS_MAX} characters")));
    }
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        || !edge(name.bytes().next())
        || !edge(name.bytes().last())
    {
        return Err(InvalidName(
            "name may contain letters, digits, '.', '_' and '-' only, and must begin and end with a letter or digit"
                .into(),
        ));
    }
    if BoxId::looks_like(name) {
        return Err(InvalidName("name must not have the form of a box id".into()));
    }
    if RESERVED_NAMES.contains(&name) {
        return Err(InvalidName(format!("name '{name}' is reserved")));
    }
    Ok(())
}

/// Checks one label: 1 to 20 characters of `[A-Za-z0-9._:-]`.
///
/// # Errors
/// Says which rule is broken.
pub fn check_label(label: &str) -> Result<(), InvalidName> {
    if label.is_empty() || label.len() > LABEL_CHARS_MAX {
        return Err(InvalidName(format!("a label must have 1 to {LABEL_CHARS_MAX} characters")));
    }
    if !label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-')) {
        return Err(InvalidName("a label may contain letters, digits, '.', '_', ':' and '-' only".into()));
    }
    Ok(())
}

/// Checks all labels of a box and drops repeated ones; the order of first appearance stays.
///
/// # Errors
/// Says which rule is broken.
pub fn check_labels(labels: Vec<String>) -> Result<Vec<String>, InvalidName> {
    let mut kept: Vec<String> = Vec::new();
    for label in labels {
        check_label(&label)?;
        if !kept.contains(&label) {
            kept.push(label);
        }
    }
    if kept.len() > LABELS_MAX {
        return Err(InvalidName(format!("a box can have at most {LABELS_MAX} labels")));
    }
    Ok(kept)
}

/// Checks an environment: names of `[A-Za-z_][A-Za-z0-9_]*` that are not blocked, values without NUL, and the size caps.
/// Empty values are fine.
///
/// # Errors
/// Says which variable breaks which rule; values never appear in the text.
pub fn check_env(env: &BTreeMap<String, String>) -> Result<(), InvalidName> {
    if env.len() > ENV_VARS_MAX {
        return Err(InvalidName(format!("env_vars can have at most {ENV_VARS_MAX} variables")));
    }
    let mut total = 0;
    for (name, value) in env {
        let shown: String = name.chars().take(80).collect();
        let mut bytes = name.bytes();
        if !bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
            || !bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
        {
            return Err(InvalidName(format!(
                "env_vars: '{shown}' is not a variable name; use letters, digits and '_', not beginning with a digit"
            )));
        }
        if BLOCKED_ENV.contains(&name.as_str()) {
            return Err(InvalidName(format!("env_vars: {name} cannot be set; blocked are {}", BLOCKED_ENV.join(", "))));
        }
        if value.contains('\0') {
            return Err(InvalidName(format!("env_vars: the value of {shown} contains a NUL byte")));
        }
        let size = name.len() + 1 + value.len();
        if size > ENV_VAR_BYTES_MAX {
            return Err(InvalidName(format!("env_vars: {shown} is longer than {ENV_VAR_BYTES_MAX} bytes")));
        }
        total += size;
    }
    if total > ENV_BYTES_MAX {
        return Err(InvalidName(format!("env_vars together are longer than {ENV_BYTES_MAX} bytes")));
    }
    Ok(())
}

/// Characters of a size at most.
pub const SIZE_CHARS_MAX: usize = 31;

/// How much of the host a box may use, by its name: 1 to 31 characters of `[a-z0-9-]` that begin with a letter and do not end with `-`.
/// Every server has `small`, `medium` and `large`; what the others are called, and what each of them stands for, is its configuration's
/// to say. A box keeps the name of its size even when there is no such size any more.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "std::borrow::Cow<'_, str>", into = "String")]
pub struct Size {
    // In place, so that it is copied like the number that it might be. Padded with zeros.
    text: [u8; SIZE_CHARS_MAX],
}

impl Size {
    /// 2 CPUs, 4 GB of memory, 5 GB of disk, unless configured otherwise. What a box gets that asks for nothing else.
    pub const SMALL: Self = Self::of("small");
    /// 4 CPUs, 8 GB of memory, 10 GB of disk, unless configured otherwise.
    pub const MEDIUM: Self = Self::of("medium");
    /// 8 CPUs, 16 GB of memory, 20 GB of disk, unless configured otherwise.
    pub const LARGE: Self = Self::of("large");

    /// Reads the name of a size. Whether there is such a size is the server's to say.
    ///
    /// # Errors
    /// Says what a name must be.
    pub fn parse(name: &str) -> Result<Self, InvalidName> {
        let fits = (1..=SIZE_CHARS_MAX).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && name.starts_with(|first: char| first.is_ascii_lowercase())
            && !name.ends_with('-');
        if !fits {
            return Err(InvalidName(format!(
                "the name of a size must have 1 to {SIZE_CHARS_MAX} characters of a-z, 0-9 and '-', begin with a letter and not end with '-'"
            )));
        }
        Ok(Self::of(name))
    }

    /// What has been checked.
    const fn of(name: &str) -> Self {
        let (bytes, mut text, mut at) = (name.as_bytes(), [0; SIZE_CHARS_MAX], 0);
        while at < bytes.len() && at < SIZE_CHARS_MAX {
            text[at] = bytes[at];
            at += 1;
        }
        Self { text }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        // Only names that were checked to be ASCII come in.
        str::from_utf8(&self.text).unwrap_or_default().trim_end_matches('\0')
    }
}

impl Default for Size {
    fn default() -> Self {
        Self::SMALL
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl TryFrom<Cow<'_, str>> for Size {
    type Error = InvalidName;

    fn try_from(name: Cow<'_, str>) -> Result<Self, InvalidName> {
        Self::parse(&name)
    }
}

impl From<Size> for String {
    fn from(size: Size) -> Self {
        size.as_str().to_owned()
    }
}

/// What is said of a size that is none of these.
pub fn unknown_size(known: &[Size]) -> InvalidName {
    let known: Vec<&str> = known.iter().map(Size::as_str).collect();
    InvalidName(format!("size must be one of {}", known.join(", ")))
}

/// Runtimes that every server has, as images of the same names; the `-alpine` forms have the same tools on musl. A server may have more.
pub const RUNTIMES: [&str; 10] = [
    "node",
    "python",
    "golang",
    "ruby",
    "rust",
    "node-alpine",
    "python-alpine",
    "golang-alpine",
    "ruby-alpine",
    "rust-alpine",
];

/// What a box gets when it asks for no runtime.
pub const DEFAULT_RUNTIME: &str = "node";

/// Characters of a runtime at most.
pub const RUNTIME_MAX: usize = 63;

/// Checks the form of a runtime: the name of an image. Which there are is the engine's to say.
///
/// # Errors
/// Says what a name must be, and which runtimes every server has.
pub fn check_runtime(text: &str) -> Result<&str, InvalidName> {
    let fits = (1..=RUNTIME_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._".contains(&byte))
        && text.starts_with(|first: char| first.is_ascii_alphanumeric());
    if fits { Ok(text) } else { Err(unknown_runtime(&RUNTIMES)) }
}

/// What is said of a runtime that is none of these.
pub fn unknown_runtime(known: &[impl AsRef<str>]) -> InvalidName {
    let known: Vec<&str> = known.iter().map(AsRef::as_ref).collect();
    InvalidName(format!("runtime must be one of {}", known.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_be_taken_for_something_else_are_refused() {
        for name in ["my-worker", "a", "crabbox-x-1f", "A.b_c-9"] {
            assert_eq!(check_box_name(name), Ok(()), "{name}");
        }
        for name in ["", "-a", "a-", "a b", "a/b", "snapshots", "current-wasp-05510", "ü", &"x".repeat(64)] {
            assert!(check_box_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn labels_are_few_short_and_unique() {
        let labels = |n: usize| (0..n).map(|i| format!("l{i}")).collect::<Vec<_>>();
        assert_eq!(check_labels(vec!["a".into(), "b".into(), "a".into()]), Ok(vec!["a".into(), "b".into()]));
        assert!(check_labels(labels(5)).is_ok());
        assert!(check_labels(labels(6)).is_err());
        assert!(check_label("env:prod").is_ok());
        assert!(check_label("with space").is_err());
        assert!(check_label(&"x".repeat(21)).is_err());
    }

    #[test]
    fn runtimes_may_be_images_of_ones_own_and_never_paths() {
        for name in RUNTIMES.iter().chain(&["my-tools", "alpine3.22", "a_b", "7", &"x".repeat(63)]) {
            assert_eq!(check_runtime(name), Ok(*name));
        }
        for name in ["", ".", "..", "../node", "a/b", "-a", "Node", "a b", "a\n", &"x".repeat(64)] {
            assert!(check_runtime(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn sizes_are_short_names_that_are_read_as_they_were_written() {
        for name in ["small", "x", "gpu-2", "a1", &"x".repeat(31)] {
            let size = Size::parse(name).expect(name);
            assert_eq!((size.as_str(), size.to_string().as_str()), (name, name));
            let json = serde_json::to_string(&size).unwrap();
            assert_eq!((json.as_str(), serde_json::from_str(&json).unwrap()), (format!("\"{name}\"").as_str(), size));
        }
        assert_eq!((Size::parse("small"), Size::default()), (Ok(Size::SMALL), Size::SMALL));
        for name in ["", "-a", "a-", "2x", "Big", "a_b", "a.b", "a b", "ä", "a\0", &"x".repeat(32)] {
            assert!(Size::parse(name).is_err(), "{name:?}");
            assert!(serde_json::from_value::<Size>(name.into()).is_err(), "{name:?}");
        }
    }

    #[test]
    fn blocked_and_malformed_variables_are_refused_without_showing_values() {
        let env = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
        assert!(check_env(&env("EMPTY_VAR", "")).is_ok());
        for name in BLOCKED_ENV.iter().chain(&["", "1A", "A=B", "A-B", "A\0"]) {
            assert!(check_env(&env(name, "s3cret")).is_err(), "{name:?}");
        }
        let error = check_env(&env("TOKEN", "s3cret\0")).expect_err("a NUL must be refused");
        assert!(!error.to_string().contains("s3cret"));
    }
}
