use std::collections::BTreeMap;

use boxyard_proto::names::Size;
use boxyard_proto::{AccountId, BoxId, SnapshotId};
use boxyard_server::store::{Account, BoxRow, Inherits, Purpose, SnapshotRow, SnapshotState, StoreError, Which};

use super::{Yard, account, box_row};

fn snapshot(account: &AccountId, box_id: &BoxId, number: u8) -> SnapshotRow {
    SnapshotRow {
        id: SnapshotId::from_entropy(u128::from(number)),
        account: account.clone(),
        box_id: box_id.clone(),
        purpose: Purpose::Kept,
        name: format!("number {number}"),
        status: SnapshotState::Creating,
        error: None,
        size_bytes: 0,
        inherits: Inherits {
            runtime: "python".into(),
            size: Size::LARGE,
            env: BTreeMap::from([("TOKEN".into(), "s3cret".into())]),
        },
        created_at: i64::from(number),
    }
}

async fn phase(yard: &Yard, id: &BoxId) -> String {
    yard.store.find_box(&yard.account, id.as_str()).await.expect("find").expect("a box").phase
}

#[tokio::test]
async fn a_snapshot_is_begun_with_its_box_s_phase_or_not_at_all() {
    let yard = Yard::open().await;
    let id = yard.insert(1).await;
    let row = snapshot(&yard.account, &id, 1);
    yard.store.insert_snapshot(row.clone(), 10).await.expect("add");
    let begin = |snapshot: u8, id: &BoxId| {
        let (store, snapshot, id) = (yard.store.clone(), SnapshotId::from_entropy(u128::from(snapshot)), id.clone());
        async move { store.begin_snapshot(snapshot, id, "saving from ready".into(), 20).await }
    };
    assert!(matches!(begin(2, &id).await, Err(StoreError::NotFound)));
    assert_eq!(phase(&yard, &id).await, "creating", "no snapshot, no phase");
    assert!(matches!(begin(1, &BoxId::from_entropy(9)).await, Err(StoreError::NotFound)));
    let found = yard.store.find_snapshot(&yard.account, &row.id).await.expect("find");
    assert_eq!(found, Some(row.clone()), "no box, no change");
    begin(1, &id).await.expect("begin");
    assert_eq!(phase(&yard, &id).await, "saving from ready");
    assert!(matches!(begin(1, &id).await, Err(StoreError::NotFound)), "once");
    assert!(yard.store.snapshot_ready(row.id.clone(), 4096).await.expect("end"));
    let yard = yard.reopen().await;
    let ready = SnapshotRow { status: SnapshotState::Ready, size_bytes: 4096, ..row };
    assert_eq!(yard.store.all_snapshots().await.expect("list"), [ready]);
}

#[tokio::test]
async fn what_is_deleted_is_found_by_nobody_and_forgotten_when_it_is_gone() {
    let yard = Yard::open().await;
    let (id, other) = (yard.insert(1).await, yard.insert(2).await);
    let stranger = Account { id: account(2), name: "second".into(), created_at: 5 };
    yard.store.insert_account(stranger.clone()).await.expect("add an account");
    let rows: Vec<SnapshotRow> = (1..=3).map(|number| snapshot(&yard.account, &id, number)).collect();
    for row in &rows {
        yard.store.insert_snapshot(row.clone(), 4).await.expect("add");
    }
    let fork = SnapshotRow { purpose: Purpose::Fork, ..snapshot(&yard.account, &other, 4) };
    yard.store.insert_snapshot(fork.clone(), 4).await.expect("add");
    let refused = yard.store.insert_snapshot(snapshot(&yard.account, &id, 5), 4).await;
    assert!(matches!(refused, Err(StoreError::Full)), "{refused:?}");
    let newest_first = [rows[2].clone(), rows[1].clone(), rows[0].clone()];
    assert_eq!(yard.store.snapshots(&yard.account, None).await.expect("list"), newest_first);
    assert_eq!(yard.store.snapshots(&yard.account, Some(&id)).await.expect("list"), newest_first);
    assert_eq!(yard.store.snapshots(&yard.account, Some(&other)).await.expect("list"), [], "forks are not shown");
    assert_eq!(yard.store.snapshots(&stranger.id, Some(&id)).await.expect("list"), []);

    let delete = |account: &AccountId, which: Which| {
        let (store, account) = (yard.store.clone(), account.clone());
        async move { store.delete_snapshots(&account, which).await.expect("delete") }
    };
    let first = rows[0].id.clone();
    assert_eq!(delete(&stranger.id, Which::All).await, []);
    assert_eq!(delete(&stranger.id, Which::One(first.clone())).await, []);
    assert_eq!(delete(&yard.account, Which::OfBox(other.clone(), first.clone())).await, []);
    assert_eq!(delete(&yard.account, Which::Of(vec![fork.id.clone(), first.clone(), first.clone()])).await, rows[..1]);
    assert_eq!(delete(&yard.account, Which::OfBox(id.clone(), first.clone())).await, [], "it is deleted");
    assert!(!yard.store.snapshot_ready(first.clone(), 1).await.expect("end"), "nobody wants it");
    yard.store.snapshot_failed(first.clone(), "late".into()).await.expect("end");
    assert_eq!(yard.store.find_snapshot(&yard.account, &first).await.expect("find"), None);
    yard.store.forget_snapshot(rows[1].id.clone()).await.expect("one that is not deleted stays");
    yard.store.forget_snapshot(first.clone()).await.expect("forget");
    assert_eq!(delete(&yard.account, Which::All).await, [rows[2].clone(), rows[1].clone()]);
    assert_eq!(delete(&yard.account, Which::One(fork.id.clone())).await, [fork]);
    let left = yard.store.all_snapshots().await.expect("list");
    assert!(left.len() == 3 && left.iter().all(|row| row.status == SnapshotState::Deleting), "{left:?}");
    assert!(!format!("{left:?}").contains("s3cret"));
}

#[tokio::test]
async fn a_box_is_made_from_a_ready_snapshot_of_its_account_only() {
    let yard = Yard::open().await;
    let id = yard.insert(1).await;
    let stranger = Account { id: account(2), name: "second".into(), created_at: 5 };
    yard.store.insert_account(stranger.clone()).await.expect("add an account");
    let row = snapshot(&yard.account, &id, 1);
    yard.store.insert_snapshot(row.clone(), 10).await.expect("add");
    let made = |account: &AccountId| BoxRow { from_snapshot: Some(row.id.clone()), ..box_row(account, 7) };
    let refused = yard.store.insert_box(made(&yard.account)).await;
    assert!(matches!(refused, Err(StoreError::NotFound)), "{refused:?}");
    yard.store.begin_snapshot(row.id.clone(), id, "saving from ready".into(), 20).await.expect("begin");
    assert!(yard.store.snapshot_ready(row.id.clone(), 1).await.expect("end"));
    let refused = yard.store.insert_box(made(&stranger.id)).await;
    assert!(matches!(refused, Err(StoreError::NotFound)), "{refused:?}");
    yard.store.insert_box(made(&yard.account)).await.expect("add");
    let found = yard.store.find_box(&yard.account, BoxId::from_entropy(7).as_str()).await.expect("find");
    assert_eq!(found.and_then(|found| found.from_snapshot), Some(row.id));
}
