use boxyard_proto::api::logs::{LogLevel, LogSource};
use boxyard_proto::api::runs::{RunStatus, RunType};
use boxyard_proto::{BoxId, RunId};
use boxyard_server::store::{LogRow, MESSAGE_MAX, OutputRow, RunEnd, RunRow, StoreError};

use super::{Yard, account};

fn run(yard: &Yard, box_id: &BoxId, number: u128) -> RunRow {
    RunRow {
        id: RunId::from_entropy(number),
        box_id: box_id.clone(),
        account: yard.account.clone(),
        kind: RunType::Shell,
        status: RunStatus::Running,
        prompt: "sh -c echo warmup".into(),
        exit_code: None,
        cpu_ns: 0,
        memory_peak: 0,
        created_at: 100,
        completed_at: None,
        error: None,
        timeout_ms: Some(700),
    }
}

fn end(status: RunStatus, completed_at: i64) -> RunEnd {
    RunEnd {
        status,
        exit_code: Some(3),
        cpu_ns: 5,
        memory_peak: 6,
        completed_at,
        error: Some("why".into()),
        output: OutputRow::default(),
    }
}

fn entry(at: i64, message: &str) -> LogRow {
    LogRow { at, level: LogLevel::Warn, source: LogSource::System, message: message.into() }
}

#[tokio::test]
async fn a_run_is_listed_while_it_runs_and_ends_once() {
    let yard = Yard::open().await;
    let id = yard.insert(1).await;
    let row = run(&yard, &id, 1);
    yard.store.insert_run(row.clone()).await.expect("add a run");
    assert_eq!(yard.store.find_run(&id, &row.id).await.expect("find"), Some(row.clone()));
    assert_eq!(yard.store.running_runs().await.expect("list running"), vec![row.clone()]);
    let refused = yard.store.insert_run(row.clone()).await;
    assert!(matches!(refused, Err(StoreError::IdTaken)), "{refused:?}");

    assert!(yard.store.finish_run(row.id.clone(), end(RunStatus::Cancelled, 150)).await.expect("finish"));
    assert!(!yard.store.finish_run(row.id.clone(), end(RunStatus::Completed, 160)).await.expect("finish again"));
    let yard = yard.reopen().await;
    let ended = RunRow {
        status: RunStatus::Cancelled,
        exit_code: Some(3),
        cpu_ns: 5,
        memory_peak: 6,
        completed_at: Some(150),
        error: Some("why".into()),
        ..row
    };
    assert_eq!(yard.store.list_runs(&id, 10).await.expect("list"), vec![ended.clone()]);
    assert_eq!(yard.store.running_runs().await.expect("list running"), vec![]);
    assert!(!yard.store.finish_run(RunId::from_entropy(9), end(RunStatus::Failed, 1)).await.expect("finish another"));

    let other = yard.insert(2).await;
    assert_eq!(yard.store.find_run(&other, &ended.id).await.expect("find in another box"), None);
    assert_eq!(yard.store.list_runs(&other, 10).await.expect("list another box"), vec![]);
}

#[tokio::test]
async fn runs_of_one_millisecond_keep_their_order() {
    let yard = Yard::open().await;
    let id = yard.insert(1).await;
    for number in [5, 3, 9, 1] {
        yard.store.insert_run(run(&yard, &id, number)).await.expect("add a run");
    }
    let yard = yard.reopen().await;
    yard.store.insert_run(RunRow { created_at: 99, ..run(&yard, &id, 2) }).await.expect("add an older run");
    yard.store.insert_run(run(&yard, &id, 0)).await.expect("add a run after a restart");
    let list = |limit| async move {
        let rows = yard.store.list_runs(&id, limit).await.expect("list");
        rows.into_iter().map(|row| row.id).collect::<Vec<_>>()
    };
    let newest_first: Vec<_> = [0, 1, 9, 3, 5, 2].map(RunId::from_entropy).into();
    assert_eq!(list.clone()(10).await, newest_first);
    assert_eq!(list(2).await, newest_first[..2]);
}

#[tokio::test]
async fn logs_are_paged_oldest_first() {
    let yard = Yard::open().await;
    let id = yard.insert(1).await;
    for number in 0..6 {
        yard.store.append_log(id.clone(), entry(100, &number.to_string())).await.expect("add an entry");
    }
    yard.store.append_log_queued(id.clone(), entry(100, "queued"));
    yard.store.append_log(id.clone(), entry(101, &"ü".repeat(MESSAGE_MAX))).await.expect("add a long entry");
    let page = |offset, limit| {
        let (store, id) = (yard.store.clone(), id.clone());
        async move {
            let rows = store.logs(&id, offset, limit).await.expect("read");
            rows.into_iter().map(|row| row.message).collect::<Vec<_>>()
        }
    };
    assert_eq!(page(0, 3).await, ["0", "1", "2"]);
    assert_eq!(page(4, 3).await, ["4", "5", "queued"]);
    let rest = page(7, u32::MAX).await;
    assert_eq!(rest.iter().map(String::len).collect::<Vec<_>>(), [MESSAGE_MAX], "long messages are cut");
    assert!(page(8, 10).await.is_empty());
    assert_eq!(yard.store.logs(&id, 0, 1).await.expect("read"), vec![entry(100, "0")]);
    let refused = yard.store.append_log(BoxId::from_entropy(9), entry(1, "x")).await;
    assert!(matches!(refused, Err(StoreError::Broken { .. })), "{refused:?}");
}

#[tokio::test]
async fn pruning_removes_what_is_old_and_ended() {
    let yard = Yard::open().await;
    let id = yard.insert(1).await;
    for at in [10, 20, 30] {
        yard.store.append_log(id.clone(), entry(at, "x")).await.expect("add an entry");
    }
    for number in 1..=3 {
        yard.store.insert_run(run(&yard, &id, number)).await.expect("add a run");
    }
    for (number, at) in [(1, 10), (2, 30)] {
        let finished = yard.store.finish_run(RunId::from_entropy(number), end(RunStatus::Completed, at)).await;
        assert!(finished.expect("finish"));
    }
    let pruned = yard.store.prune(30, 30, 30).await.expect("prune");
    assert_eq!((pruned.logs, pruned.runs, pruned.more), (2, 1, false));
    assert_eq!(yard.store.logs(&id, 0, 10).await.expect("read"), vec![entry(30, "x")]);
    let left: Vec<_> = yard.store.list_runs(&id, 10).await.expect("list").into_iter().map(|row| row.id).collect();
    assert_eq!(left, [3, 2].map(RunId::from_entropy), "a running run is never pruned");
    assert_eq!(yard.store.list_boxes(&account(1), false, None).await.expect("list").len(), 1);
}
