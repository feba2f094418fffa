//! Process trees: what ends with a job, and what outlives it.

use std::path::Path;

use boxyard_proto::wire::{Exec, OnClose, Scope, ToInit};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::support::client::{Client, Frame, ok, run, shell};
use crate::support::server::Server;

/// A tree that has spread over sessions and process groups and ignores TERM in part. Prints `ready` when it stands.
const SPREAD: &str =
    "setsid sh -c 'setsid sh -c \"trap : TERM; echo ready; while :; do sleep 1000 & wait; done\" & wait' & wait";

#[test]
fn ending_a_job_ends_its_whole_tree() {
    for grace_ms in [0, 100] {
        let server = Server::new();
        let mut client = Client::new(server.socket());
        client.start(shell(SPREAD));
        client.until("ready\n");
        client.say(&ToInit::End { grace_ms });
        let outcome = client.finish();
        assert_eq!(outcome.exit.signal, Some(if grace_ms == 0 { libc::SIGKILL } else { libc::SIGTERM }));
        server.cgroup.wait_until_empty("job-1");
    }
}

#[test]
fn a_closed_connection_ends_a_session() {
    let server = Server::new();
    let mut client = Client::new(server.socket());
    client.start(shell(SPREAD));
    client.until("ready\n");
    drop(client);
    server.cgroup.wait_until_empty("job-1");

    // Even one whose input is stuck.
    let mut client = Client::new(server.socket());
    client.start(Exec { stdin: true, ..shell("echo ready; sleep 1000") });
    client.until("ready\n");
    client.0.set_nonblocking(true).expect("do not wait");
    let frame: Vec<u8> = [0, 0x0f, 0, 0, 1].into_iter().chain(std::iter::repeat_n(0, 0x000f_0000)).collect();
    while std::io::Write::write(&mut client.0, &frame).is_ok() {}
    drop(client);
    server.cgroup.wait_until_empty("job-2");
    ok(server.socket(), "true");
    assert!(server.cgroup.leaves().is_empty(), "empty leaves are removed: {:?}", server.cgroup.leaves());
}

#[test]
fn signals_reach_the_whole_tree() {
    let server = Server::new();
    let mut client = Client::new(server.socket());
    let script = "trap 'echo parent; exit 5' USR1; (trap 'echo child' USR1; echo ready; while :; do sleep 1000 & wait; done) & while :; do wait; done";
    let pid = client.start(shell(script));
    client.until("ready\n");
    client.say(&ToInit::Signal { signal: libc::SIGUSR1, scope: Scope::All });
    let mut seen = String::new();
    let exit = loop {
        match client.next() {
            Frame::Data(_, bytes) => seen.push_str(&String::from_utf8_lossy(&bytes)),
            Frame::Message(boxyard_proto::wire::FromInit::Exit(exit)) => break exit,
            other => panic!("{other:?}"),
        }
    };
    assert!(pid > 0 && exit.code == 5);
    assert!(seen.contains("parent") && seen.contains("child"), "{seen}");
}

#[test]
fn a_background_process_outlives_its_job_and_keeps_its_output() {
    let server = Server::new();
    // It writes for ever to the job's own output, and would die of a broken pipe.
    let outcome = run(server.socket(), shell("sh -c 'while echo noise; do sleep 0.01; done; echo $? >&2' & echo $!"));
    assert_eq!(outcome.exit.code, 0);
    let child = outcome.text().lines().find_map(|line| line.parse::<u32>().ok()).expect("its id");
    assert_eq!(server.cgroup.leaves(), ["job-1"], "the leaf stays as long as something runs in it");
    // Some hundred lines later it is still there.
    assert_eq!(ok(server.socket(), &format!("sleep 1; kill -0 {child} && echo alive")), "alive");
    ok(server.socket(), &format!("kill {child}"));
    server.cgroup.wait_until_empty("job-1");
    // Orphans come to the server, which then removes what is left of their job; the next job does so at the latest.
    ok(server.socket(), "true");
    ok(server.socket(), "true");
    assert!(!server.cgroup.0.join("job-1").exists());
}

#[test]
fn a_silent_background_process_does_not_hold_its_job() {
    let server = Server::new();
    let outcome = run(server.socket(), shell("sleep 1000 & echo done"));
    assert_eq!((outcome.text().as_str(), outcome.exit.code), ("done", 0));
}

#[test]
fn everything_written_before_the_end_arrives_though_the_pipe_is_held() {
    let server = Server::new();
    let mut client = Client::new(server.socket());
    client.start(shell("sleep 1000 & head -c 900000 /dev/zero"));
    let outcome = client.finish();
    assert_eq!(outcome.out.len(), 900_000);
}

#[test]
fn without_cgroups_a_tree_ends_as_far_as_it_can_be_seen() {
    let server = Server::without_cgroup();
    let mut client = Client::new(server.socket());
    client.start(shell("sh -c 'echo $$; exec sleep 1000' & wait"));
    let child = client.until("\n").trim().parse().ok().and_then(Pid::from_raw).expect("a process id");
    let child = pidfd_open(child, PidfdFlags::empty()).expect("it runs");
    client.say(&ToInit::End { grace_ms: 0 });
    assert_eq!(client.finish().exit.signal, Some(libc::SIGKILL));
    // The host's init reaps it when it likes; the descriptor tells when it has ended.
    let patience = Timespec { tv_sec: 30, tv_nsec: 0 };
    let ended = poll(&mut [PollFd::new(&child, PollFlags::IN)], Some(&patience)).expect("wait for a process");
    assert_eq!(ended, 1, "the child was ended");
    assert!(server.cgroup.leaves().is_empty());
}

#[test]
fn a_kept_job_is_not_ended_by_its_clients_going() {
    let server = Server::new();
    let exec = Exec {
        job: "kept".into(),
        on_close: OnClose::Keep,
        ..shell("trap 'exit 4' USR1; echo ready; while :; do sleep 1000 & wait; done")
    };
    let mut client = Client::new(server.socket());
    let pid = client.start(exec);
    client.until("ready\n");
    drop(client);
    assert_eq!(ok(server.socket(), &format!("kill -0 {pid} && echo alive")), "alive");
    assert!(Path::new(&format!("/proc/{pid}")).exists());
    let mut client = Client::new(server.socket());
    client.say(&ToInit::Attach { job: "kept".into(), from: None });
    assert_eq!(client.started(), pid);
    client.say(&ToInit::End { grace_ms: 0 });
    assert_eq!(client.finish().exit.signal, Some(libc::SIGKILL));
}
