//! Whether the server is there, what it speaks, and its figures.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use boxyard_proto::api::boxes::MessageBody;
use http::header;

use super::Http;
use super::error::ApiError;
use crate::boxes::Boxes;
use crate::metrics::{self, Metrics};

/// Answers when the server takes requests
#[utoipa::path(get, path = "/healthz", tag = "server", security(()), responses((status = 200, body = MessageBody)))]
pub(super) async fn healthz() -> axum::Json<MessageBody> {
    axum::Json(MessageBody { message: "ok".into() })
}

/// This document
#[utoipa::path(get, path = "/openapi.json", tag = "server", security(()),
    responses((status = 200, body = String, content_type = "application/json")))]
pub(super) async fn openapi(State(http): State<Arc<Http>>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], http.openapi.clone()).into_response()
}

/// All figures, for Prometheus. On a listener of its own.
pub(super) async fn metrics(State((metrics, boxes)): State<(Arc<Metrics>, Boxes)>) -> Result<Response, ApiError> {
    boxes.refresh_figures().await;
    let text = metrics.encode().map_err(|_| ApiError::internal("the figures could not be written"))?;
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}
