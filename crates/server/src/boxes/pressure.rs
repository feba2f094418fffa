//! Room on a host that is short of memory: paused boxes give up theirs.
//!
//! ```text
//!   the kernel's word (psi), a box that was just frozen, ─▶ relieve: while less than `pause.memory_floor` is available,
//!   or every five seconds where there is no such word                stop the box that has been paused longest
//!   a create or a start that was refused for memory ───────▶ make_room: the same, one box, if that can help
//! ```
//! The one that has been paused longest goes first, whoever owns it and whatever it holds: it is the one whose time would be over first
//! anyway, and finding it out takes no look at any box. A stopped box keeps its disk; work starts it anew.
//!
//! Nobody is stopped while nothing is frozen, and nothing is looked at then. Only one task stops boxes at a time, so that none is
//! stopped for a need that the one before has met.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use boxyard_engine::Limits;
use tokio::sync::{Mutex, Notify};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::admission::{Admission, Full, memory_left};
use super::chain;
use super::kept::Kept;
use super::lifecycle::Phase;
use super::psi::Psi;
use super::registry::Registry;

/// How often the host's memory is looked at while boxes are frozen, where the kernel does not tell by itself.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// How much memory the host has left.
pub(super) trait HostMemory: Send + Sync {
    /// Bytes that programs can have before the kernel ends some, caches that can be dropped included.
    ///
    /// # Errors
    /// It is not known.
    fn available(&self) -> io::Result<u64>;
}

/// The host that this process runs on.
#[derive(Debug)]
pub(super) struct ThisHost;

impl HostMemory for ThisHost {
    fn available(&self) -> io::Result<u64> {
        memory_left()
    }
}

/// Stops paused boxes for the memory that they keep.
pub(super) struct Relief {
    registry: Arc<Registry>,
    admission: Admission,
    host: Box<dyn HostMemory>,
    /// See `pause.memory_floor`.
    floor: u64,
    /// A box has been frozen.
    frozen: Notify,
    /// Held by whoever stops boxes.
    turn: Mutex<()>,
}

impl Relief {
    pub(super) fn new(
        registry: Arc<Registry>,
        admission: Admission,
        host: Box<dyn HostMemory>,
        floor: u64,
    ) -> Arc<Self> {
        Arc::new(Self { registry, admission, host, floor, frozen: Notify::new(), turn: Mutex::new(()) })
    }

    /// Says that there is one more box whose memory could be had.
    pub(super) fn has_frozen(&self) {
        self.frozen.notify_one();
    }

    /// Keeps the host from running out of memory for as long as boxes can be stopped for that. Ends with `leaving`.
    pub(super) async fn watch(self: Arc<Self>, leaving: CancellationToken) {
        if self.floor == 0 {
            return;
        }
        let mut psi = match Psi::open() {
            Ok(psi) => Some(psi),
            Err(error) => {
                tracing::info!(
                    error = chain(&error),
                    "the kernel does not tell of memory pressure; looking by ourselves"
                );
                None
            }
        };
        loop {
            self.relieve(&leaving).await;
            let looks = psi.is_none() && !self.registry.frozen().is_empty();
            let squeezed = async {
                match &psi {
                    Some(psi) => psi.squeezed().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = leaving.cancelled() => return,
                () = self.frozen.notified() => {}
                squeezed = squeezed => if let Err(error) = squeezed {
                    tracing::warn!(error = chain(&error), "the kernel tells no more of memory pressure; looking by ourselves");
                    psi = None;
                },
                () = sleep(LOOK_EVERY), if looks => {}
            }
        }
    }

    /// Stops paused boxes until enough memory is available or none is left.
    async fn relieve(&self, leaving: &CancellationToken) {
        let _turn = self.turn.lock().await;
        let mut tried = HashSet::new();
        while !leaving.is_cancelled()
            && let Some(kept) = self.next(&tried)
            && self.is_short()
        {
            tried.insert(kept.id().clone());
            kept.relieve().await;
        }
    }

    fn is_short(&self) -> bool {
        match self.host.available() {
            Ok(available) => available < self.floor,
            Err(error) => {
                tracing::warn!(error = chain(&error), "cannot find out how much memory is left");
                false
            }
        }
    }

    /// Stops a paused box so that a box with these limits, which was refused, can be made or started. Says whether it is worth asking
    /// again.
    pub(super) async fn make_room(&self, refused: Full, limits: Limits) -> bool {
        let _turn = self.turn.lock().await;
        let mut tried = HashSet::new();
        while self.can_help(refused, limits).await
            && let Some(kept) = self.next(&tried)
        {
            tried.insert(kept.id().clone());
            if kept.relieve().await {
                return true;
            }
        }
        false
    }

    /// Whether what paused boxes keep is what is missing.
    async fn can_help(&self, refused: Full, limits: Limits) -> bool {
        match refused {
            // No box loses its processes for one that does not fit in any case.
            Full::Memory => {
                let kept =
                    self.registry.frozen().iter().map(|kept| kept.limits().memory_bytes).fold(0, u64::saturating_add);
                self.admission.would_fit(limits, kept).await
            }
            // Less is left than where boxes are stopped by themselves.
            Full::MemoryLeft => true,
            Full::Boxes(_) | Full::Account(_) | Full::Disk | Full::DiskLeft => false,
        }
    }

    /// The box that has been paused longest, but for those that were tried.
    fn next(&self, tried: &HashSet<boxyard_proto::BoxId>) -> Option<Kept> {
        let frozen = self.registry.frozen().into_iter().filter(|kept| !tried.contains(kept.id()));
        frozen.min_by_key(Kept::since)
    }
}

impl Registry {
    /// The boxes that are paused and keep their memory.
    fn frozen(&self) -> Vec<Kept> {
        self.all_in(|phase| phase == Phase::Paused)
    }
}

#[cfg(test)]
mod tests;
