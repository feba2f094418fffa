//! Snapshots: saved disks, from which boxes are made.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::{BoxId, SnapshotId};

/// Characters of a snapshot's name at most.
pub const NAME_CHARS_MAX: usize = 200;

/// How far a snapshot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum SnapshotStatus {
    /// It is being saved, or waits until its box can be.
    Creating,
    /// Boxes can be made from it.
    Ready,
    /// It could not be saved, or was lost. It can only be deleted.
    Error,
    /// It is no more. No list shows it.
    Deleted,
}

impl SnapshotStatus {
    /// The status as text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Ready => "ready",
            Self::Error => "error",
            Self::Deleted => "deleted",
        }
    }
}

/// A snapshot, as every snapshot endpoint returns it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SnapshotData {
    /// Its id.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub id: SnapshotId,
    /// What it is called; not unique.
    pub name: String,
    /// The box that was saved; it may be deleted.
    #[cfg_attr(feature = "openapi", schema(value_type = String, example = "current-wasp-05510"))]
    pub box_id: BoxId,
    /// Bytes of files that it holds beyond its image, whether it shares them with others or not; 0 until it is ready.
    pub size_bytes: i64,
    /// How far it is.
    pub status: SnapshotStatus,
    /// When it was asked for.
    pub created_at: i64,
}

/// Body of `POST /v2/box/{id}/snapshots`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct CreateSnapshot {
    /// What to call it, at most 200 characters; the box's name or id when missing.
    pub name: Option<String>,
}

/// Answer of `GET /v2/box/{id}/snapshots` and `GET /v2/box/snapshots`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Snapshots {
    /// The snapshots, the newest first.
    pub snapshots: Vec<SnapshotData>,
}

/// Body of `DELETE /v2/box/snapshots`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct DeleteSnapshots {
    /// The ids of the snapshots to delete, at least one, at most 1000; missing means all of the account.
    pub ids: Option<Vec<String>>,
}

/// Query of `DELETE /v2/box/snapshots`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams), into_params(parameter_in = Query))]
#[serde(default)]
pub struct DeleteSnapshotsQuery {
    /// `true`: all of the account; then the body may be missing.
    pub all: Option<bool>,
}

/// Answer of `DELETE /v2/box/snapshots`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeletedSnapshots {
    /// How many snapshots were deleted. Unknown ids count for nothing.
    pub deleted: u64,
}

/// Body of `POST /v2/box/from-snapshot`; without `snapshot_id` that of `POST /v2/box/{id}/fork`. What `POST /v2/box` refuses is refused here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct RestoreBox {
    /// The snapshot that the box's disk starts as a copy of. Required, but for a fork.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot_id: Option<String>,
    /// A name, unique among the account's boxes. The source's is not inherited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// At most 5 labels. The source's are not inherited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<Vec<String>>,
    /// `small`, `medium`, `large` or another size that the server has; the source's when missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<String>,
    /// Of no effect: the box has its source's runtime, whose files are in the snapshot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
    /// Variables of every process in the box, added to those of the source and over them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env_vars: Option<BTreeMap<String, String>>,
    /// Never paused, and started again by itself when its host was restarted. The source's is not inherited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_alive: Option<bool>,
    /// As for `POST /v2/box`. The source's is not inherited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init_command: Option<String>,
    /// Deleted by itself after `ttl`. The source's is not inherited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ephemeral: Option<bool>,
    /// How many seconds an ephemeral box lives, 1 to 259200, which is the default: three days.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u64>,
    /// As for `POST /v2/box`. The source's is not inherited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub github_token: Option<String>,
    /// As for `POST /v2/box`; what the source's files say when missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub git_user_name: Option<String>,
    /// As for `POST /v2/box`; what the source's files say when missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub git_user_email: Option<String>,
}

/// Query of `GET /v2/box/snapshots/{id}/export`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams), into_params(parameter_in = Query))]
#[serde(default)]
pub struct ExportSnapshotQuery {
    /// `false`: the image's files are left out. Such an archive can be imported only where the very same image is.
    pub image: Option<bool>,
}

/// Query of `POST /v2/box/snapshots/import`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams), into_params(parameter_in = Query))]
#[serde(default)]
pub struct ImportSnapshotQuery {
    /// What to call the snapshot, at most 200 characters; what the archive says when missing.
    pub name: Option<String>,
}
