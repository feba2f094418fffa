//! Claims: the idempotency keys under which clients have begun runs.

use boxyard_proto::{BoxId, RunId};
use rusqlite::Row;

use super::runs::insert_run;
use super::sql::Sql;
use super::sqlite::{Db, parsed};
use super::{RunRow, Store, StoreError};

const FIND: Sql = Sql::new("select run_id, hash from claims where box_id = $1 and name = $2");
const INSERT: Sql = Sql::new("insert into claims (box_id, name, run_id, hash, created_at) values ($1, $2, $3, $4, $5)");

/// A name that a client has given to what it asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The name.
    pub name: String,
    /// SHA-256 of what it asks for.
    pub hash: [u8; 32],
}

/// A claim that was made before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimRow {
    /// The run that was begun under it.
    pub run_id: RunId,
    /// SHA-256 of what was asked for then.
    pub hash: Vec<u8>,
}

impl Store {
    /// The claim of this name in a box, if there is one.
    ///
    /// # Errors
    /// The database's failures.
    pub async fn find_claim(&self, box_id: &BoxId, name: &str) -> Result<Option<ClaimRow>, StoreError> {
        let (box_id, name) = (box_id.clone(), name.to_owned());
        self.read("looking up a claim", move |db| find(db, &box_id, &name)).await
    }

    /// Adds a run together with the claim that it is begun under. Where there is a claim of that name already nothing is added, and that
    /// one is returned.
    ///
    /// # Errors
    /// As [`Store::insert_run`].
    pub async fn insert_claimed_run(&self, row: RunRow, claim: Claim) -> Result<Option<ClaimRow>, StoreError> {
        let seq = self.next_seq();
        self.write("adding a run", move |db| {
            if let Some(before) = find(db, &row.box_id, &claim.name)? {
                return Ok(Some(before));
            }
            insert_run(db, &row, seq)?;
            let params = rusqlite::params![
                row.box_id.as_str(),
                claim.name,
                row.id.as_str(),
                claim.hash.as_slice(),
                row.created_at
            ];
            db.execute(INSERT, params)?;
            Ok(None)
        })
        .await
    }
}

fn find(db: &Db, box_id: &BoxId, name: &str) -> rusqlite::Result<Option<ClaimRow>> {
    db.one(FIND, (box_id.as_str(), name), |row: &Row<'_>| Ok(ClaimRow { run_id: parsed(row, 0)?, hash: row.get(1)? }))
}
