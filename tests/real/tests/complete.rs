//! Deleting is complete: when all that was made is deleted, the host is as it was before the first box.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use boxyard_real_tests::{Footprint, Server, Settings, until};
use serde_json::json;

/// How long what the kernel does in the background may take: it frees a subvolume when it next writes its books.
const SETTLE: Duration = Duration::from_secs(90);

/// What one server has on the host, by kinds.
type Traces = BTreeMap<&'static str, BTreeSet<String>>;

fn said(program: &str, arguments: &[&str]) -> Result<Vec<String>> {
    let output = Command::new(program).args(arguments).output().with_context(|| format!("starting {program}"))?;
    ensure!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
}

/// Every path below `folder` whose name `take` takes, without the folder itself.
fn paths(folder: &Path, take: &dyn Fn(&Path) -> bool, into: &mut BTreeSet<String>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if !take(&entry.path()) {
            continue;
        }
        into.insert(entry.path().to_string_lossy().into_owned());
        if entry.file_type()?.is_dir() {
            paths(&entry.path(), take, into)?;
        }
    }
    Ok(())
}

fn traces(server: &Server) -> Result<Traces> {
    let data = server.lane().data();
    let (data_text, pool) = (data.to_string_lossy().into_owned(), data.join("pool"));
    let pool_text = pool.to_string_lossy().into_owned();
    let tag = server.lane().tag().context("no tag")?;
    let found = Footprint::of(server.lane())?;
    let mut traces = Traces::new();
    traces.insert("processes", found.pids.iter().map(i32::to_string).collect());
    traces.insert("links", found.interfaces);
    traces.insert("routes", found.routes);
    let mut mounts = BTreeSet::new();
    for process in ["self".to_owned(), server.pid()?.to_string()] {
        for line in fs::read_to_string(format!("/proc/{process}/mountinfo"))?.lines() {
            let point = line.split(' ').nth(4).unwrap_or_default();
            if point.starts_with(&data_text) || point.contains(&tag) {
                mounts.insert(point.to_owned());
            }
        }
    }
    traces.insert("mounts", mounts);
    let mut groups = BTreeSet::new();
    for folder in boxyard_real_tests::footprint::cgroups(&tag)? {
        paths(&folder, &Path::is_dir, &mut groups)?;
    }
    traces.insert("cgroups", groups);
    let firewall = said("nft", &["-s", "list", "table", "inet", &format!("boxyard_{tag}")])?;
    traces.insert("firewall", firewall.into_iter().collect());
    let addresses = said("ip", &["-o", "address", "show", "dev", "lo"])?;
    traces.insert("addresses", addresses.into_iter().filter(|line| line.contains(&tag)).collect());
    let mut run = BTreeSet::new();
    paths(Path::new(&format!("/run/boxyard-{tag}")), &|path| !path.ends_with("cgroup2"), &mut run)?;
    traces.insert("sockets", run);
    // Not what all boxes share, and not the database, which keeps records of deleted boxes.
    let ours = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        path != data.join("images") && !name.starts_with("boxyard.db")
    };
    let mut files = BTreeSet::new();
    paths(&data, &ours, &mut files)?;
    traces.insert("files", files);
    let loops = said("losetup", &["-j", &data.join("pool.img").to_string_lossy()])?;
    traces.insert("loop devices", loops.into_iter().collect());
    let path_of = |line: String| line.split(" path ").nth(1).map(str::to_owned);
    let subvolumes = said("btrfs", &["subvolume", "list", &pool_text])?;
    traces.insert("subvolumes", subvolumes.into_iter().filter_map(path_of).collect());
    let group_of = |line: String| line.split_whitespace().next().filter(|word| word.contains('/')).map(str::to_owned);
    let groups = said("btrfs", &["qgroup", "show", &pool_text])?;
    traces.insert("quota groups", groups.into_iter().filter_map(group_of).collect());
    let handles = fs::read_dir(format!("/proc/{}/fd", server.pid()?))?.flatten();
    let handles = handles.filter_map(|entry| fs::read_link(entry.path()).ok());
    let of_boxes = |path: &Path| path.starts_with(data.join("boxes")) || path.starts_with(&pool);
    traces.insert("open files", handles.filter(|path| of_boxes(path)).map(|path| path.display().to_string()).collect());
    Ok(traces)
}

fn more(before: &Traces, after: &Traces) -> Vec<String> {
    let of_kind = |(kind, found): (&&'static str, &BTreeSet<String>)| {
        let none = BTreeSet::new();
        let were = before.get(kind).unwrap_or(&none);
        let new: Vec<_> = found.difference(were).cloned().collect();
        let gone: Vec<_> = were.difference(found).cloned().collect();
        (!new.is_empty() || !gone.is_empty()).then(|| format!("{kind}: new {new:?}, gone {gone:?}"))
    };
    after.iter().filter_map(of_kind).collect()
}

#[test]
fn when_everything_is_deleted_the_host_is_as_it_was() -> Result<()> {
    let mut server = Server::with(Settings::from([
        ("BOXYARD_STORAGE_KIND", "btrfs".to_owned()),
        ("BOXYARD_STORAGE_POOL_SIZE", "10GB".to_owned()),
    ]))?;
    let before = traces(&server)?;
    for name in ["mounts", "firewall", "addresses", "loop devices", "quota groups"] {
        ensure!(!before[name].is_empty(), "there are no {name}, so looking at them shows nothing");
    }

    let first = server.create_with(&json!({"name": "first", "init_command": "sleep 4734"}))?;
    let second = server.create_with(&json!({"keep_alive": true, "env_vars": {"A": "b"}}))?;
    for id in [&first, &second] {
        server.sh(id, "head -c 3000000 /dev/urandom > file; mkdir -p deep/er; nohup sleep 4735 > /dev/null 2>&1 &")?;
    }
    server.begin(&first, "sleep 4736")?;
    server.call("POST", &format!("/v2/box/{first}/pause"), None)?.ok()?;
    let saved = server.call("POST", &format!("/v2/box/{first}/snapshots"), Some(&json!({"name": "s"})))?.ok()?;
    server.call("POST", "/v2/box/from-snapshot", Some(&json!({"snapshot_id": saved["id"]})))?.ok()?;
    let fork = server.call("POST", &format!("/v2/box/{second}/fork"), None)?.ok()?;
    let fork = fork["id"].as_str().context("no id")?.to_owned();
    server.sh(&fork, "rm file; echo x > other")?;
    server.call("POST", &format!("/v2/box/{fork}/snapshots"), Some(&json!({"name": "t"})))?.ok()?;
    let during = traces(&server)?;
    for name in ["processes", "links", "cgroups", "sockets", "files", "subvolumes", "quota groups"] {
        ensure!(during[name].len() > before[name].len(), "no {name} are seen of boxes that are there");
    }

    server.call("DELETE", "/v2/box/snapshots?all=true", None)?.ok()?;
    server.call("DELETE", "/v2/box", Some(&json!({ "ids": server.ids()? })))?.ok()?;
    let pool = server.lane().data().join("pool");
    let left = until("the host to be as it was", SETTLE, || {
        said("btrfs", &["filesystem", "sync", &pool.to_string_lossy()])?;
        let mut now = traces(&server)?;
        // The kernel leaves some of them, and the next server sees to it.
        now.remove("quota groups");
        Ok(more(&before, &now).is_empty().then_some(()))
    });
    left.with_context(|| format!("{:#?}", traces(&server).map(|after| more(&before, &after))))?;

    // The space of what was removed is freed in the background.
    said("btrfs", &["subvolume", "sync", &pool.to_string_lossy()])?;
    let tag = server.lane().tag().context("no tag")?;
    ensure!(server.stop()?.success(), "the server did not stop well");
    let data = server.lane().data().to_string_lossy().into_owned();
    ensure!(said("nft", &["list", "tables"])?.iter().all(|table| !table.contains(&tag)), "a table is left");
    ensure!(said("ip", &["-o", "address"])?.iter().all(|line| !line.contains(&tag)), "an address is left");
    ensure!(said("losetup", &["-j", &format!("{data}/pool.img")])?.is_empty(), "a loop device is left");
    ensure!(!Path::new(&format!("/run/boxyard-{tag}")).exists(), "a folder in /run is left");
    ensure!(boxyard_real_tests::footprint::cgroups(&tag)?.is_empty(), "cgroups are left");
    server.launch()?;
    let now = traces(&server)?;
    ensure!(now["quota groups"] == before["quota groups"], "quota groups are left: {:?}", now["quota groups"]);
    Ok(())
}
