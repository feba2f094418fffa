//! What belongs to an account as a whole, and the end of deleted boxes' records.

use std::collections::BTreeMap;

use boxyard_proto::api::logs::{LogLevel, LogSource};
use boxyard_proto::api::runs::{RunStatus, RunType};
use boxyard_proto::{AccountId, BoxId, RunId, SshTokenId};
use boxyard_server::store::{Account, LogRow, NewSshToken, PrunedBoxes, RunRow, StoreError};

use super::{Yard, account, box_row};

fn variables(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[tokio::test]
async fn an_account_s_variables_are_its_own_and_outlive_the_server() {
    let yard = Yard::open().await;
    let (mine, theirs) = (yard.account.clone(), account(2));
    let row = Account { id: theirs.clone(), name: "other".into(), created_at: 1 };
    yard.store.insert_account(row).await.expect("add another account");
    let all = |_: &BTreeMap<String, String>| true;
    yard.store.set_account_variables(&mine, variables(&[("A", "1"), ("B", "2")]), all).await.expect("set");
    yard.store.set_account_variables(&mine, variables(&[("A", "3")]), all).await.expect("set again");
    yard.store.replace_account_env(&theirs, variables(&[("A", "theirs")])).await.expect("replace");
    let yard = yard.reopen().await;
    assert_eq!(yard.store.account_env(&mine).await.expect("read"), variables(&[("A", "3"), ("B", "2")]));

    let refused = yard.store.set_account_variables(&mine, variables(&[("C", "4")]), |all| all.len() < 3).await;
    assert!(matches!(refused, Err(StoreError::Full)), "{refused:?}");
    assert_eq!(yard.store.account_env(&mine).await.expect("read").len(), 2, "nothing of it is left");

    yard.store.replace_account_env(&mine, variables(&[("D", "")])).await.expect("replace");
    yard.store.unset_account_variable(&mine, "A".into()).await.expect("not there");
    assert_eq!(yard.store.account_env(&mine).await.expect("read"), variables(&[("D", "")]));
    yard.store.unset_account_variable(&mine, "D".into()).await.expect("there");
    assert_eq!(yard.store.account_env(&mine).await.expect("read"), BTreeMap::new());
    assert_eq!(yard.store.account_env(&theirs).await.expect("read"), variables(&[("A", "theirs")]));
}

fn run(account: &AccountId, id: &BoxId, number: u128) -> RunRow {
    RunRow {
        id: RunId::from_entropy(number),
        box_id: id.clone(),
        account: account.clone(),
        kind: RunType::Shell,
        status: RunStatus::Completed,
        prompt: "true".into(),
        exit_code: Some(0),
        cpu_ns: 0,
        memory_peak: 0,
        created_at: 10,
        completed_at: Some(11),
        error: None,
        timeout_ms: None,
    }
}

fn entry(at: i64) -> LogRow {
    LogRow { at, level: LogLevel::Info, source: LogSource::System, message: "x".into() }
}

/// A box with a name, a label, a run, a log and a token.
async fn furnished(yard: &Yard, number: u64) -> BoxId {
    let mut row = box_row(&yard.account, number);
    (row.name, row.labels) = (Some(format!("box{number}")), vec!["l".into()]);
    let id = row.id.clone();
    yard.store.insert_box(row).await.expect("add a box");
    yard.store.insert_run(run(&yard.account, &id, u128::from(number))).await.expect("add a run");
    yard.store.append_log(id.clone(), entry(5)).await.expect("log");
    let token = NewSshToken {
        id: SshTokenId::from_entropy(u128::from(number)),
        account: yard.account.clone(),
        box_id: id.clone(),
        hash: [u8::try_from(number).expect("small"); 32],
        label: None,
        created_at: 10,
        expires_at: i64::MAX,
    };
    yard.store.insert_ssh_token(token, 100).await.expect("add a token");
    id
}

async fn delete(yard: &Yard, id: &BoxId, at: i64) {
    yard.store.set_phase(id.clone(), "deleting".into(), None, at).await.expect("begin to delete");
    yard.store.set_phase(id.clone(), "deleted".into(), None, at).await.expect("delete");
}

#[tokio::test]
async fn deleted_boxes_go_with_all_that_refers_to_them_and_no_others() {
    let yard = Yard::open().await;
    let (old, young, live) = (furnished(&yard, 1).await, furnished(&yard, 2).await, furnished(&yard, 3).await);
    delete(&yard, &old, 100).await;
    delete(&yard, &young, 200).await;
    assert_eq!(yard.store.prune_boxes(100).await.expect("prune"), PrunedBoxes { boxes: 0, more: false });
    assert_eq!(yard.store.prune_boxes(101).await.expect("prune"), PrunedBoxes { boxes: 1, more: false });
    assert_eq!(yard.store.prune_boxes(101).await.expect("again"), PrunedBoxes { boxes: 0, more: false });

    let account = &yard.account;
    assert_eq!(yard.store.find_box(account, old.as_str()).await.expect("find"), None);
    assert!(yard.store.logs(&old, 0, 10).await.expect("read").is_empty());
    assert!(yard.store.list_runs(&old, 10).await.expect("list").is_empty());
    for id in [&young, &live] {
        let row = yard.store.find_box(account, id.as_str()).await.expect("find").expect("it is kept");
        assert_eq!(row.labels, ["l"]);
        assert_eq!(yard.store.logs(id, 0, 10).await.expect("read").len(), 1);
        assert_eq!(yard.store.list_runs(id, 10).await.expect("list").len(), 1);
    }
    assert!(yard.store.find_ssh_token([3; 32]).await.expect("find").is_some());
    // The id may be given out again.
    yard.store.insert_box(box_row(account, 1)).await.expect("nothing of the old one is in the way");
    assert_eq!(yard.store.prune_boxes(i64::MAX).await.expect("prune").boxes, 1, "live ones stay");
}

#[tokio::test]
async fn many_records_go_in_pieces() {
    let yard = Yard::open().await;
    for number in 0..120 {
        let id = yard.insert(number).await;
        delete(&yard, &id, 50).await;
    }
    // Newer than the others, so that its turn comes last.
    let talkative = yard.insert(500).await;
    for at in 0..4_500 {
        yard.store.append_log_queued(talkative.clone(), entry(at));
        if at % 1000 == 0 {
            // The queue is bounded; a write that is answered has those before it behind it.
            yard.store.append_log(talkative.clone(), entry(at)).await.expect("log");
        }
    }
    delete(&yard, &talkative, 60).await;
    let mut pieces = Vec::new();
    loop {
        let pruned = yard.store.prune_boxes(100).await.expect("prune");
        pieces.push(pruned.boxes);
        if !pruned.more {
            break;
        }
    }
    assert_eq!(pieces, [50, 50, 20, 0, 1]);
    assert!(yard.store.list_boxes(&yard.account, true, None).await.expect("list").is_empty());
}
