//! Snapshots as archives: what leaves a host and comes to another.

use std::fmt;

use boxyard_proto::BoxId;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncRead;

use crate::Saved;

/// What an archive says of its snapshot, beside its files. Nothing of it is secret; whoever reads an archive believes none of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// Name of the image.
    pub runtime: String,
    /// The word for the size of the box that was saved.
    pub size: String,
    /// What the snapshot is called; at most 200 characters, none of them control characters.
    pub name: String,
    /// The box that was saved.
    pub source: Option<BoxId>,
    /// When it was, in milliseconds since 1970.
    pub created_at_ms: i64,
}

/// Bounds on an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveLimits {
    /// Bytes of the archive.
    pub packed_bytes: u64,
    /// Bytes of all its files.
    pub unpacked_bytes: u64,
    /// Bytes that must be left free on the host's file systems.
    pub keep_free: u64,
}

/// How a snapshot is to be packed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportOrder {
    /// What to say of it.
    pub description: Description,
    /// Leaves the image's files out: then it can be unpacked only where the very same image is.
    pub without_image: bool,
    /// Its bounds.
    pub limits: ArchiveLimits,
}

/// A byte stream of an archive.
pub type ArchiveBytes = Box<dyn AsyncRead + Send + Unpin>;

/// A packed snapshot.
pub struct Exported {
    /// Bytes that come.
    pub length: u64,
    /// The bytes. They depend on nothing any more: the snapshot may go meanwhile.
    pub bytes: ArchiveBytes,
}

impl fmt::Debug for Exported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exported").field("length", &self.length).finish_non_exhaustive()
    }
}

/// A snapshot that came from an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imported {
    /// What was saved of it here.
    pub saved: Saved,
    /// What the archive says of it. Well-formed, and otherwise whatever somebody wrote.
    pub description: Description,
}
