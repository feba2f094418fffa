//! Around every request: an id, a span, figures, and a net for panics.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use http::{HeaderName, HeaderValue};
use tokio::time::Instant;
use tracing::Instrument;

use super::Http;
use super::error::ApiError;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The outermost layer. Neither headers nor bodies nor queries reach the log.
pub(super) async fn observe(State(http): State<Arc<Http>>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let id = format!("{:016x}", rand::random::<u64>());
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map(MatchedPath::as_str);
    let span = tracing::info_span!("request", id, %method, route = route.unwrap_or("other"));
    let answered = AssertUnwindSafe(next.run(request)).catch_unwind().instrument(span.clone());
    let mut response = answered.await.unwrap_or_else(|_| {
        let _entered = span.enter();
        ApiError::internal("the server failed; its log has more under this request's id").into_response()
    });
    let took = began.elapsed();
    http.metrics.request(&method, route, response.status(), took);
    span.in_scope(|| tracing::debug!(status = response.status().as_u16(), ?took, "answered"));
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}
