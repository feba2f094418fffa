//! What is written down about each box: `box.json` in its folder.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

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
}

impl Record {
    /// Reads the record of the box whose folder is `dir`; `None` when there is none.
    ///
    /// # Errors
    /// It cannot be read or understood.
    pub(super) fn read(dir: &Path) -> io::Result<Option<Self>> {
        match fs::read(dir.join("box.json")) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes the record, wholly or not at all. Readable by root only: environments hold secrets.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn write(&self, dir: &Path) -> io::Result<()> {
        let draft = dir.join("box.json.new");
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&draft)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        fs::rename(&draft, dir.join("box.json"))
    }
}

#[cfg(test)]
mod tests {
    use boxyard_proto::BoxId;

    use super::*;
    use crate::Limits;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Record::read(dir.path()).unwrap(), None);
        let limits = Limits { cpu_millis: 1000, memory_bytes: 1 << 30, pids: 100, disk_bytes: 1 << 30 };
        let env = BTreeMap::from([("A".to_owned(), "b c".to_owned())]);
        let spec = BoxSpec { id: BoxId::from_entropy(5), image: "node".into(), limits, env };
        let record = Record { spec, slot: 9, layers: vec!["/layers/a".into()], image_env: BTreeMap::new() };
        record.write(dir.path()).unwrap();
        record.write(dir.path()).unwrap();
        assert_eq!(Record::read(dir.path()).unwrap(), Some(record));
        fs::write(dir.path().join("box.json"), "{\"spec\":").unwrap();
        assert!(Record::read(dir.path()).is_err());
    }
}
