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

/// Begins work with git in a box; `what` is for the box's log.
async fn begin(http: &Arc<Http>, account: &AccountId, id: &str, what: &str) -> Result<GitWork, ApiError> {
    let kept = http.boxes.find(account, id)?;
    let work = http.boxes.git(&kept).await?;
    http.metrics.execs.get_or_create(&Door { door: "git" }).inc();
    http.boxes.log(kept.id(), LogLevel::Info, format!("Git: {what}"));
    Ok(work)
}
