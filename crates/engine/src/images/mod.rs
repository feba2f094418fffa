//! Images: what boxes start from. (The builder is being written on its own branch; these are the types that the engines need.)

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use tokio::sync::watch;

use crate::{EngineError, ErrorKind};

/// How images are made.
#[derive(Debug, Clone, Default)]
pub struct ImagesConfig {
    /// Whether boxes trust the certificate authorities that this host trusts.
    pub trust_host_cas: bool,
    /// Recipes besides the built-in ones.
    pub recipes_dir: Option<PathBuf>,
}

/// A built image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Its read-only layers, the uppermost first. Canonical ids.
    pub layers: Vec<PathBuf>,
    /// Variables of every process of its boxes.
    pub env: BTreeMap<String, String>,
}

/// The images of one data folder.
#[derive(Debug)]
pub struct Images {}

impl Images {
    /// Opens the images in `dir`.
    ///
    /// # Errors
    /// The folder cannot be used.
    pub fn open(_dir: &Path, _config: ImagesConfig) -> Result<Self, EngineError> {
        Ok(Self {})
    }

    /// What builds are doing.
    pub fn progress(&self) -> watch::Receiver<Option<BuildProgress>> {
        watch::channel(None).1
    }

    /// The image `name` if it is built.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn find(&self, _name: &str) -> Result<Option<Image>, EngineError> {
        Ok(None)
    }

    /// The image `name`, built first where it is missing.
    ///
    /// # Errors
    /// No such recipe, or it could not be built.
    pub async fn ensure(&self, name: &str, _runner: &dyn LayerRunner) -> Result<Image, EngineError> {
        Err(EngineError::new(ErrorKind::NotFound, format!("looking up the image '{name}'")))
    }
}

/// What a build is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildProgress {}

/// Runs the scripts that make layers.
#[async_trait]
pub trait LayerRunner: Send + Sync {
    /// Runs `script` with bash, as root, in a throw-away box on `layers` that has a network and whose writable layer is `upper`.
    ///
    /// # Errors
    /// The box could not be made, or the script exited with another code than 0.
    async fn run(
        &self,
        layers: &[PathBuf],
        upper: &Path,
        script: &str,
        log: &mut (dyn Write + Send),
    ) -> Result<(), EngineError>;
}
