//! Sockets in real boxes: the box's own network, names and users.

use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};

use boxyard_proto::launch::File;
use boxyard_proto::wire::{Endpoint, Exec, FailedKind, ToInit, User};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::support::boxes::TestBox;
use crate::support::client::{Client, command, ok, run, shell};
use crate::support::sockets::{
    descriptors, refused_dial, refused_listen, tcp, unix, wait_for_descriptors, wait_until_gone,
};

/// Does something in the network of the box whose PID 1 is `pid`.
fn in_network<T: Send>(pid: u32, deed: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let there = scope.spawn(|| {
            let namespace = fs::File::open(format!("/proc/{pid}/ns/net")).expect("the box's network");
            let kind = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), kind).expect("enter the box's network");
            deed()
        });
        there.join().expect("in the box's network")
    })
}

/// A box with names of its own, and its PID 1.
fn with_names() -> (TestBox, u32) {
    let mut made = TestBox::new();
    let hosts = "127.0.0.1 localhost\n::1 db.internal\n127.0.0.1 db.internal\n192.0.2.9 far.internal\n";
    let file = |path: &str, content: &str| File { path: path.into(), content: content.into(), mode: 0o644 };
    made.plan.files = vec![
        file("/etc/hosts", hosts),
        file("/etc/nsswitch.conf", "hosts: files\n"),
        file("/etc/host.conf", "multi on\n"),
    ];
    let pid = made.launch().expect("launch a box");
    (made, pid)
}

#[test]
fn sockets_are_in_the_boxs_network_and_names_are_its_own() {
    let (made, pid) = with_names();
    let s = made.socket();
    // The same port on the host is somebody else's.
    let on_host = TcpListener::bind("127.0.0.1:0").expect("listen on the host");
    let port = on_host.local_addr().expect("an address").port();
    let refused = (FailedKind::NotFound, "connection refused".to_owned());
    assert_eq!(refused_dial(s, tcp("127.0.0.1", port), User::BOXUSER), refused);
    let inside = in_network(pid, || TcpListener::bind(("127.0.0.1", port)).expect("listen in the box"));
    // The name's first address refuses; the second is tried.
    for host in ["127.0.0.1", "localhost", "db.internal", "DB.internal"] {
        let mut client = Client::asking(s, &ToInit::Dial { to: tcp(host, port), user: User::BOXUSER });
        assert_eq!(client.opened(), ("127.0.0.1".into(), port), "{host}");
        let (mut peer, _) = inside.accept().expect("accept");
        peer.write_all(b"inside").expect("write");
        assert_eq!(client.bytes(6), b"inside");
    }
    let unknown = refused_dial(s, tcp("nobody.internal", port), User::BOXUSER);
    assert_eq!(unknown, (FailedKind::NotFound, "nobody.internal: name or service not known".into()));
    let unreachable = refused_dial(s, tcp("far.internal", port), User::BOXUSER);
    assert_eq!(unreachable, (FailedKind::Other, "network is unreachable".into()));

    let (mut listening, host, at) = Client::listen(s, tcp("db.internal", 0), User::BOXUSER);
    assert_eq!(host, "::1");
    let _peer = in_network(pid, || TcpStream::connect(("::1", at)).expect("connect in the box"));
    TcpStream::connect(("::1", at)).expect_err("nobody listens on the host");
    listening.incoming();
    // Here every port is free for everybody, as far as the kernel is concerned.
    assert_eq!(refused_listen(s, tcp("localhost", 80), User::BOXUSER).0, FailedKind::NotAllowed);
    Client::listen(s, tcp("localhost", 80), User::ROOT);
}

#[test]
fn a_look_up_is_a_job_like_any_other() {
    let (made, pid) = with_names();
    let s = made.socket();
    ok(s, "rm /usr/bin/getent");
    let missing = refused_dial(s, tcp("db.internal", 1), User::BOXUSER);
    assert_eq!(missing, (FailedKind::Other, "the box has no `getent`, which looks up names".into()));

    let inside = in_network(pid, || TcpListener::bind("127.0.0.1:0").expect("listen in the box"));
    let port = inside.local_addr().expect("an address").port();
    let replace = |script: &str| {
        ok(s, &format!("cat > /usr/bin/getent <<'END'\n#!/bin/sh\n{script}\nEND\nchmod 755 /usr/bin/getent"));
    };
    // With the user's rights, the filters of jobs and nothing to read.
    replace(
        "{ id -u; id -G; grep Seccomp_filters /proc/self/status; readlink /proc/self/fd/0; echo $*; } > /tmp/seen\n\
         chmod 644 /tmp/seen; echo 127.0.0.1 STREAM",
    );
    Client::dial(s, tcp("x.internal", port), User::BOXUSER);
    let filters = ok(s, "grep Seccomp_filters /proc/self/status");
    assert_eq!(ok(s, "cat /tmp/seen"), format!("1000\n1000\n{filters}\n/dev/null\nahosts x.internal"));

    // What talks without end is heard only so far, and ended.
    let before = descriptors(s, pid);
    replace("echo 127.0.0.1 STREAM; while :; do echo rubbish; echo rubbish >&2; done");
    Client::dial(s, tcp("y.internal", port), User::BOXUSER);
    wait_for_descriptors(s, pid, before);
    // Who leaves ends it too, however deaf it is.
    replace("trap '' TERM; echo > /tmp/running; while :; do sleep 1000; done");
    let client = Client::asking(s, &ToInit::Dial { to: tcp("z.internal", port), user: User::BOXUSER });
    ok(s, "until [ -e /tmp/running ]; do :; done");
    drop(client);
    wait_for_descriptors(s, pid, before);
    made.cgroup.wait_until_empty("job-5");
    assert_eq!(ok(s, "cat /proc/[0-9]*/comm | grep -c -e getent -e sleep; true"), "0");
    assert_eq!(made.cgroup.leaves(), ["init"]);
}

#[test]
fn a_look_up_that_does_not_end_is_given_up() {
    let (made, _) = with_names();
    let s = made.socket();
    ok(s, "printf '#!/bin/sh\\nexec sleep 1000\\n' > /usr/bin/getent");
    let late = refused_dial(s, tcp("db.internal", 1), User::BOXUSER);
    assert_eq!(late, (FailedKind::Other, "looking up db.internal took too long".into()));
    made.cgroup.wait_until_empty("job-2");
}

#[test]
fn unix_sockets_in_a_box_know_its_users() {
    let made = TestBox::new();
    let pid = made.launch().expect("launch a box");
    let s = made.socket();
    let identity = fs::read_to_string(format!("/proc/{pid}/status")).expect("a status");
    // A service of root's that tells who comes, by the kernel's word.
    let service = |path: &str, mode: &str| {
        let script = format!(
            r#"$| = 1; socket(S, 1, 1, 0) or die; bind(S, pack("S a*", 1, "{path}")) or die "bind: $!"; listen(S, 5) or die;
            chmod {mode}, "{path}"; print "ready\n";
            while (accept(C, S)) {{ syswrite(C, join(" ", (unpack("L3", getsockopt(C, 1, 17)))[1, 2])); close C }}"#
        );
        let mut client = Client::new(s);
        client.start(command(&["perl", "-e", &script]));
        client.until("ready\n");
        client
    };
    ok(s, "mkdir -m 700 /root/private");
    let _private = service("/root/private/s", "0666");
    let _closed = service("/run/closed", "0600");
    let _open = service("/run/open", "0666");
    let denied = (FailedKind::NotAllowed, "permission denied".to_owned());
    assert_eq!(refused_dial(s, unix("/root/private/s"), User::BOXUSER), denied);
    assert_eq!(refused_dial(s, unix("/run/closed"), User::BOXUSER), denied);
    assert_eq!(Client::dial(s, unix("/root/private/s"), User::ROOT).rest(), b"0 0");
    assert_eq!(Client::dial(s, unix("/run/closed"), User::ROOT).rest(), b"0 0");
    assert_eq!(Client::dial(s, unix("/run/open"), User::BOXUSER).rest(), b"1000 1000");
    assert_eq!(refused_listen(s, unix("/root/private/mine"), User::BOXUSER), denied);
    assert_eq!(refused_listen(s, unix("/run/mine"), User::BOXUSER), denied);
    // PID 1 is who it was, and can do what it could.
    let who = |status: &str| {
        let lines =
            status.lines().filter(|line| ["Uid:", "Gid:", "Groups:", "Cap"].iter().any(|name| line.starts_with(name)));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(who(&fs::read_to_string(format!("/proc/{pid}/status")).expect("a status")), who(&identity));
    assert_eq!(ok(s, "id -u"), "0");
}

#[test]
fn an_agents_socket_in_a_box_is_private() {
    let made = TestBox::new();
    let pid = made.launch().expect("launch a box");
    let s = made.socket();
    let before = descriptors(s, pid);
    let (mut listening, path, _) = Client::listen(s, Endpoint::AgentSocket, User::BOXUSER);
    let (folder, _) = path.rsplit_once('/').expect("a folder");
    assert_eq!(ok(s, &format!("stat -c '%u:%g %a' {folder} {path}")), "1000:1000 700\n1000:1000 600");
    let stranger = Exec { user: User { uid: 1001, gid: 1001 }, ..shell(&format!("ls {folder}")) };
    assert_ne!(run(s, stranger).exit.code, 0);
    let denied = (FailedKind::NotAllowed, "permission denied".to_owned());
    assert_eq!(refused_dial(s, unix(&path), User { uid: 1001, gid: 1001 }), denied);
    // Its user reaches whoever listens: here we are both.
    let mut from = Client::dial(s, unix(&path), User::BOXUSER);
    let (number, ..) = listening.incoming();
    let mut to = Client::accept(s, number);
    from.input(b"sign this");
    assert_eq!(to.bytes(9), b"sign this");
    to.input(&[]);
    assert!(from.rest().is_empty());
    drop((from, to));
    let on_disk = made.plan.upper.join(folder.trim_start_matches('/'));
    assert!(on_disk.exists());
    drop(listening);
    wait_until_gone(s, &on_disk);
    wait_for_descriptors(s, pid, before);

    // Room in the kernel's books for all that may be open at once.
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("its limits");
    let files = limits.lines().find(|line| line.starts_with("Max open files")).expect("a limit");
    assert!(files.split_whitespace().nth(3).and_then(|word| word.parse::<u32>().ok()) >= Some(16_384), "{files}");
}
