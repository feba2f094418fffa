//! The one place that knows SQLite: opening, pragmas, migrations, running statements.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use boxyard_engine::fail;
use rusqlite::types::{FromSqlError, Type};
use rusqlite::{Connection, ErrorCode, OpenFlags, Params, Row};

use super::sql::Sql;
use super::{StoreError, StoreOptions, Synchronous};

/// How long one process waits for another (`boxyard key …` beside the server) to end its write.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a checkpoint that empties the log waits for readers; it is a courtesy, not a need.
const CHECKPOINT_TIMEOUT: Duration = Duration::from_millis(250);
/// Bytes that the write-ahead log is cut to once its content is in the database.
const WAL_KEPT: i64 = 64 * 1024 * 1024;
/// Statements that a connection keeps prepared; more than there are.
const STATEMENTS: usize = 128;

/// All changes of the schema, in order. A released one is never changed: add another.
const MIGRATIONS: [Migration; 7] = [
    Migration { version: 1, name: "start", sql: Sql::new(include_str!("sql/0001_start.sql")) },
    Migration { version: 2, name: "ssh", sql: Sql::new(include_str!("sql/0002_ssh.sql")) },
    Migration { version: 3, name: "snapshots", sql: Sql::new(include_str!("sql/0003_snapshots.sql")) },
    Migration { version: 4, name: "account", sql: Sql::new(include_str!("sql/0004_account.sql")) },
    Migration { version: 5, name: "life", sql: Sql::new(include_str!("sql/0005_life.sql")) },
    Migration { version: 6, name: "spool", sql: Sql::new(include_str!("sql/0006_spool.sql")) },
    Migration { version: 7, name: "git", sql: Sql::new(include_str!("sql/0007_git.sql")) },
];

struct Migration {
    version: i64,
    name: &'static str,
    sql: Sql,
}

const CREATE_VERSIONS: Sql = Sql::new(
    "create table if not exists schema_versions (
        version bigint not null primary key, name text not null, applied_at bigint not null
    )",
);
const NEWEST_VERSION: Sql = Sql::new("select coalesce(max(version), 0) from schema_versions");
const INSERT_VERSION: Sql = Sql::new("insert into schema_versions (version, name, applied_at) values ($1, $2, $3)");

/// A connection to the database.
pub(super) struct Db {
    connection: Connection,
}

impl Db {
    /// Opens the database for writing, makes it where it is missing, and brings its schema up to date.
    pub(super) fn open(path: &Path, options: &StoreOptions, now: i64) -> Result<Self, StoreError> {
        create_private(path).map_err(|error| StoreError::broken("creating the database file", error))?;
        let db = Self::connect(path).map_err(|error| StoreError::broken("opening the database", error))?;
        db.prepare_for_writing(options).map_err(|error| StoreError::broken("setting up the database", error))?;
        db.migrate(now)?;
        // What an earlier, killed server left in the log is in the database from here on.
        db.checkpoint();
        Ok(db)
    }

    /// Opens one more connection to a database that is open already, for reading only.
    pub(super) fn open_reader(path: &Path) -> Result<Self, StoreError> {
        let open = || {
            let db = Self::connect(path)?;
            db.connection.pragma_update(None, "query_only", true)?;
            Ok(db)
        };
        open().map_err(|error: rusqlite::Error| StoreError::broken("opening the database for reading", error))
    }

    fn connect(path: &Path) -> rusqlite::Result<Self> {
        // Each connection belongs to one thread, so SQLite's own locks around it are not needed.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        Ok(Self { connection })
    }

    fn prepare_for_writing(&self, options: &StoreOptions) -> rusqlite::Result<()> {
        let connection = &self.connection;
        connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get::<_, String>(0))?;
        let synchronous = match options.synchronous {
            Synchronous::Normal => "normal",
            Synchronous::Full => "full",
        };
        connection.pragma_update(None, "synchronous", synchronous)?;
        connection.pragma_update(None, "foreign_keys", true)?;
        connection.pragma_update_and_check(None, "journal_size_limit", WAL_KEPT, |row| row.get::<_, i64>(0))?;
        Ok(())
    }

    fn migrate(&self, now: i64) -> Result<(), StoreError> {
        let newest_known = MIGRATIONS[MIGRATIONS.len() - 1].version;
        let migrate = || -> rusqlite::Result<i64> {
            // One transaction for the look and the change: two programs that start together do not both migrate.
            self.control("begin immediate")?;
            self.execute(CREATE_VERSIONS, ())?;
            let found = self.one(NEWEST_VERSION, (), |row| row.get(0))?.unwrap_or(0);
            for migration in MIGRATIONS.iter().filter(|migration| migration.version > found) {
                self.connection.execute_batch(migration.sql.text())?;
                self.execute(INSERT_VERSION, (migration.version, migration.name, now))?;
                fail::point("store: migrated");
            }
            self.control("commit")?;
            Ok(found)
        };
        let found = migrate().map_err(|error| StoreError::broken("bringing the database's schema up to date", error));
        if found.is_err() {
            self.roll_back();
        }
        let found = found?;
        if found > newest_known {
            return Err(StoreError::Newer { found, known: newest_known });
        }
        Ok(())
    }

    /// Runs a statement that begins or ends a transaction or a part of one.
    pub(super) fn control(&self, text: &'static str) -> rusqlite::Result<()> {
        self.connection.prepare_cached(text)?.execute(()).map(drop)
    }

    /// Undoes a transaction if one is open still: some failures (a full disk) have ended it already.
    pub(super) fn roll_back(&self) {
        if !self.connection.is_autocommit()
            && let Err(error) = self.control("rollback")
        {
            tracing::error!(%error, "cannot roll back");
        }
    }

    /// Runs a statement and returns how many rows it changed.
    pub(super) fn execute(&self, sql: Sql, params: impl Params) -> rusqlite::Result<usize> {
        self.connection.prepare_cached(sql.text())?.execute(params)
    }

    /// Runs a query and reads all its rows.
    pub(super) fn all<T>(
        &self,
        sql: Sql,
        params: impl Params,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<Vec<T>> {
        self.connection.prepare_cached(sql.text())?.query_map(params, read)?.collect()
    }

    /// Runs a query and reads its first row, if it has one.
    pub(super) fn one<T>(
        &self,
        sql: Sql,
        params: impl Params,
        read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<Option<T>> {
        let mut statement = self.connection.prepare_cached(sql.text())?;
        let mut rows = statement.query(params)?;
        rows.next()?.map(read).transpose()
    }

    /// Runs several queries that see the same state of the database.
    pub(super) fn together<T>(&self, read: impl FnOnce(&Self) -> rusqlite::Result<T>) -> rusqlite::Result<T> {
        self.control("begin")?;
        let result = read(self);
        self.roll_back();
        result
    }

    /// Moves the write-ahead log into the database and empties it, unless another process is in the way.
    pub(super) fn checkpoint(&self) {
        let checkpoint = || -> rusqlite::Result<bool> {
            self.connection.busy_timeout(CHECKPOINT_TIMEOUT)?;
            let busy = self.connection.query_row("pragma wal_checkpoint(truncate)", (), |row| row.get::<_, bool>(0))?;
            self.connection.busy_timeout(BUSY_TIMEOUT)?;
            Ok(busy)
        };
        match checkpoint() {
            Ok(false) => {}
            Ok(true) => tracing::debug!("the write-ahead log is in use and stays as it is"),
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {
                tracing::debug!("the write-ahead log is in use and stays as it is");
            }
            Err(error) => tracing::warn!(%error, "cannot empty the write-ahead log"),
        }
    }
}

/// The database holds everything there is to know of the boxes, their environment included: nobody but us reads it. SQLite gives its
/// companion files the same mode.
fn create_private(path: &Path) -> io::Result<()> {
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path).map(drop)
}

/// The table and columns of the uniqueness that a write broke, as in `accounts.name`, if that is what went wrong.
pub(super) fn broken_unique(error: &rusqlite::Error) -> Option<&str> {
    if let rusqlite::Error::SqliteFailure(code, Some(message)) = error
        && code.code == ErrorCode::ConstraintViolation
    {
        message.strip_prefix("UNIQUE constraint failed: ")
    } else {
        None
    }
}

/// Reads a text column that stands for a value of type `T`.
pub(super) fn parsed<T>(row: &Row<'_>, column: usize) -> rusqlite::Result<T>
where
    T: FromStr,
    T::Err: std::error::Error + Send + Sync + 'static,
{
    row.get_ref(column)?.as_str()?.parse().map_err(|error: T::Err| unreadable(column, error))
}

/// Reads a text column with `read`, which knows every text that we write there.
pub(super) fn word<T>(row: &Row<'_>, column: usize, read: impl FnOnce(&str) -> Option<T>) -> rusqlite::Result<T> {
    read(row.get_ref(column)?.as_str()?).ok_or_else(|| unreadable(column, FromSqlError::InvalidType))
}

pub(super) fn unreadable(column: usize, error: impl std::error::Error + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error))
}
