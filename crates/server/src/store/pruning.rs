//! The end of deleted boxes' records: a box's row goes with everything that refers to it.

use rusqlite::Row;

use super::sql::Sql;
use super::{Store, StoreError};

/// Boxes that one call removes at most.
const BOXES_MAX: i64 = 50;
/// Rows of one table that one call removes at most, of all boxes together, so that the writer is not held up.
const ROWS_MAX: i64 = 2_000;

const OLD: Sql =
    Sql::new("select id from boxes where deleted_at is not null and deleted_at < $1 order by deleted_at, id limit $2");
const LOGS: Sql = Sql::new(
    "delete from logs where (box_id, at, seq) in
        (select box_id, at, seq from logs where box_id = $1 limit $2)",
);
const RUNS: Sql = Sql::new("delete from runs where id in (select id from runs where box_id = $1 limit $2)");
// These few go with the box's deletion or are bounded by the API; every table that refers to boxes must be here.
const TOKENS: Sql = Sql::new("delete from ssh_tokens where box_id = $1");
const LABELS: Sql = Sql::new("delete from box_labels where box_id = $1");
const NAMES: Sql = Sql::new("delete from box_names where box_id = $1");
const CLAIMS: Sql = Sql::new("delete from claims where box_id = $1");
const GIT_TOKENS: Sql = Sql::new("delete from git_tokens where box_id = $1");
const BOX: Sql = Sql::new("delete from boxes where id = $1 and deleted_at is not null");

/// What [`Store::prune_boxes`] has removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PrunedBoxes {
    /// Boxes of which nothing is left.
    pub boxes: usize,
    /// There may be more to remove: call again.
    pub more: bool,
}

impl Store {
    /// Removes records of boxes that were deleted before `deleted_before`, the oldest first, with their labels, runs, logs and SSH
    /// tokens: a bounded number at a time. A box with very many runs or log entries takes several calls, its row goes with the last.
    ///
    /// # Errors
    /// The database's failures.
    pub async fn prune_boxes(&self, deleted_before: i64) -> Result<PrunedBoxes, StoreError> {
        self.write("removing records of deleted boxes", move |db| {
            let old = db.all(OLD, (deleted_before, BOXES_MAX), |row: &Row<'_>| row.get::<_, String>(0))?;
            let mut pruned = PrunedBoxes { boxes: 0, more: i64::try_from(old.len()).is_ok_and(|n| n == BOXES_MAX) };
            let (mut logs, mut runs) = (ROWS_MAX, ROWS_MAX);
            for id in old {
                logs -= removed(db.execute(LOGS, (&id, logs))?);
                runs -= removed(db.execute(RUNS, (&id, runs))?);
                if logs <= 0 || runs <= 0 {
                    // Perhaps there are more of this box; the next call finds out.
                    pruned.more = true;
                    break;
                }
                for sql in [TOKENS, LABELS, NAMES, CLAIMS, GIT_TOKENS] {
                    db.execute(sql, (&id,))?;
                }
                pruned.boxes += db.execute(BOX, (&id,))?;
            }
            Ok(pruned)
        })
        .await
    }
}

fn removed(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}
