//! Logs of boxes.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use boxyard_proto::api::logs::{CURSOR_HEADER, LIMIT_DEFAULT, LIMIT_MAX, LogPage, Logs};
use bytes::Bytes;
use futures_util::stream::unfold;
use http::{HeaderValue, header};

use super::Http;
use super::auth::Caller;
use super::error::{ApiError, Refusals};
use super::json::{Path, Query};
use super::paced::Patience;
use crate::boxes::{Kept, LogCursor, LogFrom, LogStream};

/// Shows a page of a box's log, oldest first
///
/// A limit over 1000 reads as 1000. With `follow` the answer is `application/x-ndjson`, one entry a line: the newest ones there are, and
/// then each as it comes, with a `cursor`. A body that breaks off is to be asked for again, `after` the last cursor; the one that the body
/// begins from is in the header `X-Log-Cursor`.
#[utoipa::path(get, path = "/v2/box/{id}/logs", tag = "logs",
    params(("id" = String, Path, description = "Id or name of the box"), LogPage),
    responses((status = 200, body = Logs), Refusals))]
pub(super) async fn list(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Extension(patience): Extension<Patience>,
    Path(id): Path<String>,
    Query(page): Query<LogPage>,
) -> Result<Response, ApiError> {
    let kept = http.boxes.find(&account, &id)?;
    let follow = page.follows().ok_or_else(|| ApiError::bad_request("follow must be 0, 1, true or false"))?;
    if follow {
        return follow_log(&http, &kept, &page, &patience).await;
    }
    if page.tail.is_some() || page.after.is_some() {
        return Err(ApiError::bad_request("tail and after go with follow only"));
    }
    let limit = page.limit.unwrap_or(LIMIT_DEFAULT).min(LIMIT_MAX);
    if limit == 0 {
        return Err(ApiError::bad_request(format!("limit must be 1 to {LIMIT_MAX}")));
    }
    Ok(Json(Logs { logs: http.boxes.logs(&kept, page.offset.unwrap_or(0), limit).await? }).into_response())
}

async fn follow_log(http: &Http, kept: &Kept, page: &LogPage, patience: &Patience) -> Result<Response, ApiError> {
    if page.offset.is_some() || page.limit.is_some() {
        return Err(ApiError::bad_request("follow goes with tail or after, not with offset or limit"));
    }
    let from = match (&page.after, page.tail) {
        (None, tail) => LogFrom::Tail(tail.unwrap_or(LIMIT_DEFAULT)),
        (Some(after), None) => {
            let cursor = LogCursor::parse(after);
            LogFrom::After(cursor.ok_or_else(|| ApiError::bad_request("after must be the cursor of a followed log"))?)
        }
        (Some(_), Some(_)) => return Err(ApiError::bad_request("after goes without tail")),
    };
    let log = http.boxes.follow_log(kept, from).await?;
    let cursor = HeaderValue::try_from(log.begins().to_string());
    let cursor = cursor.unwrap_or_else(|_| HeaderValue::from_static(""));
    patience.have();
    let head = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (header::HeaderName::from_static(CURSOR_HEADER), cursor),
        // Proxies that would hold output back until there is more of it know this one.
        (header::HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    Ok((head, body(log)).into_response())
}

fn body(log: LogStream) -> Body {
    Body::from_stream(unfold(Some(log), async |log| {
        let mut log = log?;
        match log.next().await {
            Ok(Some(entry)) => {
                // Plain structs of texts and numbers always serialise.
                let mut line = serde_json::to_vec(&entry).unwrap_or_default();
                line.push(b'\n');
                Some((Ok(Bytes::from(line)), Some(log)))
            }
            Ok(None) => None,
            Err(cut) => Some((Err(cut), None)),
        }
    }))
}
