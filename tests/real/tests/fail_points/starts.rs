//! What a server does by itself: when it starts, and when the time for something has come.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use boxyard_real_tests::{FailPoints, until};
use serde_json::{Value, json};

use crate::deeds::{SETTLE, call, named, napper, text};
use crate::yard::{Deed, Yard, made, pause, resume};

/// The start of a server that finds a box half made and another half deleted.
pub fn starts(yard: &mut Yard) -> Result<()> {
    let during =
        ["open: ", "store: open", "recovery: ", "deed: ", "create: ", "remove: ", "removing ", "noting a box's phase"];
    let points = FailPoints::all()?.into_iter().filter(|name| during.iter().any(|during| name.starts_with(during)));
    let mut deaths = 0;
    for orders in points.chain(["none".to_owned()]) {
        let doomed = made(&yard.server, "doomed")?;
        yard.points.arm("create: disk prepared")?;
        let deleted = yard.server.delete(&doomed);
        let lost = call(&yard.server, "POST", "/v2/box", &json!({"name": "new"}));
        ensure!(lost.is_err(), "the server outlived its death");
        until("the server to be gone", SETTLE, || Ok(yard.server.has_ended()?.then_some(())))?;
        yard.points.disarm()?;
        ensure!(yard.points.died()?.is_some(), "it does not say where it died");

        yard.points.arm(&orders)?;
        // It dies before it is ready, or afterwards.
        let _ready = yard.server.launch();
        let at = yard.outcome().with_context(|| format!("starting, armed with {orders}"))?;
        let about = || format!("the start died at {at:?} ({orders})");
        yard.check().with_context(about)?;
        let boxes = [named(&yard.server, "doomed")?, named(&yard.server, "new")?];
        ensure!(boxes[0].is_none() || deleted.is_err(), "{}: a deleted box is back", about());
        for id in boxes.into_iter().flatten() {
            ensure!(yard.server.sh(&id, "echo works")? == "works", "{}", about());
            yard.server.delete(&id)?;
        }
        yard.settle().with_context(about)?;
        if at.is_none() {
            let told = yard.told()?;
            ensure!(!told.contains(" 0 with something to finish"), "the server does not say what it mended: {told}");
        } else {
            deaths += 1;
        }
    }
    println!("start: {deaths} deaths");
    Ok(())
}

/// What a server does by itself when its time has come. Where it dies is named: each needs a start of its own anyway.
pub fn by_time(yard: &mut Yard) -> Result<()> {
    idle(yard)?;
    crowding(yard)?;
    stopping(yard)?;
    expiry(yard)
}

/// Outputs are more than may be kept, and the oldest go.
fn crowding(yard: &mut Yard) -> Result<()> {
    yard.server.sh(&yard.awake, "head -c 100000 /dev/zero | tr '\\0' x")?;
    with_setting(yard, ("BOXYARD_RUNS_OUTPUT_TOTAL", "64KiB"), "2GiB", "forgetting outputs")?;
    yard.check().context("died while it made room for outputs")
}

/// Relaunches the server with this setting, armed with `orders`, and waits for its death and the next one without either.
fn with_setting(yard: &mut Yard, (name, value): (&'static str, &str), usual: &str, orders: &str) -> Result<()> {
    yard.server.kill()?;
    yard.server.set(name, value);
    yard.points.arm(orders)?;
    let _ready = yard.server.launch();
    until("the server to die", SETTLE, || Ok(yard.server.has_ended()?.then_some(())))?;
    yard.server.set(name, usual);
    let at = yard.outcome().with_context(|| format!("{name}={value}, {orders}"))?;
    ensure!(at.is_some(), "{orders}: it did not die");
    Ok(())
}

fn idle(yard: &mut Yard) -> Result<()> {
    for orders in ["noting a box's phase", "deed: begun", "pause: frozen", "deed: done", "noting a box's phase:2"] {
        with_setting(yard, ("BOXYARD_IDLE_PAUSE_AFTER", "10ms"), "1h", orders)?;
        // Only this one was awake.
        resume(&yard.server, &yard.awake)?;
        yard.check().with_context(|| format!("paused when idle, died at {orders}"))?;
    }
    Ok(())
}

fn stopping(yard: &mut Yard) -> Result<()> {
    // What is kept for long enough first.
    yard.wakes_all()?;
    for orders in ["noting a box's phase", "stop: ended", "deed: done", "noting a box's phase:2"] {
        with_setting(yard, ("BOXYARD_PAUSE_KEEP_MEMORY_FOR", "0s"), "1h", orders)?;
        yard.check().with_context(|| format!("stopped after a while, died at {orders}"))?;
        ensure!(yard.server.sh(&yard.frozen, "cat file")? == "frozen", "{orders}");
        yard.server.sh(&yard.frozen, "nohup sleep 4731 > /dev/null 2>&1 & echo $! > background")?;
        pause(&yard.server, &yard.frozen)?;
    }
    yard.server.kill()?;
    yard.server.set("BOXYARD_PAUSE_KEEP_MEMORY_FOR", "0s");
    yard.server.launch()?;
    let tag = yard.server.lane().tag().context("the server has no tag")?;
    yard.walk(&Deed {
        name: "resume a stopped box",
        prepare: &|server| {
            let id = napper(server)?;
            server.sh(text(&id), "rm -f started")?;
            let command = json!({"init_command": "echo x >> started"});
            call(server, "PUT", &format!("/v2/box/{}/startup", text(&id)), &command)?.ok()?;
            pause(server, text(&id))?;
            let socket = format!("/run/boxyard-{tag}/{}.sock", text(&id));
            until("the box to stop", SETTLE, || Ok((!Path::new(&socket).exists()).then_some(())))?;
            Ok(id)
        },
        act: &|server, id| call(server, "POST", &format!("/v2/box/{}/resume", text(id)), &Value::Null),
        after: &|server, id, _| {
            resume(server, text(id))?;
            let started = server.sh(text(id), "until test -s started; do sleep 0.01; done; cat file")?;
            ensure!(started == "napper", "{started}");
            Ok(())
        },
    })?;
    let id = text(&napper(&yard.server)?).to_owned();
    yard.server.delete(&id)
}

fn expiry(yard: &mut Yard) -> Result<()> {
    let body = json!({"name": "short", "ephemeral": true, "ttl": 1});
    for orders in ["noting a box's phase", "remove: ended", "remove: thrown away", "noting a box's phase:2"] {
        made_short(yard, &body, orders)?;
    }
    Ok(())
}

fn made_short(yard: &mut Yard, body: &Value, orders: &str) -> Result<()> {
    // What is still being done to others is not what is to be died at.
    yard.settle()?;
    yard.server.create_with(body)?;
    yard.points.arm(orders)?;
    until("the server to die", SETTLE, || Ok(yard.server.has_ended()?.then_some(())))?;
    yard.outcome()?;
    yard.check().with_context(|| format!("expired, died at {orders}"))?;
    ensure!(named(&yard.server, "short")?.is_none(), "it outlives its time");
    Ok(())
}

/// A server that finds nothing at all, and dies while it makes what it needs.
pub fn at_first_start(yard: &mut Yard) -> Result<()> {
    let ids = yard.server.ids()?;
    yard.server.call("DELETE", "/v2/box/snapshots?all=true", None)?.ok()?;
    yard.server.call("DELETE", "/v2/box", Some(&json!({ "ids": ids })))?.ok()?;
    yard.settle()?;
    yard.server.stop()?;
    let data = yard.server.lane().data();
    for entry in fs::read_dir(&data)? {
        let entry = entry?;
        match entry.file_name().to_string_lossy().as_ref() {
            // Shared with others.
            "images" => {}
            _ if entry.file_type()?.is_dir() => fs::remove_dir_all(entry.path())?,
            _ => fs::remove_file(entry.path())?,
        }
    }
    let points = ["open: tag chosen", "open: pool drafted", "store: migrated:1", "store: migrated:3"];
    for orders in points.into_iter().chain(["store: open", "adding a key"]) {
        yard.points.arm(orders)?;
        ensure!(yard.server.launch().is_err(), "{orders}: it does not die");
        until("the server to be gone", SETTLE, || Ok(yard.server.has_ended()?.then_some(())))?;
        yard.points.disarm()?;
        yard.died.extend(yard.points.died()?);
    }
    yard.server.launch()?;
    let id = yard.server.create()?;
    ensure!(yard.server.sh(&id, "echo works")? == "works");
    Ok(())
}
