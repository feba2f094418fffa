//! What a box uses.

use std::fs;
use std::path::Path;

use boxyard_proto::BoxId;

use super::LocalEngine;
use super::create::broken;
use super::network::interface;
use crate::{EngineError, ErrorKind, Usage};

impl LocalEngine {
    /// From the box's groups, its end of the link and its disk; a box without processes has the last only.
    pub(super) async fn measure(&self, id: &BoxId) -> Result<Usage, EngineError> {
        let reading = "reading what the box uses";
        let running = self.host.cgroups.usage(id).map_err(broken(reading))?;
        let record = match self.recorded(id, reading) {
            Ok(record) => record,
            // A throw-away box has no record and no disk of its own.
            Err(error) if error.kind == ErrorKind::NotFound => return running.ok_or(error),
            Err(error) => return Err(error),
        };
        let mut usage = running.unwrap_or_default();
        if running.is_some() {
            let link = Path::new("/sys/class/net").join(interface(self.host.instance.tag(), record.slot));
            // What the host's end receives is what the box sends.
            (usage.network_sent, usage.network_received) = (count(&link, "rx_bytes"), count(&link, "tx_bytes"));
        }
        if self.host.storages.has(record.storage, id) {
            let storage = self.host.storages.of(record.storage).map_err(broken(reading))?;
            let budget = record.budget(&self.host.instance.of(id)).map_err(broken(reading))?;
            match storage.used(id, budget).await {
                Ok(bytes) => usage.disk_bytes = bytes,
                // Files of a running box may move while they are counted.
                Err(error) => tracing::debug!(%id, %error, "what the box has on its disk cannot be counted"),
            }
        }
        Ok(usage)
    }
}

/// A counter of a link's; 0 when the link is gone.
fn count(link: &Path, name: &str) -> u64 {
    let text = fs::read_to_string(link.join("statistics").join(name)).unwrap_or_default();
    text.trim().parse().unwrap_or_default()
}
