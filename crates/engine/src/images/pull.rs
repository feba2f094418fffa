//! The part of a build that needs a registry: asking what a reference stands for, and fetching layers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::{FutureExt, StreamExt, TryStreamExt, stream};
use tokio::time::timeout;

use super::build::note_of;
use super::layer::{Content, Layer};
use super::oci::pin::{self, Pin};
use super::oci::reference::Digest;
use super::oci::{AT_ONCE, Blob, Pull};
use super::progress::BuildProgress;
use super::recipe::{Recipe, Recipes};
use super::{Images, LAYER_DEADLINE, Plan, Steps};
use crate::EngineError;

/// How often followers are told how far a download is.
const NEWS: Duration = Duration::from_millis(200);

/// What a registry has just said, and the way to it.
pub(super) struct Fresh {
    pub pull: Pull,
    pub pin: Pin,
}

impl Images {
    /// The plan of a recipe, with all layers of the registry's image that it stands on, if it does; `fresh` is what the registry has just
    /// said of the recipe's own image. The caller keeps layers from being removed.
    pub(super) async fn pull(
        &self,
        recipes: &Recipes,
        recipe: &Recipe,
        fresh: Option<&Fresh>,
    ) -> Result<Plan, EngineError> {
        let doing = || format!("planning the image `{}`", recipe.name);
        let chain = recipes.chain(recipe).map_err(|why| EngineError::broken(doing(), why))?;
        let ground = chain.first().and_then(|ground| Some((&ground.name, ground.oci.as_deref()?)));
        let Some((name, reference)) = ground else {
            let planned = self.planned(recipes, recipe)?;
            return planned.ok_or_else(|| EngineError::broken(doing(), "there is no plan for it"));
        };
        if let Some(fresh) = fresh.filter(|fresh| *name == recipe.name && fresh.pin.is_of(reference)) {
            let plan = self.plan_on(&chain, &fresh.pin);
            self.fetch(&fresh.pull, &fresh.pin, &recipe.name, &plan.0).await?;
            return Ok(plan);
        }
        let pull = Pull::new(reference, &self.oci)?;
        let pin = match self.pin(name, reference) {
            Some(pin) => pin,
            None => {
                let pin = self.resolve(&pull, &recipe.name).await?;
                self.write_pin(name, &pin)?;
                pin
            }
        };
        let plan = self.plan_on(&chain, &pin);
        self.fetch(&pull, &pin, &recipe.name, &plan.0).await?;
        Ok(plan)
    }

    /// Asks the registry.
    pub(super) async fn resolve(&self, pull: &Pull, image: &str) -> Result<Pin, EngineError> {
        let asking = "asking the registry";
        let step = BuildProgress { image: image.to_owned(), step: 1, of: 1, doing: asking, fraction: None };
        self.progress.show(step);
        let late = |_| EngineError::broken(asking, "it takes too long");
        timeout(LAYER_DEADLINE, pull.resolve()).await.map_err(late)?
    }

    pub(super) fn write_pin(&self, name: &str, pin: &Pin) -> Result<(), EngineError> {
        let written = pin.to_bytes().and_then(|bytes| self.layers.write(&pin::file(&self.layers.pins(), name), &bytes));
        written.map_err(|error| EngineError::broken("keeping what the registry said", error))
    }

    /// Fetches what is missing of the registry's layers, several at once.
    async fn fetch(&self, pull: &Pull, pin: &Pin, image: &str, layers: &[Layer]) -> Result<(), EngineError> {
        let steps = Steps::of(layers);
        let missing: Vec<&Layer> = layers.iter().filter(|layer| self.layers.note(&layer.key).is_none()).collect();
        let missing: Vec<(&Layer, &Blob, &Digest)> = missing
            .into_iter()
            .filter_map(|layer| match &layer.content {
                Content::Oci { blob, diff_id } => Some((layer, blob, diff_id)),
                Content::Base { .. } | Content::Certificates(..) | Content::Script { .. } => None,
            })
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let bytes: u64 = missing.iter().map(|(_, blob, _)| blob.size).sum();
        tracing::info!(image, reference = pin.reference, manifest = %pin.manifest, layers = missing.len(), bytes, "pulling");
        let news = async {
            let mut tick = tokio::time::interval(NEWS);
            loop {
                tick.tick().await;
                #[expect(clippy::cast_precision_loss, reason = "a fraction for a bar")]
                let fraction = (pull.heard() as f32 / bytes.max(1) as f32).min(1.0);
                let doing = "pulling layers";
                let (image, of) = (image.to_owned(), steps.count());
                self.progress.show(BuildProgress { image, step: 1, of, doing, fraction: Some(fraction) });
            }
        };
        let mut each = Vec::new();
        for (layer, blob, diff_id) in missing {
            each.push(self.fetch_one(pull, layer, blob, diff_id).boxed());
        }
        let all = stream::iter(each).buffer_unordered(AT_ONCE).try_collect::<()>();
        let late = |_| EngineError::broken("pulling layers", "it takes too long");
        tokio::select! {
            done = timeout(LAYER_DEADLINE, all) => done.map_err(late)?,
            () = news => Ok(()),
        }
    }

    async fn fetch_one(&self, pull: &Pull, layer: &Layer, blob: &Blob, diff_id: &Digest) -> Result<(), EngineError> {
        let flight = self.flight(&layer.key).await?;
        if self.layers.note(&layer.key).is_some() {
            return Ok(());
        }
        let started = Instant::now();
        // Two images may give one blob two diff ids, of which one at most is right.
        let download = self.flight(blob.digest.hex()).await?;
        let path = pull.download(blob, &self.layers.blobs()).await?;
        let broken = |error: std::io::Error| EngineError::broken(format!("unpacking the layer {}", blob.digest), error);
        let building = self.layers.start(&layer.key).map_err(broken)?;
        let unpacker = pull.unpacker();
        let stop = StopOnDrop(unpacker.stop.clone());
        let (note, diff_id) = (note_of(layer, started), diff_id.clone());
        // Goes on for a moment when the caller leaves; until it ends nobody else may begin.
        let unpack = move || {
            let unpacked = unpacker.run(&path, &building.upper(), &diff_id);
            // Right or wrong, it is not needed again: what was downloaded is what the digest says.
            let removed = std::fs::remove_file(&path);
            let note = unpacked.and(removed).and_then(|()| building.finish(note));
            drop((download, flight));
            note
        };
        let unpacked = tokio::task::spawn_blocking(unpack).await.map_err(std::io::Error::other);
        drop(stop);
        let note = unpacked.and_then(|done| done).map_err(broken)?;
        tracing::info!(layer = note.key, blob = %blob.digest, bytes = note.bytes, took_ms = note.took_ms, "layer pulled");
        Ok(())
    }
}

/// Ends the unpacking when nobody waits for it any more.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
