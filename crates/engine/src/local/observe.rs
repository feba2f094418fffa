//! Looking at what is there.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use boxyard_proto::BoxId;

use super::LocalEngine;
use super::create::broken;
use super::host::Host;
use super::record::Record;
use super::settle::is_settled;
use crate::{EngineError, Observed, ObservedState};

impl LocalEngine {
    /// Every box of which there is a folder, a group or a socket.
    pub(super) async fn look(&self) -> Result<Vec<Observed>, EngineError> {
        let looking = "looking for boxes";
        let mut ids = self.host.known().map_err(broken(looking))?;
        for build in self.host.builds().iter() {
            ids.remove(build);
        }
        let mut observed = Vec::with_capacity(ids.len());
        for id in ids {
            // A record that cannot be read is as good as none; the box's removal is what is left.
            let record = Record::read(&self.host.instance.of(&id)).unwrap_or_default();
            let limits = record.as_ref().map(|record| record.spec.limits);
            let state = self.host.state(&id, record).await.map_err(broken(looking))?;
            observed.push(Observed { id, state, limits });
        }
        Ok(observed)
    }
}

impl Host {
    /// Every id under which anything exists here.
    pub(super) fn known(&self) -> io::Result<BTreeSet<BoxId>> {
        let mut names = self.cgroups.names()?;
        names.extend(entries(&self.instance.boxes())?);
        for storage in self.storages.all() {
            let [boxes, _] = storage.names()?;
            names.extend(boxes);
        }
        let sockets = entries(self.instance.run())?;
        names.extend(sockets.into_iter().filter_map(|name| Some(name.strip_suffix(".sock")?.to_owned())));
        Ok(names.into_iter().filter_map(|name| name.parse().ok()).collect())
    }

    async fn state(&self, id: &BoxId, record: Option<Record>) -> io::Result<ObservedState> {
        let Some(record) = record else { return Ok(ObservedState::Partial) };
        let dir = self.instance.of(id);
        if !self.storages.has(record.storage, id) && (is_settled(&dir) || self.storages.of(record.storage).is_err()) {
            return Ok(ObservedState::Partial);
        }
        // Not asked whether it accepts connections: the question would wait in its queue.
        if self.cgroups.is_frozen(id)? && self.cgroups.is_populated(id)? {
            return Ok(ObservedState::Frozen);
        }
        Ok(if self.is_running(id).await? { ObservedState::Running } else { ObservedState::Stopped })
    }
}

fn entries(folder: &Path) -> io::Result<Vec<String>> {
    fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}
