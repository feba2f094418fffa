//! Images of registries as what a recipe stands on (`oci = "docker.io/library/alpine:3.22"`).
//!
//! ```text
//!   reference ─▶ manifest (for this platform) ─▶ configuration      all checked against their digests, then kept as a pin
//!                    │                               │ diff ids, variables
//!                    └─ blobs, four at once ─▶ blobs/sha256/….part ─▶ unpacked into the layer store, one folder a diff id
//! ```
//! A [pin](Pin) says what a reference stood for when it was pulled. While it is there the registry is not asked again.

mod auth;
mod client;
mod credentials;
mod decompress;
mod download;
#[cfg(any(test, feature = "fuzzing"))]
pub mod exercise;
pub(crate) mod layout;
mod limits;
mod manifest;
mod pack;
pub(crate) mod packing;
mod pax;
pub(super) mod pin;
pub(super) mod reference;
mod scan;
mod sparse;
pub(crate) mod spool;
mod tar;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod tree;
mod unpack;
mod write;

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

pub use self::client::OciConfig;
use self::client::{PullError, Repository};
pub(crate) use self::decompress::Allowance;
use self::decompress::Unpacked;
pub(super) use self::download::Blob;
pub use self::limits::OciLimits;
use self::manifest::{Answer, ImageConfig};
use self::pin::{Pin, PinnedLayer};
use self::reference::{Digest, Reference};
use self::spool::Slice;
pub(super) use self::tree::is_opaque;
use self::unpack::{Rules, Terms};
use crate::EngineError;

/// Blobs that are downloaded at once.
pub(super) const AT_ONCE: usize = 4;

/// One image that is being pulled.
#[derive(Debug)]
pub(super) struct Pull {
    repository: Repository,
    reference: Reference,
    allowance: Allowance,
    /// Bytes of layers that are on this host, for progress.
    heard: AtomicU64,
}

impl Pull {
    pub fn new(reference: &str, config: &OciConfig) -> Result<Self, EngineError> {
        let parsed = Reference::parse(reference)
            .map_err(|why| EngineError::broken(format!("reading the image reference {reference:?}"), why))?;
        let repository = Repository::new(&parsed, config).map_err(|error| pulling(&parsed, error))?;
        let allowance = Allowance::new(config.limits.unpacked_bytes);
        Ok(Self { repository, reference: parsed, allowance, heard: AtomicU64::new(0) })
    }

    /// Asks the registry what the reference stands for now.
    pub async fn resolve(&self) -> Result<Pin, EngineError> {
        self.ask().await.map_err(|error| pulling(&self.reference, error))
    }

    async fn ask(&self) -> Result<Pin, PullError> {
        let limits = &self.repository.limits;
        let mut wanted = self.reference.wanted();
        let mut size = None;
        let (manifest, config, layers) = loop {
            let bytes = self.repository.manifest(&wanted).await?;
            if size.is_some_and(|size| size != bytes.len() as u64) {
                return Err(PullError::lasting("the manifest does not have the size that the index tells"));
            }
            match manifest::answer(&bytes, limits).map_err(PullError::lasting)? {
                Answer::Manifest(config, layers) => break (Digest::of(&bytes), config, layers),
                Answer::Index(_) if size.is_some() => return Err(PullError::lasting("an index within an index")),
                Answer::Index(chosen) => {
                    wanted = chosen.digest.to_string();
                    size = Some(chosen.size);
                }
            }
        };
        let text = self.repository.small_blob(&config.digest, config.size).await?;
        let config = ImageConfig::read(&text, layers.len()).map_err(PullError::lasting)?;
        let layers = layers.into_iter().zip(config.diff_ids);
        Ok(Pin {
            reference: self.reference.to_string(),
            manifest,
            layers: layers
                .map(|(layer, diff_id)| PinnedLayer { digest: layer.digest, size: layer.size, diff_id })
                .collect(),
            env: config.env,
        })
    }

    /// Bytes of layers that have come so far.
    pub fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }

    /// Downloads a layer into `blobs`. The caller alone does so with this blob.
    pub async fn download(&self, blob: &Blob, blobs: &Path) -> Result<PathBuf, EngineError> {
        let got = self.repository.download(blob, blobs, &self.heard).await;
        got.map_err(|error| pulling(&self.reference, error))
    }

    /// Unpacks a downloaded layer into `into`, for a thread that may block; `stop` ends it early.
    pub fn unpacker(&self) -> Unpacker {
        Unpacker { allowance: self.allowance.clone(), entries: self.repository.limits.entries, stop: Arc::default() }
    }
}

/// Unpacks one layer.
#[derive(Debug)]
pub(super) struct Unpacker {
    allowance: Allowance,
    entries: u64,
    pub stop: Arc<AtomicBool>,
}

impl Unpacker {
    /// Unpacks the archive at `blob` into the empty folder `into`.
    pub fn run(&self, blob: &Path, into: &Path, diff_id: &Digest) -> io::Result<()> {
        let root = OwnedFd::from(File::open(into)?);
        let (allowance, rules) = (self.allowance.clone(), Rules::Image);
        let terms = Terms { allowance, entries: self.entries, rules, keep_free: None, stop: &self.stop };
        let stats = unpack::unpack(File::open(blob)?, root, diff_id, &terms)?;
        tracing::debug!(%diff_id, entries = stats.entries, skipped = stats.skipped, "layer unpacked");
        Ok(())
    }
}

/// Bounds on unpacking the layers of an archive, and how to end it early.
#[derive(Debug, Clone)]
pub(crate) struct Unpacking {
    pub allowance: Allowance,
    /// Bytes that must be left free where it is unpacked.
    pub keep_free: u64,
    pub stop: Arc<AtomicBool>,
}

impl Unpacking {
    /// Unpacks a layer of an archive of a snapshot into the empty folder `into`, with all that a box can have made. Blocks.
    ///
    /// # Errors
    /// It is not what `diff_id` says, or not to be unpacked; or what the kernel says.
    pub fn run(&self, blob: Slice, into: &Path, diff_id: &Digest) -> io::Result<()> {
        let root = OwnedFd::from(File::open(into)?);
        let (allowance, rules) = (self.allowance.clone(), Rules::Snapshot);
        let keep_free = Some(self.keep_free);
        let terms = Terms { allowance, entries: packing::ENTRIES_MAX, rules, keep_free, stop: &self.stop };
        unpack::unpack(blob, root, diff_id, &terms).map(drop)
    }

    /// Checks that a layer is what `diff_id` says. Blocks.
    ///
    /// # Errors
    /// It is not.
    pub fn check(&self, blob: Slice, diff_id: &Digest) -> io::Result<()> {
        unpack::check(&Unpacked::new(blob, self.allowance.clone())?.finish()?, diff_id)
    }
}

fn pulling(reference: &Reference, error: PullError) -> EngineError {
    EngineError::broken(format!("pulling {reference}"), error)
}

/// Removes downloads that nobody works on, in the folder `blobs`.
pub(super) fn sweep_blobs(blobs: &Path) -> io::Result<u64> {
    let mut freed = 0;
    for entry in fs::read_dir(blobs)? {
        let entry = entry?;
        freed += entry.metadata()?.len();
        fs::remove_file(entry.path())?;
    }
    Ok(freed)
}
