//! Disks in plain folders, beside the boxes' records: for any file system.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use boxyard_proto::disk::Disk;
use boxyard_proto::{BoxId, SnapshotId};

use super::{Budget, Source, Storage, copy, walk};
use crate::fail;
use crate::local::trash::Trash;

/// A saved disk that comes from elsewhere and is not whole yet.
const DRAFT: &str = "draft-import";

/// Disks in the folders of boxes and snapshots.
#[derive(Debug)]
pub(super) struct Folders {
    data: PathBuf,
    trash: Arc<Trash>,
    sizes: walk::Sizes,
}

impl Folders {
    pub(super) fn new(data: &Path, trash: &Arc<Trash>) -> Self {
        Self { data: data.to_owned(), trash: Arc::clone(trash), sizes: walk::Sizes::default() }
    }

    /// Copies `from` into the folder `into`, which is there only when it is complete.
    /// `safe`: also after a loss of power it is there only when it is complete.
    async fn copy(&self, from: PathBuf, into: PathBuf, safe: bool) -> io::Result<()> {
        // A draft that was broken off may still be written to for a moment.
        let draft = into.with_file_name(format!("draft-{:016x}", rand::random::<u64>()));
        for entry in fs::read_dir(into.parent().unwrap_or(&into))? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with("draft-") {
                self.trash.throw(&entry.path())?;
            }
        }
        fail::point("copy: begun");
        let copied = copy::copy(from, draft.clone()).await;
        if copied.is_err() {
            self.trash.throw(&draft)?;
        }
        copied?;
        if safe {
            copy::settle(draft.clone()).await?;
        }
        fail::point("copy: half");
        fs::rename(&draft, &into)
    }
}

#[async_trait]
impl Storage for Folders {
    fn disk(&self, id: &BoxId) -> PathBuf {
        self.data.join("boxes").join(id.as_str())
    }

    fn saved(&self, id: &SnapshotId) -> PathBuf {
        self.data.join("snapshots").join(id.as_str())
    }

    fn limits(&self) -> bool {
        false
    }

    fn copies(&self, _from: &Path) -> bool {
        true
    }

    async fn prepare(&self, id: &BoxId, from: Option<&Source>, _budget: Budget) -> io::Result<Option<Disk>> {
        let disk = self.disk(id);
        let upper = disk.join("upper");
        if let Some(from) = from
            && !upper.exists()
        {
            self.copy(from.folder.join("upper"), upper, true).await?;
        }
        // What overlay shows as the root of the box has the mode of `upper`.
        for name in ["upper", "work"] {
            match fs::DirBuilder::new().mode(0o755).create(disk.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        Ok(None)
    }

    async fn flush(&self, _id: &BoxId, _into: &SnapshotId) -> io::Result<()> {
        Ok(())
    }

    async fn save(&self, id: &BoxId, into: &SnapshotId, _taken: bool) -> io::Result<u64> {
        let upper = self.saved(into).join("upper");
        if upper.exists() {
            self.trash.throw(&upper)?;
        }
        self.copy(self.disk(id).join("upper"), upper, false).await?;
        // Nothing is limited here.
        Ok(0)
    }

    async fn finish(&self, id: &SnapshotId) -> io::Result<u64> {
        copy::settle(self.saved(id)).await?;
        walk::measure(self.saved(id).join("upper")).await
    }

    async fn receive(&self, id: &SnapshotId) -> io::Result<PathBuf> {
        let draft = self.saved(id).join(DRAFT);
        self.trash.throw(&draft)?;
        fs::DirBuilder::new().mode(0o755).create(&draft)?;
        Ok(draft)
    }

    async fn received(&self, id: &SnapshotId) -> io::Result<()> {
        fs::rename(self.saved(id).join(DRAFT), self.saved(id).join("upper"))
    }

    async fn freed(&self, _id: &BoxId, _budget: Budget) -> io::Result<()> {
        Ok(())
    }

    async fn used(&self, id: &BoxId, _budget: Budget) -> io::Result<u64> {
        self.sizes.recall(id, walk::measure(self.disk(id).join("upper"))).await
    }

    async fn limit(&self, _id: &BoxId, _budget: Budget) -> io::Result<()> {
        Ok(())
    }

    async fn remove(&self, _id: &BoxId) -> io::Result<()> {
        // It goes with the box's folder.
        Ok(())
    }

    async fn forget(&self, _id: &SnapshotId) -> io::Result<()> {
        Ok(())
    }

    fn names(&self) -> io::Result<[Vec<String>; 2]> {
        Ok([Vec::new(), Vec::new()])
    }
}
