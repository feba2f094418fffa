//! Sockets dialled and listened on, on the host's loopback.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;

use boxyard_proto::wire::{self, Endpoint, FailedKind, FromInit, INCOMING_MAX, Kind, Scope, ToInit, User};

use crate::support::DEADLINE;
use crate::support::client::{Client, Frame, ok};
use crate::support::server::Server;
use crate::support::sockets::{
    Both, Place, descriptors, echo, frame, pattern, refusal, refused_dial, refused_listen, tcp, unix,
    wait_for_descriptors,
};

fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let port = listener.local_addr().expect("an address").port();
    (listener, port)
}

#[test]
fn a_dialled_socket_carries_both_ways_and_each_ends_by_itself() {
    let server = Server::new();
    let (listener, port) = listener();
    let mut client = Client::asking(server.socket(), &ToInit::Dial { to: tcp("127.0.0.1", port), user: User::BOXUSER });
    assert_eq!(client.opened(), ("127.0.0.1".into(), port));
    let (mut peer, _) = listener.accept().expect("accept");
    client.input(b"hello");
    let mut buffer = [0; 5];
    peer.read_exact(&mut buffer).expect("read");
    assert_eq!(&buffer, b"hello");
    // Our end comes first, and the other direction goes on.
    client.input(&[]);
    assert_eq!(peer.read(&mut buffer).expect("the end"), 0);
    peer.write_all(b"still ").expect("write");
    peer.write_all(b"here").expect("write");
    assert_eq!(client.bytes(10), b"still here");
    peer.shutdown(Shutdown::Write).expect("shut down");
    assert!(client.rest().is_empty());
    client.closes();

    // Theirs comes first.
    let mut client = Client::dial(server.socket(), tcp("localhost", port), User::BOXUSER);
    let (mut peer, _) = listener.accept().expect("accept");
    peer.write_all(b"all").expect("write");
    peer.shutdown(Shutdown::Write).expect("shut down");
    assert_eq!(client.rest(), b"all");
    client.input(b"more");
    client.input(&[]);
    let mut seen = Vec::new();
    peer.read_to_end(&mut seen).expect("read");
    assert_eq!(seen, b"more");
    client.closes();
}

#[test]
fn input_may_come_before_the_answer() {
    let server = Server::new();
    let (listener, port) = listener();
    let mut client = Client::asking(server.socket(), &ToInit::Dial { to: tcp("127.0.0.1", port), user: User::ROOT });
    client.input(b"early");
    client.input(&[]);
    let (mut peer, _) = listener.accept().expect("accept");
    let mut seen = Vec::new();
    peer.read_to_end(&mut seen).expect("read");
    assert_eq!(seen, b"early");
    drop(peer);
    client.opened();
    assert!(client.rest().is_empty());
    client.closes();
}

#[test]
fn a_socket_that_is_broken_off_closes_its_connection() {
    let server = Server::new();
    let (listener, port) = listener();
    let mut client = Client::dial(server.socket(), tcp("127.0.0.1", port), User::BOXUSER);
    let (peer, _) = listener.accept().expect("accept");
    rustix::net::sockopt::set_socket_linger(&peer, Some(std::time::Duration::ZERO)).expect("break it off");
    drop(peer);
    client.closes();

    // After its end was said: nobody is left to read what we say.
    let mut client = Client::dial(server.socket(), tcp("127.0.0.1", port), User::BOXUSER);
    let (peer, _) = listener.accept().expect("accept");
    peer.shutdown(Shutdown::Write).expect("shut down");
    assert!(client.rest().is_empty());
    rustix::net::sockopt::set_socket_linger(&peer, Some(std::time::Duration::ZERO)).expect("break it off");
    drop(peer);
    client.closes();

    // A Unix socket's other side that is gone altogether is known at once; what it said before comes through.
    let place = Place::new();
    let listener = UnixListener::bind(place.path("s")).expect("listen");
    let mut client = Client::asking(server.socket(), &ToInit::Dial { to: unix(place.path("s")), user: User::ROOT });
    assert_eq!(client.opened(), (place.path("s").to_str().expect("text").to_owned(), 0));
    let (mut peer, _) = listener.accept().expect("accept");
    peer.write_all(b"and off").expect("write");
    drop(peer);
    assert_eq!(client.rest(), b"and off");
    client.closes();

    // Closing ours closes theirs.
    let client = Client::dial(server.socket(), unix(place.path("s")), User::ROOT);
    let (mut peer, _) = listener.accept().expect("accept");
    drop(client);
    assert_eq!(peer.read(&mut [0]).expect("the end"), 0);
}

#[test]
fn a_hundred_megabytes_each_way_arrive_whole_and_are_not_kept() {
    const SIZE: usize = 100_000_000;
    let server = Server::new();
    let (listener, port) = listener();
    let mut client = Client::dial(server.socket(), tcp("127.0.0.1", port), User::BOXUSER);
    let (mut peer, _) = listener.accept().expect("accept");
    let data = pattern(SIZE);
    let before = peak_memory(server.pid());

    // Both sides write all they can before either reads: whoever keeps bytes for them is found out.
    let mut writer = Client(client.0.try_clone().expect("clone"));
    writer.0.set_nonblocking(true).expect("do not wait");
    peer.set_nonblocking(true).expect("do not wait");
    let mut down = Stuck::default();
    let mut up = Stuck::default();
    let mut frames = Vec::with_capacity(SIZE + 4096);
    for piece in data.chunks(100_000) {
        frames.extend(wire::header(Kind::In, piece.len()));
        frames.extend_from_slice(piece);
    }
    while !(down.is_stuck() && up.is_stuck()) {
        down.write(&mut writer.0, &frames);
        up.write(&mut peer, &data);
        ok(server.socket(), "true");
    }
    assert!(down.written < SIZE / 2 && up.written < SIZE / 2, "somebody keeps it all: {down:?} {up:?}");
    writer.0.set_nonblocking(false).expect("wait again");
    peer.set_nonblocking(false).expect("wait again");

    thread::scope(|scope| {
        let mut reading = peer.try_clone().expect("clone");
        let (down, up, frames, data) = (down.written, up.written, &frames, &data);
        scope.spawn(move || {
            writer.raw(&frames[down..]);
            writer.input(&[]);
        });
        scope.spawn(move || {
            peer.write_all(&data[up..]).expect("write");
            peer.say_end();
        });
        scope.spawn(move || {
            let mut seen = vec![0; SIZE];
            reading.read_exact(&mut seen).expect("read");
            assert!(seen == *data, "what went in came out");
            assert_eq!(reading.read(&mut [0]).expect("the end"), 0);
        });
        assert!(client.rest() == *data, "what went out came in");
        client.closes();
    });
    let grown = peak_memory(server.pid()).saturating_sub(before);
    assert!(grown < 4 << 20, "{grown} bytes more at its peak");
}

/// How far a writer has come whom nobody reads.
#[derive(Debug, Default)]
struct Stuck {
    written: usize,
    /// Rounds in which nothing went.
    rounds: u32,
}

impl Stuck {
    fn write(&mut self, to: &mut impl Write, data: &[u8]) {
        self.rounds += 1;
        while let Ok(written @ 1..) = to.write(&data[self.written..]) {
            self.written += written;
            self.rounds = 0;
        }
    }

    fn is_stuck(&self) -> bool {
        self.rounds > 3
    }
}

/// The most memory that the process has had at once, in bytes.
fn peak_memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

#[test]
fn what_cannot_be_dialled_is_told_in_words() {
    let server = Server::new();
    let s = server.socket();
    let (listener, port) = listener();
    drop(listener);
    let refused = (FailedKind::NotFound, "connection refused".to_owned());
    assert_eq!(refused_dial(s, tcp("127.0.0.1", port), User::BOXUSER), refused);
    assert_eq!(refused_dial(s, tcp("localhost", port), User::BOXUSER), refused);
    assert_eq!(refused_dial(s, tcp("::1", port), User::BOXUSER), refused);
    let unknown = refused_dial(s, tcp("no-such-name.invalid", 80), User::BOXUSER);
    assert_eq!(unknown, (FailedKind::NotFound, "no-such-name.invalid: name or service not known".into()));
    let place = Place::new();
    let missing = refused_dial(s, unix(place.path("missing")), User::BOXUSER);
    assert_eq!(missing, (FailedKind::NotFound, "no such file or directory".into()));
    fs::write(place.path("file"), "").expect("make a file");
    assert_eq!(refused_dial(s, unix(place.path("file")), User::ROOT), refused);

    for wrong in ["-s", "--service=files", "a b", "a/b", "$(id)", "a\0b", "", "*", &"a".repeat(254)] {
        assert_eq!(refused_dial(s, tcp(wrong, 80), User::BOXUSER).0, FailedKind::Invalid, "{wrong}");
    }
    assert_eq!(refused_dial(s, tcp("127.0.0.1", 0), User::BOXUSER).0, FailedKind::Invalid);
    for wrong in ["", "relative", "\0abstract", "/a\0b", &format!("/{}", "a".repeat(107))] {
        assert_eq!(refused_dial(s, unix(wrong), User::BOXUSER).0, FailedKind::Invalid, "{wrong}");
    }
    let stranger = User { uid: 65_536, gid: 0 };
    assert_eq!(refused_dial(s, tcp("127.0.0.1", port), stranger).0, FailedKind::Invalid);
    assert_eq!(refused_listen(s, tcp("127.0.0.1", 0), stranger).0, FailedKind::Invalid);
    assert_eq!(refused_dial(s, Endpoint::AgentSocket, User::BOXUSER).0, FailedKind::Invalid);
    assert_eq!(refusal(s, &ToInit::Accept { connection: 1 }).0, FailedKind::NotFound);
    server.cgroup.wait_until_empty("job-1");
    assert_eq!(ok(s, "echo alive"), "alive");
}

#[test]
fn a_message_that_means_nothing_to_a_socket_closes_it() {
    let server = Server::new();
    let (listener, port) = listener();
    let mut client = Client::dial(server.socket(), tcp("127.0.0.1", port), User::BOXUSER);
    client.say(&ToInit::Signal { signal: 15, scope: Scope::All });
    while !matches!(client.next(), Frame::Closed) {}
    let mut client = Client::dial(server.socket(), tcp("127.0.0.1", port), User::BOXUSER);
    client.say(&ToInit::End { grace_ms: 0 });
    client.closes();
    drop(listener);
    let (mut client, ..) = Client::listen(server.socket(), tcp("localhost", 0), User::BOXUSER);
    client.input(b"what for?");
    while !matches!(client.next(), Frame::Closed) {}
}

#[test]
fn a_listener_announces_and_hands_over() {
    let server = Server::new();
    let s = server.socket();
    let (mut listening, host, port) = Client::listen(s, tcp("localhost", 0), User::BOXUSER);
    assert!(host == "127.0.0.1" && port > 0, "{host}:{port}");
    let mut one = TcpStream::connect(("127.0.0.1", port)).expect("connect");
    let (first, from, from_port) = listening.incoming();
    assert_eq!((from.as_str(), from_port), ("127.0.0.1", one.local_addr().expect("an address").port()));
    // The loopback's other address, while the first waits.
    let two = TcpStream::connect(("::1", port)).expect("connect over IPv6");
    let (second, from, _) = listening.incoming();
    assert_eq!(from, "::1");
    assert_ne!(first, second);
    one.write_all(b"waiting").expect("write");

    let mut of_two = Client::accept(s, second);
    let mut of_one = Client::accept(s, first);
    assert_eq!(refusal(s, &ToInit::Accept { connection: first }).0, FailedKind::NotFound, "it is taken");
    assert_eq!(of_one.bytes(7), b"waiting");
    let echoing = thread::spawn(move || echo(two));
    of_two.input(b"echo");
    of_two.input(&[]);
    assert_eq!(of_two.rest(), b"echo");
    of_two.closes();
    echoing.join().expect("echo");

    // Somebody has the address, with and without us.
    let used = (FailedKind::Other, "address already in use".to_owned());
    assert_eq!(refused_listen(s, tcp("127.0.0.1", port), User::BOXUSER), used);
    let three = TcpStream::connect(("127.0.0.1", port)).expect("connect");
    let (third, ..) = listening.incoming();
    drop(listening);
    // Who waits is dropped, who was accepted is not, and nobody listens any more.
    assert!(!matches!({ &three }.read(&mut [0]), Ok(1..)));
    assert_eq!(refusal(s, &ToInit::Accept { connection: third }).0, FailedKind::NotFound);
    TcpStream::connect(("127.0.0.1", port)).expect_err("nobody listens");
    of_one.input(b"on");
    let mut buffer = [0; 2];
    one.read_exact(&mut buffer).expect("it goes on");
    // The port can be had again at once.
    let (_again, _, same) = Client::listen(s, tcp("127.0.0.1", port), User::BOXUSER);
    assert_eq!(same, port);
}

#[test]
fn listeners_are_where_they_were_asked_to_be() {
    let server = Server::new();
    let s = server.socket();
    for (host, shown) in
        [("*", "0.0.0.0"), ("", "0.0.0.0"), ("127.0.0.2", "127.0.0.2"), ("::1", "::1"), ("localhost", "127.0.0.1")]
    {
        let (mut listening, at, port) = Client::listen(s, tcp(host, 0), User::BOXUSER);
        assert_eq!(at, shown);
        let to = if host == "127.0.0.2" || host == "::1" { host } else { "127.0.0.1" };
        let _peer = TcpStream::connect((to, port)).expect("connect");
        listening.incoming();
        if host != "localhost" && to == "127.0.0.1" {
            let _peer = TcpStream::connect(("::1", port)).expect("connect over IPv6");
            assert_eq!(listening.incoming().1, "::1");
        }
    }
    assert_eq!(refused_listen(s, tcp("127.0.0.1", 80), User::BOXUSER).0, FailedKind::NotAllowed);
    let (_low, ..) = Client::listen(s, tcp("127.0.0.77", 1), User::ROOT);
    assert_eq!(
        refused_listen(s, tcp("192.0.2.1", 0), User::BOXUSER),
        (FailedKind::Other, "address not available in the box".into())
    );
    assert_eq!(refused_listen(s, tcp("-x", 0), User::BOXUSER).0, FailedKind::Invalid);
}

#[test]
fn only_so_many_wait_to_be_accepted_and_listen() {
    let server = Server::new();
    let s = server.socket();
    let before = descriptors(s, server.pid());
    let (mut listening, _, port) = Client::listen(s, tcp("127.0.0.1", 0), User::BOXUSER);
    let mut peers: Vec<_> =
        (0..INCOMING_MAX + 1).map(|_| TcpStream::connect(("127.0.0.1", port)).expect("connect")).collect();
    let numbers: Vec<_> = (0..INCOMING_MAX).map(|_| listening.incoming().0).collect();
    // The last one is in the kernel's queue: a message of ours is answered before it is announced.
    let dance = br#"{"type":"dance"}"#;
    let mut future = wire::header(Kind::Json, dance.len()).to_vec();
    future.extend_from_slice(dance);
    listening.raw(&future);
    assert!(matches!(listening.next(), Frame::Message(FromInit::Unsupported { .. })));
    let first = Client::accept(s, numbers[0]);
    let (last, ..) = listening.incoming();
    assert!(!numbers.contains(&last));
    peers.clear();
    drop((listening, first));
    wait_for_descriptors(s, server.pid(), before);

    let held: Vec<_> = (0..128).map(|_| Client::listen(s, tcp("127.0.0.1", 0), User::BOXUSER).0).collect();
    assert_eq!(refused_listen(s, tcp("127.0.0.1", 0), User::BOXUSER).0, FailedKind::Exhausted);
    drop(held);
    wait_for_descriptors(s, server.pid(), before);
    Client::listen(s, tcp("127.0.0.1", 0), User::BOXUSER);
}

#[test]
fn who_finds_no_descriptor_is_refused() {
    const LIMIT: usize = 64;
    let server = Server::started_by(&format!("ulimit -n {LIMIT}"), true);
    let s = server.socket();
    let (listener, port) = listener();
    let before = descriptors(s, server.pid());
    // What the test was started with may have numbers above the limit.
    let entries = fs::read_dir(format!("/proc/{}/fd", server.pid())).expect("list descriptors").flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<usize>().ok());
    let above = numbers.filter(|number| *number >= LIMIT).count();
    // All but the one that the next connection needs.
    let mut held = Vec::new();
    while before - above + held.len() + 1 < LIMIT {
        let mut client = Client::silent(s);
        assert!(matches!(client.next(), Frame::Message(_)));
        held.push(client);
    }
    assert_eq!(refused_dial(s, tcp("127.0.0.1", port), User::BOXUSER).0, FailedKind::Exhausted);
    assert_eq!(refused_dial(s, tcp("some.name", port), User::BOXUSER).0, FailedKind::Exhausted);
    assert_eq!(refused_listen(s, tcp("127.0.0.1", 0), User::BOXUSER).0, FailedKind::Exhausted);
    assert_eq!(refused_listen(s, Endpoint::AgentSocket, User::BOXUSER).0, FailedKind::Exhausted);
    // A listener that is there already outlives it.
    held.truncate(held.len() - 2);
    wait_for_descriptors(s, server.pid(), before + held.len());
    let (mut listening, _, at) = Client::listen(s, tcp("127.0.0.1", 0), User::BOXUSER);
    held.push(Client::silent(s));
    let _peer = TcpStream::connect(("127.0.0.1", at)).expect("connect");
    held.clear();
    listening.incoming();
    Client::dial(s, tcp("127.0.0.1", port), User::BOXUSER);
    drop(listener);
}

/// A listener whose queue is full, so that nobody hears of anybody who connects, and what fills it.
fn deaf_listener() -> (TcpListener, u16, Vec<TcpStream>) {
    let (listener, port) = listener();
    rustix::net::listen(&listener, 0).expect("shorten the queue");
    let held = vec![TcpStream::connect(("127.0.0.1", port)).expect("fill the queue")];
    (listener, port, held)
}

#[test]
fn who_never_answers_is_given_up() {
    let server = Server::new();
    let (_listener, port, _held) = deaf_listener();
    let given_up = refused_dial(server.socket(), tcp("127.0.0.1", port), User::BOXUSER);
    assert_eq!(given_up, (FailedKind::Other, "connection timed out".into()));
}

#[test]
fn three_hundred_sockets_at_once() {
    const MANY: usize = 300;
    let server = Server::new();
    let s = server.socket();
    let before = descriptors(s, server.pid());
    let (listener, port) = listener();
    let accepting = thread::spawn(move || {
        let peers: Vec<_> = (0..MANY).map(|_| listener.accept().expect("accept").0).collect();
        let echoing: Vec<_> = peers.into_iter().map(|peer| thread::spawn(move || echo(peer))).collect();
        echoing.into_iter().for_each(|echo| echo.join().expect("echo"));
    });
    let mut clients: Vec<_> = (0..MANY).map(|_| Client::dial(s, tcp("127.0.0.1", port), User::BOXUSER)).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.input(format!("number {number}").as_bytes());
    }
    for (number, client) in clients.iter_mut().enumerate() {
        client.input(&[]);
        assert_eq!(client.rest(), format!("number {number}").as_bytes());
        client.closes();
    }
    drop(clients);
    accepting.join().expect("all");
    wait_for_descriptors(s, server.pid(), before);
}

#[test]
fn who_leaves_leaves_nothing_behind() {
    let server = Server::new();
    let s = server.socket();
    let before = descriptors(s, server.pid());
    let (listener, port) = listener();
    let dial = |to: Endpoint| ToInit::Dial { to, user: User::BOXUSER };
    // While a name is looked up, while an address does not answer, and just after asking.
    let (_deaf, deaf, _held) = deaf_listener();
    for (name, port) in [("no-such-name.invalid", port), ("127.0.0.1", deaf), ("127.0.0.1", port), ("localhost", port)]
    {
        for _ in 0..4 {
            drop(Client::asking(s, &dial(tcp(name, port))));
        }
    }
    // With bytes on their way that nobody reads, in both directions.
    for _ in 0..4 {
        let client = Client::dial(s, tcp("127.0.0.1", port), User::BOXUSER);
        let mut peer = listener.accept().expect("accept").0;
        for stream in [&mut peer as &mut dyn NonBlocking, &mut { &client.0 }] {
            stream.fill();
        }
        drop(client);
        // What was on its way may come, and then the end.
        peer.set_nonblocking(false).expect("wait again");
        peer.set_read_timeout(Some(DEADLINE)).expect("set a deadline");
        while let Ok(1..) = peer.read(&mut [0; 65536]) {}
    }
    // After one end.
    let mut client = Client::dial(s, tcp("127.0.0.1", port), User::BOXUSER);
    client.input(&[]);
    drop(client);
    // Listening, with somebody who waits; and accepting.
    let (mut listening, _, at) = Client::listen(s, tcp("localhost", 0), User::BOXUSER);
    let _peers = [0, 1].map(|_| TcpStream::connect(("127.0.0.1", at)).expect("connect"));
    let (number, ..) = listening.incoming();
    drop(Client::asking(s, &ToInit::Accept { connection: number }));
    drop(listening);
    drop(Client::asking(s, &ToInit::Listen { at: tcp("no-such-name.invalid", 0), user: User::BOXUSER }));
    drop(Client::asking(s, &ToInit::Listen { at: Endpoint::AgentSocket, user: User::BOXUSER }));
    wait_for_descriptors(s, server.pid(), before);
    assert!(server.cgroup.leaves().is_empty(), "{:?}", server.cgroup.leaves());
}

/// A stream that can be written to until it takes no more.
trait NonBlocking {
    fn fill(&mut self);
}

impl NonBlocking for TcpStream {
    fn fill(&mut self) {
        self.set_nonblocking(true).expect("do not wait");
        while let Ok(1..) = self.write(&[7; 65536]) {}
    }
}

impl NonBlocking for &UnixStream {
    fn fill(&mut self) {
        self.set_nonblocking(true).expect("do not wait");
        let input = frame(&[7; 65536]);
        while let Ok(1..) = self.write(&input) {}
    }
}
