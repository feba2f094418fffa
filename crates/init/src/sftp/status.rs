//! How a request ended (draft-ietf-secsh-filexfer-02, section 7).

use std::io;

use rustix::io::Errno;

/// Done.
pub const OK: u32 = 0;
/// Nothing more to read or list.
pub const EOF: u32 = 1;
/// No such file, folder or handle.
pub const NO_SUCH_FILE: u32 = 2;
/// Not allowed.
pub const PERMISSION_DENIED: u32 = 3;
/// Anything else.
pub const FAILURE: u32 = 4;
/// The request makes no sense.
pub const BAD_MESSAGE: u32 = 5;
/// We do not do that.
pub const OP_UNSUPPORTED: u32 = 8;

/// Why a request is not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// One of the numbers above.
    pub code: u32,
    /// A text for people.
    pub message: String,
}

impl Refusal {
    /// One of ours.
    pub fn new(code: u32, message: &str) -> Self {
        Self { code, message: message.to_owned() }
    }

    /// There is nothing more.
    pub fn eof() -> Self {
        Self::new(EOF, "End of file")
    }
}

/// The numbers are those that OpenSSH's server gives (`errno_to_portable` in its `sftp-server.c`), so clients treat both alike.
impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::NOENT | Errno::NOTDIR | Errno::BADF | Errno::LOOP => Self::new(NO_SUCH_FILE, "No such file"),
            Errno::PERM | Errno::ACCESS | Errno::FAULT => Self::new(PERMISSION_DENIED, "Permission denied"),
            Errno::NAMETOOLONG | Errno::INVAL => Self::new(BAD_MESSAGE, "Bad message"),
            Errno::NOSYS => Self::new(OP_UNSUPPORTED, "Operation unsupported"),
            other => {
                let message = io::Error::from(other).to_string();
                Self::new(FAILURE, message.split(" (os error").next().unwrap_or("Failure"))
            }
        }
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Errno::from_io_error(&error).map_or_else(|| Self::new(FAILURE, "Failure"), Self::from)
    }
}
