//! Building one layer, by one call on the whole host.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{OwnedMutexGuard, oneshot};
use tokio::time::timeout;

use super::failure::{BuildFailure, hint, with_sources};
use super::layer::{Content, Layer};
use super::log::Log;
use super::progress::BuildProgress;
use super::store::{Building, Note};
use super::{Images, LAYER_DEADLINE, LayerRunner, lock};
use crate::{EngineError, ErrorKind};

impl Images {
    /// Waits until this call alone, on the whole host, may build the layer.
    pub(super) async fn flight(&self, key: &str) -> Result<Flight, EngineError> {
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

    pub(super) async fn build(
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
        let note = note_of(layer, started);
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
            Content::Certificates(certificates, script) => {
                let written = certificates.write(&upper);
                written.map_err(|error| EngineError::broken("writing the host's certificates", error))?;
                runner.run(below, &upper, script, log).await
            }
            Content::Oci { .. } => Err(EngineError::new(ErrorKind::Broken, "building a layer that is pulled")),
            Content::Script { script, .. } => runner.run(below, &upper, script, log).await,
        }
    }
}

/// The right to build a layer: of this call in this process, and of this process on the host.
pub(super) struct Flight {
    _file: File,
    _turn: OwnedMutexGuard<()>,
}

/// What is noted of a layer that was begun at `started` and takes so many bytes.
pub(super) fn note_of(layer: &Layer, started: Instant) -> impl FnOnce(u64) -> Note + Send + 'static {
    let (key, parent, recipe) = (layer.key.clone(), layer.parent.clone(), layer.recipe.clone());
    move |bytes| Note {
        key,
        parent,
        recipe,
        bytes,
        built_at_ms: millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()),
        took_ms: millis(started.elapsed()),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
