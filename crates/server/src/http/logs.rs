//! Logs of boxes.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use boxyard_proto::api::logs::{LIMIT_DEFAULT, LIMIT_MAX, LogPage, Logs};

use super::Http;
use super::auth::Caller;
use super::error::{ApiError, Refusals};
use super::json::{Path, Query};

/// Shows a page of a box's log, oldest first
///
/// A limit over 1000 reads as 1000.
#[utoipa::path(get, path = "/v2/box/{id}/logs", tag = "logs",
    params(("id" = String, Path, description = "Id or name of the box"), LogPage),
    responses((status = 200, body = Logs), Refusals))]
pub(super) async fn list(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Path(id): Path<String>,
    Query(page): Query<LogPage>,
) -> Result<Json<Logs>, ApiError> {
    let kept = http.boxes.find(&account, &id)?;
    let limit = page.limit.unwrap_or(LIMIT_DEFAULT).min(LIMIT_MAX);
    if limit == 0 {
        return Err(ApiError::bad_request(format!("limit must be 1 to {LIMIT_MAX}")));
    }
    Ok(Json(Logs { logs: http.boxes.logs(&kept, page.offset.unwrap_or(0), limit).await? }))
}
