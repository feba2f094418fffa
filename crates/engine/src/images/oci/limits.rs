//! What an image of a registry may cost.

use std::time::Duration;

/// Bounds on pulling and unpacking an image. An image beyond one of them is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OciLimits {
    /// Bytes of a manifest or an index.
    pub manifest_bytes: u64,
    /// Bytes of an image's configuration.
    pub config_bytes: u64,
    /// Layers of an image.
    pub layers: usize,
    /// Bytes of all its layers as they are stored in the registry.
    pub compressed_bytes: u64,
    /// Bytes of all its layers unpacked, holes of sparse files included.
    pub unpacked_bytes: u64,
    /// Files, folders, links and so on of one layer.
    pub entries: u64,
    /// How long a transfer may stand still before it is broken off and tried again.
    pub stall: Duration,
    /// How many times in a row something is tried without any progress.
    pub attempts: u32,
    /// The wait before the second try; it doubles with each further one.
    pub backoff: Duration,
}

impl Default for OciLimits {
    fn default() -> Self {
        const GIB: u64 = 1 << 30;
        Self {
            manifest_bytes: 4 << 20,
            config_bytes: 8 << 20,
            layers: 127,
            compressed_bytes: 16 * GIB,
            unpacked_bytes: 64 * GIB,
            entries: 1_000_000,
            stall: Duration::from_secs(30),
            attempts: 5,
            backoff: Duration::from_millis(500),
        }
    }
}
