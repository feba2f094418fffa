//! What is written down about each box: `box.json` in its folder.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use boxyard_proto::BoxId;
use serde::{Deserialize, Serialize};

use super::storage::{Budget, Kind};
use crate::BoxSpec;

/// A box as it was asked for, and what it was given. Written before anything else of the box exists on the host and removed after
/// all of it is gone, so that nothing can be forgotten.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    /// What was asked for.
    pub(super) spec: BoxSpec,
    /// Its slot.
    pub(super) slot: u32,
    /// The layers of its image when it was made. It keeps them, whatever becomes of the image's name.
    pub(super) layers: Vec<PathBuf>,
    /// The variables of its image.
    #[serde(default)]
    pub(super) image_env: BTreeMap<String, String>,
    /// Where its disk lies.
    #[serde(default)]
    pub(super) storage: Kind,
    /// What the saved disk held that its own started from.
    #[serde(default)]
    pub(super) started_with: u64,
}

/// A saved disk: `snapshot.json` in its folder. Written when the snapshot is complete, and the first to go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct SnapshotRecord {
    /// The layers that it was made over.
    pub(super) layers: Vec<PathBuf>,
    /// The variables of their image.
    #[serde(default)]
    pub(super) image_env: BTreeMap<String, String>,
    /// Where it lies.
    #[serde(default)]
    pub(super) storage: Kind,
    /// Bytes that it holds.
    pub(super) size_bytes: u64,
    /// The box that was saved, if it may write anew what the snapshot holds of it.
    #[serde(default)]
    pub(super) source: Option<BoxId>,
    /// One box is made from it, which takes the disk over.
    #[serde(default)]
    pub(super) once: bool,
}

impl SnapshotRecord {
    /// Reads the record of the snapshot whose folder is `dir`; `None` when it is not complete.
    ///
    /// # Errors
    /// It cannot be read or understood.
    pub(super) fn read(dir: &Path) -> io::Result<Option<Self>> {
        read(&dir.join(SNAPSHOT))
    }

    /// Writes the record, wholly or not at all, and so that a loss of power does not undo it.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn write(&self, dir: &Path) -> io::Result<()> {
        write(&dir.join(SNAPSHOT), &serde_json::to_vec(self)?, Content::First)?;
        let sync = |folder: &Path| fs::File::open(folder)?.sync_all();
        sync(dir)?;
        sync(dir.parent().unwrap_or(dir))
    }

    /// Removes the record. From here on the snapshot counts as broken off.
    ///
    /// # Errors
    /// It cannot be removed.
    pub(super) fn remove(dir: &Path) -> io::Result<()> {
        match fs::remove_file(dir.join(SNAPSHOT)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

const BOX: &str = "box.json";
const SNAPSHOT: &str = "snapshot.json";
const SAVED: &str = "saved.json";

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// When the content of a file goes to the disk: after a loss of power there may be a file with its name and without content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    /// Before the file has its name: there is never one without content.
    First,
    /// The same where it replaces another. One that is new is written out by whoever relies on it, see [`settle`](super::settle).
    FirstWhereReplaced,
}

/// Readable by root only: environments hold secrets.
fn write(path: &Path, bytes: &[u8], content: Content) -> io::Result<()> {
    let draft = path.with_extension("json.new");
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&draft)?;
    file.write_all(bytes)?;
    if content == Content::First || (path.exists() && !writes_out_before_replacing(path)?) {
        file.sync_all()?;
    }
    fs::rename(&draft, path)
}

/// Whether the file system does that by itself, as ext4 and btrfs do, and with less waiting.
fn writes_out_before_replacing(path: &Path) -> io::Result<bool> {
    const EXT4: i64 = 0xEF53;
    const BTRFS: i64 = 0x9123_683E;
    Ok(matches!(rustix::fs::statfs(path)?.f_type, EXT4 | BTRFS))
}

impl Record {
    /// What decides how much the box whose folder is `dir` may write.
    ///
    /// # Errors
    /// What was noted cannot be read.
    pub(super) fn budget(&self, dir: &Path) -> io::Result<Budget> {
        let saved = read(&dir.join(SAVED))?.unwrap_or_default();
        Ok(Budget { limit: self.spec.limits.disk_bytes, started_with: self.started_with, saved })
    }

    /// Notes what the box was charged for when it was last saved; 0 when it has no snapshots any more. In a file of its own: snapshots
    /// are removed whatever is being done to the box at the same time.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn note_saved(&self, dir: &Path, saved: u64) -> io::Result<()> {
        write(&dir.join(SAVED), saved.to_string().as_bytes(), Content::First)
    }

    /// Reads the record of the box whose folder is `dir`; `None` when there is none.
    ///
    /// # Errors
    /// It cannot be read or understood.
    pub(super) fn read(dir: &Path) -> io::Result<Option<Self>> {
        read(&dir.join(BOX))
    }

    /// Waits until the record of the box whose folder is `dir` is on the disk, the folder with all that it has by now, and what names
    /// there are in the folder `renamed`, if one is given.
    ///
    /// # Errors
    /// The disk failed.
    pub(super) async fn settle(dir: PathBuf, renamed: Option<PathBuf>) -> io::Result<()> {
        let settle = move || {
            let sync = |path: &Path| fs::File::open(path)?.sync_all();
            sync(&dir.join(BOX))?;
            sync(&dir)?;
            sync(dir.parent().unwrap_or(&dir))?;
            renamed.map_or(Ok(()), |renamed| sync(&renamed))
        };
        tokio::task::spawn_blocking(settle).await.map_err(io::Error::other)?
    }

    /// Writes the record, wholly or not at all. Readable by root only: environments hold secrets.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn write(&self, dir: &Path) -> io::Result<()> {
        write(&dir.join(BOX), &serde_json::to_vec(self)?, Content::FirstWhereReplaced)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Limits;

    #[test]
    fn a_record_of_an_older_server_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let text = r#"{"spec":{"id":"wise-otter-12345","image":"node","limits":{"cpu_millis":1,"memory_bytes":2,"pids":3,
            "disk_bytes":4}},"slot":5,"layers":["/l"]}"#;
        fs::write(dir.path().join("box.json"), text).unwrap();
        let record = Record::read(dir.path()).unwrap().unwrap();
        assert_eq!((record.slot, record.storage, record.spec.from), (5, Kind::Folder, None));
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Record::read(dir.path()).unwrap(), None);
        let limits = Limits { cpu_millis: 1000, memory_bytes: 1 << 30, pids: 100, disk_bytes: 1 << 30 };
        let env = BTreeMap::from([("A".to_owned(), "b c".to_owned())]);
        let spec = BoxSpec { id: BoxId::from_entropy(5), image: "node".into(), limits, env, from: None };
        let layers = vec!["/layers/a".into()];
        let image_env = BTreeMap::new();
        let record = Record { spec, slot: 9, layers, image_env, storage: Kind::Pool, started_with: 7 };
        record.write(dir.path()).unwrap();
        record.write(dir.path()).unwrap();
        assert_eq!(Record::read(dir.path()).unwrap(), Some(record));
        fs::write(dir.path().join("box.json"), "{\"spec\":").unwrap();
        assert!(Record::read(dir.path()).is_err());
    }
}
