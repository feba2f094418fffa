//! Why a command failed, and what its exit code says of it.

use std::error::Error;
use std::fmt;

use boxyard_server::config::ConfigError;
use boxyard_server::keys::KeyError;
use boxyard_server::store::StoreError;

/// It failed.
pub(crate) const FAILED: u8 = 1;
/// It was called wrongly (EX_USAGE).
pub(crate) const USAGE: u8 = 64;
/// `ssh` could not connect, as ssh itself says it.
pub(crate) const NOT_CONNECTED: u8 = 255;
/// `exec` could not run the command, as docker and podman say it.
pub(crate) const NOT_RUN: u8 = 125;

/// A failed command.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    text: String,
    /// Whether the server was not there to say so.
    away: bool,
}

impl Failure {
    /// The program was called wrongly: `text` says how to call it.
    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self { code: USAGE, text: text.into(), away: false }
    }

    /// It could not be done; `text` is the whole story.
    pub(crate) fn plain(text: impl Into<String>) -> Self {
        Self { code: FAILED, text: text.into(), away: false }
    }

    /// `what` could not be done because of `error`.
    pub(crate) fn failed(what: impl fmt::Display, error: impl Into<Box<dyn Error>>) -> Self {
        let error = error.into();
        let mut text = format!("{what}: {error}");
        let mut source = error.source();
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            // Some errors repeat what lies beneath them.
            if !text.ends_with(&cause_text) {
                text.push_str(": ");
                text.push_str(&cause_text);
            }
            source = cause.source();
        }
        Self { code: FAILED, text, away: false }
    }

    /// The same failure, because the server is not there: it may be back soon.
    pub(crate) fn of_absence(self) -> Self {
        Self { away: true, ..self }
    }

    /// Whether it is one because the server is not there.
    pub(crate) fn is_absence(&self) -> bool {
        self.away
    }

    /// The same failure, about one of several things.
    pub(crate) fn about(self, what: &str) -> Self {
        Self { text: format!("{what}: {}", self.text), ..self }
    }

    /// The same failure of an `exec`.
    pub(crate) fn of_exec(self) -> Self {
        Self { code: if self.code == FAILED { NOT_RUN } else { self.code }, ..self }
    }

    /// The same failure of an `ssh`.
    pub(crate) fn of_ssh(self) -> Self {
        Self { code: if self.code == FAILED { NOT_CONNECTED } else { self.code }, ..self }
    }

    pub(crate) fn code(&self) -> u8 {
        self.code
    }

    /// The whole story.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Says it on standard error.
    pub(crate) fn tell(&self) {
        if !self.text.is_empty() {
            crate::output::note(&format!("boxyard: {}", self.text));
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::usage(error.to_string())
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::failed("the database", error)
    }
}

impl From<KeyError> for Failure {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::Unfit(_) | KeyError::Name(_) => Self::usage(error.to_string()),
            KeyError::File { path, source } => {
                Self::failed(format!("cannot keep the first key in {}", path.display()), source)
            }
            KeyError::Store(error) => error.into(),
        }
    }
}
