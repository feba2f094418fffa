//! What the store costs: `cargo bench -p boxyard-server --bench store [FOLDER]`. Medians of single operations, and rates.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use boxyard_proto::names::Size;
use boxyard_proto::{AccountId, BoxId, KeyId};
use boxyard_server::store::{Account, BoxRow, NewKey, Store, StoreOptions, Synchronous};

static AT: AtomicI64 = AtomicI64::new(0);

const FOR: Duration = Duration::from_secs(3);

#[tokio::main]
async fn main() {
    let folder = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).map(PathBuf::from);
    let folder = match folder {
        Some(folder) => tempfile::tempdir_in(folder),
        None => tempfile::tempdir(),
    }
    .expect("a temporary folder");
    for synchronous in [Synchronous::Normal, Synchronous::Full] {
        let path = folder.path().join(format!("{synchronous:?}.db"));
        let store = Store::open(&path, StoreOptions { synchronous }).await.expect("open");
        let account = AccountId::from_entropy(1);
        store
            .insert_account(Account { id: account.clone(), name: "bench".into(), created_at: 0 })
            .await
            .expect("account");
        let key = NewKey {
            id: KeyId::from_entropy(1),
            account: account.clone(),
            hash: [7; 32],
            prefix: "box_".into(),
            label: None,
            created_at: 0,
        };
        store.insert_key(key).await.expect("key");
        let id = BoxId::from_entropy(0);
        store.insert_box(row(&account, &id)).await.expect("box");

        for tasks in [1, 16] {
            let (store, id) = (store.clone(), id.clone());
            measure(&format!("{synchronous:?}: set_phase"), tasks, move || {
                let (store, id) = (store.clone(), id.clone());
                // SQLite notices an update that changes nothing, and writes nothing.
                let at = AT.fetch_add(1, Ordering::Relaxed);
                async move { store.set_phase(id, "ready".into(), None, at).await.expect("write") }
            })
            .await;
        }
        for tasks in [1, 16] {
            let store = store.clone();
            measure(&format!("{synchronous:?}: find_key"), tasks, move || {
                let store = store.clone();
                async move { drop(store.find_key([7; 32]).await.expect("read")) }
            })
            .await;
        }
        let (reader, reading_id) = (store.clone(), id.clone());
        measure(&format!("{synchronous:?}: find_box"), 1, move || {
            let (store, account, id) = (reader.clone(), account.clone(), reading_id.clone());
            async move { drop(store.find_box(&account, id.as_str()).await.expect("read")) }
        })
        .await;
        store.close().await;
    }
}

fn row(account: &AccountId, id: &BoxId) -> BoxRow {
    BoxRow {
        id: id.clone(),
        account: account.clone(),
        name: None,
        labels: Vec::new(),
        size: Size::SMALL,
        runtime: "node".into(),
        env: BTreeMap::new(),
        engine: "local".into(),
        phase: "creating".into(),
        error: None,
        total_cpu_ns: 0,
        last_activity_at: 0,
        created_at: 0,
        updated_at: 0,
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

async fn measure<F, Fut>(what: &str, tasks: usize, operation: F)
where
    F: Fn() -> Fut + Clone + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let begin = Instant::now();
    let mut set = tokio::task::JoinSet::new();
    for _ in 0..tasks {
        let operation = operation.clone();
        set.spawn(async move {
            let mut times = Vec::new();
            while begin.elapsed() < FOR {
                let begin = Instant::now();
                operation().await;
                times.push(begin.elapsed());
            }
            times
        });
    }
    let mut times = set.join_all().await.concat();
    let rate = times.len() as f64 / begin.elapsed().as_secs_f64();
    times.sort();
    let at = |part: usize| times[(times.len() - 1) * part / 100];
    println!("{what:24} x{tasks:<3} {rate:9.0}/s   p50 {:?}   p95 {:?}   p99 {:?}", at(50), at(95), at(99));
}
