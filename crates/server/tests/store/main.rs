//! The store as its callers see it.

mod account;
mod boxes;
mod durability;
mod keys;
mod runs;
mod snapshots;
mod ssh;

use std::collections::BTreeMap;

use boxyard_proto::names::Size;
use boxyard_proto::{AccountId, BoxId};
use boxyard_server::store::{Account, BoxRow, Store, StoreOptions};
use tempfile::TempDir;

/// A store in a folder of its own, with one account.
struct Yard {
    store: Store,
    account: AccountId,
    folder: TempDir,
}

impl Yard {
    async fn open() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store =
            Store::open(&folder.path().join("test.db"), StoreOptions::default()).await.expect("open a new store");
        let account = account(1);
        let row = Account { id: account.clone(), name: "default".into(), created_at: 1 };
        store.insert_account(row).await.expect("add the account");
        Self { store, account, folder }
    }

    /// Closes the store and opens it again.
    async fn reopen(mut self) -> Self {
        self.store.close().await;
        let path = self.folder.path().join("test.db");
        self.store = Store::open(&path, StoreOptions::default()).await.expect("open the store again");
        self
    }

    /// Adds a box and returns its id.
    async fn insert(&self, number: u64) -> BoxId {
        self.store.insert_box(box_row(&self.account, number)).await.expect("add a box");
        BoxId::from_entropy(number)
    }
}

fn account(number: u128) -> AccountId {
    AccountId::from_entropy(number)
}

fn box_row(account: &AccountId, number: u64) -> BoxRow {
    BoxRow {
        id: BoxId::from_entropy(number),
        account: account.clone(),
        name: None,
        labels: Vec::new(),
        size: Size::SMALL,
        runtime: "node".into(),
        env: BTreeMap::from([("TOKEN".into(), "s3cret".into())]),
        engine: "local".into(),
        phase: "creating".into(),
        error: None,
        total_cpu_ns: 0,
        last_activity_at: 10,
        created_at: 10,
        updated_at: 10,
        deleted_at: None,
        from_snapshot: None,
        keep_alive: false,
        init_command: String::new(),
        init_due: false,
        expires_at: None,
        git_user_name: None,
        git_user_email: None,
    }
}
