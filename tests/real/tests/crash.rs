//! The server ends in the middle of things: killed, or told to stop. No box is lost, none is left over, and running boxes go on.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use boxyard_real_tests::{Footprint, Server, until};
use serde_json::json;

/// How long a started server may take to finish what the killed one had begun.
const SETTLE: Duration = Duration::from_secs(60);
/// Creates, execs and deletes under way, of each.
const EACH: usize = 50;

/// What one request of the storm was answered, if it was.
#[derive(Debug)]
enum Answered {
    Created(Option<String>),
    Ran(Option<i64>),
    Deleted(String, bool),
}

/// A box that was there before the storm, and what must still be true of it afterwards.
#[derive(Debug)]
struct Old {
    id: String,
    init_started: String,
    background: String,
}

impl Old {
    fn make(server: &Server) -> Result<Self> {
        let id = server.create()?;
        let background = server.sh(&id, "nohup sleep 4730 > /dev/null 2>&1 & echo $!")?;
        Ok(Self { init_started: init_started(server, &id)?, background, id })
    }

    fn check(&self, server: &Server) -> Result<()> {
        ensure!(init_started(server, &self.id)? == self.init_started, "{} was started anew", self.id);
        server.sh(&self.id, &format!("kill -0 {}", self.background)).context("a background process is gone")?;
        Ok(())
    }
}

/// When PID 1 of the box was started, in clock ticks since the machine was.
fn init_started(server: &Server, id: &str) -> Result<String> {
    server.sh(id, "cut -d ' ' -f 22 /proc/1/stat")
}

#[test]
fn killed_before_the_first_answer() -> Result<()> {
    killed_after(0)
}

#[test]
fn killed_early_in_the_storm() -> Result<()> {
    killed_after(15)
}

#[test]
fn killed_late_in_the_storm() -> Result<()> {
    killed_after(100)
}

/// Kills the server when `answers` of 150 requests have been answered, starts it again, and looks whether everything is accounted for.
fn killed_after(answers: usize) -> Result<()> {
    let mut server = Server::start()?;
    let old: Vec<Old> = (0..3).map(|_| Old::make(&server)).collect::<Result<_>>()?;
    let doomed: Vec<String> = (0..EACH).map(|_| server.create()).collect::<Result<_>>()?;
    server.sh(&old[0].id, "mkfifo go")?;
    let long = server.begin(&old[0].id, "cat go > /dev/null; echo finished > result")?;

    let (heard, lost) = storm(&mut server, &old, &doomed, answers)?;
    server.launch()?;

    let settled = until("every box to be ready", SETTLE, || {
        let boxes = server.list()?;
        Ok(boxes.values().all(|status| status != "creating").then_some(boxes))
    })?;
    let ids: BTreeSet<String> = settled.keys().cloned().collect();
    ensure!(settled.values().all(|status| status != "error"), "boxes in error: {settled:?}");
    println!("killed after {answers} answers: {} heard, {lost} lost, {} boxes left", heard.len(), ids.len());

    for answered in &heard {
        match answered {
            Answered::Created(Some(id)) => ensure!(ids.contains(id), "{id} was created and is lost"),
            Answered::Deleted(id, true) => ensure!(!ids.contains(id), "{id} was deleted and is back"),
            Answered::Ran(code) => ensure!(code.is_none_or(|code| code == 7), "a command ended with {code:?}"),
            Answered::Created(None) | Answered::Deleted(_, false) => {}
        }
    }
    for id in &ids {
        ensure!(server.sh(id, "echo works").with_context(|| format!("{id} is a phantom"))? == "works");
    }
    for old in &old {
        ensure!(ids.contains(&old.id), "{} ran before and is lost", old.id);
        old.check(&server)?;
    }

    // The command that ran through it all.
    ensure!(
        server.run(&old[0].id, &long)?["status"] == "running",
        "the long run is {}",
        server.run(&old[0].id, &long)?
    );
    server.sh(&old[0].id, "echo > go")?;
    let ended = until("the long run to end", SETTLE, || {
        let run = server.run(&old[0].id, &long)?;
        Ok((run["status"] != "running").then_some(run))
    })?;
    ensure!(ended["status"] == "completed", "a run that survived ended as {ended}");
    ensure!(server.sh(&old[0].id, "cat result")? == "finished");
    until("no run to be left running", SETTLE, || {
        for old in &old {
            let runs = server.call("GET", &format!("/v2/box/{}/runs", old.id), None)?.ok()?;
            let runs = runs["runs"].as_array().context("no list of runs")?.clone();
            if runs.iter().any(|run| run["status"] == "running") {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })?;

    until("nothing to be left over", SETTLE, || Ok(exactly(&server, &ids)?.is_empty().then_some(())))
        .with_context(|| format!("{:#?}", exactly(&server, &ids)))?;
    server.call("DELETE", "/v2/box", Some(&json!({ "ids": ids })))?.ok()?;
    let none = BTreeSet::new();
    until("nothing to be left at all", SETTLE, || Ok(exactly(&server, &none)?.is_empty().then_some(())))
        .with_context(|| format!("{:#?}", exactly(&server, &none)))?;
    ensure!(server.stop()?.code() == Some(0), "the server did not stop cleanly");
    nothing_shared_is_left(&server)
}

/// Looks for what all boxes of a server share, which goes with the last of them when the server stops.
fn nothing_shared_is_left(server: &Server) -> Result<()> {
    let tag = server.lane().tag().context("the server has no tag")?;
    let tables = Command::new("nft").args(["list", "tables"]).output()?;
    let tables = String::from_utf8_lossy(&tables.stdout).into_owned();
    ensure!(!tables.contains(&tag), "a firewall table is left: {tables}");
    let addresses = Command::new("ip").args(["-4", "address", "show", "dev", "lo"]).output()?;
    ensure!(!String::from_utf8_lossy(&addresses.stdout).contains(&tag), "an address on lo is left");
    ensure!(!Path::new(&format!("/run/boxyard-{tag}")).exists(), "a folder in /run is left");
    Ok(())
}

fn exactly(server: &Server, ids: &BTreeSet<String>) -> Result<Vec<String>> {
    Ok(Footprint::of(server.lane())?.differences(ids))
}

/// Sends all requests at once, kills the server when `answers` have been answered, and returns what was heard, and how many requests
/// heard nothing.
fn storm(server: &mut Server, old: &[Old], doomed: &[String], answers: usize) -> Result<(Vec<Answered>, usize)> {
    let (tell, heard) = mpsc::channel();
    let started = AtomicUsize::new(0);
    let client = server.client().clone();
    let mut all = Vec::new();
    let mut lost = 0;
    thread::scope(|scope| -> Result<()> {
        for n in 0..EACH {
            let ran = &old[n % old.len()].id;
            let deleted = &doomed[n];
            for work in 0..3 {
                let (tell, client, started) = (tell.clone(), client.clone(), &started);
                scope.spawn(move || {
                    started.fetch_add(1, Ordering::SeqCst);
                    let answered = match work {
                        0 => client.call("POST", "/v2/box", Some(&json!({}))).ok().map(|answer| {
                            let id = answer.ok().ok().and_then(|made| Some(made["id"].as_str()?.to_owned()));
                            Answered::Created(id)
                        }),
                        1 => {
                            let command = json!({ "command": ["sh", "-c", "exit 7"] });
                            let answer = client.call("POST", &format!("/v2/box/{ran}/exec"), Some(&command));
                            answer
                                .ok()
                                .map(|answer| Answered::Ran(answer.ok().ok().and_then(|ran| ran["exit_code"].as_i64())))
                        }
                        _ => {
                            let answer = client.call("DELETE", &format!("/v2/box/{deleted}"), None);
                            answer.ok().map(|answer| Answered::Deleted(deleted.clone(), answer.ok().is_ok()))
                        }
                    };
                    // The receiver outlives all of these threads.
                    let _told = tell.send(answered);
                });
            }
        }
        drop(tell);
        while all.len() < answers {
            match heard.recv()? {
                Some(answered) => all.push(answered),
                None => lost += 1,
            }
        }
        until("all requests to be on their way", SETTLE, || {
            Ok((started.load(Ordering::SeqCst) == 3 * EACH).then_some(()))
        })?;
        server.kill()?;
        for answered in heard {
            match answered {
                Some(answered) => all.push(answered),
                None => lost += 1,
            }
        }
        Ok(())
    })?;
    Ok((all, lost))
}

#[test]
fn told_to_stop_the_server_ends_with_0_and_boxes_go_on() -> Result<()> {
    let mut server = Server::start()?;
    let old = Old::make(&server)?;
    server.sh(&old.id, "mkfifo go")?;
    server.sh(&old.id, "mkfifo begun")?;
    let long = server.begin(&old.id, "echo > begun; exec cat go > /dev/null")?;
    server.sh(&old.id, "cat begun")?;
    let before = Footprint::of(server.lane())?.pids;
    ensure!(server.stop()?.code() == Some(0), "the server did not end with 0");
    let after = Footprint::of(server.lane())?.pids;
    ensure!(before == after, "processes before {before:?}, after {after:?}");
    server.launch()?;
    ensure!(server.list()? == BTreeMap::from([(old.id.clone(), "running".to_owned())]), "{:?}", server.list()?);
    old.check(&server)?;
    server.sh(&old.id, "echo > go")?;
    let ended = until("the run to end", SETTLE, || {
        let run = server.run(&old.id, &long)?;
        Ok((run["status"] != "running").then_some(run))
    })?;
    ensure!(ended["status"] == "completed", "handed over, the run ended as {ended}");
    Ok(())
}

#[test]
fn a_box_whose_processes_ended_while_the_server_was_away_is_paused_and_keeps_its_disk() -> Result<()> {
    let mut server = Server::start()?;
    let (lost, kept) = (server.create()?, server.create()?);
    let namespace = server.sh(&lost, "echo kept > file; readlink /proc/self/ns/pid")?;
    server.kill()?;
    // PID 1 of the box, found from outside; with it all of the box's processes end.
    for pid in Footprint::of(server.lane())?.pids {
        let theirs = std::fs::read_link(format!("/proc/{pid}/ns/pid"));
        if theirs.is_ok_and(|theirs| theirs.to_string_lossy() == namespace) {
            let pid = rustix::process::Pid::from_raw(pid).context("no pid")?;
            // PID 1 takes the others with it, so one may be gone when its turn comes.
            let _killed = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
    server.launch()?;
    let status = until("the lost box to be noticed", SETTLE, || {
        let status = server.list()?.remove(&lost);
        Ok(status.filter(|status| status != "idle" && status != "creating"))
    })?;
    ensure!(status == "paused", "a box whose processes are gone is {status}");
    ensure!(server.sh(&kept, "echo kept")? == "kept");
    ensure!(server.sh(&lost, "cat file")? == "kept", "its disk is as it was");
    server.delete(&lost)?;
    ensure!(server.ids()? == [kept].into());
    Ok(())
}
