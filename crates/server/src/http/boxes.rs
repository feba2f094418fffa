//! Boxes: create, list, get, status, delete.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use boxyard_proto::api::boxes::{
    BoxData, BoxStatus, CreateBox, DeleteBoxes, DeletedBoxes, ListBoxes, MessageBody, StatusBody,
};
use boxyard_proto::{AccountId, BoxId};
use futures_util::future::try_join_all;
use serde_json::{Map, Value};

use super::Http;
use super::auth::Caller;
use super::error::{ApiError, Refusals};
use super::json::{Json, JsonObject, Path, Query, typed};
use crate::boxes::{BoxError, Identity, Kept, Life, NewBox, Token};

/// How long the answer to a creation waits for the box to be ready; then it says `creating`, and clients ask again.
const CREATE_WAIT: Duration = Duration::from_secs(5);
/// The same for an ephemeral box: clients take the answer for ready and do not ask again, and wait for ten minutes.
const EPHEMERAL_WAIT: Duration = Duration::from_secs(590);
/// Boxes that one call deletes at most.
const DELETE_MAX: usize = 1000;

/// Fields of the real service that this server does not know yet. Asking for one is refused, because a box without it would not be
/// what was asked for.
const NOT_YET: [&str; 14] = [
    "agent",
    "agent_api_key",
    "attach_headers",
    "browser",
    "clone_repo",
    "clone_token",
    "custom_runner",
    "mcp_servers",
    "model",
    "network_policy",
    "provider",
    "runner",
    "skills",
    "snapshot_id",
];

/// Makes a box
///
/// Answers when the box is ready (`idle`), or after five seconds with `creating` when its image must be built first; for an ephemeral
/// box it waits until that is done.
#[utoipa::path(post, path = "/v2/box", tag = "boxes", request_body = CreateBox, responses((status = 200, body = BoxData), Refusals))]
pub(super) async fn create(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    JsonObject(fields): JsonObject,
) -> Result<axum::Json<BoxData>, ApiError> {
    refuse_what_is_not_there(&fields)?;
    let request: CreateBox = typed(fields)?;
    let life = Life::check(
        request.keep_alive.unwrap_or(false),
        request.init_command,
        request.ephemeral.unwrap_or(false),
        request.ttl,
    )?;
    let wait = creation_wait(&life);
    let identity = Identity::check(request.git_user_name, request.git_user_email)?;
    let token = Token::check(request.github_token)?;
    let new = NewBox::check(
        request.name,
        request.labels.unwrap_or_default(),
        request.size.as_deref(),
        request.runtime.as_deref(),
        request.env_vars.unwrap_or_default(),
    )?;
    let kept = http.boxes.create(&account, new.living(life).with_git(identity, token)).await?;
    when_made(&http, &account, kept, wait).await
}

/// How long the answer to a creation waits for the box to be ready.
pub(super) fn creation_wait(life: &Life) -> Duration {
    if life.is_ephemeral() { EPHEMERAL_WAIT } else { CREATE_WAIT }
}

/// Answers the creation of a box when it is ready, or when that has taken as long as `wait`.
pub(super) async fn when_made(
    http: &Http,
    account: &AccountId,
    kept: Kept,
    wait: Duration,
) -> Result<axum::Json<BoxData>, ApiError> {
    kept.made(wait).await;
    if let Some(BoxError::Failed { kind, text }) = kept.failure() {
        // Nobody was told of the box, so nobody would delete it.
        http.boxes.delete(account, kept.id().as_str()).await?;
        return Err(ApiError::not_created(kind, &text));
    }
    Ok(axum::Json(kept.data()))
}

/// Refuses fields that ask for more than this server does.
pub(super) fn refuse_what_is_not_there(fields: &Map<String, Value>) -> Result<(), ApiError> {
    for name in NOT_YET {
        let asked = match fields.get(name) {
            None | Some(Value::Null | Value::Bool(false)) => false,
            Some(Value::String(text)) => !text.is_empty(),
            Some(Value::Array(items)) => !items.is_empty(),
            Some(Value::Object(policy)) if name == "network_policy" => {
                policy.get("mode").is_some_and(|mode| !mode.is_null() && mode != "allow-all")
            }
            Some(Value::Object(fields)) => !fields.is_empty(),
            Some(Value::Number(number)) => number.as_i64() != Some(0),
            Some(Value::Bool(true)) => true,
        };
        if asked && name == "snapshot_id" {
            return Err(ApiError::unsupported("snapshot_id is for POST /v2/box/from-snapshot"));
        }
        if asked {
            return Err(ApiError::unsupported(format!("{name} is not supported by this server yet; leave it out")));
        }
    }
    Ok(())
}

/// Lists boxes, the newest first
#[utoipa::path(get, path = "/v2/box", tag = "boxes", params(ListBoxes), responses((status = 200, body = Vec<BoxData>), Refusals))]
pub(super) async fn list(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Query(query): Query<ListBoxes>,
) -> Result<axum::Json<Vec<BoxData>>, ApiError> {
    let label = query.label.as_deref().filter(|label| !label.is_empty());
    let mut boxes = http.boxes.list(&account, label);
    let wanted = match query.status.as_deref() {
        None | Some("" | "active") => return Ok(axum::Json(boxes)),
        Some("deleted") => return Ok(axum::Json(http.boxes.list_deleted(&account, label).await?)),
        Some("creating") => BoxStatus::Creating,
        Some("idle") => BoxStatus::Idle,
        Some("running") => BoxStatus::Running,
        Some("paused") => BoxStatus::Paused,
        Some("error") => BoxStatus::Error,
        Some(_) => {
            return Err(ApiError::bad_request(
                "status must be active, deleted, creating, idle, running, paused or error",
            ));
        }
    };
    boxes.retain(|data| data.status == wanted);
    Ok(axum::Json(boxes))
}

/// Shows a box
///
/// A deleted box is still shown under its id, with status `deleted`; everything else about it is 404.
#[utoipa::path(get, path = "/v2/box/{id}", tag = "boxes", params(("id" = String, Path, description = "Id or name of the box")),
    responses((status = 200, body = BoxData), Refusals))]
pub(super) async fn show(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Path(id): Path<String>,
) -> Result<axum::Json<BoxData>, ApiError> {
    Ok(axum::Json(http.boxes.show(&account, &id).await?))
}

/// Tells what a box is doing
#[utoipa::path(get, path = "/v2/box/{id}/status", tag = "boxes", params(("id" = String, Path, description = "Id or name of the box")),
    responses((status = 200, body = StatusBody), Refusals))]
pub(super) async fn status(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Path(id): Path<String>,
) -> Result<axum::Json<StatusBody>, ApiError> {
    let status = http.boxes.find(&account, &id)?.status();
    Ok(axum::Json(StatusBody { status }))
}

/// Deletes a box
///
/// What runs in it is ended. Answers when no list shows the box any more.
#[utoipa::path(delete, path = "/v2/box/{id}", tag = "boxes", params(("id" = String, Path, description = "Id or name of the box")),
    responses((status = 200, body = MessageBody), Refusals))]
pub(super) async fn delete(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Path(id): Path<String>,
) -> Result<axum::Json<MessageBody>, ApiError> {
    http.boxes.delete(&account, &id).await?;
    Ok(axum::Json(MessageBody { message: "Box deleted".into() }))
}

/// Deletes several boxes
///
/// Unknown ids are skipped. Answers when no list shows the boxes any more.
#[utoipa::path(delete, path = "/v2/box", tag = "boxes", request_body = DeleteBoxes,
    responses((status = 200, body = DeletedBoxes), Refusals))]
pub(super) async fn delete_several(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Json(request): Json<DeleteBoxes>,
) -> Result<axum::Json<DeletedBoxes>, ApiError> {
    let ids = request.ids.unwrap_or_default();
    if ids.is_empty() {
        return Err(ApiError::bad_request("ids is required: the ids or names of the boxes to delete, at least one"));
    }
    if ids.len() > DELETE_MAX {
        return Err(ApiError::bad_request(format!("at most {DELETE_MAX} boxes can be deleted at once")));
    }
    // A box may be named twice, by id and by name.
    let mut found: HashSet<BoxId> = HashSet::new();
    for id in &ids {
        match http.boxes.find(&account, id) {
            Ok(kept) => {
                found.insert(kept.id().clone());
            }
            Err(BoxError::NotFound) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let deletions = found.iter().map(|id| async {
        match http.boxes.delete(&account, id.as_str()).await {
            Ok(()) => Ok(1),
            // Somebody else was faster.
            Err(BoxError::NotFound) => Ok(0),
            Err(error) => Err(error),
        }
    });
    let deleted: Vec<u64> = try_join_all(deletions).await?;
    Ok(axum::Json(DeletedBoxes { deleted: deleted.iter().sum() }))
}
