//! Answers in JSON that are told as they come, so that none of them is ever whole in memory.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream::unfold;
use http::{HeaderValue, header};
use serde::Serialize;

use crate::boxes::FileError;
use crate::http::error::ApiError;

/// What there is of an answer.
pub(super) enum Piece {
    /// There may be more.
    Some(Bytes),
    /// Nothing comes after.
    Last(Bytes),
}

/// Tells an answer piece by piece. A failure in one of the first two pieces is told with its status; a short answer is whole by then. A
/// later one breaks the answer off.
///
/// # Errors
/// The first pieces could not be had.
pub(super) async fn tell<S: Send + 'static>(
    mut state: S,
    next: impl AsyncNext<S>,
    refuse: impl Fn(FileError) -> ApiError,
) -> Result<Response, ApiError> {
    let first = match next.next(&mut state).await.map_err(&refuse)? {
        Piece::Last(all) => return Ok(json(all)),
        Piece::Some(first) => first,
    };
    let second = match next.next(&mut state).await.map_err(&refuse)? {
        Piece::Last(second) => return Ok(json([first, second].concat())),
        Piece::Some(second) => second,
    };
    let rest = unfold(Some((vec![second, first], state, next)), async |at| {
        let (mut ready, mut state, next) = at?;
        if let Some(piece) = ready.pop() {
            return Some((Ok(piece), Some((ready, state, next))));
        }
        match next.next(&mut state).await {
            Ok(Piece::Some(piece)) => Some((Ok(piece), Some((ready, state, next)))),
            Ok(Piece::Last(piece)) => Some((Ok(piece), None)),
            Err(error) => {
                tracing::debug!(%error, "an answer about files breaks off");
                Some((Err(error), None))
            }
        }
    });
    Ok(json(Body::from_stream(rest)))
}

/// Makes pieces of an answer.
pub(super) trait AsyncNext<S>: Send + 'static {
    /// The next piece.
    fn next(&self, state: &mut S) -> impl Future<Output = Result<Piece, FileError>> + Send;
}

fn json(body: impl Into<Body>) -> Response {
    let mut response = body.into().into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A list in an object, told in pieces: `{"NAME":[…],"truncated":true}`.
pub(super) struct List {
    name: &'static str,
    begun: bool,
    count: u64,
}

impl List {
    pub(super) fn new(name: &'static str) -> Self {
        Self { name, begun: false, count: 0 }
    }

    /// Items so far.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Some items.
    pub(super) fn items<T: Serialize>(&mut self, items: impl IntoIterator<Item = T>) -> Piece {
        let mut text = self.begin();
        for item in items {
            if self.count > 0 {
                text.push(',');
            }
            self.count += 1;
            // Plain structs of texts and numbers always serialise.
            text.push_str(&serde_json::to_string(&item).unwrap_or_default());
        }
        Piece::Some(text.into())
    }

    /// The end.
    pub(super) fn end(&mut self, truncated: bool) -> Piece {
        let mut text = self.begin();
        text.push_str(if truncated { "],\"truncated\":true}" } else { "]}" });
        Piece::Last(text.into())
    }

    fn begin(&mut self) -> String {
        if std::mem::replace(&mut self.begun, true) { String::new() } else { format!("{{\"{}\":[", self.name) }
    }
}
