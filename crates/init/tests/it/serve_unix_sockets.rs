//! Unix sockets dialled and listened on, on the host: whose they are, and what becomes of their files.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread;

use boxyard_proto::wire::{Endpoint, FailedKind, ToInit, User};

use crate::support::client::{Client, Frame, ok};
use crate::support::server::Server;
use crate::support::sockets::{
    Both, Place, descriptors, echo, frame, pattern, refused_dial, refused_listen, unix, wait_for_descriptors,
    wait_until_gone,
};

#[test]
fn a_unix_sockets_directions_end_by_themselves_too() {
    let server = Server::new();
    let place = Place::new();
    let listener = UnixListener::bind(place.path("s")).expect("listen");
    let mut client = Client::dial(server.socket(), unix(place.path("s")), User::ROOT);
    let (mut peer, _) = listener.accept().expect("accept");
    peer.write_all(b"all").expect("write");
    peer.say_end();
    assert_eq!(client.rest(), b"all");
    client.input(b"more");
    client.input(&[]);
    let mut seen = Vec::new();
    peer.read_to_end(&mut seen).expect("read");
    assert_eq!(seen, b"more");
    client.closes();

    // Who answers before having heard all and goes is heard to the end.
    let mut client = Client::dial(server.socket(), unix(place.path("s")), User::ROOT);
    let (mut peer, _) = listener.accept().expect("accept");
    let mut writer = Client(client.0.try_clone().expect("clone"));
    let answer = pattern(150_000);
    thread::scope(|scope| {
        scope.spawn(move || while writer.0.write_all(&frame(&[7; 60_000])).is_ok() {});
        peer.read_exact(&mut [0; 10_000]).expect("read a little");
        peer.write_all(&answer).expect("write");
        drop(peer);
        let mut seen = Vec::new();
        while let Frame::Data(_, bytes) = client.next() {
            seen.extend_from_slice(&bytes);
        }
        assert!(seen == answer, "{} bytes of {}", seen.len(), answer.len());
        client.0.shutdown(Shutdown::Both).expect("shut down");
    });
}

#[test]
fn unix_sockets_are_opened_with_the_rights_of_their_user() {
    let server = Server::new();
    let s = server.socket();
    let place = Place::new();
    let listener = UnixListener::bind(place.path("s")).expect("listen");
    fs::set_permissions(place.path("s"), fs::Permissions::from_mode(0o600)).expect("close it");
    let denied = (FailedKind::NotAllowed, "permission denied".to_owned());
    assert_eq!(refused_dial(s, unix(place.path("s")), User::BOXUSER), denied);
    let _root = Client::dial(s, unix(place.path("s")), User::ROOT);
    let (peer, _) = listener.accept().expect("accept");
    assert_eq!(rustix::net::sockopt::socket_peercred(&peer).expect("a peer").uid.as_raw(), 0);

    fs::set_permissions(place.path("s"), fs::Permissions::from_mode(0o777)).expect("open it");
    let mut user = Client::dial(s, unix(place.path("s")), User::BOXUSER);
    let (peer, _) = listener.accept().expect("accept");
    let known = rustix::net::sockopt::socket_peercred(&peer).expect("a peer");
    assert_eq!((known.uid.as_raw(), known.gid.as_raw()), (1000, 1000), "who trusts the kernel's word is not deceived");
    // Nor is who asks for each message.
    rustix::net::sockopt::set_socket_passcred(&peer, true).expect("ask who writes");
    user.input(b"me");
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
    let mut control = rustix::net::RecvAncillaryBuffer::new(&mut space);
    let mut buffer = [0; 2];
    rustix::net::recvmsg(
        &peer,
        &mut [std::io::IoSliceMut::new(&mut buffer)],
        &mut control,
        rustix::net::RecvFlags::empty(),
    )
    .expect("read");
    let who = control.drain().find_map(|message| match message {
        rustix::net::RecvAncillaryMessage::ScmCredentials(who) => Some((who.uid.as_raw(), who.gid.as_raw())),
        _ => None,
    });
    assert_eq!((&buffer, who), (b"me", Some((1000, 1000))));

    fs::create_dir(place.path("closed")).expect("make a folder");
    fs::set_permissions(place.path("closed"), fs::Permissions::from_mode(0o700)).expect("close it");
    let _hidden = UnixListener::bind(place.path("closed/s")).expect("listen");
    fs::set_permissions(place.path("closed/s"), fs::Permissions::from_mode(0o777)).expect("open it");
    assert_eq!(refused_dial(s, unix(place.path("closed/s")), User::BOXUSER), denied);
    assert_eq!(refused_listen(s, unix(place.path("closed/mine")), User::BOXUSER), denied);
    Client::dial(s, unix(place.path("closed/s")), User::ROOT);
    // Jobs still start as anybody.
    assert_eq!(ok(s, "id -u; grep CapEff /proc/self/status | grep -c -v 0000000000000000"), "0\n1");
}

#[test]
fn a_full_queue_is_waited_for() {
    let server = Server::new();
    let s = server.socket();
    let place = Place::new();
    let listener = UnixListener::bind(place.path("s")).expect("listen");
    rustix::net::listen(&listener, 0).expect("shorten the queue");
    let held = UnixStream::connect(place.path("s")).expect("fill the queue");
    let mut waiting = Client::asking(s, &ToInit::Dial { to: unix(place.path("s")), user: User::ROOT });
    // One who does not wait that long leaves nothing behind.
    let before = descriptors(s, server.pid());
    drop(Client::asking(s, &ToInit::Dial { to: unix(place.path("s")), user: User::ROOT }));
    wait_for_descriptors(s, server.pid(), before);
    listener.accept().expect("make room");
    drop(held);
    waiting.opened();
    let (mut peer, _) = listener.accept().expect("accept");
    peer.write_all(b"in").expect("write");
    assert_eq!(waiting.bytes(2), b"in");
}

#[test]
fn a_listening_unix_socket_is_its_users_and_goes_with_its_listener() {
    let server = Server::new();
    let s = server.socket();
    let place = Place::new();
    let path = place.path("mine");
    let before = descriptors(s, server.pid());
    let (mut listening, host, port) = Client::listen(s, unix(&path), User::BOXUSER);
    assert_eq!((host.as_str(), port), (path.to_str().expect("text"), 0));
    let made = fs::symlink_metadata(&path).expect("a socket");
    assert!(made.file_type().is_socket());
    assert_eq!((made.uid(), made.gid(), made.mode() & 0o7777), (1000, 1000, 0o600));
    let peer = UnixStream::connect(&path).expect("connect");
    assert_eq!(rustix::net::sockopt::socket_peercred(&peer).expect("a peer").uid.as_raw(), 1000);
    let (number, from, _) = listening.incoming();
    assert_eq!(from, "");
    let mut accepted = Client::accept(s, number);
    let echoing = thread::spawn(move || echo(peer));
    accepted.input(b"over Unix");
    accepted.input(&[]);
    assert_eq!(accepted.rest(), b"over Unix");
    echoing.join().expect("echo");
    let used = (FailedKind::Other, "address already in use".to_owned());
    assert_eq!(refused_listen(s, unix(&path), User::BOXUSER), used);
    drop((listening, accepted));
    wait_until_gone(s, &path);

    // A link that leads nowhere is something too, and so is what came in the socket's place.
    symlink(place.path("elsewhere"), &path).expect("plant a link");
    assert_eq!(refused_listen(s, unix(&path), User::BOXUSER), used);
    assert!(!place.path("elsewhere").exists());
    fs::remove_file(&path).expect("take it away");
    let (listening, ..) = Client::listen(s, unix(&path), User::BOXUSER);
    fs::remove_file(&path).expect("take the socket away");
    fs::write(&path, "precious").expect("put something there");
    drop(listening);
    wait_for_descriptors(s, server.pid(), before);
    assert_eq!(fs::read_to_string(&path).expect("it is there"), "precious");

    // The folder's name may lead elsewhere by now.
    fs::create_dir(place.path("folder")).expect("make a folder");
    std::os::unix::fs::chown(place.path("folder"), Some(1000), Some(1000)).expect("give it away");
    let (listening, ..) = Client::listen(s, unix(place.path("folder/s")), User::BOXUSER);
    fs::rename(place.path("folder"), place.path("moved")).expect("move it");
    fs::create_dir(place.path("folder")).expect("make another");
    fs::write(place.path("folder/s"), "precious").expect("put something there");
    drop(listening);
    wait_for_descriptors(s, server.pid(), before);
    assert!(place.path("folder/s").exists() && !place.path("moved/s").exists());
}

#[test]
fn an_agents_socket_has_a_folder_of_its_own() {
    let server = Server::new();
    let s = server.socket();
    let before = descriptors(s, server.pid());
    let (mut listening, path, port) = Client::listen(s, Endpoint::AgentSocket, User::BOXUSER);
    let path = PathBuf::from(path);
    let folder = path.parent().expect("a folder").to_owned();
    let name = folder.to_str().expect("text").strip_prefix("/tmp/ssh-").expect("as OpenSSH calls it");
    assert!(name.len() == 10 && port == 0, "{}", folder.display());
    let made = fs::symlink_metadata(&folder).expect("a folder");
    assert!(made.is_dir());
    assert_eq!((made.uid(), made.gid(), made.mode() & 0o7777), (1000, 1000, 0o700));
    let socket = fs::symlink_metadata(&path).expect("a socket");
    assert_eq!((socket.uid(), socket.mode() & 0o7777, socket.file_type().is_socket()), (1000, 0o600, true));
    let (other, other_path, _) = Client::listen(s, Endpoint::AgentSocket, User::BOXUSER);
    assert_ne!(PathBuf::from(&other_path).parent(), path.parent());
    let _peer = UnixStream::connect(&path).expect("connect");
    listening.incoming();
    drop((listening, other));
    wait_until_gone(s, &folder);
    wait_until_gone(s, PathBuf::from(other_path).parent().expect("a folder"));
    wait_for_descriptors(s, server.pid(), before);

    // Somebody exchanges it: what is there instead is not touched, and the socket is found where it is.
    let (listening, path, _) = Client::listen(s, Endpoint::AgentSocket, User::BOXUSER);
    let folder = PathBuf::from(&path).parent().expect("a folder").to_owned();
    let place = Place::new();
    fs::rename(&folder, place.path("moved")).expect("move it");
    fs::create_dir(place.path("victim")).expect("make a folder");
    fs::write(place.path("victim").join(PathBuf::from(&path).file_name().expect("a name")), "precious")
        .expect("a file");
    symlink(place.path("victim"), &folder).expect("plant a link");
    drop(listening);
    wait_for_descriptors(s, server.pid(), before);
    assert!(fs::symlink_metadata(&folder).expect("the link").is_symlink());
    assert_eq!(fs::read_dir(place.path("victim")).expect("list").count(), 1);
    assert_eq!(fs::read_dir(place.path("moved")).expect("list").count(), 0);
    fs::remove_file(&folder).expect("take the link away");
}
