//! Commands over SSH: how they end, what goes in and comes out, and what becomes of them when the client leaves.

#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::io::Write as _;
use std::process::Stdio;

use anyhow::{Context as _, Result, bail, ensure};
use boxyard_real_tests::{HOST, Server, Settings, finish};
use serde_json::json;

/// Waits in the box for the end of a process, by its pid there.
fn ends(server: &Server, id: &str, pid: &str) -> Result<()> {
    server.sh(id, &format!("timeout 30 tail --pid={pid} -f /dev/null")).map(|_| ()).context("a process did not end")
}

#[test]
fn a_command_tells_how_it_ended() -> Result<()> {
    let server = Server::with_ssh(Settings::new())?;
    let ssh = server.ssh(&server.create()?)?;
    for code in [0, 1, 42, 255] {
        let done = ssh.run(&format!("exit {code}"))?;
        ensure!(done.code == Some(code), "exit {code} came as {done:?}");
        ensure!(done.out.is_empty() && done.err.is_empty(), "a silent command said {done:?}");
    }
    // The client has no exit status to give for a signal, and says 255; that the signal is told is looked at in ssh_clients.rs.
    for signal in ["TERM", "KILL", "SEGV"] {
        let done = ssh.run(&format!("kill -{signal} $$; exit 3"))?;
        ensure!(done.code == Some(255), "ended by {signal} came as {done:?}");
    }
    ensure!(ssh.run("no-such-program")?.code == Some(127));
    let done = ssh.run("echo out; echo err >&2; printf 'no newline'")?;
    ensure!(done.out == b"out\nno newline" && done.err == "err\n", "{done:?}");
    // The line is read by a shell, as it was written.
    ensure!(ssh.sh(r#"printf '%s|' "a b" '$HOME' \* "it's" é"#)? == "a b|$HOME|*|it's|é|");
    // A program without any command line: the login shell reads its input.
    let mut shell = ssh.dialogue(&[HOST])?;
    shell.send("echo read from input; exit 9\n")?;
    shell.expect("read from input")?;
    ensure!(shell.wait()?.code() == Some(9));
    Ok(())
}

#[test]
fn input_arrives_whole_and_ends() -> Result<()> {
    let server = Server::with_ssh(Settings::new())?;
    let ssh = server.ssh(&server.create()?)?;
    let (file, length) = (ssh.door().folder().join("input"), 100 << 20);
    finish(ssh.program("sh").args(["-c", &format!("head -c {length} /dev/urandom > input")]))?.ok()?;
    let expected = finish(ssh.program("sha256sum").stdin(File::open(&file)?))?.ok()?.text();
    let done = finish(ssh.command("ssh")?.args([HOST, "sha256sum"]).stdin(File::open(&file)?))?.ok()?;
    ensure!(done.text() == expected, "100 MiB of input arrived changed");
    ensure!(ssh.sh("wc -c")? == "0", "/dev/null is not empty");
    // The other direction stays open when one has ended.
    let mut cat = ssh.dialogue(&[HOST, "cat; echo the end; echo of it >&2"])?;
    cat.send("one\n")?;
    cat.expect("one\n")?;
    cat.end_input();
    cat.expect("the end\n")?;
    ensure!(cat.wait()?.success() && cat.all_err()? == "of it\n");
    // A command that does not want it all.
    let done = finish(ssh.command("ssh")?.args([HOST, "head -c 7"]).stdin(File::open("/dev/zero")?))?.ok()?;
    ensure!(done.out == [0; 7], "{done:?}");
    Ok(())
}

#[test]
fn output_arrives_whole() -> Result<()> {
    let server = Server::with_ssh(Settings::new())?;
    let id = server.create()?;
    let ssh = server.ssh(&id)?;
    let sum = server.sh(&id, "head -c 300M /dev/urandom > big; sha256sum < big")?;
    let path = ssh.door().folder().join("big");
    finish(ssh.command("ssh")?.args([HOST, "cat < big"]).stdout(File::create(&path)?))?.ok()?;
    ensure!(fs::metadata(&path)?.len() == 300 << 20, "{} bytes of 300 MiB came", fs::metadata(&path)?.len());
    ensure!(finish(ssh.program("sha256sum").stdin(File::open(&path)?))?.ok()?.text() == sum, "300 MiB arrived changed");
    // Both ways at once: neither may wait for the other.
    let mut both = ssh.command("ssh")?;
    both.args([HOST, "cat"]).stdin(File::open(&path)?).stdout(File::create(path.with_extension("back"))?);
    finish(&mut both)?.ok()?;
    let back = finish(ssh.program("sha256sum").stdin(File::open(path.with_extension("back"))?))?.ok()?.text();
    ensure!(back == sum, "300 MiB to and fro arrived changed");
    Ok(())
}

#[test]
fn a_command_runs_as_boxuser_with_the_boxs_variables() -> Result<()> {
    let server = Server::with_ssh(Settings::new())?;
    let id = server.create_with(&json!({ "env_vars": { "GREETING": "hello from the box" } }))?;
    let ssh = server.ssh(&id)?;
    ensure!(ssh.sh("id -un; id -u; pwd; hostname")? == format!("boxuser\n1000\n/workspace/home\n{id}"));
    let connection = ssh.sh("echo $SSH_CONNECTION")?;
    ensure!(connection.split(' ').count() == 4, "SSH_CONNECTION is '{connection}'");
    ensure!(ssh.run("tty")?.text() == "not a tty", "a terminal that nobody asked for");
    let on_terminal = finish(ssh.command("ssh")?.args(["-tt", HOST, "tty; echo $SSH_TTY"]))?.ok()?.text();
    let lines: Vec<&str> = on_terminal.lines().map(str::trim_end).collect();
    ensure!(lines.len() == 2 && lines[0].starts_with("/dev/pts/") && lines[0] == lines[1], "-tt gave {lines:?}");
    // What the client wants to bring along.
    let german = ssh.clone().env("LANG", "de_DE.UTF-8").option("SendEnv LANG");
    ensure!(german.sh("echo $LANG")? == "de_DE.UTF-8");
    ensure!(ssh.clone().option("SetEnv LC_TIME=C.UTF-8").sh("echo $LC_TIME")? == "C.UTF-8");
    // What would change whose code runs does not come along.
    let preload = ssh.clone().option("SetEnv LD_PRELOAD=/tmp/evil.so BASH_ENV=/tmp/evil.sh");
    ensure!(preload.sh("echo ${LD_PRELOAD-none} ${BASH_ENV-none}")? == "none none", "LD_PRELOAD came along");
    ensure!(ssh.sh("echo $GREETING")? == "hello from the box", "the box's variables are not there");
    Ok(())
}

#[test]
fn a_session_lasts_as_long_as_its_output_is_held() -> Result<()> {
    let server = Server::with_ssh(Settings::new())?;
    let id = server.create()?;
    let ssh = server.ssh(&id)?;
    // As with OpenSSH's server: a background child that holds the output keeps the session open.
    let mut held = ssh.dialogue(&[HOST, "sleep 4741 & echo $!"])?;
    let pid = held.expect("\n")?;
    server.sh(&id, &format!("test -d /proc/{pid}")).context("the background child is gone")?;
    ssh.sh(&format!("kill {pid}"))?;
    ensure!(held.wait()?.code() == Some(0), "the first process's exit status counts");
    // One that has let go of it does not.
    let pid = ssh.sh("nohup sleep 4742 > /dev/null 2>&1 < /dev/null & echo $!")?;
    server.sh(&id, &format!("test -d /proc/{pid}")).context("what was detached has ended with the session")?;
    Ok(())
}

#[test]
fn when_the_client_leaves_its_processes_end_but_not_what_was_detached() -> Result<()> {
    let server = Server::with_ssh(Settings::new())?;
    let id = server.create()?;
    let ssh = server.ssh(&id)?;
    let script = "nohup sleep 4743 > /dev/null 2>&1 & echo $!
        setsid sleep 4744 > /dev/null 2>&1 & until pgrep -f '^sleep 4744'; do :; done
        sleep 4745 > /dev/null 2>&1 & echo $!
        echo $$; exec sleep 4746";
    let mut client = ssh.dialogue(&[HOST, script])?;
    let mut pid = || client.expect("\n");
    let (nohup, setsid, child, first) = (pid()?, pid()?, pid()?, pid()?);
    client.kill()?;
    ends(&server, &id, &first)?;
    ends(&server, &id, &child)?;
    for detached in [nohup, setsid] {
        server.sh(&id, &format!("kill {detached}")).context("what was detached has ended with the client")?;
    }
    Ok(())
}

#[test]
fn a_client_that_never_reads_harms_nobody() -> Result<()> {
    let server = Server::with_ssh(Settings::new())?;
    let id = server.create()?;
    let ssh = server.ssh(&id)?;
    let socket = ssh.door().folder().join("mux");
    let shared = ssh.clone().option(&format!("ControlPath {}", socket.display()));
    let mut master = shared.dialogue(&["-M", HOST, "echo ready; cat"])?;
    master.expect("ready\n")?;
    let before = resident(&server)?;
    // Both on a connection of its own and beside other channels.
    let mut stuck = Vec::new();
    for client in [&ssh, &shared] {
        let mut child =
            client.command("ssh")?.args([HOST, "echo $$ > pid; exec cat /dev/zero"]).stdin(Stdio::piped()).spawn()?;
        let pid = server.sh(&id, "timeout 30 sh -c 'until [ -s pid ]; do :; done'; cat pid; rm pid")?;
        // Input meets the wall as well; what fits into the buffers on the way is taken.
        if let Some(mut input) = child.stdin.take() {
            input.write_all(b"unread")?;
            stuck.push((child, pid, input));
        }
    }
    for _ in 0..5 {
        ensure!(ssh.sh("echo alive")? == "alive");
        ensure!(shared.sh("echo alive")? == "alive", "other channels of the connection are stuck");
    }
    master.send("still here\n")?;
    master.expect("still here\n")?;
    let grown = resident(&server)?.saturating_sub(before);
    ensure!(grown < 48 * 1024, "the server holds {grown} KiB more for clients that do not read");
    let mut pids = Vec::new();
    for (mut child, pid, _input) in stuck {
        child.kill()?;
        child.wait()?;
        pids.push(pid);
    }
    let [alone, beside] = &pids[..] else { bail!("{pids:?}") };
    ends(&server, &id, alone)?;
    // A client tells servers other than OpenSSH's only that it sends no more. What it has left behind ends with the connection.
    master.end_input();
    ensure!(master.wait()?.success());
    ends(&server, &id, beside)
}

/// KiB of the server's memory.
fn resident(server: &Server) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid()?))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
