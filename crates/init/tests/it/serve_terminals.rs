//! Jobs on terminals, on the host.

use boxyard_proto::wire::{Exec, FailedKind, FromInit, Kind, OnClose, Pty, PtySize, Scope, ToInit, User};

use crate::support::client::{Client, Frame, command, ok, on_terminal, run, shell};
use crate::support::folder;
use crate::support::server::Server;

/// An interactive shell whose prompt is `ready> `.
fn login() -> Exec {
    let env = vec!["PS1=ready> ".into(), "HISTFILE=".into(), "TERM=dumb".into()];
    Exec { env, on_close: OnClose::Hangup, ..on_terminal(command(&["bash", "--norc", "--noprofile", "-i"])) }
}

#[test]
fn a_shell_echoes_and_controls_its_terminal() {
    let server = Server::new();
    let mut client = Client::new(server.socket());
    client.start(Exec { user: User::BOXUSER, ..login() });
    client.until("ready> ");
    client.input(b"stat -c %u:%g:%a $(tty)\n");
    let seen = client.until("1000:5:620\r\n");
    assert!(seen.starts_with("stat -c %u:%g:%a $(tty)\r\n"), "what is typed is echoed: {seen}");
    client.input(b"echo by way of $((6 * 7)) > /dev/tty\n");
    client.until("by way of 42\r\n");
    client.input(b"test \"$TTY_PATH\" = \"$(tty)\" && echo its path is $((40 + 1))\n");
    client.until("its path is 41\r\n");
    client.input(b"case $- in *m*) echo job control: $((6 + 1));; esac\n");
    client.until("job control: 7\r\n");
    client.input(b"sh -c 'echo fore$((1)); exec sleep 1000'\n");
    client.until("fore1\r\n");
    client.input(b"\x1a");
    client.until("Stopped");
    client.input(b"kill -9 %1\nexit 7\nexit 7\n");
    let outcome = client.finish();
    assert_eq!((outcome.exit.code, outcome.exit.signal), (7, None));
}

#[test]
fn all_three_descriptors_are_the_terminal_and_nothing_else_is_open() {
    let server = Server::new();
    let outcome = run(
        server.socket(),
        on_terminal(shell("for fd in 0 1 2; do readlink /proc/$$/fd/$fd; done; ls -1 /proc/$$/fd")),
    );
    let seen = outcome.text();
    assert!(seen.matches("/dev/pts/").count() == 3 && seen.ends_with("\r\n0\r\n1\r\n2"), "{seen}");
    assert!(outcome.err.is_empty());
    let outcome = run(server.socket(), on_terminal(shell("echo to standard error >&2; kill -TERM $$")));
    assert_eq!((outcome.text().as_str(), outcome.exit.signal), ("to standard error", Some(15)));
    let outcome = run(server.socket(), on_terminal(command(&["no-such-program"])));
    assert_eq!((outcome.text().as_str(), outcome.exit.code), ("boxyard: no-such-program: command not found", 127));
}

#[test]
fn size_and_modes_are_as_asked() {
    let server = Server::new();
    let size = PtySize { columns: 132, rows: 43, width: 1320, height: 860 };
    let mut modes =
        vec![(3, 8), (1, 255), (8, 300), (53, 0), (42, 1), (72, 0), (129, 9600), (128, 9600), (0, 9), (200, 1)];
    let exec = |modes: &[(u8, u32)]| {
        let pty = Some(Pty { size, modes: modes.to_vec(), variable: None });
        Exec {
            pty,
            ..shell("stty -a; perl -e 'ioctl(STDIN, 0x5413, $b = \"\"x8); print join \",\", unpack \"S4\", $b'")
        }
    };
    let seen = run(server.socket(), exec(&modes)).text();
    for expected in [
        "speed 9600 baud",
        "rows 43; columns 132",
        "erase = ^H",
        "intr = <undef>",
        "start = ^Q",
        "-echo ",
        "echoe",
        " iutf8",
        "-onlcr",
        "43,132,1320,860",
    ] {
        assert!(seen.contains(expected), "{expected}: {seen}");
    }
    // What is beyond the limit does not count.
    modes.resize(256, (0, 0));
    modes.push((53, 1));
    assert!(run(server.socket(), exec(&modes)).text().contains("-echo "));
}

#[test]
fn no_mode_keeps_a_job_from_starting() {
    let server = Server::new();
    for argument in [0, 1, 254, 255, 256, 115_200, u32::MAX] {
        let modes = (0..=255).map(|opcode| (opcode, argument)).collect();
        let pty = Some(Pty { size: PtySize::default(), modes, variable: None });
        assert_eq!(run(server.socket(), Exec { pty, ..command(&["true"]) }).exit.code, 0, "{argument}");
    }
}

#[test]
fn a_new_size_is_told() {
    let server = Server::new();
    let mut client = Client::new(server.socket());
    client.start(on_terminal(shell("trap 'stty size; exit 3' WINCH; echo ready; sleep 1000 & wait")));
    client.until("ready\r\n");
    client.say(&ToInit::Resize { size: PtySize { columns: 100, rows: 50, width: 0, height: 0 } });
    let outcome = client.finish();
    assert_eq!((outcome.text().as_str(), outcome.exit.code), ("50 100", 3));
    // A job without a terminal has no size, and goes on.
    let mut client = Client::new(server.socket());
    client.start(Exec { stdin: true, ..command(&["cat"]) });
    client.say(&ToInit::Resize { size: PtySize::default() });
    client.input(&[]);
    assert_eq!(client.finish().exit.code, 0);
}

#[test]
fn the_interrupt_character_ends_the_foreground() {
    let server = Server::new();
    let mut client = Client::new(server.socket());
    client.start(login());
    client.until("ready> ");
    client.input(b"sh -c 'echo run$((1)); exec sleep 1000'\n");
    client.until("run1\r\n");
    client.input(&[3]);
    client.until("ready> ");
    client.input(b"echo code $?\n");
    client.until("code 130\r\n");
    // As does a signal to the foreground, which leaves the shell alone.
    client.input(b"sh -c 'echo run$((2)); exec sleep 1000'; echo code $?\n");
    client.until("run2\r\n");
    client.say(&ToInit::Signal { signal: libc::SIGTERM, scope: Scope::Group });
    client.until("code 143\r\n");
    client.input(b"exit 9\n");
    assert_eq!(client.finish().exit.code, 9);
}

#[test]
fn an_end_of_input_is_not_passed_on() {
    let server = Server::new();
    let mut client = Client::new(server.socket());
    client.start(on_terminal(shell("read line; echo \"first $line\"; read line; echo \"second $line\"")));
    client.input(b"a\n");
    client.until("first a\r\n");
    client.input(&[]);
    client.input(b"b\n");
    client.until("second b\r\n");
    assert_eq!(client.finish().exit.code, 0);
}

#[test]
fn every_byte_passes_through_a_raw_terminal() {
    let server = Server::new();
    let mut client = Client::new(server.socket());
    client.start(on_terminal(shell("stty raw -echo; printf ready; head -c 256")));
    client.until("ready");
    let all: Vec<u8> = (0..=255).collect();
    client.input(&all);
    assert_eq!(client.finish().out, all);
}

#[test]
fn ten_megabytes_are_pasted_and_shown_unchanged() {
    let server = Server::new();
    let folder = folder("paste");
    let data: Vec<u8> = (0..10_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut client = Client::new(server.socket());
    let script = "stty raw -echo; printf ready; head -c 10000000 > pasted; printf done; cat pasted";
    client.start(Exec { folder: folder.to_string_lossy().into_owned(), ..on_terminal(shell(script)) });
    client.until("ready");
    data.chunks(700_000).for_each(|piece| client.input(piece));
    let outcome = client.finish();
    assert!(outcome.out.starts_with(b"done") && outcome.out[4..] == data, "{} bytes came back", outcome.out.len());
    assert!(std::fs::read(folder.join("pasted")).expect("what was pasted") == data);
    std::fs::remove_dir_all(folder).expect("clean up");
}

#[test]
fn everything_written_before_the_end_is_read() {
    let server = Server::new();
    for _ in 0..20 {
        let outcome = run(server.socket(), on_terminal(shell("head -c 300000 /dev/zero | tr '\\0' x; printf end")));
        assert_eq!(outcome.out.len(), 300_003);
        assert!(outcome.out.ends_with(b"xend"));
    }
}

#[test]
fn who_stays_in_the_background_does_not_keep_the_job() {
    let server = Server::new();
    // Neither silent nor writing for ever, though neither hears the kernel's hang-up at the leader's end.
    let silent = "trap '' HUP; sleep 1000 & echo done";
    let outcome = run(server.socket(), on_terminal(shell(silent)));
    assert_eq!((outcome.text().as_str(), outcome.exit.code), ("done", 0));
    let mut client = Client::new(server.socket());
    client.start(on_terminal(shell("trap '' HUP; yes & read line; exit 5")));
    client.until("y\r\ny\r\n");
    client.input(b"\n");
    assert_eq!(client.finish().exit.code, 5);
    // Its terminal is gone, and with it who writes there.
    server.cgroup.wait_until_empty("job-2");
}

#[test]
fn who_reads_nothing_blocks_nobody() {
    let server = Server::new();
    let mut client = Client::new(server.socket());
    let exec = on_terminal(shell("stty raw; echo ready; exec sleep 1000"));
    let name = exec.job.clone();
    let pid = client.start(exec);
    client.until("ready");
    client.stuff();
    assert_eq!(ok(server.socket(), "echo others go on"), "others go on");
    assert_eq!(signal_job(&server, &name, libc::SIGTERM, Scope::Group), Ok(pid));
    let exit = loop {
        match client.next() {
            Frame::Data(Kind::Out, _) => {}
            Frame::Message(FromInit::Exit(exit)) => break exit,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(exit.signal, Some(libc::SIGTERM));
}

#[test]
fn a_terminal_that_nobody_has_open_costs_nothing() {
    let server = Server::new();
    let mut client = Client::new(server.socket());
    // It stays in the session, and has the terminal open again for a moment.
    let script = "stty raw; echo ready; exec 3< go; read line <&3; exec < /dev/null > /dev/null 2>&1;
                  read line <&3; echo again > /dev/tty; read line <&3; exit 3";
    let folder = folder("closed");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    let fifo = folder.join("go");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).expect("a pipe");
    client.start(Exec { folder: folder.to_string_lossy().into_owned(), ..on_terminal(shell(script)) });
    client.until("ready");
    let mut go = std::fs::OpenOptions::new().write(true).open(&fifo).expect("open a pipe");
    client.stuff();
    // Busy with a terminal that cannot be written to, or where there is nothing to read, the server would do nothing else.
    for _ in 0..3 {
        std::io::Write::write_all(&mut go, b"\n").expect("let it go on");
        assert_eq!(ok(server.socket(), "echo others go on"), "others go on");
    }
    assert_eq!(client.finish().exit.code, 3);
    std::fs::remove_dir_all(folder).expect("clean up");
}

#[test]
fn a_signal_reaches_a_job_by_its_name() {
    let server = Server::new();
    let mut client = Client::new(server.socket());
    let script = "trap 'echo told; exit 4' USR1; echo ready; while :; do sleep 1000 & wait; done";
    let exec = Exec { stdin: true, ..shell(script) };
    let name = exec.job.clone();
    let pid = client.start(exec);
    client.until("ready\n");
    client.stuff();
    assert_eq!(signal_job(&server, &name, 0, Scope::All), Err(FailedKind::Invalid));
    assert_eq!(signal_job(&server, &name, 65, Scope::All), Err(FailedKind::Invalid));
    assert_eq!(signal_job(&server, "nobody", libc::SIGUSR1, Scope::All), Err(FailedKind::NotFound));
    assert_eq!(signal_job(&server, &name, libc::SIGUSR1, Scope::Group), Ok(pid));
    client.until("told\n");
    while !matches!(client.next(), Frame::Message(FromInit::Exit(exit)) if exit.code == 4) {}
    assert_eq!(signal_job(&server, &name, libc::SIGUSR1, Scope::Group), Err(FailedKind::NotFound));
}

#[test]
fn a_group_signal_spares_other_groups() {
    let server = Server::new();
    let mut client = Client::new(server.socket());
    let script = "perl -e 'setpgrp; $| = 1; $SIG{USR1} = sub { print \"wrong\\n\" }; print \"ready\\n\"; <STDIN>; print \"untouched\\n\"' <&3 &
                  trap 'echo told' USR1; wait; wait";
    client.start(Exec { stdin: true, ..shell(&format!("exec 3<&0; {script}")) });
    client.until("ready\n");
    client.say(&ToInit::Signal { signal: libc::SIGUSR1, scope: Scope::Group });
    client.until("told\n");
    client.input(b"\n");
    assert_eq!(client.finish().text(), "untouched");
}

#[test]
fn a_kept_job_keeps_its_terminal() {
    let server = Server::new();
    let mut first = Client::new(server.socket());
    let exec = Exec {
        job: "kept".into(),
        on_close: OnClose::Keep,
        ..on_terminal(shell("trap 'stty size; exit 6' WINCH; echo ready; while :; do sleep 1000 & wait; done"))
    };
    first.start(exec);
    first.until("ready\r\n");
    drop(first);
    let mut second = Client::new(server.socket());
    second.say(&ToInit::Attach { job: "kept".into(), from: None });
    second.started();
    second.say(&ToInit::Resize { size: PtySize { columns: 3, rows: 4, width: 0, height: 0 } });
    let outcome = second.finish();
    assert_eq!((outcome.text().as_str(), outcome.exit.code), ("4 3", 6));
}

/// Sends a signal to a job by its name, on a connection of its own.
fn signal_job(server: &Server, job: &str, signal: i32, scope: Scope) -> Result<u32, FailedKind> {
    let mut client = Client::new(server.socket());
    client.say(&ToInit::SignalJob { job: job.to_owned(), signal, scope });
    let answer = loop {
        match client.next() {
            Frame::Message(FromInit::Hello(_)) => {}
            Frame::Message(FromInit::Started { pid, .. }) => break Ok(pid),
            Frame::Message(FromInit::Failed { kind, .. }) => break Err(kind),
            other => panic!("{other:?}"),
        }
    };
    assert!(matches!(client.next(), Frame::Closed));
    answer
}
