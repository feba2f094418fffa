//! Why a box's processes have ended, and what that means to whoever works in it.

use std::time::Duration;

use boxyard_engine::ErrorKind;
use boxyard_engine::agent::AgentError;
use tokio::sync::RwLockReadGuard;
use tokio::time::timeout;

use super::keeper::request;
use super::kept::{Kept, Message, State};
use super::lifecycle::Phase;
use super::{BoxError, chain};

/// How long a lost connection, or an engine's word that a box is not there, waits for the keeper to find out that the box has died. It
/// takes a moment; this is for a server that is busy.
const DEATH_NEWS: Duration = Duration::from_secs(5);
/// How long the memory of a paused box is waited for.
const RELIEF_DEADLINE: Duration = Duration::from_secs(30);

/// Why a box that is stopped, or is being stopped, has no processes. Its disk is kept whatever the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Halt {
    /// It was paused for longer than it keeps its processes.
    #[default]
    Paused,
    /// It was paused, and its host was short of memory.
    ShortOfMemory,
    /// Its first process ended though nobody had asked for that, and took the others with it.
    Died,
}

impl Halt {
    /// What to tell who waits for something that ran in the box.
    pub fn complaint(self) -> &'static str {
        match self {
            Self::Paused => "ended with its box, which was paused for longer than it keeps its processes",
            Self::ShortOfMemory => "ended with its box, which was paused when its host was short of memory",
            Self::Died => "ended with its box, whose first process ended unexpectedly; the box is usable again",
        }
    }
}

impl Kept {
    /// Whether it is worth starting something in the box once more that could not be started for this error: the box had died, nobody had
    /// heard of it yet, and it has been started anew. `halts` are as many as there were before.
    pub(super) async fn revived(&self, halts: u64, error: &AgentError) -> bool {
        let AgentError::Engine(error) = error else { return false };
        if error.kind != ErrorKind::NotFound {
            return false;
        }
        self.report_gone();
        let halted = !self.phase().is_awake() || self.halted_since(halts).await.is_some();
        halted && self.resume().await.is_ok()
    }

    /// As [`Shared::awake`], for work that was let in and has not begun: should the box die before it does, it is started anew.
    ///
    /// # Errors
    /// The box died and cannot be started.
    pub(super) async fn awake(&self) -> Result<RwLockReadGuard<'_, ()>, BoxError> {
        let mut states = self.shared.state.subscribe();
        loop {
            tokio::select! {
                biased;
                held = self.shared.awake() => return Ok(held),
                dead = states.wait_for(|state| state.phase == Phase::Stopped && state.halt == Halt::Died) => drop(dead),
            }
            self.resume().await?;
        }
    }

    /// How often its processes have been ended, or have ended, so far.
    pub(super) fn halts(&self) -> u64 {
        self.shared.state.borrow().halts
    }

    /// Whether its processes have ended since there were so many `halts`, and why. For who has lost a connection to the box, and may be
    /// faster than the news.
    pub(super) async fn halted_since(&self, halts: u64) -> Option<Halt> {
        let mut states = self.shared.state.subscribe();
        let decided = |state: &State| state.halts != halts || state.phase.is_gone() || state.phase == Phase::Failed;
        let state = timeout(DEATH_NEWS, states.wait_for(decided)).await.ok()?.ok()?;
        (state.halts != halts).then_some(state.halt)
    }

    /// Why its processes ended the last time that they did.
    pub(crate) fn halt(&self) -> Halt {
        self.shared.state.borrow().halt
    }

    /// Takes the memory of a paused box from it, and returns when it is free. Says whether it is; a box that has been resumed meanwhile
    /// keeps it.
    pub(super) async fn relieve(&self) -> bool {
        let relieving = async {
            request(self, Message::Relieve).await?;
            let mut states = self.shared.state.subscribe();
            let phase = states.wait_for(|state| state.phase != Phase::Stopping).await.map(|state| state.phase);
            Ok::<_, BoxError>(phase.is_ok_and(|phase| phase.is_stopped() || phase.is_gone()))
        };
        match timeout(RELIEF_DEADLINE, relieving).await {
            Ok(Ok(relieved)) => relieved,
            Ok(Err(error)) => {
                tracing::debug!(box_id = %self.id(), error = chain(&error), "a paused box keeps its memory");
                false
            }
            Err(_) => {
                tracing::warn!(box_id = %self.id(), "a paused box is not stopped in time");
                false
            }
        }
    }
}
