//! Jobs whose output is held until it is taken.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use boxyard_proto::wire::{Exec, FailedKind, FromInit, HELD_MAX, Kind, OnClose, ToInit};

use crate::support::client::{Client, Frame, Outcome, command, shell, wait_for_process_end};
use crate::support::server::Server;

/// Bytes that a pipe holds.
const PIPE: usize = 64 << 10;

fn spooled(name: &str, exec: Exec) -> Exec {
    Exec { job: name.into(), on_close: OnClose::Keep, spool: true, ..exec }
}

/// Attaches, and returns the first byte that comes.
fn attach(server: &Server, name: &str, from: u64) -> (Client, u64) {
    let mut client = Client::new(server.socket());
    client.say(&ToInit::Attach { job: name.into(), from: Some(from) });
    loop {
        match client.next() {
            Frame::Message(FromInit::Hello(_)) => {}
            Frame::Message(FromInit::Started { from, .. }) => return (client, from),
            other => panic!("{other:?} instead of a start"),
        }
    }
}

/// Reads output until there are `count` bytes of it.
fn read(client: &mut Client, count: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < count {
        match client.next() {
            Frame::Data(Kind::Out, bytes) => all.extend_from_slice(&bytes),
            other => panic!("{other:?} after {} bytes", all.len()),
        }
    }
    all
}

/// What `seq 1 …` writes.
fn numbers(upto: u32) -> Vec<u8> {
    (1..=upto).flat_map(|number| format!("{number}\n").into_bytes()).collect()
}

#[test]
fn what_was_sent_and_not_taken_comes_again() {
    let server = Server::new();
    let mut first = Client::new(server.socket());
    first.start(spooled("s", Exec { stdin: true, ..shell("echo one; echo two >&2; echo three; read line; exit 4") }));
    first.until("three\n");
    first.say(&ToInit::Taken { upto: 4, ended: false });
    drop(first);
    let (mut second, from) = attach(&server, "s", 4);
    assert_eq!(from, 4);
    let Outcome { out, err, exit } = second.finish();
    assert_eq!((out.as_slice(), err.as_slice(), exit.code), (&b"three\n"[..], &b"two\n"[..], 4));
}

#[test]
fn an_end_is_kept_until_it_is_said_to_be_safe() {
    let server = Server::new();
    let mut first = Client::new(server.socket());
    let pid = first.start(spooled("s", shell("echo out; exit 9")));
    assert_eq!(first.finish().text(), "out");
    wait_for_process_end(pid);
    // It has read everything, and is killed before it has written it down.
    drop(first);
    for _ in 0..2 {
        let (mut next, from) = attach(&server, "s", 0);
        let outcome = next.finish();
        assert_eq!((from, outcome.text().as_str(), outcome.exit.code), (0, "out", 9));
    }
    let (mut last, from) = attach(&server, "s", 4);
    let outcome = last.finish();
    assert_eq!((from, outcome.out.len(), outcome.exit.code), (4, 0, 9));
    last.say(&ToInit::Taken { upto: 4, ended: true });
    let mut rest = Vec::new();
    std::io::Read::read_to_end(&mut last.0, &mut rest).expect("it closes");
    // It forgets before it closes its side, or when that is seen here: the next connection comes after both.
    drop(last);
    let mut gone = Client::new(server.socket());
    gone.say(&ToInit::Attach { job: "s".into(), from: Some(4) });
    assert_eq!(gone.refusal().0, FailedKind::NotFound);
}

#[test]
fn a_job_waits_when_nobody_takes_its_output_and_goes_on_when_somebody_does() {
    let server = Server::new();
    let all = numbers(1_000_000);
    let mut first = Client::new(server.socket());
    first.start(spooled("s", command(&["seq", "1", "1000000"])));
    let mut seen = read(&mut first, HELD_MAX);
    // Nothing more comes, so nothing is lost with the connection.
    assert_eq!(seen.len(), HELD_MAX);
    drop(first);
    let (mut second, from) = attach(&server, "s", 300_000);
    assert_eq!(from, 300_000);
    seen.truncate(300_000);
    second.say(&ToInit::Taken { upto: 300_000, ended: false });
    loop {
        match second.next() {
            Frame::Data(Kind::Out, bytes) => {
                seen.extend_from_slice(&bytes);
                second.say(&ToInit::Taken { upto: seen.len() as u64, ended: false });
            }
            Frame::Message(FromInit::Exit(exit)) => break assert_eq!(exit.code, 0),
            other => panic!("{other:?}"),
        }
    }
    assert!(seen == all, "{} bytes of {}", seen.len(), all.len());
}

#[test]
fn without_anybody_for_long_the_oldest_is_dropped_and_the_job_goes_on() {
    let server = Server::in_a_hurry();
    let all = numbers(1_000_000);
    let mut first = Client::new(server.socket());
    let pid = first.start(spooled("s", command(&["seq", "1", "1000000"])));
    read(&mut first, 10);
    first.say(&ToInit::Taken { upto: 10, ended: false });
    drop(first);
    wait_for_process_end(pid);
    let (mut second, from) = attach(&server, "s", 10);
    let first_byte = usize::try_from(from).expect("small");
    let mut rest = Vec::new();
    // What the job left in its pipe may have to wait for room.
    while let Frame::Data(Kind::Out, bytes) = second.next() {
        rest.extend_from_slice(&bytes);
        second.say(&ToInit::Taken { upto: from + rest.len() as u64, ended: false });
    }
    assert!(from > 10 && rest.len() <= HELD_MAX + PIPE, "from {from}, {} bytes", rest.len());
    assert!(rest == all[first_byte..], "what is left is the end, without a gap");
}

#[test]
fn input_that_stands_before_what_is_taken_does_not_stop_the_job_for_good() {
    let server = Server::new();
    let mut client = Client::new(server.socket());
    client.start(spooled("s", Exec { stdin: true, ..command(&["cat"]) }));
    let data: Vec<u8> = (0..20_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let (read, writer) = (AtomicU64::new(0), Mutex::new(Client(client.0.try_clone().expect("clone"))));
    let mut outcome = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut writer = writer.lock().expect("no panic");
            // Not a word of what is taken before all of it has been sent.
            data.chunks(700_000).for_each(|piece| writer.input(piece));
            writer.input(&[]);
            writer.say(&ToInit::Taken { upto: read.load(Ordering::SeqCst), ended: false });
        });
        while let Frame::Data(Kind::Out, bytes) = client.next() {
            outcome.extend_from_slice(&bytes);
            read.store(outcome.len() as u64, Ordering::SeqCst);
            if let Ok(mut writer) = writer.try_lock() {
                writer.say(&ToInit::Taken { upto: outcome.len() as u64, ended: false });
            }
        }
    });
    assert!(outcome == data, "{} bytes of {}", outcome.len(), data.len());
}

#[test]
fn who_does_not_know_of_this_gets_what_comes_from_then_on_and_stops_nothing() {
    let server = Server::new();
    let mut first = Client::new(server.socket());
    first.start(spooled("s", shell("trap 'seq 1 1000000; exit 3' USR1; echo begun; while :; do sleep 1 & wait; done")));
    first.until("begun\n");
    let mut old = Client::new(server.socket());
    old.say(&ToInit::Attach { job: "s".into(), from: None });
    old.started();
    old.say(&ToInit::Signal { signal: libc::SIGUSR1, scope: Default::default() });
    let outcome = old.finish();
    assert_eq!((outcome.out == numbers(1_000_000), outcome.exit.code), (true, 3));
    drop(old);
    let mut gone = Client::new(server.socket());
    gone.say(&ToInit::Attach { job: "s".into(), from: Some(0) });
    assert_eq!(gone.refusal().0, FailedKind::NotFound, "as ever, an end that has been read is gone");
}

#[test]
fn many_ended_jobs_hold_a_bounded_amount() {
    let server = Server::new();
    let mut ended = Vec::new();
    for number in 0..40 {
        let name = format!("s{number}");
        let mut client = Client::new(server.socket());
        let pid = client.start(spooled(&name, command(&["head", "-c", "1000000", "/dev/zero"])));
        drop(client);
        wait_for_process_end(pid);
        ended.push(name);
    }
    let (mut whole, mut cut) = (0, 0);
    for name in ended {
        let (mut client, from) = attach(&server, &name, 0);
        let outcome = client.finish();
        assert_eq!(outcome.exit.code, 0, "how it ended is kept in any case");
        assert_eq!(from + outcome.out.len() as u64, 1_000_000);
        if from == 0 { whole += 1 } else { cut += 1 }
    }
    assert!((10..=17).contains(&whole) && cut > 0, "{whole} whole, {cut} cut");
}
