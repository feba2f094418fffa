//! Boxes, their names and their labels. Rows of deleted boxes stay, without their environment.

use std::collections::BTreeMap;

use boxyard_proto::names::Size;
use boxyard_proto::{AccountId, BoxId, SnapshotId};
use rusqlite::Row;

use super::git;
use super::snapshots::is_ready;
use super::sql::Sql;
use super::sqlite::{Db, broken_unique, parsed, unreadable, word};
use super::{Failure, Store, StoreError, changed};
use crate::config::Secret;

/// Boxes that one listing returns at most, the newest ones.
pub const LIST_MAX: i64 = 10_000;

/// The phase from which on a box's name is free again.
const DELETING: &str = "deleting";
/// The phase of a box that is no more.
const DELETED: &str = "deleted";

const INSERT: Sql = Sql::new(
    "insert into boxes (id, account, name, size, runtime, env, engine, phase, error, total_cpu_ns, last_activity_at,
        created_at, updated_at, deleted_at, seq, from_snapshot, keep_alive, init_command, init_due, expires_at,
        git_user_name, git_user_email)
     values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22)",
);
const TAKE_NAME: Sql = Sql::new("insert into box_names (account, name, box_id) values ($1, $2, $3)");
const FREE_NAME: Sql = Sql::new("delete from box_names where box_id = $1");
pub(super) const SET_PHASE: Sql = Sql::new("update boxes set phase = $1, error = $2, updated_at = $3 where id = $4");
const SET_DELETED: Sql = Sql::new(
    "update boxes set deleted_at = $1, env = '{}', init_command = '', init_due = false, git_user_name = null,
        git_user_email = null
     where id = $2 and deleted_at is null",
);
const SET_INIT: Sql = Sql::new("update boxes set init_command = $1, init_due = $2, updated_at = $3 where id = $4");
const SET_INIT_DUE: Sql = Sql::new("update boxes set init_due = $1 where id = $2");
const FORGET_TOKENS: Sql = Sql::new("delete from ssh_tokens where box_id = $1");
const TOUCH: Sql = Sql::new("update boxes set updated_at = $1 where id = $2");
const ADD_LABEL: Sql = Sql::new("insert into box_labels (box_id, label, place) values ($1, $2, $3)");
const CLEAR_LABELS: Sql = Sql::new("delete from box_labels where box_id = $1");
const ADD_ACTIVITY: Sql = Sql::new(
    "update boxes set total_cpu_ns = total_cpu_ns + $1,
        last_activity_at = case when last_activity_at < $2 then $2 else last_activity_at end
     where id = $3",
);

/// Queries of boxes read the same columns in the same order.
macro_rules! select_boxes {
    ($rest:literal) => {
        Sql::new(concat!(
            "select b.id, b.account, b.name, b.size, b.runtime, b.env, b.engine, b.phase, b.error, b.total_cpu_ns,
                b.last_activity_at, b.created_at, b.updated_at, b.deleted_at, b.from_snapshot, b.keep_alive, b.init_command,
                b.init_due, b.expires_at, b.git_user_name, b.git_user_email
                from boxes b ",
            $rest
        ))
    };
}

const BY_ID: Sql = select_boxes!("where b.id = $1 and b.account = $2");
const BY_NAME: Sql = select_boxes!("join box_names n on n.box_id = b.id where n.account = $1 and n.name = $2");
const LIVE: Sql = select_boxes!("where b.deleted_at is null order by b.account, b.created_at, b.seq");
const LIST_LIVE: Sql =
    select_boxes!("where b.account = $1 and b.deleted_at is null order by b.created_at desc, b.seq desc limit $2");
const LIST_DELETED: Sql =
    select_boxes!("where b.account = $1 and b.deleted_at is not null order by b.created_at desc, b.seq desc limit $2");
const LIST_LIVE_LABELLED: Sql = select_boxes!(
    "join box_labels l on l.box_id = b.id where l.label = $1 and b.account = $2 and b.deleted_at is null
     order by b.created_at desc, b.seq desc limit $3"
);
const LIST_DELETED_LABELLED: Sql = select_boxes!(
    "join box_labels l on l.box_id = b.id where l.label = $1 and b.account = $2 and b.deleted_at is not null
     order by b.created_at desc, b.seq desc limit $3"
);
const LABELS_OF_BOX: Sql = Sql::new("select label from box_labels where box_id = $1 order by place");
/// A box as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoxRow {
    /// Its id.
    pub id: BoxId,
    /// The account that owns it.
    pub account: AccountId,
    /// Its name, unique among the account's boxes that are not being deleted.
    pub name: Option<String>,
    /// Its labels, in the order they were added.
    pub labels: Vec<String>,
    /// Its size.
    pub size: Size,
    /// Its runtime: the name of its image.
    pub runtime: String,
    /// The variables of its processes; forgotten when it is deleted.
    pub env: BTreeMap<String, String>,
    /// Name of the engine that made it.
    pub engine: String,
    /// The phase of its life; `boxes::lifecycle` knows them. Only `deleting` and `deleted` mean something to the store.
    pub phase: String,
    /// Why it is in that phase, if the phase tells of a failure.
    pub error: Option<String>,
    /// CPU time of its runs in nanoseconds.
    pub total_cpu_ns: i64,
    /// When something last worked in it.
    pub last_activity_at: i64,
    /// When it was made.
    pub created_at: i64,
    /// When its phase or its labels last changed.
    pub updated_at: i64,
    /// When it was deleted, if it was.
    pub deleted_at: Option<i64>,
    /// The snapshot that its disk started as a copy of; it may be gone.
    pub from_snapshot: Option<SnapshotId>,
    /// Whether it is never paused.
    pub keep_alive: bool,
    /// What runs in it whenever it is started, if not empty; forgotten when it is deleted.
    pub init_command: String,
    /// Whether that has yet to be run, when the box takes work next.
    pub init_due: bool,
    /// When it is deleted by itself, if it is ephemeral.
    pub expires_at: Option<i64>,
    /// The name that git is told before anything works in it, if one was asked for; forgotten when it is deleted.
    pub git_user_name: Option<String>,
    /// The same, the address.
    pub git_user_email: Option<String>,
}

impl Store {
    /// Adds a box with its name and labels.
    ///
    /// # Errors
    /// [`StoreError::NameTaken`], [`StoreError::IdTaken`] (deleted boxes keep their ids), [`StoreError::NotFound`] when the account has no
    /// ready snapshot to make it from, or the database's failures.
    pub async fn insert_box(&self, row: BoxRow) -> Result<(), StoreError> {
        self.insert_box_with(row, None).await
    }

    /// The same, with its own token for GitHub.
    ///
    /// # Errors
    /// As [`insert_box`](Self::insert_box).
    pub async fn insert_box_with(&self, row: BoxRow, token: Option<Secret>) -> Result<(), StoreError> {
        let seq = self.next_seq();
        self.write("adding a box", move |db| {
            if let Some(from) = &row.from_snapshot
                && !is_ready(db, &row.account, from)?
            {
                return Err(StoreError::NotFound.into());
            }
            let env = serde_json::to_string(&row.env).map_err(|error| StoreError::broken("adding a box", error))?;
            db.execute(
                INSERT,
                rusqlite::params![
                    row.id.as_str(),
                    row.account.as_str(),
                    row.name,
                    row.size.as_str(),
                    row.runtime,
                    env,
                    row.engine,
                    row.phase,
                    row.error,
                    row.total_cpu_ns,
                    row.last_activity_at,
                    row.created_at,
                    row.updated_at,
                    row.deleted_at,
                    seq,
                    row.from_snapshot.as_ref().map(SnapshotId::as_str),
                    row.keep_alive,
                    row.init_command,
                    row.init_due,
                    row.expires_at,
                    row.git_user_name,
                    row.git_user_email,
                ],
            )
            .map_err(|error| taken(error, StoreError::IdTaken))?;
            if let Some(token) = &token {
                git::set(db, &row.id, token)?;
            }
            if let Some(name) = &row.name
                && !frees_name(&row.phase)
            {
                db.execute(TAKE_NAME, (row.account.as_str(), name, row.id.as_str()))
                    .map_err(|error| taken(error, StoreError::NameTaken))?;
            }
            add_labels(db, &row.id, &row.labels)
        })
        .await
    }

    /// Notes the phase of a box's life, and `error` with it. `deleting` frees the box's name and forgets its token for GitHub; `deleted`
    /// notes `at` as its end and forgets its SSH tokens.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], or the database's failures.
    pub async fn set_phase(&self, id: BoxId, phase: String, error: Option<String>, at: i64) -> Result<(), StoreError> {
        self.write("noting a box's phase", move |db| {
            changed(db.execute(SET_PHASE, (&phase, &error, at, id.as_str()))?)?;
            if frees_name(&phase) {
                db.execute(FREE_NAME, (id.as_str(),))?;
                git::forget(db, &id)?;
            }
            if phase == DELETED {
                db.execute(SET_DELETED, (at, id.as_str()))?;
                db.execute(FORGET_TOKENS, (id.as_str(),))?;
            }
            Ok(())
        })
        .await
    }

    /// Replaces a box's labels.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], or the database's failures.
    pub async fn set_labels(&self, id: BoxId, labels: Vec<String>, at: i64) -> Result<(), StoreError> {
        self.write("changing a box's labels", move |db| {
            changed(db.execute(TOUCH, (at, id.as_str()))?)?;
            db.execute(CLEAR_LABELS, (id.as_str(),))?;
            add_labels(db, &id, &labels)
        })
        .await
    }

    /// Replaces a box's init command (empty: none) and says whether it has yet to be run.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], or the database's failures.
    pub async fn set_init(&self, id: BoxId, command: String, due: bool, at: i64) -> Result<(), StoreError> {
        self.write("changing a box's init command", move |db| {
            changed(db.execute(SET_INIT, (&command, due, at, id.as_str()))?)
        })
        .await
    }

    /// Says whether a box's init command has yet to be run.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], or the database's failures.
    pub async fn set_init_due(&self, id: BoxId, due: bool) -> Result<(), StoreError> {
        self.write("noting a box's start", move |db| changed(db.execute(SET_INIT_DUE, (due, id.as_str()))?)).await
    }

    /// Adds `cpu_ns` to what a box has used and notes that something worked in it at `at`.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], or the database's failures.
    pub async fn add_activity(&self, id: BoxId, cpu_ns: i64, at: i64) -> Result<(), StoreError> {
        self.write("noting a box's activity", move |db| changed(db.execute(ADD_ACTIVITY, (cpu_ns, at, id.as_str()))?))
            .await
    }

    /// The account's box with this id, deleted or not, or else its live box with this name.
    ///
    /// # Errors
    /// The database's failures.
    pub async fn find_box(&self, account: &AccountId, id_or_name: &str) -> Result<Option<BoxRow>, StoreError> {
        let (account, text) = (account.clone(), id_or_name.to_owned());
        self.read("looking up a box", move |db| {
            // Names never look like ids.
            let found = |db: &Db| {
                if BoxId::looks_like(&text) {
                    db.one(BY_ID, (&text, account.as_str()), box_row)
                } else {
                    db.one(BY_NAME, (account.as_str(), &text), box_row)
                }
            };
            db.together(|db| {
                let Some(mut row) = found(db)? else { return Ok(None) };
                row.labels = labels(db, &row.id)?;
                Ok(Some(row))
            })
        })
        .await
    }

    /// The account's boxes, the newest first, at most [`LIST_MAX`]: either those that are not deleted, or those that are; with `label`
    /// only those that carry exactly this one.
    ///
    /// # Errors
    /// The database's failures.
    pub async fn list_boxes(
        &self,
        account: &AccountId,
        deleted: bool,
        label: Option<&str>,
    ) -> Result<Vec<BoxRow>, StoreError> {
        let (account, label) = (account.clone(), label.map(str::to_owned));
        self.read("listing boxes", move |db| {
            let account = account.as_str();
            db.together(|db| {
                let rows = match (label, deleted) {
                    (None, false) => db.all(LIST_LIVE, (account, LIST_MAX), box_row),
                    (None, true) => db.all(LIST_DELETED, (account, LIST_MAX), box_row),
                    (Some(label), false) => db.all(LIST_LIVE_LABELLED, (label, account, LIST_MAX), box_row),
                    (Some(label), true) => db.all(LIST_DELETED_LABELLED, (label, account, LIST_MAX), box_row),
                }?;
                with_labels(db, rows)
            })
        })
        .await
    }

    /// The boxes of all accounts that are not deleted: what a server that starts has to look after.
    ///
    /// # Errors
    /// The database's failures.
    pub async fn live_boxes(&self) -> Result<Vec<BoxRow>, StoreError> {
        self.read("listing live boxes", |db| db.together(|db| with_labels(db, db.all(LIVE, (), box_row)?))).await
    }
}

fn frees_name(phase: &str) -> bool {
    phase == DELETING || phase == DELETED
}

fn taken(error: rusqlite::Error, refusal: StoreError) -> Failure {
    if broken_unique(&error).is_some() { Failure::Refused(refusal) } else { Failure::Sql(error) }
}

fn add_labels(db: &Db, id: &BoxId, labels: &[String]) -> Result<(), Failure> {
    for (place, label) in (0_i64..).zip(labels) {
        db.execute(ADD_LABEL, (id.as_str(), label, place))?;
    }
    Ok(())
}

/// Reads a row of `select_boxes!`; the labels are elsewhere.
fn box_row(row: &Row<'_>) -> rusqlite::Result<BoxRow> {
    let env = serde_json::from_str(row.get_ref(5)?.as_str()?).map_err(|error| unreadable(5, error))?;
    Ok(BoxRow {
        id: parsed(row, 0)?,
        account: parsed(row, 1)?,
        name: row.get(2)?,
        labels: Vec::new(),
        size: word(row, 3, |text| Size::parse(text).ok())?,
        runtime: row.get(4)?,
        env,
        engine: row.get(6)?,
        phase: row.get(7)?,
        error: row.get(8)?,
        total_cpu_ns: row.get(9)?,
        last_activity_at: row.get(10)?,
        created_at: row.get(11)?,
        updated_at: row.get(12)?,
        deleted_at: row.get(13)?,
        from_snapshot: snapshot(row, 14)?,
        keep_alive: row.get(15)?,
        init_command: row.get(16)?,
        init_due: row.get(17)?,
        expires_at: row.get(18)?,
        git_user_name: row.get(19)?,
        git_user_email: row.get(20)?,
    })
}

fn snapshot(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<SnapshotId>> {
    let text: Option<String> = row.get(column)?;
    text.map(|text| text.parse().map_err(|error| unreadable(column, error))).transpose()
}

/// Adds the labels: one short look-up for each box, so that a list costs what it shows and not what the account has ever had.
fn with_labels(db: &Db, mut rows: Vec<BoxRow>) -> rusqlite::Result<Vec<BoxRow>> {
    for row in &mut rows {
        row.labels = labels(db, &row.id)?;
    }
    Ok(rows)
}

fn labels(db: &Db, id: &BoxId) -> rusqlite::Result<Vec<String>> {
    db.all(LABELS_OF_BOX, (id.as_str(),), |row| row.get(0))
}
