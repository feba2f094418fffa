//! The life of one box: saved, restored, forked, paused, stopped.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use boxyard_real_tests::{Connection, Deaths, Freezes, Server, until};
use serde_json::{Value, json};

use super::Counts;
use super::measure::{id, run_true, timed};
use super::report::{Goal, Report, Samples};

/// How long what is measured may take.
const DEADLINE: Duration = Duration::from_secs(120);

/// What a box whose disk is saved holds, and what it goes on writing meanwhile.
const WRITE: &str = "head -c 1073741824 /dev/zero > /workspace/home/big && sync";
/// Another file: btrfs writes one that is written over out when it is closed.
const WRITE_ANEW: &str = "rm /workspace/home/big && head -c 1073741824 /dev/zero > /workspace/home/big";
const WORK: &str = "while sleep 0.02; do date >> /workspace/home/work; done";
const WRITE_ON: &str =
    "while :; do rm -f /workspace/home/more; head -c 1073741824 /dev/zero > /workspace/home/more; done";

/// A box that works and has written a gigabyte: how long saving it takes, for how long it stands still, and how long its copies take.
/// Then one that is paused and goes on.
pub fn life(server: &Server, counts: Counts, report: &mut Report) -> Result<()> {
    // Room for what is deleted: btrfs frees it, and what goes with a snapshot, only after half a minute.
    let source = server.create_with(&json!({ "size": "large" }))?;
    let mut connection = server.client().connect()?;
    server.sh(&source, WRITE)?;
    server.begin(&source, WORK)?;
    let mut saver = Saver { server, connection: server.client().connect()?, source: &source, saved: Vec::new() };

    let settled = saver.rounds(counts.saves, || Ok(()))?;
    report.times("snapshot, 1 GB on the disk, HTTP", &settled.0, Some(Goal::AtMost(150.0)));
    report.times("  the box stands still (on the disk)", &settled.1, Some(Goal::AtMost(50.0)));

    let body = json!({ "snapshot_id": saver.saved.last().context("no snapshot")? });
    copies(&mut connection, counts.saves, "/v2/box/from-snapshot", &body, "restore → idle, HTTP", report)?;
    copies(&mut connection, counts.saves, &format!("/v2/box/{source}/fork"), &json!({}), "fork → idle, HTTP", report)?;

    saver.forget()?;
    let written = saver.lone_rounds(counts.rewrites, || server.sh(&source, WRITE_ANEW).map(drop))?;
    // Not more than the disk can take: what has been written must get there first.
    report.times("snapshot, 1 GB just written, HTTP", &written.0, None);
    report.times("  the box stands still (just written)", &written.1, Some(Goal::AtMost(50.0)));
    server.begin(&source, WRITE_ON)?;
    let writing = saver.lone_rounds(counts.rewrites, || Ok(()))?;
    report.times("snapshot, while the box writes all it can, HTTP", &writing.0, None);
    report.times("  the box stands still (writing)", &writing.1, None);
    server.delete(&source)?;
    pauses(server, counts, report)
}

/// Saves one box again and again.
struct Saver<'a> {
    server: &'a Server,
    connection: Connection,
    source: &'a str,
    saved: Vec<String>,
}

impl Saver<'_> {
    /// How long each snapshot takes, and for how long the box stands still.
    fn rounds(&mut self, count: usize, before_each: impl Fn() -> Result<()>) -> Result<(Samples, Samples)> {
        let (mut all, mut still) = (Samples::default(), Samples::default());
        let freezes = Freezes::watch(self.server.lane(), self.source)?;
        let path = format!("/v2/box/{}/snapshots", self.source);
        for _ in 0..count {
            before_each()?;
            let (made, took, stood) = thread::scope(|scope| -> Result<_> {
                let watcher = scope.spawn(|| freezes.next(DEADLINE));
                let (answer, took) = timed(|| self.connection.call("POST", &path, Some(&json!({}))))?;
                let made = answer.ok()?;
                ensure!(made["status"] == "ready", "the snapshot is {}", made["status"]);
                Ok((made, took, watcher.join().map_err(|_| anyhow!("the watcher panicked"))??))
            })?;
            all.push(took);
            still.push(stood);
            self.saved.push(id(&made)?.to_owned());
        }
        Ok((all, still))
    }

    /// The same where each snapshot is deleted before the next: they hold a gigabyte each.
    fn lone_rounds(&mut self, count: usize, before_each: impl Fn() -> Result<()>) -> Result<(Samples, Samples)> {
        let (mut all, mut still) = (Samples::default(), Samples::default());
        for _ in 0..count {
            let (took, stood) = self.rounds(1, &before_each)?;
            all.extend(took);
            still.extend(stood);
            self.forget()?;
        }
        Ok((all, still))
    }

    /// Deletes the snapshots.
    fn forget(&mut self) -> Result<()> {
        let body = json!({ "ids": self.saved });
        self.connection.call("DELETE", "/v2/box/snapshots", Some(&body))?.ok()?;
        self.saved.clear();
        Ok(())
    }
}

/// Makes boxes by one call, each until the answer says `idle`, and deletes them.
fn copies(
    connection: &mut Connection,
    count: usize,
    path: &str,
    body: &Value,
    what: &str,
    report: &mut Report,
) -> Result<()> {
    let mut samples = Samples::default();
    for _ in 0..count {
        let (answer, took) = timed(|| connection.call("POST", path, Some(body)))?;
        let made = answer.ok()?;
        ensure!(made["status"] == "idle", "a copy is {}", made["status"]);
        connection.call("DELETE", &format!("/v2/box/{}", id(&made)?), None)?.ok()?;
        samples.push(took);
    }
    report.times(what, &samples, Some(Goal::AtMost(20.0)));
    Ok(())
}

fn pauses(server: &Server, counts: Counts, report: &mut Report) -> Result<()> {
    let id = server.create()?;
    let mut connection = server.client().connect()?;
    let (mut paused, mut resumed, mut worked) = (Samples::default(), Samples::default(), Samples::default());
    for _ in 0..counts.pauses {
        paused.push(ask(&mut connection, &id, "pause")?);
        resumed.push(ask(&mut connection, &id, "resume")?);
    }
    for _ in 0..counts.pauses {
        ask(&mut connection, &id, "pause")?;
        worked.extend(run_true(&mut connection, &id, 1)?);
    }
    report.times("pause (frozen), HTTP", &paused, Some(Goal::AtMost(10.0)));
    report.times("resume from frozen, HTTP", &resumed, Some(Goal::AtMost(10.0)));
    report.times("exec true in a frozen box, HTTP", &worked, None);
    server.delete(&id)
}

/// A box that keeps no memory while it is paused: from the request to pause it until its processes are gone, and from a request to run
/// something until that has ended. The server must be set up so that paused boxes are stopped at once.
pub fn stops(server: &Server, counts: Counts, report: &mut Report) -> Result<()> {
    let id = server.create()?;
    let mut connection = server.client().connect()?;
    let (mut stopped, mut worked) = (Samples::default(), Samples::default());
    for round in 1..=counts.pauses {
        let processes = Deaths::watch(server.lane(), &id)?;
        let ((), took) = timed(|| {
            ask(&mut connection, &id, "pause")?;
            processes.wait(DEADLINE)
        })?;
        stopped.push(took);
        // What begins before that would be measured with the rest of the stop.
        until("the box to be stopped", DEADLINE, || {
            let lines = server.logs(&id)?;
            Ok((lines.iter().filter(|line| line.contains("Box stopped")).count() >= round).then_some(()))
        })?;
        worked.extend(run_true(&mut connection, &id, 1)?);
    }
    report.times("pause → its processes have ended, HTTP", &stopped, None);
    report.times("resume from stopped by exec true, HTTP", &worked, Some(Goal::AtMost(25.0)));
    server.delete(&id)
}

/// One call about a box that has no body.
fn ask(connection: &mut Connection, id: &str, what: &str) -> Result<Duration> {
    let (answer, took) = timed(|| connection.call("POST", &format!("/v2/box/{id}/{what}"), None))?;
    answer.ok()?;
    Ok(took)
}
