//! Live sessions: the JSON text frames of the WebSocket `GET /v2/box/{id}/exec-session`.

use serde::{Deserialize, Serialize};

/// What a client says. The first frame is `start`; a frame of another `type` than these is ignored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ClientFrame {
    /// Starts the program.
    Start(Start),
    /// Bytes for its standard input.
    Stdin {
        /// In base64.
        data: String,
    },
    /// Nothing more comes for its standard input. On a terminal this is the control character for it, Ctrl-D.
    StdinClose,
    /// Changes the size of its terminal.
    Resize {
        /// Lines.
        rows: u32,
        /// Characters in a line.
        cols: u32,
    },
    /// Sends a signal to its whole process tree.
    Signal {
        /// Its name without `SIG`: TERM, KILL, INT, HUP, TSTP, QUIT, USR1 or USR2, or another of Linux.
        signal: String,
    },
    /// Ends its whole process tree: TERM, then KILL. Only the first one counts.
    Terminate {
        /// Milliseconds between the two; 5,000 when missing.
        #[serde(rename = "graceMs", default)]
        grace_ms: Option<u64>,
    },
}

impl ClientFrame {
    /// The `type`s of this version.
    pub const KNOWN: [&str; 6] = ["start", "stdin", "stdin_close", "resize", "signal", "terminate"];
}

/// What to start, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Start {
    /// Program and arguments, run without a shell. Wins over `cmd`.
    pub argv: Option<Vec<String>>,
    /// A command line for `bash -lc`.
    pub cmd: Option<String>,
    /// Run it on a terminal.
    pub tty: Option<bool>,
    /// Working folder: absolute, or relative to `/workspace/home`, which is the default.
    pub cwd: Option<String>,
    /// Lines of the terminal; 24 when missing.
    pub rows: Option<u32>,
    /// Characters in a line of the terminal; 80 when missing.
    pub cols: Option<u32>,
    /// `NAME=value` over the box's variables. Blocked names are left out.
    pub env: Option<Vec<String>>,
}

/// What the server says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ServerFrame {
    /// The program runs.
    Started {
        /// Its process id inside the box, above 0.
        pid: u32,
        /// The session's name.
        #[serde(rename = "execId")]
        exec_id: String,
    },
    /// Bytes of its standard output; of a terminal, all output.
    Stdout {
        /// In base64.
        data: String,
    },
    /// Bytes of its standard error.
    Stderr {
        /// In base64.
        data: String,
    },
    /// It has ended, and all of its output has been sent. The last frame.
    Exit {
        /// Exit code; 128 + n when signal n ended it.
        code: i32,
    },
    /// It could not be started, or was lost. The last frame.
    Error {
        /// Why.
        message: String,
    },
}
