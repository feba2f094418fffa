//! What a box uses.

use std::sync::Arc;

use axum::extract::State;
use boxyard_proto::api::usage::{BoxUsage, UsageLimits};

use super::Http;
use super::auth::Caller;
use super::error::{ApiError, Refusals};
use super::json::Path;

/// Tells what a box uses now
///
/// Neither resumes the box nor counts as work in it.
#[utoipa::path(get, path = "/v2/box/{id}/usage", tag = "boxes", params(("id" = String, Path, description = "Id or name of the box")),
    responses((status = 200, body = BoxUsage), Refusals))]
pub(super) async fn show(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Path(id): Path<String>,
) -> Result<axum::Json<BoxUsage>, ApiError> {
    let kept = http.boxes.find(&account, &id)?;
    let usage = http.boxes.usage(&kept).await?;
    let limits = kept.limits();
    Ok(axum::Json(BoxUsage {
        cpu_ns: usage.cpu_ns,
        memory_bytes: usage.memory_bytes,
        pids: usage.pids,
        disk_bytes: usage.disk_bytes,
        network_received: usage.network_received,
        network_sent: usage.network_sent,
        oom_kills: usage.oom_kills,
        limits: UsageLimits {
            cpu_millis: limits.cpu_millis,
            memory_bytes: limits.memory_bytes,
            pids: limits.pids,
            disk_bytes: limits.disk_bytes,
        },
    }))
}
