//! What changes in a folder, as server-sent events.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use boxyard_engine::agent::files::Changes;
use boxyard_proto::api::error::ErrorBody;
use boxyard_proto::api::files::{FileChange, WatchQuery, Watching};
use boxyard_proto::files::{Change, ChangeKind};
use bytes::Bytes;
use futures_util::stream::unfold;
use http::header;
use serde::Serialize;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::{begin, given};
use crate::boxes::FileWork;
use crate::http::Http;
use crate::http::auth::Caller;
use crate::http::error::files::{FileRefusals, about};
use crate::http::error::{ApiError, Refusals};
use crate::http::json::{Path, Query};

/// How often a line without meaning is sent: proxies cut what is silent for a minute.
const PING_EVERY: Duration = Duration::from_secs(25);

/// Watches a folder (server-sent events)
///
/// The first event is `watching`: changes from then on are told. Then `create`, `modify`, `delete` and `rename`, each with its path as
/// data; `lost` where some were too many to be told; `gone` at the end when the folder itself is gone, `error` when the box is paused or
/// lost. A box that is watched counts as busy.
#[utoipa::path(get, path = "/v2/box/{id}/files/watch", tag = "files",
    params(("id" = String, Path, description = "Id or name of the box"), WatchQuery),
    responses((status = 200, body = FileChange, content_type = "text/event-stream"), Refusals, FileRefusals))]
pub(crate) async fn watch(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Path(id): Path<String>,
    Query(query): Query<WatchQuery>,
) -> Result<Response, ApiError> {
    let kept = http.boxes.find(&account, &id)?;
    let folder = given::folder("path", query.path, query.path_base64)?;
    let recursive = given::yes("recursive", query.recursive.as_deref())?;
    let mut work = begin(&http, &kept).await?;
    let truncated = work.watch(&folder, recursive).await.map_err(about(&folder))?;
    let mut ping = interval_at(Instant::now() + PING_EVERY, PING_EVERY);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let told = Told { work, ping, first: Some(event("watching", &Watching { truncated })) };
    let events = unfold(Some(told), async |told| {
        let mut told = told?;
        let (text, goes_on) = told.next().await;
        Some((Ok::<_, std::convert::Infallible>(Bytes::from(text)), goes_on.then_some(told)))
    });
    let head = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-cache"),
        // Proxies that would hold events back until there are more of them know this one.
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    Ok((head, Body::from_stream(events)).into_response())
}

struct Told {
    work: FileWork,
    ping: Interval,
    first: Option<String>,
}

impl Told {
    /// What to send next, and whether more comes after it.
    async fn next(&mut self) -> (String, bool) {
        if let Some(first) = self.first.take() {
            return (first, true);
        }
        tokio::select! {
            changes = self.work.next_changes() => match changes {
                Ok(Changes::Some { changes, lost }) => {
                    let mut text = if lost { event("lost", &serde_json::json!({})) } else { String::new() };
                    changes.iter().for_each(|change| text.push_str(&event(word(change.kind), &told(change))));
                    (text, true)
                }
                Ok(Changes::Gone) => (event("gone", &serde_json::json!({})), false),
                Err(error) => {
                    let error = ApiError::from(error).message().to_owned();
                    (event("error", &ErrorBody { error }), false)
                }
            },
            _ = self.ping.tick() => (": ping\n\n".into(), true),
        }
    }
}

fn event<T: Serialize>(name: &str, data: &T) -> String {
    // Plain structs of texts and flags always serialise, and on one line.
    format!("event: {name}\ndata: {}\n\n", serde_json::to_string(data).unwrap_or_default())
}

fn word(kind: ChangeKind) -> &'static str {
    match kind {
        ChangeKind::Create => "create",
        ChangeKind::Modify => "modify",
        ChangeKind::Delete => "delete",
        ChangeKind::Rename => "rename",
    }
}

fn told(change: &Change) -> FileChange {
    let (path, path_base64) = given::told_text(&change.path);
    let (from, from_base64) = match &change.from {
        Some(from) => {
            let (from, base64) = given::told_text(from);
            (Some(from), base64)
        }
        None => (None, None),
    };
    FileChange { path, path_base64, from, from_base64, is_dir: change.is_dir }
}
