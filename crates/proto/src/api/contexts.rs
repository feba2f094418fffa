//! Contexts: interpreters that go on in a box, so that variables live between calls. An extension beside the routes of the real service.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ContextId;

/// Body of `POST /v2/box/{id}/contexts`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct CreateContext {
    /// `python` or `js`. Required.
    pub language: Option<String>,
    /// Working folder at the start: absolute, or relative to `/workspace/home`, which is the default.
    pub folder: Option<String>,
    /// Variables over the box's own. Blocked names are left out.
    pub env: Option<BTreeMap<String, String>>,
}

/// What a context's code is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum ContextLanguage {
    /// Python 3.
    Python,
    /// JavaScript, as Node runs it.
    Js,
}

impl ContextLanguage {
    /// As it is written in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::Js => "js",
        }
    }
}

/// What a context is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum ContextStatus {
    /// Its interpreter is being started.
    Starting,
    /// It waits for code.
    Idle,
    /// Code runs in it.
    Busy,
    /// Its interpreter has ended, and its variables with it. The next code starts a new one.
    Ended,
}

impl ContextStatus {
    /// As it is written in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Idle => "idle",
            Self::Busy => "busy",
            Self::Ended => "ended",
        }
    }
}

/// A context.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ContextData {
    /// Its id.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub id: ContextId,
    /// What its code is written in.
    pub language: ContextLanguage,
    /// Its working folder at the start. Code may have left it.
    pub folder: String,
    /// What it is doing.
    pub status: ContextStatus,
    /// Pieces of code that its interpreter has begun to run. A new interpreter counts from 0.
    pub execution_count: u64,
    /// Unix seconds.
    pub created_at: i64,
    /// When code last began or ended in it, Unix seconds.
    pub last_used_at: i64,
}

/// Answer of `GET /v2/box/{id}/contexts`: the oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Contexts {
    /// Those that there are.
    pub contexts: Vec<ContextData>,
}

/// Answer of `POST /v2/box/{id}/contexts/{context}/interrupt`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Interrupted {
    /// Whether code ran that was sent an interrupt.
    pub interrupted: bool,
}

/// Body of `POST /v2/box/{id}/contexts/{context}/code` and `…/code-stream`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct RunInContext {
    /// The source text, as a cell of a notebook: the value of its last expression is shown. Required; at most 16 MiB.
    pub code: Option<String>,
    /// Milliseconds after which the code is interrupted. No limit when missing or 0.
    pub timeout: Option<u64>,
}

/// What came of a piece of code. Code that raises an error is a success of the call.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CodeOutcome {
    /// Which piece of code it was to this interpreter, from 1.
    pub execution_count: u64,
    /// What was written to standard output, by subprocesses too. Bytes that are not UTF-8 read as U+FFFD.
    pub stdout: String,
    /// The same for standard error.
    pub stderr: String,
    /// What was shown, in this order.
    pub results: Vec<CodeOutput>,
    /// What ended the code early, if anything did.
    pub error: Option<CodeError>,
    /// Present and true when there was more output, or more results, than this server takes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
    /// Present when the interpreter was started anew for this code, with the reason: variables of before are gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// A value that was shown: as text, and as what else it can be shown as, by MIME type. What is no text is in base64, except JSON.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CodeOutput {
    /// Whether it is the value of the last expression.
    pub is_main: bool,
    /// `text/plain`, `text/html`, `image/png`, `application/json` and others.
    #[serde(flatten)]
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub data: BTreeMap<String, Value>,
}

/// What ended a piece of code early.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CodeError {
    /// The kind of error, such as `ZeroDivisionError`. This server's own: `Timeout`, `Restarted`, `InterpreterEnded` and `ContextEnded`.
    pub name: String,
    /// What it says.
    pub message: String,
    /// Where it came about; empty where that has no meaning.
    pub traceback: String,
}

/// Data of the event `done` of a `code-stream`, its last.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CodeDone {
    /// As in [`CodeOutcome`].
    pub execution_count: u64,
    /// As in [`CodeOutcome`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
    /// As in [`CodeOutcome`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Data of the events `stdout` and `stderr` of a `code-stream`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CodeText {
    /// What was written.
    pub text: String,
}
