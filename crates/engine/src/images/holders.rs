//! Who stands on image layers: boxes and snapshots, by the records in the data folder.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Where records lie below the data folder, and what they are records of.
const RECORDS: [(&str, &str, &str); 2] = [("boxes", "box.json", "box"), ("snapshots", "snapshot.json", "snapshot")];

const RECORD_MAX: u64 = 4 * 1024 * 1024;

/// One that stands on layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Holder {
    /// `box clever-otter-12345`, for people.
    pub what: String,
    /// The name of the image that was asked for.
    pub image: Option<String>,
    /// Keys of layers.
    pub keys: BTreeSet<String>,
}

/// What is needed of a record; the local engine has the whole.
#[derive(Deserialize)]
struct Record {
    #[serde(default)]
    spec: Option<Spec>,
    layers: Vec<PathBuf>,
}

#[derive(Deserialize)]
struct Spec {
    image: String,
}

/// Reads the records in `data`. One that cannot be read is an error: it may name any layer.
pub(super) fn holders(data: &Path) -> io::Result<Vec<Holder>> {
    let mut holders = Vec::new();
    for (folder, file, kind) in RECORDS {
        let entries = match fs::read_dir(data.join(folder)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let record = path.join(file);
            let about = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", record.display()));
            match fs::metadata(&record) {
                // It is not finished, or is being removed: either way it needs nothing.
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                    continue;
                }
                Err(error) => return Err(about(error)),
                Ok(meta) if meta.len() > RECORD_MAX => return Err(about(io::Error::other("it is too long"))),
                Ok(_) => {}
            }
            let text = match fs::read(&record) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                text => text.map_err(about)?,
            };
            // Not serde's words: they may quote what is in it.
            let read: Record =
                serde_json::from_slice(&text).map_err(|_| about(io::Error::other("it is not understood")))?;
            holders.push(Holder {
                what: format!("{kind} {name}"),
                image: read.spec.map(|spec| spec.image),
                keys: read.layers.iter().filter_map(|layer| key(layer)).collect(),
            });
        }
    }
    Ok(holders)
}

/// The key of the layer whose tree is `…/<key>/fs`, wherever the data folder was then.
fn key(tree: &Path) -> Option<String> {
    Some(tree.parent()?.file_name()?.to_str()?.to_owned())
}
