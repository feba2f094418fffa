//! What runs in a box whenever it is started.

use std::sync::Arc;

use axum::extract::State;
use boxyard_proto::api::boxes::Startup;

use super::Http;
use super::auth::Caller;
use super::error::{ApiError, Refusals};
use super::json::{Json, Path};
use crate::boxes::check_init_command;

/// Shows a box's init command
#[utoipa::path(get, path = "/v2/box/{id}/startup", tag = "startup", params(("id" = String, Path, description = "Id or name of the box")),
    responses((status = 200, body = Startup), Refusals))]
pub(super) async fn show(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Path(id): Path<String>,
) -> Result<axum::Json<Startup>, ApiError> {
    let command = http.boxes.find(&account, &id)?.init_command();
    Ok(axum::Json(Startup { init_command: Some(command) }))
}

/// Changes a box's init command
///
/// It is run when the box is next started; in a paused box, which is not woken, when it is resumed. What the one before has started goes on.
#[utoipa::path(put, path = "/v2/box/{id}/startup", tag = "startup", params(("id" = String, Path, description = "Id or name of the box")),
    request_body = Startup, responses((status = 200, body = Startup), Refusals))]
pub(super) async fn set(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Path(id): Path<String>,
    Json(request): Json<Startup>,
) -> Result<axum::Json<Startup>, ApiError> {
    let command = request
        .init_command
        .ok_or_else(|| ApiError::bad_request("init_command is required: a command line; empty for none"))?;
    let command = check_init_command(command)?;
    let kept = http.boxes.find(&account, &id)?;
    http.boxes.set_init_command(&kept, command.clone()).await?;
    Ok(axum::Json(Startup { init_command: Some(command) }))
}

/// Removes a box's init command
///
/// What it has started goes on.
#[utoipa::path(delete, path = "/v2/box/{id}/startup", tag = "startup", params(("id" = String, Path, description = "Id or name of the box")),
    responses((status = 200, body = Startup), Refusals))]
pub(super) async fn remove(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Path(id): Path<String>,
) -> Result<axum::Json<Startup>, ApiError> {
    let kept = http.boxes.find(&account, &id)?;
    http.boxes.set_init_command(&kept, String::new()).await?;
    Ok(axum::Json(Startup { init_command: Some(String::new()) }))
}
