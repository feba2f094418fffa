//! Contexts: interpreters whose variables live between calls. An extension beside the routes of the real service.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use boxyard_proto::api::boxes::MessageBody;
use boxyard_proto::api::contexts::{
    CodeDone, CodeOutcome, ContextData, Contexts, CreateContext, Interrupted, RunInContext,
};
use boxyard_proto::names::{self, BLOCKED_ENV};
use http::StatusCode;
use tokio::time::timeout;

use super::Http;
use super::auth::Caller;
use super::error::{ApiError, Refusals};
use super::exec::STREAM_READY_DEADLINE;
use super::json::{Json, Path};
use super::paced::Patience;
use crate::boxes::{BoxError, ContextCode, ContextError, ContextOrder};
use crate::metrics::Door;

mod outcome;
mod stream;

/// Makes a context: an interpreter that goes on
///
/// Answers when it takes code. Code is run in it one piece after the other, as cells of a notebook. It ends with its box's processes (when
/// a box has been paused for long, or is deleted), with the server, and when it has not been used for an hour.
#[utoipa::path(post, path = "/v2/box/{id}/contexts", tag = "contexts", params(("id" = String, Path, description = "Id or name of the box")),
    request_body = CreateContext, responses((status = 201, body = ContextData), Refusals))]
pub(super) async fn create(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Path(id): Path<String>,
    Json(request): Json<CreateContext>,
) -> Result<Response, ApiError> {
    let language = request.language.ok_or_else(|| ApiError::bad_request("language is required: python or js"))?;
    let env = variables(request.env.unwrap_or_default())?;
    let order = ContextOrder::new(&language, request.folder.as_deref(), env)?;
    let kept = http.boxes.find(&account, &id)?;
    let made = http.boxes.open_context(&kept, order).await?;
    Ok((StatusCode::CREATED, axum::Json(made)).into_response())
}

/// Lists a box's contexts, the oldest first
#[utoipa::path(get, path = "/v2/box/{id}/contexts", tag = "contexts", params(("id" = String, Path, description = "Id or name of the box")),
    responses((status = 200, body = Contexts), Refusals))]
pub(super) async fn list(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Path(id): Path<String>,
) -> Result<axum::Json<Contexts>, ApiError> {
    let kept = http.boxes.find(&account, &id)?;
    Ok(axum::Json(Contexts { contexts: http.boxes.contexts(&kept) }))
}

/// Shows a context
///
/// 410 and why, when it has ended a short while ago.
#[utoipa::path(get, path = "/v2/box/{id}/contexts/{context}", tag = "contexts",
    params(("id" = String, Path, description = "Id or name of the box"), ("context" = String, Path, description = "The context")),
    responses((status = 200, body = ContextData), Refusals))]
pub(super) async fn show(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Path((id, context)): Path<(String, String)>,
) -> Result<axum::Json<ContextData>, ApiError> {
    let kept = http.boxes.find(&account, &id)?;
    Ok(axum::Json(http.boxes.context(&kept, &context)?))
}

/// Ends a context, and everything that its code has started
#[utoipa::path(delete, path = "/v2/box/{id}/contexts/{context}", tag = "contexts",
    params(("id" = String, Path, description = "Id or name of the box"), ("context" = String, Path, description = "The context")),
    responses((status = 200, body = MessageBody), Refusals))]
pub(super) async fn delete(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Path((id, context)): Path<(String, String)>,
) -> Result<axum::Json<MessageBody>, ApiError> {
    let kept = http.boxes.find(&account, &id)?;
    http.boxes.delete_context(&kept, &context).await?;
    Ok(axum::Json(MessageBody { message: "Context deleted".into() }))
}

/// Gives a context a new interpreter, without any variables
///
/// Code that runs in the old one ends with the error `Restarted`; code that waits is not run.
#[utoipa::path(post, path = "/v2/box/{id}/contexts/{context}/restart", tag = "contexts",
    params(("id" = String, Path, description = "Id or name of the box"), ("context" = String, Path, description = "The context")),
    responses((status = 200, body = ContextData), Refusals))]
pub(super) async fn restart(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Path((id, context)): Path<(String, String)>,
) -> Result<axum::Json<ContextData>, ApiError> {
    let kept = http.boxes.find(&account, &id)?;
    Ok(axum::Json(http.boxes.restart_context(&kept, &context).await?))
}

/// Interrupts the code that runs in a context, as Ctrl-C does
///
/// Variables are kept. Code that catches the interrupt goes on.
#[utoipa::path(post, path = "/v2/box/{id}/contexts/{context}/interrupt", tag = "contexts",
    params(("id" = String, Path, description = "Id or name of the box"), ("context" = String, Path, description = "The context")),
    responses((status = 200, body = Interrupted), Refusals))]
pub(super) async fn interrupt(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Path((id, context)): Path<(String, String)>,
) -> Result<axum::Json<Interrupted>, ApiError> {
    let kept = http.boxes.find(&account, &id)?;
    Ok(axum::Json(Interrupted { interrupted: http.boxes.interrupt_context(&kept, &context).await? }))
}

/// Runs a piece of code in a context and answers when it has ended
///
/// The answer is 200 when the code raised an error, too. Code that takes longer than `timeout` is interrupted; when it does not stop then
/// its interpreter is started anew, and `error` says so. Code goes on when its client leaves, unless its turn has not come. At most 16
/// pieces of code wait (429).
#[utoipa::path(post, path = "/v2/box/{id}/contexts/{context}/code", tag = "contexts",
    params(("id" = String, Path, description = "Id or name of the box"), ("context" = String, Path, description = "The context")),
    request_body = RunInContext, responses((status = 200, body = CodeOutcome), Refusals))]
pub(super) async fn code(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Path((id, context)): Path<(String, String)>,
    Json(request): Json<RunInContext>,
) -> Result<Response, ApiError> {
    let code = ordered(request)?;
    let kept = http.boxes.find(&account, &id)?;
    let reply = http.boxes.run_in_context(&kept, &context, code).await?;
    count(&http);
    let finished = reply.await.map_err(|_| ApiError::leaving())??;
    Ok(outcome::respond(finished))
}

/// Runs a piece of code in a context and streams what comes of it (server-sent events)
///
/// Events `stdout` and `stderr` with `{"text": …}`, `result` as in the answer of `code`, `error` with `name`, `message` and `traceback`,
/// and at the end `done`. A client that reads slowly slows the code down.
#[utoipa::path(post, path = "/v2/box/{id}/contexts/{context}/code-stream", tag = "contexts",
    params(("id" = String, Path, description = "Id or name of the box"), ("context" = String, Path, description = "The context")),
    request_body = RunInContext, responses((status = 200, body = CodeDone, content_type = "text/event-stream"), Refusals))]
pub(super) async fn code_stream(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Extension(patience): Extension<Patience>,
    Path((id, context)): Path<(String, String)>,
    Json(request): Json<RunInContext>,
) -> Result<Response, ApiError> {
    let code = ordered(request)?;
    let kept = http.boxes.find(&account, &id)?;
    let begun = timeout(STREAM_READY_DEADLINE, http.boxes.stream_in_context(&kept, &context, code)).await;
    let (reply, parts) = begun.unwrap_or(Err(ContextError::Box(BoxError::Busy)))?;
    count(&http);
    Ok(stream::respond(reply, parts, &patience))
}

fn ordered(request: RunInContext) -> Result<ContextCode, ApiError> {
    let code = request.code.ok_or_else(|| ApiError::bad_request("code is required: the source text"))?;
    Ok(ContextCode::new(code, request.timeout)?)
}

fn count(http: &Http) {
    http.metrics.execs.get_or_create(&Door { door: "context" }).inc();
}

/// Variables as `NAME=value`. Those that nobody may set are left out without a word, as elsewhere.
fn variables(mut env: BTreeMap<String, String>) -> Result<Vec<String>, ApiError> {
    env.retain(|name, _| !BLOCKED_ENV.contains(&name.as_str()));
    names::check_env(&env)?;
    Ok(env.into_iter().map(|(name, value)| format!("{name}={value}")).collect())
}
