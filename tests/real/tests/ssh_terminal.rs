//! Terminals over SSH: what people see who type `ssh box`.

#![forbid(unsafe_code)]

use std::fmt::Write as _;

use anyhow::{Context as _, Result, ensure};
use boxyard_real_tests::{Dialogue, HOST, Server, Settings, finish};

/// Logs in and waits for the prompt; returns what was said before it.
fn log_in(terminal: &mut Dialogue) -> Result<String> {
    terminal.expect("$ ")
}

/// Waits in the box for the end of a process, by its pid there.
fn ends(server: &Server, id: &str, pid: &str) -> Result<()> {
    server.sh(id, &format!("timeout 30 tail --pid={pid} -f /dev/null")).map(|_| ()).context("a process did not end")
}

/// Runs a line that prints its output between marks which its echo does not have.
fn ask(terminal: &mut Dialogue, line: &str) -> Result<String> {
    terminal.send(format!("echo '<'\"<\"; {line}; echo '>'\">\"\n"))?;
    terminal.expect("<<\r\n")?;
    let said = terminal.expect(">>\r\n")?;
    terminal.expect("$ ")?;
    Ok(said.trim_end().replace('\r', ""))
}

/// Looks whether the last command was ended by SIGINT.
fn interrupted(terminal: &mut Dialogue) -> Result<()> {
    terminal.send("echo stat\"\"us $?\n")?;
    terminal.expect("status 130\r\n").context("the last command was not interrupted")?;
    terminal.expect("$ ").map(|_| ())
}

#[test]
fn a_login_is_a_shell_on_a_terminal() -> Result<()> {
    let server = Server::with_ssh(Settings::new())?;
    let id = server.create()?;
    let mut terminal = server.ssh(&id)?.terminal(&[HOST])?;
    let greeting = log_in(&mut terminal)?;
    ensure!(
        greeting.lines().next().is_some_and(|_| greeting.contains(&id)),
        "the greeting does not name the box: {greeting}"
    );
    ensure!(ask(&mut terminal, "echo $TERM; pwd; id -un")? == "xterm-256color\n/workspace/home\nboxuser");
    ensure!(ask(&mut terminal, "shopt -q login_shell && echo yes")? == "yes", "not a login shell");
    ensure!(ask(&mut terminal, "stty size")? == "24 80");
    ensure!(ask(&mut terminal, "test -t 0 && test -t 1 && test -t 2 && echo $SSH_TTY")?.starts_with("/dev/pts/"));
    // Ctrl-C reaches what runs in the foreground, and not the shell.
    terminal.send("sh -c 'echo st\"\"arted; exec sleep 4751'\n")?;
    terminal.expect("started")?;
    terminal.send("\x03")?;
    terminal.expect("$ ")?;
    interrupted(&mut terminal)?;
    // Ctrl-Z and fg, which need a shell that has its terminal's job control.
    terminal.send("sh -c 'echo st\"\"arted; exec sleep 4752'\n")?;
    terminal.expect("started")?;
    terminal.send("\x1a")?;
    terminal.expect("Stopped")?;
    terminal.expect("$ ")?;
    terminal.send("fg\n")?;
    terminal.expect("sleep 4752")?;
    terminal.send("\x03")?;
    terminal.expect("$ ")?;
    interrupted(&mut terminal)?;
    terminal.send("exit 7\n")?;
    ensure!(terminal.wait()?.code() == Some(7), "the shell's exit status is lost");
    Ok(())
}

#[test]
fn the_terminal_follows_the_window() -> Result<()> {
    let server = Server::with_ssh(Settings::new())?;
    let mut terminal = server.ssh(&server.create()?)?.terminal(&[HOST])?;
    log_in(&mut terminal)?;
    let watch = "import os, signal; signal.signal(28, lambda *_: print('now', *os.get_terminal_size(), flush=True)); \
                 print('re' + 'ady', flush=True); [signal.pause() for _ in range(2)]";
    terminal.send(format!("python3 -c \"{watch}\"\n"))?;
    terminal.expect("ready")?;
    for (columns, rows) in [(132, 43), (40, 10)] {
        terminal.resize(columns, rows)?;
        terminal.expect(&format!("now {columns} {rows}"))?;
    }
    terminal.expect("$ ")?;
    ensure!(ask(&mut terminal, "stty size")? == "10 40");
    Ok(())
}

#[test]
fn the_modes_of_the_users_terminal_come_along() -> Result<()> {
    let server = Server::with_ssh(Settings::new())?;
    let ssh = server.ssh(&server.create()?)?;
    let mut command = ssh.program("sh");
    let shell = ssh.shell()?;
    command.args(["-c", &format!("stty erase ^H intr ^X -ixon; exec {shell} {HOST}")]);
    let mut terminal = Dialogue::on_terminal(&command, 80, 24)?;
    log_in(&mut terminal)?;
    let modes = ask(&mut terminal, "stty -a")?;
    for wanted in ["erase = ^H", "intr = ^X", "-ixon", " icanon", " echo "] {
        ensure!(modes.contains(wanted), "no '{wanted}' in {modes}");
    }
    terminal.send("sh -c 'echo st\"\"arted; exec sleep 4753'\n")?;
    terminal.expect("started")?;
    terminal.send("\x18")?;
    terminal.expect("$ ")?;
    interrupted(&mut terminal)?;
    Ok(())
}

#[test]
fn editors_and_pastes_work() -> Result<()> {
    let server = Server::with_ssh(Settings::new())?;
    let id = server.create()?;
    // Bytes of a paste are no commands to the client.
    let mut terminal = server.ssh(&id)?.option("EscapeChar none").terminal(&[HOST])?;
    log_in(&mut terminal)?;
    terminal.send("vi letter\n")?;
    terminal.expect("\"letter\"")?;
    terminal.send("iDear box,\x1b:wq\r")?;
    terminal.expect("$ ")?;
    ensure!(ask(&mut terminal, "cat letter")? == "Dear box,", "vi did not write what was typed");

    let mut paste = String::new();
    for number in 0..(1 << 20) / 16 {
        writeln!(paste, "{number:015x}")?;
    }
    let path = server.lane().folder().join("paste");
    std::fs::write(&path, &paste)?;
    let sum = finish(std::process::Command::new("sha256sum").arg(&path).stdout(std::process::Stdio::piped()))?.text();
    let sum = sum.split(' ').next().context("no sum")?.to_owned();
    terminal.send(format!("stty raw -echo; echo re\"\"ady; head -c {} | sha256sum; stty sane\n", paste.len()))?;
    terminal.expect("ready")?;
    terminal.send(&paste)?;
    terminal.expect(&sum).context("1 MiB of paste arrived changed")?;
    terminal.expect("$ ")?;
    // Output without end, interrupted: what was on the way is bounded, so the prompt is there soon.
    terminal.send("yes st\"\"ream\n")?;
    terminal.expect("stream\r\nstream")?;
    terminal.send("\x03")?;
    terminal.expect("$ ")?;
    ensure!(ask(&mut terminal, "echo $((6 * 7))")? == "42");
    Ok(())
}

#[test]
fn a_lost_connection_ends_the_shell_and_leaves_what_was_detached() -> Result<()> {
    let server = Server::with_ssh(Settings::new())?;
    let id = server.create()?;
    let ssh = server.ssh(&id)?;
    let mut terminal = ssh.terminal(&[HOST])?;
    log_in(&mut terminal)?;
    let shell = ask(&mut terminal, "echo $$")?;
    let kept = ask(&mut terminal, "(nohup sleep 4754 > /dev/null 2>&1 & echo $!)")?;
    terminal.send("sh -c 'echo $$ > pid; echo st\"\"arted; exec sleep 4755'\n")?;
    terminal.expect("started")?;
    let foreground = server.sh(&id, "cat pid")?;
    terminal.kill()?;
    ends(&server, &id, &shell)?;
    ends(&server, &id, &foreground)?;
    server.sh(&id, &format!("kill {kept}")).context("nohup did not help")?;
    Ok(())
}

#[test]
fn tmux_goes_on_between_logins() -> Result<()> {
    let server = Server::with_ssh(Settings::new())?;
    let id = server.create()?;
    let ssh = server.ssh(&id)?;
    server.sh(&id, "sudo apt-get -qq update && sudo apt-get -qq install -y --no-install-recommends tmux")?;
    let mut first = ssh.terminal(&[HOST])?;
    log_in(&mut first)?;
    first.send("tmux new -s work\n")?;
    first.expect("[work]")?;
    first.send("echo in\"\"side\n")?;
    first.expect("inside")?;
    first.send("\x02d")?;
    first.expect("[detached (from session work)]")?;
    first.send("exit\n")?;
    ensure!(first.wait()?.success());
    // The second is lost without a word.
    let mut second = ssh.terminal(&["-t", HOST, "tmux attach -t work"])?;
    second.expect("inside")?;
    second.kill()?;
    let mut third = ssh.terminal(&["-t", HOST, "tmux attach -t work"])?;
    third.expect("inside")?;
    third.send("echo st\"\"ill\n")?;
    third.expect("still")?;
    third.send("exit\n")?;
    third.expect("[exited]")?;
    ensure!(third.wait()?.success());
    Ok(())
}
