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
use super::idempotency::{self, Form, IdempotencyKey};
use super::json::{Json, Path};
use super::paced::Patience;
use super::stream;
use crate::boxes::{BoxError, Collected, Kept, Order, Share, Started};

/// The header that tells which run an answer is about.
const RUN_ID: HeaderName = HeaderName::from_static("x-box-run-id");
/// How long a stream's head may wait for a box that is being made or resumed: some clients give up after 30 s.
pub(super) const STREAM_READY_DEADLINE: Duration = Duration::from_secs(20);
/// Bytes of output up to which an answer is made in one piece, with its length in its head.
const WHOLE_MAX: usize = 1024 * 1024;

/// Runs a command and answers when it has ended
///
/// The answer is 200 whatever the exit code. The command goes on when the client leaves, and there is no time limit. Answers with the
/// header `X-Box-Run-Id`. With `async` the answer is `{run_id, status}` at once. With an `Idempotency-Key`, a repeated request for the same
/// gets the first one's answer, with the header `Idempotent-Replayed`, and nothing is run twice; one for something else is refused (422).
#[utoipa::path(post, path = "/v2/box/{id}/exec", tag = "exec", params(("id" = String, Path, description = "Id or name of the box"),
    ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible ASCII characters: run at most once under this key")),
    request_body = ExecRequest, responses((status = 200, body = ExecResult), Refusals))]
pub(super) async fn exec(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    key: IdempotencyKey,
    Path(id): Path<String>,
    Json(request): Json<ExecRequest>,
) -> Result<Response, ApiError> {
    let detach = request.detach == Some(true);
    let order = order(request)?;
    let kept = http.boxes.find(&account, &id)?;
    if !detach {
        return run(&http, kept, order, key, "exec").await;
    }
    let claim = key.claim(&order);
    if let Some(answer) = idempotency::before(&http, &kept, claim.as_ref(), Form::Detached).await? {
        return Ok(answer);
    }
    let lease = kept.lease().await?;
    let mut started = http.boxes.detach(lease, order, claim.clone(), "exec");
    if let Some(answer) = idempotency::meanwhile(&http, &kept, claim.as_ref(), &mut started, Form::Detached).await? {
        return Ok(answer);
    }
    let run_id = started.id.to_string();
    let head = run_id_header(&started.id);
    // That of a claimed run was heard of above.
    if claim.is_none() {
        let recorded = started.recorded.await;
        recorded.map_err(|_| ApiError::internal("Failed to execute command: it could not be recorded"))?;
    }
    Ok((head, axum::Json(ExecStarted { run_id, status: "running".into() })).into_response())
}

/// Runs a command and streams what it writes
///
/// The body is the raw output, standard output and standard error as one, followed by one block `event: exit` or `event: error` with a
/// `data:` line. A newline is put before the block when the output does not end with one. With an `Idempotency-Key`, a repeated request for
/// the same gets the same stream from its beginning, as far as that is kept (`X-Output-Dropped` tells how much is not).
#[utoipa::path(post, path = "/v2/box/{id}/exec-stream", tag = "exec", params(("id" = String, Path, description = "Id or name of the box"),
    ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible ASCII characters: run at most once under this key")),
    request_body = ExecRequest, responses((status = 200, body = String, content_type = "text/event-stream"), Refusals))]
pub(super) async fn exec_stream(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Extension(patience): Extension<Patience>,
    key: IdempotencyKey,
    Path(id): Path<String>,
    Json(request): Json<ExecRequest>,
) -> Result<Response, ApiError> {
    let order = order(request)?;
    run_stream(&http, http.boxes.find(&account, &id)?, order, key, "exec-stream", &patience).await
}

fn order(request: ExecRequest) -> Result<Order, ApiError> {
    Ok(Order::command(request.command.unwrap_or_default(), request.folder.as_deref())?)
}

/// Carries an order out and answers when it has ended.
pub(super) async fn run(
    http: &Http,
    kept: Kept,
    order: Order,
    key: IdempotencyKey,
    door: &'static str,
) -> Result<Response, ApiError> {
    let (folder, claim) = (order.folder().to_owned(), key.claim(&order));
    if let Some(answer) = idempotency::before(http, &kept, claim.as_ref(), Form::Whole).await? {
        return Ok(answer);
    }
    let lease = kept.lease().await?;
    let mut started = http.boxes.run(lease, order, claim.clone(), door);
    if let Some(answer) = idempotency::meanwhile(http, &kept, claim.as_ref(), &mut started, Form::Whole).await? {
        return Ok(answer);
    }
    answer(started, &folder).await
}

/// Carries an order out and answers with what it writes, as it comes.
pub(super) async fn run_stream(
    http: &Http,
    kept: Kept,
    order: Order,
    key: IdempotencyKey,
    door: &'static str,
    patience: &Patience,
) -> Result<Response, ApiError> {
    let (folder, claim) = (order.folder().to_owned(), key.claim(&order));
    let form = Form::Stream(patience);
    if let Some(answer) = idempotency::before(http, &kept, claim.as_ref(), form).await? {
        return Ok(answer);
    }
    let lease = timeout(STREAM_READY_DEADLINE, kept.lease()).await.unwrap_or(Err(BoxError::Busy))?;
    let (mut started, output) = http.boxes.stream(lease, order, claim.clone(), door);
    if let Some(answer) = idempotency::meanwhile(http, &kept, claim.as_ref(), &mut started, form).await? {
        return Ok(answer);
    }
    Ok(stream::respond(started, output, folder, patience))
}

/// Waits for a run's end and answers with what it wrote. When the client leaves meanwhile, this is dropped and the run goes on.
async fn answer(started: Started, folder: &str) -> Result<Response, ApiError> {
    let Collected { ending, out, err, truncated, share } = started.end.await.map_err(|_| ApiError::leaving())?;
    if let Some(error) = ApiError::of_ending(&ending, folder) {
        return Ok((run_id_header(&started.id), error).into_response());
    }
    let (exit_code, complaint) = (ending.code().unwrap_or_default(), ending.complaint());
    Ok(Whole { exit_code, out, err, complaint, truncated, share }.answer(&started.id))
}

/// All that there is to say of a run that ended with an exit code.
pub(super) struct Whole {
    pub(super) exit_code: i32,
    pub(super) out: Vec<u8>,
    pub(super) err: Vec<u8>,
    /// What is to be told behind its standard error, if anything.
    pub(super) complaint: Option<String>,
    pub(super) truncated: bool,
    pub(super) share: Share,
}

impl Whole {
    pub(super) fn answer(self, id: &RunId) -> Response {
        let Self { exit_code, out, err: mut error, complaint, truncated, share } = self;
        let head = run_id_header(id);
        if let Some(complaint) = complaint {
            if !error.is_empty() && !error.ends_with(b"\n") {
                error.push(b'\n');
            }
            error.extend_from_slice(complaint.as_bytes());
        }
        if out.len() + error.len() > WHOLE_MAX {
            let body = Body::new(Held::new(exit_code, out, error, truncated, share));
            return (head, [(header::CONTENT_TYPE, "application/json")], body).into_response();
        }
        let error = Some(text(error)).filter(|error| !error.is_empty());
        (head, axum::Json(ExecResult { exit_code, output: text(out), error, truncated })).into_response()
    }
}

pub(super) fn run_id_header(id: &RunId) -> [(HeaderName, HeaderValue); 1] {
    // Ids are lower-case letters, digits and underscores.
    [(RUN_ID, HeaderValue::from_str(id.as_str()).unwrap_or(HeaderValue::from_static("")))]
}

/// Bytes as text; what is no UTF-8 reads as U+FFFD.
fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}
