//! What a starting server does about what it finds.
//!
//! Nearly nothing is special about it: a stored phase with a deed gets that deed again, a box that should be ready and is not there
//! gets the engine's "gone", a box without a record is removed, a run without an end is taken over or ended,
//! and snapshots that were begun are finished or given up (see [`snapshots`](super::snapshots)).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use boxyard_engine::{EngineError, ObservedState};
use boxyard_proto::BoxId;
use boxyard_proto::api::runs::RunStatus;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::keeper::Keeper;
use super::lifecycle::{self, Phase, Report, Resting};
use super::snapshots::Saving;
use super::{Boxes, Kept, chain, now_ms};
use crate::store::{BoxRow, RunEnd, RunRow, StoreError};

/// How long the engine may take to say what exists.
pub(super) const OBSERVE_DEADLINE: Duration = Duration::from_secs(60);
/// Deeds of one sort that begin at once.
const DEEDS_AT_ONCE: usize = 16;
/// How long the removal of one box without a record may take.
const REMOVE_DEADLINE: Duration = Duration::from_secs(60);
/// How long the start of the server waits for such removals; then they go on beside it.
const REMOVE_WAIT: Duration = Duration::from_secs(15);

/// Why the server cannot take over what an earlier one left.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// The database failed.
    #[error("reading the boxes of an earlier server failed")]
    Store(#[from] StoreError),
    /// The engine failed.
    #[error("finding the boxes that exist failed")]
    Engine(#[source] EngineError),
    /// The engine did not answer.
    #[error("finding the boxes that exist took longer than {} s", OBSERVE_DEADLINE.as_secs())]
    Overdue,
    /// A record was written by a newer version.
    #[error("box {id} is in phase '{phase}', which this version does not know: use a newer boxyard")]
    UnknownPhase {
        /// The box.
        id: BoxId,
        /// Its phase.
        phase: String,
    },
    /// A box was made by an engine that this server does not run.
    #[error("box {id} was made by engine '{theirs}', this server runs '{ours}'")]
    OtherEngine {
        /// The box.
        id: BoxId,
        /// Its engine.
        theirs: String,
        /// This server's engine.
        ours: &'static str,
    },
}

impl Boxes {
    /// Takes over what an earlier server left. When this returns, every box is known with its phase; what takes long (building an
    /// image, removing) goes on.
    ///
    /// # Errors
    /// The store or the engine failed, or something was left by a server that this one cannot follow. Nothing was changed then.
    pub async fn recover(&self) -> Result<(), RecoveryError> {
        let rows = self.yard.store.live_boxes().await?;
        let observed =
            timeout(OBSERVE_DEADLINE, self.yard.engine.observe()).await.map_err(|_| RecoveryError::Overdue)?;
        let mut observed: HashMap<BoxId, ObservedState> =
            observed.map_err(RecoveryError::Engine)?.into_iter().map(|seen| (seen.id, seen.state)).collect();
        let rows = rows.into_iter().map(|row| self.judge(row)).collect::<Result<Vec<_>, _>>()?;
        let turns = [Arc::new(Semaphore::new(DEEDS_AT_ONCE)), Arc::new(Semaphore::new(DEEDS_AT_ONCE))];
        // A box that was to go on after its save and does not run any more is judged as it was before.
        let goes_on = |id| matches!(observed.get(id), Some(ObservedState::Running | ObservedState::Frozen));
        let saved_again = rows.iter().filter(|(row, phase)| {
            let Phase::Saving { from } = phase else { return false };
            match from {
                Resting::Ready => goes_on(&row.id),
                Resting::Paused => observed.contains_key(&row.id),
            }
        });
        let saved_again = saved_again.map(|(row, _)| row.id.clone()).collect();
        let mut snapshots = self.yard.find_snapshots(&saved_again).await?;
        for (row, phase) in rows {
            let seen = observed.remove(&row.id);
            let saving = snapshots.saving(&self.yard, &row.id);
            self.adopt(row, phase, seen, saving, &turns).await?;
        }
        snapshots.clear(&self.yard);
        self.remove_strays(observed.into_keys().collect()).await;
        self.recover_runs().await
    }

    fn judge(&self, row: BoxRow) -> Result<(BoxRow, Phase), RecoveryError> {
        let ours = self.yard.engine.name();
        if row.engine != ours {
            return Err(RecoveryError::OtherEngine { id: row.id, theirs: row.engine, ours });
        }
        match Phase::parse(&row.phase) {
            Some(phase) => Ok((row, phase)),
            None => Err(RecoveryError::UnknownPhase { id: row.id, phase: row.phase }),
        }
    }

    async fn adopt(
        &self,
        mut row: BoxRow,
        mut stored: Phase,
        seen: Option<ObservedState>,
        saving: Option<Saving>,
        [removes, others]: &[Arc<Semaphore>; 2],
    ) -> Result<(), RecoveryError> {
        if let Phase::Saving { from } = stored
            && saving.is_none()
        {
            stored = from.phase();
            self.yard.store.set_phase(row.id.clone(), stored.to_string(), None, now_ms()).await?;
        }
        let alive = match seen {
            Some(ObservedState::Running | ObservedState::Frozen) => true,
            // A paused box whose processes were stopped keeps its disk.
            Some(ObservedState::Stopped) => stored == Phase::Paused,
            Some(ObservedState::Partial) | None => false,
        };
        let phase = if stored.deed().is_none() && !alive { lifecycle::hear(stored, Report::Gone) } else { stored };
        if phase != stored {
            let error = "the box did not outlive its server: the host was restarted, or its processes were ended";
            tracing::warn!(box_id = %row.id, phase = %stored, "a box is gone");
            self.yard.store.set_phase(row.id.clone(), phase.to_string(), Some(error.into()), now_ms()).await?;
            row.error = Some(error.into());
        }
        let asleep = phase == Phase::Paused && seen == Some(ObservedState::Stopped);
        let place = self.yard.admission.readmit(&row.account, self.yard.sizes.of(row.size), asleep);
        let (kept, mailbox) = self.yard.adopt(&row, phase);
        let turn = if phase == Phase::Deleting { removes } else { others };
        let using = row.from_snapshot.as_ref().filter(|_| phase == Phase::Creating).map(|id| self.yard.uses.begin(id));
        self.yard.hold_until_made(&kept, using);
        Keeper::start_saving(&self.yard, kept.shared, mailbox, place, Some(Arc::clone(turn)), saving);
        Ok(())
    }

    /// Removes boxes that have no record: their creation or removal was under way when the server ended.
    async fn remove_strays(&self, strays: Vec<BoxId>) {
        if strays.is_empty() {
            return;
        }
        let (engine, leaving) = (Arc::clone(&self.yard.engine), self.yard.leaving.clone());
        let removing = self.yard.tasks.spawn(async move {
            let turns = Arc::new(Semaphore::new(DEEDS_AT_ONCE));
            let mut removals = JoinSet::new();
            for id in strays {
                let (engine, turns) = (Arc::clone(&engine), Arc::clone(&turns));
                removals.spawn(async move {
                    let _turn = turns.acquire_owned().await.ok();
                    tracing::warn!(box_id = %id, "removing a box without a record");
                    match timeout(REMOVE_DEADLINE, engine.remove(&id)).await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => {
                            tracing::error!(box_id = %id, error = chain(&error), "it could not be removed")
                        }
                        Err(_) => tracing::error!(box_id = %id, "it could not be removed in time"),
                    }
                });
            }
            tokio::select! {
                () = leaving.cancelled() => {}
                () = async { while removals.join_next().await.is_some() {} } => {}
            }
        });
        if timeout(REMOVE_WAIT, removing).await.is_err() {
            tracing::warn!("boxes without a record are still being removed");
        }
    }

    async fn recover_runs(&self) -> Result<(), RecoveryError> {
        for row in self.yard.store.running_runs().await? {
            let kept = self.yard.registry.get(&row.box_id);
            // A lease is there at once or not at all: nothing is being made or resumed for the run's sake.
            match kept.as_ref().and_then(Kept::lease_now) {
                Some(lease) => self.take_over(lease, row),
                // It stands still for a moment, and its runs go on with it.
                None if kept.as_ref().is_some_and(|kept| kept.phase() == Phase::Saving { from: Resting::Ready }) => {
                    self.take_over_when_saved(kept, row);
                }
                None => self.lose(row).await?,
            }
        }
        Ok(())
    }

    fn take_over_when_saved(&self, kept: Option<Kept>, row: RunRow) {
        let boxes = self.clone();
        self.yard.tasks.spawn(async move {
            let Some(kept) = kept else { return };
            let leaving = boxes.leaving();
            match leaving.run_until_cancelled(kept.lease()).await {
                // The next server takes it over.
                None => {}
                Some(Ok(lease)) => boxes.take_over(lease, row),
                Some(Err(_)) => {
                    let id = row.id.clone();
                    if let Err(error) = boxes.lose(row).await {
                        tracing::error!(run = %id, error = chain(&error), "the end of a run could not be stored");
                    }
                }
            }
        });
    }

    async fn lose(&self, row: RunRow) -> Result<(), RecoveryError> {
        let end = RunEnd {
            status: RunStatus::Failed,
            exit_code: None,
            cpu_ns: row.cpu_ns,
            memory_peak: row.memory_peak,
            completed_at: now_ms(),
            error: Some("lost with its box when the server was restarted".into()),
        };
        self.yard.store.finish_run(row.id, end).await?;
        Ok(())
    }
}
