use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use boxyard_proto::api::logs::{LogLevel, LogSource};
use boxyard_proto::{AccountId, BoxId};
use boxyard_server::store::{Account, BoxRow, LogRow, Store, StoreError, StoreOptions, Synchronous};
use rusqlite::Connection;

use super::{Yard, account, box_row};

/// Tells a copy of this test program to be the one that is killed; its value is the database.
const VICTIM: &str = "BOXYARD_TEST_STORE_VICTIM";

/// Acknowledged writes to wait for before killing.
const ACKS: usize = 400;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_keeps_every_acknowledged_write() {
    if let Some(path) = std::env::var_os(VICTIM) {
        return write_for_ever(Path::new(&path)).await;
    }
    let yard = Yard::open().await;
    yard.store.close().await;
    let path = yard.folder.path().join("test.db");
    let mut victim = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "durability::a_killed_server_keeps_every_acknowledged_write", "--nocapture"])
        .env(VICTIM, &path)
        .stdout(Stdio::piped())
        .spawn()
        .expect("start the victim");
    let mut lines = BufReader::new(victim.stdout.take().expect("its output")).lines();
    let mut acknowledged = HashSet::new();
    for line in &mut lines {
        acknowledged.extend(ack(&line.expect("read an acknowledgement")));
        if acknowledged.len() == ACKS {
            victim.kill().expect("kill -9");
        }
    }
    victim.wait().expect("reap the victim");
    assert!(acknowledged.len() >= ACKS, "the victim ended by itself after {} writes", acknowledged.len());

    let yard = yard.reopen().await;
    let found: HashSet<String> = yard
        .store
        .live_boxes()
        .await
        .expect("list boxes")
        .into_iter()
        .map(|row| {
            assert_eq!(row.labels, ["one", "two"], "no box without its labels");
            row.id.to_string()
        })
        .collect();
    let lost: Vec<_> = acknowledged.difference(&found).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
}

fn ack(line: &str) -> Option<String> {
    // The test harness of the victim may have begun the first line.
    let (_, id) = line.rsplit_once("ack ")?;
    id.strip_suffix(" end").map(str::to_owned)
}

async fn write_for_ever(path: &Path) {
    let store = Store::open(path, StoreOptions::default()).await.expect("open in the victim");
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..8 {
        let store = store.clone();
        tasks.spawn(async move {
            for number in 0.. {
                let labels = vec!["one".into(), "two".into()];
                let row = BoxRow { labels, ..box_row(&account(1), task * 1_000_000_007 + number * 1_000_003) };
                let id = row.id.clone();
                match store.insert_box(row).await {
                    Ok(()) => println!("ack {id} end"),
                    Err(StoreError::IdTaken) => {}
                    Err(error) => panic!("{error:?}"),
                }
            }
        });
    }
    tasks.join_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_of_one_commit_fail_alone() {
    let yard = Yard::open().await;
    yard.insert(0).await;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..200_u64 {
        let (store, account) = (yard.store.clone(), yard.account.clone());
        // Every second box asks for an id that is taken.
        tasks.spawn(async move { store.insert_box(box_row(&account, number % 2 * number)).await });
    }
    let outcomes = tasks.join_all().await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 100);
    assert_eq!(outcomes.iter().filter(|outcome| matches!(outcome, Err(StoreError::IdTaken))).count(), 100);
    assert_eq!(yard.store.live_boxes().await.expect("list").len(), 101);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_task_reads_what_was_acknowledged_to_it() {
    let yard = Yard::open().await;
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..8_u64 {
        let (store, account) = (yard.store.clone(), yard.account.clone());
        tasks.spawn(async move {
            for number in 0..50 {
                let row = box_row(&account, 1 + task * 1000 + number);
                store.insert_box(row.clone()).await.expect("write");
                assert_eq!(store.find_box(&account, row.id.as_str()).await.expect("read"), Some(row));
            }
        });
    }
    tasks.join_all().await;
}

#[tokio::test]
async fn closing_commits_what_is_queued_and_refuses_the_rest() {
    let yard = Yard::open().await;
    let id = yard.insert(1).await;
    let entry = |message: String| LogRow { at: 1, level: LogLevel::Info, source: LogSource::User, message };
    for number in 0..500 {
        yard.store.append_log_queued(id.clone(), entry(number.to_string()));
    }
    let other = yard.store.clone();
    let yard = yard.reopen().await;
    assert_eq!(yard.store.logs(&id, 0, 1000).await.expect("read").len(), 500);
    assert!(matches!(other.live_boxes().await, Err(StoreError::Closed)));
    assert!(matches!(other.set_phase(id.clone(), "ready".into(), None, 1).await, Err(StoreError::Closed)));
    other.append_log_queued(id, entry("late".into()));
    assert_eq!(other.logs_dropped(), 1);
    other.close().await;
}

#[tokio::test]
async fn a_closed_database_is_one_private_file() {
    let yard = Yard::open().await;
    yard.insert(1).await;
    let files = || -> Vec<(String, u32)> {
        let entries = std::fs::read_dir(yard.folder.path()).expect("read the folder");
        let mut files: Vec<_> = entries
            .map(|entry| {
                let entry = entry.expect("an entry");
                let mode = entry.metadata().expect("its mode").permissions().mode() & 0o777;
                (entry.file_name().into_string().expect("a name"), mode)
            })
            .collect();
        files.sort();
        files
    };
    let open = files();
    assert_eq!(
        open.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
        ["test.db", "test.db-shm", "test.db-wal"]
    );
    assert!(open.iter().all(|(_, mode)| *mode == 0o600), "{open:?}");
    yard.store.close().await;
    assert_eq!(files(), [("test.db".to_owned(), 0o600)]);
}

#[tokio::test]
async fn a_newer_database_is_refused_and_left_alone() {
    let yard = Yard::open().await;
    yard.store.close().await;
    let path = yard.folder.path().join("test.db");
    let newer = Connection::open(&path).expect("open beside the store");
    newer.execute("insert into schema_versions (version, name, applied_at) values (99, 'later', 0)", ()).expect("age");
    drop(newer);
    let refused = Store::open(&path, StoreOptions::default()).await.expect_err("a newer database");
    assert!(matches!(refused, StoreError::Newer { found: 99, .. }), "{refused:?}");
    assert!(refused.to_string().contains("use a newer boxyard"), "{refused}");
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("test.db");
    std::fs::write(&path, "not a database at all, but long enough to look into".repeat(100)).expect("write");
    let refused = Store::open(&path, StoreOptions { synchronous: Synchronous::Full }).await;
    assert!(matches!(refused, Err(StoreError::Broken { .. })), "{refused:?}");
    let missing = folder.path().join("missing/test.db");
    assert!(matches!(Store::open(&missing, StoreOptions::default()).await, Err(StoreError::Broken { .. })));
}

/// `boxyard key …` beside a running server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_programs_share_a_database() {
    let yard = Yard::open().await;
    let path = yard.folder.path().join("test.db");
    let second = Store::open(&path, StoreOptions::default()).await.expect("open a second time");
    let write = |store: Store, first: u64| async move {
        for number in first..first + 100 {
            store.insert_box(box_row(&account(1), number)).await.expect("write");
        }
    };
    tokio::join!(write(yard.store.clone(), 1), write(second.clone(), 1001));
    let row = Account { id: AccountId::from_entropy(5), name: "cli".into(), created_at: 1 };
    second.insert_account(row).await.expect("write");
    assert_eq!(yard.store.accounts().await.expect("read").len(), 2);
    second.close().await;
    assert_eq!(yard.store.live_boxes().await.expect("read").len(), 200);
    yard.store.set_phase(BoxId::from_entropy(1001), "ready".into(), None, 1).await.expect("write on");
}
