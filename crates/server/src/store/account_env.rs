//! Variables that an account's boxes get when they are made.

use std::collections::BTreeMap;

use boxyard_proto::AccountId;

use super::sql::Sql;
use super::sqlite::Db;
use super::{Failure, Store, StoreError};

const LIST: Sql = Sql::new("select name, value from account_env where account = $1 order by name");
const SET: Sql = Sql::new(
    "insert into account_env (account, name, value) values ($1, $2, $3)
     on conflict (account, name) do update set value = excluded.value",
);
const UNSET: Sql = Sql::new("delete from account_env where account = $1 and name = $2");
const CLEAR: Sql = Sql::new("delete from account_env where account = $1");

impl Store {
    /// The account's variables.
    ///
    /// # Errors
    /// The database's failures.
    pub async fn account_env(&self, account: &AccountId) -> Result<BTreeMap<String, String>, StoreError> {
        let account = account.clone();
        self.read("reading an account's environment", move |db| read(db, &account)).await
    }

    /// Sets some of the account's variables and leaves the others, if `fits` says yes to all of them together.
    ///
    /// # Errors
    /// [`StoreError::Full`] when `fits` says no, or the database's failures. Nothing is set then.
    pub async fn set_account_variables(
        &self,
        account: &AccountId,
        variables: BTreeMap<String, String>,
        fits: impl FnOnce(&BTreeMap<String, String>) -> bool + Send + 'static,
    ) -> Result<(), StoreError> {
        let account = account.clone();
        self.write("setting an account's variables", move |db| {
            set(db, &account, &variables)?;
            if fits(&read(db, &account)?) { Ok(()) } else { Err(StoreError::Full.into()) }
        })
        .await
    }

    /// Replaces all of the account's variables.
    ///
    /// # Errors
    /// The database's failures.
    pub async fn replace_account_env(
        &self,
        account: &AccountId,
        variables: BTreeMap<String, String>,
    ) -> Result<(), StoreError> {
        let account = account.clone();
        self.write("replacing an account's environment", move |db| {
            db.execute(CLEAR, (account.as_str(),))?;
            set(db, &account, &variables)
        })
        .await
    }

    /// Removes one of the account's variables, if it is there.
    ///
    /// # Errors
    /// The database's failures.
    pub async fn unset_account_variable(&self, account: &AccountId, name: String) -> Result<(), StoreError> {
        let account = account.clone();
        self.write("removing an account's variable", move |db| {
            db.execute(UNSET, (account.as_str(), name))?;
            Ok(())
        })
        .await
    }
}

fn read(db: &Db, account: &AccountId) -> rusqlite::Result<BTreeMap<String, String>> {
    let rows = db.all(LIST, (account.as_str(),), |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.into_iter().collect())
}

fn set(db: &Db, account: &AccountId, variables: &BTreeMap<String, String>) -> Result<(), Failure> {
    for (name, value) in variables {
        db.execute(SET, (account.as_str(), name, value))?;
    }
    Ok(())
}
