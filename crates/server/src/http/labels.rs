//! Labels of boxes.

use std::sync::Arc;

use axum::extract::State;
use boxyard_proto::api::labels::{AddLabel, Labels};
use boxyard_proto::names::check_label;

use super::Http;
use super::auth::Caller;
use super::error::{ApiError, Refusals};
use super::json::{Json, Path};

/// Adds a label to a box
#[utoipa::path(post, path = "/v2/box/{id}/config/labels", tag = "labels",
    params(("id" = String, Path, description = "Id or name of the box")), request_body = AddLabel,
    responses((status = 200, body = Labels), Refusals))]
pub(super) async fn add(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Path(id): Path<String>,
    Json(request): Json<AddLabel>,
) -> Result<axum::Json<Labels>, ApiError> {
    let label = request.label.ok_or_else(|| ApiError::bad_request("label is required"))?;
    check_label(&label)?;
    let kept = http.boxes.find(&account, &id)?;
    let labels = http.boxes.add_label(&kept, label).await?;
    Ok(axum::Json(Labels { message: "Label added".into(), labels }))
}

/// Removes a label from a box
#[utoipa::path(delete, path = "/v2/box/{id}/config/labels/{label}", tag = "labels",
    params(("id" = String, Path, description = "Id or name of the box"), ("label" = String, Path, description = "The label")),
    responses((status = 200, body = Labels), Refusals))]
pub(super) async fn remove(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Path((id, label)): Path<(String, String)>,
) -> Result<axum::Json<Labels>, ApiError> {
    let kept = http.boxes.find(&account, &id)?;
    let labels = http.boxes.remove_label(&kept, label).await?;
    Ok(axum::Json(Labels { message: "Label removed".into(), labels }))
}
