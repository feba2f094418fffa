//! Boxes: create, get, list, delete, status.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::{AccountId, BoxId};
use crate::names::Size;

/// Seconds that an ephemeral box lives at most, and when nothing is asked for: three days.
pub const TTL_MAX: u64 = 259_200;
/// Bytes of an init command at most.
pub const INIT_COMMAND_MAX: usize = 64 * 1024;

/// What a box is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum BoxStatus {
    /// It is being made; its image may be built meanwhile.
    Creating,
    /// Ready, nothing executes in it on a client's behalf.
    Idle,
    /// Ready, and something executes.
    Running,
    /// Paused; any work resumes it.
    Paused,
    /// It could not be made, or was lost. It can only be deleted.
    Error,
    /// It is no more.
    Deleted,
}

/// Body of `POST /v2/box`. Every field may be missing or `null`.
///
/// Asking for a feature that this server does not have yet is refused, because a box without, say, the network policy that it was to
/// have would be worse than none.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct CreateBox {
    /// A name, unique among the account's boxes, that stands for the id in every path.
    pub name: Option<String>,
    /// At most 5 labels of at most 20 characters of `[A-Za-z0-9._:-]`.
    pub labels: Option<Vec<String>>,
    /// `small`, `medium`, `large` or another size that the server has; small when missing.
    pub size: Option<String>,
    /// `node`, `python`, `golang`, `ruby` or `rust`; node when missing.
    pub runtime: Option<String>,
    /// Variables of every process in the box.
    pub env_vars: Option<BTreeMap<String, String>>,
    /// Whether it is never paused, and comes back by itself after its host was restarted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_alive: Option<bool>,
    /// A command line of at most 64 KiB that is run in the background, as boxuser in `/workspace/home`, whenever the box is started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init_command: Option<String>,
    /// Whether it is deleted by itself after `ttl` seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ephemeral: Option<bool>,
    /// Seconds that an ephemeral box lives, 1 to 259200; 259200 when missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u64>,
    /// The box's own token for GitHub. The server keeps it until the box is deleted, and no call shows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub github_token: Option<String>,
    /// The name of who commits in the box; `Upstash Box` when missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub git_user_name: Option<String>,
    /// The address of who commits in the box; `box@upstash.com` when missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub git_user_email: Option<String>,
}

/// A box, as every box endpoint returns it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct BoxData {
    /// Its id.
    #[cfg_attr(feature = "openapi", schema(value_type = String, example = "current-wasp-05510"))]
    pub id: BoxId,
    /// The account that owns it.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub customer_id: AccountId,
    /// Its name, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its labels, in the order they were added.
    pub labels: Vec<String>,
    /// Its size.
    #[cfg_attr(feature = "openapi", schema(value_type = String, example = "small"))]
    pub size: Size,
    /// Its runtime.
    pub runtime: String,
    /// What it is doing.
    pub status: BoxStatus,
    /// Whether it is never paused.
    pub keep_alive: bool,
    /// Whether it is deleted by itself; only ephemeral boxes have this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ephemeral: Option<bool>,
    /// When it is deleted by itself; only ephemeral boxes have this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<i64>,
    /// Skills of its agent; none as yet.
    pub enabled_skills: Vec<String>,
    /// Tokens that its agent runs have read.
    pub total_input_tokens: i64,
    /// Tokens that its agent runs have written.
    pub total_output_tokens: i64,
    /// Agent runs so far.
    pub total_prompts: i64,
    /// CPU time of its runs in nanoseconds.
    pub total_cpu_ns: i64,
    /// Always 0: this server charges nothing.
    pub total_compute_cost_usd: f64,
    /// Always 0: this server charges nothing.
    pub total_token_cost_usd: f64,
    /// When something last worked in it.
    pub last_activity_at: i64,
    /// When it was made.
    pub created_at: i64,
    /// When its record last changed.
    pub updated_at: i64,
}

/// Query of `GET /v2/box`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams), into_params(parameter_in = Query))]
#[serde(default)]
pub struct ListBoxes {
    /// Only boxes that carry this label.
    pub label: Option<String>,
    /// `deleted` lists deleted boxes, `active` (the default) all others; any other status lists the boxes in it.
    pub status: Option<String>,
}

/// Body of `DELETE /v2/box`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct DeleteBoxes {
    /// Ids or names; at least one, at most 1000.
    pub ids: Option<Vec<String>>,
}

/// Answer of `DELETE /v2/box`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeletedBoxes {
    /// How many boxes were deleted. Unknown ids count for nothing.
    pub deleted: u64,
}

/// Answer of `GET /v2/box/{id}/status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StatusBody {
    /// What the box is doing.
    pub status: BoxStatus,
}

/// A box's init command: body of `PUT /v2/box/{id}/startup` and answer of all calls to that path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct Startup {
    /// The command line; empty when there is none.
    pub init_command: Option<String>,
}

/// Answer of calls that have nothing to tell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MessageBody {
    /// What was done.
    pub message: String,
}
