//! Images: the read-only layers that boxes start from, built from recipes on first use, once.
//!
//! A recipe (`docs/images.md`) is turned into a list of [layers](layer::Layer), each named by a hash of all that goes into it. A layer
//! that is on disk is never built again, is shared by all images that need it, and never changes. What is on disk is complete: see
//! [`store`].

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use boxyard_proto::names::RUNTIMES;
use tokio::sync::watch;

use crate::EngineError;
#[cfg(doc)]
use crate::ErrorKind;
use bootstrap::Bootstrap;
use certificates::Certificates;
use failure::with_sources;
use layer::{Content, Ground, Layer};
use oci::pin::{self, Pin};
use progress::Progress;
use pull::Fresh;
use recipe::{Recipe, Recipes};
use sources::Mirror;
use store::{Layers, Stamp};

pub(crate) mod archive;
mod bootstrap;
mod build;
mod catalogue;
mod certificates;
mod failure;
mod holders;
mod layer;
mod log;
mod oci;
mod progress;
mod pull;
mod recipe;
mod sources;
mod store;
#[cfg(test)]
mod tests;

pub use catalogue::{Addition, Freed, ImageState};
#[cfg(feature = "fuzzing")]
pub use oci::exercise;
#[cfg(test)]
pub(crate) use oci::testing;
pub use oci::{OciConfig, OciLimits};
pub use progress::BuildProgress;

/// How long one layer may take, and how long to wait for another process that builds it.
const LAYER_DEADLINE: Duration = Duration::from_secs(45 * 60);

/// How images are made on this host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImagesConfig {
    /// Whether boxes trust the certificate authorities that the host's administrator has added.
    pub trust_host_cas: bool,
    /// A folder with recipes (`*.toml`) that come to the built-in ones or replace those of the same name.
    pub recipes_dir: Option<PathBuf>,
    /// How images of registries are pulled.
    pub oci: OciConfig,
}

/// What a box starts from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Folders to stack, uppermost first. Their files carry the ids that boxes see; nothing may ever be written to them.
    pub layers: Vec<PathBuf>,
    /// Variables of every process in the box, which those of the box itself go over. `PATH` may be among them.
    pub env: BTreeMap<String, String>,
}

/// Runs the steps of a build in boxes.
#[async_trait]
pub trait LayerRunner: Send + Sync {
    /// Runs `script` with bash, or with [what its first line names](interpreter), as root with `/root` as home, in a throw-away box on `layers` (uppermost first) with network. What it
    /// writes ends in `upper`, an empty folder or one with a few prepared files, with canonical ids and overlayfs' `user.*` attributes;
    /// the folder around `upper` is the runner's to use for the overlay's work folder and is removed afterwards. Output, both kinds, goes
    /// to `log`. Dropping the future ends the box.
    ///
    /// # Errors
    /// The box could not be made, or the script ended with anything but 0.
    async fn run(
        &self,
        layers: &[PathBuf],
        upper: &Path,
        script: &str,
        log: &mut (dyn Write + Send),
    ) -> Result<(), EngineError>;
}

/// The program that runs a script of a build: what its first line names, for images that may not have bash yet.
pub fn interpreter(script: &str) -> &str {
    let named = script.lines().next().and_then(|line| line.strip_prefix("#!")).map(str::trim);
    named.filter(|program| program.starts_with('/') && !program.contains(' ')).unwrap_or("/bin/bash")
}

/// Keeps all image layers from being removed. See [`Images::keep`].
#[derive(Debug)]
#[must_use = "layers are kept while this is there"]
pub struct Kept {
    _file: File,
}

/// The images of this host.
pub struct Images {
    /// The built-in ones and the operator's.
    fixed: Recipes,
    /// Those and the added ones, as they were at the stamp.
    recipes: Mutex<(Stamp, Arc<Recipes>)>,
    oci: OciConfig,
    certificates: Certificates,
    /// The mirror that images are built from, or why there is none: only building needs it.
    mirror: Result<Mirror, String>,
    bootstrap: Bootstrap,
    layers: Arc<Layers>,
    /// Images known to be complete, by each name that was asked for and known.
    built: Mutex<HashMap<String, Image>>,
    /// One lock for each layer that was ever built here.
    flights: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    progress: Arc<Progress>,
}

impl fmt::Debug for Images {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Images")
            .field("layers", &self.layers)
            .field("mirror", &self.mirror.is_ok())
            .finish_non_exhaustive()
    }
}

/// Where on the host the inputs of images lie.
#[derive(Debug)]
struct Host {
    etc_apt: PathBuf,
    certificates: PathBuf,
    path: Vec<PathBuf>,
}

fn search_path() -> Vec<PathBuf> {
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from).to_vec()
}

impl Images {
    /// Opens the images in `dir`, makes the folder where it is missing, and removes what interrupted builds have left. Reads the recipes
    /// and the host's certificates and sources once: changes count from the next opening on.
    ///
    /// # Errors
    /// A recipe is wrong (the error says which and why), or the folder cannot be used.
    pub fn open(dir: &Path, config: ImagesConfig) -> Result<Self, EngineError> {
        let certificates = Path::new("/").join(certificates::FOLDER);
        Self::open_on(dir, &config, Host { etc_apt: "/etc/apt".into(), certificates, path: search_path() })
    }

    fn open_on(dir: &Path, config: &ImagesConfig, host: Host) -> Result<Self, EngineError> {
        let fixed = Recipes::read(config.recipes_dir.as_deref())?;
        let layers = Layers::open(dir)?;
        let stamp = layers.stamp();
        let recipes = Mutex::new((stamp, Arc::new(fixed.with_added(&layers.added())?)));
        let trusted = config.trust_host_cas.then(|| Certificates::read(&host.certificates)).transpose()?;
        Ok(Self {
            fixed,
            recipes,
            oci: config.oci.clone(),
            certificates: trusted.unwrap_or_default(),
            mirror: Mirror::of_host(&host.etc_apt).map_err(|error| with_sources(&error)),
            bootstrap: Bootstrap { path: host.path },
            layers: Arc::new(layers),
            built: Mutex::default(),
            flights: Mutex::default(),
            progress: Arc::new(Progress::default()),
        })
    }

    /// The recipes as they are now, also where another process has added or removed one. What is remembered of images is forgotten when
    /// anything has changed.
    fn recipes(&self) -> Result<Arc<Recipes>, EngineError> {
        let stamp = self.layers.stamp();
        let mut known = lock(&self.recipes);
        if known.0 != stamp {
            *known = (stamp, Arc::new(self.fixed.with_added(&self.layers.added())?));
            lock(&self.built).clear();
        }
        Ok(known.1.clone())
    }

    /// Keeps every layer from being removed, by whatever process, until the value is dropped. Whoever finds an image and then notes its
    /// layers in a record holds this from before the one until after the other.
    ///
    /// # Errors
    /// The lock cannot be had.
    pub async fn keep(&self) -> Result<Kept, EngineError> {
        let broken = |error| EngineError::broken("keeping the image layers from being removed", error);
        match self.layers.keep(false) {
            Ok(file) => Ok(Kept { _file: file }),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                let layers = self.layers.clone();
                let kept = tokio::task::spawn_blocking(move || layers.keep(true)).await;
                let kept = kept.map_err(std::io::Error::other).and_then(|kept| kept);
                kept.map(|file| Kept { _file: file }).map_err(broken)
            }
            Err(error) => Err(broken(error)),
        }
    }

    /// Whether there is an image called `name`, built or not.
    ///
    /// # Errors
    /// There is none; returns the names that there are, those that every server has first.
    pub fn check(&self, name: &str) -> Result<(), Vec<String>> {
        // What keeps the recipes from being read is told when the image is used.
        let Ok(recipes) = self.recipes() else { return Ok(()) };
        if recipes.get(name).is_ok() {
            return Ok(());
        }
        let all = recipes.names();
        let (usual, own): (Vec<&str>, Vec<&str>) = all.into_iter().partition(|name| RUNTIMES.contains(name));
        let usual = RUNTIMES.into_iter().filter(|runtime| usual.contains(runtime));
        Err(usual.chain(own).map(str::to_owned).collect())
    }

    /// The image called `name`, if it is complete. Cheap: a look into memory once it has been found.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for a name that no recipe has.
    pub fn find(&self, name: &str) -> Result<Option<Image>, EngineError> {
        let recipes = self.recipes()?;
        if let Some(image) = lock(&self.built).get(name) {
            return Ok(Some(image.clone()));
        }
        let found = self.planned(&recipes, recipes.get(name)?)?;
        let image = found.and_then(|(layers, env)| self.complete(&layers, env));
        if let Some(image) = &image {
            lock(&self.built).insert(name.to_owned(), image.clone());
        }
        Ok(image)
    }

    fn complete(&self, layers: &[Layer], env: BTreeMap<String, String>) -> Option<Image> {
        if layers.iter().any(|layer| self.layers.note(&layer.key).is_none()) {
            return None;
        }
        Some(Image { layers: self.folders(layers), env })
    }

    /// The folders of `layers` (lowest first), uppermost first. Overlay does not ask whether a layer's root hides what is below, so what a
    /// layer of a registry hides as a whole is left out here.
    fn folders(&self, layers: &[Layer]) -> Vec<PathBuf> {
        let mut folders = Vec::new();
        for layer in layers.iter().rev() {
            let folder = self.layers.fs(&layer.key);
            let last = matches!(layer.content, Content::Oci { .. })
                && File::open(&folder).is_ok_and(|root| oci::is_opaque(&root));
            folders.push(folder);
            if last {
                break;
            }
        }
        folders
    }

    /// The image called `name`, built if it is not there, which may take minutes. Layers that another call or another process builds
    /// already are waited for. Dropping the future ends the build and leaves nothing of the layer that was under way.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for a name that no recipe has; else the build's failure, whose source names the log and has its last
    /// lines. The next call tries again.
    pub async fn ensure(&self, name: &str, runner: &dyn LayerRunner) -> Result<Image, EngineError> {
        if let Some(image) = self.find(name)? {
            return Ok(image);
        }
        let _kept = self.keep().await?;
        let recipes = self.recipes()?;
        let image = self.make(&recipes, recipes.get(name)?, None, runner).await?;
        lock(&self.built).insert(name.to_owned(), image.clone());
        Ok(image)
    }

    /// Makes what is missing of the image of `recipe`; `fresh` is what its registry has just said, where it was asked. The caller keeps
    /// layers from being removed.
    async fn make(
        &self,
        recipes: &Recipes,
        recipe: &Recipe,
        fresh: Option<&Fresh>,
        runner: &dyn LayerRunner,
    ) -> Result<Image, EngineError> {
        let _shown = self.progress.clone().begin();
        let (layers, env) = self.pull(recipes, recipe, fresh).await?;
        let steps = Steps::of(&layers);
        for (index, layer) in layers.iter().enumerate() {
            if self.layers.note(&layer.key).is_some() {
                continue;
            }
            let flight = self.flight(&layer.key).await?;
            if self.layers.note(&layer.key).is_some() {
                continue;
            }
            let step = BuildProgress {
                image: recipe.name.clone(),
                step: steps.number(index),
                of: steps.count(),
                doing: layer.content.doing(),
                fraction: None,
            };
            self.build(layer, &self.folders(&layers[..index]), step, runner, flight).await?;
        }
        self.complete(&layers, env).ok_or_else(|| {
            EngineError::broken(
                format!("building the image `{}`", recipe.name),
                "a finished layer has disappeared from the disk",
            )
        })
    }

    /// Follows builds: the latest step that began or moved on, nothing while none is under way.
    pub fn progress(&self) -> watch::Receiver<Option<BuildProgress>> {
        self.progress.latest.subscribe()
    }

    /// The layers of a recipe and its variables; nothing while it stands on an image of a registry that has not been asked for yet.
    fn planned(&self, recipes: &Recipes, recipe: &Recipe) -> Result<Option<Plan>, EngineError> {
        let doing = || format!("planning the image `{}`", recipe.name);
        let chain = recipes.chain(recipe).map_err(|why| EngineError::broken(doing(), why))?;
        match chain.first().and_then(|ground| Some((&ground.name, ground.oci.as_deref()?))) {
            Some((name, reference)) => Ok(self.pin(name, reference).map(|pin| self.plan_on(&chain, &pin))),
            None => {
                let mirror = self.mirror.as_ref().map_err(|why| EngineError::broken(doing(), why.clone()))?;
                Ok(Some(layer::plan(&chain, Ground::Debian(mirror), &self.certificates)))
            }
        }
    }

    fn plan_on(&self, chain: &[&Recipe], pin: &Pin) -> Plan {
        layer::plan(chain, Ground::Oci(pin), &self.certificates)
    }

    /// What the reference of the recipe called `name` stood for when it was pulled.
    fn pin(&self, name: &str, reference: &str) -> Option<Pin> {
        Pin::read(&pin::file(&self.layers.pins(), name)).filter(|pin| pin.is_of(reference))
    }
}

/// Layers, the lowest first, and the image's variables.
type Plan = (Vec<Layer>, BTreeMap<String, String>);

/// The steps of a build as people count them: all layers of a registry's image are one.
struct Steps {
    pulled: usize,
    layers: usize,
}

impl Steps {
    fn of(layers: &[Layer]) -> Self {
        let pulled = layers.iter().filter(|layer| matches!(layer.content, Content::Oci { .. })).count();
        Self { pulled, layers: layers.len() }
    }

    fn count(&self) -> usize {
        self.layers - self.pulled + usize::from(self.pulled > 0)
    }

    /// The number of the step in which the layer at `index` is made.
    fn number(&self, index: usize) -> usize {
        if index < self.pulled { 1 } else { index - self.pulled + usize::from(self.pulled > 0) + 1 }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
