//! What a box uses. An extension of this server; the real service has no such route.

use serde::{Deserialize, Serialize};

/// Answer of `GET /v2/box/{id}/usage`. Counts begin anew when a stopped box is started; `total_cpu_ns` of the box's record does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct BoxUsage {
    /// CPU time of everything in the box since it was started, in nanoseconds.
    pub cpu_ns: u64,
    /// Bytes of memory in use, caches included.
    pub memory_bytes: u64,
    /// Processes and threads.
    pub pids: u64,
    /// Bytes on the disk beyond the image; up to half a minute old.
    pub disk_bytes: u64,
    /// Bytes received over the network since the box was started.
    pub network_received: u64,
    /// Bytes sent over the network since the box was started.
    pub network_sent: u64,
    /// Processes that were ended since the box was started because it was out of memory.
    pub oom_kills: u64,
    /// What the box may use.
    pub limits: UsageLimits,
}

/// What a box may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UsageLimits {
    /// Thousandths of a CPU.
    pub cpu_millis: u32,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Processes and threads.
    pub pids: u32,
    /// Bytes on the disk beyond the image.
    pub disk_bytes: u64,
}
