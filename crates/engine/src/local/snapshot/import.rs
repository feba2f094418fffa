//! Snapshots from archives.
//!
//! ```text
//!   archive ─▶ file without a name, blobs checked ─▶ layers of the image ─▶ what the box had written ─▶ record
//! ```
//! A snapshot without a record was broken off, as ever; layers that nobody stands on are freed.

use std::fs::{self, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};

use boxyard_proto::SnapshotId;
use boxyard_proto::launch::LAYERS_MAX;
use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::io::SyncIoBridge;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::{Making, TRANSFERS};
use crate::archive::{ArchiveBytes, ArchiveLimits, Imported};
use crate::fail;
use crate::images::archive::{
    Allowance, Contents, Spool, StopOnDrop, Unpacking, blocking, receive, receiving, room, stack,
};
use crate::local::LocalEngine;
use crate::local::create::broken;
use crate::local::record::SnapshotRecord;
use crate::{EngineError, ErrorKind, Saved};

/// Ends when nobody waits for it any more: a thread that reads would not notice.
struct Cancellable {
    inner: ArchiveBytes,
    cancelled: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl AsyncRead for Cancellable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.cancelled.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(std::io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl LocalEngine {
    pub(in crate::local) async fn unpack_snapshot(
        &self,
        into: &SnapshotId,
        archive: ArchiveBytes,
        limits: &ArchiveLimits,
    ) -> Result<Imported, EngineError> {
        if self.host.snapshot(into).exists() || !self.host.saving().insert(into.clone()) {
            return Err(EngineError::new(ErrorKind::Broken, "making a snapshot that is there already"));
        }
        let making = Making(&self.host, into);
        let imported = self.try_unpack(into, archive, limits).await;
        if imported.is_err()
            && let Err(error) = self.host.forget_snapshot(into).await
        {
            tracing::warn!(snapshot = %into, %error, "cleaning up after a snapshot that could not be unpacked");
        }
        drop(making);
        // Whether it came to something or not: what others left meanwhile could not be freed.
        self.release_layers();
        imported
    }

    async fn try_unpack(
        &self,
        into: &SnapshotId,
        archive: ArchiveBytes,
        limits: &ArchiveLimits,
    ) -> Result<Imported, EngineError> {
        let stop = StopOnDrop::default();
        let contents = self.receive(archive, limits, &stop).await?;
        fail::point("import: received");

        let place = TRANSFERS.acquire().await.map_err(broken("waiting for a place to unpack the snapshot"))?;
        let making = |doing: &'static str| move |error| EngineError::of_disk(doing, error);
        fs::DirBuilder::new()
            .mode(0o700)
            .create(self.host.snapshot(into))
            .map_err(making("making the snapshot's folder"))?;
        let kind = self.host.storages.default_kind();
        let storage = self.host.storages.of(kind).map_err(broken("finding a place for the snapshot"))?;
        let upper = storage.receive(into).await.map_err(making("making the snapshot's disk"))?;
        fail::point("import: begun");
        // Until the record names them, nothing else keeps the layers.
        let kept = self.images.keep().await?;
        let left = [&upper, self.host.instance.data()]
            .into_iter()
            .map(|folder| room(File::open(folder)?, limits.keep_free))
            .try_fold(u64::MAX, |least, left| left.map(|left| left.min(least)));
        let left = left.map_err(making("finding out what room there is"))?;
        let allowance = Allowance::within(limits.unpacked_bytes, left);
        let unpacking = Unpacking { allowance, keep_free: limits.keep_free, stop: stop.flag() };
        // Layers stay, and beside the pool: what it may still grow is not theirs. A pool whose file cannot grow is the end of all boxes.
        let promised = self.host.storages.promised(self.host.instance.data());
        let promised = promised.map_err(making("finding out what the pool may take"))?;
        let beside = Unpacking { keep_free: limits.keep_free.saturating_add(promised), ..unpacking.clone() };
        let Contents { description, env, image, own } = contents;
        let mut layers = Vec::new();
        for layer in image {
            layers.push(self.images.take_in(layer, &description.runtime, &beside).await?);
            fail::point("import: layer");
        }
        let layers = stack(layers);
        if layers.len() > LAYERS_MAX {
            let text = format!("the archive's image has {} layers, and boxes at most {LAYERS_MAX}", layers.len());
            return Err(EngineError { kind: ErrorKind::Invalid, ..EngineError::broken("reading the archive", text) });
        }
        if let Some(blob) = own.blob {
            let (into, unpacking) = (upper.clone(), unpacking.clone());
            let unpacked = blocking(move || {
                // Stays with the thread, which may go on for a moment when nobody waits.
                let _place = place;
                unpacking.run(blob, &into, &own.diff_id)
            });
            unpacked.await.map_err(|error| receiving("unpacking what the box has written", error))?;
        }
        fail::point("import: unpacked");
        storage.received(into).await.map_err(making("keeping the snapshot's disk"))?;
        fail::point("import: kept");
        let size_bytes = storage.finish(into).await.map_err(making("measuring the snapshot"))?;
        let record = SnapshotRecord { layers, image_env: env, storage: kind, size_bytes, source: None, once: false };
        record.write(&self.host.snapshot(into)).map_err(making("writing the snapshot's record"))?;
        fail::point("import: recorded");
        drop(kept);
        tracing::info!(snapshot = %into, bytes = size_bytes, "snapshot unpacked");
        Ok(Imported { saved: Saved { size_bytes }, description })
    }

    /// Takes the archive in and says what is in it.
    async fn receive(
        &self,
        archive: ArchiveBytes,
        limits: &ArchiveLimits,
        stop: &StopOnDrop,
    ) -> Result<Contents, EngineError> {
        let cancel = CancellationToken::new();
        let _cancel = cancel.clone().drop_guard();
        let cancelled = Box::pin(cancel.cancelled_owned());
        let archive = SyncIoBridge::new(Cancellable { inner: archive, cancelled });
        let (folder, limits, flag) = (self.host.instance.data().to_owned(), *limits, stop.flag());
        let received = blocking(move || {
            let spool = Spool::new(&folder, limits.packed_bytes, limits.keep_free)?;
            receive(archive, spool, limits.packed_bytes, &flag)?.contents()
        });
        received.await.map_err(|error| receiving("reading the archive", error))
    }

    /// Frees, in the background, layers that came with snapshots and that nobody stands on any more.
    pub(in crate::local) fn release_layers(&self) {
        let images = std::sync::Arc::clone(&self.images);
        self.tasks.spawn_blocking(move || {
            if let Err(error) = images.release() {
                // The next one that ends frees them, or the next start.
                tracing::warn!(%error, "image layers that came with snapshots could not be freed");
            }
        });
    }

    /// Whether one of these layers came with a snapshot.
    pub(in crate::local) fn stands_on_imported(&self, layers: &[PathBuf]) -> bool {
        layers.iter().any(|layer| self.images.is_imported(layer))
    }
}
