//! The HTTP door: parses, authenticates, translates; decides nothing about boxes.
//!
//! One file per resource. Around every route, from outside: [`observe`], [`auth`], and then the route's own extractors.

use std::sync::Arc;

use axum::middleware::from_fn_with_state;
use axum::{Router, routing};
use bytes::Bytes;

use crate::boxes::Boxes;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::ssh::identity::Identity;
use crate::store::Store;

mod accept;
mod account_env;
mod archives;
mod auth;
mod bodies;
mod boxes;
mod code;
mod contexts;
mod error;
mod exec;
mod files;
mod git;
mod health;
mod held;
mod idempotency;
mod json;
mod labels;
mod limits;
mod logs;
mod observe;
mod openapi;
mod output;
mod paced;
mod pause;
mod runs;
mod session;
mod snapshots;
mod ssh;
mod startup;
mod stream;
mod usage;
mod websocket;

pub use accept::Door;
#[cfg(feature = "fuzzing")]
pub use files::exercise;
pub use openapi::openapi;

use auth::KeyCache;
use bodies::Bodies;
use error::ApiError;

/// What every handler may use.
struct Http {
    boxes: Boxes,
    store: Store,
    keys: KeyCache,
    metrics: Arc<Metrics>,
    body_cap: usize,
    bodies: Bodies,
    upload_cap: u64,
    openapi: Bytes,
    /// The SSH door, if there is one.
    ssh: Option<Identity>,
}

/// The API. `ssh` is the SSH door that it tells of, if there is one.
pub fn router(config: &Config, boxes: Boxes, store: Store, metrics: Arc<Metrics>, ssh: Option<Identity>) -> Router {
    let http = Arc::new(Http {
        boxes,
        store,
        keys: KeyCache::default(),
        metrics,
        body_cap: usize::try_from(config.limits.body_cap).unwrap_or(usize::MAX),
        bodies: Bodies::new(config.limits.body_budget),
        upload_cap: config.limits.upload_cap,
        openapi: openapi().into(),
        ssh,
    });
    Router::from(openapi::routes())
        .fallback(async || ApiError::no_route())
        .method_not_allowed_fallback(async || ApiError::wrong_method())
        .layer(from_fn_with_state(Arc::clone(&http), auth::authenticate))
        .layer(from_fn_with_state(Arc::clone(&http), observe::observe))
        .with_state(http)
}

/// The figures, without authentication: for a listener that only the operator reaches.
pub fn metrics_router(metrics: Arc<Metrics>, boxes: Boxes) -> Router {
    Router::new()
        .route("/metrics", routing::get(health::metrics))
        .fallback(async || ApiError::no_route())
        .method_not_allowed_fallback(async || ApiError::wrong_method())
        .with_state((metrics, boxes))
}
