//! What is kept of runs' outputs, in files beside the database or, where it is short, in it.

use boxyard_proto::{BoxId, RunId};
use rusqlite::Row;

use super::sql::Sql;
use super::sqlite::parsed;
use super::{Store, StoreError};

/// Rows that one call changes at most, so that the writer is not held up.
const ROWS_MAX: u32 = 2_000;

const FIND: Sql = Sql::new("select output_end, output_held, output from runs where id = $1 and box_id = $2");
const SUM: Sql = Sql::new("select coalesce(sum(output_held), 0) from runs where output_held > 0");
const OLDEST: Sql = Sql::new(
    "select id, box_id, output_held from runs where output_held > 0 and completed_at is not null
     order by completed_at limit $1",
);
const FORGET: Sql = Sql::new("update runs set output_held = 0, output = null where id = $1 and output_held > 0");
const OF_BOX: Sql = Sql::new("select id, box_id, output_held from runs where box_id = $1 and output_held > 0 limit $2");
const IN_FILES: Sql =
    Sql::new("select id from runs where box_id = $1 and (status = 'running' or output_held > 0 and output is null)");
const OF_DELETED: Sql = Sql::new(
    "select distinct box_id from runs where output_held > 0
        and box_id in (select id from boxes where deleted_at is not null)",
);

/// What a run's record says of its output.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OutputRow {
    /// How many bytes it wrote in all; nothing when that was not recorded.
    pub end: Option<i64>,
    /// Bytes that are kept of it.
    pub held: i64,
    /// A short output itself; a longer one is in a file.
    pub short: Option<Vec<u8>>,
}

/// Output that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptOutput {
    /// Of which run.
    pub run_id: RunId,
    /// In which box.
    pub box_id: BoxId,
    /// How many bytes.
    pub held: i64,
}

impl Store {
    /// What the record of this box's run says of its output, if there is a record.
    ///
    /// # Errors
    /// The database's failures.
    pub async fn find_output(&self, box_id: &BoxId, id: &RunId) -> Result<Option<OutputRow>, StoreError> {
        let (box_id, id) = (box_id.clone(), id.clone());
        self.read("looking up a run's output", move |db| {
            db.one(FIND, (id.as_str(), box_id.as_str()), |row| {
                Ok(OutputRow { end: row.get(0)?, held: row.get(1)?, short: row.get(2)? })
            })
        })
        .await
    }

    /// Bytes that are kept of all runs that have ended.
    ///
    /// # Errors
    /// The database's failures.
    pub async fn outputs_held(&self) -> Result<i64, StoreError> {
        let sum = self.read("adding up outputs", |db| db.one(SUM, (), |row| row.get(0))).await?;
        Ok(sum.unwrap_or(0))
    }

    /// Outputs of the runs that ended first.
    ///
    /// # Errors
    /// The database's failures.
    pub async fn oldest_outputs(&self, limit: u32) -> Result<Vec<KeptOutput>, StoreError> {
        self.read("listing old outputs", move |db| db.all(OLDEST, (limit.min(ROWS_MAX),), kept)).await
    }

    /// Notes that nothing is kept any more of these runs' outputs; files are to be removed afterwards.
    ///
    /// # Errors
    /// The database's failures.
    pub async fn forget_outputs(&self, ids: Vec<RunId>) -> Result<(), StoreError> {
        self.write("forgetting outputs", move |db| {
            for id in ids {
                db.execute(FORGET, (id.as_str(),))?;
            }
            Ok(())
        })
        .await
    }

    /// Notes that nothing is kept of the outputs of some of a box's runs, and returns which; call again until there are none.
    ///
    /// # Errors
    /// The database's failures.
    pub async fn forget_outputs_of(&self, box_id: BoxId) -> Result<Vec<KeptOutput>, StoreError> {
        self.write("forgetting a box's outputs", move |db| {
            let outputs = db.all(OF_BOX, (box_id.as_str(), ROWS_MAX), kept)?;
            for output in &outputs {
                db.execute(FORGET, (output.run_id.as_str(),))?;
            }
            Ok(outputs)
        })
        .await
    }

    /// Runs of a box that may have a file with output.
    ///
    /// # Errors
    /// The database's failures.
    pub async fn runs_with_files(&self, box_id: &BoxId) -> Result<Vec<RunId>, StoreError> {
        let box_id = box_id.clone();
        self.read("listing outputs", move |db| db.all(IN_FILES, (box_id.as_str(),), |row| parsed(row, 0))).await
    }

    /// Deleted boxes of whose runs something is kept still.
    ///
    /// # Errors
    /// The database's failures.
    pub async fn deleted_boxes_with_outputs(&self) -> Result<Vec<BoxId>, StoreError> {
        self.read("listing outputs of deleted boxes", |db| db.all(OF_DELETED, (), |row| parsed(row, 0))).await
    }
}

pub(super) fn kept(row: &Row<'_>) -> rusqlite::Result<KeptOutput> {
    Ok(KeptOutput { run_id: parsed(row, 0)?, box_id: parsed(row, 1)?, held: row.get(2)? })
}
