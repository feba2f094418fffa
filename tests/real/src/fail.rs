//! Telling a server where to die.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::server::{Settings, programs};

/// The variable that tells a server of the folder.
pub const VARIABLE: &str = "BOXYARD_FAIL_POINT";

/// The folder through which a server is told at which of its fail points to die. See `fail.rs` of boxyard-engine.
#[derive(Debug)]
pub struct FailPoints {
    folder: PathBuf,
}

impl FailPoints {
    /// Makes a folder for one test.
    ///
    /// # Errors
    /// The programs were built without fail points.
    pub fn new(test: &str) -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("boxyard-fail-{test}-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        ensure!(!Self::all()?.is_empty(), "there are no fail points");
        Ok(Self { folder })
    }

    /// Every point that the programs have.
    ///
    /// # Errors
    /// They were built without.
    pub fn all() -> Result<Vec<String>> {
        let said = Command::new(programs()?.join("boxyard")).arg("fail-points").output()?;
        ensure!(
            said.status.success(),
            "the programs have no fail points: call `cargo xtask test`, or build them with `--features boxyard-cli/fail-points`"
        );
        Ok(String::from_utf8(said.stdout)?.lines().map(str::to_owned).collect())
    }

    /// What a server needs to be told.
    pub fn settings(&self) -> Settings {
        Settings::from([(VARIABLE, self.folder.to_string_lossy().into_owned())])
    }

    /// From here on the server dies where `orders` says: `name`, or `name:3` for the third passing, or `*:7` for the seventh of any.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn arm(&self, orders: &str) -> Result<()> {
        let draft = self.folder.join("armed.new");
        fs::write(&draft, orders)?;
        Ok(fs::rename(&draft, self.folder.join("armed"))?)
    }

    /// The server lives from here on, unless this says that it is dying.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn disarm(&self) -> Result<bool> {
        remove(self.folder.join("armed"))?;
        Ok(self.folder.join("died").exists())
    }

    /// Where the server, which is gone now, has died since the last time, if it has.
    ///
    /// # Errors
    /// The files are not as they were left.
    pub fn died(&self) -> Result<Option<String>> {
        let path = self.folder.join("died");
        match fs::read_to_string(&path) {
            Ok(name) => {
                remove(path)?;
                Ok(Some(name))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).context("reading where the server died"),
        }
    }
}

fn remove(path: PathBuf) -> Result<()> {
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}

impl Drop for FailPoints {
    fn drop(&mut self) {
        // What is left of it harms nobody.
        let _removed = fs::remove_dir_all(&self.folder);
    }
}
