use boxyard_proto::{AccountId, BoxId, SshKeyId, SshTokenId};
use boxyard_server::store::{Account, NewSshToken, SshKeyRow, Store, StoreError, StoreOptions};
use rusqlite::Connection;

use super::{Yard, account};

/// A time that no test reaches.
const FAR: i64 = 9_000_000_000_000;

fn key(account: &AccountId, number: u8) -> SshKeyRow {
    SshKeyRow {
        id: SshKeyId::from_entropy(u128::from(number)),
        account: account.clone(),
        key: vec![number; 51],
        algorithm: "ssh-ed25519".into(),
        fingerprint: format!("SHA256:{number}"),
        label: Some("laptop".into()),
        created_at: i64::from(number),
    }
}

fn token(account: &AccountId, box_id: &BoxId, number: u8) -> NewSshToken {
    NewSshToken {
        id: SshTokenId::from_entropy(u128::from(number)),
        account: account.clone(),
        box_id: box_id.clone(),
        hash: [number; 32],
        label: None,
        created_at: i64::from(number),
        expires_at: FAR,
    }
}

async fn second_account(yard: &Yard) -> AccountId {
    let row = Account { id: account(2), name: "second".into(), created_at: 5 };
    yard.store.insert_account(row).await.expect("add an account");
    account(2)
}

#[tokio::test]
async fn a_key_opens_every_account_that_has_it_until_it_is_removed() {
    let yard = Yard::open().await;
    let (first, second) = (yard.account.clone(), second_account(&yard).await);
    let insert = |row: SshKeyRow| {
        let store = yard.store.clone();
        async move { store.insert_ssh_key(row, 3).await }
    };
    assert_eq!(insert(key(&first, 1)).await.expect("add a key"), key(&first, 1));
    let same = SshKeyRow { id: SshKeyId::from_entropy(9), account: second.clone(), created_at: 9, ..key(&first, 1) };
    insert(same).await.expect("the same key in another account");
    assert_eq!(yard.store.accounts_of_ssh_key(vec![1; 51]).await.expect("look up"), [first.clone(), second.clone()]);
    assert_eq!(yard.store.accounts_of_ssh_key(vec![1; 50]).await.expect("look up"), []);

    let again = SshKeyRow { id: SshKeyId::from_entropy(8), label: None, ..key(&first, 1) };
    assert_eq!(insert(again).await.expect("add it again"), key(&first, 1), "it stays as it was");
    let refused = insert(SshKeyRow { id: key(&first, 1).id, ..key(&first, 2) }).await;
    assert!(matches!(refused, Err(StoreError::IdTaken)), "{refused:?}");

    insert(key(&first, 2)).await.expect("a second key");
    insert(key(&first, 3)).await.expect("a third key");
    let refused = insert(key(&first, 4)).await;
    assert!(matches!(refused, Err(StoreError::Full)), "{refused:?}");
    insert(key(&first, 3)).await.expect("one that is there needs no room");

    assert!(!yard.store.remove_ssh_key(&second, key(&first, 2).id.as_str()).await.expect("remove another's"));
    assert!(yard.store.remove_ssh_key(&first, key(&first, 2).id.as_str()).await.expect("remove by id"));
    assert!(yard.store.remove_ssh_key(&first, "SHA256:1").await.expect("remove by fingerprint"));
    assert!(!yard.store.remove_ssh_key(&first, "SHA256:1").await.expect("remove again"));
    let yard = yard.reopen().await;
    assert_eq!(yard.store.accounts_of_ssh_key(vec![1; 51]).await.expect("look up"), [second]);
    assert_eq!(yard.store.ssh_keys(&first).await.expect("list"), [key(&first, 3)]);
}

#[tokio::test]
async fn a_token_opens_its_box_until_it_is_revoked() {
    let yard = Yard::open().await;
    let (id, other) = (yard.insert(1).await, yard.insert(2).await);
    let first = yard.account.clone();
    yard.store.insert_ssh_token(token(&first, &id, 1), 10).await.expect("add a token");
    yard.store.insert_ssh_token(token(&first, &id, 2), 10).await.expect("add another");
    let refused = yard.store.insert_ssh_token(NewSshToken { hash: [1; 32], ..token(&first, &id, 3) }, 10).await;
    assert!(matches!(refused, Err(StoreError::IdTaken)), "{refused:?}");

    let found = yard.store.find_ssh_token([1; 32]).await.expect("find").expect("a token");
    assert_eq!((found.account, found.box_id, found.expires_at), (first.clone(), id.clone(), FAR));
    assert_eq!(yard.store.find_ssh_token([9; 32]).await.expect("find"), None);

    let revoke = |box_id: &BoxId, at| {
        let (store, box_id) = (yard.store.clone(), box_id.clone());
        async move { store.revoke_ssh_token(&box_id, SshTokenId::from_entropy(1), at).await.expect("revoke") }
    };
    assert!(!revoke(&other, 50).await, "another box's");
    assert!(!revoke(&id, FAR).await, "an expired one");
    assert!(revoke(&id, 50).await);
    assert!(!revoke(&id, 60).await, "a revoked one");
    assert_eq!(yard.store.find_ssh_token([1; 32]).await.expect("find"), None);
    let listed = |now| {
        let (store, id) = (yard.store.clone(), id.clone());
        async move { store.ssh_tokens(&id, now).await.expect("list").into_iter().map(|row| row.id).collect::<Vec<_>>() }
    };
    assert_eq!(listed(50).await, [SshTokenId::from_entropy(2)]);
    assert_eq!(listed(FAR).await, []);
    assert_eq!(yard.store.ssh_tokens(&other, 0).await.expect("list"), []);
}

#[tokio::test]
async fn live_tokens_are_counted_and_boxes_looked_at() {
    let yard = Yard::open().await;
    let (first, second) = (yard.account.clone(), second_account(&yard).await);
    let id = yard.insert(1).await;
    let insert = |token: NewSshToken| {
        let store = yard.store.clone();
        async move { store.insert_ssh_token(token, 2).await }
    };
    for refused in [insert(token(&second, &id, 1)).await, insert(token(&first, &BoxId::from_entropy(9), 1)).await] {
        assert!(matches!(refused, Err(StoreError::NotFound)), "{refused:?}");
    }
    insert(NewSshToken { expires_at: 3, ..token(&first, &id, 1) }).await.expect("one that expires at 3");
    insert(token(&first, &id, 2)).await.expect("a second one at 2");
    insert(token(&first, &id, 3)).await.expect("a third at 3, when the first is no more");
    let refused = insert(token(&first, &id, 4)).await;
    assert!(matches!(refused, Err(StoreError::Full)), "{refused:?}");
    assert!(yard.store.revoke_ssh_token(&id, SshTokenId::from_entropy(2), 4).await.expect("revoke"));
    insert(token(&first, &id, 4)).await.expect("a revoked one counts for nothing");

    let pruned = yard.store.prune(0, 0, 0).await.expect("prune");
    assert_eq!((pruned.ssh_tokens, pruned.more), (1, false), "what expired goes, what is revoked stays for its time");
    assert_eq!(yard.store.find_ssh_token([1; 32]).await.expect("find"), None);
    assert!(yard.store.find_ssh_token([3; 32]).await.expect("find").is_some());
    assert_eq!(yard.store.prune(0, 0, 0).await.expect("prune").ssh_tokens, 0);
}

#[tokio::test]
async fn a_deleted_box_takes_its_tokens_with_it() {
    let yard = Yard::open().await;
    let (id, other) = (yard.insert(1).await, yard.insert(2).await);
    let first = yard.account.clone();
    yard.store.insert_ssh_token(token(&first, &id, 1), 2).await.expect("add a token");
    yard.store.insert_ssh_token(token(&first, &other, 2), 2).await.expect("add a token of another box");
    yard.store.set_phase(id.clone(), "deleting".into(), None, 20).await.expect("begin to delete");
    yard.store.set_phase(id.clone(), "deleted".into(), None, 21).await.expect("delete");
    assert_eq!(yard.store.find_ssh_token([1; 32]).await.expect("find"), None);
    assert!(yard.store.find_ssh_token([2; 32]).await.expect("find").is_some());
    let refused = yard.store.insert_ssh_token(token(&first, &id, 3), 2).await;
    assert!(matches!(refused, Err(StoreError::NotFound)), "{refused:?}");
}

/// What the first version of the program left is there after the upgrade, which is done once.
#[tokio::test]
async fn a_database_of_version_1_is_upgraded_with_what_is_in_it() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("test.db");
    let old = Connection::open(&path).expect("make a database");
    old.execute_batch(include_str!("../../src/store/sql/0001_start.sql")).expect("the schema of version 1");
    let (acc, id) = (account(1), BoxId::from_entropy(1));
    old.execute_batch(&format!(
        "create table schema_versions (version bigint not null primary key, name text not null, applied_at bigint not null);
         insert into schema_versions values (1, 'start', 7);
         insert into accounts values ('{acc}', 'default', 1);
         insert into keys values ('key_{}', '{acc}', x'{}', 'box_abcd', null, 1, null);
         insert into boxes values ('{id}', '{acc}', 'mine', 'small', 'node', '{{}}', 'local', 'ready', null, 5, 10, 10, 10, null, 1);
         insert into box_names values ('{acc}', 'mine', '{id}');",
        "0".repeat(26),
        "ab".repeat(32),
    ))
    .expect("what an old server has left");
    drop(old);

    for round in 0..2 {
        let store = Store::open(&path, StoreOptions::default()).await.expect("open it with this version");
        let found = store.find_box(&acc, "mine").await.expect("find").expect("the box is there");
        assert_eq!((found.id.clone(), found.total_cpu_ns), (id.clone(), 5));
        assert_eq!((found.keep_alive, found.init_due, found.expires_at), (false, false, None));
        assert_eq!(found.init_command, "");
        assert_eq!(store.find_key([0xab; 32]).await.expect("find").map(|(_, account)| account), Some(acc.clone()));
        let row = key(&acc, 1);
        assert_eq!(store.insert_ssh_key(row.clone(), 100).await.expect("the new table is there"), row);
        assert_eq!(store.accounts_of_ssh_key(row.key).await.expect("look up"), std::slice::from_ref(&acc));
        store.insert_ssh_token(token(&acc, &id, round), 100).await.expect("and the other");
        store.close().await;
    }
    let upgraded = Connection::open(&path).expect("look into it");
    let mut versions =
        upgraded.prepare("select version, name, applied_at > 7 from schema_versions order by version").expect("ask");
    let versions: Vec<(i64, String, bool)> = versions
        .query_map((), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .and_then(Iterator::collect)
        .expect("versions");
    let later = |version, name: &str| (version, name.to_owned(), true);
    let expected = [
        (1, "start".into(), false),
        later(2, "ssh"),
        later(3, "snapshots"),
        later(4, "account"),
        later(5, "life"),
        later(6, "spool"),
        later(7, "git"),
    ];
    assert_eq!(versions, expected);
}
