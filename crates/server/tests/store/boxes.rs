use boxyard_proto::names::Size;
use boxyard_proto::{AccountId, BoxId};
use boxyard_server::config::Secret;
use boxyard_server::store::{Account, BoxRow, Store, StoreError};

use super::{Yard, account, box_row};

async fn ids(store: &Store, account: &AccountId, deleted: bool, label: Option<&str>) -> Vec<BoxId> {
    store.list_boxes(account, deleted, label).await.expect("list boxes").into_iter().map(|row| row.id).collect()
}

#[tokio::test]
async fn a_box_comes_back_as_it_was_stored() {
    let yard = Yard::open().await;
    let row = BoxRow {
        name: Some("my-worker".into()),
        labels: vec!["z".into(), "a:b".into(), "m".into()],
        size: Size::LARGE,
        error: Some("no room".into()),
        keep_alive: true,
        init_command: "npm start".into(),
        init_due: true,
        expires_at: Some(99),
        git_user_name: Some("Ada".into()),
        git_user_email: Some("ada@example.com".into()),
        ..box_row(&yard.account, 7)
    };
    yard.store.insert_box(row.clone()).await.expect("add the box");
    let yard = yard.reopen().await;
    assert_eq!(yard.store.find_box(&yard.account, row.id.as_str()).await.expect("find by id"), Some(row.clone()));
    assert_eq!(yard.store.find_box(&yard.account, "my-worker").await.expect("find by name"), Some(row.clone()));
    assert_eq!(yard.store.list_boxes(&yard.account, false, None).await.expect("list"), vec![row.clone()]);
    assert_eq!(yard.store.live_boxes().await.expect("list all"), vec![row]);
    assert_eq!(yard.store.find_box(&yard.account, "current-wasp-05510").await.expect("find another"), None);
    assert_eq!(yard.store.find_box(&yard.account, "my-other").await.expect("find another"), None);
}

#[tokio::test]
async fn a_name_belongs_to_one_live_box_of_an_account() {
    let yard = Yard::open().await;
    let other = account(2);
    let row = Account { id: other.clone(), name: "other".into(), created_at: 2 };
    yard.store.insert_account(row).await.expect("add another account");
    let named = |account: &AccountId, number| BoxRow { name: Some("web".into()), ..box_row(account, number) };

    yard.store.insert_box(named(&yard.account, 1)).await.expect("the name is free");
    let refused = yard.store.insert_box(named(&yard.account, 2)).await;
    assert!(matches!(refused, Err(StoreError::NameTaken)), "{refused:?}");
    assert_eq!(ids(&yard.store, &yard.account, false, None).await.len(), 1, "a refused box leaves nothing behind");
    yard.store.insert_box(named(&other, 3)).await.expect("another account has names of its own");

    let first = BoxId::from_entropy(1);
    yard.store.set_phase(first.clone(), "deleting".into(), None, 20).await.expect("delete");
    assert_eq!(yard.store.find_box(&yard.account, "web").await.expect("find"), None);
    yard.store.insert_box(named(&yard.account, 2)).await.expect("deleting frees the name");
    yard.store.set_phase(first.clone(), "deleted".into(), None, 30).await.expect("delete");
    let found = yard.store.find_box(&yard.account, "web").await.expect("find").expect("the second box has the name");
    assert_eq!(found.id, BoxId::from_entropy(2));
    let found =
        yard.store.find_box(&yard.account, first.as_str()).await.expect("find").expect("deleted boxes are found");
    assert_eq!((found.name.as_deref(), found.deleted_at), (Some("web"), Some(30)));
}

#[tokio::test]
async fn an_id_is_given_once() {
    let yard = Yard::open().await;
    let id = yard.insert(1).await;
    yard.store.set_phase(id, "deleted".into(), None, 20).await.expect("delete");
    let refused = yard.store.insert_box(box_row(&yard.account, 1)).await;
    assert!(matches!(refused, Err(StoreError::IdTaken)), "{refused:?}");
}

#[tokio::test]
async fn accounts_do_not_see_each_other() {
    let yard = Yard::open().await;
    let row = BoxRow { name: Some("web".into()), labels: vec!["prod".into()], ..box_row(&yard.account, 1) };
    yard.store.insert_box(row.clone()).await.expect("add the box");
    let other = account(2);
    for text in [row.id.as_str(), "web"] {
        assert_eq!(yard.store.find_box(&other, text).await.expect("find"), None, "{text}");
    }
    assert!(ids(&yard.store, &other, false, None).await.is_empty());
    assert!(ids(&yard.store, &other, false, Some("prod")).await.is_empty());
}

#[tokio::test]
async fn lists_are_newest_first_and_labels_match_exactly() {
    let yard = Yard::open().await;
    for (number, labels) in [(1, vec!["prod"]), (2, vec!["prod", "eu"]), (3, vec![]), (4, vec!["production"])] {
        let labels = labels.into_iter().map(str::to_owned).collect();
        yard.store.insert_box(BoxRow { labels, ..box_row(&yard.account, number) }).await.expect("add a box");
    }
    let id = BoxId::from_entropy;
    let list = |deleted, label| ids(&yard.store, &yard.account, deleted, label);
    assert_eq!(list(false, None).await, [id(4), id(3), id(2), id(1)], "all have the same time");
    assert_eq!(list(false, Some("prod")).await, [id(2), id(1)]);
    assert_eq!(list(false, Some("prod' or '1'='1")).await, []);

    yard.store.set_labels(id(3), vec!["b".into(), "prod".into(), "a".into()], 50).await.expect("set labels");
    yard.store.set_labels(id(1), vec![], 51).await.expect("clear labels");
    assert_eq!(list(false, Some("prod")).await, [id(3), id(2)]);
    let row = yard.store.find_box(&yard.account, id(3).as_str()).await.expect("find").expect("it is there");
    assert_eq!((row.labels.join(","), row.updated_at), ("b,prod,a".into(), 50));

    yard.store.set_phase(id(2), "deleted".into(), None, 60).await.expect("delete");
    assert_eq!(list(false, Some("prod")).await, [id(3)]);
    assert_eq!(list(true, Some("prod")).await, [id(2)]);
    assert_eq!(list(true, None).await, [id(2)]);
    let live: Vec<_> = yard.store.live_boxes().await.expect("list live").into_iter().map(|row| row.id).collect();
    assert_eq!(live, [id(1), id(3), id(4)]);
}

#[tokio::test]
async fn phases_activity_and_the_end_are_noted() {
    let yard = Yard::open().await;
    let id = yard.insert(1).await;
    yard.store.set_phase(id.clone(), "failed".into(), Some("no room".into()), 20).await.expect("set the phase");
    yard.store.add_activity(id.clone(), 500, 90).await.expect("add activity");
    yard.store.add_activity(id.clone(), 40, 80).await.expect("add activity out of order");
    let find = || async { yard.store.find_box(&yard.account, id.as_str()).await.expect("find").expect("it is there") };
    let row = find().await;
    assert_eq!((row.phase.as_str(), row.error.as_deref(), row.updated_at), ("failed", Some("no room"), 20));
    assert_eq!((row.total_cpu_ns, row.last_activity_at), (540, 90));
    assert_eq!(row.env.len(), 1);

    yard.store.set_phase(id.clone(), "deleted".into(), None, 100).await.expect("delete");
    yard.store.set_phase(id.clone(), "deleted".into(), None, 200).await.expect("delete again");
    let row = find().await;
    assert_eq!((row.error, row.deleted_at), (None, Some(100)));
    assert!(row.env.is_empty(), "the environment of a deleted box is forgotten");

    let unknown = BoxId::from_entropy(99);
    for outcome in [
        yard.store.set_phase(unknown.clone(), "ready".into(), None, 1).await,
        yard.store.set_labels(unknown.clone(), vec!["a".into()], 1).await,
        yard.store.add_activity(unknown, 1, 1).await,
    ] {
        assert!(matches!(outcome, Err(StoreError::NotFound)), "{outcome:?}");
    }
}

#[tokio::test]
async fn a_box_of_an_unknown_account_is_refused() {
    let yard = Yard::open().await;
    let refused = yard.store.insert_box(box_row(&account(9), 1)).await;
    assert!(matches!(refused, Err(StoreError::Broken { .. })), "{refused:?}");
}

#[tokio::test]
async fn a_box_s_token_is_its_own_and_goes_before_it_does() {
    let yard = Yard::open().await;
    let (with, without) = (box_row(&yard.account, 7), box_row(&yard.account, 8));
    let token = |text: &str| Some(Secret::new(text.into()));
    yard.store.insert_box_with(with.clone(), token("ghp_first")).await.expect("add a box");
    yard.store.insert_box(without.clone()).await.expect("add another");
    let yard = yard.reopen().await;
    let kept = async |id: &BoxId| yard.store.git_token(id).await.expect("look");
    assert_eq!((kept(&with.id).await, kept(&without.id).await), (token("ghp_first"), None));
    yard.store.set_git_token(with.id.clone(), token("ghp_second")).await.expect("change it");
    yard.store.set_git_token(without.id.clone(), token("ghp_third")).await.expect("give it one");
    yard.store.set_git_token(without.id.clone(), None).await.expect("take it back");
    yard.store.set_git_token(without.id.clone(), None).await.expect("gone is gone");
    assert_eq!((kept(&with.id).await, kept(&without.id).await), (token("ghp_second"), None));
    yard.store.set_phase(with.id.clone(), "deleting".into(), None, 20).await.expect("begin to delete it");
    assert_eq!(kept(&with.id).await, None);
    let late = yard.store.set_git_token(with.id.clone(), token("ghp_late")).await;
    assert!(matches!(late, Err(StoreError::NotFound)), "{late:?}");
    assert_eq!(kept(&with.id).await, None, "nobody would remove it");
}
