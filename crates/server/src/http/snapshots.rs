//! Snapshots: save, list, delete; boxes made from them, and forks.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use boxyard_proto::SnapshotId;
use boxyard_proto::api::boxes::{BoxData, MessageBody};
use boxyard_proto::api::snapshots::{
    CreateSnapshot, DeleteSnapshots, DeleteSnapshotsQuery, DeletedSnapshots, NAME_CHARS_MAX, RestoreBox, SnapshotData,
    Snapshots,
};
use serde_json::{Map, Value};

use super::Http;
use super::auth::Caller;
use super::boxes::{creation_wait, refuse_what_is_not_there, when_made};
use super::error::{ApiError, Refusals};
use super::json::{Json, JsonBody, JsonObject, Path, Query, typed};
use crate::boxes::{Identity, Life, Restore, Token};
use crate::store::Which;

/// How long the answer waits for a snapshot to be ready; then it says `creating`, and clients ask again.
const SNAPSHOT_WAIT: Duration = Duration::from_secs(5);
/// Snapshots that one call names at most.
const DELETE_MAX: usize = 1000;

/// Makes a snapshot of a box
///
/// Its disk as it is at one moment; a box that works stands still for that moment and goes on. Answers when the snapshot is `ready`, or
/// after five seconds with `creating`. A snapshot lives on when its box is deleted.
#[utoipa::path(post, path = "/v2/box/{id}/snapshots", tag = "snapshots",
    params(("id" = String, Path, description = "Id or name of the box")), request_body = CreateSnapshot,
    responses((status = 200, body = SnapshotData), Refusals))]
pub(super) async fn create(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Path(id): Path<String>,
    Json(request): Json<CreateSnapshot>,
) -> Result<axum::Json<SnapshotData>, ApiError> {
    let name = checked_name(request.name)?;
    let kept = http.boxes.find(&account, &id)?;
    Ok(axum::Json(http.boxes.snapshot(&kept, name, SNAPSHOT_WAIT).await?))
}

/// Checks what a snapshot is to be called; an empty name stands for none.
pub(super) fn checked_name(name: Option<String>) -> Result<Option<String>, ApiError> {
    let name = name.filter(|name| !name.is_empty());
    if let Some(name) = &name
        && (name.chars().count() > NAME_CHARS_MAX || name.chars().any(char::is_control))
    {
        let text = format!("name must have at most {NAME_CHARS_MAX} characters and no control characters");
        return Err(ApiError::bad_request(text));
    }
    Ok(name)
}

/// Lists the snapshots of a box, the newest first
///
/// Also of a deleted box, by its id.
#[utoipa::path(get, path = "/v2/box/{id}/snapshots", tag = "snapshots",
    params(("id" = String, Path, description = "Id or name of the box")),
    responses((status = 200, body = Snapshots), Refusals))]
pub(super) async fn list_of_box(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Path(id): Path<String>,
) -> Result<axum::Json<Snapshots>, ApiError> {
    Ok(axum::Json(Snapshots { snapshots: http.boxes.list_snapshots_of(&account, &id).await? }))
}

/// Lists all snapshots, the newest first
#[utoipa::path(get, path = "/v2/box/snapshots", tag = "snapshots", responses((status = 200, body = Snapshots), Refusals))]
pub(super) async fn list(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
) -> Result<axum::Json<Snapshots>, ApiError> {
    Ok(axum::Json(Snapshots { snapshots: http.boxes.list_snapshots(&account).await? }))
}

/// Deletes a snapshot
///
/// Boxes that were made from it live on. The box that was saved may be deleted; then it goes by its id.
#[utoipa::path(delete, path = "/v2/box/{id}/snapshots/{snapshot_id}", tag = "snapshots",
    params(("id" = String, Path, description = "Id or name of the box that was saved"),
        ("snapshot_id" = String, Path, description = "Id of the snapshot")),
    responses((status = 200, body = MessageBody), Refusals))]
pub(super) async fn delete(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Path((id, snapshot)): Path<(String, String)>,
) -> Result<axum::Json<MessageBody>, ApiError> {
    http.boxes.delete_snapshot_of(&account, &id, &snapshot).await?;
    Ok(axum::Json(MessageBody { message: "Snapshot deleted".into() }))
}

/// Deletes several snapshots, or all
///
/// A body `{"ids": […]}` names them; unknown ids are skipped. The body `{}`, or the query `all=true`, means all of the account. Neither
/// a body nor that query is refused, and so is an empty list.
#[utoipa::path(delete, path = "/v2/box/snapshots", tag = "snapshots", params(DeleteSnapshotsQuery),
    request_body = DeleteSnapshots, responses((status = 200, body = DeletedSnapshots), Refusals))]
pub(super) async fn delete_several(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Query(query): Query<DeleteSnapshotsQuery>,
    JsonBody(body): JsonBody,
) -> Result<axum::Json<DeletedSnapshots>, ApiError> {
    let all = query.all.unwrap_or(false);
    let said = body.is_some() && query.all != Some(false);
    let request: DeleteSnapshots = typed(body.unwrap_or_default())?;
    let which = match request.ids {
        Some(ids) if ids.is_empty() => {
            return Err(ApiError::bad_request("ids must name at least one snapshot; leave it out to delete all"));
        }
        Some(ids) if ids.len() > DELETE_MAX => {
            return Err(ApiError::bad_request(format!("at most {DELETE_MAX} snapshots can be named at once")));
        }
        Some(ids) => Which::Of(ids.iter().filter_map(|id| id.parse::<SnapshotId>().ok()).collect()),
        None if all || said => Which::All,
        None => {
            let text = "say which snapshots: the body {\"ids\": [...]}, or {} or ?all=true for all of the account";
            return Err(ApiError::bad_request(text));
        }
    };
    Ok(axum::Json(DeletedSnapshots { deleted: http.boxes.delete_snapshots(&account, which).await? }))
}

/// Makes a box from a snapshot
///
/// Its disk starts as a copy of the snapshot's. Runtime, size and variables are those of the box that was saved; a size that is given
/// counts instead, and variables that are given are added and win. Whether it is kept alive or ephemeral, and its init command, are
/// as asked for here, and never the source's. Answers as the creation of a box does.
#[utoipa::path(post, path = "/v2/box/from-snapshot", tag = "snapshots", request_body = RestoreBox,
    responses((status = 200, body = BoxData), Refusals))]
pub(super) async fn restore(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    JsonObject(mut fields): JsonObject,
) -> Result<axum::Json<BoxData>, ApiError> {
    let snapshot = match fields.remove("snapshot_id") {
        Some(Value::String(id)) if !id.is_empty() => id,
        None | Some(Value::Null | Value::String(_)) => return Err(ApiError::bad_request("snapshot_id is required")),
        Some(_) => return Err(ApiError::bad_request("field 'snapshot_id': expected a string")),
    };
    let asked = asked(fields)?;
    let wait = creation_wait(&asked.life);
    let kept = http.boxes.restore(&account, &snapshot, asked).await?;
    when_made(&http, &account, kept, wait).await
}

/// Makes a box that starts as a copy of another
///
/// As a snapshot of it and a box made from that, but no snapshot is left. What runs in the box is not copied, only its disk.
#[utoipa::path(post, path = "/v2/box/{id}/fork", tag = "snapshots",
    params(("id" = String, Path, description = "Id or name of the box")), request_body = RestoreBox,
    responses((status = 200, body = BoxData), Refusals))]
pub(super) async fn fork(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Path(id): Path<String>,
    JsonObject(fields): JsonObject,
) -> Result<axum::Json<BoxData>, ApiError> {
    let asked = asked(fields)?;
    let wait = creation_wait(&asked.life);
    let kept = http.boxes.find(&account, &id)?;
    let forked = http.boxes.fork(&kept, asked).await?;
    when_made(&http, &account, forked, wait).await
}

fn asked(fields: Map<String, Value>) -> Result<Restore, ApiError> {
    refuse_what_is_not_there(&fields)?;
    let request: RestoreBox = typed(fields)?;
    Ok(Restore {
        name: request.name,
        labels: request.labels.unwrap_or_default(),
        size: request.size,
        env: request.env_vars.unwrap_or_default(),
        life: Life::check(
            request.keep_alive.unwrap_or(false),
            request.init_command,
            request.ephemeral.unwrap_or(false),
            request.ttl,
        )?,
        identity: Identity::check(request.git_user_name, request.git_user_email)?,
        token: Token::check(request.github_token)?,
    })
}
