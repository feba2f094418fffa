//! Pausing a box, in both depths, and letting it go on.

use std::fs;
use std::io;

use boxyard_proto::BoxId;

use super::LocalEngine;
use super::create::broken;
use super::host::Host;
use super::record::Record;
use crate::fail;
use crate::{EngineError, ErrorKind, Resumed};

/// A file in the folder of a box that stands still only because it is being saved.
const SAVING: &str = "saving";

impl LocalEngine {
    /// Freezes the box.
    pub(super) async fn freeze(&self, id: &BoxId) -> Result<(), EngineError> {
        let pausing = "pausing the box";
        self.recorded(id, pausing)?;
        self.host.launcher.settle(id).await.map_err(broken(pausing))?;
        if !self.host.cgroups.is_populated(id).map_err(broken(pausing))? {
            return Ok(());
        }
        self.host.cgroups.freeze(id).await.map_err(broken(pausing))?;
        fail::point("pause: frozen");
        // What was only for a moment is now for good.
        self.host.forget_saving(id).map_err(broken(pausing))
    }

    /// Ends the box's processes.
    pub(super) async fn halt(&self, id: &BoxId) -> Result<(), EngineError> {
        self.recorded(id, "stopping the box")?;
        self.host.end(id).await.map_err(broken("ending the box's processes"))?;
        self.host.has_stopped(id);
        fail::point("stop: ended");
        self.host.forget_saving(id).map_err(broken("stopping the box"))
    }

    /// Lets the box go on, or starts it.
    pub(super) async fn go_on(&self, id: &BoxId) -> Result<Resumed, EngineError> {
        let resuming = "resuming the box";
        let record = self.recorded(id, resuming)?;
        let broken_off = self.host.launcher.settle(id).await.map_err(broken(resuming))?;
        if !broken_off {
            self.host.cgroups.thaw(id).await.map_err(broken(resuming))?;
            fail::point("resume: thawed");
            self.host.forget_saving(id).map_err(broken(resuming))?;
            if self.host.is_running(id).await.map_err(broken(resuming))? {
                return Ok(Resumed::Thawed);
            }
        }
        // Another address and link than before: the kernel takes some hundredths of a second to remove the old link.
        let ended = self.host.end(id).await;
        ended.map_err(broken("ending what is left of the box"))?;
        fail::point("resume: ended");
        self.host.change_slot(id);
        self.make(&record.spec).await?;
        Ok(Resumed::Started)
    }

    /// The box's record.
    pub(super) fn recorded(&self, id: &BoxId, doing: &'static str) -> Result<Record, EngineError> {
        let record = Record::read(&self.host.instance.of(id)).map_err(broken("reading the box's record"))?;
        record.ok_or_else(|| EngineError::new(ErrorKind::NotFound, doing))
    }
}

/// A box that stands still for being saved. Dropping this lets it go on, as does the start of the next server.
#[derive(Debug)]
pub(super) struct Still<'a> {
    host: &'a Host,
    id: &'a BoxId,
    /// It has been let go, or was not ours to freeze.
    over: bool,
}

impl<'a> Still<'a> {
    /// Freezes the box unless it stands still already or has no processes.
    pub(super) async fn begin(host: &'a Host, id: &'a BoxId) -> io::Result<Self> {
        let marker = host.instance.of(id).join(SAVING);
        let paused = host.cgroups.is_frozen(id)? && !marker.exists();
        if paused || !host.cgroups.is_populated(id)? {
            return Ok(Self { host, id, over: true });
        }
        fs::File::create(marker)?;
        fail::point("save: marked");
        let still = Self { host, id, over: false };
        host.cgroups.freeze(id).await?;
        Ok(still)
    }

    /// Lets the box go on.
    pub(super) async fn end(mut self) -> io::Result<()> {
        if self.over {
            return Ok(());
        }
        self.host.cgroups.thaw(self.id).await?;
        self.over = true;
        self.host.forget_saving(self.id)
    }
}

impl Drop for Still<'_> {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let thawed = self.host.cgroups.thaw_now(self.id).and_then(|()| self.host.forget_saving(self.id));
        if let Err(error) = thawed {
            tracing::error!(id = %self.id, %error, "letting a box go on after a save that was broken off");
        }
    }
}

impl Host {
    fn forget_saving(&self, id: &BoxId) -> io::Result<()> {
        match fs::remove_file(self.instance.of(id).join(SAVING)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Lets boxes go on that an earlier server froze for a save and did not come back to.
    pub(super) fn thaw_saving(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.instance.boxes())? {
            let entry = entry?;
            let Ok(id) = entry.file_name().to_string_lossy().parse::<BoxId>() else { continue };
            if entry.path().join(SAVING).exists() {
                tracing::info!(%id, "letting a box go on after a save that was broken off");
                self.cgroups.thaw_now(&id)?;
                self.forget_saving(&id)?;
            }
        }
        Ok(())
    }
}
