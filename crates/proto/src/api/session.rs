//! Live sessions: the JSON text frames of the WebSocket `GET /v2/box/{id}/exec-session`.
//!
//! Frames are read by [`ClientFrame::parse`] and [`ServerFrame::parse`] and not by serde's derived code for tagged enums: that would
//! first make a tree of every value in a frame, which takes up to thirty times the frame's bytes.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// Bytes of a frame without data (`start` is the longest) at most: more than any command and its variables can have.
pub const CONTROL_MAX: usize = 4 * 1024 * 1024;

/// Why a frame cannot be understood.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// It is not JSON, has no `type`, or lacks a field.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// It is longer than [`CONTROL_MAX`] and carries no data.
    #[error("a {0} frame has more than {CONTROL_MAX} bytes")]
    TooLong(&'static str),
}

/// What a client says. The first frame is `start`; a frame of another `type` than these is ignored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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
        #[serde(rename = "graceMs", skip_serializing_if = "Option::is_none")]
        grace_ms: Option<u64>,
    },
}

#[derive(Deserialize)]
struct Tag<'a> {
    #[serde(borrow)]
    r#type: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Data {
    data: String,
}

impl ClientFrame {
    /// The `type`s of this version.
    pub const KNOWN: [&str; 6] = ["start", "stdin", "stdin_close", "resize", "signal", "terminate"];

    /// Reads a frame. Fields that are not known are passed over, and so is a whole frame of another `type`: then there is `None`.
    ///
    /// # Errors
    /// It makes no sense.
    pub fn parse(text: &str) -> Result<Option<Self>, FrameError> {
        #[derive(Deserialize)]
        struct Size {
            rows: u32,
            cols: u32,
        }
        #[derive(Deserialize)]
        struct Named {
            signal: String,
        }
        #[derive(Deserialize)]
        struct Grace {
            #[serde(rename = "graceMs", default)]
            grace_ms: Option<u64>,
        }
        let Some(kind) = kind(text, &Self::KNOWN)? else { return Ok(None) };
        if kind == "stdin" {
            let Data { data } = serde_json::from_str(text)?;
            return Ok(Some(Self::Stdin { data }));
        }
        if text.len() > CONTROL_MAX {
            return Err(FrameError::TooLong(kind));
        }
        Ok(Some(match kind {
            "start" => Self::Start(serde_json::from_str(text)?),
            "stdin_close" => Self::StdinClose,
            "resize" => {
                let Size { rows, cols } = serde_json::from_str(text)?;
                Self::Resize { rows, cols }
            }
            "signal" => {
                let Named { signal } = serde_json::from_str(text)?;
                Self::Signal { signal }
            }
            "terminate" => {
                let Grace { grace_ms } = serde_json::from_str(text)?;
                Self::Terminate { grace_ms }
            }
            _ => return Ok(None),
        }))
    }
}

/// The `type` of a frame, if it is one of those.
fn kind(text: &str, known: &[&'static str]) -> Result<Option<&'static str>, FrameError> {
    let Tag { r#type } = serde_json::from_str(text)?;
    Ok(known.iter().copied().find(|known| *known == r#type))
}

/// What to start, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Start {
    /// Program and arguments, run without a shell. Wins over `cmd`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub argv: Option<Vec<String>>,
    /// A command line for `bash -lc`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmd: Option<String>,
    /// Run it on a terminal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tty: Option<bool>,
    /// Working folder: absolute, or relative to `/workspace/home`, which is the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Lines of the terminal; 24 when missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<u32>,
    /// Characters in a line of the terminal; 80 when missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cols: Option<u32>,
    /// `NAME=value` over the box's variables. Blocked names are left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env: Option<Vec<String>>,
    /// The client wants to be told how much input it may send ahead ([`ServerFrame::Started::window`]) and keeps to it, so that input
    /// which the program does not read never stands in the way of its other frames. An addition of ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<bool>,
}

/// What the server says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ServerFrame {
    /// The program runs.
    Started {
        /// Its process id inside the box, above 0.
        pid: u32,
        /// The session's name.
        #[serde(rename = "execId")]
        exec_id: String,
        /// To a client that has asked: how many bytes of input it may send beyond those that [`StdinTaken`](Self::StdinTaken) told of.
        #[serde(skip_serializing_if = "Option::is_none")]
        window: Option<u64>,
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
    /// To a client that has asked: so many bytes of its input, from the beginning on, have been passed on to the program.
    StdinTaken {
        /// How many.
        total: u64,
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

impl ServerFrame {
    /// The `type`s of this version.
    pub const KNOWN: [&str; 6] = ["started", "stdout", "stderr", "stdin_taken", "exit", "error"];

    /// Reads a frame, as [`ClientFrame::parse`] does.
    ///
    /// # Errors
    /// It makes no sense.
    pub fn parse(text: &str) -> Result<Option<Self>, FrameError> {
        #[derive(Deserialize)]
        struct Begun {
            pid: u32,
            #[serde(rename = "execId")]
            exec_id: String,
            #[serde(default)]
            window: Option<u64>,
        }
        #[derive(Deserialize)]
        struct Total {
            total: u64,
        }
        #[derive(Deserialize)]
        struct Code {
            code: i32,
        }
        #[derive(Deserialize)]
        struct Text {
            message: String,
        }
        let Some(kind) = kind(text, &Self::KNOWN)? else { return Ok(None) };
        Ok(Some(match kind {
            "stdout" => {
                let Data { data } = serde_json::from_str(text)?;
                Self::Stdout { data }
            }
            "stderr" => {
                let Data { data } = serde_json::from_str(text)?;
                Self::Stderr { data }
            }
            "started" => {
                let Begun { pid, exec_id, window } = serde_json::from_str(text)?;
                Self::Started { pid, exec_id, window }
            }
            "stdin_taken" => {
                let Total { total } = serde_json::from_str(text)?;
                Self::StdinTaken { total }
            }
            "exit" => {
                let Code { code } = serde_json::from_str(text)?;
                Self::Exit { code }
            }
            "error" => {
                let Text { message } = serde_json::from_str(text)?;
                Self::Error { message }
            }
            _ => return Ok(None),
        }))
    }
}
