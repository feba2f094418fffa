//! Commands.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use boxyard_proto::RunId;
use boxyard_proto::api::exec::{ExecRequest, ExecResult, ExecStarted};
use http::{HeaderName, HeaderValue, header};
use tokio::time::timeout;

use super::Http;
use super::auth::Caller;
use super::error::{ApiError, Refusals};
use super::held::Held;
use super::json::{Json, Path};
use super::paced::Patience;
use super::stream;
use crate::boxes::{BoxError, Boxes, Collected, Lease, Order, Started};

/// The header that tells which run an answer is about.
const RUN_ID: HeaderName = HeaderName::from_static("x-box-run-id");
/// How long a stream's head may wait for a box that is being made or resumed: some clients give up after 30 s.
const STREAM_READY_DEADLINE: Duration = Duration::from_secs(20);
/// Bytes of output up to which an answer is made in one piece, with its length in its head.
const WHOLE_MAX: usize = 1024 * 1024;

/// Runs a command and answers when it has ended
///
/// The answer is 200 whatever the exit code. The command goes on when the client leaves, and there is no time limit. Answers with the
/// header `X-Box-Run-Id`. With `async` the answer is `{run_id, status}` at once.
#[utoipa::path(post, path = "/v2/box/{id}/exec", tag = "exec", params(("id" = String, Path, description = "Id or name of the box")),
    request_body = ExecRequest, responses((status = 200, body = ExecResult), Refusals))]
pub(super) async fn exec(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Path(id): Path<String>,
    Json(request): Json<ExecRequest>,
) -> Result<Response, ApiError> {
    let detach = request.detach == Some(true);
    let order = order(request)?;
    let folder = order.folder().to_owned();
    let lease = http.boxes.find(&account, &id)?.lease().await?;
    if detach {
        let started = http.boxes.detach(lease, order, "exec");
        let run_id = started.id.to_string();
        let head = run_id_header(&started.id);
        started
            .recorded
            .await
            .map_err(|_| ApiError::internal("Failed to execute command: it could not be recorded"))?;
        return Ok((head, axum::Json(ExecStarted { run_id, status: "running".into() })).into_response());
    }
    answer(http.boxes.run(lease, order, "exec"), &folder).await
}

/// Runs a command and streams what it writes
///
/// The body is the raw output, standard output and standard error as one, followed by one block `event: exit` or `event: error` with a
/// `data:` line. A newline is put before the block when the output does not end with one.
#[utoipa::path(post, path = "/v2/box/{id}/exec-stream", tag = "exec", params(("id" = String, Path, description = "Id or name of the box")),
    request_body = ExecRequest, responses((status = 200, body = String, content_type = "text/event-stream"), Refusals))]
pub(super) async fn exec_stream(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Extension(patience): Extension<Patience>,
    Path(id): Path<String>,
    Json(request): Json<ExecRequest>,
) -> Result<Response, ApiError> {
    let order = order(request)?;
    let folder = order.folder().to_owned();
    let lease = lease_for_stream(&http.boxes, &account, &id).await?;
    let (started, output) = http.boxes.stream(lease, order, "exec-stream");
    Ok(stream::respond(started, output, folder, &patience))
}

fn order(request: ExecRequest) -> Result<Order, ApiError> {
    Ok(Order::command(request.command.unwrap_or_default(), request.folder.as_deref())?)
}

pub(super) async fn lease_for_stream(
    boxes: &Boxes,
    account: &boxyard_proto::AccountId,
    id: &str,
) -> Result<Lease, ApiError> {
    let kept = boxes.find(account, id)?;
    Ok(timeout(STREAM_READY_DEADLINE, kept.lease()).await.unwrap_or(Err(BoxError::Busy))?)
}

/// Waits for a run's end and answers with what it wrote. When the client leaves meanwhile, this is dropped and the run goes on.
pub(super) async fn answer(started: Started, folder: &str) -> Result<Response, ApiError> {
    let head = run_id_header(&started.id);
    let Collected { ending, out, err, truncated, share } = started.end.await.map_err(|_| ApiError::leaving())?;
    if let Some(error) = ApiError::of_ending(&ending, folder) {
        return Ok((head, error).into_response());
    }
    let mut error = err;
    if let Some(complaint) = ending.complaint() {
        if !error.is_empty() && !error.ends_with(b"\n") {
            error.push(b'\n');
        }
        error.extend_from_slice(complaint.as_bytes());
    }
    let exit_code = ending.code().unwrap_or_default();
    if out.len() + error.len() > WHOLE_MAX {
        let body = Body::new(Held::new(exit_code, out, error, truncated, share));
        return Ok((head, [(header::CONTENT_TYPE, "application/json")], body).into_response());
    }
    let error = Some(text(error)).filter(|error| !error.is_empty());
    Ok((head, axum::Json(ExecResult { exit_code, output: text(out), error, truncated })).into_response())
}

pub(super) fn run_id_header(id: &RunId) -> [(HeaderName, HeaderValue); 1] {
    // Ids are lower-case letters, digits and underscores.
    [(RUN_ID, HeaderValue::from_str(id.as_str()).unwrap_or(HeaderValue::from_static("")))]
}

/// Bytes as text; what is no UTF-8 reads as U+FFFD.
fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}
