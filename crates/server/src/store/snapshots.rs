//! Snapshots: saved disks of boxes, and what boxes made from them inherit. A row goes when nothing of its snapshot is left.

use std::collections::BTreeMap;

use boxyard_proto::names::Size;
use boxyard_proto::{AccountId, BoxId, SnapshotId};
use rusqlite::Row;
use serde::{Deserialize, Serialize};

use super::boxes::{LIST_MAX, SET_PHASE};
use super::sql::Sql;
use super::sqlite::{Db, broken_unique, parsed, unreadable, word};
use super::{Failure, Store, StoreError, changed};

const INSERT: Sql = Sql::new(
    "insert into snapshots (id, account, box_id, purpose, name, status, error, size_bytes, inherits, created_at, seq)
     values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
);
const COUNT: Sql = Sql::new("select count(*) from snapshots where account = $1 and status <> 'deleting'");
const BEGIN: Sql = Sql::new("update snapshots set status = 'saving' where id = $1 and status = 'creating'");
const END_READY: Sql =
    Sql::new("update snapshots set status = 'ready', size_bytes = $1 where id = $2 and status = 'saving'");
const END_ERROR: Sql =
    Sql::new("update snapshots set status = 'error', error = $1 where id = $2 and status <> 'deleting'");
const MARK: Sql = Sql::new("update snapshots set status = 'deleting' where id = $1");
const FORGET: Sql = Sql::new("delete from snapshots where id = $1 and status = 'deleting'");
const READY: Sql = Sql::new("select id from snapshots where id = $1 and account = $2 and status = 'ready'");

/// Queries of snapshots read the same columns in the same order.
macro_rules! select_snapshots {
    ($rest:literal) => {
        Sql::new(concat!(
            "select id, account, box_id, purpose, name, status, error, size_bytes, inherits, created_at from snapshots ",
            $rest
        ))
    };
}

const BY_ID: Sql = select_snapshots!("where id = $1 and account = $2 and status <> 'deleting'");
const ALL: Sql = select_snapshots!("order by created_at, seq");
const LIST: Sql = select_snapshots!(
    "where account = $1 and purpose = 'kept' and status <> 'deleting' order by created_at desc, seq desc limit $2"
);
const LIST_OF_BOX: Sql = select_snapshots!(
    "where box_id = $1 and account = $2 and purpose = 'kept' and status <> 'deleting'
     order by created_at desc, seq desc limit $3"
);

/// A snapshot as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotRow {
    /// Its id.
    pub id: SnapshotId,
    /// The account that owns it.
    pub account: AccountId,
    /// The box that was saved; it may be deleted.
    pub box_id: BoxId,
    /// What it is for.
    pub purpose: Purpose,
    /// What its owner calls it; not unique.
    pub name: String,
    /// How far it is.
    pub status: SnapshotState,
    /// Why it is in error, if it is.
    pub error: Option<String>,
    /// Bytes that it holds beyond its image; 0 until it is ready.
    pub size_bytes: i64,
    /// What boxes made from it have of the box that was saved.
    pub inherits: Inherits,
    /// When it was asked for.
    pub created_at: i64,
}

/// What a box made from a snapshot has of the box that was saved, beside its disk. Stored as JSON: fields are only added, with a default.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Inherits {
    /// Its runtime.
    pub runtime: String,
    /// Its size, unless another is asked for.
    pub size: Size,
    /// Its variables; those that are asked for go over them.
    pub env: BTreeMap<String, String>,
}

/// Does not show the values of variables.
impl std::fmt::Debug for Inherits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inherits").field("runtime", &self.runtime).field("size", &self.size).finish_non_exhaustive()
    }
}

/// What a snapshot is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To be kept until somebody deletes it.
    Kept,
    /// For the making of one box, then to go. Nobody is shown it.
    Fork,
}

/// How far a snapshot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotState {
    /// It waits for its turn.
    Creating,
    /// Its box is in a phase of saving because of it.
    Saving,
    /// Boxes can be made from it.
    Ready,
    /// It could not be made, or was lost.
    Error,
    /// Its owner has deleted it; what there is of it goes.
    Deleting,
}

/// Which snapshots of an account are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// All that it is shown.
    All,
    /// Those of these that it is shown.
    Of(Vec<SnapshotId>),
    /// This one, if it is of this box and shown.
    OfBox(BoxId, SnapshotId),
    /// This one, shown or not.
    One(SnapshotId),
}

impl Store {
    /// Adds a snapshot to an account that may have `most`.
    ///
    /// # Errors
    /// [`StoreError::Full`], [`StoreError::IdTaken`], or the database's failures.
    pub async fn insert_snapshot(&self, row: SnapshotRow, most: u32) -> Result<(), StoreError> {
        let seq = self.next_seq();
        self.write("adding a snapshot", move |db| {
            let inherits = serde_json::to_string(&row.inherits);
            let inherits = inherits.map_err(|error| StoreError::broken("adding a snapshot", error))?;
            let there = db.one(COUNT, (row.account.as_str(),), |row| row.get::<_, i64>(0))?.unwrap_or_default();
            if there >= i64::from(most) {
                return Err(StoreError::Full.into());
            }
            let params = (
                row.id.as_str(),
                row.account.as_str(),
                row.box_id.as_str(),
                row.purpose.as_str(),
                &row.name,
                row.status.as_str(),
                &row.error,
                row.size_bytes,
                inherits,
                row.created_at,
                seq,
            );
            db.execute(INSERT, params).map_err(|error| match broken_unique(&error) {
                Some(_) => Failure::Refused(StoreError::IdTaken),
                None => Failure::Sql(error),
            })?;
            Ok(())
        })
        .await
    }

    /// How many snapshots count for what the account may have.
    ///
    /// # Errors
    /// The database's failures.
    pub async fn count_snapshots(&self, account: &AccountId) -> Result<u64, StoreError> {
        let account = account.clone();
        self.read("counting snapshots", move |db| {
            let there = db.one(COUNT, (account.as_str(),), |row| row.get::<_, i64>(0))?.unwrap_or_default();
            Ok(u64::try_from(there).unwrap_or_default())
        })
        .await
    }

    /// Notes in one that a snapshot is being saved and that its box is in `phase` because of it.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when the snapshot does not wait for that (any more), or the database's failures.
    pub async fn begin_snapshot(
        &self,
        id: SnapshotId,
        box_id: BoxId,
        phase: String,
        at: i64,
    ) -> Result<(), StoreError> {
        self.write("noting that a snapshot is being saved", move |db| {
            changed(db.execute(BEGIN, (id.as_str(),))?)?;
            changed(db.execute(SET_PHASE, (&phase, None::<String>, at, box_id.as_str()))?)
        })
        .await
    }

    /// Notes that a snapshot is saved. Says whether it is still wanted: otherwise it was deleted meanwhile.
    ///
    /// # Errors
    /// The database's failures.
    pub async fn snapshot_ready(&self, id: SnapshotId, size_bytes: i64) -> Result<bool, StoreError> {
        self.write("noting that a snapshot is ready", move |db| {
            Ok(db.execute(END_READY, (size_bytes, id.as_str()))? > 0)
        })
        .await
    }

    /// Notes that a snapshot is of no use, and why, unless it was deleted.
    ///
    /// # Errors
    /// The database's failures.
    pub async fn snapshot_failed(&self, id: SnapshotId, error: String) -> Result<(), StoreError> {
        self.write("noting that a snapshot failed", move |db| {
            db.execute(END_ERROR, (&error, id.as_str()))?;
            Ok(())
        })
        .await
    }

    /// The account's snapshot with this id, shown or not, unless it is deleted.
    ///
    /// # Errors
    /// The database's failures.
    pub async fn find_snapshot(&self, account: &AccountId, id: &SnapshotId) -> Result<Option<SnapshotRow>, StoreError> {
        let (account, id) = (account.clone(), id.clone());
        self.read("looking up a snapshot", move |db| db.one(BY_ID, (id.as_str(), account.as_str()), snapshot_row)).await
    }

    /// The snapshots that the account is shown, of one box or of all, the newest first, at most [`LIST_MAX`].
    ///
    /// # Errors
    /// The database's failures.
    pub async fn snapshots(&self, account: &AccountId, of: Option<&BoxId>) -> Result<Vec<SnapshotRow>, StoreError> {
        let (account, of) = (account.clone(), of.cloned());
        self.read("listing snapshots", move |db| match of {
            None => db.all(LIST, (account.as_str(), LIST_MAX), snapshot_row),
            Some(id) => db.all(LIST_OF_BOX, (id.as_str(), account.as_str(), LIST_MAX), snapshot_row),
        })
        .await
    }

    /// All snapshots of all accounts: what a server that starts has to look after.
    ///
    /// # Errors
    /// The database's failures.
    pub async fn all_snapshots(&self) -> Result<Vec<SnapshotRow>, StoreError> {
        self.read("listing all snapshots", |db| db.all(ALL, (), snapshot_row)).await
    }

    /// Marks snapshots of an account as deleted, so that nobody finds them any more. Returns them as they were before.
    ///
    /// # Errors
    /// The database's failures.
    pub async fn delete_snapshots(&self, account: &AccountId, which: Which) -> Result<Vec<SnapshotRow>, StoreError> {
        let account = account.clone();
        self.write("deleting snapshots", move |db| {
            let rows = chosen(db, &account, which)?;
            for row in &rows {
                db.execute(MARK, (row.id.as_str(),))?;
            }
            Ok(rows)
        })
        .await
    }

    /// Forgets a snapshot of which nothing is left. One that is not deleted stays.
    ///
    /// # Errors
    /// The database's failures.
    pub async fn forget_snapshot(&self, id: SnapshotId) -> Result<(), StoreError> {
        self.write("forgetting a snapshot", move |db| {
            db.execute(FORGET, (id.as_str(),))?;
            Ok(())
        })
        .await
    }
}

/// Whether the account can make a box from this snapshot.
pub(super) fn is_ready(db: &Db, account: &AccountId, id: &SnapshotId) -> rusqlite::Result<bool> {
    Ok(db.one(READY, (id.as_str(), account.as_str()), |_| Ok(()))?.is_some())
}

/// The snapshots that are meant, as they are.
fn chosen(db: &Db, account: &AccountId, which: Which) -> rusqlite::Result<Vec<SnapshotRow>> {
    let find = |id: &SnapshotId| db.one(BY_ID, (id.as_str(), account.as_str()), snapshot_row);
    let shown = |row: &SnapshotRow| row.purpose == Purpose::Kept;
    match which {
        Which::All => db.all(LIST, (account.as_str(), i64::MAX), snapshot_row),
        Which::Of(ids) => {
            let mut rows: Vec<SnapshotRow> = Vec::new();
            for id in ids {
                let new = !rows.iter().any(|row| row.id == id);
                rows.extend(find(&id)?.filter(|row| new && shown(row)));
            }
            Ok(rows)
        }
        Which::OfBox(of, id) => Ok(find(&id)?.filter(|row| row.box_id == of && shown(row)).into_iter().collect()),
        Which::One(id) => Ok(find(&id)?.into_iter().collect()),
    }
}

/// Reads a row of `select_snapshots!`.
fn snapshot_row(row: &Row<'_>) -> rusqlite::Result<SnapshotRow> {
    let inherits = serde_json::from_str(row.get_ref(8)?.as_str()?).map_err(|error| unreadable(8, error))?;
    Ok(SnapshotRow {
        id: parsed(row, 0)?,
        account: parsed(row, 1)?,
        box_id: parsed(row, 2)?,
        purpose: word(row, 3, Purpose::parse)?,
        name: row.get(4)?,
        status: word(row, 5, SnapshotState::parse)?,
        error: row.get(6)?,
        size_bytes: row.get(7)?,
        inherits,
        created_at: row.get(9)?,
    })
}

impl Purpose {
    const ALL: [Self; 2] = [Self::Kept, Self::Fork];

    fn as_str(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Fork => "fork",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|purpose| purpose.as_str() == text)
    }
}

impl SnapshotState {
    const ALL: [Self; 5] = [Self::Creating, Self::Saving, Self::Ready, Self::Error, Self::Deleting];

    fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Saving => "saving",
            Self::Ready => "ready",
            Self::Error => "error",
            Self::Deleting => "deleting",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}
