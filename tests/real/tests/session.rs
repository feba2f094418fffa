//! `boxyard exec -i`, `-t` and `shell` in a real box: a terminal that is one, input and output as they are, and nothing left behind.

#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use boxyard_real_tests::{Dialogue, Server, finish};

/// A call of `boxyard` that speaks to this server.
fn boxyard(server: &Server, arguments: &[&str]) -> Command {
    let mut command = Command::new(server.programs().join("boxyard"));
    command.args(arguments).env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin");
    command.env("BOXYARD_URL", server.client().base_url()).env("BOXYARD_API_KEY", &server.client().key);
    command
}

/// The same on pipes, whose output is collected.
fn piped(server: &Server, arguments: &[&str]) -> Command {
    let mut command = boxyard(server, arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn terminal(server: &Server, arguments: &[&str]) -> Result<Dialogue> {
    Dialogue::on_terminal(&boxyard(server, arguments), 100, 40)
}

/// Waits in the box for the end of a process, by its pid there: less long than anybody waits for a connection that takes nothing.
fn ends(server: &Server, id: &str, pid: &str) -> Result<()> {
    server.sh(id, &format!("timeout 20 tail --pid={pid} -f /dev/null")).map(|_| ()).context("a process did not end")
}

fn sum(path: &Path) -> Result<String> {
    Ok(finish(Command::new("sha256sum").stdin(File::open(path)?).stdout(Stdio::piped()))?.ok()?.text())
}

/// Runs a line that prints its output between marks which its echo does not have.
fn ask(terminal: &mut Dialogue, line: &str) -> Result<String> {
    terminal.send(format!("echo '<'\"<\"; {line}; echo '>'\">\"\n"))?;
    terminal.expect("<<\r\n")?;
    let said = terminal.expect(">>\r\n")?;
    terminal.expect("$ ")?;
    Ok(said.trim_end().replace('\r', ""))
}

#[test]
fn a_shell_is_a_login_shell_on_a_terminal_that_follows_the_window() -> Result<()> {
    let server = Server::start()?;
    let id = server.create()?;
    let mut shell = terminal(&server, &["shell", &id])?;
    shell.expect("$ ")?;
    ensure!(ask(&mut shell, "echo $TERM; pwd; id -un; echo $0")? == "xterm-256color\n/workspace/home\nboxuser\nbash");
    ensure!(ask(&mut shell, "shopt -q login_shell && echo yes")? == "yes", "not a login shell");
    ensure!(ask(&mut shell, "tty")?.starts_with("/dev/pts/"), "no terminal");
    ensure!(ask(&mut shell, "stty size")? == "40 100");
    shell.send("python3 -c \"import os, signal; signal.signal(28, lambda *_: print('now', *os.get_terminal_size(), flush=True)); ")?;
    shell.send("print('re' + 'ady', flush=True); [signal.pause() for _ in range(2)]\"\n")?;
    shell.expect("ready")?;
    for (columns, rows) in [(132, 43), (60, 10)] {
        shell.resize(columns, rows)?;
        shell.expect(&format!("now {columns} {rows}"))?;
    }
    shell.expect("$ ")?;
    // Ctrl-C reaches what runs in the foreground, and not the shell, let alone the client.
    shell.send("sh -c 'echo st\"\"arted; exec sleep 4761'\n")?;
    shell.expect("started")?;
    shell.send("\x03")?;
    shell.expect("$ ")?;
    shell.send("echo stat\"\"us $?\n")?;
    shell.expect("status 130\r\n")?;
    // Ctrl-Z and fg need a shell that has its terminal's job control.
    shell.send("sh -c 'echo st\"\"arted; exec sleep 4762'\n")?;
    shell.expect("started")?;
    shell.send("\x1a")?;
    shell.expect("Stopped")?;
    shell.expect("$ ")?;
    shell.send("fg\n")?;
    shell.expect("sleep 4762")?;
    shell.send("\x03")?;
    shell.expect("$ ")?;
    shell.send("exit 7\n")?;
    ensure!(shell.wait()?.code() == Some(7), "the shell's exit code is lost");
    ensure!(!shell.is_raw()?, "the terminal was left raw");
    Ok(())
}

#[test]
fn a_shell_without_a_terminal_reads_its_input_and_words_are_a_line() -> Result<()> {
    let server = Server::start()?;
    let id = server.create()?;
    let mut shell = Dialogue::on_pipes(boxyard(&server, &["shell", &id]))?;
    shell.send("shopt -q login_shell && echo login; tty; echo err >&2; exit 9\n")?;
    ensure!(shell.wait()?.code() == Some(9));
    ensure!(shell.all_out()? == b"login\nnot a tty\n" && shell.all_err()? == "err\n", "{:?}", shell.all_err()?);
    let done = finish(&mut piped(&server, &["shell", &id, "echo", "$((6 * 7));", "pwd"]))?.ok()?;
    ensure!(done.text() == "42\n/workspace/home", "{done:?}");
    // An image without bash.
    server.sh(&id, "sudo mv /bin/bash /bin/bash.away")?;
    let done = finish(&mut piped(&server, &["shell", &id, "echo", "$0", "$((6 * 7))"]))?;
    server.call(
        "POST",
        &format!("/v2/box/{id}/exec"),
        Some(&serde_json::json!({"command": ["sudo", "mv", "/bin/bash.away", "/bin/bash"]})),
    )?;
    ensure!(done.code == Some(0) && done.text().ends_with("42"), "{done:?}");
    Ok(())
}

#[test]
fn sixty_four_mebibytes_pass_both_ways_unchanged() -> Result<()> {
    let server = Server::start()?;
    let id = server.create()?;
    let (there, back) = (server.lane().folder().join("there"), server.lane().folder().join("back"));
    let make = format!("head -c {} /dev/urandom > {}", 64 << 20, there.display());
    finish(Command::new("sh").args(["-c", &make]))?.ok()?;
    let mut cat = boxyard(&server, &["exec", "-i", &id, "--", "cat"]);
    finish(cat.stdin(File::open(&there)?).stdout(File::create(&back)?))?.ok()?;
    ensure!(fs::metadata(&back)?.len() == 64 << 20 && sum(&there)? == sum(&back)?, "64 MiB came back changed");
    // A program that does not want it all.
    let mut head = piped(&server, &["exec", "-i", &id, "--", "head", "-c", "7"]);
    let done = finish(head.stdin(File::open("/dev/zero")?))?.ok()?;
    ensure!(done.out == [0; 7], "{done:?}");
    Ok(())
}

#[test]
fn commands_tell_their_codes_and_signals_reach_the_whole_tree() -> Result<()> {
    let server = Server::start()?;
    let id = server.create()?;
    for (script, code) in [("exit 0", 0), ("exit 42", 42), ("kill -KILL $$", 137)] {
        let done = finish(&mut piped(&server, &["exec", "-i", &id, "--", "sh", "-c", script]))?;
        ensure!(done.code == Some(code), "{script}: {done:?}");
    }
    let done = finish(&mut piped(&server, &["exec", "-i", &id, "--", "no-such-program"]))?;
    ensure!(done.code == Some(127), "{done:?}");
    for (signal, code) in [(rustix::process::Signal::INT, 130), (rustix::process::Signal::TERM, 143)] {
        // Not in the background, which ignores SIGINT in a shell without job control.
        let script = "sh -c 'echo $$ >&2; exec sleep 4763' | sleep 4764";
        let mut client = Dialogue::on_pipes(boxyard(&server, &["exec", "-i", &id, "--", "bash", "-c", script]))?;
        let child = client.expect_err("\n")?;
        let pid = i32::try_from(client.pid()).ok().and_then(rustix::process::Pid::from_raw).context("a pid")?;
        rustix::process::kill_process(pid, signal)?;
        ensure!(client.wait()?.code() == Some(code), "{signal:?}");
        ends(&server, &id, &child)?;
    }
    Ok(())
}

#[test]
fn a_client_that_is_gone_leaves_no_process() -> Result<()> {
    let server = Server::start()?;
    let id = server.create()?;
    // Whatever they ignore, and wherever they are.
    let script = "trap '' TERM HUP; setsid sleep 4765 & echo $!; echo $$; while :; do wait; done";
    let mut client = Dialogue::on_pipes(boxyard(&server, &["exec", "-i", &id, "--", "bash", "-c", script]))?;
    let (child, first) = (client.expect("\n")?, client.expect("\n")?);
    client.kill()?;
    ends(&server, &id, &first)?;
    ends(&server, &id, &child)?;
    // With a terminal.
    let mut shell = terminal(&server, &["shell", &id])?;
    shell.expect("$ ")?;
    let pid = ask(&mut shell, "echo $$")?;
    shell.kill()?;
    ends(&server, &id, &pid)?;
    // With input that nobody reads.
    let mut stuck = boxyard(&server, &["exec", "-i", &id, "--", "sh", "-c", "echo $$ > pid; exec sleep 4766"]);
    let mut stuck = stuck.stdin(File::open("/dev/zero")?).spawn()?;
    let pid = server.sh(&id, "timeout 30 sh -c 'until [ -s pid ]; do :; done'; cat pid")?;
    stuck.kill()?;
    stuck.wait()?;
    ends(&server, &id, &pid)
}

#[test]
fn the_way_out_of_a_terminal_ends_what_runs_there() -> Result<()> {
    let server = Server::start()?;
    let id = server.create()?;
    let mut shell =
        terminal(&server, &["exec", "-it", &id, "--", "sh", "-c", "echo $$; trap '' INT; cat > /dev/null"])?;
    let pid = shell.expect("\r\n")?;
    shell.send("\x03\r~.")?;
    ensure!(shell.wait()?.code() == Some(125));
    shell.expect("you have left the session")?;
    ensure!(!shell.is_raw()?);
    ends(&server, &id, &pid)?;
    // A box that ends says so.
    let mut shell = terminal(&server, &["shell", &id])?;
    shell.expect("$ ")?;
    server.delete(&id)?;
    ensure!(shell.wait()?.code() == Some(255));
    ensure!(String::from_utf8_lossy(&shell.all_out()?).contains("deleted") && !shell.is_raw()?);
    Ok(())
}
