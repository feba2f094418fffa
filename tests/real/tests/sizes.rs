//! Sizes of the operator's own on real boxes, and the pool that their disks lie in growing under them.

#![forbid(unsafe_code)]

use anyhow::{Context as _, Result, ensure};
use boxyard_real_tests::{Server, Settings};
use serde_json::json;

fn tiny() -> Settings {
    let settings = [
        ("BOXYARD_STORAGE_KIND", "btrfs"),
        ("BOXYARD_SIZES_TINY_CPUS", "0.5"),
        ("BOXYARD_SIZES_TINY_MEMORY", "256MiB"),
        ("BOXYARD_SIZES_TINY_PIDS", "64"),
        ("BOXYARD_SIZES_TINY_DISK", "64MiB"),
    ];
    settings.map(|(name, value)| (name, value.to_owned())).into()
}

/// Looks whether the box has the limits of [`tiny`].
fn is_tiny(server: &Server, id: &str) -> Result<()> {
    ensure!(server.call("GET", &format!("/v2/box/{id}"), None)?.ok()?["size"] == "tiny");
    let full = server.exec(id, "head -c 100M /dev/zero > big")?;
    ensure!(full.code != 0 && full.err.contains("quota exceeded"), "100 MB fit on 64: {full:?}");
    server.sh(id, "rm big")?;
    let forks = "import os, signal
pids = []
try:
    while len(pids) < 500:
        pid = os.fork()
        if pid == 0: signal.pause()
        pids.append(pid)
except OSError: pass
for pid in pids: os.kill(pid, 9), os.waitpid(pid, 0)
print(len(pids))";
    let forked: u32 = server.sh(id, &format!("python3 -c '{forks}'"))?.parse().context("a number")?;
    ensure!(forked < 64, "{forked} processes were started where 64 are the limit");
    let killed = server.exec(id, "python3 -c 'x = bytearray(400_000_000)'")?;
    ensure!(killed.code == 137, "400 MB fit into 256: {killed:?}");
    Ok(())
}

#[test]
fn a_size_of_ones_own_holds_and_goes_on_holding_when_it_is_not_configured_any_more() -> Result<()> {
    let mut server = Server::with(tiny())?;
    let id = server.create_with(&json!({"size": "tiny"}))?;
    is_tiny(&server, &id)?;
    server.sh(&id, "echo kept > file")?;
    server.stop()?;
    server.settings().retain(|name, _| !name.contains("TINY"));
    server.launch()?;
    is_tiny(&server, &id)?;
    let refused = server.call("POST", "/v2/box", Some(&json!({"size": "tiny"})))?;
    ensure!(refused.status == 400, "{refused:?}");
    ensure!(refused.text().contains("size must be one of small, medium, large"), "{refused:?}");

    // Started anew, too.
    server.settings().insert("BOXYARD_PAUSE_KEEP_MEMORY_FOR", "0s".into());
    server.stop()?;
    server.launch()?;
    server.call("POST", &format!("/v2/box/{id}/pause"), None)?.ok()?;
    ensure!(server.sh(&id, "cat file")? == "kept");
    is_tiny(&server, &id)
}

#[test]
fn the_pool_grows_under_a_box_that_writes() -> Result<()> {
    let mut settings = tiny();
    settings.insert("BOXYARD_STORAGE_POOL_SIZE", "2GiB".into());
    let mut server = Server::with(settings)?;
    let id = server.create()?;
    server.sh(&id, "mkfifo begun enough")?;
    let write = "exec 3<> enough; n=0; while ! read -t 0 <&3; do head -c 2M /dev/urandom > f$((n % 20)) && sync f$((n % 20)) \
                 || exit 1; n=$((n + 1)); [ $n = 2 ] && echo > begun; done; echo $n > begun";
    let run = server.begin(&id, write)?;
    server.sh(&id, "read line < begun")?;
    let gibibytes = |server: &Server| server.sh(&id, "df --output=size --block-size=1G / | tail -1 | tr -d ' '");
    ensure!(gibibytes(&server)? == "2");
    server.program(&["doctor", "--grow-pool", "3GiB"])?;
    // What df shows in a box is the pool, see docs/life.md.
    ensure!(gibibytes(&server)? == "3");
    let written: u32 = server.sh(&id, "echo > enough; cat begun")?.parse()?;
    ensure!(written > 2, "it wrote {written} files");
    server.sh(&id, "fallocate -l 2500M more && rm more")?;
    ensure!(server.run(&id, &run)?["status"] != "failed", "{}", server.run(&id, &run)?);
    let shrink = server.program(&["doctor", "--grow-pool", "1GiB"]).unwrap_err().to_string();
    ensure!(shrink.contains("never shrinks"), "{shrink}");

    // Whatever the configuration says: it has what it has.
    server.kill()?;
    server.launch()?;
    ensure!(gibibytes(&server)? == "3");
    Ok(())
}
