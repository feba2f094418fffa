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
//!
//! Besides programs there are jobs that carry the bytes of a socket in the box: `dial` opens one, `listen` waits for others to, and
//! `accept` takes one that a `listen` has announced. They are answered with `opened`; then `In` goes to the socket (empty: nothing more
//! comes), `Out` comes from it, `out_end` says that nothing more comes of it, and the connection closes when both directions have ended.
//! Closing it earlier closes the socket.
//!
//! ```text
//!  engine                              boxyard-init
//!    hello, dial{to, …}     ────────▶
//!                           ◀────────  hello, opened{…} | failed
//!    In*                   ◀───────▶   Out*, out_end
//!
//!    hello, listen{at, …}   ────────▶
//!                           ◀────────  hello, opened{where it listens} | failed
//!                           ◀────────  incoming{connection, from} for each; closing the connection ends the listening
//!    hello, accept{connection}  ────▶   (on another connection, within [`ACCEPT_SECONDS`])
//!                           ◀────────  hello, opened{…}, then as after `dial`
//! ```

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

/// How long a connection that `incoming` has announced waits to be accepted before it is closed, in seconds.
pub const ACCEPT_SECONDS: u64 = 30;

/// Connections of one `listen` that wait to be accepted at most; more stay in the kernel's queue.
pub const INCOMING_MAX: usize = 64;

/// Bytes of a job's output that are held until they are taken, at most; see [`Exec::spool`].
pub const HELD_MAX: usize = 1024 * 1024;

/// Bytes of held output after which a job may wait for them to be taken; see [`ToInit::Taken`].
pub const TAKEN_EVERY: usize = 32 * 1024;

/// How long a job whose held output is full waits for somebody to take it, when it has no connection, in seconds.
pub const HELD_SECONDS: u64 = 60;

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
    /// A remote login: the processes of the job's own session (`getsid` of the first one) are hung up and, except those that ignore
    /// SIGHUP, ended. What has left that session (`setsid`, `tmux`) or ignores SIGHUP (`nohup`) goes on. With a terminal that concerns
    /// the session's leader and the terminal's foreground; its shell hangs up its other jobs, but not those it was told to `disown`.
    /// Such a job without a terminal is over only when its first process has ended and nobody can write its output any more, as with
    /// OpenSSH's server.
    Hangup,
}

/// A terminal for a job: its standard input, output and error are one, and it is the job's controlling terminal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pty {
    /// Its size at the start.
    pub size: PtySize,
    /// Terminal modes, each an opcode of RFC 4254, section 8, and its argument: control characters, flags, speeds. Unknown ones are
    /// ignored. At most 256.
    #[serde(default)]
    pub modes: Vec<(u8, u32)>,
    /// A variable of the job that shall hold the terminal's path, `SSH_TTY` for example.
    #[serde(default)]
    pub variable: Option<String>,
}

/// The size of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PtySize {
    /// Characters in a line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
    /// Width in pixels, 0 when not known.
    #[serde(default)]
    pub width: u16,
    /// Height in pixels, 0 when not known.
    #[serde(default)]
    pub height: u16,
}

/// A program that is part of `boxyard-init` itself, started in a process of its own like any other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Builtin {
    /// An SFTP server, version 3 with OpenSSH's extensions, on standard input and output.
    Sftp,
    /// Work on files for the files API; see [`crate::files`]. Ability [`ability::FILES`].
    Files,
}

/// Which processes a signal goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Every process of the job, the ones that left its session or process group included.
    #[default]
    All,
    /// The process group of the job's first process; of a job with a terminal, the terminal's foreground process group.
    Group,
}

/// A socket address in a box.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Endpoint {
    /// TCP. Names are resolved in the box. To listen, `*` or an empty host means all addresses and `localhost` the loopback ones; port
    /// 0 means any.
    Tcp {
        /// Name or address, at most 255 bytes.
        host: String,
        /// Port.
        port: u16,
    },
    /// A Unix socket. Opened and made with the rights of the job's user.
    Unix {
        /// Absolute path, at most 107 bytes.
        path: String,
    },
    /// Only to listen: a Unix socket for an SSH agent, in a fresh folder in `/tmp` that only the job's user can enter. `opened` tells its
    /// path. Folder and socket are removed when the listening ends.
    AgentSocket,
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
    /// Runs on a terminal of this shape. `stdin` is then taken to be set, all output is [`Kind::Out`], and an end of input is not passed
    /// on (a terminal has none). Ability [`ability::PTY`].
    #[serde(default)]
    pub pty: Option<Pty>,
    /// Runs a part of `boxyard-init` instead of a program; `argv` is then only its name. Ability [`ability::SFTP`].
    #[serde(default)]
    pub builtin: Option<Builtin>,
    /// Nothing of its output is lost when the connection is: for jobs with [`OnClose::Keep`]. Output is counted in bytes from the job's
    /// start, both streams together in the order of their frames. What has been sent and not yet been [`ToInit::Taken`] is held, up to
    /// [`HELD_MAX`] bytes, and comes again after an [`ToInit::Attach`]. When that much is held the job's output is not read, so that the
    /// job waits; without a connection for [`HELD_SECONDS`] at most, after which the oldest bytes make room. Ability [`ability::SPOOL`].
    #[serde(default)]
    pub spool: bool,
}

impl Exec {
    /// A program without input, terminal or anything else that is out of the ordinary.
    pub fn new(job: impl Into<String>, argv: Vec<String>, folder: impl Into<String>, user: User) -> Self {
        Self {
            job: job.into(),
            argv,
            folder: folder.into(),
            env: Vec::new(),
            user,
            stdin: false,
            on_close: OnClose::End,
            pty: None,
            builtin: None,
            spool: false,
        }
    }
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
    /// lost, unless it was started with [`Exec::spool`]. An ended job's result, and what is held of its output, can be taken once; with
    /// [`Exec::spool`], until [`ToInit::Taken`] says that it is safe.
    Attach {
        /// The job's name.
        job: String,
        /// The first byte of its output that is wanted; `started` tells which one comes first.
        #[serde(default)]
        from: Option<u64>,
    },
    /// Output of a job with [`Exec::spool`] up to this byte is safe and need not be held any more. To be said at the latest when
    /// [`TAKEN_EVERY`] bytes have not been.
    Taken {
        /// How many bytes from the job's start. Never more than have been sent.
        upto: u64,
        /// How the job ended is safe, too: its result need not be kept any more. Until this is said it can be taken again, and again.
        #[serde(default)]
        ended: bool,
    },
    /// Sends a signal to processes of the job.
    Signal {
        /// Its number on Linux, 1 to 64.
        signal: i32,
        /// To which.
        #[serde(default)]
        scope: Scope,
    },
    /// As the first message of a connection: sends a signal to processes of the job of this name, whose own connection may be full of
    /// input that nobody reads. Answered with `started` or `failed`, the last message of the connection. Ability [`ability::SIGNAL_JOB`].
    SignalJob {
        /// The job's name.
        job: String,
        /// Its number on Linux, 1 to 64.
        signal: i32,
        /// To which.
        #[serde(default)]
        scope: Scope,
    },
    /// Changes the size of the job's terminal. Nothing happens to a job without one.
    Resize {
        /// The new size.
        size: PtySize,
    },
    /// Connects to a socket, from inside the box. Ability [`ability::DIAL`].
    Dial {
        /// Where to.
        to: Endpoint,
        /// Whose rights count for a Unix socket.
        user: User,
    },
    /// Listens on a socket inside the box until the connection closes. Ability [`ability::LISTEN`].
    Listen {
        /// Where.
        at: Endpoint,
        /// Whose rights count for a Unix socket. Ports below 1024 are for root only.
        user: User,
    },
    /// Takes a connection that an `incoming` has announced.
    Accept {
        /// Its number.
        connection: u64,
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
        /// The number of the first byte of output that follows, with [`Exec::spool`]. Above what was asked for when bytes before it are
        /// lost.
        #[serde(default)]
        from: u64,
    },
    /// A `dial`, `listen` or `accept` has its socket.
    Opened {
        /// The other side's address for `dial`, our own for `listen`: an IP address, or a path.
        #[serde(default)]
        host: String,
        /// Its port, 0 for Unix sockets.
        #[serde(default)]
        port: u16,
    },
    /// Somebody has connected to a `listen`.
    Incoming {
        /// The number to [`ToInit::Accept`] it with; never used twice in a box's life.
        connection: u64,
        /// Where it comes from: an IP address, empty for Unix sockets.
        #[serde(default)]
        host: String,
        /// Its port, 0 for Unix sockets.
        #[serde(default)]
        port: u16,
    },
    /// No more [`Kind::Out`] will come of this socket.
    OutEnd,
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
        Self { protocol: PROTOCOL, abilities: ability::OURS.iter().map(|&name| name.to_owned()).collect() }
    }

    /// Whether the speaker has this ability.
    pub fn can(&self, name: &str) -> bool {
        self.abilities.iter().any(|ability| ability == name)
    }
}

/// Names of abilities in [`Hello`]. A peer without one ignores or refuses what needs it.
pub mod ability {
    /// [`super::Exec`].
    pub const EXEC: &str = "exec";
    /// [`super::ToInit::Attach`].
    pub const ATTACH: &str = "attach";
    /// [`super::Exec::pty`], [`super::ToInit::Resize`] and [`super::OnClose::Hangup`].
    pub const PTY: &str = "pty";
    /// [`super::Builtin::Sftp`].
    pub const SFTP: &str = "sftp";
    /// [`super::ToInit::SignalJob`].
    pub const SIGNAL_JOB: &str = "signal-job";
    /// [`super::ToInit::Dial`].
    pub const DIAL: &str = "dial";
    /// [`super::ToInit::Listen`] and [`super::ToInit::Accept`].
    pub const LISTEN: &str = "listen";
    /// [`super::Builtin::Files`].
    pub const FILES: &str = "files";
    /// [`super::Exec::spool`], [`super::ToInit::Attach::from`], [`super::ToInit::Taken`].
    pub const SPOOL: &str = "spool";

    /// Those of this version.
    pub const OURS: [&str; 9] = [EXEC, ATTACH, PTY, SFTP, SIGNAL_JOB, DIAL, LISTEN, FILES, SPOOL];
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
    pub const KNOWN: [&str; 11] =
        ["hello", "exec", "attach", "taken", "signal", "signal_job", "resize", "end", "dial", "listen", "accept"];
}

impl FromInit {
    /// The `type`s of this version.
    pub const KNOWN: [&str; 8] = ["hello", "started", "opened", "incoming", "out_end", "exit", "failed", "unsupported"];
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
