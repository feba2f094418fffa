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
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use tokio::sync::{OwnedMutexGuard, oneshot, watch};
use tokio::time::timeout;

use crate::EngineError;
#[cfg(doc)]
use crate::ErrorKind;
use bootstrap::Bootstrap;
use certificates::Certificates;
use failure::{BuildFailure, hint, with_sources};
use layer::{Content, Layer};
use log::Log;
use progress::Progress;
use recipe::{Recipe, Recipes};
use sources::Mirror;
use store::{Building, Layers, Note};

mod bootstrap;
mod certificates;
mod failure;
mod layer;
mod log;
mod progress;
mod recipe;
mod sources;
mod store;
#[cfg(test)]
mod tests;

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
}

/// What a box starts from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Folders to stack, uppermost first. Their files carry the ids that boxes see; nothing may ever be written to them.
    pub layers: Vec<PathBuf>,
    /// Variables of every process in the box, which those of the box itself go over. `PATH` may be among them.
    pub env: BTreeMap<String, String>,
}

/// What there is of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageState {
    /// Name of its recipe.
    pub name: String,
    /// Other names of it.
    pub aliases: Vec<String>,
    /// Whether a box can start from it at once.
    pub built: bool,
    /// Bytes on disk of the layers that are there; images share layers, so their sizes do not add up.
    pub bytes: u64,
    /// Names its content: two images with the same digest were built from the same recipe. Empty while the host has no mirror.
    pub digest: String,
}

/// Runs the steps of a build in boxes.
#[async_trait]
pub trait LayerRunner: Send + Sync {
    /// Runs `script` with bash, as root with `/root` as home, in a throw-away box on `layers` (uppermost first) with network. What it
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

/// The images of this host.
pub struct Images {
    recipes: Recipes,
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
        let recipes = Recipes::read(config.recipes_dir.as_deref())?;
        let trusted = config.trust_host_cas.then(|| Certificates::read(&host.certificates)).transpose()?;
        Ok(Self {
            recipes,
            certificates: trusted.unwrap_or_default(),
            mirror: Mirror::of_host(&host.etc_apt).map_err(|error| with_sources(&error)),
            bootstrap: Bootstrap { path: host.path },
            layers: Arc::new(Layers::open(dir)?),
            built: Mutex::default(),
            flights: Mutex::default(),
            progress: Arc::new(Progress::default()),
        })
    }

    /// The image called `name`, if it is complete. Cheap: a look into memory once it has been found.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for a name that no recipe has.
    pub fn find(&self, name: &str) -> Result<Option<Image>, EngineError> {
        if let Some(image) = lock(&self.built).get(name) {
            return Ok(Some(image.clone()));
        }
        let recipe = self.recipes.get(name)?;
        let (layers, env) = self.plan(recipe)?;
        Ok(self.complete(name, &layers, env))
    }

    fn complete(&self, name: &str, layers: &[Layer], env: BTreeMap<String, String>) -> Option<Image> {
        if layers.iter().any(|layer| self.layers.note(&layer.key).is_none()) {
            return None;
        }
        let image = Image { layers: self.folders(layers), env };
        lock(&self.built).insert(name.to_owned(), image.clone());
        Some(image)
    }

    /// The folders of `layers` (lowest first), uppermost first.
    fn folders(&self, layers: &[Layer]) -> Vec<PathBuf> {
        layers.iter().rev().map(|layer| self.layers.fs(&layer.key)).collect()
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
        let recipe = self.recipes.get(name)?;
        let (layers, env) = self.plan(recipe)?;
        let _shown = self.progress.clone().begin();
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
                step: index + 1,
                of: layers.len(),
                doing: layer.content.doing(),
                fraction: None,
            };
            self.build(layer, &self.folders(&layers[..index]), step, runner, flight).await?;
        }
        let missing = || {
            EngineError::broken(
                format!("building the image `{name}`"),
                "a finished layer has disappeared from the disk",
            )
        };
        self.complete(name, &layers, env).ok_or_else(missing)
    }

    /// Every image there is a recipe for, in order of names.
    pub fn list(&self) -> Vec<ImageState> {
        let state = |recipe: &Recipe| {
            let layers = self.plan(recipe).map(|(layers, _)| layers).unwrap_or_default();
            let notes: Vec<Note> = layers.iter().filter_map(|layer| self.layers.note(&layer.key)).collect();
            ImageState {
                name: recipe.name.clone(),
                aliases: self.recipes.aliases_of(&recipe.name),
                built: !layers.is_empty() && notes.len() == layers.len(),
                bytes: notes.iter().map(|note| note.bytes).sum(),
                digest: layers.last().map(|layer| format!("sha256:{}", layer.key)).unwrap_or_default(),
            }
        };
        self.recipes.all().map(state).collect()
    }

    /// Follows builds: the latest step that began or moved on, nothing while none is under way.
    pub fn progress(&self) -> watch::Receiver<Option<BuildProgress>> {
        self.progress.latest.subscribe()
    }

    fn plan(&self, recipe: &Recipe) -> Result<(Vec<Layer>, BTreeMap<String, String>), EngineError> {
        let doing = || format!("planning the image `{}`", recipe.name);
        let mirror = self.mirror.as_ref().map_err(|why| EngineError::broken(doing(), why.clone()))?;
        let chain = self.recipes.chain(recipe).map_err(|why| EngineError::broken(doing(), why))?;
        Ok(layer::plan(&chain, mirror, &self.certificates))
    }

    /// Waits until this call alone, on the whole host, may build the layer.
    async fn flight(&self, key: &str) -> Result<Flight, EngineError> {
        let doing = "waiting for the build of an image layer";
        let late = |_| EngineError::broken(doing, "another build of it takes too long");
        let mutex = lock(&self.flights).entry(key.to_owned()).or_default().clone();
        let turn = timeout(LAYER_DEADLINE, mutex.lock_owned()).await.map_err(late)?;
        // A thread of its own because nothing else can wait for a file lock: the runtime would wait for its blocking threads when it
        // ends. It keeps this process's turn until it has the lock, so there is one such thread a layer at most.
        let (give, take) = oneshot::channel();
        let (layers, name) = (self.layers.clone(), key.to_owned());
        let wait = move || {
            let lock = layers.lock(&name);
            // Nobody takes it when the caller has gone; then both locks end here.
            let _ = give.send(lock.map(|file| Flight { _file: file, _turn: turn }));
        };
        std::thread::Builder::new()
            .name("image-lock".into())
            .spawn(wait)
            .map_err(|error| EngineError::broken(doing, error))?;
        let flight = timeout(LAYER_DEADLINE, take).await.map_err(late)?;
        let flight = flight.map_err(|error| EngineError::broken(doing, error))?;
        flight.map_err(|error| EngineError::broken(doing, error))
    }

    async fn build(
        &self,
        layer: &Layer,
        below: &[PathBuf],
        step: BuildProgress,
        runner: &dyn LayerRunner,
        flight: Flight,
    ) -> Result<(), EngineError> {
        let doing = format!("building the image `{}`: step {} of {}, {},", step.image, step.step, step.of, step.doing);
        tracing::info!(image = step.image, step = step.step, of = step.of, layer = layer.key, "{}", step.doing);
        self.progress.show(step.clone());
        let started = Instant::now();
        let building = self.layers.start(&layer.key).map_err(|error| EngineError::broken(&*doing, error))?;
        let rounds = if matches!(layer.content, Content::Base { .. }) { 2 } else { 1 };
        let shown = self.progress.clone();
        let log_path = self.layers.log_path(&layer.key);
        let done = move |fraction| shown.show(BuildProgress { fraction: Some(fraction), ..step.clone() });
        let mut log = Log::create(&log_path, rounds, done).map_err(|error| EngineError::broken(&*doing, error))?;
        let filled = timeout(LAYER_DEADLINE, self.fill(layer, below, &building, runner, &mut log)).await;
        let filled = filled.unwrap_or_else(|_| {
            Err(EngineError::broken(
                "waiting for the builder",
                format!("it took longer than {} minutes", LAYER_DEADLINE.as_secs() / 60),
            ))
        });
        if let Err(error) = filled {
            let kind = error.kind;
            let failure =
                BuildFailure { why: with_sources(&error), hint: hint(&log_path), log: log_path, tail: log.tail() };
            return Err(EngineError { kind, ..EngineError::broken(doing, failure) });
        }
        let (key, parent, recipe) = (layer.key.clone(), layer.parent.clone(), layer.recipe.clone());
        let note = move |bytes| Note {
            key,
            parent,
            recipe,
            bytes,
            built_at_ms: millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()),
            took_ms: millis(started.elapsed()),
        };
        let finish = move || {
            let done = building.finish(note);
            // Goes on when the caller leaves; until then nobody else may begin.
            drop(flight);
            done
        };
        let finished = tokio::task::spawn_blocking(finish).await.map_err(std::io::Error::other);
        let note = finished.and_then(|done| done).map_err(|error| EngineError::broken(&*doing, error))?;
        tracing::info!(layer = note.key, bytes = note.bytes, took_ms = note.took_ms, "image layer finished");
        Ok(())
    }

    async fn fill(
        &self,
        layer: &Layer,
        below: &[PathBuf],
        building: &Building,
        runner: &dyn LayerRunner,
        log: &mut (dyn Write + Send),
    ) -> Result<(), EngineError> {
        let upper = building.upper();
        match &layer.content {
            Content::Base { suite, packages, mirror } => self.bootstrap.run(suite, packages, mirror, &upper, log).await,
            Content::Certificates(certificates) => {
                let written = certificates.write(&upper);
                written.map_err(|error| EngineError::broken("writing the host's certificates", error))?;
                runner.run(below, &upper, "umask 022\nexec update-ca-certificates\n", log).await
            }
            Content::Script { script, .. } => runner.run(below, &upper, script, log).await,
        }
    }
}

/// The right to build a layer: of this call in this process, and of this process on the host.
struct Flight {
    _file: File,
    _turn: OwnedMutexGuard<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
