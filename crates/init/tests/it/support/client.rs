//! A blocking client, which can also say what no decent client would.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use boxyard_proto::wire::{
    self, Exec, Exit, FailedKind, FromInit, HEADER_LEN, Hello, Kind, Pty, PtySize, ToInit, User,
};

use super::DEADLINE;

/// One connection.
#[derive(Debug)]
pub struct Client(pub UnixStream);

/// What came back of a job that ran to its end.
#[derive(Debug)]
pub struct Outcome {
    pub out: Vec<u8>,
    pub err: Vec<u8>,
    pub exit: Exit,
}

impl Outcome {
    /// Standard output as text, without the last line's end.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).trim_end().to_owned()
    }

    /// Standard error as text.
    pub fn complaint(&self) -> String {
        String::from_utf8_lossy(&self.err).into_owned()
    }
}

/// One frame.
#[derive(Debug)]
pub enum Frame {
    Message(FromInit),
    Data(Kind, Vec<u8>),
    Closed,
}

/// A job that runs `script` in a shell as root.
pub fn shell(script: &str) -> Exec {
    command(&["/bin/sh", "-c", script])
}

/// A job that runs `argv` as root, under a name of its own.
pub fn command(argv: &[&str]) -> Exec {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let job = format!("job {}", NEXT.fetch_add(1, Ordering::Relaxed));
    Exec::new(job, argv.iter().map(|&word| word.to_owned()).collect(), "/", User::ROOT)
}

/// The same on a terminal of 80 by 24.
pub fn on_terminal(exec: Exec) -> Exec {
    let size = PtySize { columns: 80, rows: 24, width: 0, height: 0 };
    Exec { pty: Some(Pty { size, modes: Vec::new(), variable: Some("TTY_PATH".into()) }), ..exec }
}

/// Waits until the process `pid` of this machine, whoever's child it is, has ended.
pub fn wait_for_process_end(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).expect("a process id");
    // It may have ended already.
    if let Ok(pidfd) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) {
        let mut wait = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
        let patience = rustix::event::Timespec { tv_sec: 60, tv_nsec: 0 };
        let ended = rustix::event::poll(&mut wait, Some(&patience)).expect("wait for a process");
        assert_eq!(ended, 1, "process {pid:?} does not end");
    }
}

/// Whether the process `pid` of this machine runs.
pub fn is_alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

impl Client {
    /// Connects and greets.
    pub fn new(socket: &Path) -> Self {
        let mut client = Self::silent(socket);
        client.say(&ToInit::Hello(Hello::ours()));
        client
    }

    /// Connects and says nothing.
    pub fn silent(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).expect("connect");
        stream.set_read_timeout(Some(DEADLINE)).expect("set a deadline");
        stream.set_write_timeout(Some(DEADLINE)).expect("set a deadline");
        Self(stream)
    }

    /// Sends a message.
    pub fn say(&mut self, message: &ToInit) {
        self.raw(&wire::json_frame(message));
    }

    /// Sends bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).expect("send");
    }

    /// Sends standard input; none is its end.
    pub fn input(&mut self, bytes: &[u8]) {
        self.raw(&wire::header(Kind::In, bytes.len()));
        self.raw(bytes);
    }

    /// Starts a job and returns its process id.
    pub fn start(&mut self, exec: Exec) -> u32 {
        self.say(&ToInit::Exec(exec));
        self.started()
    }

    /// Waits for a job's start, or that of one attached to.
    pub fn started(&mut self) -> u32 {
        loop {
            match self.next() {
                Frame::Message(FromInit::Hello(hello)) => assert_eq!(hello.protocol, wire::PROTOCOL),
                Frame::Message(FromInit::Started { pid, .. }) => {
                    assert!(pid > 0);
                    return pid;
                }
                other => panic!("{other:?} instead of a start"),
            }
        }
    }

    /// Waits for a refusal.
    pub fn refusal(&mut self) -> (FailedKind, String) {
        loop {
            match self.next() {
                Frame::Message(FromInit::Hello(_)) => {}
                Frame::Message(FromInit::Failed { kind, message }) => return (kind, message),
                other => panic!("{other:?} instead of a refusal"),
            }
        }
    }

    /// The next frame, which must come.
    pub fn next(&mut self) -> Frame {
        let mut header = [0; HEADER_LEN];
        match self.0.read_exact(&mut header) {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Frame::Closed,
            read => read.expect("read a frame"),
        }
        let (kind, length) = wire::parse_header(header).expect("a header");
        let mut payload = vec![0; length];
        self.0.read_exact(&mut payload).expect("read a payload");
        match kind {
            Kind::Json => Frame::Message(serde_json::from_slice(&payload).expect("a message")),
            kind => Frame::Data(kind, payload),
        }
    }

    /// Reads output until `text` has appeared in it; returns all of it.
    pub fn until(&mut self, text: &str) -> String {
        let mut seen = String::new();
        while !seen.contains(text) {
            match self.next() {
                Frame::Data(_, bytes) => seen.push_str(&String::from_utf8_lossy(&bytes)),
                other => panic!("{other:?} before '{text}'; seen: {seen}"),
            }
        }
        seen
    }

    /// Sends input, 64 MB at most, until nobody has taken any more of it for a while. What is sent ends in the middle of a frame.
    pub fn stuff(&mut self) {
        self.0.set_write_timeout(Some(Duration::from_millis(300))).expect("set a deadline");
        let frame: Vec<u8> =
            wire::header(Kind::In, 0x000f_0000).into_iter().chain(std::iter::repeat_n(b'x', 0x000f_0000)).collect();
        let stuck = (0..64).any(|_| self.0.write_all(&frame).is_err());
        assert!(stuck, "somebody takes it all");
        self.0.set_write_timeout(Some(DEADLINE)).expect("set a deadline");
    }

    /// Reads to the end of the job.
    pub fn finish(&mut self) -> Outcome {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        loop {
            match self.next() {
                Frame::Data(Kind::Out, bytes) => out.extend_from_slice(&bytes),
                Frame::Data(Kind::Err, bytes) => err.extend_from_slice(&bytes),
                Frame::Message(FromInit::Exit(exit)) => {
                    assert!(matches!(self.next(), Frame::Closed), "an exit is the last message");
                    return Outcome { out, err, exit };
                }
                other => panic!("{other:?} in a job"),
            }
        }
    }
}

/// Runs a job to its end on a connection of its own.
pub fn run(socket: &Path, exec: Exec) -> Outcome {
    let mut client = Client::new(socket);
    client.start(exec);
    client.finish()
}

/// Runs a shell script as root; it must succeed. Returns its output.
pub fn ok(socket: &Path, script: &str) -> String {
    let outcome = run(socket, shell(script));
    assert_eq!(outcome.exit.code, 0, "{script}: {}{}", outcome.text(), outcome.complaint());
    outcome.text()
}

/// Asks for a job that is refused.
pub fn refused(socket: &Path, exec: Exec) -> (FailedKind, String) {
    let mut client = Client::new(socket);
    client.say(&ToInit::Exec(exec));
    client.refusal()
}
