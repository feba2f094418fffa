use boxyard_proto::KeyId;
use boxyard_server::store::{Account, NewKey, StoreError};

use super::{Yard, account};

#[tokio::test]
async fn a_key_opens_its_account_until_it_is_revoked() {
    let yard = Yard::open().await;
    let key = |number: u8| NewKey {
        id: KeyId::from_entropy(u128::from(number)),
        account: yard.account.clone(),
        hash: [number; 32],
        prefix: "box_abcd".into(),
        label: Some("laptop".into()),
        created_at: i64::from(number),
    };
    yard.store.insert_key(key(1)).await.expect("add a key");
    yard.store.insert_key(key(2)).await.expect("add another key");
    let found = yard.store.find_key([1; 32]).await.expect("find");
    assert_eq!(found, Some((key(1).id, yard.account.clone())));
    assert_eq!(yard.store.find_key([3; 32]).await.expect("find"), None);

    assert!(yard.store.revoke_key(key(1).id, 50).await.expect("revoke"));
    assert!(!yard.store.revoke_key(key(1).id, 60).await.expect("revoke again"));
    assert!(!yard.store.revoke_key(KeyId::from_entropy(9), 60).await.expect("revoke an unknown key"));
    assert_eq!(yard.store.find_key([1; 32]).await.expect("find"), None);
    let refused = yard.store.insert_key(NewKey { id: KeyId::from_entropy(9), ..key(1) }).await;
    assert!(matches!(refused, Err(StoreError::IdTaken)), "a revoked key does not come back: {refused:?}");

    let yard = yard.reopen().await;
    let keys = yard.store.keys().await.expect("list keys");
    let seen: Vec<_> = keys.iter().map(|key| (key.prefix.as_str(), key.label.as_deref(), key.revoked_at)).collect();
    assert_eq!(seen, [("box_abcd", Some("laptop"), Some(50)), ("box_abcd", Some("laptop"), None)]);
}

#[tokio::test]
async fn accounts_have_names_of_their_own() {
    let yard = Yard::open().await;
    let row = |number, name: &str| Account { id: account(number), name: name.into(), created_at: 5 };
    let refused = yard.store.insert_account(row(2, "default")).await;
    assert!(matches!(refused, Err(StoreError::NameTaken)), "{refused:?}");
    let refused = yard.store.insert_account(row(1, "other")).await;
    assert!(matches!(refused, Err(StoreError::IdTaken)), "{refused:?}");
    yard.store.insert_account(row(3, "other")).await.expect("add an account");
    let names: Vec<_> = yard.store.accounts().await.expect("list").into_iter().map(|account| account.name).collect();
    assert_eq!(names, ["default", "other"]);
}
