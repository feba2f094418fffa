//! Boxes are paused, resumed, stopped, deleted by themselves, and run what they are to run when they start.

#![forbid(unsafe_code)]

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use boxyard_real_tests::{Footprint, Server, Settings, until};
use serde_json::{Value, json};

/// How long what nothing announces may take.
const SETTLE: Duration = Duration::from_secs(30);
/// How long a counter is looked at that must not count.
const LOOKS: usize = 20;

fn pause(server: &Server, id: &str) -> Result<()> {
    server.call("POST", &format!("/v2/box/{id}/pause"), None)?.ok()?;
    Ok(())
}

fn resume(server: &Server, id: &str) -> Result<()> {
    server.call("POST", &format!("/v2/box/{id}/resume"), None)?.ok()?;
    Ok(())
}

fn status(server: &Server, id: &str) -> Result<Value> {
    Ok(server.call("GET", &format!("/v2/box/{id}"), None)?.ok()?["status"].clone())
}

/// How often the box's log has a line with this text.
fn logged(server: &Server, id: &str, text: &str) -> Result<usize> {
    let logs = server.call("GET", &format!("/v2/box/{id}/logs?limit=1000"), None)?.ok()?;
    let lines = logs["logs"].as_array().context("a list")?;
    Ok(lines.iter().filter(|line| line["message"].as_str().is_some_and(|line| line.contains(text))).count())
}

fn becomes_logged(server: &Server, id: &str, text: &str, times: usize) -> Result<()> {
    until(text, SETTLE, || Ok((logged(server, id, text)? >= times).then_some(())))
}

#[test]
fn a_paused_box_stands_still_and_goes_on_where_it_was() -> Result<()> {
    let mut server = Server::start()?;
    let id = server.create()?;
    let count =
        "i=0; while [ ! -e stop ]; do i=$((i + 1)); echo $i > count.new; mv count.new count; done; echo $i > last";
    let run = server.begin(&id, count)?;
    let counted = |server: &Server| -> Result<u64> { Ok(server.sh(&id, "cat count || echo 0")?.parse()?) };
    until("the counter to count", SETTLE, || Ok((counted(&server)? > 0).then_some(())))?;
    pause(&server, &id)?;
    ensure!(status(&server, &id)? == "paused");
    pause(&server, &id)?;
    // Looking from outside: its processes use no CPU time.
    let used = |server: &Server| -> Result<u64> { cpu_ticks(server) };
    let before = used(&server)?;
    for _ in 0..LOOKS {
        ensure!(status(&server, &id)? == "paused", "looking at it wakes it");
    }
    ensure!(used(&server)? == before, "something in a paused box runs");
    ensure!(server.run(&id, &run)?["status"] == "running");

    // The next server finds it as it is.
    server.kill()?;
    server.launch()?;
    ensure!(status(&server, &id)? == "paused", "{}", status(&server, &id)?);
    ensure!(used(&server)? == before, "a restart of the server wakes it");
    resume(&server, &id)?;
    let now = counted(&server)?;
    until("the counter to go on", SETTLE, || Ok((counted(&server)? > now).then_some(())))?;
    server.sh(&id, "touch stop")?;
    let ended = until("the run to end", SETTLE, || {
        let run = server.run(&id, &run)?;
        Ok((run["status"] != "running").then_some(run))
    })?;
    ensure!(ended["status"] == "completed", "frozen and taken over, the run ended as {ended}");
    Ok(())
}

/// Clock ticks that all processes of this server's boxes have used so far.
fn cpu_ticks(server: &Server) -> Result<u64> {
    let mut ticks = 0;
    for pid in Footprint::of(server.lane())?.pids {
        // One that ends meanwhile is none of a paused box.
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        for field in fields.get(11..13).context("a short stat")? {
            ticks += field.parse::<u64>()?;
        }
    }
    Ok(ticks)
}

#[test]
fn work_wakes_a_paused_box() -> Result<()> {
    let server = Server::start()?;
    let id = server.create()?;
    let background = server.sh(&id, "nohup sleep 4731 > /dev/null 2>&1 & echo $!")?;
    for _ in 0..5 {
        pause(&server, &id)?;
        ensure!(server.sh(&id, &format!("kill -0 {background} && echo there"))? == "there");
    }
    Ok(())
}

#[test]
fn a_stopped_box_keeps_its_disk_and_nothing_else() -> Result<()> {
    let server = Server::with(Settings::from([("BOXYARD_PAUSE_KEEP_MEMORY_FOR", "0s".to_owned())]))?;
    let id = server.create()?;
    server.sh(&id, "echo kept > file; nohup sleep 4732 > /dev/null 2>&1 &")?;
    let run = server.begin(&id, "sleep 4733")?;
    pause(&server, &id)?;
    becomes_logged(&server, &id, "Box stopped", 1)?;
    ensure!(status(&server, &id)? == "paused");
    // The dead are still seen until somebody has reaped them.
    until("its processes to be gone", SETTLE, || Ok(Footprint::of(server.lane())?.pids.is_empty().then_some(())))?;
    let ended = until("the run to end", SETTLE, || {
        let run = server.run(&id, &run)?;
        Ok((run["status"] != "running").then_some(run))
    })?;
    ensure!(ended["error_message"].as_str().is_some_and(|text| text.contains("paused for longer")), "{ended}");
    ensure!(server.sh(&id, "cat file; pgrep -x sleep || echo none")? == "kept\nnone");
    Ok(())
}

#[test]
fn an_idle_box_is_paused_by_itself_and_a_working_one_is_not() -> Result<()> {
    let server = Server::with(Settings::from([("BOXYARD_IDLE_PAUSE_AFTER", "300ms".to_owned())]))?;
    let (idle, busy) = (server.create()?, server.create()?);
    server.sh(&busy, "mkfifo go")?;
    let run = server.begin(&busy, "cat go > /dev/null")?;
    until("the idle box to be paused", SETTLE, || Ok((status(&server, &idle)? == "paused").then_some(())))?;
    ensure!(status(&server, &busy)? == "running");
    server.sh(&busy, "echo > go")?;
    until("the run to end", SETTLE, || Ok((server.run(&busy, &run)?["status"] == "completed").then_some(())))?;
    until("the other to be paused", SETTLE, || Ok((status(&server, &busy)? == "paused").then_some(())))?;
    ensure!(server.sh(&idle, "echo awake")? == "awake");
    Ok(())
}

#[test]
fn an_ephemeral_box_is_gone_after_its_time() -> Result<()> {
    let server = Server::start()?;
    let made = server.call("POST", "/v2/box", Some(&json!({"ephemeral": true, "ttl": 2})))?.ok()?;
    ensure!(made["status"] == "idle" && made["ephemeral"] == true && made["expires_at"].is_i64(), "{made}");
    let id = made["id"].as_str().context("an id")?;
    ensure!(server.sh(id, "echo works")? == "works");
    until("the box to expire", SETTLE, || Ok((status(&server, id)? == "deleted").then_some(())))?;
    ensure!(server.ids()?.is_empty());
    until("its processes to end", SETTLE, || Ok(Footprint::of(server.lane())?.pids.is_empty().then_some(())))
}

#[test]
fn an_init_command_runs_at_each_start_and_not_when_a_box_goes_on() -> Result<()> {
    let mut server = Server::start()?;
    let init = "echo from $PWD as $(id -un); exec sleep 4734";
    let id = server.create_with(&json!({"keep_alive": true, "init_command": init}))?;
    becomes_logged(&server, &id, "init: from /workspace/home as boxuser", 1)?;
    ensure!(status(&server, &id)? == "idle", "an init command is no work");
    let refused = server.call("POST", &format!("/v2/box/{id}/pause"), None)?;
    ensure!(refused.status == 409 && refused.text().contains("keep-alive"), "{refused:?}");

    // As a restart of the host would: all of the box's processes end while no server runs.
    server.kill()?;
    for pid in Footprint::of(server.lane())?.pids {
        let pid = rustix::process::Pid::from_raw(pid).context("no pid")?;
        // PID 1 takes the others with it, so one may be gone when its turn comes.
        let _killed = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
    server.launch()?;
    becomes_logged(&server, &id, "init: from", 2)?;
    ensure!(status(&server, &id)? == "idle");

    let plain = server.create_with(&json!({"init_command": "echo plain"}))?;
    becomes_logged(&server, &plain, "Init command ended with exit code 0", 1)?;
    pause(&server, &plain)?;
    resume(&server, &plain)?;
    ensure!(server.sh(&plain, "echo on")? == "on");
    ensure!(logged(&server, &plain, "init: plain")? == 1);
    Ok(())
}
