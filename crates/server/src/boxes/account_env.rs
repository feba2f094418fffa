//! Variables of an account: every box that it makes gets them, under the box's own.

use std::collections::BTreeMap;

use boxyard_proto::AccountId;
use boxyard_proto::names::{ENV_BYTES_MAX, ENV_VARS_MAX, InvalidName, check_env};

use super::{BoxError, Boxes};
use crate::store::StoreError;

impl Boxes {
    /// The names of the account's variables, in order. Nobody is shown the values.
    ///
    /// # Errors
    /// The store failed.
    pub async fn account_env(&self, account: &AccountId) -> Result<Vec<String>, BoxError> {
        Ok(self.yard.store.account_env(account).await?.into_keys().collect())
    }

    /// Sets one of the account's variables, for boxes that are made from now on.
    ///
    /// # Errors
    /// The variable breaks a rule, there are as many as there may be, or the store failed.
    pub async fn set_account_variable(&self, account: &AccountId, name: String, value: String) -> Result<(), BoxError> {
        let one = BTreeMap::from([(name, value)]);
        check_env(&one)?;
        let fits = |env: &BTreeMap<String, String>| check_env(env).is_ok();
        match self.yard.store.set_account_variables(account, one, fits).await {
            Ok(()) => Ok(()),
            Err(StoreError::Full) => Err(InvalidName(format!(
                "env_vars: the account's variables may be at most {ENV_VARS_MAX} and have {ENV_BYTES_MAX} bytes together"
            ))
            .into()),
            Err(error) => Err(error.into()),
        }
    }

    /// Replaces all of the account's variables, for boxes that are made from now on.
    ///
    /// # Errors
    /// A variable breaks a rule, or the store failed.
    pub async fn replace_account_env(
        &self,
        account: &AccountId,
        env: BTreeMap<String, String>,
    ) -> Result<(), BoxError> {
        check_env(&env)?;
        Ok(self.yard.store.replace_account_env(account, env).await?)
    }

    /// Removes one of the account's variables. One that is not there is removed already.
    ///
    /// # Errors
    /// The store failed.
    pub async fn unset_account_variable(&self, account: &AccountId, name: String) -> Result<(), BoxError> {
        Ok(self.yard.store.unset_account_variable(account, name).await?)
    }

    /// What a box of the account gets that asks for `env`.
    ///
    /// # Errors
    /// Together they are too much for one box, or the store failed.
    pub(super) async fn with_account_env(
        &self,
        account: &AccountId,
        env: BTreeMap<String, String>,
    ) -> Result<BTreeMap<String, String>, BoxError> {
        let mut all = self.yard.store.account_env(account).await?;
        if all.is_empty() {
            return Ok(env);
        }
        all.extend(env);
        check_env(&all).map_err(|error| InvalidName(format!("{error}, those of the account included")))?;
        Ok(all)
    }
}
