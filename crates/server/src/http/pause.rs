//! Pausing and resuming boxes.

use std::sync::Arc;

use axum::extract::State;
use boxyard_proto::api::boxes::MessageBody;

use super::Http;
use super::auth::Caller;
use super::error::{ApiError, Refusals};
use super::json::Path;

/// Pauses a box
///
/// Its processes stand still where they are, and keep their memory for as long as the server is configured to; then they end, and the
/// disk is kept. Any work resumes the box. Answers when it stands still; a paused box stays as it is. A keep-alive box is never paused.
#[utoipa::path(post, path = "/v2/box/{id}/pause", tag = "boxes", params(("id" = String, Path, description = "Id or name of the box")),
    responses((status = 200, body = MessageBody), Refusals))]
pub(super) async fn pause(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Path(id): Path<String>,
) -> Result<axum::Json<MessageBody>, ApiError> {
    http.boxes.find(&account, &id)?.pause().await?;
    Ok(axum::Json(MessageBody { message: "Box paused".into() }))
}

/// Resumes a paused box
///
/// Answers when it takes work; a box that does already stays as it is.
#[utoipa::path(post, path = "/v2/box/{id}/resume", tag = "boxes", params(("id" = String, Path, description = "Id or name of the box")),
    responses((status = 200, body = MessageBody), Refusals))]
pub(super) async fn resume(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Path(id): Path<String>,
) -> Result<axum::Json<MessageBody>, ApiError> {
    http.boxes.find(&account, &id)?.resume().await?;
    Ok(axum::Json(MessageBody { message: "Box resumed".into() }))
}
