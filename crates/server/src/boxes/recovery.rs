//! What a starting server does about what it finds.
//!
//! Nearly nothing is special about it: a stored phase with a deed gets that deed again, a box without a record is removed, and a run
//! without an end is taken over or ended, and snapshots that were begun are finished or given up (see
//! [`snapshots`](super::snapshots)). Where a phase rests and the engine sees something else, [`judge`] says what is made of it:
//!
//! | stored | running | frozen | stopped | partial or nothing |
//! |---|---|---|---|---|
//! | ready | ready | resuming: thawed | stopped; kept alive: resuming, started | failed |
//! | paused | pausing: frozen again | paused | stopped | failed |
//! | stopped | stopping | stopping | stopped | failed |
//! | saving | saving | saving | as where it came from, or saving if that is stopped | as where it came from |
//! | creating, pausing, stopping, resuming, deleting | its deed again | its deed again | its deed again | its deed again |
//! | failed | failed | failed | failed | failed |
//!
//! After its host was restarted every box is seen stopped: ordinary ones stay so, which users see as paused, and those that are kept
//! alive are started.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use boxyard_engine::{EngineError, Observed, ObservedState, fail};
use boxyard_proto::BoxId;
use boxyard_proto::api::runs::RunStatus;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::admission::Place;
use super::keeper::Keeper;
use super::kept::{Kept, Message};
use super::lifecycle::{Asleep, Phase, Resting};
use super::snapshots::Saving;
use super::{Before, Boxes, before, chain, now_ms};
use crate::store::{BoxRow, OutputRow, RunEnd, RunRow, StoreError};

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

/// Why a box failed that the engine does not have.
const LOST: &str = "the box did not outlive its server: what the engine has of it is incomplete";

/// A box whose keeper is about to be started.
struct Adopted {
    kept: Kept,
    mailbox: mpsc::Receiver<Message>,
    before: Before,
    place: Place,
    saving: Option<Saving>,
}

/// What was found otherwise than it was left.
#[derive(Debug, Default)]
struct Mended {
    boxes: usize,
    thawed: usize,
    started: usize,
    stopped: usize,
    paused: usize,
    lost: usize,
    deeds: usize,
    strays: usize,
    runs: usize,
    runs_lost: usize,
}

impl Mended {
    fn count(&mut self, stored: Phase, phase: Phase) {
        match phase {
            Phase::Resuming { from: Asleep::Paused } => self.thawed += 1,
            Phase::Resuming { from: Asleep::Stopped } => self.started += 1,
            Phase::Stopping | Phase::Stopped => self.stopped += 1,
            Phase::Pausing => self.paused += 1,
            Phase::Failed => self.lost += 1,
            // A save that is given up.
            Phase::Ready | Phase::Paused => self.deeds += 1,
            Phase::Creating | Phase::Saving { .. } | Phase::Deleting | Phase::Deleted => {
                tracing::debug!(%stored, %phase, "nothing becomes this by being found");
            }
        }
    }

    /// One line for the operator: what there is, and what was mended.
    fn tell(&self) {
        let Self { boxes, thawed, started, stopped, paused, lost, deeds, strays, runs, runs_lost } = *self;
        tracing::info!(
            thawed,
            started,
            stopped,
            paused,
            lost,
            finishing = deeds,
            strays,
            runs,
            runs_lost,
            "took over {boxes} boxes: {} as they were left, {thawed} thawed, {started} started again, {stopped} found stopped, \
             {paused} paused again, {deeds} with something to finish, {lost} lost; {strays} without a record removed; \
             {runs} commands taken over, {runs_lost} lost",
            boxes.saturating_sub(thawed + started + stopped + paused + lost + deeds),
        );
    }
}

/// What is made of a box that was left in phase `stored` and of which the engine sees this; see the [module](self).
fn judge(stored: Phase, keep_alive: bool, seen: Option<ObservedState>) -> Phase {
    match (stored, seen) {
        (Phase::Ready, Some(ObservedState::Running)) => Phase::Ready,
        (Phase::Ready, Some(ObservedState::Frozen)) => Phase::Resuming { from: Asleep::Paused },
        (Phase::Ready, Some(ObservedState::Stopped)) if keep_alive => Phase::Resuming { from: Asleep::Stopped },
        (Phase::Ready, Some(ObservedState::Stopped)) => Phase::Stopped,
        (Phase::Paused, Some(ObservedState::Running)) => Phase::Pausing,
        (Phase::Paused, Some(ObservedState::Frozen)) => Phase::Paused,
        (Phase::Paused | Phase::Stopped, Some(ObservedState::Stopped)) => Phase::Stopped,
        (Phase::Stopped, Some(ObservedState::Running | ObservedState::Frozen)) => Phase::Stopping,
        (Phase::Ready | Phase::Paused | Phase::Stopped, Some(ObservedState::Partial) | None) => Phase::Failed,
        (Phase::Saving { .. }, Some(ObservedState::Running | ObservedState::Frozen)) => stored,
        // A save leaves what it saves as it was, so a box that was saved stopped is seen stopped.
        (Phase::Saving { from: Resting::Stopped }, Some(ObservedState::Stopped)) => stored,
        (Phase::Saving { from }, seen) => judge(from.phase(), keep_alive, seen),
        (
            Phase::Creating | Phase::Pausing | Phase::Stopping | Phase::Resuming { .. } | Phase::Deleting,
            Some(ObservedState::Running | ObservedState::Frozen | ObservedState::Stopped | ObservedState::Partial)
            | None,
        ) => stored,
        (
            Phase::Deleted | Phase::Failed,
            Some(ObservedState::Running | ObservedState::Frozen | ObservedState::Stopped | ObservedState::Partial)
            | None,
        ) => stored,
    }
}

impl Boxes {
    /// Takes over what an earlier server left. When this returns, every box is known with its phase; what takes long (building an
    /// image, removing) goes on.
    ///
    /// # Errors
    /// The store or the engine failed, or something was left by a server that this one cannot follow. Nothing was changed then.
    pub async fn recover(&self) -> Result<(), RecoveryError> {
        self.yard.count_outputs().await?;
        let rows = self.yard.store.live_boxes().await?;
        let observed =
            timeout(OBSERVE_DEADLINE, self.yard.engine.observe()).await.map_err(|_| RecoveryError::Overdue)?;
        let mut observed: HashMap<BoxId, Observed> =
            observed.map_err(RecoveryError::Engine)?.into_iter().map(|seen| (seen.id.clone(), seen)).collect();
        fail::point("recovery: observed");
        let rows = rows.into_iter().map(|row| self.read(row)).collect::<Result<Vec<_>, _>>()?;
        let turns = [Arc::new(Semaphore::new(DEEDS_AT_ONCE)), Arc::new(Semaphore::new(DEEDS_AT_ONCE))];
        // A box that is found as its save has left it is saved again; any other is judged as it was before.
        let saved_again = rows.iter().filter(|(row, phase)| {
            let seen = observed.get(&row.id).map(|seen| seen.state);
            matches!(phase, Phase::Saving { .. }) && judge(*phase, row.keep_alive, seen) == *phase
        });
        let saved_again = saved_again.map(|(row, _)| row.id.clone()).collect();
        let mut snapshots = self.yard.find_snapshots(&saved_again).await?;
        fail::point("recovery: snapshots found");
        let mut mended = Mended { boxes: rows.len(), ..Mended::default() };
        let mut adopted = Vec::with_capacity(rows.len());
        for (row, phase) in rows {
            let seen = observed.remove(&row.id);
            let saving = snapshots.saving(&self.yard, &row.id);
            adopted.push(self.adopt(row, phase, seen, saving, &mut mended).await?);
        }
        mended.strays = observed.len();
        fail::point("recovery: boxes adopted");
        // Before the keepers begin: none of them is to find idle what works.
        self.recover_runs(&mut mended).await?;
        fail::point("recovery: runs found");
        for Adopted { kept, mailbox, before, place, saving } in adopted {
            let [removes, others] = &turns;
            let turn = if kept.phase() == Phase::Deleting { removes } else { others };
            Keeper::start(&self.yard, kept.shared, mailbox, before, place, Some(Arc::clone(turn)), saving);
        }
        fail::point("recovery: keepers begun");
        snapshots.clear(&self.yard);
        drop(self.yard.tasks.spawn(Arc::clone(&self.yard).bound_outputs()));
        mended.tell();
        self.yard.tasks.spawn(Arc::clone(&self.yard.relief).watch(self.yard.leaving.clone()));
        self.remove_strays(observed.into_keys().collect()).await;
        fail::point("recovery: strays removed");
        Ok(())
    }

    fn read(&self, row: BoxRow) -> Result<(BoxRow, Phase), RecoveryError> {
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
        seen: Option<Observed>,
        saving: Option<Saving>,
        mended: &mut Mended,
    ) -> Result<Adopted, RecoveryError> {
        if let Phase::Saving { from } = stored
            && saving.is_none()
        {
            stored = from.phase();
            self.yard.store.set_phase(row.id.clone(), stored.to_string(), None, now_ms()).await?;
        }
        // What its size stands for by now, if anything, is for new boxes.
        let limits = seen.as_ref().and_then(|seen| seen.limits).or_else(|| self.yard.sizes.of(row.size));
        let limits = limits.unwrap_or(self.yard.sizes.small);
        let seen = seen.map(|seen| seen.state);
        let before = before(&row);
        let phase = judge(stored, row.keep_alive, seen);
        if phase != stored {
            mended.count(stored, phase);
            let error = (phase == Phase::Failed).then(|| LOST.to_owned());
            tracing::warn!(box_id = %row.id, %stored, ?seen, %phase, "a box is not as it was left");
            row.updated_at = now_ms();
            self.yard.store.set_phase(row.id.clone(), phase.to_string(), error.clone(), row.updated_at).await?;
            row.error = error;
        } else if stored.deed().is_some() {
            mended.deeds += 1;
        }
        let asleep = phase.is_stopped();
        let place = self.yard.admission.readmit(&row.account, limits, asleep);
        let (kept, mailbox) = self.yard.adopt(&row, phase, limits);
        let using = row.from_snapshot.as_ref().filter(|_| phase == Phase::Creating).map(|id| self.yard.uses.begin(id));
        self.yard.hold_until_made(&kept, using);
        Ok(Adopted { kept, mailbox, before, place, saving })
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

    async fn recover_runs(&self, mended: &mut Mended) -> Result<(), RecoveryError> {
        for row in self.yard.store.running_runs().await? {
            let kept = self.yard.registry.get(&row.box_id);
            // A lease is there at once or not at all: nothing is being made or resumed for the run's sake.
            match kept.and_then(|kept| kept.lease_again()) {
                Some(lease) => {
                    mended.runs += 1;
                    self.take_over(lease, row);
                }
                None => {
                    mended.runs_lost += 1;
                    self.lose(row).await?;
                }
            }
        }
        Ok(())
    }

    async fn lose(&self, row: RunRow) -> Result<(), RecoveryError> {
        // Reading what is kept of it takes its time, and the server is not to wait for that.
        if self.yard.spools.has_file(&row.box_id, &row.id) {
            self.lose_later(row, end_of_lost);
            return Ok(());
        }
        let end = end_of_lost(&row, OutputRow { end: Some(0), ..OutputRow::default() });
        self.yard.store.finish_run(row.id, end).await?;
        Ok(())
    }
}

/// The end of a run whose processes are gone.
fn end_of_lost(row: &RunRow, output: OutputRow) -> RunEnd {
    RunEnd {
        output,
        status: RunStatus::Failed,
        exit_code: None,
        cpu_ns: row.cpu_ns,
        memory_peak: row.memory_peak,
        completed_at: now_ms(),
        error: Some("lost with its box's processes when the server or its host was restarted".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUNNING: Option<ObservedState> = Some(ObservedState::Running);
    const FROZEN: Option<ObservedState> = Some(ObservedState::Frozen);
    const STOPPED: Option<ObservedState> = Some(ObservedState::Stopped);
    const PARTIAL: Option<ObservedState> = Some(ObservedState::Partial);
    const SEEN: [Option<ObservedState>; 5] = [RUNNING, FROZEN, STOPPED, PARTIAL, None];

    /// What each of [`SEEN`] makes of a phase.
    fn row(stored: Phase, keep_alive: bool) -> [Phase; 5] {
        SEEN.map(|seen| judge(stored, keep_alive, seen))
    }

    #[test]
    fn every_cell_of_the_table() {
        use Phase::{Failed, Paused, Pausing, Ready, Stopped, Stopping};
        let thaw = Phase::Resuming { from: Asleep::Paused };
        let start = Phase::Resuming { from: Asleep::Stopped };
        assert_eq!(row(Ready, false), [Ready, thaw, Stopped, Failed, Failed]);
        assert_eq!(row(Ready, true), [Ready, thaw, start, Failed, Failed]);
        for keep_alive in [false, true] {
            assert_eq!(row(Paused, keep_alive), [Pausing, Paused, Stopped, Failed, Failed]);
            assert_eq!(row(Stopped, keep_alive), [Stopping, Stopping, Stopped, Failed, Failed]);
            let saving = Phase::Saving { from: Resting::Paused };
            assert_eq!(row(saving, keep_alive), [saving, saving, Stopped, Failed, Failed]);
            let saving = Phase::Saving { from: Resting::Stopped };
            assert_eq!(row(saving, keep_alive), [saving, saving, saving, Failed, Failed]);
            for same in [Phase::Creating, Pausing, Stopping, thaw, start, Phase::Deleting, Phase::Deleted, Failed] {
                assert_eq!(row(same, keep_alive), [same; 5], "{same}");
            }
        }
        let saving = Phase::Saving { from: Resting::Ready };
        assert_eq!(row(saving, false), [saving, saving, Stopped, Failed, Failed]);
        assert_eq!(row(saving, true), [saving, saving, start, Failed, Failed]);
    }

    #[test]
    fn what_is_found_does_not_become_what_it_was_not() {
        for stored in Phase::ALL {
            for keep_alive in [false, true] {
                for phase in row(stored, keep_alive) {
                    assert_eq!(phase.is_gone(), stored.is_gone(), "{stored}");
                    assert!(phase != Phase::Ready || stored == Phase::Ready, "{stored}");
                }
            }
        }
    }
}
