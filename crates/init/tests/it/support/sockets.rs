//! Sockets in a box, from the engine's side and from the box's.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use boxyard_proto::wire::{self, Endpoint, FailedKind, FromInit, Kind, ToInit, User};

use super::client::{Client, Frame, ok};

/// An endpoint of TCP.
pub fn tcp(host: &str, port: u16) -> Endpoint {
    Endpoint::Tcp { host: host.to_owned(), port }
}

/// A Unix socket.
pub fn unix(path: impl AsRef<Path>) -> Endpoint {
    Endpoint::Unix { path: path.as_ref().to_str().expect("a path of text").to_owned() }
}

impl Client {
    /// Asks for a socket on a connection of its own, and does not wait for the answer.
    pub fn asking(socket: &Path, first: &ToInit) -> Self {
        let mut client = Self::new(socket);
        client.say(first);
        client
    }

    /// Dials as `user`; it must work.
    pub fn dial(socket: &Path, to: Endpoint, user: User) -> Self {
        let mut client = Self::asking(socket, &ToInit::Dial { to, user });
        client.opened();
        client
    }

    /// Listens as `user`; it must work. Returns where.
    pub fn listen(socket: &Path, at: Endpoint, user: User) -> (Self, String, u16) {
        let mut client = Self::asking(socket, &ToInit::Listen { at, user });
        let (host, port) = client.opened();
        (client, host, port)
    }

    /// Accepts a connection that was announced; it must work.
    pub fn accept(socket: &Path, connection: u64) -> Self {
        let mut client = Self::asking(socket, &ToInit::Accept { connection });
        client.opened();
        client
    }

    /// Waits for a socket to be open. Returns where.
    pub fn opened(&mut self) -> (String, u16) {
        loop {
            match self.next() {
                Frame::Message(FromInit::Hello(_)) => {}
                Frame::Message(FromInit::Opened { host, port }) => return (host, port),
                other => panic!("{other:?} instead of a socket"),
            }
        }
    }

    /// Waits for somebody to connect. Returns the connection's number and where it comes from.
    pub fn incoming(&mut self) -> (u64, String, u16) {
        match self.next() {
            Frame::Message(FromInit::Incoming { connection, host, port }) => (connection, host, port),
            other => panic!("{other:?} instead of a connection"),
        }
    }

    /// Reads exactly `length` bytes of the socket.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < length {
            match self.next() {
                Frame::Data(Kind::Out, piece) => bytes.extend_from_slice(&piece),
                other => panic!("{other:?} instead of bytes"),
            }
        }
        assert_eq!(bytes.len(), length);
        bytes
    }

    /// Reads the socket to its end, which must be said.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        loop {
            match self.next() {
                Frame::Data(Kind::Out, piece) => bytes.extend_from_slice(&piece),
                Frame::Message(FromInit::OutEnd) => return bytes,
                other => panic!("{other:?} instead of bytes"),
            }
        }
    }

    /// The connection must close now.
    pub fn closes(&mut self) {
        match self.next() {
            Frame::Closed => {}
            other => panic!("{other:?} instead of the end"),
        }
    }
}

/// Asks for a socket and is refused.
pub fn refusal(socket: &Path, first: &ToInit) -> (FailedKind, String) {
    let mut client = Client::asking(socket, first);
    let refusal = client.refusal();
    client.closes();
    refusal
}

/// Dials and is refused.
pub fn refused_dial(socket: &Path, to: Endpoint, user: User) -> (FailedKind, String) {
    refusal(socket, &ToInit::Dial { to, user })
}

/// Listens and is refused.
pub fn refused_listen(socket: &Path, at: Endpoint, user: User) -> (FailedKind, String) {
    refusal(socket, &ToInit::Listen { at, user })
}

/// Input as a frame.
pub fn frame(bytes: &[u8]) -> Vec<u8> {
    [wire::header(Kind::In, bytes.len()).as_slice(), bytes].concat()
}

/// A folder that everybody may enter, with a path that is short enough for a socket's.
#[derive(Debug)]
pub struct Place(PathBuf);

impl Place {
    /// Makes one.
    pub fn new() -> Self {
        let path = PathBuf::from(format!("/tmp/boxyard-test-{}-{}", std::process::id(), super::unique()));
        fs::create_dir(&path).expect("make a folder");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).expect("open it");
        Self(path)
    }

    /// The path of something in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// How many descriptors the server at `socket`, process `pid`, has open when it has dealt with everything that has happened so far.
pub fn descriptors(socket: &Path, pid: u32) -> usize {
    // Its greeting comes after whatever the server had to do before.
    let mut probe = Client::silent(socket);
    assert!(matches!(probe.next(), Frame::Message(FromInit::Hello(_))));
    fs::read_dir(format!("/proc/{pid}/fd")).expect("list descriptors").count() - 1
}

/// Waits until the server at `socket`, process `pid`, has `expected` descriptors open.
pub fn wait_for_descriptors(socket: &Path, pid: u32, expected: usize) {
    wait_until(socket, || {
        let open = descriptors(socket, pid);
        (open == expected).then_some(()).ok_or_else(|| format!("{open} descriptors instead of {expected}"))
    });
}

/// Waits until the server at `socket` has brought something about. Each round is a whole job, so that the server has its turns.
pub fn wait_until(socket: &Path, mut done: impl FnMut() -> Result<(), String>) {
    let deadline = std::time::Instant::now() + super::DEADLINE;
    while let Err(missing) = done() {
        assert!(std::time::Instant::now() < deadline, "{missing}");
        ok(socket, "true");
    }
}

/// Waits until there is nothing at `path`.
pub fn wait_until_gone(socket: &Path, path: &Path) {
    wait_until(socket, || match fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        found => Err(format!("{}: {found:?}", path.display())),
    });
}

/// A byte stream with a beginning, an end and no repetition that a lost piece could hide in.
pub fn pattern(length: usize) -> Vec<u8> {
    (0..length as u64).map(|n| (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect()
}

/// Sends back what comes, and an end for an end.
pub fn echo<S: Read + Write + Both>(mut stream: S) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..read]).is_err() {
            return;
        }
    }
    stream.say_end();
}

/// A socket that can be closed in one direction.
pub trait Both: AsFd {
    /// Says that nothing more will be written.
    fn say_end(&self) {
        let _ = rustix::net::shutdown(self, rustix::net::Shutdown::Write);
    }
}

impl Both for TcpStream {}
impl Both for UnixStream {}
