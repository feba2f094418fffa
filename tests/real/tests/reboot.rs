//! The host restarts, or boxyard itself is replaced, while boxes of every kind are there.

#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use boxyard_real_tests::{Footprint, Server, Settings, until};
use serde_json::json;

/// How long a started server may take to finish what it finds.
const SETTLE: Duration = Duration::from_secs(60);

fn pause(server: &Server, id: &str) -> Result<()> {
    server.call("POST", &format!("/v2/box/{id}/pause"), None)?.ok().map(drop)
}

fn becomes(server: &Server, id: &str, wanted: Option<&str>) -> Result<()> {
    until(&format!("{id} to be {wanted:?}"), SETTLE, || {
        Ok((server.list()?.get(id).map(String::as_str) == wanted).then_some(()))
    })
}

#[test]
fn after_a_restart_of_the_host_boxes_are_paused_or_started_or_gone_as_their_kind_says() -> Result<()> {
    let mut server = Server::start()?;
    let running = server.create()?;
    server.sh(&running, "echo running > file; mkfifo never")?;
    let run = server.begin(&running, "cat never")?;
    let frozen = server.create()?;
    server.sh(&frozen, "echo frozen > file")?;
    pause(&server, &frozen)?;
    let counts = json!({"keep_alive": true, "init_command": "echo x >> starts; sleep 4733"});
    let kept_alive = server.create_with(&counts)?;
    until("the init command to run", SETTLE, || {
        Ok((server.exec(&kept_alive, "cat starts")?.out == "x\n").then_some(()))
    })?;
    let with_init = server.create_with(&json!({"init_command": "echo x >> starts"}))?;
    let lasting = server.create_with(&json!({"ephemeral": true, "ttl": 3600}))?;
    let brief = server.create_with(&json!({"ephemeral": true, "ttl": 1}))?;
    let deleted = server.create()?;
    let saved = server.call("POST", &format!("/v2/box/{running}/snapshots"), Some(&json!({"name": "s"})))?.ok()?;
    server.delete(&deleted)?;

    server.kill()?;
    server.lane().restart_host()?;
    let found = Footprint::of(server.lane())?;
    ensure!(found.pids.is_empty() && found.cgroups.is_empty() && found.interfaces.is_empty(), "{found:?}");
    server.launch()?;

    becomes(&server, &kept_alive, Some("idle"))?;
    becomes(&server, &brief, None)?;
    let boxes = server.list()?;
    for id in [&running, &frozen, &with_init, &lasting] {
        ensure!(boxes.get(id).is_some_and(|status| status == "paused"), "{id} is {:?}", boxes.get(id));
    }
    ensure!(!boxes.contains_key(&deleted), "a deleted box is back");
    let log = fs::read_to_string(server.lane().log())?;
    let told = log.lines().rfind(|line| line.contains("took over ")).context("no line says what was found")?;
    ensure!(told.contains("1 started again") && told.contains(" 0 lost; "), "{told}");
    ensure!(told.contains("0 commands taken over, 1 lost"), "{told}");

    until("the init command to run again", SETTLE, || {
        Ok((server.exec(&kept_alive, "cat starts")?.out == "x\nx\n").then_some(()))
    })?;
    ensure!(server.run(&running, &run)?["status"] == "failed", "{}", server.run(&running, &run)?);
    ensure!(server.sh(&running, "cat file")? == "running");
    ensure!(server.sh(&frozen, "cat file")? == "frozen");
    until("an init command to run when its box wakes", SETTLE, || {
        Ok((server.exec(&with_init, "cat starts")?.out == "x\nx\n").then_some(()))
    })?;
    ensure!(server.sh(&lasting, "echo works")? == "works");
    let copy = server.call("POST", "/v2/box/from-snapshot", Some(&json!({"snapshot_id": saved["id"]})))?.ok()?;
    ensure!(server.sh(copy["id"].as_str().context("no id")?, "cat file")? == "running");
    let ids = server.ids()?;
    until("nothing to be left over", SETTLE, || {
        Ok(Footprint::of(server.lane())?.differences(&ids).is_empty().then_some(()))
    })
}

/// The file that the first process of the box is, by its number.
fn init_of(server: &Server, id: &str) -> Result<u64> {
    let namespace = server.sh(id, "readlink /proc/self/ns/pid")?;
    for pid in Footprint::of(server.lane())?.pids {
        let Ok(theirs) = fs::read_link(format!("/proc/{pid}/ns/pid")) else { continue };
        let is_first = fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| {
            status.lines().any(|line| line.starts_with("NSpid:") && line.split_whitespace().last() == Some("1"))
        });
        if is_first && theirs.to_string_lossy() == namespace {
            return Ok(fs::metadata(format!("/proc/{pid}/exe"))?.ino());
        }
    }
    anyhow::bail!("{id} has no first process")
}

/// Puts a program in the place of another as a package manager does.
fn replace(program: &Path, by: &Path) -> Result<u64> {
    let draft = program.with_extension("new");
    fs::copy(by, &draft)?;
    fs::rename(&draft, program)?;
    Ok(fs::metadata(program)?.ino())
}

#[test]
fn a_box_keeps_its_boxyard_init_until_it_is_started_anew() -> Result<()> {
    let programs = boxyard_real_tests::server::programs()?;
    let folder = std::env::temp_dir().join(format!("boxyard-upgrade-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    for program in ["boxyard", "boxyard-init"] {
        fs::copy(programs.join(program), folder.join(program))?;
    }
    let upgraded = upgraded(&folder, &programs);
    fs::remove_dir_all(&folder)?;
    upgraded
}

fn upgraded(folder: &Path, programs: &Path) -> Result<()> {
    let settings = Settings::from([("BOXYARD_PAUSE_KEEP_MEMORY_FOR", "1h".to_owned())]);
    let mut server = Server::with_programs(folder, settings)?;
    let old = fs::metadata(folder.join("boxyard-init"))?.ino();
    let (awake, frozen) = (server.create()?, server.create()?);
    server.sh(&awake, "mkfifo go")?;
    let run = server.begin(&awake, "cat go")?;
    pause(&server, &frozen)?;

    let new = replace(&folder.join("boxyard-init"), &programs.join("boxyard-init"))?;
    replace(&folder.join("boxyard"), &programs.join("boxyard"))?;
    ensure!(server.sh(&awake, "echo works")? == "works", "replacing the programs disturbs a box");
    server.stop()?;
    server.launch()?;

    ensure!(init_of(&server, &awake)? == old && old != new);
    server.sh(&awake, "echo > go")?;
    until("the command of before to end", SETTLE, || {
        Ok((server.run(&awake, &run)?["status"] == "completed").then_some(()))
    })?;
    ensure!(server.sh(&frozen, "echo works")? == "works");
    ensure!(init_of(&server, &frozen)? == old, "a frozen box goes on as it is");
    let fresh = server.create()?;
    ensure!(init_of(&server, &fresh)? == new, "a new box has the old one");
    let saved = server.call("POST", &format!("/v2/box/{awake}/snapshots"), Some(&json!({"name": "s"})))?.ok()?;
    let copy = server.call("POST", "/v2/box/from-snapshot", Some(&json!({"snapshot_id": saved["id"]})))?.ok()?;
    ensure!(init_of(&server, copy["id"].as_str().context("no id")?)? == new);

    server.kill()?;
    server.set("BOXYARD_PAUSE_KEEP_MEMORY_FOR", "0s");
    server.launch()?;
    pause(&server, &frozen)?;
    until("the box to stop", SETTLE, || Ok((!Footprint::of(server.lane())?.cgroups.contains(&frozen)).then_some(())))?;
    ensure!(server.sh(&frozen, "echo works")? == "works");
    ensure!(init_of(&server, &frozen)? == new, "a box that was started anew has the old one");
    Ok(())
}
