//! Runs: what was executed in a box.

use serde::{Deserialize, Serialize};

use crate::ids::{AccountId, BoxId, RunId};

/// What sort of work a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum RunType {
    /// An agent's task.
    Agent,
    /// A command or code.
    Shell,
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum RunStatus {
    /// It executes.
    Running,
    /// It ended with exit code 0.
    Completed,
    /// It ended with another exit code, could not start, or was lost.
    Failed,
    /// It was cancelled.
    Cancelled,
}

/// One run. A completed shell run has exactly the keys that are not marked as left out: a test of the real service demands it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RunData {
    /// Its id.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub id: RunId,
    /// The box it runs in.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub box_id: BoxId,
    /// The account that owns it.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub customer_id: AccountId,
    /// What sort of work it is.
    pub r#type: RunType,
    /// How far it is.
    pub status: RunStatus,
    /// The command: its arguments, joined by single spaces.
    pub prompt: String,
    /// Always 0 for a shell run.
    pub input_tokens: i64,
    /// Always 0 for a shell run.
    pub output_tokens: i64,
    /// CPU time of its process tree in nanoseconds; 0 while it runs.
    pub cpu_ns: i64,
    /// Always 0: this server charges nothing.
    pub cost_usd: f64,
    /// Always 0: this server charges nothing.
    pub compute_cost_usd: f64,
    /// Milliseconds from start to end; to now while it runs.
    pub duration_ms: i64,
    /// When it began.
    pub created_at: i64,
    /// When it ended. Left out while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<i64>,
    /// Why it failed. Left out when it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_message: Option<String>,
}

/// Which of a run's outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum OutputStream {
    /// Both, in the order in which they came.
    #[default]
    Both,
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Query of `GET /v2/box/{id}/runs/{run_id}/output`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams), into_params(parameter_in = Query))]
#[serde(default)]
pub struct OutputQuery {
    /// The first byte that is wanted, of both streams together; 0 when missing. One beyond the end is waited for with `follow`.
    pub offset: Option<u64>,
    /// Instead of `offset`: so many bytes before the end of what there is now, of both streams together.
    pub tail: Option<u64>,
    /// `1` or `true`: the body ends when the run does.
    pub follow: Option<String>,
    /// Which output; both when missing.
    #[cfg_attr(feature = "openapi", param(inline))]
    pub stream: Option<OutputStream>,
}

impl OutputQuery {
    /// Whether the run is to be followed; `None` where that is neither said nor denied.
    pub fn follows(&self) -> Option<bool> {
        flag(self.follow.as_deref())
    }
}

/// What a query says of something that is on or off.
pub fn flag(text: Option<&str>) -> Option<bool> {
    match text {
        None | Some("" | "0" | "false") => Some(false),
        Some("1" | "true") => Some(true),
        Some(_) => None,
    }
}

/// Answer of `GET /v2/box/{id}/runs`: the newest 1000, newest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Runs {
    /// The runs.
    pub runs: Vec<RunData>,
}
