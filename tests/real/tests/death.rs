//! Boxes that lose their processes though nobody has asked for it: by a signal from outside, and for want of memory on the host.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use boxyard_real_tests::{Footprint, HOST, Server, Settings, until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// How long what nothing announces may take.
const SETTLE: Duration = Duration::from_secs(30);

fn status(server: &Server, id: &str) -> Result<Value> {
    Ok(server.call("GET", &format!("/v2/box/{id}"), None)?.ok()?["status"].clone())
}

fn becomes(server: &Server, id: &str, wanted: &str) -> Result<()> {
    until(wanted, SETTLE, || Ok((status(server, id)? == wanted).then_some(())))
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

/// The first processes of this server's boxes, as the host numbers them.
fn first_processes(server: &Server) -> Result<BTreeSet<i32>> {
    let mut first = BTreeSet::new();
    for pid in Footprint::of(server.lane())?.pids {
        // One that ends meanwhile is none that is wanted.
        let Ok(text) = std::fs::read_to_string(format!("/proc/{pid}/status")) else { continue };
        let numbers = text.lines().find_map(|line| line.strip_prefix("NSpid:")).context("no NSpid")?;
        let dead = text.lines().any(|line| line.starts_with("State:") && line.contains('Z'));
        if numbers.split_whitespace().last() == Some("1") && !dead {
            first.insert(pid);
        }
    }
    Ok(first)
}

/// Kills the first process of the server's only box.
fn kill_first(server: &Server) -> Result<i32> {
    let first = first_processes(server)?;
    ensure!(first.len() == 1, "{first:?} instead of one first process");
    let pid = *first.first().context("none")?;
    kill_process(Pid::from_raw(pid).context("no pid")?, Signal::KILL)?;
    Ok(pid)
}

#[test]
fn a_box_whose_first_process_is_killed_says_so_and_is_started_by_the_next_work() -> Result<()> {
    let server = Server::with_ssh(Settings::new())?;
    let id = server.create()?;
    let ssh = server.ssh(&id)?;
    server.sh(&id, "echo kept > file; nohup sleep 4741 > /dev/null 2>&1 &")?;
    let run = server.begin(&id, "sleep 4742")?;
    let mut session = ssh.terminal(&[HOST])?;
    session.expect("$ ")?;
    let waiting = std::thread::scope(|scope| -> Result<String> {
        let waiting = scope.spawn(|| {
            let body = json!({ "command": ["bash", "-c", "mkfifo waits; echo > waits; sleep 4743"] });
            server.call("POST", &format!("/v2/box/{id}/exec"), Some(&body))
        });
        server.sh(&id, "until [ -p waits ]; do :; done; cat waits")?;
        kill_first(&server)?;
        let answer = waiting.join().map_err(|_| anyhow::anyhow!("a worker panicked"))??;
        ensure!(answer.status == 409, "{answer:?}");
        Ok(answer.text())
    })?;
    ensure!(waiting.contains("ended unexpectedly"), "{waiting}");
    session.expect("ended unexpectedly")?;
    ensure!(session.wait()?.code() == Some(255));
    let ended = until("the run to end", SETTLE, || {
        let run = server.run(&id, &run)?;
        Ok((run["status"] != "running").then_some(run))
    })?;
    ensure!(ended["error_message"].as_str().is_some_and(|text| text.contains("ended unexpectedly")), "{ended}");
    becomes(&server, &id, "paused")?;
    becomes_logged(&server, &id, "Box died", 1)?;
    // Cleared away as when it is stopped.
    until("what it had on the host to be gone", SETTLE, || {
        let found = Footprint::of(server.lane())?;
        let gone = found.pids.is_empty() && found.cgroups.is_empty() && found.sockets.is_empty();
        Ok((gone && found.interfaces.is_empty() && found.routes.is_empty()).then_some(()))
    })?;

    ensure!(server.sh(&id, "cat file; pgrep -x sleep || echo none")? == "kept\nnone");
    ensure!(status(&server, &id)? == "idle");
    kill_first(&server)?;
    ensure!(ssh.sh("echo in")? == "in", "a login does not start it");
    becomes_logged(&server, &id, "Box died", 2)?;
    kill_first(&server)?;
    server.delete(&id)?;
    until("the box to be gone", SETTLE, || {
        Ok(Footprint::of(server.lane())?.differences(&BTreeSet::new()).is_empty().then_some(()))
    })
}

#[test]
fn a_box_that_is_kept_alive_comes_back_by_itself() -> Result<()> {
    let server = Server::start()?;
    let id = server.create_with(&json!({"keep_alive": true, "init_command": "echo up; exec sleep 4744"}))?;
    becomes_logged(&server, &id, "init: up", 1)?;
    for times in 2..=3 {
        let before = kill_first(&server)?;
        becomes_logged(&server, &id, "init: up", times)?;
        becomes(&server, &id, "idle")?;
        ensure!(!first_processes(&server)?.contains(&before));
    }
    ensure!(logged(&server, &id, "Box died")? == 2);
    Ok(())
}

#[test]
fn a_frozen_box_that_is_killed_is_stopped() -> Result<()> {
    let server = Server::start()?;
    let id = server.create()?;
    let run = server.begin(&id, "sleep 4745")?;
    server.call("POST", &format!("/v2/box/{id}/pause"), None)?.ok()?;
    kill_first(&server)?;
    let ended = until("the run to end", SETTLE, || {
        let run = server.run(&id, &run)?;
        Ok((run["status"] != "running").then_some(run))
    })?;
    ensure!(ended["error_message"].as_str().is_some_and(|text| text.contains("ended unexpectedly")), "{ended}");
    ensure!(status(&server, &id)? == "paused");
    ensure!(server.sh(&id, "echo on")? == "on");
    Ok(())
}

#[test]
fn a_paused_box_gives_its_memory_to_a_host_that_is_short_of_it() -> Result<()> {
    let server = Server::with(Settings::from([("BOXYARD_PAUSE_MEMORY_FLOOR", "64TiB".to_owned())]))?;
    let (id, other) = (server.create()?, server.create()?);
    server.sh(
        &id,
        "echo kept > file; nohup python3 -c 'x = bytearray(64 << 20); input()' < /dev/zero > /dev/null 2>&1 &",
    )?;
    server.call("POST", &format!("/v2/box/{id}/pause"), None)?.ok()?;
    becomes_logged(&server, &id, "stopped: the host was short of memory", 1)?;
    ensure!(status(&server, &id)? == "paused");
    until("its processes to be gone", SETTLE, || Ok((first_processes(&server)?.len() == 1).then_some(())))?;
    ensure!(server.sh(&id, "cat file; pgrep -x python3 || echo none")? == "kept\nnone");
    ensure!(status(&server, &other)? == "idle", "what is not paused is left alone");
    Ok(())
}
