//! The power goes. A server that is started on what was on the disk at that moment has everything that was acknowledged long enough
//! before, and nothing that is half.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use boxyard_real_tests::{FileSystem, Footprint, Server, Settings, until};
use serde_json::{Value, json};

/// How long a started server may take to finish what the other had begun.
const SETTLE: Duration = Duration::from_secs(60);

/// What had been acknowledged when a copy was taken.
#[derive(Debug, Default, Clone)]
struct Acknowledged {
    /// Boxes by their ids, with what `cat file` says in them, if that was written out.
    boxes: BTreeMap<String, Option<&'static str>>,
    deleted: BTreeSet<String>,
    snapshots: BTreeSet<String>,
}

fn settings(storage: &str) -> Settings {
    Settings::from([
        ("BOXYARD_STORAGE_KIND", storage.to_owned()),
        ("BOXYARD_STORAGE_POOL_SIZE", "6GB".to_owned()),
        ("BOXYARD_STORE_SYNCHRONOUS", "full".to_owned()),
    ])
}

#[test]
fn what_was_acknowledged_outlives_the_power_in_a_pool() -> Result<()> {
    outlives(FileSystem::Ext4, "btrfs")
}

#[test]
fn what_was_acknowledged_outlives_the_power_in_subvolumes() -> Result<()> {
    outlives(FileSystem::Btrfs, "btrfs")
}

#[test]
fn what_was_acknowledged_outlives_the_power_in_folders() -> Result<()> {
    outlives(FileSystem::Ext4, "dir")
}

fn id_of(made: &Value) -> Result<String> {
    Ok(made["id"].as_str().context("no id")?.to_owned())
}

fn outlives(file_system: FileSystem, storage: &str) -> Result<()> {
    let (server, mut disk) = Server::on_disk(file_system, settings(storage))?;
    let mut now = Acknowledged::default();
    let mut copies: Vec<(&str, PathBuf, Acknowledged)> = Vec::new();
    let mut cut = |name: &'static str, now: &Acknowledged| -> Result<()> {
        copies.push((name, disk.copy()?, now.clone()));
        Ok(())
    };

    let first = server.create()?;
    now.boxes.insert(first.clone(), None);
    cut("the first box was made", &now)?;
    server.sh(&first, "echo first > file; sync file; sync")?;
    now.boxes.insert(first.clone(), Some("first"));
    cut("a file was written out", &now)?;
    server.call("POST", &format!("/v2/box/{first}/pause"), None)?.ok()?;
    cut("it was paused", &now)?;
    let saved = server.call("POST", &format!("/v2/box/{first}/snapshots"), Some(&json!({"name": "s"})))?.ok()?;
    now.snapshots.insert(id_of(&saved)?);
    cut("a snapshot was made", &now)?;
    let copy = server.call("POST", "/v2/box/from-snapshot", Some(&json!({"snapshot_id": saved["id"]})))?.ok()?;
    now.boxes.insert(id_of(&copy)?, Some("first"));
    cut("a box was made from it", &now)?;
    let fork = server.call("POST", &format!("/v2/box/{first}/fork"), None)?.ok()?;
    now.boxes.insert(id_of(&fork)?, Some("first"));
    cut("a box was forked", &now)?;
    server.delete(&id_of(&copy)?)?;
    now.boxes.remove(&id_of(&copy)?);
    now.deleted.insert(id_of(&copy)?);
    cut("a box was deleted", &now)?;
    let snapshot = id_of(&saved)?;
    server.call("DELETE", &format!("/v2/box/{first}/snapshots/{snapshot}"), None)?.ok()?;
    now.snapshots.clear();
    cut("a snapshot was deleted", &now)?;

    for (name, copy, acknowledged) in copies {
        check(&copy, storage, &acknowledged).with_context(|| format!("the power went when {name}"))?;
    }
    Ok(())
}

/// Starts a server on what the disk had, and looks.
fn check(copy: &std::path::Path, storage: &str, acknowledged: &Acknowledged) -> Result<()> {
    let server = Server::on_copy(copy, settings(storage))?;
    let settled = until("everything to be settled", SETTLE, || {
        let boxes = server.list()?;
        Ok(boxes.values().all(|status| status != "creating").then_some(boxes))
    })?;
    for (id, file) in &acknowledged.boxes {
        let status = settled.get(id).with_context(|| format!("{id} is lost; there are {settled:?}"))?;
        ensure!(status == "paused" || status == "idle", "{id} is {status}");
        if let Some(file) = file {
            ensure!(server.sh(id, "cat file")? == *file, "{id} has another file");
        }
    }
    for (id, status) in &settled {
        ensure!(status != "error", "{id} is in error");
        ensure!(!acknowledged.deleted.contains(id), "{id} is back");
        ensure!(server.sh(id, "echo works")? == "works");
    }
    let snapshots = server.call("GET", "/v2/box/snapshots", None)?.ok()?;
    let snapshots = snapshots["snapshots"].as_array().context("no list")?.clone();
    for id in &acknowledged.snapshots {
        let row = snapshots.iter().find(|row| row["id"] == **id).context("a snapshot is lost")?;
        ensure!(row["status"] == "ready", "a snapshot is {row}");
        let made = server.call("POST", "/v2/box/from-snapshot", Some(&json!({"snapshot_id": id})))?.ok()?;
        ensure!(server.sh(&id_of(&made)?, "cat file")? == "first");
        server.delete(&id_of(&made)?)?;
    }
    let ids = server.ids()?;
    until("nothing to be left over", SETTLE, || {
        Ok(Footprint::of(server.lane())?.differences(&ids).is_empty().then_some(()))
    })
    .with_context(|| format!("{:?}", Footprint::of(server.lane()).map(|found| found.differences(&ids))))
}

#[test]
fn whatever_is_under_way_when_the_power_goes_a_server_starts() -> Result<()> {
    let (server, mut disk) = Server::on_disk(FileSystem::Ext4, settings("btrfs"))?;
    let old = server.create()?;
    server.sh(&old, "echo old > file; sync")?;
    let over = AtomicBool::new(false);
    let client = server.client().clone();
    let copies = thread::scope(|scope| -> Result<Vec<PathBuf>> {
        for _ in 0..3 {
            scope.spawn(|| {
                while !over.load(Ordering::Acquire) {
                    // What becomes of each is looked at below.
                    let Ok(made) = client.call("POST", &format!("/v2/box/{old}/fork"), None).and_then(|made| made.ok())
                    else {
                        continue;
                    };
                    let id = made["id"].as_str().unwrap_or_default();
                    let _ = client.call("POST", &format!("/v2/box/{id}/snapshots"), Some(&json!({"name": "s"})));
                    let _ = client.call("POST", &format!("/v2/box/{id}/pause"), None);
                    let _ = client.call("DELETE", &format!("/v2/box/{id}"), None);
                    let _ = client.call("DELETE", "/v2/box/snapshots?all=true", None);
                }
            });
        }
        let mut copies = Vec::new();
        let began = Instant::now();
        while copies.len() < 6 {
            // Moments that have nothing to do with what the server does.
            let at = Duration::from_millis(700 * (copies.len() as u64 + 1));
            until("the next moment", SETTLE, || Ok((began.elapsed() > at).then_some(())))?;
            copies.push(disk.copy()?);
        }
        over.store(true, Ordering::Release);
        Ok(copies)
    })?;
    let acknowledged = Acknowledged { boxes: BTreeMap::from([(old, Some("old"))]), ..Acknowledged::default() };
    for (at, copy) in copies.iter().enumerate() {
        check(copy, "btrfs", &acknowledged).with_context(|| format!("moment {at}"))?;
    }
    Ok(())
}

#[test]
fn where_commits_do_not_wait_for_the_disk_they_are_there_soon_all_the_same() -> Result<()> {
    let normal = || Settings::from([("BOXYARD_STORE_SYNCHRONOUS", "normal".to_owned())]).into_iter();
    let settings = || settings("btrfs").into_iter().chain(normal()).collect::<Settings>();
    let (server, mut disk) = Server::on_disk(FileSystem::Ext4, settings())?;
    let id = server.create()?;
    // Much longer than the second that is promised, and much shorter than what the kernel takes by itself.
    let began = Instant::now();
    until("some seconds to be over", SETTLE, || Ok((began.elapsed() > Duration::from_secs(4)).then_some(())))?;
    let acknowledged = Acknowledged { boxes: BTreeMap::from([(id, None)]), ..Acknowledged::default() };
    check(&disk.copy()?, "btrfs", &acknowledged)
}
