//! The life of SSH connections: what happens to them when a box or the server ends, and what they do to a box.

#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use boxyard_real_tests::{HOST, Server, Settings, Ssh, finish, until};

/// How long what nothing announces may take.
const SETTLE: Duration = Duration::from_secs(30);

/// A client with one connection for many sessions.
fn multiplexed(ssh: &Ssh) -> Ssh {
    ssh.clone().option(&format!("ControlPath {}", ssh.door().folder().join("mux").display()))
}

/// Waits until the box has this status.
fn becomes(server: &Server, id: &str, wanted: &str) -> Result<()> {
    until(wanted, SETTLE, || {
        let status = server.call("GET", &format!("/v2/box/{id}/status"), None)?.ok()?;
        Ok((status["status"] == wanted).then_some(()))
    })
}

#[test]
fn a_deleted_box_says_good_bye() -> Result<()> {
    let server = Server::with_ssh(Settings::new())?;
    let (id, other) = (server.create()?, server.create()?);
    let ssh = server.ssh(&id)?;
    let mut command = ssh.dialogue(&[HOST, "echo ready; exec sleep 4781"])?;
    command.expect("ready\n")?;
    let mut terminal = ssh.terminal(&[HOST])?;
    terminal.expect("$ ")?;
    let mut forwards = ssh.dialogue(&["-N", "-v", "-R", "8123:127.0.0.1:9", HOST])?;
    forwards.expect_err("forward success")?;
    let mut neighbour = server.ssh(&other)?.dialogue(&[HOST, "echo ready; cat"])?;
    neighbour.expect("ready\n")?;
    server.delete(&id)?;
    let said = format!("box {id} was deleted");
    terminal.expect(&said)?;
    ensure!(!terminal.wait()?.success());
    command.expect_err(&said)?;
    ensure!(command.wait()?.code() == Some(255), "the command did not end as a lost connection does");
    ensure!(forwards.wait()?.code() == Some(255), "a connection without a session goes on");
    // Nobody else is disturbed.
    neighbour.send("still here\n")?;
    neighbour.expect("still here\n")?;
    neighbour.end_input();
    ensure!(neighbour.wait()?.success());
    let refused = ssh.run("true")?;
    ensure!(refused.err.contains("Permission denied"), "{refused:?}");
    Ok(())
}

#[test]
fn a_paused_box_says_so_and_the_next_login_resumes_it() -> Result<()> {
    let server = Server::with_ssh(Settings::new())?;
    let (id, other) = (server.create()?, server.create()?);
    let ssh = server.ssh(&id)?;
    ssh.sh("echo kept > file; setsid sh -c 'echo $$ > pid; exec sleep 4786' > /dev/null 2>&1 &")?;
    let mut command = ssh.dialogue(&[HOST, "echo ready; exec sleep 4787"])?;
    command.expect("ready\n")?;
    let mut terminal = ssh.terminal(&[HOST])?;
    terminal.expect("$ ")?;
    let mut forwards = ssh.dialogue(&["-N", "-v", "-R", "8123:127.0.0.1:9", HOST])?;
    forwards.expect_err("forward success")?;
    let mut neighbour = server.ssh(&other)?.dialogue(&[HOST, "echo ready; cat"])?;
    neighbour.expect("ready\n")?;
    server.call("POST", &format!("/v2/box/{id}/pause"), None)?.ok()?;
    let said = format!("box {id} was paused");
    terminal.expect(&said)?;
    ensure!(!terminal.wait()?.success());
    command.expect_err(&said)?;
    ensure!(command.wait()?.code() == Some(255), "the command did not end as a lost connection does");
    ensure!(forwards.wait()?.code() == Some(255), "a connection without a session goes on");
    // Nobody else is disturbed.
    neighbour.send("still here\n")?;
    neighbour.expect("still here\n")?;
    becomes(&server, &id, "paused")?;
    // A login is enough, by any client; what was there is there, what was detached goes on.
    ensure!(ssh.sh("hostname; cat file; kill -0 $(cat pid) && echo alive")? == format!("{id}\nkept\nalive"));
    becomes(&server, &id, "idle")?;
    server.call("POST", &format!("/v2/box/{id}/pause"), None)?.ok()?;
    becomes(&server, &id, "paused")?;
    finish(ssh.command("scp")?.args([&format!("{HOST}:file"), "fetched"]))?.ok()?;
    ensure!(fs::read_to_string(ssh.door().folder().join("fetched"))? == "kept\n");
    Ok(())
}

#[test]
fn a_server_that_is_told_to_stop_tells_and_waits_and_boxes_go_on() -> Result<()> {
    let mut server = Server::with_ssh(Settings::from([("BOXYARD_LIMITS_SSH_SHUTDOWN_GRACE", "3s".to_owned())]))?;
    let id = server.create()?;
    let ssh = server.ssh(&id)?;
    let mut terminal = ssh.terminal(&[HOST])?;
    terminal.expect("$ ")?;
    let mut command = ssh.dialogue(&[HOST, "echo ready; read line; echo got $line; exit 7"])?;
    command.expect("ready\n")?;
    let kept = ssh.sh("setsid sleep 4782 > /dev/null 2>&1 & echo $!")?;
    std::thread::scope(|scope| -> Result<()> {
        let stopping = scope.spawn(|| server.stop());
        // Whoever is there is told, and what ends in time ends well.
        terminal.expect("the server is going down in 3 s")?;
        command.send("this\n")?;
        command.expect("got this\n")?;
        ensure!(command.wait()?.code() == Some(7), "a command within the grace did not end as itself");
        terminal.expect("the server is shutting down")?;
        ensure!(terminal.wait()?.code() == Some(255));
        let status = stopping.join().map_err(|_| anyhow::anyhow!("a worker panicked"))??;
        ensure!(status.code() == Some(0), "the server ended with {status}");
        Ok(())
    })?;
    server.launch()?;
    ensure!(server.ssh(&id)?.sh(&format!("kill {kept} && echo alive"))? == "alive", "the box did not go on");
    Ok(())
}

#[test]
fn a_killed_server_is_itself_again_at_once() -> Result<()> {
    let mut server = Server::with_ssh(Settings::new())?;
    let id = server.create()?;
    let ssh = server.ssh(&id)?;
    let before = ssh.door().host_keys().to_vec();
    // What is detached speaks first, from a session of its own.
    let detached = "setsid sh -c 'echo $$; exec sleep 4783 > /dev/null 2>&1'";
    let mut lost = ssh.dialogue(&[HOST, &format!("{detached} & read _; echo $$; exec sleep 4784")])?;
    let kept = lost.expect("\n")?;
    lost.send("\n")?;
    let first = lost.expect("\n")?;
    server.kill()?;
    ensure!(lost.wait()?.code() == Some(255), "the client did not notice");
    server.launch()?;
    // The same address, the same host keys: the old configuration is good for the new server.
    ensure!(ssh.sh("hostname")? == id, "no login after a restart");
    ensure!(server.door()?.host_keys() == before, "the host keys have changed");
    ensure!(ssh.sh(&format!("kill {kept} && echo alive"))? == "alive", "what was detached has ended");
    // What hung on the connection has ended with it, though nobody was there to see to it.
    server.sh(&id, &format!("timeout 30 tail --pid={first} -f /dev/null")).context("a session outlived its server")?;
    Ok(())
}

#[test]
fn a_session_keeps_its_box_running() -> Result<()> {
    let server = Server::with_ssh(Settings::new())?;
    let id = server.create()?;
    let ssh = server.ssh(&id)?;
    becomes(&server, &id, "idle")?;
    let mut session = ssh.dialogue(&[HOST, "echo ready; cat"])?;
    session.expect("ready\n")?;
    becomes(&server, &id, "running")?;
    session.end_input();
    ensure!(session.wait()?.success());
    becomes(&server, &id, "idle")?;
    // One that only forwards, too; and one whose client is lost.
    let mut forwards = ssh.dialogue(&["-v", "-N", "-R", "8123:127.0.0.1:9", HOST])?;
    forwards.expect_err("forward success")?;
    becomes(&server, &id, "running")?;
    forwards.kill()?;
    becomes(&server, &id, "idle")?;
    // CPU time of sessions is counted like that of commands.
    let used = || -> Result<u64> {
        let record = server.call("GET", &format!("/v2/box/{id}"), None)?.ok()?;
        record["total_cpu_ns"].as_u64().context("no CPU time")
    };
    let before = used()?;
    ssh.sh("timeout 0.3 sh -c 'while :; do :; done'; true")?;
    until("CPU time to be counted", SETTLE, || Ok((used()? > before).then_some(())))?;
    Ok(())
}

#[test]
fn one_connection_carries_many_sessions() -> Result<()> {
    let server = Server::with_ssh(Settings::new())?;
    let id = server.create()?;
    let shared = multiplexed(&server.ssh(&id)?);
    let mut master = shared.dialogue(&["-M", HOST, "echo ready; cat"])?;
    master.expect("ready\n")?;
    // All at once; the mux refuses to be replaced by a connection of its own.
    let shared = shared.option("ControlMaster no").option("ProxyCommand false");
    let mut sessions = Vec::new();
    for number in 0..10 {
        let mut session =
            shared.dialogue(&[HOST, &format!("echo ready; read line; echo {number} $line; exit {number}")])?;
        session.expect("ready\n")?;
        sessions.push(session);
    }
    let mut terminal = shared.terminal(&[HOST])?;
    terminal.expect("$ ")?;
    for (number, session) in sessions.iter_mut().enumerate() {
        session.send("asked\n")?;
        session.expect(&format!("{number} asked\n"))?;
        ensure!(session.wait()?.code() == i32::try_from(number).ok(), "session {number} has the status of another");
    }
    // One of them killed: the others do not mind.
    terminal.kill()?;
    ensure!(shared.sh("hostname")? == id);
    // Again and again: channels are given back.
    for _ in 0..150 {
        ensure!(shared.run("exit 3")?.code == Some(3));
    }
    master.end_input();
    ensure!(master.wait()?.success());
    Ok(())
}

#[test]
fn long_transfers_change_their_keys() -> Result<()> {
    let server = Server::with_ssh(Settings::new())?;
    let id = server.create()?;
    let ssh = server.ssh(&id)?.option("RekeyLimit 1M");
    let random = ssh.door().folder().join("random");
    finish(ssh.program("sh").args(["-c", "head -c 50M /dev/urandom > random"]))?.ok()?;
    let mut both = ssh.command("ssh")?;
    let back = ssh.door().folder().join("back");
    both.args(["-v", HOST, "cat"]).stdin(File::open(&random)?).stdout(File::create(&back)?);
    let done = finish(&mut both)?.ok()?;
    let exchanges = done.err.matches("SSH2_MSG_NEWKEYS received").count();
    ensure!(exchanges > 20, "keys were changed {exchanges} times in 100 MiB");
    ensure!(finish(ssh.program("cmp").args([&random, &back]))?.code == Some(0), "50 MiB arrived changed");
    // With other things going on at the same time.
    let forwarded =
        finish(ssh.command("ssh")?.args([HOST, "head -c 50M /dev/zero | sha256sum; head -c 50M /dev/zero"]))?.ok()?;
    ensure!(forwarded.out.len() > 50 << 20);
    Ok(())
}

#[test]
fn the_server_changes_keys_by_itself_both_ways() -> Result<()> {
    let server = Server::with_ssh(Settings::from([("BOXYARD_LIMITS_SSH_REKEY_BYTES", "4MiB".to_owned())]))?;
    let ssh = server.ssh(&server.create()?)?;
    // Far more than the client's own limit would be.
    let exchanges = |line: &str, input: Stdio| -> Result<(usize, String)> {
        let done = finish(ssh.command("ssh")?.args(["-v", HOST, line]).stdin(input))?.ok()?;
        Ok((done.err.matches("SSH2_MSG_NEWKEYS received").count(), done.text()))
    };
    let (down, zeros) = exchanges("head -c 100M /dev/zero | tr '\\0' 'z'", Stdio::null())?;
    ensure!(zeros.len() == 100 << 20 && down > 15, "keys were changed {down} times in 100 MiB from the box");
    let random = ssh.door().folder().join("random");
    finish(ssh.program("sh").args(["-c", "head -c 100M /dev/urandom > random"]))?.ok()?;
    let sum = finish(ssh.program("sha256sum").stdin(File::open(&random)?))?.ok()?.text();
    let (up, theirs) = exchanges("sha256sum", File::open(&random)?.into())?;
    ensure!(theirs == sum && up > 15, "keys were changed {up} times in 100 MiB to the box: {theirs}");
    Ok(())
}

#[test]
fn questions_whether_anybody_is_there_are_answered() -> Result<()> {
    let server = Server::with_ssh(Settings::new())?;
    let ssh = server.ssh(&server.create()?)?;
    let ssh = ssh.option("ServerAliveInterval 1").option("ServerAliveCountMax 1").option("LogLevel DEBUG3");
    let mut session = ssh.dialogue(&[HOST, "echo ready; cat"])?;
    session.expect("ready\n")?;
    // REQUEST_FAILURE is the answer that OpenSSH's own server gives (RFC 4254, section 4).
    for _ in 0..3 {
        session.expect_err("receive packet: type 82")?;
    }
    session.send("still here\n")?;
    session.expect("still here\n")?;
    session.end_input();
    ensure!(session.wait()?.success());
    Ok(())
}
