//! Logs of boxes, and the removal of what has grown old.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use boxyard_proto::BoxId;
use boxyard_proto::api::logs::{LIMIT_MAX, LogLevel, LogSource};
use rusqlite::Row;

use super::log_followers::{LogFollower, NumberedLog};
use super::outputs::{KeptOutput, kept};
use super::sql::Sql;
use super::sqlite::{Db, word};
use super::{Failure, Store, StoreError, now_ms};

/// Bytes of one message at most; a longer one is cut.
pub const MESSAGE_MAX: usize = 8 * 1024;
/// Rows of each table that one pruning removes at most: the writer must not be held up.
const PRUNE_MAX: i64 = 2_000;

const INSERT: Sql =
    Sql::new("insert into logs (box_id, at, seq, level, source, message) values ($1, $2, $3, $4, $5, $6)");
const PAGE: Sql = Sql::new(
    "select at, level, source, message from logs where box_id = $1
     order by at, seq limit $2 offset $3",
);
const PRUNE_LOGS: Sql = Sql::new(
    "delete from logs where (box_id, at, seq) in
        (select box_id, at, seq from logs where at < $1 order by at limit $2)",
);
const NEWEST: Sql = Sql::new(
    "select seq, at, level, source, message from logs where box_id = $1
     order by at desc, seq desc limit $2",
);
const AFTER: Sql = Sql::new(
    "select seq, at, level, source, message from logs where box_id = $1 and (at, seq) > ($2, $3)
     order by at, seq limit $4",
);
const OLD_RUNS: Sql =
    Sql::new("select id, box_id, output_held from runs where completed_at < $1 order by completed_at limit $2");
const DELETE_RUN: Sql = Sql::new("delete from runs where id = $1");
const PRUNE_CLAIMS: Sql = Sql::new(
    "delete from claims where (box_id, name) in
        (select box_id, name from claims where created_at < $1 order by created_at limit $2)",
);
const PRUNE_TOKENS: Sql = Sql::new(
    "delete from ssh_tokens where id in
        (select id from ssh_tokens where expires_at <= $1 order by expires_at limit $2)",
);

/// One entry of a box's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRow {
    /// When.
    pub at: i64,
    /// How bad it is.
    pub level: LogLevel,
    /// Who says it.
    pub source: LogSource,
    /// What; cut to [`MESSAGE_MAX`] bytes.
    pub message: String,
}

/// How many rows a pruning has removed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pruned {
    /// Log entries.
    pub logs: usize,
    /// Runs.
    pub runs: usize,
    /// SSH tokens that had expired, revoked ones too.
    pub ssh_tokens: usize,
    /// Claims.
    pub claims: usize,
    /// What was kept of the outputs of those runs. Files are still to be removed.
    pub outputs: Vec<KeptOutput>,
    /// There may be more to remove: call again.
    pub more: bool,
}

impl Store {
    /// Adds an entry to a box's log.
    ///
    /// # Errors
    /// The database's failures; a box that does not exist is one.
    pub async fn append_log(&self, box_id: BoxId, entry: LogRow) -> Result<(), StoreError> {
        let new = self.numbered(entry);
        let (id, row) = (box_id.clone(), Arc::clone(&new));
        self.write("adding a log entry", move |db| insert(db, &id, &row)).await?;
        self.shared.log_followers.tell(&box_id, &new);
        Ok(())
    }

    /// An entry, cut and with its number.
    fn numbered(&self, mut entry: LogRow) -> Arc<NumberedLog> {
        entry.message.truncate(entry.message.floor_char_boundary(MESSAGE_MAX));
        Arc::new((self.next_seq(), entry))
    }

    /// Adds an entry to a box's log without waiting for anything. When the queue is full the entry is dropped and counted in
    /// [`logs_dropped`](Self::logs_dropped).
    pub fn append_log_queued(&self, box_id: BoxId, entry: LogRow) {
        let new = self.numbered(entry);
        let (id, row, followers) = (box_id.clone(), Arc::clone(&new), Arc::clone(&self.shared.log_followers));
        let queued = self.writer.write_later(
            "adding a log entry",
            move |db| insert(db, &id, &row),
            move || followers.tell(&box_id, &new),
        );
        if queued.is_err() {
            self.shared.logs_dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A page of a box's log, oldest first: leaves out `offset` entries and returns at most `limit`, never more than 1000.
    ///
    /// # Errors
    /// The database's failures.
    pub async fn logs(&self, box_id: &BoxId, offset: u32, limit: u32) -> Result<Vec<LogRow>, StoreError> {
        let box_id = box_id.clone();
        self.read("reading a log", move |db| {
            db.all(PAGE, (box_id.as_str(), limit.min(LIMIT_MAX), offset), |row| {
                Ok(LogRow {
                    at: row.get(0)?,
                    level: word(row, 1, level_of)?,
                    source: word(row, 2, source_of)?,
                    message: row.get(3)?,
                })
            })
        })
        .await
    }

    /// The newest `limit` entries of a box's log with their numbers, never more than 1000; the oldest of them first.
    ///
    /// # Errors
    /// The database's failures.
    pub async fn newest_logs(&self, box_id: &BoxId, limit: u32) -> Result<Vec<NumberedLog>, StoreError> {
        let box_id = box_id.clone();
        self.read("reading the end of a log", move |db| {
            let mut newest = db.all(NEWEST, (box_id.as_str(), limit.min(LIMIT_MAX)), numbered)?;
            newest.reverse();
            Ok(newest)
        })
        .await
    }

    /// The oldest 1000 entries of a box's log that come after a place in it, which is an entry's time and number.
    ///
    /// # Errors
    /// The database's failures.
    pub async fn logs_after(&self, box_id: &BoxId, (at, seq): (i64, i64)) -> Result<Vec<NumberedLog>, StoreError> {
        let box_id = box_id.clone();
        self.read("reading on in a log", move |db| db.all(AFTER, (box_id.as_str(), at, seq, LIMIT_MAX), numbered)).await
    }

    /// Hears of the entries of a box's log that are committed from now on.
    pub fn follow_log(&self, box_id: BoxId) -> LogFollower {
        self.shared.log_followers.follow(box_id)
    }

    /// Removes log entries from before `logs_before`, runs that ended before `runs_before`, claims from before `claims_before` and SSH
    /// tokens that have expired, a bounded number at a time, the oldest first.
    ///
    /// # Errors
    /// The database's failures.
    pub async fn prune(&self, logs_before: i64, runs_before: i64, claims_before: i64) -> Result<Pruned, StoreError> {
        let now = now_ms();
        self.write("removing old entries", move |db| {
            let logs = db.execute(PRUNE_LOGS, (logs_before, PRUNE_MAX))?;
            let mut outputs = db.all(OLD_RUNS, (runs_before, PRUNE_MAX), kept)?;
            for run in &outputs {
                db.execute(DELETE_RUN, (run.run_id.as_str(),))?;
            }
            let runs = outputs.len();
            outputs.retain(|output| output.held > 0);
            let claims = db.execute(PRUNE_CLAIMS, (claims_before, PRUNE_MAX))?;
            let ssh_tokens = db.execute(PRUNE_TOKENS, (now, PRUNE_MAX))?;
            let full = usize::try_from(PRUNE_MAX).unwrap_or(usize::MAX);
            let more = [logs, runs, ssh_tokens, claims].contains(&full);
            Ok(Pruned { logs, runs, ssh_tokens, claims, outputs, more })
        })
        .await
    }
}

fn numbered(row: &Row<'_>) -> rusqlite::Result<NumberedLog> {
    let (level, source) = (word(row, 2, level_of)?, word(row, 3, source_of)?);
    Ok((row.get(0)?, LogRow { at: row.get(1)?, level, source, message: row.get(4)? }))
}

fn insert(db: &Db, box_id: &BoxId, (seq, entry): &NumberedLog) -> Result<(), Failure> {
    let params = (box_id.as_str(), entry.at, seq, level_text(entry.level), source_text(entry.source), &entry.message);
    db.execute(INSERT, params)?;
    Ok(())
}

fn level_text(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Info => "info",
        LogLevel::Warn => "warn",
        LogLevel::Error => "error",
    }
}

fn level_of(text: &str) -> Option<LogLevel> {
    [LogLevel::Info, LogLevel::Warn, LogLevel::Error].into_iter().find(|level| level_text(*level) == text)
}

fn source_text(source: LogSource) -> &'static str {
    match source {
        LogSource::System => "system",
        LogSource::Agent => "agent",
        LogSource::User => "user",
    }
}

fn source_of(text: &str) -> Option<LogSource> {
    [LogSource::System, LogSource::Agent, LogSource::User].into_iter().find(|source| source_text(*source) == text)
}
