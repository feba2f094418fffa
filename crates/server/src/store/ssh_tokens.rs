//! SSH tokens: passwords of one box each, for a time. The tokens themselves are not here, only their SHA-256 hashes (why that is
//! enough is said in `keys.rs`). Those of a deleted box go with it, expired ones with the next pruning.

use boxyard_proto::{AccountId, BoxId, SshTokenId};

use super::sql::Sql;
use super::sqlite::{broken_unique, parsed};
use super::{Failure, Store, StoreError};

const LIVE_BOX: Sql = Sql::new("select id from boxes where id = $1 and account = $2 and deleted_at is null");
const COUNT: Sql =
    Sql::new("select count(*) from ssh_tokens where account = $1 and expires_at > $2 and revoked_at is null");
const INSERT: Sql = Sql::new(
    "insert into ssh_tokens (id, account, box_id, hash, label, created_at, expires_at)
     values ($1, $2, $3, $4, $5, $6, $7)",
);
const LIST: Sql = Sql::new(
    "select id, label, created_at, expires_at from ssh_tokens
     where box_id = $1 and expires_at > $2 and revoked_at is null order by created_at, id",
);
const FIND: Sql =
    Sql::new("select id, account, box_id, expires_at from ssh_tokens where hash = $1 and revoked_at is null");
const REVOKE: Sql = Sql::new(
    "update ssh_tokens set revoked_at = $1 where id = $2 and box_id = $3 and expires_at > $1 and revoked_at is null",
);

/// A token to add.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSshToken {
    /// Its id, which is no secret.
    pub id: SshTokenId,
    /// The account that owns the box.
    pub account: AccountId,
    /// The only box that it opens.
    pub box_id: BoxId,
    /// SHA-256 of the token.
    pub hash: [u8; 32],
    /// What it is called.
    pub label: Option<String>,
    /// When it was made.
    pub created_at: i64,
    /// From when on it lets nobody in.
    pub expires_at: i64,
}

/// A token as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshTokenRow {
    /// Its id, which is no secret.
    pub id: SshTokenId,
    /// What it is called.
    pub label: Option<String>,
    /// When it was made.
    pub created_at: i64,
    /// From when on it lets nobody in.
    pub expires_at: i64,
}

/// A token that somebody shows. It is not revoked; whether it has expired is for the caller to see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshToken {
    /// Its id, which is no secret.
    pub id: SshTokenId,
    /// The account that owns the box.
    pub account: AccountId,
    /// The only box that it opens.
    pub box_id: BoxId,
    /// From when on it lets nobody in: milliseconds since 1970.
    pub expires_at: i64,
}

impl Store {
    /// Adds a token of a box to an account that may have `most` live ones.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when the account has no such box any more, [`StoreError::Full`] when it has `most` live tokens,
    /// [`StoreError::IdTaken`] when the id or the hash is there, or the database's failures.
    pub async fn insert_ssh_token(&self, token: NewSshToken, most: u32) -> Result<(), StoreError> {
        self.write("adding an SSH token", move |db| {
            let (account, box_id) = (token.account.as_str(), token.box_id.as_str());
            if db.one(LIVE_BOX, (box_id, account), |_| Ok(()))?.is_none() {
                return Err(StoreError::NotFound.into());
            }
            let live = db.one(COUNT, (account, token.created_at), |row| row.get::<_, i64>(0))?.unwrap_or_default();
            if live >= i64::from(most) {
                return Err(StoreError::Full.into());
            }
            let params =
                (token.id.as_str(), account, box_id, token.hash, &token.label, token.created_at, token.expires_at);
            db.execute(INSERT, params).map_err(|error| match broken_unique(&error) {
                Some(_) => Failure::Refused(StoreError::IdTaken),
                None => Failure::Sql(error),
            })?;
            Ok(())
        })
        .await
    }

    /// A box's tokens that are live at `now`, the oldest first.
    ///
    /// # Errors
    /// The database's failures.
    pub async fn ssh_tokens(&self, box_id: &BoxId, now: i64) -> Result<Vec<SshTokenRow>, StoreError> {
        let box_id = box_id.clone();
        self.read("listing SSH tokens", move |db| {
            db.all(LIST, (box_id.as_str(), now), |row| {
                Ok(SshTokenRow {
                    id: parsed(row, 0)?,
                    label: row.get(1)?,
                    created_at: row.get(2)?,
                    expires_at: row.get(3)?,
                })
            })
        })
        .await
    }

    /// The token with this SHA-256, unless it is revoked.
    ///
    /// # Errors
    /// The database's failures.
    pub async fn find_ssh_token(&self, hash: [u8; 32]) -> Result<Option<SshToken>, StoreError> {
        self.read("looking up an SSH token", move |db| {
            db.one(FIND, (hash,), |row| {
                Ok(SshToken {
                    id: parsed(row, 0)?,
                    account: parsed(row, 1)?,
                    box_id: parsed(row, 2)?,
                    expires_at: row.get(3)?,
                })
            })
        })
        .await
    }

    /// Revokes a box's token for ever. Says whether there was a live one.
    ///
    /// # Errors
    /// The database's failures.
    pub async fn revoke_ssh_token(&self, box_id: &BoxId, id: SshTokenId, now: i64) -> Result<bool, StoreError> {
        let box_id = box_id.clone();
        self.write("revoking an SSH token", move |db| Ok(db.execute(REVOKE, (now, id.as_str(), box_id.as_str()))? > 0))
            .await
    }
}
