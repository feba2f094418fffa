//! The archives of the fake engine: a line that says what it is, and then JSON. No other engine reads them.

use std::collections::BTreeSet;
use std::io;

use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;

use super::{Call, FakeEngine, SNAPSHOT_BYTES, State};
use crate::archive::{ArchiveBytes, ArchiveLimits, Description, ExportOrder, Exported, Imported};
use crate::{EngineError, ErrorKind, Saved};
use boxyard_proto::SnapshotId;

const FIRST_LINE: &[u8] = b"fake boxyard snapshot\n";

#[derive(Serialize, Deserialize)]
struct Archive {
    description: Description,
    folders: BTreeSet<String>,
    /// So that it has some length.
    filling: String,
}

impl FakeEngine {
    pub(super) async fn pack(&self, id: &SnapshotId, order: &ExportOrder) -> Result<Exported, EngineError> {
        self.steer_archive(Call::Export).await?;
        let folders = self.lock().snapshots.get(id).cloned();
        let folders = folders.ok_or_else(|| EngineError::new(ErrorKind::NotFound, "finding the snapshot"))?;
        let filling = "x".repeat(if order.without_image { 0 } else { self.lock().filling });
        let archive = Archive { description: order.description.clone(), folders, filling };
        let text = serde_json::to_vec(&archive).map_err(|error| EngineError::broken("packing the snapshot", error))?;
        let bytes = [FIRST_LINE, &text].concat();
        let length = bytes.len() as u64;
        if length > order.limits.packed_bytes {
            return Err(EngineError::new(ErrorKind::Invalid, "packing the snapshot, which is too large,"));
        }
        Ok(Exported { length, bytes: Box::new(io::Cursor::new(bytes)) })
    }

    pub(super) async fn unpack(
        &self,
        into: &SnapshotId,
        archive: ArchiveBytes,
        limits: &ArchiveLimits,
    ) -> Result<Imported, EngineError> {
        let invalid = |error: io::Error| EngineError {
            kind: ErrorKind::Invalid,
            ..EngineError::broken("reading the archive", error)
        };
        let mut bytes = Vec::new();
        archive.take(limits.packed_bytes.saturating_add(1)).read_to_end(&mut bytes).await.map_err(invalid)?;
        let wrong = || invalid(io::Error::other("this is no archive of a snapshot, or not all of it"));
        let fits = bytes.len() as u64 <= limits.packed_bytes;
        let text = bytes.strip_prefix(FIRST_LINE).filter(|_| fits).ok_or_else(wrong)?;
        let archive: Archive = serde_json::from_slice(text).map_err(|_| wrong())?;
        self.steer_archive(Call::Import).await?;
        self.lock().snapshots.insert(into.clone(), archive.folders);
        Ok(Imported { saved: Saved { size_bytes: SNAPSHOT_BYTES }, description: archive.description })
    }

    /// Lets archives that bring their image be so many bytes longer.
    pub fn fill_archives(&self, bytes: usize) {
        self.lock().filling = bytes;
    }

    async fn steer_archive(&self, call: Call) -> Result<(), EngineError> {
        let (failure, hold) = {
            let mut state = self.lock();
            let State { failures, holds, .. } = &mut *state;
            let failure = failures.get_mut(&call).filter(|left| !left.is_empty()).map(|left| left.remove(0));
            (failure, holds.get(&call).cloned())
        };
        if let Some(gate) = hold {
            self.gates.pass(&gate).await;
        }
        failure.map_or(Ok(()), |kind| Err(EngineError::new(kind, format!("pretending to {call:?}").to_lowercase())))
    }
}
