//! What boxes use: each on its own for its owner, all together for the figures.
//!
//! Asking wakes nobody: the engine reads the kernel's counts from outside. It is bounded in three ways, because a box may have a disk of
//! a million files: so many at once, so long each, and the figures at most every ten seconds.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use boxyard_engine::{EngineError, ErrorKind, Usage};
use boxyard_proto::BoxId;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, timeout, timeout_at};

use super::lifecycle::Phase;
use super::{BoxError, Boxes, Kept, Yard, chain};
use crate::metrics::{Direction, Metrics};

/// Boxes whose usage is being found out at once.
pub(super) const USAGES: usize = 8;
/// How long a caller waits for the usage of one box, its turn included.
const USAGE_DEADLINE: Duration = Duration::from_secs(10);
/// How long the figures of all boxes may take to bring up to date; those of boxes that are not asked by then stay as they were.
const FIGURES_DEADLINE: Duration = Duration::from_secs(3);
/// How old the figures may be.
const FIGURES_AGE: Duration = Duration::from_secs(10);

impl Boxes {
    /// What a box uses now, whether it runs, is paused or is stopped. A box that is being made uses nothing.
    ///
    /// # Errors
    /// The box has failed or is gone, too many ask at once, or the engine does not know.
    pub async fn usage(&self, kept: &Kept) -> Result<Usage, BoxError> {
        match kept.phase() {
            Phase::Creating => return Ok(Usage::default()),
            Phase::Failed => return Err(kept.failure().unwrap_or(BoxError::Busy)),
            Phase::Deleting | Phase::Deleted => return Err(BoxError::NotFound),
            Phase::Ready
            | Phase::Pausing
            | Phase::Paused
            | Phase::Stopping
            | Phase::Stopped
            | Phase::Resuming { .. }
            | Phase::Saving { .. } => {}
        }
        let usage = timeout(USAGE_DEADLINE, self.yard.usage(kept.id())).await.map_err(|_| BoxError::Busy)?;
        usage.map_err(|error| match (kept.phase().is_gone(), error.kind) {
            (true, _) => BoxError::NotFound,
            // Being stopped or started, or lost: whoever works in it next finds out.
            (false, ErrorKind::NotFound | ErrorKind::Exhausted) => BoxError::Busy,
            (false, ErrorKind::Invalid | ErrorKind::Unsupported | ErrorKind::Broken) => BoxError::Usage(error),
        })
    }

    /// Brings the figures of all boxes together up to date, unless they are young enough. Returns within seconds.
    pub async fn refresh_figures(&self) {
        let until = Instant::now() + FIGURES_DEADLINE;
        // Of several who ask at the same time one does it, and the others find the figures young.
        let Ok(mut last) = timeout_at(until, self.yard.figures.refreshed.lock()).await else { return };
        if last.is_some_and(|at: Instant| at.elapsed() < FIGURES_AGE) {
            return;
        }
        let boxes: Vec<BoxId> = self.yard.registry.ids();
        let mut asking: FuturesUnordered<_> = boxes.iter().map(async |id| (id, self.yard.usage(id).await)).collect();
        let mut found = HashMap::new();
        while let Ok(Some((id, usage))) = timeout_at(until, asking.next()).await {
            match usage {
                Ok(usage) => drop(found.insert(id.clone(), usage)),
                // It is being made or removed.
                Err(error) if error.kind == ErrorKind::NotFound => {}
                Err(error) => tracing::debug!(box_id = %id, error = chain(&error), "a box's usage is not known"),
            }
        }
        drop(asking);
        self.yard.figures.count(&self.yard.metrics, &boxes, found, last.is_none());
        *last = Some(Instant::now());
    }
}

impl Yard {
    async fn usage(&self, id: &BoxId) -> Result<Usage, EngineError> {
        // Nobody closes it.
        let _turn = self.usages.acquire().await.ok();
        self.engine.usage(id).await
    }
}

/// What every box was last seen to use.
#[derive(Debug, Default)]
pub(super) struct Figures {
    refreshed: tokio::sync::Mutex<Option<Instant>>,
    seen: Mutex<HashMap<BoxId, Usage>>,
}

impl Figures {
    /// Adds what boxes have used since they were last seen, and tells what they hold now.
    ///
    /// The engine counts from a box's start, so a count that has fallen is a new one. What a box used between the last look and its end
    /// is not counted. Counts that are there at the `first` look are an earlier server's.
    fn count(&self, metrics: &Metrics, boxes: &[BoxId], mut found: HashMap<BoxId, Usage>, first: bool) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut now, mut held) = (HashMap::with_capacity(boxes.len()), Held::default());
        for id in boxes {
            let before = seen.get(id).copied();
            let Some(usage) = found.remove(id).or(before) else { continue };
            held.add(&usage);
            let before = if first { usage } else { before.unwrap_or_default() };
            let since = |count: fn(&Usage) -> u64| {
                let (count, before) = (count(&usage), count(&before));
                count.checked_sub(before).unwrap_or(count)
            };
            metrics.boxes_cpu_seconds.inc_by(Duration::from_nanos(since(|usage| usage.cpu_ns)).as_secs_f64());
            metrics.boxes_oom_kills.inc_by(since(|usage| usage.oom_kills));
            let network = &metrics.boxes_network;
            network.get_or_create(&Direction::RECEIVED).inc_by(since(|usage| usage.network_received));
            network.get_or_create(&Direction::SENT).inc_by(since(|usage| usage.network_sent));
            now.insert(id.clone(), usage);
        }
        let gauge = |sum: u64| i64::try_from(sum).unwrap_or(i64::MAX);
        metrics.boxes_memory.set(gauge(held.memory));
        metrics.boxes_disk.set(gauge(held.disk));
        metrics.boxes_pids.set(gauge(held.pids));
        *seen = now;
    }
}

/// What boxes hold together.
#[derive(Default)]
struct Held {
    memory: u64,
    disk: u64,
    pids: u64,
}

impl Held {
    fn add(&mut self, usage: &Usage) {
        self.memory = self.memory.saturating_add(usage.memory_bytes);
        self.disk = self.disk.saturating_add(usage.disk_bytes);
        self.pids = self.pids.saturating_add(usage.pids);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Store, StoreOptions};

    #[tokio::test]
    async fn what_boxes_use_is_added_up_across_their_starts_and_ends() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = Store::open(&folder.path().join("test.db"), StoreOptions::default()).await.expect("open a store");
        let (metrics, figures) = (Metrics::new(store), Figures::default());
        let (a, b) = (BoxId::from_entropy(1), BoxId::from_entropy(2));
        let usage = |cpu_s: u64, received: u64, memory_bytes: u64| Usage {
            cpu_ns: cpu_s * 1_000_000_000,
            network_received: received,
            memory_bytes,
            disk_bytes: 7,
            ..Usage::default()
        };
        let told = || {
            let received = metrics.boxes_network.get_or_create(&Direction::RECEIVED).get();
            (metrics.boxes_cpu_seconds.get(), received, metrics.boxes_memory.get(), metrics.boxes_disk.get())
        };
        let both = [a.clone(), b.clone()];
        figures.count(&metrics, &both[..1], HashMap::from([(a.clone(), usage(100, 100, 1))]), true);
        assert_eq!(told(), (0.0, 0, 1, 7), "the first look");
        let found = HashMap::from([(a.clone(), usage(103, 104, 2)), (b.clone(), usage(5, 6, 10))]);
        figures.count(&metrics, &both, found, false);
        assert_eq!(told(), (8.0, 10, 12, 14), "one went on and one came");
        figures.count(&metrics, &both, HashMap::from([(a.clone(), usage(2, 1, 1))]), false);
        assert_eq!(told(), (10.0, 11, 11, 14), "one was started anew, and one was not asked in time");
        figures.count(&metrics, &both[1..], HashMap::new(), false);
        assert_eq!(told(), (10.0, 11, 10, 7), "one was deleted");
    }
}
