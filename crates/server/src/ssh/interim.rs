//! Stands in for `store/ssh_keys.rs` and `store/ssh_tokens.rs` until they are merged: the methods of [`Store`] itself go before those of a
//! trait, so nothing changes here but that this file is no longer needed.

use boxyard_proto::{AccountId, BoxId};

use crate::store::{Store, StoreError};

pub(super) struct SshToken {
    pub(super) account: AccountId,
    pub(super) box_id: BoxId,
    pub(super) expires_at: i64,
}

pub(super) trait Interim {
    async fn find_ssh_token(&self, hash: [u8; 32]) -> Result<Option<SshToken>, StoreError>;
    async fn accounts_of_ssh_key(&self, key: Vec<u8>) -> Result<Vec<AccountId>, StoreError>;
}

impl Interim for Store {
    async fn find_ssh_token(&self, _: [u8; 32]) -> Result<Option<SshToken>, StoreError> {
        Ok(None)
    }

    async fn accounts_of_ssh_key(&self, _: Vec<u8>) -> Result<Vec<AccountId>, StoreError> {
        Ok(Vec::new())
    }
}
