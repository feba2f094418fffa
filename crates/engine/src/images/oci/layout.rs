//! Reading an archive of a snapshot: an OCI image layout in a tar archive, compressed as a whole or not, its files in any order.
//!
//! Somebody sends it, so nothing in it is believed. It goes into a file without a name first, each blob checked against its digest; only
//! when it is there as a whole is anything made of it.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use boxyard_proto::BoxId;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::decompress::{Allowance, Unpacked};
use super::limits::OciLimits;
use super::manifest::{self, Answer, Descriptor, ImageConfig};
use super::reference::Digest;
use super::spool::{Slice, Spool};
use super::tar::{Archive, Entry, Kind};
use crate::archive::Description;

/// Labels in the configuration, which say what a box needs to be made from the archive. Never anything secret.
pub(super) mod label {
    /// Which version of all this it is.
    pub const FORMAT: &str = "io.boxyard.snapshot";
    /// What the image is called.
    pub const RUNTIME: &str = "io.boxyard.snapshot.runtime";
    /// The size of the box that was saved.
    pub const SIZE: &str = "io.boxyard.snapshot.size";
    /// What the snapshot is called.
    pub const NAME: &str = "io.boxyard.snapshot.name";
    /// The box that was saved.
    pub const BOX: &str = "io.boxyard.snapshot.box";
    /// When it was, in milliseconds since 1970.
    pub const CREATED: &str = "io.boxyard.snapshot.created";
    /// Keys of the image's layers on the host that it was saved on, the lowest first, as a JSON array.
    pub const LAYERS: &str = "io.boxyard.snapshot.layers";
}

/// The version that is written, and read.
pub(super) const FORMAT: &str = "1";

/// Files in an archive at most. It has one for each layer and some others.
const FILES_MAX: usize = 1024;

/// Layers at most: those of an image of a registry, those that make it fit for boxes, and the box's own.
const LAYERS_MAX: usize = 192;

/// Bytes of `oci-layout` at most.
const VERSION_MAX: u64 = 4096;

const BUFFER: usize = 256 * 1024;

/// Where a blob is in the archive.
pub(super) fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn wrong(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}

/// An archive that is on this host as a whole.
#[derive(Debug)]
pub(crate) struct Layout {
    file: Arc<File>,
    /// Where each blob lies in the file, and how long it is.
    blobs: HashMap<Digest, (u64, u64)>,
    index: Vec<u8>,
}

/// What an archive holds.
#[derive(Debug)]
pub(crate) struct Contents {
    pub description: Description,
    /// Variables of the image.
    pub env: BTreeMap<String, String>,
    /// Layers of the image, the lowest first.
    pub image: Vec<Stored>,
    /// What the box has written over them.
    pub own: Stored,
}

/// A layer as an archive has it.
#[derive(Debug)]
pub(crate) struct Stored {
    pub diff_id: Digest,
    /// The layer's key on the host where the archive was made. Not to be believed.
    pub key: Option<String>,
    /// Nothing where the archive only names it.
    pub blob: Option<Slice>,
}

/// Takes an archive in, as `packed` bytes at most. Blocks.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] for what is no such archive, [`io::ErrorKind::StorageFull`]; else what source or kernel say.
pub(crate) fn receive(source: impl Read, mut spool: Spool, packed: u64, stop: &AtomicBool) -> io::Result<Layout> {
    let limits = OciLimits::default();
    // An archive that unpacks to nothing may be long, too.
    let source = source.take(packed.saturating_add(1));
    let mut archive = Archive::new(Unpacked::new(source, Allowance::new(packed))?);
    let (mut blobs, mut index, mut versioned, mut files) = (HashMap::new(), None, false, 0);
    while let Some(entry) = archive.next()? {
        files += 1;
        if files > FILES_MAX {
            return Err(wrong(format!("the archive has more than {FILES_MAX} files")));
        }
        let path = entry.path.strip_prefix(b"./").unwrap_or(&entry.path);
        if let Some(hex) = path.strip_prefix(b"blobs/sha256/") {
            if entry.kind == Kind::Folder {
                continue;
            }
            let name = format!("sha256:{}", String::from_utf8_lossy(hex));
            let digest = Digest::try_from(name).map_err(|why| wrong(format!("a blob of the archive: {why}")))?;
            let at = spool.len();
            let found = take(&mut archive, &entry, &mut spool, stop)?;
            if found != digest {
                return Err(wrong(format!("the blob {digest} of the archive is broken: it hashes to {found}")));
            }
            if blobs.insert(digest, (at, spool.len() - at)).is_some() {
                return Err(wrong("the archive has the same blob twice"));
            }
        } else if path == b"index.json" && index.is_none() {
            index = Some(small(&mut archive, &entry, limits.manifest_bytes)?);
        } else if path == b"oci-layout" {
            version(&small(&mut archive, &entry, VERSION_MAX)?)?;
            versioned = true;
        }
    }
    // What comes after the end counts and means nothing.
    archive.into_source().finish()?;
    let index = index.filter(|_| versioned);
    let index = index
        .ok_or_else(|| wrong("this is no OCI image layout, or not all of it: index.json or oci-layout is missing"))?;
    Ok(Layout { file: Arc::new(spool.into_file()), blobs, index })
}

fn whole(entry: &Entry) -> io::Result<()> {
    let whole = matches!(entry.pieces[..], [piece] if piece.offset == 0 && piece.length == entry.size);
    if entry.kind == Kind::File && whole { Ok(()) } else { Err(wrong("a file of the archive is none, or has holes")) }
}

/// Copies a file and says what it hashes to.
fn take<R: Read>(
    archive: &mut Archive<R>,
    entry: &Entry,
    into: &mut impl Write,
    stop: &AtomicBool,
) -> io::Result<Digest> {
    whole(entry)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; BUFFER];
    while let count @ 1.. = archive.read(&mut buffer)? {
        if stop.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        hash.update(&buffer[..count]);
        into.write_all(&buffer[..count])?;
    }
    Ok(Digest::finish(hash))
}

fn small<R: Read>(archive: &mut Archive<R>, entry: &Entry, most: u64) -> io::Result<Vec<u8>> {
    whole(entry)?;
    if entry.size > most {
        return Err(wrong(format!("index.json or oci-layout has more than {most} bytes")));
    }
    let mut bytes = Vec::new();
    take(archive, entry, &mut bytes, &AtomicBool::new(false))?;
    Ok(bytes)
}

fn version(text: &[u8]) -> io::Result<()> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Version {
        image_layout_version: String,
    }
    let version: Version = serde_json::from_slice(text).map_err(|error| wrong(format!("oci-layout: {error}")))?;
    match version.image_layout_version.split('.').next() {
        Some("1") => Ok(()),
        _ => Err(wrong("the image layout is of a version that is not known here; 1 is")),
    }
}

impl Layout {
    fn blob(&self, digest: &Digest, size: u64) -> io::Result<Option<Slice>> {
        match self.blobs.get(digest) {
            None => Ok(None),
            Some((at, length)) if *length == size => Ok(Some(Slice::new(&self.file, *at, *length))),
            Some(_) => Err(wrong(format!("the blob {digest} does not have the size that is told of it"))),
        }
    }

    /// A blob that is needed, as text.
    fn text(&self, wanted: &Descriptor, most: u64) -> io::Result<Vec<u8>> {
        if wanted.size > most {
            return Err(wrong(format!("{} has more than {most} bytes", wanted.digest)));
        }
        let blob = self.blob(&wanted.digest, wanted.size)?;
        let mut blob = blob.ok_or_else(|| wrong(format!("the blob {} is missing", wanted.digest)))?;
        let mut bytes = Vec::new();
        blob.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// What the archive holds.
    ///
    /// # Errors
    /// It is not a snapshot of a box, or something of it is missing or contradicts itself.
    pub fn contents(&self) -> io::Result<Contents> {
        let limits = OciLimits { layers: LAYERS_MAX, compressed_bytes: u64::MAX, ..OciLimits::default() };
        let mut chosen = choose(&self.index, &limits)?;
        for _ in 0..2 {
            let bytes = self.text(&chosen, limits.manifest_bytes)?;
            match manifest::answer(&bytes, &limits).map_err(wrong)? {
                Answer::Manifest(config, layers) => return self.of(&config, &layers, &limits),
                Answer::Index(descriptor) => chosen = descriptor,
            }
        }
        Err(wrong("an index within an index"))
    }

    fn of(&self, config: &Descriptor, layers: &[Descriptor], limits: &OciLimits) -> io::Result<Contents> {
        let text = self.text(config, limits.config_bytes)?;
        let read = ImageConfig::read(&text, layers.len()).map_err(wrong)?;
        let (description, keys) = labels(&text).map_err(wrong)?;
        if layers.len() != keys.len() + 1 || keys.is_empty() {
            return Err(wrong(
                "it does not have the layers that a snapshot has: those of its image and one of the box's own",
            ));
        }
        let keys = keys.into_iter().map(Some).chain([None]);
        let mut stored = Vec::new();
        for ((layer, diff_id), key) in layers.iter().zip(read.diff_ids).zip(keys) {
            stored.push(Stored { diff_id, key, blob: self.blob(&layer.digest, layer.size)? });
        }
        match stored.pop() {
            Some(own) if own.blob.is_some() => Ok(Contents { description, env: read.env, image: stored, own }),
            _ => Err(wrong("the archive is not whole: what the box has written is missing")),
        }
    }
}

/// The manifest that an index names, for this host's platform where it names several.
pub(super) fn choose(index: &[u8], limits: &OciLimits) -> io::Result<Descriptor> {
    #[derive(Deserialize)]
    struct Index {
        manifests: Vec<Descriptor>,
    }
    let read: Index = serde_json::from_slice(index).map_err(|error| wrong(format!("index.json: {error}")))?;
    match <[Descriptor; 1]>::try_from(read.manifests) {
        // Not all programs say the platform of a single one. The configuration does, and is asked.
        Ok([only]) => Ok(only),
        Err(_) => match manifest::answer(index, limits).map_err(wrong)? {
            Answer::Index(chosen) => Ok(chosen),
            Answer::Manifest(..) => Err(wrong("index.json is no index")),
        },
    }
}

/// What the labels of a configuration say, and the keys of the image's layers.
pub(super) fn labels(config: &[u8]) -> Result<(Description, Vec<String>), String> {
    #[derive(Deserialize)]
    struct Config {
        #[serde(default)]
        config: Process,
    }
    #[derive(Deserialize, Default)]
    struct Process {
        #[serde(default, rename = "Labels")]
        labels: Option<HashMap<String, String>>,
    }
    let config: Config =
        serde_json::from_slice(config).map_err(|error| format!("its configuration is not understood: {error}"))?;
    let labels = config.config.labels.unwrap_or_default();
    match labels.get(label::FORMAT).map(String::as_str) {
        Some(FORMAT) => {}
        Some(_) => return Err("it is a snapshot of a newer version of boxyard".into()),
        None => return Err("it is an image, but no snapshot of a box".into()),
    }
    let text = |name: &str| labels.get(name).map(String::as_str).unwrap_or_default();
    let keys: Vec<String> = serde_json::from_str(text(label::LAYERS))
        .map_err(|_| format!("its label {} is no list of texts", label::LAYERS))?;
    let runtime = text(label::RUNTIME);
    crate::images::recipe::name(runtime).map_err(|why| format!("its label {} {why}", label::RUNTIME))?;
    // Hosts may have sizes of their own, and need not know this one.
    let size: String = text(label::SIZE).chars().filter(char::is_ascii_graphic).take(63).collect();
    let name: String = text(label::NAME).chars().filter(|c| !c.is_control()).take(200).collect();
    let description = Description {
        runtime: runtime.to_owned(),
        size,
        name,
        source: text(label::BOX).parse::<BoxId>().ok(),
        created_at_ms: text(label::CREATED).parse().unwrap_or_default(),
    };
    Ok((description, keys))
}
