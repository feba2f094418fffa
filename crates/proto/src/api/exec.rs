//! Commands and code.

use serde::{Deserialize, Serialize};

/// Body of `POST /v2/box/{id}/exec` and `…/exec-stream`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct ExecRequest {
    /// Program and arguments, run without a shell. Required; not empty.
    pub command: Option<Vec<String>>,
    /// Working folder: absolute, or relative to `/workspace/home`, which is the default.
    pub folder: Option<String>,
    /// Answer at once with the run's id and let the command go on.
    #[serde(rename = "async")]
    pub detach: Option<bool>,
}

/// Body of `POST /v2/box/{id}/code` and `…/code-stream`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct CodeRequest {
    /// The source text. Required; at most 16 MiB.
    pub code: Option<String>,
    /// `js`, `ts` or `python`. Required.
    pub language: Option<String>,
    /// Milliseconds after which the code is ended and answered with exit code 124. No limit when missing or 0.
    pub timeout: Option<u64>,
    /// Working folder, as for commands.
    pub folder: Option<String>,
}

/// Answer of `exec` and `code`. A failing program is a success of the call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ExecResult {
    /// Exit code; 128 + n when signal n ended the program, 124 when a timeout did.
    pub exit_code: i32,
    /// Standard output. Bytes that are not UTF-8 read as U+FFFD.
    pub output: String,
    /// Standard error, absent when empty. Bytes that are not UTF-8 read as U+FFFD.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Present and true when output or error was longer than the server holds and its end is missing; streams never cut.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

/// Answer of `exec` with `async`: the command goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ExecStarted {
    /// The run, to be asked for or cancelled.
    pub run_id: String,
    /// Always `running`.
    pub status: String,
}

/// What the `data:` line of a stream's last block holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StreamExit {
    /// As in [`ExecResult`].
    pub exit_code: i32,
    /// CPU time of the process tree in nanoseconds.
    pub cpu_ns: i64,
}
