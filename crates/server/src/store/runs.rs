//! Runs: what was executed in boxes.

use boxyard_proto::api::runs::{RunStatus, RunType};
use boxyard_proto::{AccountId, BoxId, RunId};
use rusqlite::Row;

use super::outputs::OutputRow;
use super::sql::Sql;
use super::sqlite::{Db, broken_unique, parsed, word};
use super::{Failure, Store, StoreError};

/// Runs that one listing returns at most.
const LIST_MAX: u32 = 1000;

const INSERT: Sql = Sql::new(
    "insert into runs (id, box_id, account, kind, status, prompt, exit_code, cpu_ns, memory_peak, created_at, completed_at,
        error, timeout_ms, seq)
     values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
);
const FINISH: Sql = Sql::new(
    "update runs set status = $1, exit_code = $2, cpu_ns = $3, memory_peak = $4, completed_at = $5, error = $6,
        output_end = $7, output_held = $8, output = $9
     where id = $10 and status = 'running'",
);

/// Queries of runs read the same columns in the same order.
macro_rules! select_runs {
    ($rest:literal) => {
        Sql::new(concat!(
            "select id, box_id, account, kind, status, prompt, exit_code, cpu_ns, memory_peak, created_at, completed_at,
                error, timeout_ms from runs ",
            $rest
        ))
    };
}

const FIND: Sql = select_runs!("where id = $1 and box_id = $2");
const LIST: Sql = select_runs!("where box_id = $1 order by created_at desc, seq desc limit $2");
const RUNNING: Sql = select_runs!("where status = 'running' order by created_at, seq");

/// A run as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunRow {
    /// Its id.
    pub id: RunId,
    /// The box it runs in.
    pub box_id: BoxId,
    /// The account that owns the box.
    pub account: AccountId,
    /// What sort of work it is.
    pub kind: RunType,
    /// How far it is.
    pub status: RunStatus,
    /// The command: its arguments, joined by single spaces. Whoever makes the row caps its length.
    pub prompt: String,
    /// Its exit code, if it ended with one.
    pub exit_code: Option<i32>,
    /// CPU time of its process tree in nanoseconds.
    pub cpu_ns: i64,
    /// Most bytes of memory that its process tree held at once.
    pub memory_peak: i64,
    /// When it began.
    pub created_at: i64,
    /// When it ended, if it did.
    pub completed_at: Option<i64>,
    /// Why it failed, if it did.
    pub error: Option<String>,
    /// How long it may take, in milliseconds from its beginning, if there is a limit.
    pub timeout_ms: Option<i64>,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunEnd {
    /// Anything but running.
    pub status: RunStatus,
    /// Its exit code, if it ended with one.
    pub exit_code: Option<i32>,
    /// CPU time of its process tree in nanoseconds.
    pub cpu_ns: i64,
    /// Most bytes of memory that its process tree held at once.
    pub memory_peak: i64,
    /// When it ended.
    pub completed_at: i64,
    /// Why it failed, if it did.
    pub error: Option<String>,
    /// What is kept of its output.
    pub output: OutputRow,
}

impl Store {
    /// Adds a run.
    ///
    /// # Errors
    /// [`StoreError::IdTaken`], or the database's failures.
    pub async fn insert_run(&self, row: RunRow) -> Result<(), StoreError> {
        let seq = self.next_seq();
        self.write("adding a run", move |db| insert_run(db, &row, seq)).await
    }

    /// Notes how a run ended. Says whether it was running until now: the first end counts, a later one changes nothing.
    ///
    /// # Errors
    /// The database's failures.
    pub async fn finish_run(&self, id: RunId, end: RunEnd) -> Result<bool, StoreError> {
        self.write("noting a run's end", move |db| {
            let params = rusqlite::params![
                status_text(end.status),
                end.exit_code,
                end.cpu_ns,
                end.memory_peak,
                end.completed_at,
                end.error,
                end.output.end,
                end.output.held,
                end.output.short,
                id.as_str(),
            ];
            Ok(db.execute(FINISH, params)? > 0)
        })
        .await
    }

    /// A run of this box, if it has one with this id.
    ///
    /// # Errors
    /// The database's failures.
    pub async fn find_run(&self, box_id: &BoxId, id: &RunId) -> Result<Option<RunRow>, StoreError> {
        let (box_id, id) = (box_id.clone(), id.clone());
        self.read("looking up a run", move |db| db.one(FIND, (id.as_str(), box_id.as_str()), run_row)).await
    }

    /// A box's runs, the newest first, at most `limit` and never more than 1000.
    ///
    /// # Errors
    /// The database's failures.
    pub async fn list_runs(&self, box_id: &BoxId, limit: u32) -> Result<Vec<RunRow>, StoreError> {
        let box_id = box_id.clone();
        self.read("listing runs", move |db| db.all(LIST, (box_id.as_str(), limit.min(LIST_MAX)), run_row)).await
    }

    /// The runs of all boxes that have not ended: what a server that starts has to look after.
    ///
    /// # Errors
    /// The database's failures.
    pub async fn running_runs(&self) -> Result<Vec<RunRow>, StoreError> {
        self.read("listing running runs", |db| db.all(RUNNING, (), run_row)).await
    }
}

pub(super) fn insert_run(db: &Db, row: &RunRow, seq: i64) -> Result<(), Failure> {
    let params = rusqlite::params![
        row.id.as_str(),
        row.box_id.as_str(),
        row.account.as_str(),
        kind_text(row.kind),
        status_text(row.status),
        row.prompt,
        row.exit_code,
        row.cpu_ns,
        row.memory_peak,
        row.created_at,
        row.completed_at,
        row.error,
        row.timeout_ms,
        seq,
    ];
    db.execute(INSERT, params).map_err(|error| match broken_unique(&error) {
        Some(_) => Failure::Refused(StoreError::IdTaken),
        None => Failure::Sql(error),
    })?;
    Ok(())
}

fn run_row(row: &Row<'_>) -> rusqlite::Result<RunRow> {
    Ok(RunRow {
        id: parsed(row, 0)?,
        box_id: parsed(row, 1)?,
        account: parsed(row, 2)?,
        kind: word(row, 3, kind_of)?,
        status: word(row, 4, status_of)?,
        prompt: row.get(5)?,
        exit_code: row.get(6)?,
        cpu_ns: row.get(7)?,
        memory_peak: row.get(8)?,
        created_at: row.get(9)?,
        completed_at: row.get(10)?,
        error: row.get(11)?,
        timeout_ms: row.get(12)?,
    })
}

fn kind_text(kind: RunType) -> &'static str {
    match kind {
        RunType::Agent => "agent",
        RunType::Shell => "shell",
    }
}

fn kind_of(text: &str) -> Option<RunType> {
    [RunType::Agent, RunType::Shell].into_iter().find(|kind| kind_text(*kind) == text)
}

fn status_text(status: RunStatus) -> &'static str {
    match status {
        RunStatus::Running => "running",
        RunStatus::Completed => "completed",
        RunStatus::Failed => "failed",
        RunStatus::Cancelled => "cancelled",
    }
}

fn status_of(text: &str) -> Option<RunStatus> {
    [RunStatus::Running, RunStatus::Completed, RunStatus::Failed, RunStatus::Cancelled]
        .into_iter()
        .find(|status| status_text(*status) == text)
}
