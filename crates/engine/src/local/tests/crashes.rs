//! A server that dies after each step of each deed, and what the next one makes of it.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use boxyard_proto::{BoxId, SnapshotId};

use super::yard::{LIMITS, Yard, explain, open, spec};
use crate::fail;
use crate::images::ImagesConfig;
use crate::local::{LocalConfig, StorageChoice};
use crate::{BoxSpec, Engine, ObservedState};

/// The variable with what the server of another process shall do, as JSON.
const ORDERS: &str = "BOXYARD_TEST_ORDERS";

/// What it shall do, and where.
#[derive(serde::Serialize, serde::Deserialize)]
struct Orders {
    data: std::path::PathBuf,
    range: String,
    storage: StorageChoice,
    deed: Deed,
}

#[derive(Clone, serde::Serialize, serde::Deserialize)]
enum Deed {
    Create(BoxSpec),
    Save(BoxId, SnapshotId),
    Stop(BoxId),
    Resume(BoxId),
    Remove(BoxId),
    Drop(SnapshotId),
    /// From the archive in a file.
    Import(SnapshotId, std::path::PathBuf),
}

/// The server that dies. Does nothing in an ordinary run of the tests.
#[tokio::test(flavor = "multi_thread")]
async fn in_another_process() {
    let Ok(orders) = std::env::var(ORDERS) else { return };
    let orders: Orders = serde_json::from_str(&orders).unwrap();
    let mut config = LocalConfig::new(orders.data, super::yard::init_program(), ImagesConfig::default());
    config.storage = orders.storage;
    config.network_range = orders.range.parse().unwrap();
    let engine = open(config).await.unwrap();
    do_it(&engine, &orders.deed).await;
}

async fn do_it(engine: &crate::local::LocalEngine, deed: &Deed) {
    match deed {
        Deed::Create(spec) => engine.create(spec).await,
        Deed::Save(id, snapshot) => engine.save(id, snapshot).await.map(drop),
        Deed::Stop(id) => engine.stop(id).await,
        Deed::Resume(id) => engine.resume(id).await.map(drop),
        Deed::Remove(id) => engine.remove(id).await,
        Deed::Drop(id) => engine.drop_snapshot(id).await,
        Deed::Import(id, file) => {
            let archive = tokio::fs::File::open(file).await.unwrap();
            engine.import(id, Box::new(archive), &super::archives::BOUNDS).await.map(drop)
        }
    }
    .map_err(explain)
    .unwrap();
}

/// Has `deed` done by a server that dies after `step`, and opens the next one.
async fn die_after(yard: Yard, step: &str, storage: StorageChoice, deed: &Deed) -> Yard {
    let die = async |config: &LocalConfig, _: &str| {
        let (data, range) = (config.data_dir.clone(), config.network_range.to_string());
        let orders = Orders { data, range, storage, deed: deed.clone() };
        let died = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "local::tests::crashes::in_another_process", "--nocapture"])
            .env(ORDERS, serde_json::to_string(&orders).unwrap())
            .env(fail::VARIABLE, step)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert_eq!(died.status.signal(), Some(9), "{step}: {}", String::from_utf8_lossy(&died.stderr));
    };
    yard.reopen_after(die, |_| {}).await
}

fn steps(storage: StorageChoice, both: &[&'static str], dir_only: &[&'static str]) -> Vec<&'static str> {
    let more = if storage == StorageChoice::Dir { dir_only } else { &[] };
    both.iter().chain(more).copied().collect()
}

async fn state(yard: &Yard, id: &BoxId) -> Option<ObservedState> {
    yard.engine.observe().await.unwrap().into_iter().find(|seen| seen.id == *id).map(|seen| seen.state)
}

async fn survive(storage: StorageChoice) {
    let mut yard = Yard::with(storage).await;
    let source = yard.make().await;
    yard.sh(&source, "echo precious > /root/file; sync /root/file").await;
    let snapshot = SnapshotId::from_entropy(rand::random());
    yard.engine.save(&source, &snapshot).await.map_err(explain).unwrap();

    for step in steps(
        storage,
        &["create: recorded", "create: disk prepared", "create: running", "create: launched"],
        &["copy: begun", "copy: half"],
    ) {
        for (again, once) in [(true, true), (false, false), (true, false)] {
            let from = if once { SnapshotId::from_entropy(rand::random()) } else { snapshot.clone() };
            if once {
                yard.engine.save_once(&source, &from).await.map_err(explain).unwrap();
            }
            let copy = BoxSpec { from: Some(from.clone()), ..spec(LIMITS) };
            yard = die_after(yard, step, storage, &Deed::Create(copy.clone())).await;
            assert!(state(&yard, &copy.id).await.is_some(), "{step}: it is known");
            if again {
                yard.engine.create(&copy).await.map_err(explain).unwrap();
                assert_eq!(yard.sh(&copy.id, "cat /root/file").await.out, "precious\n", "{step}");
            }
            yard.engine.remove(&copy.id).await.map_err(explain).unwrap();
            assert_eq!(state(&yard, &copy.id).await, None, "{step}");
            if once {
                yard.engine.drop_snapshot(&from).await.map_err(explain).unwrap();
            }
            assert_eq!(yard.engine.snapshots().await.unwrap(), std::slice::from_ref(&snapshot), "{step}");
        }
    }

    for step in steps(
        storage,
        &["save: begun", "save: flushed", "save: frozen", "save: copied", "save: thawed", "save: recorded"],
        &["copy: begun", "copy: half"],
    ) {
        for again in [true, false] {
            let second = SnapshotId::from_entropy(rand::random());
            yard = die_after(yard, step, storage, &Deed::Save(source.clone(), second.clone())).await;
            assert_eq!(state(&yard, &source).await, Some(ObservedState::Running), "{step}: it goes on");
            if again {
                yard.engine.save(&source, &second).await.map_err(explain).unwrap();
            }
            let complete = yard.engine.snapshots().await.unwrap();
            assert!(complete.contains(&snapshot));
            assert_eq!(complete.contains(&second), again || step == "save: recorded", "{step}");
            yard.engine.drop_snapshot(&second).await.map_err(explain).unwrap();
            assert_eq!(yard.engine.snapshots().await.unwrap(), std::slice::from_ref(&snapshot));
        }
    }

    for step in steps(storage, &["stop: ended"], &[]) {
        yard = die_after(yard, step, storage, &Deed::Stop(source.clone())).await;
        yard.engine.stop(&source).await.map_err(explain).unwrap();
        assert_eq!(state(&yard, &source).await, Some(ObservedState::Stopped));
    }
    for step in ["create: recorded", "create: disk prepared", "create: running", "create: launched"] {
        yard = die_after(yard, step, storage, &Deed::Resume(source.clone())).await;
        yard.engine.resume(&source).await.map_err(explain).unwrap();
        assert_eq!(yard.sh(&source, "cat /root/file").await.out, "precious\n", "{step}");
        yard.engine.stop(&source).await.map_err(explain).unwrap();
    }

    for step in ["remove: ended", "remove: disk removed", "remove: thrown away"] {
        let copy = BoxSpec { from: Some(snapshot.clone()), ..spec(LIMITS) };
        yard.engine.create(&copy).await.map_err(explain).unwrap();
        yard = die_after(yard, step, storage, &Deed::Remove(copy.id.clone())).await;
        let left = state(&yard, &copy.id).await;
        assert_eq!(left.is_some(), step != "remove: thrown away", "{step}: {left:?}");
        yard.engine.remove(&copy.id).await.map_err(explain).unwrap();
        assert_eq!(state(&yard, &copy.id).await, None);
    }

    for step in ["drop: unrecorded", "drop: removed"] {
        let second = SnapshotId::from_entropy(rand::random());
        yard.engine.save(&source, &second).await.map_err(explain).unwrap();
        yard = die_after(yard, step, storage, &Deed::Drop(second.clone())).await;
        assert_eq!(yard.engine.snapshots().await.unwrap(), std::slice::from_ref(&snapshot), "{step}");
        yard.engine.drop_snapshot(&second).await.map_err(explain).unwrap();
    }
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_copied_into_a_pool_is_whole_or_not_there() {
    let yard = Yard::with(StorageChoice::Dir).await;
    let source = yard.make().await;
    yard.sh(&source, "echo precious > /root/file; sync /root/file").await;
    let snapshot = SnapshotId::from_entropy(rand::random());
    yard.engine.save(&source, &snapshot).await.map_err(explain).unwrap();
    let mut yard = yard
        .reopen_with(|config| {
            config.storage = StorageChoice::Btrfs;
            config.pool_size = Some(2 << 30);
        })
        .await;
    for step in ["create: recorded", "copy: begun", "copy: half", "create: disk prepared", "create: launched"] {
        for again in [true, false] {
            let copy = BoxSpec { from: Some(snapshot.clone()), ..spec(LIMITS) };
            yard = die_after(yard, step, StorageChoice::Btrfs, &Deed::Create(copy.clone())).await;
            if again {
                yard.engine.create(&copy).await.map_err(explain).unwrap();
                assert_eq!(yard.sh(&copy.id, "cat /root/file").await.out, "precious\n", "{step}");
            }
            yard.engine.remove(&copy.id).await.map_err(explain).unwrap();
        }
    }
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn folders_survive_a_server_that_dies_at_any_step() {
    survive(StorageChoice::Dir).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_survives_a_server_that_dies_at_any_step() {
    survive(StorageChoice::Btrfs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_a_snapshot_whose_import_died_half_way() {
    for storage in [StorageChoice::Dir, StorageChoice::Btrfs] {
        let mut yard = Yard::with(storage).await;
        let file = yard.config.data_dir.with_file_name("archive");
        let bytes = super::archives::small_archive(&[("etc/", ""), ("etc/base", "base")], &[("own", "own")]);
        std::fs::write(&file, bytes).unwrap();
        let steps = [
            "import: received",
            "import: begun",
            "import: layer",
            "import: unpacked",
            "import: kept",
            "import: recorded",
        ];
        for step in steps {
            let id = SnapshotId::from_entropy(rand::random());
            yard = die_after(yard, step, storage, &Deed::Import(id.clone(), file.clone())).await;
            let there = yard.engine.snapshots().await.map_err(explain).unwrap();
            if step == "import: recorded" {
                assert_eq!(there, std::slice::from_ref(&id));
                yard.engine.drop_snapshot(&id).await.map_err(explain).unwrap();
            } else {
                assert_eq!(there, [], "{step}");
            }
            // What frees the layers is at work in the background.
            while !yard.engine.tasks.is_empty() {
                tokio::task::yield_now().await;
            }
            let left = std::fs::read_dir(yard.config.data_dir.join("images/layers")).unwrap().count();
            assert_eq!(left, 0, "{step}");
            let spools = std::fs::read_dir(&yard.config.data_dir).unwrap();
            let spools =
                spools.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("spool"));
            assert_eq!(spools.count(), 0, "{step}");
        }
        yard.close().await;
    }
}
