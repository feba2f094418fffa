//! What a reference stood for when it was pulled, as a file.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::reference::{Digest, Reference};

const FILE_MAX: u64 = 1024 * 1024;

/// An image of a registry, by its digests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::images) struct Pin {
    /// What it was asked for by.
    pub reference: String,
    /// Of the manifest for this host's platform.
    pub manifest: Digest,
    /// The lowest first.
    pub layers: Vec<PinnedLayer>,
    /// Variables that the image sets.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
}

/// One layer of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::images) struct PinnedLayer {
    /// Of the blob in the registry.
    pub digest: Digest,
    /// Bytes of the blob.
    pub size: u64,
    /// Of the archive unpacked.
    pub diff_id: Digest,
}

/// The file of the recipe called `name` in `folder`.
pub(in crate::images) fn file(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.json"))
}

impl Pin {
    /// The pin at `path`, if there is one that can be read: else the registry is asked again.
    pub fn read(path: &Path) -> Option<Self> {
        if fs::metadata(path).ok()?.len() > FILE_MAX {
            return None;
        }
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }

    /// Whether it is what `reference`, in whatever way it is written, stood for.
    pub fn is_of(&self, reference: &str) -> bool {
        Reference::parse(reference).is_ok_and(|reference| reference.to_string() == self.reference)
    }

    pub fn to_bytes(&self) -> io::Result<Vec<u8>> {
        Ok(serde_json::to_vec_pretty(self)?)
    }
}
