//! Git in boxes. Each call ends with its client: when it leaves, git and all that it has started are ended.

use std::sync::Arc;

use boxyard_proto::AccountId;
use boxyard_proto::api::logs::LogLevel;

use super::Http;
use super::error::ApiError;
use crate::boxes::GitWork;
use crate::metrics::Door;

pub(super) mod change;
pub(super) mod clone;
pub(super) mod config;
pub(super) mod exec;
pub(super) mod look;
pub(super) mod propose;
mod text;

/// Begins work with git in a box that changes something: the box's log has a line of it.
async fn begin(http: &Arc<Http>, account: &AccountId, id: &str, what: &str) -> Result<GitWork, ApiError> {
    let work = begin_look(http, account, id).await?;
    http.boxes.log(work.id(), LogLevel::Info, format!("Git: {what}"));
    Ok(work)
}

/// The same of work that only looks, perhaps every second.
async fn begin_look(http: &Arc<Http>, account: &AccountId, id: &str) -> Result<GitWork, ApiError> {
    let work = http.boxes.git(&http.boxes.find(account, id)?).await?;
    http.metrics.execs.get_or_create(&Door { door: "git" }).inc();
    Ok(work)
}
