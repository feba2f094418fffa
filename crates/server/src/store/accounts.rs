//! Accounts: who owns boxes and keys.

use boxyard_proto::AccountId;

use super::sql::Sql;
use super::sqlite::{broken_unique, parsed};
use super::{Failure, Store, StoreError};

const INSERT: Sql = Sql::new("insert into accounts (id, name, created_at) values ($1, $2, $3)");
const LIST: Sql = Sql::new("select id, name, created_at from accounts order by created_at, id");

/// Owner of boxes and keys. Accounts never see each other's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its id.
    pub id: AccountId,
    /// What the operator calls it; unique.
    pub name: String,
    /// When it was made.
    pub created_at: i64,
}

impl Store {
    /// Adds an account.
    ///
    /// # Errors
    /// [`StoreError::NameTaken`], [`StoreError::IdTaken`], or the database's failures.
    pub async fn insert_account(&self, account: Account) -> Result<(), StoreError> {
        self.write("adding an account", move |db| {
            let params = (account.id.as_str(), &account.name, account.created_at);
            db.execute(INSERT, params).map_err(|error| match broken_unique(&error) {
                Some("accounts.name") => Failure::Refused(StoreError::NameTaken),
                Some(_) => Failure::Refused(StoreError::IdTaken),
                None => Failure::Sql(error),
            })?;
            Ok(())
        })
        .await
    }

    /// All accounts, the oldest first.
    ///
    /// # Errors
    /// The database's failures.
    pub async fn accounts(&self) -> Result<Vec<Account>, StoreError> {
        self.read("listing accounts", |db| {
            db.all(LIST, (), |row| Ok(Account { id: parsed(row, 0)?, name: row.get(1)?, created_at: row.get(2)? }))
        })
        .await
    }
}
