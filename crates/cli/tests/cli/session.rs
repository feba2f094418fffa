//! `exec -i`, `exec -t` and `shell`: on pipes and on a terminal, against the real server on the engine in memory.

use std::io::{Read, Write};
use std::process::{Child, Command, Output, Stdio};

use boxyard_real_tests::Dialogue;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use super::yard::Yard;
use super::{Server, run};

/// Lets it read `input`, and returns what became of it.
fn fed(mut command: Command, input: &[u8]) -> Output {
    let mut child = piped(&mut command);
    let mut stdin = child.stdin.take().expect("its input");
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // It may not want all of it.
            let _ = stdin.write_all(input);
        });
        child.wait_with_output().expect("its end")
    })
}

fn piped(command: &mut Command) -> Child {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("run boxyard")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn pid(number: u32) -> Pid {
    Pid::from_raw(i32::try_from(number).expect("a pid")).expect("a pid")
}

fn kill(number: u32, signal: Signal) {
    kill_process(pid(number), signal).expect("sent");
}

/// Bytes that look like nothing in particular.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    })
    .take(length)
    .collect()
}

#[test]
fn bytes_pass_both_ways_as_they_are_and_the_outputs_stay_apart() {
    let yard = Yard::start();
    let bytes = noise(5 * 1024 * 1024 + 7);
    let output = fed(yard.boxyard(&["exec", "-i", &yard.id, "--", "cat"]), &bytes);
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()));
    assert!(output.stdout == bytes, "{} of {} bytes came back", output.stdout.len(), bytes.len());

    let output = fed(yard.boxyard(&["exec", "-i", &yard.id, "--", "sh", "-c", "echo out; stderr err; exit 42"]), b"");
    let said = (output.status.code(), text(&output.stdout), text(&output.stderr));
    assert_eq!(said, (Some(42), "out\n".into(), "err\n".into()));
    // As it is without -i: nothing waits for input that is not wanted.
    let output = fed(yard.boxyard(&["exec", "-i", "--folder", "/tmp", &yard.id, "--", "pwd"]), b"unread");
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(0), "/tmp\n".into()));
}

#[test]
fn what_keeps_a_command_from_running_is_said() {
    let yard = Yard::start();
    for (arguments, code, said) in [
        (&["exec", "-t", &yard.id, "--", "true"][..], 64, "-t needs a terminal"),
        (&["exec", "-it", &yard.id, "--", "true"], 64, "-t needs a terminal"),
        (&["exec", "-i", "--detach", &yard.id, "--", "true"], 64, "cannot be used with"),
        (&["exec", "-i", "--escape", "ab", &yard.id, "--", "true"], 64, "one character, or none"),
        (&["exec", "-i", "no-such-box", "--", "true"], 125, "Box not found"),
        (&["exec", "-i", "--folder", "/nowhere", &yard.id, "--", "true"], 125, "/nowhere"),
        (&["shell", "no-such-box"], 255, "Box not found"),
    ] {
        let output = fed(yard.boxyard(arguments), b"");
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(code), String::new()), "{arguments:?}");
        assert!(text(&output.stderr).contains(said), "{arguments:?}: {}", text(&output.stderr));
    }
    let output = fed(yard.boxyard(&["exec", "-i", &yard.id, "--", "no-such-program"]), b"");
    assert_eq!(output.status.code(), Some(127));
    // What speaks HTTP and no WebSocket.
    let server = Server::start(axum::Router::new());
    let (code, _, err) = run(server.boxyard(&["exec", "-i", "my-box", "--", "true"]));
    assert_eq!((code, err.as_str()), (125, "boxyard: the server answered 404 Not Found\n"));
}

#[test]
fn signals_are_passed_on_even_when_the_input_is_stuck() {
    let yard = Yard::start();
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let mut command = yard.boxyard(&["exec", "-i", &yard.id, "--", "sh", "-c", "echo ready; sleep 300"]);
        let mut child = piped(&mut command);
        let mut stdin = child.stdin.take().expect("its input");
        child.stdout.as_mut().expect("its output").read_exact(&mut [0; 6]).expect("ready");
        // Ends when the client does.
        let flood = std::thread::spawn(move || while stdin.write_all(&[0; 65536]).is_ok() {});
        kill(child.id(), signal);
        let output = child.wait_with_output().expect("its end");
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(code), String::new()));
        flood.join().expect("the flood has ended");
    }
}

#[test]
fn a_reader_that_goes_away_ends_the_session_quietly() {
    let yard = Yard::start();
    let mut child = piped(&mut yard.boxyard(&["exec", "-i", &yard.id, "--", "yes", "100000000"]));
    let mut out = child.stdout.take().expect("its output");
    out.read_exact(&mut [0; 6]).expect("some output");
    drop(out);
    let output = child.wait_with_output().expect("its end");
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(141), String::new()));
}

#[test]
fn a_server_that_goes_is_told_of() {
    for (orderly, said) in [(true, "the server is shutting down"), (false, "lost")] {
        let mut yard = Yard::start();
        let mut child = piped(&mut yard.boxyard(&["exec", "-i", &yard.id, "--", "gate", "never"]));
        yard.came_to("never");
        if orderly {
            yard.begin_stop()
        } else {
            yard.kill()
        }
        let stdin = child.stdin.take();
        let output = child.wait_with_output().expect("its end");
        drop(stdin);
        assert_eq!(output.status.code(), Some(125));
        assert!(text(&output.stderr).contains(said), "{}", text(&output.stderr));
    }
}

#[test]
fn a_shell_reads_what_it_is_fed_and_runs_what_it_is_told() {
    let yard = Yard::start();
    let output = fed(yard.boxyard(&["shell", &yard.id]), b"echo one\necho two\nexit 5\n");
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(5), "one\ntwo\n".into()));
    let output = fed(yard.boxyard(&["shell", &yard.id, "echo", "-n", "--help"]), b"");
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(0), "-n --help\n".into()));
}

/// A dialogue on a terminal of 100 columns and 40 lines.
fn on_terminal(yard: &Yard, arguments: &[&str]) -> Dialogue {
    Dialogue::on_terminal(&yard.boxyard(arguments), 100, 40).expect("a terminal")
}

fn code(terminal: &mut Dialogue) -> Option<i32> {
    terminal.wait().expect("its end").code()
}

#[test]
fn a_program_on_a_terminal_has_its_size_and_gets_every_key() {
    let yard = Yard::start();
    let mut terminal = on_terminal(&yard, &["exec", "-it", &yard.id, "--", "sh", "-c", "env; stty sizes"]);
    terminal.expect("TERM=xterm-256color\n").expect("its kind");
    terminal.expect("40 100\r\n").expect("its size");
    assert!(terminal.is_raw().expect("its modes"));
    terminal.resize(132, 50).expect("resized");
    terminal.expect("50 132\r\n").expect("its new size");
    terminal.send("~.").expect("typed");
    assert_eq!(code(&mut terminal), Some(125));
    assert!(!terminal.is_raw().expect("its modes"));

    let mut terminal = on_terminal(&yard, &["exec", "-it", &yard.id, "--", "sh", "-c", "echo ready; cat"]);
    terminal.expect("ready\n").expect("it runs");
    // Nothing but the program answers, byte for byte: Ctrl-C, Ctrl-Z, Ctrl-\, Ctrl-S, Ctrl-Q, Ctrl-D, carriage return.
    for key in ["x", "\x03", "\x1a", "\x1c", "\x13", "\x11", "\x04", "\r", "~~", "ü"] {
        terminal.send(key).expect("typed");
        // The escape key twice is the key itself.
        let echo = if key == "~~" { "~" } else { key };
        assert_eq!(terminal.expect(echo).expect("its echo"), "", "{key:?}");
    }
    terminal.send("\r~").expect("typed");
    terminal.send(".").expect("typed");
    assert_eq!(code(&mut terminal), Some(125));
    let all = text(&terminal.all_out().expect("all"));
    assert!(all.contains("you have left the session"), "{all}");
}

#[test]
fn a_terminal_is_as_before_however_a_session_ends() {
    let mut yard = Yard::start();
    let raw = |terminal: &mut Dialogue| {
        terminal.expect("40 100\r\n").expect("it runs");
        assert!(terminal.is_raw().expect("its modes"));
    };
    // A signal to the client.
    for (signal, ends) in [(Signal::TERM, 143), (Signal::HUP, 129), (Signal::INT, 130), (Signal::QUIT, 131)] {
        let mut terminal = on_terminal(&yard, &["exec", "-it", &yard.id, "--", "stty", "sizes"]);
        raw(&mut terminal);
        kill(terminal.pid(), signal);
        assert_eq!(code(&mut terminal), Some(ends));
        assert!(!terminal.is_raw().expect("its modes"), "{signal:?}");
    }
    // Its own end.
    let mut terminal = on_terminal(&yard, &["shell", &yard.id]);
    terminal.send("exit 7\r").expect("typed");
    assert_eq!(code(&mut terminal), Some(7));
    assert!(!terminal.is_raw().expect("its modes"));
    // Standing still in between.
    let mut terminal = on_terminal(&yard, &["exec", "-it", &yard.id, "--", "stty", "sizes"]);
    raw(&mut terminal);
    kill(terminal.pid(), Signal::TSTP);
    let stopped = waitid(WaitId::Pid(pid(terminal.pid())), WaitIdOptions::STOPPED).expect("waited");
    assert!(stopped.is_some() && !terminal.is_raw().expect("its modes"));
    terminal.resize(132, 50).expect("resized");
    kill(terminal.pid(), Signal::CONT);
    terminal.expect("50 132\r\n").expect("it goes on");
    assert!(terminal.is_raw().expect("its modes"));
    // The server's end.
    yard.kill();
    assert_eq!(code(&mut terminal), Some(125));
    assert!(!terminal.is_raw().expect("its modes"));
}

#[test]
fn without_input_a_terminal_is_only_looked_at() {
    let yard = Yard::start();
    let mut terminal = on_terminal(&yard, &["exec", "-t", &yard.id, "--", "stty", "sizes"]);
    terminal.expect("40 100").expect("its size");
    assert!(!terminal.is_raw().expect("its modes"));
    // Ctrl-C is a signal here, and is passed on.
    terminal.send("\x03").expect("typed");
    assert_eq!(code(&mut terminal), Some(130));
}
