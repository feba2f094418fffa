//! API keys. The keys themselves are not here, only their SHA-256 hashes.
//!
//! A fast hash without salt is right for them: a key is 256 random bits, so there is nothing to guess, and a look-up by hash stays one
//! look-up in an index. (An operator's own bootstrap key is as strong as the operator makes it.)

use boxyard_proto::{AccountId, KeyId};

use super::sql::Sql;
use super::sqlite::{broken_unique, parsed};
use super::{Failure, Store, StoreError};

const INSERT: Sql =
    Sql::new("insert into keys (id, account, hash, prefix, label, created_at) values ($1, $2, $3, $4, $5, $6)");
const LIST: Sql = Sql::new(
    "select id, account, prefix, label, created_at, revoked_at from keys
     order by created_at, id",
);
const FIND: Sql = Sql::new("select id, account from keys where hash = $1 and revoked_at is null");
const REVOKE: Sql = Sql::new("update keys set revoked_at = $1 where id = $2 and revoked_at is null");

/// A key to add.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewKey {
    /// Its id, which is no secret.
    pub id: KeyId,
    /// The account that it opens.
    pub account: AccountId,
    /// SHA-256 of the key.
    pub hash: [u8; 32],
    /// The key's first characters, by which its owner recognises it.
    pub prefix: String,
    /// What it is for.
    pub label: Option<String>,
    /// When it was made.
    pub created_at: i64,
}

/// A key as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRow {
    /// Its id, which is no secret.
    pub id: KeyId,
    /// The account that it opens.
    pub account: AccountId,
    /// The key's first characters, by which its owner recognises it.
    pub prefix: String,
    /// What it is for.
    pub label: Option<String>,
    /// When it was made.
    pub created_at: i64,
    /// When it was revoked, if it was.
    pub revoked_at: Option<i64>,
}

impl Store {
    /// Adds a key.
    ///
    /// # Errors
    /// [`StoreError::IdTaken`] when the id or the hash is there, revoked ones included; or the database's failures.
    pub async fn insert_key(&self, key: NewKey) -> Result<(), StoreError> {
        self.write("adding a key", move |db| {
            let params = (key.id.as_str(), key.account.as_str(), key.hash, &key.prefix, &key.label, key.created_at);
            db.execute(INSERT, params).map_err(|error| match broken_unique(&error) {
                Some(_) => Failure::Refused(StoreError::IdTaken),
                None => Failure::Sql(error),
            })?;
            Ok(())
        })
        .await
    }

    /// The keys of all accounts, revoked ones included, the oldest first.
    ///
    /// # Errors
    /// The database's failures.
    pub async fn keys(&self) -> Result<Vec<KeyRow>, StoreError> {
        self.read("listing keys", |db| {
            db.all(LIST, (), |row| {
                Ok(KeyRow {
                    id: parsed(row, 0)?,
                    account: parsed(row, 1)?,
                    prefix: row.get(2)?,
                    label: row.get(3)?,
                    created_at: row.get(4)?,
                    revoked_at: row.get(5)?,
                })
            })
        })
        .await
    }

    /// The live key with this hash, if there is one.
    ///
    /// # Errors
    /// The database's failures.
    pub async fn find_key(&self, hash: [u8; 32]) -> Result<Option<(KeyId, AccountId)>, StoreError> {
        self.read("looking up a key", move |db| db.one(FIND, (hash,), |row| Ok((parsed(row, 0)?, parsed(row, 1)?))))
            .await
    }

    /// Revokes a key for ever. Says whether there was a live one.
    ///
    /// # Errors
    /// The database's failures.
    pub async fn revoke_key(&self, id: KeyId, at: i64) -> Result<bool, StoreError> {
        self.write("revoking a key", move |db| Ok(db.execute(REVOKE, (at, id.as_str()))? > 0)).await
    }
}
