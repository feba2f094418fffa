//! A box that eats its limit harms only itself.

#![forbid(unsafe_code)]

use anyhow::{Context as _, Result, ensure};
use boxyard_real_tests::{Server, Settings};

#[test]
fn memory_ends_where_the_size_says() -> Result<()> {
    let server = Server::with(Settings::from([("BOXYARD_SIZES_SMALL_MEMORY", "256MiB".to_owned())]))?;
    let (greedy, neighbour) = (server.create()?, server.create()?);
    let output = server.exec(&greedy, "python3 -c 'x = bytearray(1 << 30); print(len(x))'")?;
    ensure!(output.code == 137, "a process that takes four times the limit ended with {}: {}", output.code, output.err);
    ensure!(server.sh(&greedy, "echo alive")? == "alive", "the box itself did not survive");
    ensure!(server.sh(&neighbour, "echo alive")? == "alive");
    ensure!(server.sh(&greedy, "python3 -c 'x = bytearray(64 << 20); print(len(x))'")? == "67108864");
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

#[test]
fn cpu_time_is_what_the_size_says() -> Result<()> {
    let server = Server::with(Settings::from([("BOXYARD_SIZES_SMALL_CPUS", "0.5".to_owned())]))?;
    let id = server.create()?;
    let run = server.begin(&id, "timeout 4 sh -c 'while :; do :; done & while :; do :; done'")?;
    let ended = boxyard_real_tests::until("the run to end", std::time::Duration::from_secs(60), || {
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
fn open_files_are_limited() -> Result<()> {
    let server = Server::start()?;
    let id = server.create()?;
    let open_files: u64 = server.sh(&id, "ulimit -n")?.parse()?;
    ensure!((1024..=1_048_576).contains(&open_files), "{open_files} open files");
    Ok(())
}
