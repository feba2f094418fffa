//! Disks in subvolumes of a btrfs.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use boxyard_proto::disk::{Answer, Disk, Order, Quotas};
use boxyard_proto::{BoxId, SnapshotId};
use tokio::sync::Mutex;

use super::{Budget, Source, Storage, copy, entries, walk};
use crate::fail;
use crate::local::disk::DiskTool;

/// How old sizes may be that are told. The file system's own books are older than that most of the time.
const SIZES_AGE: Duration = Duration::from_secs(1);

/// Disks below one folder.
#[derive(Debug)]
pub(super) struct Subvolumes {
    root: PathBuf,
    tool: Arc<DiskTool>,
    quotas: Quotas,
    measured: walk::Sizes,
    sizes: Mutex<Option<(Instant, BTreeMap<String, u64>)>>,
}

impl Subvolumes {
    /// Uses `root`, which is on btrfs, and removes what saves left there that were broken off. `enable` says which quotas to
    /// switch on.
    pub(super) async fn open(root: &Path, tool: &Arc<DiskTool>, enable: Quotas) -> io::Result<Self> {
        for folder in [root.to_owned(), root.join("boxes"), root.join("snapshots")] {
            match fs::DirBuilder::new().mode(0o700).create(&folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        let quotas = match tool.order(Order::Quotas { at: root.to_owned(), enable }).await? {
            Answer::Quotas { on, .. } => on,
            Answer::Done | Answer::Sizes { .. } | Answer::Failed { .. } => Quotas::Off,
        };
        if quotas == Quotas::Off {
            tracing::warn!(folder = %root.display(), "quotas are off on this file system: boxes' disks are not limited");
        }
        let subvolumes = Self {
            root: root.to_owned(),
            tool: Arc::clone(tool),
            quotas,
            measured: walk::Sizes::default(),
            sizes: Mutex::new(None),
        };
        for name in entries(&root.join("snapshots"))?.into_iter().filter(|name| name.starts_with('.')) {
            subvolumes.destroy(root.join("snapshots").join(name)).await?;
        }
        Ok(subvolumes)
    }

    /// Where a disk is put together that is copied here.
    fn draft(&self, id: &BoxId) -> PathBuf {
        self.root.join("boxes").join(format!(".{id}"))
    }

    /// The same for a saved disk.
    fn saved_draft(&self, id: &SnapshotId) -> PathBuf {
        self.root.join("snapshots").join(format!(".{id}"))
    }

    async fn destroy(&self, subvolume: PathBuf) -> io::Result<()> {
        // Somebody who was not waited for may be making it.
        self.tool.idle(&subvolume).await;
        if !subvolume.exists() {
            return Ok(());
        }
        self.tool.order(Order::Destroy { subvolume }).await.map(drop)
    }

    /// Bytes that the files of a subvolume hold, whoever else holds them.
    async fn measure(&self, subvolume: PathBuf) -> io::Result<u64> {
        Ok(sizes(self.tool.order(Order::Measure { subvolume }).await?)?.values().sum())
    }

    async fn sizes_in(&self, folder: &str, name: Option<&str>) -> io::Result<BTreeMap<String, u64>> {
        let order = Order::Sizes { folder: self.root.join(folder), name: name.map(str::to_owned) };
        sizes(self.tool.order(order).await?)
    }
}

fn sizes(answer: Answer) -> io::Result<BTreeMap<String, u64>> {
    match answer {
        Answer::Sizes { bytes } => Ok(bytes),
        Answer::Done | Answer::Quotas { .. } | Answer::Failed { .. } => Err(io::Error::other("not asked for")),
    }
}

#[async_trait]
impl Storage for Subvolumes {
    fn disk(&self, id: &BoxId) -> PathBuf {
        self.root.join("boxes").join(id.as_str())
    }

    fn saved(&self, id: &SnapshotId) -> PathBuf {
        self.root.join("snapshots").join(id.as_str())
    }

    fn limits(&self) -> bool {
        self.quotas != Quotas::Off
    }

    fn copies(&self, from: &Path) -> bool {
        !from.starts_with(&self.root)
    }

    async fn prepare(&self, id: &BoxId, from: Option<&Source>, budget: Budget) -> io::Result<Option<Disk>> {
        let subvolume = self.disk(id);
        let limit = budget.charge(self.quotas);
        let disk = Disk { subvolume: subvolume.clone(), from: None, taken: false, limit };
        let Some(Source { folder: from, take }) = from else { return Ok(Some(disk)) };
        if !self.copies(from) {
            if !take {
                return Ok(Some(Disk { from: Some(from.clone()), ..disk }));
            }
            self.destroy(subvolume.clone()).await?;
            fs::rename(from, subvolume)?;
            return Ok(Some(Disk { taken: true, ..disk }));
        }
        // Saved by another kind of storage. It has its name when it is complete.
        let draft = self.draft(id);
        self.destroy(draft.clone()).await?;
        self.tool.order(Order::Make(Disk { subvolume: draft.clone(), ..disk.clone() })).await?;
        fs::remove_dir(draft.join("upper"))?;
        fail::point("copy: begun");
        copy::copy(from.join("upper"), draft.join("upper")).await?;
        fail::point("copy: half");
        copy::settle(draft.clone()).await?;
        fs::rename(draft, subvolume)?;
        Ok(Some(disk))
    }

    async fn flush(&self, id: &BoxId, into: &SnapshotId) -> io::Result<()> {
        let draft = self.saved_draft(into);
        self.destroy(draft.clone()).await?;
        self.tool.order(Order::Flush { subvolume: self.disk(id), draft }).await.map(drop)
    }

    async fn save(&self, id: &BoxId, into: &SnapshotId, taken: bool) -> io::Result<u64> {
        let saved = self.saved(into);
        self.destroy(saved.clone()).await?;
        let order = Order::Snapshot { subvolume: self.disk(id), into: saved, taken };
        let charged = sizes(self.tool.order(order).await?)?;
        // Full quotas do not mind who else holds something.
        Ok(if self.quotas == Quotas::Simple { charged.values().sum() } else { 0 })
    }

    async fn finish(&self, id: &SnapshotId) -> io::Result<u64> {
        if self.quotas != Quotas::Full {
            return self.measure(self.saved(id)).await;
        }
        let sizes = self.sizes_in("snapshots", Some(id.as_str())).await?;
        sizes.get(id.as_str()).copied().ok_or_else(|| io::Error::other("the file system does not count the snapshot"))
    }

    async fn receive(&self, id: &SnapshotId) -> io::Result<PathBuf> {
        let draft = self.saved_draft(id);
        self.destroy(draft.clone()).await?;
        self.tool.order(Order::Make(Disk { subvolume: draft.clone(), from: None, taken: false, limit: None })).await?;
        Ok(draft.join("upper"))
    }

    async fn received(&self, id: &SnapshotId) -> io::Result<()> {
        let draft = self.saved_draft(id);
        // The order that follows has a deadline, and this takes as long as the disk needs.
        copy::settle(draft.clone()).await?;
        self.tool.order(Order::Snapshot { subvolume: draft.clone(), into: self.saved(id), taken: false }).await?;
        self.destroy(draft).await
    }

    async fn freed(&self, id: &BoxId, budget: Budget) -> io::Result<()> {
        // Full quotas do not mind who else holds something.
        if self.quotas != Quotas::Simple {
            return Ok(());
        }
        let charged = self.sizes_in("boxes", Some(id.as_str())).await?.get(id.as_str()).copied().unwrap_or_default();
        // The books may be half a minute old.
        if budget.charge(self.quotas).is_none_or(|limit| charged < limit / 2) {
            return Ok(());
        }
        self.tool.order(Order::Freed { at: self.root.join("snapshots") }).await.map(drop)
    }

    async fn used(&self, id: &BoxId, budget: Budget) -> io::Result<u64> {
        let charged_for_others = budget.started_with > 0 || budget.saved > 0;
        if self.quotas == Quotas::Off || (self.quotas == Quotas::Simple && charged_for_others) {
            return self.measured.recall(id, self.measure(self.disk(id))).await;
        }
        let mut sizes = self.sizes.lock().await;
        let known = sizes.as_ref().filter(|(at, bytes)| at.elapsed() < SIZES_AGE && bytes.contains_key(id.as_str()));
        if known.is_none() {
            *sizes = Some((Instant::now(), self.sizes_in("boxes", None).await?));
        }
        Ok(sizes.as_ref().and_then(|(_, bytes)| bytes.get(id.as_str())).copied().unwrap_or_default())
    }

    async fn limit(&self, id: &BoxId, budget: Budget) -> io::Result<()> {
        // Full quotas do not mind who else holds something.
        if self.quotas != Quotas::Simple {
            return Ok(());
        }
        let Some(limit) = budget.charge(self.quotas) else { return Ok(()) };
        self.tool.order(Order::Limit { subvolume: self.disk(id), limit }).await.map(drop)
    }

    async fn remove(&self, id: &BoxId) -> io::Result<()> {
        self.destroy(self.draft(id)).await?;
        self.destroy(self.disk(id)).await
    }

    async fn forget(&self, id: &SnapshotId) -> io::Result<()> {
        self.destroy(self.saved_draft(id)).await?;
        self.destroy(self.saved(id)).await
    }

    fn names(&self) -> io::Result<[Vec<String>; 2]> {
        Ok([entries(&self.root.join("boxes"))?, entries(&self.root.join("snapshots"))?])
    }
}
