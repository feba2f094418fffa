//! Which images there are: adding, listing, removing, and freeing what nobody needs.
//!
//! All of it works beside a running server, and beside another of these: see [`store`](super::store).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::sync::mpsc;
use std::time::Duration;

use super::holders::{Holder, holders};
use super::oci::pin;
use super::oci::{Pull, sweep_blobs};
use super::pull::Fresh;
use super::recipe::{Origin, Recipe, Recipes};
use super::{Images, LayerRunner};
use crate::EngineError;

/// How long removing waits for boxes and images that are being made.
const ALONE_DEADLINE: Duration = Duration::from_secs(15);

/// Names of users of an image that are told.
const TOLD: usize = 5;

/// What there is of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageState {
    /// Name of its recipe.
    pub name: String,
    /// Other names of it.
    pub aliases: Vec<String>,
    /// What it is made from, for people: `debian trixie`, `docker.io/library/alpine:3.22`, `from node`.
    pub source: String,
    /// Whether it was added by `boxyard image add`, and so can be removed.
    pub added: bool,
    /// Whether a box can start from it at once.
    pub built: bool,
    /// Bytes on disk of the layers that are there; images share layers, so their sizes do not add up.
    pub bytes: u64,
    /// Names its content: two images with the same digest were built from the same recipe. Empty while the host has no mirror, or while
    /// the registry that it is from has not been asked.
    pub digest: String,
    /// How many boxes stand on it, or on an image that stands on it.
    pub boxes: usize,
    /// How many snapshots do.
    pub snapshots: usize,
}

/// What removing has freed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Freed {
    /// Layers.
    pub layers: usize,
    /// Bytes on disk, downloads included.
    pub bytes: u64,
}

/// An image to add.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addition {
    recipe: Recipe,
    text: String,
}

impl Addition {
    /// The image `reference` of a registry under the name `name`.
    ///
    /// # Errors
    /// Says what is wrong with name or reference.
    pub fn oci(name: &str, reference: &str) -> Result<Self, String> {
        super::recipe::name(name).map_err(|why| format!("the name of an image {why}"))?;
        let text = toml::to_string(&BTreeMap::from([("name", name), ("oci", reference)]))
            .map_err(|error| error.to_string())?;
        Self::recipe(&text)
    }

    /// The image of a recipe.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn recipe(text: &str) -> Result<Self, String> {
        let recipe = Recipe { origin: Origin::Added, ..Recipe::parse(text)? };
        Ok(Self { recipe, text: text.to_owned() })
    }

    /// The image's name.
    pub fn name(&self) -> &str {
        &self.recipe.name
    }
}

impl Images {
    /// Adds an image, or replaces the added one of its name, and makes it: a registry is asked anew what the reference stands for.
    /// Without `runner` only the registry's layers are fetched, and the first box of it has the rest made. Until this succeeds nothing
    /// has changed. Returns whether a box can start from it at once.
    ///
    /// # Errors
    /// The name is taken, what it stands on is not there, or it cannot be pulled or built.
    pub async fn add(&self, addition: &Addition, runner: Option<&dyn LayerRunner>) -> Result<bool, EngineError> {
        let recipe = &addition.recipe;
        let doing = || format!("adding the image `{}`", recipe.name);
        let _kept = self.keep().await?;
        let mut recipes = Recipes::clone(&*self.recipes()?);
        recipes.check_free(recipe).map_err(|why| EngineError::broken(doing(), why))?;
        recipes.insert(recipe.clone());
        recipes.chain(recipe).map_err(|why| EngineError::broken(doing(), why))?;
        let _shown = self.progress.clone().begin();
        let fresh = match &recipe.oci {
            Some(reference) => {
                let pull = Pull::new(reference, &self.oci)?;
                let pin = self.resolve(&pull, &recipe.name).await?;
                Some(Fresh { pull, pin })
            }
            None => None,
        };
        match runner {
            Some(runner) => drop(self.make(&recipes, recipe, fresh.as_ref(), runner).await?),
            None => drop(self.pull(&recipes, recipe, fresh.as_ref()).await?),
        }
        if let Some(fresh) = &fresh {
            self.write_pin(&recipe.name, &fresh.pin)?;
        }
        let path = self.layers.added().join(format!("{}.toml", recipe.name));
        let written = self.layers.write(&path, addition.text.as_bytes()).and_then(|()| self.layers.touch());
        written.map_err(|error| EngineError::broken(doing(), error))?;
        Ok(self.find(&recipe.name)?.is_some())
    }

    /// Every image there is a recipe for, in order of names.
    ///
    /// # Errors
    /// The records of boxes cannot be read.
    pub fn list(&self) -> Result<Vec<ImageState>, EngineError> {
        let recipes = self.recipes()?;
        let holders = self.holders("listing images")?;
        let state = |recipe: &Recipe| {
            let plan = self.planned(&recipes, recipe).ok().flatten();
            let layers = plan.map(|(layers, _)| layers).unwrap_or_default();
            let notes: Vec<_> = layers.iter().filter_map(|layer| self.layers.note(&layer.key)).collect();
            let users = users(&recipes, recipe, layers.last().map(|layer| layer.key.as_str()), &holders);
            ImageState {
                name: recipe.name.clone(),
                aliases: recipes.aliases_of(&recipe.name),
                source: match (&recipe.suite, &recipe.oci, &recipe.from) {
                    (Some(suite), _, _) => format!("debian {suite}"),
                    (_, Some(reference), _) => reference.clone(),
                    (_, _, from) => format!("from {}", from.as_deref().unwrap_or_default()),
                },
                added: recipe.origin == Origin::Added,
                built: !layers.is_empty() && notes.len() == layers.len(),
                bytes: notes.iter().map(|note| note.bytes).sum(),
                digest: layers.last().map(|layer| format!("sha256:{}", layer.key)).unwrap_or_default(),
                boxes: users.iter().filter(|user| user.what.starts_with("box ")).count(),
                snapshots: users.iter().filter(|user| user.what.starts_with("snapshot ")).count(),
            }
        };
        Ok(recipes.all().map(state).collect())
    }

    /// Removes an image that was added, and the layers that nobody else needs. Of one that is built in, or lies in the operator's folder,
    /// only the layers go: it is built again when a box needs it.
    ///
    /// # Errors
    /// There is no such image, or a box, a snapshot or another image stands on it: the error says which.
    pub fn remove(&self, name: &str) -> Result<Freed, EngineError> {
        let doing = || format!("removing the image {name:?}");
        let broken = |error: io::Error| EngineError::broken(doing(), error);
        let alone = self.alone().map_err(broken)?;
        let recipes = self.recipes()?;
        let recipe = recipes.get(name)?;
        let holders = self.holders("removing an image")?;
        let keys = |recipe: &Recipe| -> Result<Vec<String>, EngineError> {
            let plan = self.planned(&recipes, recipe)?;
            Ok(plan.map(|(layers, _)| layers.into_iter().map(|layer| layer.key).collect()).unwrap_or_default())
        };
        let own = keys(recipe).unwrap_or_default();
        let mut used_by: Vec<String> = users(&recipes, recipe, own.last().map(String::as_str), &holders)
            .iter()
            .map(|user| user.what.clone())
            .collect();
        for other in recipes.all().filter(|other| other.name != recipe.name) {
            let on_it = recipes.chain(other).is_ok_and(|chain| chain.iter().any(|below| below.name == recipe.name));
            let built = || keys(other).is_ok_and(|keys| keys.last().is_some_and(|key| self.layers.note(key).is_some()));
            if on_it && (recipe.origin == Origin::Added || built()) {
                used_by.push(format!("image {}", other.name));
            }
        }
        if !used_by.is_empty() {
            let more = used_by.len().saturating_sub(TOLD);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            used_by.truncate(TOLD);
            let text = format!("it is used by {}{more}", used_by.join(", "));
            return Err(EngineError::broken(doing(), text));
        }
        let mut needed: BTreeSet<String> = holders.into_iter().flat_map(|holder| holder.keys).collect();
        for other in recipes.all().filter(|other| other.name != recipe.name) {
            needed.extend(self.needs(&recipes, other).map_err(broken)?);
        }
        if recipe.origin == Origin::Added {
            fs::remove_file(self.layers.added().join(format!("{}.toml", recipe.name))).map_err(broken)?;
        }
        remove_if_there(&pin::file(&self.layers.pins(), &recipe.name)).map_err(broken)?;
        self.withdraw(alone, own.into_iter().filter(|key| !needed.contains(key))).map_err(broken)
    }

    /// Frees the layers that no image, box or snapshot needs, and what broken downloads have left.
    ///
    /// # Errors
    /// The records of boxes cannot be read, boxes are being made, or removing failed. What is needed is there in any case.
    pub fn gc(&self) -> Result<Freed, EngineError> {
        let doing = "freeing image layers";
        let broken = |error: io::Error| EngineError::broken(doing, error);
        let alone = self.alone().map_err(broken)?;
        let recipes = self.recipes()?;
        let mut needed: BTreeSet<String> = self.holders(doing)?.into_iter().flat_map(|holder| holder.keys).collect();
        for recipe in recipes.all() {
            needed.extend(self.needs(&recipes, recipe).map_err(broken)?);
        }
        let mut freed = sweep_blobs(&self.layers.blobs()).map_err(broken)?;
        for entry in fs::read_dir(self.layers.pins()).map_err(broken)? {
            let path = entry.map_err(broken)?.path();
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let wanted = recipes.all().any(|recipe| recipe.name == name && recipe.oci.is_some());
            if !wanted {
                freed += fs::metadata(&path).map_err(broken)?.len();
                fs::remove_file(&path).map_err(broken)?;
            }
        }
        let all = self.layers.keys().map_err(broken)?;
        let layers = self.withdraw(alone, all.into_iter().filter(|key| !needed.contains(key))).map_err(broken)?;
        Ok(Freed { bytes: layers.bytes + freed, ..layers })
    }

    /// The keys of the layers that an image needs. Of one that cannot be planned, because the host has no mirror at the moment, those that
    /// were made for it: a plan that fails must not look like one without layers.
    fn needs(&self, recipes: &Recipes, recipe: &Recipe) -> io::Result<Vec<String>> {
        if let Ok(plan) = self.planned(recipes, recipe) {
            return Ok(plan.into_iter().flat_map(|(layers, _)| layers).map(|layer| layer.key).collect());
        }
        let chain = recipes.chain(recipe).unwrap_or_else(|_| vec![recipe]);
        let made_for = |key: &String| {
            self.layers.note(key).is_some_and(|note| chain.iter().any(|below| below.name == note.recipe))
        };
        Ok(self.layers.keys()?.into_iter().filter(made_for).collect())
    }

    fn holders(&self, doing: &str) -> Result<Vec<Holder>, EngineError> {
        holders(self.layers.data()).map_err(|error| EngineError::broken(doing, error))
    }

    /// Takes the layers away and lets everybody know; their files are removed when others may go on.
    pub(super) fn withdraw(&self, alone: File, keys: impl Iterator<Item = String>) -> io::Result<Freed> {
        let mut freed = Freed::default();
        let mut gone = Vec::new();
        for key in keys {
            let Some(note) = self.layers.note(&key) else { continue };
            gone.push(self.layers.withdraw(&key)?);
            freed.layers += 1;
            freed.bytes += note.bytes;
        }
        self.layers.touch()?;
        drop(alone);
        drop(gone);
        Ok(freed)
    }

    /// The right to remove layers. Blocks for a while.
    pub(super) fn alone(&self) -> io::Result<File> {
        let (give, take) = mpsc::sync_channel(1);
        let layers = self.layers.clone();
        // A thread of its own because nothing else can wait for a file lock with a deadline. One that comes too late gives it back.
        let wait = move || drop(give.send(layers.alone()));
        std::thread::Builder::new().name("image-lock".into()).spawn(wait)?;
        take.recv_timeout(ALONE_DEADLINE).map_err(|_| {
            let text = "images are being built or boxes made at the moment; try again when they are";
            io::Error::new(io::ErrorKind::ResourceBusy, text)
        })?
    }
}

/// Who stands on the image: by its uppermost layer, which images on top of it have too, or by one of its names.
fn users<'a>(recipes: &Recipes, recipe: &Recipe, top: Option<&str>, holders: &'a [Holder]) -> Vec<&'a Holder> {
    let named = |holder: &Holder| {
        let image = holder.image.as_deref().and_then(|image| recipes.get(image).ok());
        image.is_some_and(|image| image.name == recipe.name)
    };
    holders.iter().filter(|holder| top.is_some_and(|top| holder.keys.contains(top)) || named(holder)).collect()
}

fn remove_if_there(path: &std::path::Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
