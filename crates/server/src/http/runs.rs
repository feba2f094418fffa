//! Runs: what was executed in a box.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use boxyard_proto::api::boxes::MessageBody;
use boxyard_proto::api::runs::{RunData, Runs};

use super::Http;
use super::auth::Caller;
use super::error::{ApiError, Refusals};
use super::json::Path;

/// Runs of one answer at most.
const LIMIT: u32 = 1000;

/// Lists a box's runs, the newest first
#[utoipa::path(get, path = "/v2/box/{id}/runs", tag = "runs", params(("id" = String, Path, description = "Id or name of the box")),
    responses((status = 200, body = Runs), Refusals))]
pub(super) async fn list(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Path(id): Path<String>,
) -> Result<Json<Runs>, ApiError> {
    let kept = http.boxes.find(&account, &id)?;
    Ok(Json(Runs { runs: http.boxes.list_runs(&kept, LIMIT).await? }))
}

/// Shows one run
#[utoipa::path(get, path = "/v2/box/{id}/runs/{run_id}", tag = "runs",
    params(("id" = String, Path, description = "Id or name of the box"), ("run_id" = String, Path, description = "Id of the run")),
    responses((status = 200, body = RunData), Refusals))]
pub(super) async fn show(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Path((id, run_id)): Path<(String, String)>,
) -> Result<Json<RunData>, ApiError> {
    let kept = http.boxes.find(&account, &id)?;
    Ok(Json(http.boxes.find_run(&kept, &run_id).await?))
}

/// Cancels a run
///
/// Ends its whole process tree, TERM and then KILL, and answers when the run is `cancelled`. Cancelling it again changes nothing; a run
/// that has ended by itself is a conflict (409).
#[utoipa::path(post, path = "/v2/box/{id}/runs/{run_id}/cancel", tag = "runs",
    params(("id" = String, Path, description = "Id or name of the box"), ("run_id" = String, Path, description = "Id of the run")),
    responses((status = 200, body = MessageBody), Refusals))]
pub(super) async fn cancel(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Path((id, run_id)): Path<(String, String)>,
) -> Result<Json<MessageBody>, ApiError> {
    let kept = http.boxes.find(&account, &id)?;
    http.boxes.cancel_run(&kept, &run_id).await?;
    Ok(Json(MessageBody { message: "Run cancelled".into() }))
}
