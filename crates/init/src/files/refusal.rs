//! Why a request is not carried out.

use std::io;

use boxyard_proto::files::{Answer, Failure};
use rustix::io::Errno;

/// A failure and a text fit for a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What sort.
    pub kind: Failure,
    /// A text without the path.
    pub message: String,
}

impl Refusal {
    /// One of ours.
    pub fn new(kind: Failure, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// A request that makes no sense.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Failure::Invalid, message)
    }

    /// A path that leads out of the roots, or a root where only what is in one may be.
    pub fn outside() -> Self {
        Self::new(Failure::Denied, "the path leads out of the folders that may be used")
    }

    /// A device, socket or FIFO.
    pub fn special() -> Self {
        Self::new(Failure::Special, "this is no file but a device, socket or FIFO")
    }

    /// The same, with what has been done already.
    #[must_use]
    pub fn after(self, done: &str) -> Self {
        Self { message: format!("{}; {done}", self.message), ..self }
    }
}

impl From<Refusal> for Answer {
    fn from(Refusal { kind, message }: Refusal) -> Self {
        Self::Failed { kind, message }
    }
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        let (kind, message) = match errno {
            Errno::NOENT => (Failure::NotFound, "there is no such file or folder"),
            Errno::EXIST => (Failure::Exists, "there is something already"),
            Errno::ACCESS | Errno::PERM => (Failure::Denied, "permission denied"),
            Errno::ROFS => (Failure::Denied, "the file system is read-only"),
            Errno::ISDIR => (Failure::IsFolder, "this is a folder"),
            Errno::NOTDIR => (Failure::NotFolder, "this is no folder"),
            Errno::NOTEMPTY => (Failure::NotEmpty, "the folder is not empty"),
            Errno::NXIO | Errno::NODEV => return Self::special(),
            Errno::NOSPC | Errno::DQUOT => (Failure::NoSpace, "no space left on the disk"),
            Errno::FBIG => (Failure::NoSpace, "the file is too large"),
            Errno::NAMETOOLONG => (Failure::Invalid, "the path or a name in it is too long"),
            Errno::LOOP => (Failure::Invalid, "too many symbolic links"),
            Errno::INVAL => (Failure::Invalid, "this cannot be done here"),
            Errno::XDEV => {
                (Failure::Other, "the two places are on different file systems, or the folder is part of the image")
            }
            other => {
                let message = io::Error::from(other).to_string();
                let message = message.split(" (os error").next().unwrap_or("failure").to_lowercase();
                return Self::new(Failure::Other, message);
            }
        };
        Self::new(kind, message)
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Errno::from_io_error(&error).map_or_else(|| Self::new(Failure::Other, error.to_string()), Self::from)
    }
}
