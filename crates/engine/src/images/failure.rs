//! What people are told when a layer cannot be built.

use std::error::Error as StdError;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::EngineError;

/// Why a layer could not be built.
#[derive(Debug)]
pub(super) struct BuildFailure {
    pub why: String,
    pub hint: Option<&'static str>,
    pub log: PathBuf,
    pub tail: Vec<String>,
}

impl fmt::Display for BuildFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.why)?;
        if let Some(hint) = self.hint {
            write!(f, "; {hint}")?;
        }
        write!(f, "; the log is {}", self.log.display())?;
        if !self.tail.is_empty() {
            write!(f, " and ends with:\n  {}", self.tail.join("\n  "))?;
        }
        Ok(())
    }
}

impl StdError for BuildFailure {}

/// What to do about failures that people meet.
pub(super) fn hint(log: &Path) -> Option<&'static str> {
    let text = std::fs::read(log).ok()?;
    let has = |needle: &[u8]| text.windows(needle.len()).any(|window| window == needle);
    if has(b"NO_PUBKEY") {
        Some("the host's package debian-archive-keyring is too old for this release: upgrade it")
    } else if has(b"No space left on device") {
        Some("the disk is full")
    } else {
        None
    }
}

/// An error and what is underneath it, as one sentence.
pub(super) fn with_sources(error: &EngineError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
