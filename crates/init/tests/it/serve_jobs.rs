//! Jobs from start to end, on the host.

use boxyard_proto::wire::{Exec, FailedKind, OnClose, Scope, ToInit, User};

use crate::support::client::{Client, Frame, command, ok, refused, run, shell, wait_for_process_end};
use crate::support::server::Server;

#[test]
fn output_error_and_exit_code_come_back_apart() {
    let server = Server::new();
    let outcome = run(server.socket(), shell("echo out; echo err >&2; exit 42"));
    assert_eq!((outcome.out.as_slice(), outcome.err.as_slice()), (&b"out\n"[..], &b"err\n"[..]));
    assert_eq!((outcome.exit.code, outcome.exit.signal), (42, None));
    assert!(outcome.exit.cpu_ns > 0 && outcome.exit.memory_peak > 0, "{:?}", outcome.exit);
    let killed = run(server.socket(), shell("kill -TERM $$"));
    assert_eq!((killed.exit.code, killed.exit.signal), (143, Some(15)));
}

#[test]
fn what_cannot_be_run_ends_as_in_a_shell() {
    let server = Server::new();
    let missing = run(server.socket(), command(&["no-such-program", "-x"]));
    assert_eq!(
        (missing.exit.code, missing.complaint().as_str()),
        (127, "boxyard: no-such-program: command not found\n")
    );
    let missing = run(server.socket(), command(&["./no/such"]));
    assert_eq!(
        (missing.exit.code, missing.complaint().as_str()),
        (127, "boxyard: ./no/such: no such file or directory\n")
    );
    let text = run(server.socket(), command(&["/etc/passwd"]));
    assert_eq!((text.exit.code, text.complaint().as_str()), (126, "boxyard: /etc/passwd: permission denied\n"));
}

#[test]
fn folder_environment_and_user_are_as_asked() {
    let server = Server::new();
    let mut exec = shell("pwd; id -u; id -g; id -G; echo $A-$B");
    exec.folder = "/usr/bin".into();
    exec.user = User::BOXUSER;
    exec.env = vec!["A=1".into(), "B=2".into(), "A=3".into()];
    assert_eq!(run(server.socket(), exec).text(), "/usr/bin\n1000\n1000\n1000\n3-2");

    let missing = Exec { folder: "/no/such".into(), ..command(&["true"]) };
    assert_eq!(refused(server.socket(), missing), (FailedKind::NotFound, "folder '/no/such' does not exist".into()));
    let closed = Exec { folder: "/root".into(), user: User::BOXUSER, ..command(&["true"]) };
    assert_eq!(refused(server.socket(), closed).0, FailedKind::NotAllowed);
    let through_a_descriptor = Exec { folder: "/proc/self/fd/3".into(), ..command(&["pwd"]) };
    assert_eq!(refused(server.socket(), through_a_descriptor).0, FailedKind::NotFound);
    assert!(server.cgroup.leaves().is_empty(), "a refused job leaves no cgroup");
}

#[test]
fn a_program_starts_with_default_signals_and_three_descriptors() {
    let server = Server::started_by("trap '' HUP INT QUIT PIPE", true);
    let status =
        ok(server.socket(), "cat /proc/self/status | grep -E 'Sig(Blk|Ign|Cgt)'; ls /proc/self/fd | tr '\\n' ' '");
    let zero = "\t0000000000000000";
    assert_eq!(status, format!("SigBlk:{zero}\nSigIgn:{zero}\nSigCgt:{zero}\n0 1 2 3"), "3 is the listing itself");
    assert_eq!(
        ok(server.socket(), "readlink /proc/self/fd/0; ps -o sid= -p $$ | tr -d ' '; echo $$").lines().next(),
        Some("/dev/null")
    );
    // A writer that nobody reads ends quietly, as everywhere.
    assert_eq!(ok(server.socket(), "yes | head -n 1"), "y");
}

#[test]
fn input_reaches_the_program_and_ends() {
    let server = Server::new();
    let data: Vec<u8> = (0..5_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut client = Client::new(server.socket());
    client.start(Exec { stdin: true, ..command(&["cat"]) });
    let mut writer = Client(client.0.try_clone().expect("clone"));
    let sent = data.clone();
    let writing = std::thread::spawn(move || {
        sent.chunks(700_000).for_each(|piece| writer.input(piece));
        writer.input(&[]);
    });
    let outcome = client.finish();
    writing.join().expect("write");
    assert!(outcome.out == data, "{} bytes came back", outcome.out.len());
    assert_eq!(outcome.exit.code, 0);

    // Input that nobody reads, and input for a job that has none, do no harm.
    let mut client = Client::new(server.socket());
    client.start(Exec { stdin: true, ..command(&["true"]) });
    client.input(b"for nobody");
    assert_eq!(client.finish().exit.code, 0);
    let mut client = Client::new(server.socket());
    client.start(command(&["cat"]));
    client.input(b"for nobody");
    assert_eq!(client.finish().out, b"");
}

#[test]
fn a_hundred_megabytes_come_through_unchanged() {
    let server = Server::new();
    let mut client = Client::new(server.socket());
    client.start(shell("seq 1 12500000"));
    let outcome = client.finish();
    assert_eq!(outcome.exit.code, 0);
    let mut lines = outcome.out.split(|byte| *byte == b'\n');
    for number in 1..=12_500_000_u32 {
        let line = lines.next().and_then(|line| std::str::from_utf8(line).ok()).and_then(|line| line.parse().ok());
        assert_eq!(line, Some(number));
    }
    assert_eq!(lines.next(), Some(&b""[..]));
    assert_eq!(lines.next(), None);
}

#[test]
fn early_output_comes_before_the_end() {
    let server = Server::new();
    let mut client = Client::new(server.socket());
    client.start(Exec { stdin: true, ..shell("echo first; read line; echo \"then $line\"") });
    client.until("first\n");
    client.input(b"more\n");
    client.until("then more\n");
    assert_eq!(client.finish().exit.code, 0);
}

#[test]
fn a_client_that_does_not_read_can_still_end_its_job() {
    let server = Server::new();
    let mut client = Client::new(server.socket());
    client.start(command(&["yes"]));
    // The first output is there, and as nobody reads on, soon everything is full.
    client.until("y\n");
    client.say(&ToInit::End { grace_ms: 60_000 });
    let outcome = client.finish();
    assert_eq!((outcome.exit.code, outcome.exit.signal), (143, Some(15)));
}

#[test]
fn a_kept_job_survives_its_client_and_tells_its_result_once() {
    let server = Server::new();
    let keep =
        |script: &str, name: &str| Exec { job: name.into(), on_close: OnClose::Keep, stdin: true, ..shell(script) };
    let attach = |name: &str| {
        let mut client = Client::new(server.socket());
        client.say(&ToInit::Attach { job: name.into(), from: None });
        client
    };
    // Its input ends with its client, so it goes on only then.
    let mut first = Client::new(server.socket());
    let pid = first.start(keep("echo here; read line; exit 7", "kept"));
    first.until("here\n");
    drop(first);
    let mut second = attach("kept");
    assert_eq!(second.started(), pid);
    let outcome = second.finish();
    assert_eq!(outcome.exit.code, 7);
    drop(second);
    // The result is gone when it has certainly been read, which the server learns from the connection's end.
    assert_eq!(attach("kept").refusal(), (FailedKind::NotFound, "there is no such job".into()));
    assert_eq!(attach("never was").refusal().0, FailedKind::NotFound);

    // A client that goes away without having read the end has not fetched it.
    let mut first = Client::new(server.socket());
    let pid = first.start(keep("read line; exit 9", "unread"));
    first.input(b"go\n");
    wait_for_process_end(pid);
    drop(first);
    let mut second = attach("unread");
    assert_eq!(second.started(), pid);
    assert_eq!(second.finish().exit.code, 9);
}

#[test]
fn a_running_kept_job_can_be_taken_over() {
    let server = Server::new();
    let mut first = Client::new(server.socket());
    let exec = Exec {
        job: "shared".into(),
        on_close: OnClose::Keep,
        ..shell("trap 'echo told; exit 3' USR1; echo ready; while :; do sleep 1 & wait; done")
    };
    let pid = first.start(exec);
    first.until("ready\n");
    let mut second = Client::new(server.socket());
    second.say(&ToInit::Attach { job: "shared".into(), from: None });
    assert_eq!(second.started(), pid);
    assert!(matches!(first.next(), Frame::Closed), "the first connection has lost the job");
    let again = Exec { job: "shared".into(), ..command(&["true"]) };
    assert_eq!(refused(server.socket(), again).0, FailedKind::Invalid, "the name is taken");
    second.say(&ToInit::Signal { signal: libc::SIGUSR1, scope: Scope::All });
    let outcome = second.finish();
    assert_eq!((outcome.text().as_str(), outcome.exit.code), ("told", 3));
}
