//! A box that eats its limit harms only itself.

#![forbid(unsafe_code)]

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use boxyard_real_tests::{Server, Settings, until};

#[test]
fn memory_ends_where_the_size_says() -> Result<()> {
    let server = Server::with(Settings::from([("BOXYARD_SIZES_SMALL_MEMORY", "256MiB".to_owned())]))?;
    let (greedy, neighbour) = (server.create()?, server.create()?);
    let output = server.exec(&greedy, "python3 -c 'x = bytearray(1 << 30); print(len(x))'")?;
    ensure!(output.code == 137, "a process that takes four times the limit ended with {}: {}", output.code, output.err);
    ensure!(server.sh(&greedy, "echo alive")? == "alive", "the box itself did not survive");
    ensure!(server.sh(&neighbour, "echo alive")? == "alive");
    until("the box's log to say so", Duration::from_secs(30), || {
        let logs = server.call("GET", &format!("/v2/box/{greedy}/logs?limit=1000"), None)?.ok()?;
        let text = "Out of memory: 1 of the box's processes ended by the kernel";
        Ok(logs.to_string().contains(text).then_some(()))
    })?;
    ensure!(server.sh(&greedy, "python3 -c 'x = bytearray(64 << 20); print(len(x))'")? == "67108864");
    Ok(())
}

#[test]
fn a_box_out_of_memory_loses_what_runs_in_it_before_its_first_process() -> Result<()> {
    let server = Server::with(Settings::from([("BOXYARD_SIZES_SMALL_MEMORY", "48MiB".to_owned())]))?;
    let id = server.create()?;
    let waits = server.begin(&id, "sleep 4751 & exec sleep 4752")?;
    let score = "cat /proc/1/oom_score_adj /proc/self/oom_score_adj; for pid in $(pgrep -x sleep); do cat /proc/$pid/oom_score_adj; done";
    let scores = until("the command to start", Duration::from_secs(30), || {
        Ok(Some(server.sh(&id, score)?).filter(|scores| scores.lines().count() == 4))
    })?;
    ensure!(scores == "0\n100\n100\n100", "{scores}");
    let refused = server.exec(&id, "echo -1 > /proc/self/oom_score_adj")?;
    ensure!(refused.code != 0, "a process hides behind PID 1");
    // Many small ones instead of one that is at fault: each is smaller than PID 1.
    let fill = server.exec(&id, "for i in $(seq 900); do sleep 4753 < /dev/null > /dev/null 2>&1 & done");
    let usage = server.call("GET", &format!("/v2/box/{id}/usage"), None)?.ok()?;
    ensure!(usage["oom_kills"].as_u64() > Some(0), "{usage} after {fill:?}");
    let logs = server.call("GET", &format!("/v2/box/{id}/logs?limit=1000"), None)?.ok()?;
    ensure!(!logs.to_string().contains("Box died"), "PID 1 went first");
    ensure!(server.sh(&id, "echo alive")? == "alive");
    server.run(&id, &waits)?;
    Ok(())
}

#[test]
fn a_fork_bomb_stays_in_its_box() -> Result<()> {
    let server = Server::with(Settings::from([("BOXYARD_SIZES_SMALL_PIDS", "64".to_owned())]))?;
    let (bomber, neighbour) = (server.create()?, server.create()?);
    let output = server.exec(&bomber, "for i in $(seq 500); do sleep 1000 & done; echo \"$(jobs -p | wc -l)\"");
    // Either the shell gave up, or it counted; both are fine as long as the count stays below.
    if let Ok(output) = output {
        let started = output.out.trim().parse::<u32>().unwrap_or(0);
        ensure!(started < 64, "{started} processes in a box of 64");
    }
    ensure!(server.sh(&neighbour, "for i in 1 2 3; do (echo $i); done | wc -l")? == "3");
    server.delete(&bomber)?;
    ensure!(server.ids()? == [neighbour].into());
    Ok(())
}

/// What takes all that it can get: of processes, of memory, of disk, of CPU time.
const OFFENDERS: [&str; 4] = [
    "bomb() { bomb | bomb & }; bomb 2> /dev/null; exec sleep 4754",
    "while :; do python3 -c 'x = []\nwhile True: x.append(b\"x\" * (1 << 20))'; done",
    "while :; do cat /dev/zero > fill; done",
    "for n in 1 2 3 4 5 6 7 8; do while :; do :; done & done; wait",
];

#[test]
fn boxes_that_take_all_they_can_get_get_their_share_and_their_neighbour_works() -> Result<()> {
    let server = Server::with(Settings::from([
        ("BOXYARD_SIZES_SMALL_CPUS", "0.5".to_owned()),
        ("BOXYARD_SIZES_SMALL_MEMORY", "256MiB".to_owned()),
        ("BOXYARD_SIZES_SMALL_PIDS", "200".to_owned()),
        ("BOXYARD_SIZES_SMALL_DISK", "200MB".to_owned()),
        ("BOXYARD_STORAGE_KIND", "btrfs".to_owned()),
    ]))?;
    let neighbour = server.create()?;
    let mut offenders = Vec::new();
    for offence in OFFENDERS {
        let id = server.create()?;
        server.begin(&id, offence)?;
        offenders.push(id);
    }
    let usage = |id: &String| server.call("GET", &format!("/v2/box/{id}/usage"), None)?.ok();
    let reached = |id: &String, name: &str, least: u64| {
        until(name, Duration::from_secs(120), || Ok((usage(id)?[name].as_u64() >= Some(least)).then_some(())))
    };
    reached(&offenders[0], "pids", 190)?;
    reached(&offenders[1], "oom_kills", 2)?;
    reached(&offenders[2], "disk_bytes", 150_000_000)?;
    reached(&offenders[3], "cpu_ns", 2_000_000_000)?;
    for _ in 0..20 {
        ensure!(server.sh(&neighbour, "echo works | tee file; sync file")? == "works");
    }
    for id in &offenders {
        let used = usage(id)?;
        let within = |name: &str, most: u64| used[name].as_u64() <= Some(most);
        ensure!(
            within("pids", 200) && within("memory_bytes", 256 << 20) && within("disk_bytes", 220_000_000),
            "{used}"
        );
    }
    // Each can still be got rid of.
    for id in &offenders {
        server.delete(id)?;
    }
    ensure!(server.ids()? == [neighbour].into());
    Ok(())
}

#[test]
fn cpu_time_is_what_the_size_says() -> Result<()> {
    let server = Server::with(Settings::from([("BOXYARD_SIZES_SMALL_CPUS", "0.5".to_owned())]))?;
    let id = server.create()?;
    let run = server.begin(&id, "timeout 4 sh -c 'while :; do :; done & while :; do :; done'")?;
    let ended = until("the run to end", Duration::from_secs(60), || {
        let run = server.run(&id, &run)?;
        Ok((run["status"] != "running").then_some(run))
    })?;
    let (used, wall) = (
        ended["cpu_ns"].as_f64().context("no cpu_ns")? / 1e9,
        ended["duration_ms"].as_f64().context("no duration")? / 1e3,
    );
    ensure!(used < 0.75 * wall, "{used:.2} s of CPU in {wall:.2} s, half a CPU allowed");
    ensure!(used > 0.2 * wall, "{used:.2} s of CPU in {wall:.2} s: the box got less than its share");
    Ok(())
}

#[test]
fn boxes_have_no_priority_of_the_servers() -> Result<()> {
    let server = Server::start()?;
    let id = server.create()?;
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", server.pid()?))?;
    let niceness = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(16)).context("a short stat")?;
    ensure!(niceness == "-10", "the server's niceness is {niceness}");
    ensure!(server.sh(&id, "nice; cut -d ' ' -f 19 /proc/1/stat")? == "0\n0");
    Ok(())
}

#[test]
fn open_files_are_limited() -> Result<()> {
    let server = Server::start()?;
    let id = server.create()?;
    let open_files: u64 = server.sh(&id, "ulimit -n")?.parse()?;
    ensure!((1024..=1_048_576).contains(&open_files), "{open_files} open files");
    Ok(())
}
