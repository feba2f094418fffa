//! Packing a snapshot as an OCI image layout in a tar archive (OCI image specification 1.1, "Image Layout"), which `skopeo`, `umoci` and
//! `docker load` read.
//!
//! ```text
//!   oci-layout  index.json  manifest.json  blobs/sha256/…   manifest, configuration, the image's layers, and on top the box's own
//! ```
//! Names and sizes of blobs come before them in the archive, so the layers are packed into a file without a name first.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Cursor, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::layout::{self, label};
use super::manifest::{INDEX, MANIFEST, architecture};
use super::pack::{Terms, pack};
use super::reference::Digest;
use super::spool::Spool;
use super::tar::BLOCK;
use super::write::{end, padding, plain_header};
use crate::archive::Description;

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const PLAIN_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const BUFFER: usize = 256 * 1024;

/// Entries of one layer at most: what is packed must be unpacked again.
pub(crate) const ENTRIES_MAX: u64 = 5_000_000;

/// A layer of the image that a snapshot was made over.
#[derive(Debug, Clone)]
pub(crate) struct Base {
    /// Its files.
    pub tree: PathBuf,
    /// Its name in this host's store, if it has one.
    pub key: Option<String>,
    /// What it hashes to, if that is known.
    pub known: Option<Sum>,
}

/// What an archive of a layer hashes to, and how many bytes it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sum {
    pub diff_id: Digest,
    pub size: u64,
}

/// A snapshot to pack.
#[derive(Debug)]
pub(crate) struct Packing<'a> {
    /// The lowest first.
    pub layers: Vec<Base>,
    /// What the box has written over them.
    pub upper: PathBuf,
    /// Variables of the image.
    pub env: BTreeMap<String, String>,
    pub description: &'a Description,
    /// Whether the image's layers are only named.
    pub without_image: bool,
    /// Bytes of files at most.
    pub bytes: u64,
    pub stop: &'a AtomicBool,
}

/// An archive that is ready.
#[derive(Debug)]
pub(crate) struct Packed {
    head: Vec<u8>,
    rest: Spool,
    /// Of the image's layers, the lowest first.
    pub sums: Vec<Sum>,
    /// Sockets and devices that are not in it.
    pub left_out: u64,
}

impl Packed {
    /// Bytes of the whole archive.
    pub fn len(&self) -> u64 {
        self.head.len() as u64 + self.rest.len()
    }

    /// All of it.
    pub fn into_reader(self) -> impl AsyncRead + Send + Unpin {
        Cursor::new(self.head).chain(tokio::fs::File::from_std(self.rest.into_file()))
    }
}

/// A layer that was packed, or only named.
struct Done {
    descriptor: Value,
    sum: Sum,
}

/// Packs a snapshot into `spool`. Blocks.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`] for what no archive can hold, [`io::ErrorKind::StorageFull`]; else what the kernel says.
pub(crate) fn run(packing: &Packing<'_>, mut spool: Spool) -> io::Result<Packed> {
    let mut pack =
        Pack { spool: &mut spool, left: packing.bytes, left_out: 0, there: HashSet::new(), stop: packing.stop };
    let mut layers = Vec::new();
    for base in &packing.layers {
        layers.push(match (&base.known, packing.without_image) {
            (Some(known), true) => named(known.clone()),
            (None, true) => named(hash(&base.tree, packing.bytes, packing.stop)?),
            (_, false) => pack.layer(&base.tree)?,
        });
    }
    layers.push(pack.layer(&packing.upper)?);
    let left_out = pack.left_out;
    end(&mut spool)?;

    let keys: Vec<&str> = packing.layers.iter().map(|base| base.key.as_deref().unwrap_or_default()).collect();
    let env: Vec<String> = packing.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let of_box = packing.description;
    let labels = json!({
        label::FORMAT: layout::FORMAT,
        label::RUNTIME: of_box.runtime,
        label::SIZE: of_box.size,
        label::NAME: of_box.name,
        label::BOX: of_box.source.as_ref().map(ToString::to_string).unwrap_or_default(),
        label::CREATED: of_box.created_at_ms.to_string(),
        label::LAYERS: serde_json::to_string(&keys)?,
    });
    let diff_ids: Vec<Digest> = layers.iter().map(|layer| layer.sum.diff_id.clone()).collect();
    let config = serde_json::to_vec(&json!({
        "architecture": architecture(),
        "os": "linux",
        "config": {"Env": env, "Cmd": ["/bin/bash"], "WorkingDir": "/workspace/home", "Labels": labels},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }))?;
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(CONFIG, &config),
        "layers": layers.iter().map(|layer| &layer.descriptor).collect::<Vec<_>>(),
        "annotations": {"org.opencontainers.image.title": of_box.name},
    }))?;
    let mut of_manifest = descriptor(MANIFEST, &manifest);
    of_manifest["platform"] = json!({"architecture": architecture(), "os": "linux"});
    of_manifest["annotations"] = json!({"org.opencontainers.image.ref.name": "snapshot"});
    let index = serde_json::to_vec(&json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [of_manifest]}))?;

    let mut head = Vec::new();
    let mut file = |path: &str, bytes: &[u8]| {
        head.extend(plain_header(path, b'0', bytes.len() as u64));
        head.extend_from_slice(bytes);
        head.resize(head.len().next_multiple_of(BLOCK), 0);
    };
    file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
    file("index.json", &index);
    if !packing.without_image {
        // What docker looks for where it does not know this layout.
        let path = |digest: &Value| {
            format!("blobs/sha256/{}", digest.as_str().unwrap_or_default().trim_start_matches("sha256:"))
        };
        let paths: Vec<String> = layers.iter().map(|layer| path(&layer.descriptor["digest"])).collect();
        let of_docker = json!([{"Config": layout::blob_path(&Digest::of(&config)), "RepoTags": [], "Layers": paths}]);
        file("manifest.json", &serde_json::to_vec(&of_docker)?);
    }
    for bytes in [&manifest, &config] {
        file(&layout::blob_path(&Digest::of(bytes)), bytes);
    }
    let sums = layers.into_iter().map(|layer| layer.sum).take(packing.layers.len()).collect();
    Ok(Packed { head, rest: spool, sums, left_out })
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": Digest::of(bytes), "size": bytes.len()})
}

/// A layer that is not in the archive: uncompressed, so that its blob is the same wherever it is made.
fn named(sum: Sum) -> Done {
    Done { descriptor: json!({"mediaType": PLAIN_LAYER, "digest": sum.diff_id, "size": sum.size}), sum }
}

/// What a layer hashes to. Blocks.
///
/// # Errors
/// As [`run`].
pub(crate) fn hash(tree: &Path, bytes: u64, stop: &AtomicBool) -> io::Result<Sum> {
    let sink = Hashed { inner: io::sink(), hash: Sha256::new(), size: 0 };
    let mut sink = io::BufWriter::with_capacity(BUFFER, sink);
    pack(tree, &mut sink, &Terms { bytes, entries: ENTRIES_MAX, stop })?;
    Ok(sink.into_inner().map_err(io::IntoInnerError::into_error)?.sum())
}

/// Packs layers one after the other.
struct Pack<'a> {
    spool: &'a mut Spool,
    /// Bytes of files that may follow.
    left: u64,
    left_out: u64,
    /// The blobs that there are.
    there: HashSet<Digest>,
    stop: &'a AtomicBool,
}

impl Pack<'_> {
    /// Packs a tree as the next blob.
    fn layer(&mut self, tree: &Path) -> io::Result<Done> {
        let at = self.spool.len();
        self.spool.write_all(&[0; BLOCK])?;
        let blob = Hashed { inner: &mut *self.spool, hash: Sha256::new(), size: 0 };
        let blob = io::BufWriter::with_capacity(BUFFER, blob);
        let plain = Hashed { inner: GzEncoder::new(blob, Compression::fast()), hash: Sha256::new(), size: 0 };
        let mut plain = io::BufWriter::with_capacity(BUFFER, plain);
        let stats = pack(tree, &mut plain, &Terms { bytes: self.left, entries: ENTRIES_MAX, stop: self.stop })?;
        let Hashed { inner: encoder, hash, size } = plain.into_inner().map_err(io::IntoInnerError::into_error)?;
        let sum = Sum { diff_id: Digest::finish(hash), size };
        let blob = encoder.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?.sum();
        self.left = self.left.saturating_sub(stats.bytes);
        self.left_out += stats.left_out;
        let descriptor = json!({"mediaType": LAYER, "digest": blob.diff_id, "size": blob.size});
        if !self.there.insert(blob.diff_id.clone()) {
            // Such as two layers without anything.
            self.spool.cut(at)?;
            return Ok(Done { descriptor, sum });
        }
        self.spool.write_all(&[0; BLOCK][..padding(blob.size)])?;
        self.spool.rewrite(at, &plain_header(&layout::blob_path(&blob.diff_id), b'0', blob.size))?;
        Ok(Done { descriptor, sum })
    }
}

/// Passes on what is written, and hashes it.
struct Hashed<W> {
    inner: W,
    hash: Sha256,
    size: u64,
}

impl<W> Hashed<W> {
    fn sum(self) -> Sum {
        Sum { diff_id: Digest::finish(self.hash), size: self.size }
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hash.update(&bytes[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests;
