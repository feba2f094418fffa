//! What went wrong, and while doing what.

use std::fmt;
use std::io;

/// An error of the kernel's with the thing that was being done.
#[derive(Debug)]
pub struct Trouble {
    /// A fragment that continues "failed": "mounting the overlay".
    pub doing: String,
    /// What the kernel said, or what was wrong with what we were given.
    pub error: io::Error,
}

impl Trouble {
    /// Something that is wrong without the kernel having said so.
    pub fn new(doing: impl Into<String>, message: impl Into<String>) -> Self {
        Self { doing: doing.into(), error: io::Error::other(message.into()) }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.doing, self.error)
    }
}

/// Says what was being done when something failed.
pub trait Doing<T> {
    /// Names the deed with a text that is always the same.
    fn doing(self, deed: &str) -> Result<T, Trouble>;
    /// Names the deed with a text that is made only on failure.
    fn doing_with(self, deed: impl FnOnce() -> String) -> Result<T, Trouble>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, deed: &str) -> Result<T, Trouble> {
        self.map_err(|error| Trouble { doing: deed.to_owned(), error: error.into() })
    }

    fn doing_with(self, deed: impl FnOnce() -> String) -> Result<T, Trouble> {
        self.map_err(|error| Trouble { doing: deed(), error: error.into() })
    }
}
