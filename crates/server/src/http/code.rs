//! Code.

use std::sync::Arc;

use axum::extract::{Extension, State};
use axum::response::Response;
use boxyard_proto::api::exec::{CodeRequest, ExecResult};

use super::Http;
use super::auth::Caller;
use super::error::{ApiError, Refusals};
use super::exec::{run, run_stream};
use super::idempotency::IdempotencyKey;
use super::json::{Json, Path};
use super::paced::Patience;
use crate::boxes::{Language, Order};

/// Runs a piece of code and answers when it has ended
///
/// The answer is 200 whatever the exit code; 124 when `timeout` ended it. Answers with the header `X-Box-Run-Id`. With an
/// `Idempotency-Key`, as `exec`.
#[utoipa::path(post, path = "/v2/box/{id}/code", tag = "exec", params(("id" = String, Path, description = "Id or name of the box"),
    ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible ASCII characters: run at most once under this key")),
    request_body = CodeRequest, responses((status = 200, body = ExecResult), Refusals))]
pub(super) async fn code(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    key: IdempotencyKey,
    Path(id): Path<String>,
    Json(request): Json<CodeRequest>,
) -> Result<Response, ApiError> {
    let order = order(request)?;
    run(&http, http.boxes.find(&account, &id)?, order, key, "code").await
}

/// Runs a piece of code and streams what it writes
///
/// The body is as that of `exec-stream`; with an `Idempotency-Key`, as there.
#[utoipa::path(post, path = "/v2/box/{id}/code-stream", tag = "exec", params(("id" = String, Path, description = "Id or name of the box"),
    ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible ASCII characters: run at most once under this key")),
    request_body = CodeRequest, responses((status = 200, body = String, content_type = "text/event-stream"), Refusals))]
pub(super) async fn code_stream(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Extension(patience): Extension<Patience>,
    key: IdempotencyKey,
    Path(id): Path<String>,
    Json(request): Json<CodeRequest>,
) -> Result<Response, ApiError> {
    let order = order(request)?;
    run_stream(&http, http.boxes.find(&account, &id)?, order, key, "code-stream", &patience).await
}

fn order(request: CodeRequest) -> Result<Order, ApiError> {
    let code = request.code.ok_or_else(|| ApiError::bad_request("code is required: the source text"))?;
    let language = request.language.ok_or_else(|| ApiError::bad_request("language is required: js, ts or python"))?;
    let language = Language::parse(&language)?;
    Ok(Order::code(code, language, request.folder.as_deref(), request.timeout)?)
}
