//! Code.

use std::sync::Arc;

use axum::extract::{Extension, State};
use axum::response::Response;
use boxyard_proto::api::exec::{CodeRequest, ExecResult};

use super::Http;
use super::auth::Caller;
use super::error::{ApiError, Refusals};
use super::exec::{answer, lease_for_stream};
use super::json::{Json, Path};
use super::paced::Patience;
use super::stream;
use crate::boxes::{Language, Order};

/// Runs a piece of code and answers when it has ended
///
/// The answer is 200 whatever the exit code; 124 when `timeout` ended it. Answers with the header `X-Box-Run-Id`.
#[utoipa::path(post, path = "/v2/box/{id}/code", tag = "exec", params(("id" = String, Path, description = "Id or name of the box")),
    request_body = CodeRequest, responses((status = 200, body = ExecResult), Refusals))]
pub(super) async fn code(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Path(id): Path<String>,
    Json(request): Json<CodeRequest>,
) -> Result<Response, ApiError> {
    let order = order(request)?;
    let folder = order.folder().to_owned();
    let lease = http.boxes.find(&account, &id)?.lease().await?;
    answer(http.boxes.run(lease, order, "code"), &folder).await
}

/// Runs a piece of code and streams what it writes
///
/// The body is as that of `exec-stream`.
#[utoipa::path(post, path = "/v2/box/{id}/code-stream", tag = "exec", params(("id" = String, Path, description = "Id or name of the box")),
    request_body = CodeRequest, responses((status = 200, body = String, content_type = "text/event-stream"), Refusals))]
pub(super) async fn code_stream(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Extension(patience): Extension<Patience>,
    Path(id): Path<String>,
    Json(request): Json<CodeRequest>,
) -> Result<Response, ApiError> {
    let order = order(request)?;
    let folder = order.folder().to_owned();
    let lease = lease_for_stream(&http.boxes, &account, &id).await?;
    let (started, output) = http.boxes.stream(lease, order, "code-stream");
    Ok(stream::respond(started, output, folder, &patience))
}

fn order(request: CodeRequest) -> Result<Order, ApiError> {
    let code = request.code.ok_or_else(|| ApiError::bad_request("code is required: the source text"))?;
    let language = request.language.ok_or_else(|| ApiError::bad_request("language is required: js, ts or python"))?;
    let language = Language::parse(&language)?;
    Ok(Order::code(code, language, request.folder.as_deref(), request.timeout)?)
}
