//! Packing snapshots as archives. Nothing of it stays on the disk: what is packed goes through a file without a name.

use super::TRANSFERS;
use crate::archive::{ExportOrder, Exported};
use crate::images::archive::{Packing, Spool, StopOnDrop, bases, blocking, note_sum, pack};
use crate::local::LocalEngine;
use crate::local::create::broken;
use crate::local::record::SnapshotRecord;
use crate::{EngineError, ErrorKind};
use boxyard_proto::SnapshotId;

impl LocalEngine {
    pub(in crate::local) async fn pack_snapshot(
        &self,
        id: &SnapshotId,
        order: &ExportOrder,
    ) -> Result<Exported, EngineError> {
        let record = SnapshotRecord::read(&self.host.snapshot(id)).map_err(broken("reading the snapshot's record"))?;
        let record = record.ok_or_else(|| EngineError::new(ErrorKind::NotFound, "finding the snapshot"))?;
        let storage = self.host.storages.of(record.storage).map_err(broken("finding the snapshot's disk"))?;
        let upper = storage.saved(id).join("upper");
        let place = TRANSFERS.acquire().await.map_err(broken("waiting for a place to pack the snapshot"))?;
        let packing = |error: std::io::Error| {
            let doing = "packing the snapshot";
            if error.kind() == std::io::ErrorKind::InvalidInput {
                return EngineError { kind: ErrorKind::Invalid, ..EngineError::broken(doing, error) };
            }
            EngineError::of_disk(doing, error)
        };
        let (folder, order, layers) = (self.host.instance.data().to_owned(), order.clone(), bases(&record.layers));
        let trees: Vec<_> = layers.iter().map(|base| base.tree.clone()).collect();
        let stop = StopOnDrop::default();
        let flag = stop.flag();
        let packed = blocking(move || {
            let _place = place;
            let limits = order.limits;
            let packing = Packing {
                layers,
                upper,
                env: record.image_env,
                description: &order.description,
                without_image: order.without_image,
                bytes: limits.unpacked_bytes,
                stop: &flag,
            };
            pack(&packing, Spool::new(&folder, limits.packed_bytes, limits.keep_free)?)
        });
        let packed = packed.await.map_err(packing)?;
        for (tree, sum) in trees.iter().zip(&packed.sums) {
            note_sum(tree, sum);
        }
        let length = packed.len();
        tracing::info!(snapshot = %id, bytes = length, left_out = packed.left_out, "snapshot packed");
        Ok(Exported { length, bytes: Box::new(packed.into_reader()) })
    }
}
