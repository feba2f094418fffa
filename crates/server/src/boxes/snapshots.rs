//! Snapshots: saving boxes, and what becomes of what was saved.
//!
//! ```text
//!   row 'creating' ─▶ keeper: row 'saving' and the box's phase in one ─▶ Engine::save ─▶ row 'ready' ─▶ the box's phase
//!   row 'deleting' ─▶ no box is being made from it ─▶ Engine::drop_snapshot ─▶ no row
//! ```
//! Each arrow waits for what is before it to be stored, so a server that starts goes on from the rows: a box in a phase of saving saves
//! again, whatever else was begun is given up as `error`, a deletion is finished, and what has no row is dropped. Several snapshots
//! of one box wait for each other. A fork is a snapshot that nobody sees and that goes as soon as its box is made.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use boxyard_engine::{EngineError, ErrorKind};
use boxyard_proto::api::snapshots::{SnapshotData, SnapshotStatus};
use boxyard_proto::{AccountId, BoxId, SnapshotId};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, timeout};

use super::keeper::{backoff, request};
use super::kept::{Failure, Message};
use super::lifecycle::{self, Phase, Refused, Wanted};
use super::recovery::{OBSERVE_DEADLINE, RecoveryError};
use super::{BoxError, Boxes, Kept, Yard, chain, now_ms};
use crate::store::{Inherits, Purpose, SnapshotRow, SnapshotState, StoreError, Which};

/// How long a snapshot waits for its turn: others of the box may go first.
const TURN_DEADLINE: Duration = Duration::from_secs(3600);
/// How long the removal of a snapshot may take before it is tried again.
const DROP_DEADLINE: Duration = Duration::from_secs(300);
/// Why a snapshot is in error that the engine does not have.
const LOST: &str = "it is no longer there";
/// Why a snapshot is in error whose making an earlier server began.
const BROKEN_OFF: &str = "the server ended before it was saved";

/// What a save is for, and who waits for its end. Dropping it tells them that it was given up.
pub(super) struct Saving {
    into: SnapshotId,
    purpose: Purpose,
    /// Takes whether the snapshot is wanted still.
    told: oneshot::Sender<Result<bool, Failure>>,
}

impl<'a> From<&'a Saving> for &'a SnapshotId {
    fn from(saving: &'a Saving) -> Self {
        &saving.into
    }
}

/// The other end of a [`Saving`].
type End = oneshot::Receiver<Result<bool, Failure>>;

impl Saving {
    fn new(into: SnapshotId, purpose: Purpose) -> (Self, End) {
        let (told, end) = oneshot::channel();
        (Self { into, purpose, told }, end)
    }
}

/// Counts the boxes that are being made from each snapshot.
#[derive(Default)]
pub(super) struct Uses(Arc<watch::Sender<HashMap<SnapshotId, usize>>>);

/// A box is being made from a snapshot.
pub(super) struct Using {
    uses: Arc<watch::Sender<HashMap<SnapshotId, usize>>>,
    id: SnapshotId,
}

impl Uses {
    pub(super) fn begin(&self, id: &SnapshotId) -> Using {
        self.0.send_modify(|uses| *uses.entry(id.clone()).or_default() += 1);
        Using { uses: Arc::clone(&self.0), id: id.clone() }
    }

    /// Waits until no box is being made from it.
    async fn none(&self, id: &SnapshotId) {
        // The sender lives as long as `self`.
        let _ = self.0.subscribe().wait_for(|uses| !uses.contains_key(id)).await;
    }
}

impl Drop for Using {
    fn drop(&mut self) {
        self.uses.send_modify(|uses| {
            if let Some(count) = uses.get_mut(&self.id) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    uses.remove(&self.id);
                }
            }
        });
    }
}

impl Boxes {
    /// Makes a snapshot of a box, whether it works, rests or is paused. Returns when it is ready, or after `wait` when it is not; then it
    /// goes on. Whether the caller stays or not makes no difference to it.
    ///
    /// # Errors
    /// The box is gone, or failed, or cannot be saved; there are too many snapshots. Nothing is left then. Or the server is leaving:
    /// then the next one goes on with what was begun.
    pub async fn snapshot(&self, kept: &Kept, name: Option<String>, wait: Duration) -> Result<SnapshotData, BoxError> {
        let (row, end) = self.begin_snapshot(kept, name, Purpose::Kept).await?;
        match timeout(wait, end).await {
            Ok(Ok(Ok(()))) | Err(_) => {
                let now = self.yard.store.find_snapshot(&row.account, &row.id).await?;
                now.map(data).ok_or(BoxError::SnapshotNotFound)
            }
            // The next server goes on with it.
            Ok(Ok(Err(BoxError::Leaving)) | Err(_)) => Err(BoxError::Leaving),
            Ok(Ok(Err(error))) => {
                // Nobody was told of it, so nobody would delete it.
                self.delete_snapshots(&row.account, Which::One(row.id)).await?;
                Err(error)
            }
        }
    }

    /// Stores the snapshot's row and has it saved. What comes of that is told, and in the row.
    pub(super) async fn begin_snapshot(
        &self,
        kept: &Kept,
        name: Option<String>,
        purpose: Purpose,
    ) -> Result<(SnapshotRow, oneshot::Receiver<Result<(), BoxError>>), BoxError> {
        refused_for_good(kept)?;
        self.yard.admission.admit_snapshot().await?;
        let fixed = &kept.shared.fixed;
        let of_box = || fixed.name.clone().unwrap_or_else(|| fixed.id.to_string());
        let row = SnapshotRow {
            id: SnapshotId::from_entropy(rand::random()),
            account: fixed.account.clone(),
            box_id: fixed.id.clone(),
            purpose,
            name: name.unwrap_or_else(of_box),
            status: SnapshotState::Creating,
            error: None,
            size_bytes: 0,
            inherits: inherits(kept),
            created_at: now_ms(),
        };
        let (yard, kept) = (Arc::clone(&self.yard), kept.clone());
        // In a task: a client that leaves now must not leave a row that nobody sees to.
        let begun = self.yard.tasks.spawn(async move {
            let most = yard.snapshots_max;
            match yard.store.insert_snapshot(row.clone(), most).await {
                Err(StoreError::Full) => return Err(BoxError::TooManySnapshots(most)),
                inserted => inserted?,
            }
            yard.metrics.snapshots.inc();
            let (tell, told) = oneshot::channel();
            let (task, into) = (Arc::clone(&yard), row.id.clone());
            yard.tasks.spawn(async move {
                let made = task.make_snapshot(&kept, into, purpose).await;
                // Whoever asked may have left.
                let _ = tell.send(made);
            });
            Ok((row, told))
        });
        begun.await.unwrap_or(Err(BoxError::Leaving))
    }

    /// The account's snapshots, the newest first.
    ///
    /// # Errors
    /// The store failed.
    pub async fn list_snapshots(&self, account: &AccountId) -> Result<Vec<SnapshotData>, BoxError> {
        Ok(self.yard.store.snapshots(account, None).await?.into_iter().map(data).collect())
    }

    /// The snapshots of a box, the newest first: of a live one by its id or name, of a deleted one by its id.
    ///
    /// # Errors
    /// There is and was no such box, or the store failed.
    pub async fn list_snapshots_of(&self, account: &AccountId, of: &str) -> Result<Vec<SnapshotData>, BoxError> {
        let id = self.source(account, of)?;
        let rows = self.yard.store.snapshots(account, Some(&id)).await?;
        // A snapshot may outlive even the record of its box.
        if rows.is_empty() && self.yard.store.find_box(account, id.as_str()).await?.is_none() {
            return Err(BoxError::NotFound);
        }
        Ok(rows.into_iter().map(data).collect())
    }

    /// Deletes a snapshot of a box, as [`list_snapshots_of`](Self::list_snapshots_of) finds it.
    ///
    /// # Errors
    /// There is no such snapshot of such a box, or the store failed.
    pub async fn delete_snapshot_of(&self, account: &AccountId, of: &str, id: &str) -> Result<(), BoxError> {
        let of = self.source(account, of)?;
        if let Ok(id) = id.parse::<SnapshotId>()
            && self.delete_snapshots(account, Which::OfBox(of.clone(), id)).await? > 0
        {
            return Ok(());
        }
        let known = self.yard.store.find_box(account, of.as_str()).await?.is_some();
        Err(if known { BoxError::SnapshotNotFound } else { BoxError::NotFound })
    }

    /// Deletes snapshots; says how many there were. When this returns that is stored and no list shows them; the engine removes them
    /// meanwhile. Boxes that were made from them, or are being made, do not mind.
    ///
    /// # Errors
    /// The store failed.
    pub async fn delete_snapshots(&self, account: &AccountId, which: Which) -> Result<u64, BoxError> {
        let (yard, account) = (Arc::clone(&self.yard), account.clone());
        // In a task: what is marked must be removed.
        let deleted = self.yard.tasks.spawn(async move {
            let rows = yard.store.delete_snapshots(&account, which).await?;
            yard.metrics.snapshots.dec_by(i64::try_from(rows.len()).unwrap_or(i64::MAX));
            for row in &rows {
                // What is being saved goes when that has ended, see `make_snapshot`.
                if row.status != SnapshotState::Saving {
                    yard.clear(row.id.clone());
                }
            }
            Ok(u64::try_from(rows.len()).unwrap_or(u64::MAX))
        });
        deleted.await.unwrap_or(Err(BoxError::Leaving))
    }

    /// The id of a box that may be gone; a name is that of a live box.
    fn source(&self, account: &AccountId, id_or_name: &str) -> Result<BoxId, BoxError> {
        match id_or_name.parse() {
            Ok(id) => Ok(id),
            Err(_) => Ok(self.find(account, id_or_name)?.id().clone()),
        }
    }
}

impl Yard {
    /// One of the account's snapshots, of which something can be made.
    pub(super) async fn ready_snapshot(&self, account: &AccountId, id: &SnapshotId) -> Result<SnapshotRow, BoxError> {
        let row = self.store.find_snapshot(account, id).await?;
        let row = row.filter(|row| row.purpose == Purpose::Kept).ok_or(BoxError::SnapshotNotFound)?;
        if row.status == SnapshotState::Ready { Ok(row) } else { Err(BoxError::SnapshotNotReady(status(row.status))) }
    }

    /// Sees a snapshot whose row is stored to its end.
    async fn make_snapshot(self: &Arc<Self>, kept: &Kept, into: SnapshotId, purpose: Purpose) -> Result<(), BoxError> {
        let began = Instant::now();
        let turn = timeout(TURN_DEADLINE, save(kept, &into, purpose));
        let begun = tokio::select! {
            // The next server finds a row that waits in vain.
            () = self.leaving.cancelled() => return Err(BoxError::Leaving),
            begun = turn => begun.unwrap_or(Err(BoxError::Busy)),
        };
        match begun {
            Ok(end) => {
                self.see_saved(into, end).await?;
                // Who is told that it is ready may want something else of the box next.
                let mut states = kept.shared.state.subscribe();
                let _ = states.wait_for(|state| !matches!(state.phase, Phase::Saving { .. })).await;
                self.metrics.snapshot_seconds.observe(began.elapsed().as_secs_f64());
                Ok(())
            }
            Err(error) => {
                // A snapshot that was deleted before its turn came.
                let deleted = matches!(error, BoxError::Store(StoreError::NotFound));
                let error = if deleted { BoxError::SnapshotNotFound } else { error };
                self.give_up(into, &error.to_string()).await;
                Err(error)
            }
        }
    }

    /// Waits for the end of a save, and sees to what is left when it was for nothing.
    async fn see_saved(self: &Arc<Self>, into: SnapshotId, end: End) -> Result<(), BoxError> {
        let error = match end.await {
            Ok(Ok(true)) => return Ok(()),
            Ok(Ok(false)) => BoxError::SnapshotNotFound,
            Ok(Err(Failure { kind, text })) => BoxError::NotSaved { kind, text: text.to_string() },
            // The next server saves again.
            Err(_) if self.leaving.is_cancelled() => return Err(BoxError::Leaving),
            Err(_) => BoxError::NotSaved { kind: ErrorKind::Broken, text: "it was broken off".into() },
        };
        self.give_up(into.clone(), &error.to_string()).await;
        self.clear(into);
        Err(error)
    }

    async fn give_up(&self, id: SnapshotId, why: &str) {
        if let Err(error) = self.store.snapshot_failed(id.clone(), why.to_owned()).await {
            tracing::error!(snapshot = %id, error = chain(&error), "a snapshot's failure could not be stored");
        }
    }

    /// The deed of a phase of saving. When it returns, the snapshot's row says what came of it.
    pub(super) async fn save(&self, id: &BoxId, saving: Option<Saving>) -> Result<(), EngineError> {
        let Some(Saving { into, purpose, told }) = saving else {
            return Err(EngineError::new(ErrorKind::Broken, "finding out what to save the box for").about(id));
        };
        let saved = match purpose {
            Purpose::Kept => self.engine.save(id, &into).await,
            Purpose::Fork => self.engine.save_once(id, &into).await,
        };
        let saved = match saved {
            Ok(saved) => saved,
            Err(error) => {
                let _ = told.send(Err(Failure { kind: error.kind, text: error.to_string().into() }));
                return Err(error);
            }
        };
        let size = i64::try_from(saved.size_bytes).unwrap_or(i64::MAX);
        let mut failures = 0;
        let wanted = loop {
            match self.store.snapshot_ready(into.clone(), size).await {
                Ok(wanted) => break wanted,
                Err(StoreError::Closed) => return Err(EngineError::new(ErrorKind::Broken, "storing the snapshot")),
                Err(error) => {
                    tracing::error!(snapshot = %into, error = chain(&error), "a snapshot could not be stored");
                    failures += 1;
                    sleep(backoff(failures)).await;
                }
            }
        };
        // Whoever waited may have left.
        let _ = told.send(Ok(wanted));
        Ok(())
    }

    /// Removes what the engine has of a snapshot that is deleted or of no use, and the row of a deleted one. Tries until that succeeds.
    pub(super) fn clear(self: &Arc<Self>, id: SnapshotId) {
        let yard = Arc::clone(self);
        self.tasks.spawn(async move {
            let leaving = yard.leaving.clone();
            // The next server goes on with it.
            leaving.run_until_cancelled(yard.clear_now(id)).await;
        });
    }

    async fn clear_now(&self, id: SnapshotId) {
        self.uses.none(&id).await;
        // A server that leaves lets go of everything; that is not the end of the boxes' making.
        if self.leaving.is_cancelled() {
            return;
        }
        let mut failures = 0;
        loop {
            let turn = self.drops.acquire().await;
            let dropped = timeout(DROP_DEADLINE, self.engine.drop_snapshot(&id)).await;
            drop(turn);
            let error = match dropped {
                Ok(Ok(())) => break,
                Ok(Err(error)) => chain(&error),
                Err(_) => "it took too long".into(),
            };
            tracing::error!(snapshot = %id, error, "a snapshot could not be removed");
            failures += 1;
            sleep(backoff(failures)).await;
        }
        if let Err(error) = self.store.forget_snapshot(id.clone()).await {
            tracing::error!(snapshot = %id, error = chain(&error), "a deleted snapshot could not be forgotten");
        }
    }

    /// Holds a snapshot for as long as the box is being made from it.
    pub(super) fn hold_until_made(&self, kept: &Kept, using: Option<Using>) {
        let Some(using) = using else { return };
        let (leaving, mut states) = (self.leaving.clone(), kept.shared.state.subscribe());
        self.tasks.spawn(async move {
            let made = states.wait_for(|state| state.phase != Phase::Creating);
            let _ = leaving.run_until_cancelled(made).await;
            drop(using);
        });
    }
}

/// What a starting server finds of snapshots.
pub(super) struct Found {
    /// What each box is being saved for.
    saving: HashMap<BoxId, SnapshotId>,
    /// What goes when all boxes are known.
    cleared: Vec<SnapshotId>,
}

impl Found {
    /// What to save a box for whose stored phase is one of saving. `None`: it is given up, and the box is where it came from.
    pub(super) fn saving(&mut self, yard: &Arc<Yard>, id: &BoxId) -> Option<Saving> {
        let into = self.saving.remove(id)?;
        // Those of forks are given up.
        let (saving, end) = Saving::new(into.clone(), Purpose::Kept);
        let task = Arc::clone(yard);
        yard.tasks.spawn(async move {
            // Its failure is in its row.
            let _ = task.see_saved(into, end).await;
        });
        Some(saving)
    }

    /// Begins to remove what nobody wants. Every box that is being made must be known.
    pub(super) fn clear(self, yard: &Arc<Yard>) {
        for id in self.cleared {
            tracing::info!(snapshot = %id, "removing what is left of a snapshot");
            yard.clear(id);
        }
    }
}

impl Yard {
    /// Brings the rows of snapshots and what the engine has of them together. `saved_again` are the boxes whose save is to be repeated.
    pub(super) async fn find_snapshots(&self, saved_again: &HashSet<BoxId>) -> Result<Found, RecoveryError> {
        let rows = self.store.all_snapshots().await?;
        let mut there = HashSet::new();
        if self.engine.abilities().save {
            let listed = timeout(OBSERVE_DEADLINE, self.engine.snapshots()).await;
            there.extend(listed.map_err(|_| RecoveryError::Overdue)?.map_err(RecoveryError::Engine)?);
        }
        let mut found = Found { saving: HashMap::new(), cleared: Vec::new() };
        let mut shown = 0;
        for SnapshotRow { id, account, box_id, purpose, status, .. } in rows {
            let is_there = there.remove(&id);
            match status {
                SnapshotState::Deleting => {
                    found.cleared.push(id);
                    continue;
                }
                // Whoever asked for the fork has left, and a box that is being made from it is looked after by `Uses`.
                SnapshotState::Creating | SnapshotState::Saving | SnapshotState::Ready | SnapshotState::Error
                    if purpose == Purpose::Fork =>
                {
                    self.store.delete_snapshots(&account, Which::One(id.clone())).await?;
                    found.cleared.push(id);
                    continue;
                }
                SnapshotState::Saving if saved_again.contains(&box_id) => {
                    found.saving.insert(box_id, id);
                }
                SnapshotState::Creating | SnapshotState::Saving => {
                    self.store.snapshot_failed(id.clone(), BROKEN_OFF.into()).await?;
                    found.cleared.push(id);
                }
                SnapshotState::Ready if !is_there => {
                    tracing::error!(snapshot = %id, "a snapshot is gone");
                    self.store.snapshot_failed(id, LOST.into()).await?;
                }
                SnapshotState::Error if is_there => found.cleared.push(id),
                SnapshotState::Ready | SnapshotState::Error => {}
            }
            shown += 1;
        }
        self.metrics.snapshots.set(shown);
        found.cleared.extend(there);
        Ok(found)
    }
}

/// Asks the box's keeper to save it until it takes that on.
async fn save(kept: &Kept, into: &SnapshotId, purpose: Purpose) -> Result<End, BoxError> {
    let mut states = kept.shared.state.subscribe();
    loop {
        states.borrow_and_update();
        refused_for_good(kept)?;
        if lifecycle::ask(kept.phase(), Wanted::Save).is_ok() {
            let (saving, end) = Saving::new(into.clone(), purpose);
            match request(kept, |reply| Message::Save(saving, reply)).await {
                Ok(()) => return Ok(end),
                // Something else came first.
                Err(BoxError::Busy) => {}
                Err(error) => return Err(error),
            }
        }
        states.changed().await.map_err(|_| BoxError::NotFound)?;
    }
}

fn refused_for_good(kept: &Kept) -> Result<(), BoxError> {
    match lifecycle::ask(kept.phase(), Wanted::Save) {
        Ok(_) | Err(Refused::Busy) => Ok(()),
        Err(Refused::Failed) => Err(kept.failure().unwrap_or(BoxError::Busy)),
        Err(Refused::Gone) => Err(BoxError::NotFound),
    }
}

pub(super) fn inherits(kept: &Kept) -> Inherits {
    let fixed = &kept.shared.fixed;
    Inherits { runtime: fixed.runtime.clone(), size: fixed.size, env: fixed.spec.env.clone() }
}

pub(super) fn data(row: SnapshotRow) -> SnapshotData {
    SnapshotData {
        id: row.id,
        name: row.name,
        box_id: row.box_id,
        size_bytes: row.size_bytes,
        status: status(row.status),
        created_at: row.created_at / 1000,
    }
}

fn status(state: SnapshotState) -> SnapshotStatus {
    match state {
        SnapshotState::Creating | SnapshotState::Saving => SnapshotStatus::Creating,
        SnapshotState::Ready => SnapshotStatus::Ready,
        SnapshotState::Error => SnapshotStatus::Error,
        SnapshotState::Deleting => SnapshotStatus::Deleted,
    }
}
