//! Peers that break the protocol, or lean on its limits.

use boxyard_proto::wire::{self, Exec, FailedKind, FromInit, Kind, Scope, ToInit, User};

use crate::support::client::{Client, Frame, command, ok, refused, shell};
use crate::support::server::Server;

#[test]
fn broken_frames_end_their_connection_and_nothing_else() {
    let server = Server::new();
    let json = |text: &str| {
        let mut frame = wire::header(Kind::Json, text.len()).to_vec();
        frame.extend_from_slice(text.as_bytes());
        frame
    };
    let cases: Vec<Vec<u8>> = vec![
        vec![0, 0, 0, 1, 77, 0],
        vec![0xff, 0xff, 0xff, 0xff, 0],
        vec![0, 0x10, 0, 1, 0],
        wire::header(Kind::Out, 3).into_iter().chain(*b"out").collect(),
        wire::header(Kind::In, 3).into_iter().chain(*b"in!").collect(),
        json("{not json"),
        json("[]"),
        json(r#"{"type":"exec"}"#),
        json(r#"{"type":"signal","signal":15}"#),
        json(r#"{"type":"exec","job":"x","argv":"true","folder":"/","user":{"uid":0,"gid":0}}"#),
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
    ];
    for case in cases {
        let mut client = Client::silent(server.socket());
        client.raw(&case);
        assert_eq!(client.refusal().0, FailedKind::Invalid, "{case:?}");
        assert!(matches!(client.next(), Frame::Closed));
    }
    // In the middle of a job it is as if the client had gone.
    let mut client = Client::new(server.socket());
    client.start(command(&["sleep", "1000"]));
    client.raw(&[1, 2, 3, 4, 5, 6, 7]);
    while !matches!(client.next(), Frame::Closed) {}
    server.cgroup.wait_until_empty("job-1");
    assert_eq!(ok(server.socket(), "echo still here"), "still here");
}

#[test]
fn requests_without_sense_are_refused() {
    let server = Server::new();
    let base = || command(&["true"]);
    for exec in [
        Exec { argv: Vec::new(), ..base() },
        Exec { argv: vec!["a\0b".into()], ..base() },
        Exec { folder: "tmp".into(), ..base() },
        Exec { env: vec!["NOVALUE".into()], ..base() },
        Exec { env: vec!["A=\0".into()], ..base() },
        Exec { user: User { uid: 65_536, gid: 0 }, ..base() },
        Exec { user: User { uid: 0, gid: u32::MAX }, ..base() },
        Exec { job: String::new(), ..base() },
        Exec { job: "x".repeat(129), ..base() },
    ] {
        assert_eq!(refused(server.socket(), exec.clone()).0, FailedKind::Invalid, "{exec:?}");
    }
    let too_long = Exec { argv: vec!["true".into(), "x".repeat(500_000)], ..base() };
    let outcome = crate::support::client::run(server.socket(), too_long);
    assert_eq!(outcome.exit.code, 126, "{}", outcome.complaint());
}

#[test]
fn messages_from_the_future_are_answered() {
    let server = Server::new();
    let teleport = br#"{"type":"teleport","to":"mars"}"#;
    let mut future = wire::header(Kind::Json, teleport.len()).to_vec();
    future.extend_from_slice(teleport);
    let mut client = Client::new(server.socket());
    client.raw(&future);
    assert!(matches!(client.next(), Frame::Message(FromInit::Hello(_))));
    assert!(matches!(client.next(), Frame::Message(FromInit::Unsupported { message }) if message == "teleport"));
    client.start(Exec { stdin: true, ..command(&["cat"]) });
    client.raw(&future);
    assert!(matches!(client.next(), Frame::Message(FromInit::Unsupported { message }) if message == "teleport"));
    client.say(&ToInit::Signal { signal: 0, scope: Scope::All });
    client.say(&ToInit::Signal { signal: 65, scope: Scope::All });
    client.input(&[]);
    assert_eq!(client.finish().exit.code, 0);
}

#[test]
fn frames_may_arrive_in_any_pieces() {
    let server = Server::new();
    let mut client = Client::silent(server.socket());
    let mut bytes = wire::json_frame(&ToInit::Hello(wire::Hello::ours()));
    bytes.extend(wire::json_frame(&ToInit::Exec(Exec { stdin: true, ..command(&["cat"]) })));
    bytes.extend(wire::header(Kind::In, 3).into_iter().chain(*b"abc"));
    bytes.extend(wire::header(Kind::In, 0));
    bytes.iter().for_each(|byte| client.raw(&[*byte]));
    client.started();
    assert_eq!(client.finish().text(), "abc");
    // And everything at once.
    let mut client = Client::silent(server.socket());
    client.raw(&bytes);
    client.started();
    assert_eq!(client.finish().text(), "abc");
}

#[test]
fn who_says_nothing_is_hung_up_on() {
    let server = Server::new();
    let mut silent = Client::silent(server.socket());
    let mut halting = Client::new(server.socket());
    halting.raw(&[0, 0]);
    assert!(matches!(halting.next(), Frame::Message(FromInit::Hello(_))));
    assert!(matches!(halting.next(), Frame::Closed));
    assert!(matches!(silent.next(), Frame::Message(FromInit::Hello(_))));
    assert!(matches!(silent.next(), Frame::Closed));
}

#[test]
fn connections_beyond_the_limit_wait_for_a_place() {
    let server = Server::new();
    let mut held: Vec<_> = (0..512)
        .map(|_| {
            let mut client = Client::new(server.socket());
            client.start(Exec { stdin: true, ..command(&["cat"]) });
            client
        })
        .collect();
    let mut late = Client::new(server.socket());
    late.say(&ToInit::Exec(shell("echo in")));
    // One of the others ends, and only then is there room.
    let mut first = held.swap_remove(0);
    first.input(&[]);
    while !matches!(first.next(), Frame::Closed) {}
    drop(first);
    late.started();
    assert_eq!(late.finish().text(), "in");
}
