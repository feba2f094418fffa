//! Snapshots of real boxes, and boxes made from them, on both kinds of storage.

#![forbid(unsafe_code)]

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use boxyard_real_tests::{Server, Settings, until};
use serde_json::{Value, json};

/// How long a snapshot may take where it is a copy, and what a restarted server has to finish.
const SETTLE: Duration = Duration::from_secs(120);

fn on(storage: &str) -> Result<Server> {
    Server::with(Settings::from([("BOXYARD_STORAGE_KIND", storage.to_owned())]))
}

/// Makes a snapshot, waits until it is ready, and returns its record.
fn snapshot(server: &Server, id: &str, name: &str) -> Result<Value> {
    let path = format!("/v2/box/{id}/snapshots");
    let made = server.call("POST", &path, Some(&json!({ "name": name })))?.ok()?;
    until("the snapshot to be ready", SETTLE, || {
        let list = server.call("GET", &path, None)?.ok()?;
        let rows = list["snapshots"].as_array().context("no list of snapshots")?;
        let row = rows.iter().find(|row| row["id"] == made["id"]).context("the snapshot is not in the list")?;
        ensure!(row["status"] != "error", "the snapshot failed: {row}");
        Ok((row["status"] == "ready").then(|| row.clone()))
    })
}

/// Makes a box by one call and returns its id.
fn made(server: &Server, path: &str, body: &Value) -> Result<String> {
    let made = server.call("POST", path, Some(body))?.ok()?;
    ensure!(made["status"] == "idle", "a new box is {}", made["status"]);
    Ok(made["id"].as_str().context("no id")?.to_owned())
}

#[test]
fn a_snapshot_outlives_its_box_and_boxes_outlive_it_in_a_pool() -> Result<()> {
    outlives(&on("btrfs")?)
}

#[test]
fn a_snapshot_outlives_its_box_and_boxes_outlive_it_in_folders() -> Result<()> {
    outlives(&on("dir")?)
}

fn outlives(server: &Server) -> Result<()> {
    let source = server.create_with(&json!({"env_vars": {"A": "source", "B": "source"}, "size": "medium"}))?;
    server.sh(&source, "head -c 5000000 /dev/urandom > data && sha256sum data > sum && ln -s data link")?;
    server.sh(&source, "sudo sh -c 'echo root > /etc/of-root && chmod 600 /etc/of-root && rm -f /etc/motd'")?;
    server.sh(&source, "mkfifo go")?;
    let run = server.begin(&source, "cat go; echo went on > after")?;

    let taken = snapshot(server, &source, "first")?;
    let id = taken["id"].as_str().context("no id")?.to_owned();
    let size = taken["size_bytes"].as_i64().context("no size")?;
    ensure!((5_000_000..50_000_000).contains(&size), "5 MB were written, and it is said to hold {size} bytes");
    ensure!(server.run(&source, &run)?["status"] == "running", "the command did not go on");
    server.sh(&source, "echo > go")?;
    until("the command that was saved under to end", SETTLE, || {
        Ok((server.run(&source, &run)?["status"] == "completed").then_some(()))
    })?;
    ensure!(server.sh(&source, "cat after")? == "went on");
    server.delete(&source)?;

    let body = json!({"snapshot_id": id, "env_vars": {"B": "given"}});
    let first = made(server, "/v2/box/from-snapshot", &body)?;
    let second = made(server, "/v2/box/from-snapshot", &json!({"snapshot_id": id, "size": "small"}))?;
    for copy in [&first, &second] {
        ensure!(server.sh(copy, "sha256sum -c sum")? == "data: OK");
        ensure!(server.sh(copy, "readlink link; sudo cat /etc/of-root; ls after 2>&1 | wc -l")? == "data\nroot\n1");
        ensure!(server.sh(copy, "stat -c '%U %a' data sum /etc/of-root")? == "boxuser 644\nboxuser 644\nroot 600");
        ensure!(server.exec(copy, "cat after")?.code != 0, "what came later is in the snapshot");
        ensure!(server.sh(copy, "hostname")? == *copy);
    }
    ensure!(server.sh(&first, "echo $A $B")? == "source given");
    ensure!(server.sh(&second, "echo $A $B")? == "source source");
    server.sh(&first, "echo first > mine; rm data")?;
    ensure!(server.exec(&second, "cat mine")?.code != 0, "a box sees what another wrote");
    ensure!(server.sh(&second, "sha256sum -c sum")? == "data: OK");

    let deleted = server.call("DELETE", &format!("/v2/box/{source}/snapshots/{id}"), None)?.ok()?;
    ensure!(deleted["message"] == "Snapshot deleted", "{deleted}");
    until("the snapshot's files to be gone", SETTLE, || {
        let left = std::fs::read_dir(server.lane().data().join("snapshots"))?.count();
        Ok((left == 0).then_some(()))
    })?;
    ensure!(server.sh(&second, "sha256sum -c sum")? == "data: OK");
    ensure!(server.sh(&first, "cat mine")? == "first");
    let refused = server.call("POST", "/v2/box/from-snapshot", Some(&json!({"snapshot_id": id})))?;
    ensure!(refused.status == 404, "a deleted snapshot answers {}", refused.status);
    Ok(())
}

#[test]
fn a_running_box_is_forked_in_a_pool() -> Result<()> {
    forked(&on("btrfs")?)
}

#[test]
fn a_running_box_is_forked_in_folders() -> Result<()> {
    forked(&on("dir")?)
}

fn forked(server: &Server) -> Result<()> {
    let source = server.create_with(&json!({"env_vars": {"A": "source"}}))?;
    server.sh(&source, "mkfifo go; echo kept > note")?;
    let run = server.begin(&source, "cat go")?;
    let copy = made(server, &format!("/v2/box/{source}/fork"), &json!({"name": "copy"}))?;
    ensure!(server.sh("copy", "cat note; echo $A; hostname")? == format!("kept\nsource\n{copy}"));
    ensure!(server.run(&source, &run)?["status"] == "running", "the fork ended what runs in its source");
    let list = server.call("GET", "/v2/box/snapshots", None)?.ok()?;
    ensure!(list == json!({"snapshots": []}), "a fork is shown as a snapshot: {list}");
    until("the fork's snapshot to be gone", SETTLE, || {
        let left = std::fs::read_dir(server.lane().data().join("snapshots"))?.count();
        Ok((left == 0).then_some(()))
    })?;
    server.delete(&source)?;
    ensure!(server.sh(&copy, "cat note")? == "kept");
    Ok(())
}

#[test]
fn the_program_saves_copies_and_deletes_and_a_restarted_server_knows_it_all() -> Result<()> {
    let mut server = on("btrfs")?;
    let source = boxyard(&server, &["create"])?;
    server.sh(&source, "echo kept > note")?;
    let taken = boxyard(&server, &["snapshot", "create", &source, "--name", "mine"])?;
    server.kill()?;
    server.launch()?;
    let list = boxyard(&server, &["snapshot", "list"])?;
    ensure!(list.contains(&taken) && list.contains("mine") && list.contains("ready"), "{list}");
    let copy = boxyard(&server, &["create", "--from", &taken, "--env", "A=1"])?;
    ensure!(server.sh(&copy, "cat note; echo $A")? == "kept\n1");
    let fork = boxyard(&server, &["fork", &copy, "--name", "fork"])?;
    ensure!(server.sh("fork", "cat note; hostname")? == format!("kept\n{fork}"));
    boxyard(&server, &["snapshot", "delete", &taken])?;
    ensure!(!boxyard(&server, &["snapshot", "list", &source])?.contains(&taken), "it is listed still");
    Ok(())
}

/// Runs a client command of the program `boxyard` and returns its standard output.
fn boxyard(server: &Server, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(server.programs().join("boxyard"));
    command.args(arguments).arg("--url").arg(server.client().base_url());
    let output = command.env("BOXYARD_API_KEY", &server.client().key).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`boxyard {}` failed: {said}", arguments.join(" "));
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
