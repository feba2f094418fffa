//! Requests, read out of bytes (draft-ietf-secsh-filexfer-02, sections 3 to 6). Total: whatever the bytes are, it ends soon, reads
//! nothing beyond them and does not panic. Names are bytes, not text.

use super::attributes::Attributes;

/// A packet as it came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet<'a> {
    /// The client's greeting. Its version does not matter: we speak 3, and it says so if that is too old for it.
    Init,
    /// A request with the id to answer it under.
    Request {
        /// The client's number for it.
        id: u32,
        /// What is asked.
        request: Request<'a>,
    },
    /// A request whose id could be read and nothing else.
    Malformed {
        /// The client's number for it.
        id: u32,
    },
    /// Nothing that could be answered.
    Broken,
}

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request<'a> {
    Open {
        path: &'a [u8],
        flags: u32,
        attributes: Attributes,
    },
    Close {
        handle: &'a [u8],
    },
    Read {
        handle: &'a [u8],
        offset: u64,
        length: u32,
    },
    Write {
        handle: &'a [u8],
        offset: u64,
        data: &'a [u8],
    },
    Lstat {
        path: &'a [u8],
    },
    Fstat {
        handle: &'a [u8],
    },
    Setstat {
        path: &'a [u8],
        attributes: Attributes,
    },
    Fsetstat {
        handle: &'a [u8],
        attributes: Attributes,
    },
    Opendir {
        path: &'a [u8],
    },
    Readdir {
        handle: &'a [u8],
    },
    Remove {
        path: &'a [u8],
    },
    Mkdir {
        path: &'a [u8],
        attributes: Attributes,
    },
    Rmdir {
        path: &'a [u8],
    },
    Realpath {
        path: &'a [u8],
    },
    Stat {
        path: &'a [u8],
    },
    Rename {
        from: &'a [u8],
        to: &'a [u8],
    },
    Readlink {
        path: &'a [u8],
    },
    /// In the order in which OpenSSH sends them, which is not the draft's (`PROTOCOL`, section 4.1).
    Symlink {
        target: &'a [u8],
        link: &'a [u8],
    },
    Extended(Extended<'a>),
    /// A request of a later version, or an extension that we do not have.
    Unknown,
}

/// OpenSSH's extensions (`PROTOCOL`, section 4) and those of draft-ietf-secsh-filexfer-extensions-00 that it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Extended<'a> {
    PosixRename {
        from: &'a [u8],
        to: &'a [u8],
    },
    Statvfs {
        path: &'a [u8],
    },
    Fstatvfs {
        handle: &'a [u8],
    },
    Hardlink {
        from: &'a [u8],
        to: &'a [u8],
    },
    Fsync {
        handle: &'a [u8],
    },
    Lsetstat {
        path: &'a [u8],
        attributes: Attributes,
    },
    Limits,
    ExpandPath {
        path: &'a [u8],
    },
    CopyData {
        from: &'a [u8],
        from_offset: u64,
        length: u64,
        to: &'a [u8],
        to_offset: u64,
    },
    HomeDirectory {
        user: &'a [u8],
    },
    /// Ids in four bytes each.
    UsersGroupsById {
        uids: &'a [u8],
        gids: &'a [u8],
    },
}

/// Numbers of packets.
pub mod kind {
    pub const INIT: u8 = 1;
    pub const VERSION: u8 = 2;
    pub const OPEN: u8 = 3;
    pub const CLOSE: u8 = 4;
    pub const READ: u8 = 5;
    pub const WRITE: u8 = 6;
    pub const LSTAT: u8 = 7;
    pub const FSTAT: u8 = 8;
    pub const SETSTAT: u8 = 9;
    pub const FSETSTAT: u8 = 10;
    pub const OPENDIR: u8 = 11;
    pub const READDIR: u8 = 12;
    pub const REMOVE: u8 = 13;
    pub const MKDIR: u8 = 14;
    pub const RMDIR: u8 = 15;
    pub const REALPATH: u8 = 16;
    pub const STAT: u8 = 17;
    pub const RENAME: u8 = 18;
    pub const READLINK: u8 = 19;
    pub const SYMLINK: u8 = 20;
    pub const STATUS: u8 = 101;
    pub const HANDLE: u8 = 102;
    pub const DATA: u8 = 103;
    pub const NAME: u8 = 104;
    pub const ATTRS: u8 = 105;
    pub const EXTENDED: u8 = 200;
    pub const EXTENDED_REPLY: u8 = 201;
}

/// Bytes of a path at most: the kernel's `PATH_MAX`.
const PATH_MAX: usize = 4096;

/// Bytes that are still to be read.
#[derive(Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// All of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (&taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(taken)
    }

    /// One byte.
    pub fn byte(&mut self) -> Option<u8> {
        self.take().map(u8::from_be_bytes)
    }

    /// Four bytes, the highest first.
    pub fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    /// Eight bytes, the highest first.
    pub fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }

    /// Bytes behind their length.
    pub fn string(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.u32()?).ok()?;
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    /// A name that the kernel would take: not too long, without a NUL.
    fn path(&mut self) -> Option<&'a [u8]> {
        self.string().filter(|path| path.len() < PATH_MAX && !path.contains(&0))
    }
}

/// Reads a packet. What comes after a request's last field is ignored, as OpenSSH does.
pub fn parse(bytes: &[u8]) -> Packet<'_> {
    let mut reader = Reader::new(bytes);
    let Some(kind) = reader.byte() else { return Packet::Broken };
    let Some(id) = reader.u32() else { return Packet::Broken };
    if kind == kind::INIT {
        return Packet::Init;
    }
    match request(kind, &mut reader) {
        Some(request) => Packet::Request { id, request },
        None => Packet::Malformed { id },
    }
}

fn request<'a>(kind: u8, from: &mut Reader<'a>) -> Option<Request<'a>> {
    Some(match kind {
        kind::OPEN => Request::Open { path: from.path()?, flags: from.u32()?, attributes: Attributes::read(from)? },
        kind::CLOSE => Request::Close { handle: from.string()? },
        kind::READ => Request::Read { handle: from.string()?, offset: from.u64()?, length: from.u32()? },
        kind::WRITE => Request::Write { handle: from.string()?, offset: from.u64()?, data: from.string()? },
        kind::LSTAT => Request::Lstat { path: from.path()? },
        kind::FSTAT => Request::Fstat { handle: from.string()? },
        kind::SETSTAT => Request::Setstat { path: from.path()?, attributes: Attributes::read(from)? },
        kind::FSETSTAT => Request::Fsetstat { handle: from.string()?, attributes: Attributes::read(from)? },
        kind::OPENDIR => Request::Opendir { path: from.path()? },
        kind::READDIR => Request::Readdir { handle: from.string()? },
        kind::REMOVE => Request::Remove { path: from.path()? },
        kind::MKDIR => Request::Mkdir { path: from.path()?, attributes: Attributes::read(from)? },
        kind::RMDIR => Request::Rmdir { path: from.path()? },
        kind::REALPATH => Request::Realpath { path: from.path()? },
        kind::STAT => Request::Stat { path: from.path()? },
        kind::RENAME => Request::Rename { from: from.path()?, to: from.path()? },
        kind::READLINK => Request::Readlink { path: from.path()? },
        kind::SYMLINK => Request::Symlink { target: from.path()?, link: from.path()? },
        kind::EXTENDED => match from.string()? {
            b"posix-rename@openssh.com" => extended(Extended::PosixRename { from: from.path()?, to: from.path()? }),
            b"statvfs@openssh.com" => extended(Extended::Statvfs { path: from.path()? }),
            b"fstatvfs@openssh.com" => extended(Extended::Fstatvfs { handle: from.string()? }),
            b"hardlink@openssh.com" => extended(Extended::Hardlink { from: from.path()?, to: from.path()? }),
            b"fsync@openssh.com" => extended(Extended::Fsync { handle: from.string()? }),
            b"lsetstat@openssh.com" => {
                extended(Extended::Lsetstat { path: from.path()?, attributes: Attributes::read(from)? })
            }
            b"limits@openssh.com" => extended(Extended::Limits),
            b"expand-path@openssh.com" => extended(Extended::ExpandPath { path: from.path()? }),
            b"copy-data" => extended(Extended::CopyData {
                from: from.string()?,
                from_offset: from.u64()?,
                length: from.u64()?,
                to: from.string()?,
                to_offset: from.u64()?,
            }),
            b"home-directory" => extended(Extended::HomeDirectory { user: from.path()? }),
            b"users-groups-by-id@openssh.com" => {
                extended(Extended::UsersGroupsById { uids: from.string()?, gids: from.string()? })
            }
            _ => Request::Unknown,
        },
        _ => Request::Unknown,
    })
}

fn extended(extended: Extended<'_>) -> Request<'_> {
    Request::Extended(extended)
}
