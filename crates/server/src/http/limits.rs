//! Request bodies: how long they may be, and how long they may take.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use bytes::{Bytes, BytesMut};
use http::header;
use http_body::Body as _;
use http_body_util::BodyExt;
use tokio::time::timeout;

use super::bodies::Share;
use super::error::ApiError;

/// How long a client may be silent in the middle of a body.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(30);
/// How long a whole body may take.
const BODY_DEADLINE: Duration = Duration::from_secs(300);
/// Bytes of a body over the cap that are read and dropped, because many clients see the refusal only when they have sent everything.
const DROPPED_MAX: usize = 128 * 1024 * 1024;
/// How long that may take.
const DROP_DEADLINE: Duration = Duration::from_secs(10);

/// Reads a whole body of at most `cap` bytes.
///
/// # Errors
/// It is longer, does not arrive in time, or breaks off.
pub(super) async fn read_body(request: Request, cap: usize) -> Result<Bytes, ApiError> {
    let announced = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    let too_long = announced.and_then(|length| length.parse::<u64>().ok()).is_some_and(|length| length > cap as u64);
    let asks_first = request.headers().contains_key(header::EXPECT);
    let share = request.extensions().get::<Arc<Share>>().cloned();
    let mut body = request.into_body();
    let all = if too_long {
        Err(ApiError::body_too_long(cap))
    } else {
        timeout(BODY_DEADLINE, collect(&mut body, cap, share.as_deref())).await.map_err(|_| ApiError::slow_body())?
    };
    // Who asks before sending has not sent anything yet.
    if all.as_ref().is_err_and(ApiError::is_about_length) && !(too_long && asks_first) {
        drop_rest(&mut body).await;
    }
    all
}

/// Reads and drops some of what follows of a body that is refused.
pub(super) async fn drop_rest(body: &mut Body) {
    let dropping = async {
        let mut dropped = 0;
        while dropped < DROPPED_MAX
            && let Some(Ok(frame)) = body.frame().await
        {
            dropped += frame.data_ref().map_or(0, Bytes::len);
        }
    };
    // Whatever comes of it, the refusal is the answer.
    let _ = timeout(DROP_DEADLINE, dropping).await;
}

async fn collect(body: &mut Body, cap: usize, share: Option<&Share>) -> Result<Bytes, ApiError> {
    let mut all = BytesMut::new();
    loop {
        let frame = timeout(SILENCE_MAX, body.frame()).await.map_err(|_| ApiError::slow_body())?;
        let Some(frame) = frame else { return Ok(all.freeze()) };
        let frame = frame.map_err(|_| ApiError::bad_request("the request's body broke off"))?;
        let Ok(data) = frame.into_data() else { continue };
        if all.len() + data.len() > cap {
            return Err(ApiError::body_too_long(cap));
        }
        share.map_or(Ok(()), |share| share.hold(all.len() + data.len()))?;
        if all.is_empty() && body.is_end_stream() {
            return Ok(data);
        }
        all.extend_from_slice(&data);
    }
}
