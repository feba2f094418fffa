//! What is said to [`Builtin::Files`](crate::wire::Builtin::Files), the part of `boxyard-init` that works on files: a process of its own
//! inside the box, as the job's user, so that the kernel itself says what it may touch and nothing on the host opens a path of a box.
//!
//! Its standard input and output carry frames as [`wire`](crate::wire) defines them. Requests are carried out one after the other, in
//! order; more may be sent before the first is answered, and each gets exactly one final answer, [`Answer::Done`] or
//! [`Answer::Failed`]. What a request yields comes before it. When standard input ends, what has been asked is finished and the process
//! exits.
//!
//! ```text
//!  server                                  files
//!    Json write{path, …}        ────────▶
//!    In* (content; empty = all) ────────▶
//!                               ◀────────  Json done | failed
//!    Json read{path, …}         ────────▶
//!                               ◀────────  Json opened{stat}, Out* (content), Json done | failed
//!    Json list{path}            ────────▶
//!                               ◀────────  Json entries{…}*, Json done | failed
//! ```
//! A failed `write` or `unpack` reads the rest of its content all the same, so that the next request is found. Content that nobody asked
//! for, as after a request that was not understood, is skipped. Answers must be read while requests are sent: nobody buffers them.
//!
//! Paths are bytes, not text: names of files need not be UTF-8. In JSON they are [`PathText`]. `.`, `..`, repeated slashes and symbolic
//! links mean what they mean to the kernel, as long as every step stays in the roots; a path that ends in a slash means a folder. The
//! roots themselves can be looked at and worked in, but not made, renamed, replaced or removed.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// Bytes of a path at most, as for the kernel.
pub const PATH_MAX: usize = 4096;

/// Entries of an `entries` or `matches` message at most.
pub const ENTRIES_MAX: usize = 512;

/// Entries that one [`Ask::List`] tells at most; a longer folder is listed in turns, with `after`.
pub const LIST_MAX: u32 = 100_000;

/// Matches that one [`Search`] tells at most.
pub const SEARCH_MAX: u32 = 10_000;

/// Matches that a [`Search`] without a limit tells at most.
pub const SEARCH_DEFAULT: u32 = 1_000;

/// Folders that one [`Ask::Watch`] watches at most.
pub const WATCH_MAX: usize = 8_192;

/// Folders that the files API works in, and nothing outside of: symbolic links that lead out of them are refused, `..` above them too.
pub const ROOTS: [&str; 2] = ["/workspace/home", "/home/boxuser"];

/// A path or name as JSON can carry it: UTF-8 as it is, anything else in base64.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PathText {
    /// UTF-8.
    Text(String),
    /// Anything else.
    Bytes {
        /// The bytes, in standard base64 with padding.
        base64: String,
    },
}

impl PathText {
    /// In the form that fits.
    pub fn new(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Bytes { base64: STANDARD.encode(bytes) },
        }
    }

    /// The bytes. None where the base64 is none.
    pub fn bytes(&self) -> Option<Cow<'_, [u8]>> {
        match self {
            Self::Text(text) => Some(Cow::Borrowed(text.as_bytes())),
            Self::Bytes { base64 } => STANDARD.decode(base64).ok().map(Cow::Owned),
        }
    }
}

impl From<&str> for PathText {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Ask {
    /// Reads a file: `opened`, its bytes, `done`. A range beyond the end is empty.
    Read {
        /// Absolute path.
        path: PathText,
        /// First byte.
        #[serde(default)]
        offset: u64,
        /// Bytes at most; to the end when missing. What a file gains after it was opened is not read; when
        /// it shrinks meanwhile, `done` is `truncated`.
        #[serde(default)]
        length: Option<u64>,
    },
    /// Writes a file in one step: the content goes to a temporary file beside it, which then takes its name. Missing folders are made,
    /// and stay when the rest fails. An existing file keeps its permission bits (less set-uid and set-gid, as with write(2)) and, where
    /// the kernel lets us, its owner; other hard links of it keep the old content. A new file has 0644. A symbolic link inside the roots
    /// is written through. The answer comes without fsync: a crash of the host may undo it, one of the server or box does not.
    Write {
        /// Absolute path.
        path: PathText,
        /// Permission bits, 0 to 0o7777, of a new file and of an existing one.
        #[serde(default)]
        mode: Option<u32>,
    },
    /// What is in a folder, without `.` and `..`, in order of the names' bytes: `entries`*, `done`, `truncated` when there is more. Of
    /// anything that is no folder nothing.
    List {
        /// Absolute path.
        path: PathText,
        /// Only names after this one, for the next turn of a folder that is longer than the limit.
        #[serde(default)]
        after: Option<PathText>,
        /// Entries at most; [`LIST_MAX`] when missing or more.
        #[serde(default)]
        limit: Option<u32>,
    },
    /// What a path is: `stat`, `done`.
    Stat {
        /// Absolute path.
        path: PathText,
        /// Of what a symbolic link leads to instead of the link.
        #[serde(default)]
        follow: bool,
    },
    /// Makes a folder.
    Mkdir {
        /// Absolute path.
        path: PathText,
        /// Its missing parents too, and no failure when it is there.
        #[serde(default)]
        parents: bool,
    },
    /// Renames, in place of what is there, as rename(2). Folders for the new name are not made.
    Rename {
        /// Absolute path.
        from: PathText,
        /// Absolute path.
        to: PathText,
    },
    /// Removes a file or a link. When a recursive one fails, it says so where a part is gone.
    Remove {
        /// Absolute path.
        path: PathText,
        /// A folder with all that is in it, links as links. Without it a folder, even an empty one, is [`Failure::IsFolder`].
        #[serde(default)]
        recursive: bool,
    },
    /// Sets permission bits, of what a symbolic link leads to.
    Chmod {
        /// Absolute path.
        path: PathText,
        /// 0 to 0o7777.
        mode: u32,
        /// Of everything below it too, but not through links there.
        #[serde(default)]
        recursive: bool,
    },
    /// A folder or file as an archive: `opened`, its bytes, `done`. Names in it are relative to the folder, which is not in it itself; a
    /// file is in it by its own name. In order of names. Links are stored as links; sockets, devices, and what cannot be read are left
    /// out, and `done` is then `truncated`, as it is when a file shrank while it was read: it is filled up with zeros.
    Archive {
        /// Absolute path.
        path: PathText,
        /// In which form.
        format: Format,
    },
    /// Unpacks a tar archive, plain or compressed with gzip, its content following as with `write`, into a folder, which is made if it is
    /// missing. Files and links that are there are replaced, folders are kept. Names and hard links that lead out of the folder, through
    /// a link even, fail the rest; what came before stays, and the message says so. Symbolic links are made as they are, FIFOs and
    /// devices left out (`done` is then `truncated`). Permission bits without set-uid and set-gid, and times, are the archive's; the
    /// owner is not.
    Unpack {
        /// Absolute path of the folder.
        path: PathText,
    },
    /// Finds files by name or content: `matches`*, `done{truncated}`.
    Search(Search),
    /// Tells of changes below a folder until standard input ends: `watching`, `changes`*. Ends with `done` when the folder itself is gone.
    /// Nothing that comes on standard input after it is read.
    Watch {
        /// Absolute path.
        path: PathText,
        /// In folders below it as well.
        #[serde(default)]
        recursive: bool,
    },
}

/// The form of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// POSIX tar with pax headers where they are needed.
    Tar,
    /// The same, compressed with gzip.
    TarGz,
    /// Zip with data descriptors, deflated or stored.
    Zip,
}

/// What to look for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Search {
    /// Absolute path of the folder to look in.
    pub path: Option<PathText>,
    /// A glob for names, or for paths below the folder where it has a `/`; everything when missing.
    pub name: Option<String>,
    /// A text, or a regular expression, that a line has to contain; then matches tell lines.
    pub content: Option<String>,
    /// `content` is a regular expression, without look-around and back-references; `\w`, `\d` and `\s` are about ASCII.
    pub regex: bool,
    /// Capital and small letters are the same, those of ASCII.
    pub ignore_case: bool,
    /// Names with a leading dot count too, and what is below them.
    pub hidden: bool,
    /// Matches at most: 0 means [`SEARCH_DEFAULT`], more than [`SEARCH_MAX`] means that. Time and bytes read have bounds too; `done` is
    /// `truncated` when one was met.
    pub limit: u32,
}

/// What is answered. None of it is to be trusted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Answer {
    /// The file or archive is open; its bytes follow.
    Opened {
        /// What it is.
        stat: Stat,
        /// Bytes that will follow unless it shrinks meanwhile; unknown for archives.
        #[serde(default)]
        length: Option<u64>,
    },
    /// What a path is.
    Stat {
        /// It.
        stat: Stat,
    },
    /// Some of a folder's entries, [`ENTRIES_MAX`] at most.
    Entries {
        /// They.
        entries: Vec<Entry>,
    },
    /// Some matches of a search, [`ENTRIES_MAX`] at most.
    Matches {
        /// They.
        matches: Vec<Match>,
    },
    /// The watch is set: changes from now on are told.
    Watching {
        /// There are more folders than [`WATCH_MAX`], or than the kernel lets us watch: changes in some are not told.
        #[serde(default)]
        truncated: bool,
    },
    /// What has changed, [`ENTRIES_MAX`] at most.
    Changes {
        /// In order.
        changes: Vec<Change>,
        /// Some before these were lost, because there were too many at once.
        #[serde(default)]
        lost: bool,
    },
    /// The request has been carried out.
    Done {
        /// There would have been more, or something was left out; see the request.
        #[serde(default)]
        truncated: bool,
    },
    /// It has not, and has changed nothing unless the text says so.
    Failed {
        /// What sort of failure.
        kind: Failure,
        /// A text fit for a user, without the path.
        message: String,
    },
}

/// Why a request failed. An unknown kind from a newer peer reads as [`Failure::Other`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// There is nothing at the path.
    NotFound,
    /// There is something already.
    Exists,
    /// The user may not, or the path leads out of the roots.
    Denied,
    /// A folder where a file is needed, or without `recursive`.
    IsFolder,
    /// Something else where a folder is needed.
    NotFolder,
    /// A folder with something in it, where rename(2) would need an empty one.
    NotEmpty,
    /// Neither file nor folder: a device, socket or FIFO is not opened.
    Special,
    /// The box's disk is full.
    NoSpace,
    /// The request itself is wrong: a relative or too long path, a mode or pattern that is none.
    Invalid,
    /// Anything else.
    #[serde(other)]
    Other,
}

/// What a path is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stat {
    /// Sort.
    pub kind: FileKind,
    /// Bytes.
    pub size: u64,
    /// Permission bits, 0 to 0o7777.
    pub mode: u32,
    /// Nanoseconds since 1970 of its last change of content.
    pub modified_ns: i64,
    /// Number of its inode.
    pub inode: u64,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Where a symbolic link leads. Also there where the rest is about what it leads to.
    #[serde(default)]
    pub target: Option<PathText>,
}

/// The sort of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    /// A regular file.
    File,
    /// A folder.
    Directory,
    /// A symbolic link.
    Symlink,
    /// Device, socket or FIFO.
    #[serde(other)]
    Other,
}

/// An entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name.
    pub name: PathText,
    /// What it is; of a symbolic link what it leads to, or itself when that is nothing.
    pub stat: Stat,
}

/// A match of a search.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Match {
    /// Absolute path.
    pub path: PathText,
    /// Its sort.
    pub kind: FileKind,
    /// Number of the line, from 1, where content was looked for.
    #[serde(default)]
    pub line: Option<u64>,
    /// The line, lossily decoded and cut to 1,000 characters.
    #[serde(default)]
    pub text: Option<String>,
}

/// A change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What happened.
    pub kind: ChangeKind,
    /// Absolute path.
    pub path: PathText,
    /// Where it was before, for a rename.
    #[serde(default)]
    pub from: Option<PathText>,
    /// Whether it is a folder.
    #[serde(default)]
    pub is_dir: bool,
}

/// The sort of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// Something new is there.
    Create,
    /// Content or permissions have changed.
    Modify,
    /// It is gone.
    Delete,
    /// It has another name.
    Rename,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn requests_read_as_they_are_written_by_hand() {
        let ask: Ask = serde_json::from_str(r#"{"type":"read","path":"/workspace/home/a"}"#).expect("a request");
        assert_eq!(ask, Ask::Read { path: "/workspace/home/a".into(), offset: 0, length: None });
        let ask: Ask =
            serde_json::from_str(r#"{"type":"search","path":{"base64":"L/8="},"new":1}"#).expect("a request");
        let Ask::Search(search) = ask else { panic!("{ask:?}") };
        assert_eq!(search.path.as_ref().and_then(PathText::bytes).as_deref(), Some(&b"/\xff"[..]));
        assert_eq!(
            serde_json::to_string(&Answer::Watching { truncated: false }).expect("text"),
            r#"{"type":"watching","truncated":false}"#
        );
        assert_eq!(PathText::Bytes { base64: "?".into() }.bytes(), None);
    }

    #[test]
    fn kinds_of_a_newer_peer_are_read() {
        let failed: Answer =
            serde_json::from_str(r#"{"type":"failed","kind":"tired","message":"m"}"#).expect("an answer");
        assert_eq!(failed, Answer::Failed { kind: Failure::Other, message: "m".into() });
        assert_eq!(serde_json::from_str::<FileKind>("\"door\"").expect("a kind"), FileKind::Other);
    }

    proptest! {
        #[test]
        fn any_path_survives_json(bytes: Vec<u8>) {
            let json = serde_json::to_string(&PathText::new(&bytes)).expect("text");
            let path: PathText = serde_json::from_str(&json).expect("a path");
            prop_assert_eq!(path.bytes().expect("bytes").into_owned(), bytes);
        }
    }
}
