//! What runs have written.

use std::fmt::Display;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use boxyard_proto::api::runs::{OutputQuery, OutputStream, RunStatus};
use futures_util::stream::unfold;
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::Http;
use super::auth::Caller;
use super::error::{ApiError, Refusals};
use super::exec::run_id_header;
use super::json::{Path, Query};
use super::paced::Patience;
use crate::boxes::{Reader, RunOutput, Streams};

/// The number of the body's first byte.
pub(super) const OFFSET: HeaderName = HeaderName::from_static("x-output-offset");
/// How many bytes of the output's beginning are not kept any more.
pub(super) const DROPPED: HeaderName = HeaderName::from_static("x-output-dropped");
/// How many bytes were written so far.
const TOTAL: HeaderName = HeaderName::from_static("x-output-total");
const STATUS: HeaderName = HeaderName::from_static("x-box-run-status");
const EXIT_CODE: HeaderName = HeaderName::from_static("x-box-exit-code");

/// Shows what a run has written
///
/// Raw bytes, standard output and standard error as one unless `stream` asks for one of them, from byte `offset` of both together. Of a run
/// that has ended, too, whoever was there when it wrote, and after a restart of the server. With `follow` the body ends when the run
/// does; a body that breaks off is to be asked for again from the byte after the last one that came. Only the newest bytes are kept: the
/// header `X-Output-Offset` tells the first byte of the body, `X-Output-Dropped` how many of the beginning are gone, `X-Output-Total` how
/// many there were so far, `X-Box-Run-Status` and `X-Box-Exit-Code` how far the run was when this answer began.
#[utoipa::path(get, path = "/v2/box/{id}/runs/{run_id}/output", tag = "runs",
    params(("id" = String, Path, description = "Id or name of the box"), ("run_id" = String, Path, description = "Id of the run"), OutputQuery),
    responses((status = 200, body = String, content_type = "application/octet-stream"), Refusals))]
pub(super) async fn show(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Extension(patience): Extension<Patience>,
    Path((id, run_id)): Path<(String, String)>,
    Query(query): Query<OutputQuery>,
) -> Result<Response, ApiError> {
    let kept = http.boxes.find(&account, &id)?;
    if query.offset.is_some() && query.tail.is_some() {
        return Err(ApiError::bad_request("offset and tail do not go together"));
    }
    let follow = query.follows().ok_or_else(|| ApiError::bad_request("follow must be 0, 1, true or false"))?;
    let output = http.boxes.output(&kept, &run_id).await?;
    let from = match query.tail {
        Some(tail) => output.end().saturating_sub(tail),
        None => query.offset.unwrap_or(0),
    };
    let streams = match query.stream.unwrap_or_default() {
        OutputStream::Both => Streams::Both,
        OutputStream::Stdout => Streams::Out,
        OutputStream::Stderr => Streams::Err,
    };
    let reader = output.read(from, streams, follow);
    patience.have();
    let mut head = head(&output, reader.next_byte());
    if !follow && streams == Streams::Both {
        set(&mut head, header::CONTENT_LENGTH, reader.left());
    }
    Ok((run_id_header(&output.id), head, body(reader)).into_response())
}

fn head(output: &RunOutput, first: u64) -> HeaderMap {
    let mut head = HeaderMap::new();
    head.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    head.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Proxies that would hold output back until there is more of it know this one.
    head.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    set(&mut head, OFFSET, first);
    set(&mut head, DROPPED, output.start());
    set(&mut head, TOTAL, output.end());
    head.insert(STATUS, HeaderValue::from_static(word(output.status)));
    if let Some(code) = output.exit_code {
        set(&mut head, EXIT_CODE, code);
    }
    head
}

fn set(head: &mut HeaderMap, name: HeaderName, value: impl Display) {
    // Numbers make valid headers.
    if let Ok(value) = HeaderValue::from_str(&value.to_string()) {
        head.insert(name, value);
    }
}

fn word(status: RunStatus) -> &'static str {
    match status {
        RunStatus::Running => "running",
        RunStatus::Completed => "completed",
        RunStatus::Failed => "failed",
        RunStatus::Cancelled => "cancelled",
    }
}

/// Everything that comes. It breaks off, instead of ending, where there is more that cannot be had.
fn body(reader: Reader) -> Body {
    Body::from_stream(unfold(Some(reader), async |reader| {
        let mut reader = reader?;
        match reader.next().await {
            Ok(Some(bytes)) => Some((Ok(bytes), Some(reader))),
            Ok(None) => None,
            Err(cut) => Some((Err(cut), None)),
        }
    }))
}
