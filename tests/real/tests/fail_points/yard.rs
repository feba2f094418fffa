//! A server with boxes in every state, which must all outlive whatever becomes of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use boxyard_real_tests::{Answer, FailPoints, Footprint, Server, until};
use serde_json::{Value, json};

/// How long a started server may take to finish what the killed one had begun.
const SETTLE: Duration = Duration::from_secs(60);
/// Fail points that one deed may pass; one that passes more of them never ends.
const POINTS_MAX: usize = 100;

/// Takes what was prepared, and the answer if there was one.
pub type After<'a> = dyn Fn(&Server, &Value, Option<&Answer>) -> Result<()> + 'a;

/// One deed, and how to do it again and again.
pub struct Deed<'a> {
    /// What it is called in messages.
    pub name: &'static str,
    /// Makes what the deed takes; what it returns is handed on.
    pub prepare: &'a dyn Fn(&Server) -> Result<Value>,
    /// Does it. The server may die meanwhile.
    pub act: &'a dyn Fn(&Server, &Value) -> Result<Answer>,
    /// Looks what has become of it, given the answer if there was one, does it again where it was broken off, and takes it back.
    pub after: &'a After<'a>,
}

/// The server and what must not be lost.
pub struct Yard {
    pub server: Server,
    pub points: FailPoints,
    /// Where deeds are died in; empty for every step of them.
    pub only: Vec<String>,
    /// Names of the points where it has died.
    pub died: BTreeSet<String>,
    /// Runs, and has a process in the background.
    pub awake: String,
    /// Is frozen, with a process that counts.
    pub frozen: String,
    /// Is stopped.
    pub stopped: String,
    /// Of `awake`.
    pub snapshot: String,
    background: String,
    deaths: usize,
    /// Lines of the log that earlier starts have written.
    told: usize,
}

impl Yard {
    pub fn open(storage: &str) -> Result<Self> {
        let points = FailPoints::new(storage)?;
        let mut settings = points.settings();
        settings.insert("BOXYARD_STORAGE_KIND", storage.to_owned());
        settings.insert("BOXYARD_STORAGE_POOL_SIZE", "20GB".to_owned());
        settings.insert("BOXYARD_PAUSE_KEEP_MEMORY_FOR", "0s".to_owned());
        let mut server = Server::with(settings)?;
        let stopped = made(&server, "stopped")?;
        pause(&server, &stopped)?;
        until("a box to stop", SETTLE, || {
            Ok((!Footprint::of(server.lane())?.cgroups.contains(&stopped)).then_some(()))
        })?;
        server.kill()?;
        server.set("BOXYARD_PAUSE_KEEP_MEMORY_FOR", "1h");
        server.launch()?;
        let (awake, frozen) = (made(&server, "awake")?, made(&server, "frozen")?);
        let background = server.sh(&awake, "nohup sleep 4730 > /dev/null 2>&1 & echo $!")?;
        server.sh(&frozen, "nohup sleep 4731 > /dev/null 2>&1 & echo $! > background")?;
        pause(&server, &frozen)?;
        let snapshot = server.call("POST", &format!("/v2/box/{awake}/snapshots"), Some(&json!({"name": "kept"})))?;
        let snapshot = snapshot.ok()?["id"].as_str().context("no id")?.to_owned();
        let died = BTreeSet::new();
        let mut yard = Self {
            server,
            points,
            died,
            only: Vec::new(),
            awake,
            frozen,
            stopped,
            snapshot,
            background,
            deaths: 0,
            told: 0,
        };
        yard.check().context("before the first deed")?;
        Ok(yard)
    }

    /// Does the deed, dying at each of its steps.
    pub fn walk(&mut self, deed: &Deed<'_>) -> Result<()> {
        for orders in self.only.clone() {
            self.step(deed, &orders)?;
        }
        if !self.only.is_empty() {
            return self.links_settle();
        }
        let (began, deaths) = (Instant::now(), self.deaths);
        for step in 1..POINTS_MAX {
            let at = self.step(deed, &format!("*:{step}"))?;
            if at.is_none() {
                self.links_settle()?;
                println!("{}: {} deaths, {:?}", deed.name, self.deaths - deaths, began.elapsed());
                return Ok(());
            }
        }
        anyhow::bail!("{} passes more than {POINTS_MAX} points", deed.name)
    }

    /// Does the deed once, dying where `orders` say. Returns where that was.
    pub fn step(&mut self, deed: &Deed<'_>, orders: &str) -> Result<Option<String>> {
        let about = |doing: &str| format!("{}, armed with {orders}: {doing}", deed.name);
        let given = (deed.prepare)(&self.server).with_context(|| about("preparing"))?;
        self.settle().with_context(|| about("before"))?;
        self.points.arm(orders)?;
        let answer = (deed.act)(&self.server, &given).ok();
        let at = self.outcome().with_context(|| about("waiting for its end"))?;
        let about = |doing: &str| format!("{}, died at {at:?} ({orders}): {doing}", deed.name);
        self.check().with_context(|| about("what was there before"))?;
        (deed.after)(&self.server, &given, answer.as_ref()).with_context(|| about("what has become of it"))?;
        self.settle().with_context(|| about("when it was done again"))?;
        Ok(at)
    }

    /// Waits until the armed server has died, or has nothing left to do. Either way one that lives for good runs afterwards.
    pub fn outcome(&mut self) -> Result<Option<String>> {
        let ended = until("the server to die or to be done", SETTLE, || {
            if self.server.has_ended()? {
                return Ok(Some(true));
            }
            // It may die while it is asked.
            Ok(matches!(self.wrong(), Ok(wrong) if wrong.is_empty()).then_some(false))
        });
        // It may have come to the point since.
        let is_dying = self.points.disarm()?;
        if !ended? && !is_dying {
            return Ok(None);
        }
        until("the server to be gone", SETTLE, || Ok(self.server.has_ended()?.then_some(())))?;
        let died = self.points.died()?.context("the server ended, and not where it was told to")?;
        self.died.insert(died.clone());
        self.deaths += 1;
        self.server.launch().with_context(|| format!("starting after a death at {died}"))?;
        Ok(Some(died))
    }

    /// What is on the host must be what is in the list, soon.
    pub fn settle(&self) -> Result<()> {
        let settled = until("everything to be accounted for", SETTLE, || Ok(self.wrong()?.is_empty().then_some(())));
        settled.with_context(|| format!("{:#?}", self.wrong()))
    }

    /// The links of boxes that are gone are gone too. The kernel takes them away when it has time, and is not waited for at each step.
    fn links_settle(&self) -> Result<()> {
        until("links to be gone", SETTLE, || {
            let found = Footprint::of(self.server.lane())?;
            Ok((found.interfaces.len() == found.cgroups.len() && found.routes.len() == found.cgroups.len())
                .then_some(()))
        })
    }

    /// What there is too much or too little of, or not done; links of boxes that are gone left out.
    fn wrong(&self) -> Result<Vec<String>> {
        let boxes = self.server.list()?;
        let found = Footprint::of(self.server.lane())?;
        let all: BTreeSet<String> = boxes.keys().cloned().collect();
        let has_processes = |(id, status): (&String, &String)| {
            (status == "idle" || status == "running" || found.cgroups.contains(id)).then(|| id.clone())
        };
        let awake = boxes.iter().filter_map(has_processes).collect();
        let mut wrong = found.differences_from(&all, &awake);
        wrong.retain(|wrong| !wrong.contains("network interfaces") && !wrong.contains("routes"));
        // A run that was taken over ends in a moment; nothing works for longer here.
        let unsettled = |status: &str| ["creating", "running", "error"].contains(&status);
        wrong.extend(
            boxes.iter().filter(|(_, status)| unsettled(status)).map(|(id, status)| format!("{id} is {status}")),
        );
        let snapshots = snapshots(&self.server)?;
        wrong.extend(
            snapshots.iter().filter(|(_, status)| *status == "creating").map(|(id, _)| format!("{id} is not ready")),
        );
        let ready = snapshots.iter().filter(|(_, status)| *status == "ready").map(|(id, _)| id.clone()).collect();
        let data = self.server.lane().data();
        let pool = data.join("pool");
        same(&mut wrong, &data.join("snapshots"), &ready)?;
        if pool.join("boxes").exists() {
            same(&mut wrong, &pool.join("boxes"), &all)?;
            same(&mut wrong, &pool.join("snapshots"), &ready)?;
        }
        same(&mut wrong, &data.join("trash"), &BTreeSet::new())?;
        for id in &all {
            for entry in fs::read_dir(data.join("boxes").join(id)).into_iter().flatten() {
                let name = entry?.file_name().to_string_lossy().into_owned();
                if !["box.json", "saved.json", "settled", "upper", "work"].contains(&name.as_str()) {
                    wrong.push(format!("{id} has a file {name}"));
                }
            }
        }
        Ok(wrong)
    }

    /// What was there before must be there and as it was, and nothing else half.
    pub fn check(&mut self) -> Result<()> {
        self.settle()?;
        let boxes = self.server.list()?;
        let status = |id: &String| boxes.get(id).cloned().unwrap_or_else(|| "gone".into());
        for asleep in [&self.frozen, &self.stopped] {
            ensure!(status(asleep) == "paused", "a paused box is {}", status(asleep));
        }
        ensure!(status(&self.awake) == "idle", "an idle box is {}", status(&self.awake));
        let works = format!("kill -0 {} && cat file", self.background);
        ensure!(self.server.sh(&self.awake, &works)? == "awake", "a file has changed");
        let is_ready = snapshots(&self.server)?.get(&self.snapshot).is_some_and(|status| status == "ready");
        ensure!(is_ready, "a snapshot is lost");
        self.summary()
    }

    /// Each start says in one line what it found; nothing may be lost.
    fn summary(&mut self) -> Result<()> {
        let log = fs::read_to_string(self.server.lane().log())?;
        let lines: Vec<&str> = log.lines().filter(|line| line.contains("took over ")).collect();
        let last = lines.last().context("no line says what was mended")?;
        ensure!(lines.len() > self.told || self.told == lines.len(), "lines have gone");
        self.told = lines.len();
        ensure!(last.contains(" 0 lost; "), "{last}");
        ensure!(!log.contains("panicked"), "something panicked: {log}");
        Ok(())
    }

    /// What the last start said that it found.
    pub fn told(&self) -> Result<String> {
        let log = fs::read_to_string(self.server.lane().log())?;
        Ok(log.lines().rfind(|line| line.contains("took over ")).context("no such line")?.to_owned())
    }

    /// Those that sleep wake as they were, and the snapshot is what it was.
    pub fn wakes_all(&mut self) -> Result<()> {
        let server = &self.server;
        let frozen = server.sh(&self.frozen, "kill -0 $(cat background) && cat file")?;
        ensure!(frozen == "frozen", "{frozen}");
        ensure!(server.sh(&self.stopped, "cat file")? == "stopped");
        let copy =
            server.call("POST", "/v2/box/from-snapshot", Some(&json!({ "snapshot_id": self.snapshot })))?.ok()?;
        let copy = copy["id"].as_str().context("no id")?;
        ensure!(server.sh(copy, "cat file")? == "awake");
        server.delete(copy)?;
        pause(server, &self.frozen)?;
        pause(server, &self.stopped)?;
        self.settle()
    }
}

/// The folder has entries of exactly these names.
fn same(wrong: &mut Vec<String>, folder: &Path, names: &BTreeSet<String>) -> Result<()> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder).with_context(|| format!("looking into {}", folder.display()))? {
        found.insert(entry?.file_name().to_string_lossy().into_owned());
    }
    if found != *names {
        wrong.push(format!("in {} there is {found:?} instead of {names:?}", folder.display()));
    }
    Ok(())
}

/// Makes a box with a file that holds its name.
pub fn made(server: &Server, name: &str) -> Result<String> {
    let id = server.create_with(&json!({ "name": name }))?;
    server.sh(&id, &format!("echo {name} > file"))?;
    Ok(id)
}

pub fn pause(server: &Server, id: &str) -> Result<()> {
    server.call("POST", &format!("/v2/box/{id}/pause"), None)?.ok().map(drop)
}

pub fn resume(server: &Server, id: &str) -> Result<()> {
    server.call("POST", &format!("/v2/box/{id}/resume"), None)?.ok().map(drop)
}

/// All snapshots with their status.
pub fn snapshots(server: &Server) -> Result<BTreeMap<String, String>> {
    let list = server.call("GET", "/v2/box/snapshots", None)?.ok()?;
    let rows = list["snapshots"].as_array().context("no list of snapshots")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(rows.iter().map(|row| (text(&row["id"]), text(&row["status"]))).collect())
}
