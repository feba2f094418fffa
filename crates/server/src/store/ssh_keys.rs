//! SSH public keys. Each opens all boxes of its account; the same key may be in several accounts.

use boxyard_proto::{AccountId, SshKeyId};
use rusqlite::Row;

use super::sql::Sql;
use super::sqlite::{broken_unique, parsed};
use super::{Failure, Store, StoreError};

/// Accounts that one key is looked up in at most, the oldest entries first.
const ACCOUNTS_MAX: i64 = 1_000;

const INSERT: Sql = Sql::new(
    "insert into ssh_keys (id, account, key, algorithm, fingerprint, label, created_at)
     values ($1, $2, $3, $4, $5, $6, $7)",
);
const COUNT: Sql = Sql::new("select count(*) from ssh_keys where account = $1");
const REMOVE: Sql = Sql::new("delete from ssh_keys where account = $1 and (id = $2 or fingerprint = $2)");
const ACCOUNTS: Sql = Sql::new("select account from ssh_keys where key = $1 order by created_at, id limit $2");

/// Queries of keys read the same columns in the same order.
macro_rules! select_keys {
    ($rest:literal) => {
        Sql::new(concat!("select id, account, key, algorithm, fingerprint, label, created_at from ssh_keys ", $rest))
    };
}

const LIST: Sql = select_keys!("where account = $1 order by created_at, id");
const SAME: Sql = select_keys!("where account = $1 and key = $2");

/// A public key of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshKeyRow {
    /// Its id.
    pub id: SshKeyId,
    /// The account whose boxes it opens.
    pub account: AccountId,
    /// The key in SSH's wire encoding (RFC 4253, section 6.6).
    pub key: Vec<u8>,
    /// Its algorithm's name in SSH, for example `ssh-ed25519`.
    pub algorithm: String,
    /// `SHA256:` and the base 64 of its hash.
    pub fingerprint: String,
    /// What it is called.
    pub label: Option<String>,
    /// When it was added.
    pub created_at: i64,
}

impl Store {
    /// Adds a key to an account that may have `most` keys. A key that the account has already stays as it is and is returned.
    ///
    /// # Errors
    /// [`StoreError::Full`] when the account has `most` keys, [`StoreError::IdTaken`], or the database's failures.
    pub async fn insert_ssh_key(&self, row: SshKeyRow, most: u32) -> Result<SshKeyRow, StoreError> {
        self.write("adding an SSH key", move |db| {
            let account = row.account.as_str();
            if let Some(same) = db.one(SAME, (account, &row.key), key_row)? {
                return Ok(same);
            }
            let count = db.one(COUNT, (account,), |row| row.get::<_, i64>(0))?.unwrap_or_default();
            if count >= i64::from(most) {
                return Err(StoreError::Full.into());
            }
            let params =
                (row.id.as_str(), account, &row.key, &row.algorithm, &row.fingerprint, &row.label, row.created_at);
            db.execute(INSERT, params).map_err(|error| match broken_unique(&error) {
                Some(_) => Failure::Refused(StoreError::IdTaken),
                None => Failure::Sql(error),
            })?;
            Ok(row)
        })
        .await
    }

    /// An account's keys, the oldest first.
    ///
    /// # Errors
    /// The database's failures.
    pub async fn ssh_keys(&self, account: &AccountId) -> Result<Vec<SshKeyRow>, StoreError> {
        let account = account.clone();
        self.read("listing SSH keys", move |db| db.all(LIST, (account.as_str(),), key_row)).await
    }

    /// Removes an account's key with this id or fingerprint for ever. Says whether there was one.
    ///
    /// # Errors
    /// The database's failures.
    pub async fn remove_ssh_key(&self, account: &AccountId, id_or_fingerprint: &str) -> Result<bool, StoreError> {
        let (account, text) = (account.clone(), id_or_fingerprint.to_owned());
        self.write("removing an SSH key", move |db| Ok(db.execute(REMOVE, (account.as_str(), &text))? > 0)).await
    }

    /// The accounts that this key opens. `key` is in SSH's wire encoding.
    ///
    /// # Errors
    /// The database's failures.
    pub async fn accounts_of_ssh_key(&self, key: Vec<u8>) -> Result<Vec<AccountId>, StoreError> {
        self.read("looking up an SSH key", move |db| db.all(ACCOUNTS, (&key, ACCOUNTS_MAX), |row| parsed(row, 0))).await
    }
}

/// Reads a row of `select_keys!`.
fn key_row(row: &Row<'_>) -> rusqlite::Result<SshKeyRow> {
    Ok(SshKeyRow {
        id: parsed(row, 0)?,
        account: parsed(row, 1)?,
        key: row.get(2)?,
        algorithm: row.get(3)?,
        fingerprint: row.get(4)?,
        label: row.get(5)?,
        created_at: row.get(6)?,
    })
}
