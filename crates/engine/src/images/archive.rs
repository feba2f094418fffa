//! Layers of images on their way out of this host and into it, with the snapshots that stand on them.
//!
//! An archive of a snapshot brings its image's layers along. One that this host has already, of the same content, is used instead, once it
//! is sure that the archive has all of it, too: nobody gets a layer by its name alone, but those of images that every box can start from.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::catalogue::Freed;
use super::layer::imported;
use super::oci::is_opaque;
pub(crate) use super::oci::layout::{Contents, Stored, receive};
use super::oci::packing::{self, Sum};
pub(crate) use super::oci::packing::{Base, Packing, run as pack};
use super::oci::reference::Digest;
pub(crate) use super::oci::spool::{Spool, room};
pub(crate) use super::oci::{Allowance, Unpacking};
use super::store::Note;
use super::{Images, holders};
use crate::{EngineError, ErrorKind};

/// Whom layers are noted to be for that came with snapshots of an instance. No recipe can be called this.
const IMPORTED: &str = "imported by ";

/// In the data folder: what this instance is called on its host.
const INSTANCE: &str = "instance";

/// What a layer's archive hashes to, in a file beside its tree.
const SUM: &str = "sum.json";

/// Part of that file: raise it when packing changes what comes out of the same tree.
const PACK_FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Noted {
    format: u32,
    #[serde(flatten)]
    sum: Sum,
}

/// The folder around a tree that is a layer of a store.
fn layer_of(tree: &Path) -> Option<&Path> {
    tree.parent().filter(|_| tree.file_name().is_some_and(|name| name == "fs"))
}

/// What is known of the layers of an image, which are the folders `layers`, the uppermost first. The lowest is the first of the answer.
pub(crate) fn bases(layers: &[PathBuf]) -> Vec<Base> {
    let base = |tree: &PathBuf| {
        let folder = layer_of(tree);
        let key = folder.and_then(|folder| Some(folder.file_name()?.to_str()?.to_owned()));
        Base { tree: tree.clone(), key, known: sum(tree) }
    };
    layers.iter().rev().map(base).collect()
}

fn sum(tree: &Path) -> Option<Sum> {
    let text = fs::read(layer_of(tree)?.join(SUM)).ok()?;
    let noted: Noted = serde_json::from_slice(&text).ok()?;
    (noted.format == PACK_FORMAT).then_some(noted.sum)
}

/// Keeps what a layer hashes to. It is only found out again where that fails.
pub(crate) fn note_sum(tree: &Path, found: &Sum) {
    let Some(folder) = layer_of(tree).filter(|_| sum(tree).as_ref() != Some(found)) else { return };
    let written = || -> io::Result<()> {
        let text = serde_json::to_vec(&Noted { format: PACK_FORMAT, sum: found.clone() })?;
        let draft = folder.join(format!("{SUM}.{}.new", std::process::id()));
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&draft)?;
        io::Write::write_all(&mut file, &text)?;
        fs::rename(draft, folder.join(SUM))
    };
    if let Err(error) = written() {
        tracing::warn!(layer = %folder.display(), %error, "what an image layer hashes to could not be noted");
    }
}

/// The layers of an image, which come the lowest first, as overlay takes them: the uppermost first, each once, and none below one that hides
/// all that is below it.
pub(crate) fn stack(mut layers: Vec<PathBuf>) -> Vec<PathBuf> {
    layers.reverse();
    let mut stacked: Vec<PathBuf> = Vec::new();
    for layer in layers {
        if stacked.contains(&layer) {
            continue;
        }
        let last = File::open(&layer).is_ok_and(|root| is_opaque(&root));
        stacked.push(layer);
        if last {
            break;
        }
    }
    stacked
}

/// Ends what is under way in another thread when nobody waits for it any more.
#[derive(Debug, Default)]
pub(crate) struct StopOnDrop(Arc<AtomicBool>);

impl StopOnDrop {
    /// Is set when this is dropped.
    pub(crate) fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }
}

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What to make of a failure to read an archive or to make files of it: much of that is the archive's fault.
pub(crate) fn receiving(doing: &str, error: io::Error) -> EngineError {
    use io::ErrorKind as Io;
    let of_archive = [
        Io::InvalidData,
        Io::InvalidInput,
        Io::UnexpectedEof,
        Io::InvalidFilename,
        Io::AlreadyExists,
        Io::NotFound,
        Io::NotADirectory,
        Io::IsADirectory,
        Io::DirectoryNotEmpty,
        Io::TooManyLinks,
        Io::FileTooLarge,
        // The sender has gone, or was too slow.
        Io::ConnectionAborted,
        Io::TimedOut,
    ];
    if of_archive.contains(&error.kind()) {
        return EngineError { kind: ErrorKind::Invalid, ..EngineError::broken(doing, error) };
    }
    EngineError::of_disk(doing, error)
}

impl Images {
    /// The folder with a layer that came with a snapshot of a box with the runtime `runtime`. The caller keeps layers from being removed.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when it is not what the archive says, or is not in it and not here; else the layer cannot be made.
    pub(crate) async fn take_in(
        &self,
        layer: Stored,
        runtime: &str,
        unpacking: &Unpacking,
    ) -> Result<PathBuf, EngineError> {
        let doing = "unpacking a layer of the archive's image";
        let Some(blob) = layer.blob else { return self.own_layer(&layer.diff_id, runtime, unpacking).await };
        let owner = self.owner();
        let key = imported(&layer.diff_id, &owner);
        if let Some(tree) = self.same(&key, layer.key.as_deref(), &layer.diff_id) {
            let (unpacking, diff_id) = (unpacking.clone(), layer.diff_id);
            blocking(move || unpacking.check(blob, &diff_id)).await.map_err(|error| receiving(doing, error))?;
            return Ok(tree);
        }
        let flight = self.flight(&key).await?;
        let tree = self.layers.fs(&key);
        let (layers, unpacking) = (self.layers.clone(), unpacking.clone());
        let unpacked = blocking(move || {
            let _flight = flight;
            if layers.note(&key).is_some() {
                // Somebody else was faster.
                return unpacking.check(blob, &layer.diff_id);
            }
            let started = Instant::now();
            let building = layers.start(&key)?;
            unpacking.run(blob, &building.upper(), &layer.diff_id)?;
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let ms = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
            let (built_at_ms, took_ms) = (ms(now), ms(started.elapsed()));
            let note = |bytes| Note { key, parent: None, recipe: owner, bytes, built_at_ms, took_ms };
            building.finish(note).map(drop)
        });
        unpacked.await.map_err(|error| receiving(doing, error))?;
        Ok(tree)
    }

    /// Whom layers are noted to be for that come here. Stores may be shared between instances, and each knows its own records only.
    fn owner(&self) -> String {
        let tag = fs::read_to_string(self.layers.data().join(INSTANCE)).unwrap_or_default();
        format!("{IMPORTED}{}", tag.trim())
    }

    /// A layer of this content that is here: one that came with another snapshot, or the one with the key that the archive tells.
    fn same(&self, imported: &str, told: Option<&str>, diff_id: &Digest) -> Option<PathBuf> {
        if self.layers.note(imported).is_some() {
            return Some(self.layers.fs(imported));
        }
        let told = told.filter(|key| key.len() == 64 && key.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
        let tree = self.layers.fs(told);
        (self.layers.note(told).is_some() && sum(&tree)?.diff_id == *diff_id).then_some(tree)
    }

    /// The layer of the image `runtime` of this host that has this content.
    async fn own_layer(&self, diff_id: &Digest, runtime: &str, unpacking: &Unpacking) -> Result<PathBuf, EngineError> {
        let doing = "finding the image that the archive leaves out";
        let refused = |text: String| EngineError { kind: ErrorKind::Invalid, ..EngineError::broken(doing, text) };
        let image = self.find(runtime).ok().flatten();
        let image = image.ok_or_else(|| {
            refused(format!("there is no image {runtime} on this host (yet); use an archive that brings its own"))
        })?;
        for base in bases(&image.layers) {
            let known = match base.known {
                Some(known) => known,
                None => {
                    let (tree, stop) = (base.tree.clone(), unpacking.stop.clone());
                    let found = blocking(move || packing::hash(&tree, u64::MAX, &stop)).await;
                    let found = found.map_err(|error| EngineError::of_disk(doing, error))?;
                    note_sum(&base.tree, &found);
                    found
                }
            };
            if known.diff_id == *diff_id {
                return Ok(base.tree);
            }
        }
        Err(refused(format!(
            "the image {runtime} of this host is not the one that the snapshot was made over; use an archive that brings its own"
        )))
    }

    /// Whether the layer with this tree came with a snapshot.
    pub(crate) fn is_imported(&self, tree: &Path) -> bool {
        let key = layer_of(tree).and_then(|folder| folder.file_name()?.to_str());
        key.and_then(|key| self.layers.note(key)).is_some_and(|note| note.recipe.starts_with(IMPORTED))
    }

    /// Frees the layers that came with snapshots and that nobody stands on any more. Blocks.
    ///
    /// # Errors
    /// The records of boxes cannot be read, boxes are being made, or removing failed.
    pub(crate) fn release(&self) -> Result<Freed, EngineError> {
        let broken = |error: io::Error| EngineError::broken("freeing image layers that came with snapshots", error);
        let owner = self.owner();
        let imported = |key: &String| self.layers.note(key).is_some_and(|note| note.recipe == owner);
        let keys = || -> io::Result<Vec<String>> { Ok(self.layers.keys()?.into_iter().filter(imported).collect()) };
        if keys().map_err(broken)?.is_empty() {
            return Ok(Freed::default());
        }
        let alone = self.alone().map_err(broken)?;
        let holders = holders::holders(self.layers.data()).map_err(broken)?;
        let needed: BTreeSet<String> = holders.into_iter().flat_map(|holder| holder.keys).collect();
        let free = keys().map_err(broken)?.into_iter().filter(|key| !needed.contains(key));
        self.withdraw(alone, free).map_err(broken)
    }
}

/// Runs what blocks in a thread that may.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
