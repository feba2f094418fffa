//! The protocol between an engine and `boxyard-init`: **one connection is one job**.
//!
//! Opening a connection starts a job, its frames carry the job's bytes, closing it ends the job (unless the job asked to be kept, see
//! [`OnClose`]). Hence no stream numbers and no credit: back-pressure is the socket's own.
//!
//! A frame is `[u32 length, big endian][u8 kind][payload]`; the length counts the payload only and is at most [`FRAME_MAX`]. Kind
//! [`Kind::Json`] carries one control message, the other kinds raw bytes. Both sides open with a `hello` and need not wait for the
//! other's. A running box keeps the `boxyard-init` it started with while the server is upgraded, so: fields are only ever added, with
//! a default; unknown fields are ignored; an unknown message is answered with `unsupported`.
//!
//! ```text
//!  engine                              boxyard-init
//!    hello, exec{argv, …}   ────────▶
//!    In* (stdin; empty = EOF) ──────▶
//!                           ◀────────  hello, started{pid}
//!                           ◀────────  Out*, Err*
//!    signal | end           ────────▶
//!                           ◀────────  exit{code, cpu_ns, memory_peak}, then the connection closes
//! ```
//!
//! A job that cannot start is answered with `failed` instead of `started`.

use serde::{Deserialize, Serialize};

/// The number in every `hello`. It changes only when an older peer would misread a frame; new abilities are names in `hello`.
pub const PROTOCOL: u32 = 1;

/// Bytes of a frame's payload at most.
pub const FRAME_MAX: usize = 1024 * 1024;

/// Bytes before a frame's payload.
pub const HEADER_LEN: usize = 5;

/// Bytes of a control message at most. Larger than [`FRAME_MAX`] is never needed: argv and environment are capped far below.
pub const JSON_MAX: usize = FRAME_MAX;

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A control message, [`ToInit`] or [`FromInit`].
    Json,
    /// Bytes for the job's standard input. An empty frame ends it.
    In,
    /// Bytes of the job's standard output.
    Out,
    /// Bytes of the job's standard error.
    Err,
}

impl Kind {
    /// The kind's number on the wire.
    pub const fn number(self) -> u8 {
        match self {
            Self::Json => 0,
            Self::In => 1,
            Self::Out => 2,
            Self::Err => 3,
        }
    }
}

/// A header that no peer of ours would send. The connection is of no more use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The payload would be longer than [`FRAME_MAX`].
    #[error("frame of {0} bytes is longer than {FRAME_MAX}")]
    TooLong(u32),
    /// The kind has no meaning in this protocol.
    #[error("frame of unknown kind {0}")]
    UnknownKind(u8),
}

/// Makes a frame's header. `length` must be at most [`FRAME_MAX`]; callers split longer data.
pub fn header(kind: Kind, length: usize) -> [u8; HEADER_LEN] {
    debug_assert!(length <= FRAME_MAX, "callers split data into frames");
    let [a, b, c, d] = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    [a, b, c, d, kind.number()]
}

/// Reads a frame's header: its kind and the length of the payload that follows.
///
/// # Errors
/// The header breaks the protocol; nothing after it can be trusted.
pub fn parse_header(header: [u8; HEADER_LEN]) -> Result<(Kind, usize), FrameError> {
    let [a, b, c, d, kind] = header;
    let length = u32::from_be_bytes([a, b, c, d]);
    let kind = match kind {
        0 => Kind::Json,
        1 => Kind::In,
        2 => Kind::Out,
        3 => Kind::Err,
        other => return Err(FrameError::UnknownKind(other)),
    };
    match usize::try_from(length) {
        Ok(payload) if payload <= FRAME_MAX => Ok((kind, payload)),
        Ok(_) | Err(_) => Err(FrameError::TooLong(length)),
    }
}

/// A whole frame with a control message in it.
pub fn json_frame<M: Serialize>(message: &M) -> Vec<u8> {
    let mut frame = vec![0; HEADER_LEN];
    // Our own messages always serialise: maps have text keys and nothing fails on purpose.
    if serde_json::to_writer(&mut frame, message).is_err() {
        frame.truncate(HEADER_LEN);
    }
    let header = header(Kind::Json, frame.len() - HEADER_LEN);
    frame[..HEADER_LEN].copy_from_slice(&header);
    frame
}

/// What becomes of a job when its connection closes before it has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnClose {
    /// The whole process tree is ended: sessions, whose life is their connection.
    #[default]
    End,
    /// The job goes on, its output is read and dropped, and its end is held for a later [`ToInit::Attach`]: commands whose result is
    /// recorded even when the server restarts meanwhile.
    Keep,
}

/// Who a job runs as, in the ids of the box.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User id inside the box.
    pub uid: u32,
    /// Group id inside the box; the job has no other groups.
    pub gid: u32,
}

impl User {
    /// The box's root.
    pub const ROOT: Self = Self { uid: 0, gid: 0 };
    /// `boxuser`, who all work of users is done as.
    pub const BOXUSER: Self = Self { uid: 1000, gid: 1000 };
}

/// A program to start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// The job's name, chosen by the engine's user and unique in the box; [`ToInit::Attach`] finds the job by it.
    pub job: String,
    /// Program and arguments. The program is looked up in the `PATH` of `env` when it has no `/`. Never empty, never with a NUL.
    pub argv: Vec<String>,
    /// Absolute working folder.
    pub folder: String,
    /// `NAME=value` over the box's base environment (see [`crate::launch::Launch::env`]); later entries win.
    #[serde(default)]
    pub env: Vec<String>,
    /// Who it runs as.
    pub user: User,
    /// Whether standard input comes in [`Kind::In`] frames. Otherwise it is `/dev/null`.
    #[serde(default)]
    pub stdin: bool,
    /// What the end of the connection means.
    #[serde(default)]
    pub on_close: OnClose,
}

/// What an engine says to `boxyard-init`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToInit {
    /// Opens every connection.
    Hello(Hello),
    /// Starts a program. The connection is now this job's.
    Exec(Exec),
    /// Takes over a job started with [`OnClose::Keep`] whose connection is gone. Answered like `exec`, then with what follows; a job
    /// that nobody knows is answered with `failed` of kind [`FailedKind::NotFound`]. What a job wrote while it had no connection is
    /// lost. An ended job's result can be taken once.
    Attach {
        /// The job's name.
        job: String,
    },
    /// Sends a signal to every process of the job.
    Signal {
        /// Its number on Linux, 1 to 64.
        signal: i32,
    },
    /// Ends every process of the job, the ones that left its session or process group included: TERM, then KILL.
    End {
        /// Milliseconds between the two; 0 kills at once.
        #[serde(default)]
        grace_ms: u64,
    },
}

/// What `boxyard-init` says to an engine. None of it is to be trusted: a box's root may have taken `boxyard-init` over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromInit {
    /// Opens every connection.
    Hello(Hello),
    /// The job's program is running.
    Started {
        /// Its process id inside the box, taken when it was started, so above 0 even when it has ended since.
        pid: u32,
    },
    /// The job has ended: its first process is gone and its output is complete, or a background child still holds the output open and
    /// the time to wait for that is over. The last message of a connection.
    Exit(Exit),
    /// The job could not be started. The last message of a connection.
    Failed {
        /// What sort of failure.
        kind: FailedKind,
        /// A lower-case text that says what could not be done, fit for a user.
        message: String,
    },
    /// The last message was not understood and nothing was done.
    Unsupported {
        /// Its `type`.
        message: String,
    },
}

/// The first message of each side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL`] of the speaker.
    pub protocol: u32,
    /// Kinds of jobs and messages that the speaker understands beyond the first version's, for example `pty`.
    #[serde(default)]
    pub abilities: Vec<String>,
}

impl Hello {
    /// This version's own greeting.
    pub fn ours() -> Self {
        Self { protocol: PROTOCOL, abilities: vec!["exec".into(), "attach".into()] }
    }
}

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code 0 to 255 of the first process; 128 + n when signal n ended it.
    pub code: i32,
    /// The signal that ended it, if one did.
    #[serde(default)]
    pub signal: Option<i32>,
    /// CPU time of the whole process tree, in nanoseconds, user and system.
    #[serde(default)]
    pub cpu_ns: u64,
    /// Peak memory of the process tree in bytes: of the cgroup where the kernel keeps one (cgroup v2), else of the largest process.
    #[serde(default)]
    pub memory_peak: u64,
}

/// Why a job could not start. An unknown kind from a newer peer reads as [`FailedKind::Other`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailedKind {
    /// Folder, program or job does not exist.
    NotFound,
    /// The program may not be run, or the folder not entered.
    NotAllowed,
    /// The box is out of processes, memory or open files.
    Exhausted,
    /// The request itself is wrong.
    Invalid,
    /// Anything else.
    #[serde(other)]
    Other,
}

/// A control message as it came off the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed<M> {
    /// A message of this version.
    Known(M),
    /// A message with a `type` that this version does not know, to be answered with `unsupported`.
    Unknown(String),
}

/// Reads a control message.
///
/// # Errors
/// The payload is not JSON, has no `type`, or a known message lacks a field.
pub fn parse<'a, M: Deserialize<'a>>(payload: &'a [u8], known: &[&str]) -> Result<Parsed<M>, serde_json::Error> {
    #[derive(Deserialize)]
    struct Tag {
        r#type: String,
    }
    match serde_json::from_slice(payload) {
        Ok(message) => Ok(Parsed::Known(message)),
        Err(error) => match serde_json::from_slice::<Tag>(payload) {
            Ok(tag) if !known.contains(&tag.r#type.as_str()) => Ok(Parsed::Unknown(tag.r#type)),
            Ok(_) | Err(_) => Err(error),
        },
    }
}

impl ToInit {
    /// The `type`s of this version.
    pub const KNOWN: [&str; 5] = ["hello", "exec", "attach", "signal", "end"];
}

impl FromInit {
    /// The `type`s of this version.
    pub const KNOWN: [&str; 5] = ["hello", "started", "exit", "failed", "unsupported"];
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_header_is_read_or_refused_without_panic(bytes: [u8; HEADER_LEN]) {
            if let Ok((kind, length)) = parse_header(bytes) {
                prop_assert!(length <= FRAME_MAX);
                prop_assert_eq!(header(kind, length), bytes);
            }
        }
    }

    #[test]
    fn an_older_peer_can_tell_new_messages_and_ignore_new_fields() {
        let newer = br#"{"type":"end","grace_ms":5,"because":"why not"}"#;
        assert_eq!(parse::<ToInit>(newer, &ToInit::KNOWN).ok(), Some(Parsed::Known(ToInit::End { grace_ms: 5 })));
        let unknown = br#"{"type":"teleport","to":"mars"}"#;
        assert_eq!(parse::<ToInit>(unknown, &ToInit::KNOWN).ok(), Some(Parsed::Unknown("teleport".into())));
        assert!(parse::<ToInit>(br#"{"type":"signal"}"#, &ToInit::KNOWN).is_err());
        assert!(parse::<ToInit>(b"\xff", &ToInit::KNOWN).is_err());
        let kind = br#"{"type":"failed","kind":"tired","message":"m"}"#;
        let failed = FromInit::Failed { kind: FailedKind::Other, message: "m".into() };
        assert_eq!(parse::<FromInit>(kind, &FromInit::KNOWN).ok(), Some(Parsed::Known(failed)));
    }

    #[test]
    fn a_json_frame_carries_its_own_length() {
        let frame = json_frame(&ToInit::Hello(Hello::ours()));
        let mut head = [0; HEADER_LEN];
        head.copy_from_slice(&frame[..HEADER_LEN]);
        assert_eq!(parse_header(head), Ok((Kind::Json, frame.len() - HEADER_LEN)));
    }
}
