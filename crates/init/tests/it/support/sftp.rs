//! An SFTP client that says exactly what a test wants, to a server on any two ends.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use boxyard_proto::wire::{Builtin, Exec, Kind, User};

use super::PROGRAM;
use super::client::{Client, Frame, Outcome, command};

/// Numbers of requests that tests send.
pub const OPEN: u8 = 3;
pub const CLOSE: u8 = 4;
pub const READ: u8 = 5;
pub const WRITE: u8 = 6;
pub const SETSTAT: u8 = 9;
pub const OPENDIR: u8 = 11;
pub const READDIR: u8 = 12;
pub const REMOVE: u8 = 13;
pub const MKDIR: u8 = 14;
pub const REALPATH: u8 = 16;
pub const STAT: u8 = 17;
pub const RENAME: u8 = 18;
pub const READLINK: u8 = 19;
pub const SYMLINK: u8 = 20;
pub const EXTENDED: u8 = 200;

/// Numbers of answers.
pub const STATUS: u8 = 101;
pub const HANDLE: u8 = 102;
pub const DATA: u8 = 103;
pub const NAME: u8 = 104;
pub const EXTENDED_REPLY: u8 = 201;

/// How `open` shall open.
pub const FOR_READING: u32 = 1;
pub const FOR_WRITING: u32 = 2;
pub const APPENDING: u32 = 4;
pub const MAKING: u32 = 8;
pub const EMPTYING: u32 = 16;
pub const NEW: u32 = 32;

/// Statuses.
pub const OK: u32 = 0;
pub const EOF: u32 = 1;
pub const NO_SUCH_FILE: u32 = 2;
pub const DENIED: u32 = 3;
pub const FAILURE: u32 = 4;
pub const BAD_MESSAGE: u32 = 5;
pub const UNSUPPORTED: u32 = 8;

/// Where the server's two pipes are.
#[derive(Debug)]
pub enum Ends {
    /// A process of ours.
    Process(Child, ChildStdin, ChildStdout),
    /// A job in a box; bytes of it that have come and were not wanted yet.
    Job(Client, VecDeque<u8>),
}

/// A session.
#[derive(Debug)]
pub struct Sftp {
    ends: Ends,
    next: u32,
}

/// A request under construction.
#[derive(Debug, Default)]
pub struct Fields(Vec<u8>);

impl Fields {
    pub fn text(mut self, text: impl AsRef<[u8]>) -> Self {
        let text = text.as_ref();
        self.0.extend_from_slice(&u32::try_from(text.len()).expect("a short text").to_be_bytes());
        self.0.extend_from_slice(text);
        self
    }

    pub fn word(mut self, word: u32) -> Self {
        self.0.extend_from_slice(&word.to_be_bytes());
        self
    }

    pub fn long(mut self, long: u64) -> Self {
        self.0.extend_from_slice(&long.to_be_bytes());
        self
    }
}

/// One text.
pub fn text(text: impl AsRef<[u8]>) -> Fields {
    Fields::default().text(text)
}

/// One answer.
#[derive(Debug)]
pub struct Answer {
    pub kind: u8,
    content: Vec<u8>,
}

impl Answer {
    pub fn word(&mut self) -> u32 {
        u32::from_be_bytes(self.content.drain(..4).collect::<Vec<_>>().try_into().expect("four bytes"))
    }

    pub fn long(&mut self) -> u64 {
        (u64::from(self.word()) << 32) | u64::from(self.word())
    }

    pub fn text(&mut self) -> Vec<u8> {
        let length = self.word() as usize;
        self.content.drain(..length).collect()
    }

    /// The code of a status.
    pub fn status(&mut self) -> u32 {
        assert_eq!(self.kind, STATUS, "{self:?}");
        self.word()
    }
}

impl Sftp {
    /// A session with a server on this host.
    pub fn on_host() -> Self {
        Self::by(Command::new(PROGRAM).arg("sftp"))
    }

    /// A session with the server that this command becomes.
    pub fn by(command: &mut Command) -> Self {
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("start the server");
        let (input, output) = (process.stdin.take().expect("its input"), process.stdout.take().expect("its output"));
        Self::greeted(Ends::Process(process, input, output))
    }

    /// A session in a box; also tells the id of its process there.
    pub fn in_box(socket: &Path, folder: &str, user: User) -> (Self, u32) {
        let mut client = Client::new(socket);
        let pid = client.start(order(folder, user));
        (Self::greeted(Ends::Job(client, VecDeque::new())), pid)
    }

    fn greeted(ends: Ends) -> Self {
        let mut session = Self { ends, next: 100 };
        session.raw(&[0, 0, 0, 5, 1, 0, 0, 0, 3]);
        let mut hello = session.hear();
        assert_eq!((hello.kind, hello.word()), (2, 3));
        session
    }

    /// Sends bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) {
        match &mut self.ends {
            Ends::Process(_, input, _) => input.write_all(bytes).expect("send"),
            Ends::Job(client, _) => client.input(bytes),
        }
    }

    /// The next `N` bytes, which must come.
    fn bytes(&mut self, count: usize) -> Vec<u8> {
        match &mut self.ends {
            Ends::Process(_, _, output) => {
                let mut bytes = vec![0; count];
                output.read_exact(&mut bytes).expect("an answer");
                bytes
            }
            Ends::Job(client, come) => {
                while come.len() < count {
                    match client.next() {
                        Frame::Data(Kind::Out, bytes) => come.extend(bytes),
                        other => panic!("{other:?} instead of an answer"),
                    }
                }
                come.drain(..count).collect()
            }
        }
    }

    /// Sends a request without waiting for its answer.
    pub fn say(&mut self, kind: u8, fields: Fields) {
        self.next += 1;
        let content = [&[kind][..], &self.next.to_be_bytes(), &fields.0].concat();
        let length = u32::try_from(content.len()).expect("a short packet");
        self.raw(&[&length.to_be_bytes()[..], &content].concat());
    }

    /// The next packet, its id (of a greeting: its version) included.
    fn hear(&mut self) -> Answer {
        let length = self.bytes(4);
        let length = u32::from_be_bytes(length.try_into().expect("four bytes")) as usize;
        let mut content = self.bytes(length);
        Answer { kind: content.remove(0), content }
    }

    /// The next answer, which must be to the request that was sent `before` the last one.
    pub fn answer(&mut self, before: u32) -> Answer {
        let mut answer = self.hear();
        assert_eq!(answer.word(), self.next - before, "answers come in the order of the requests");
        answer
    }

    /// Sends a request and waits for its answer.
    pub fn ask(&mut self, kind: u8, fields: Fields) -> Answer {
        self.say(kind, fields);
        self.answer(0)
    }

    /// Opens a file and returns its handle, or the status.
    pub fn open(&mut self, path: impl AsRef<[u8]>, how: u32) -> Result<Vec<u8>, u32> {
        let mut answer = self.ask(OPEN, text(path).word(how).word(0));
        if answer.kind == HANDLE { Ok(answer.text()) } else { Err(answer.status()) }
    }

    /// Reads up to `length` bytes, or the status.
    pub fn read(&mut self, handle: &[u8], offset: u64, length: u32) -> Result<Vec<u8>, u32> {
        let mut answer = self.ask(READ, text(handle).long(offset).word(length));
        if answer.kind == DATA { Ok(answer.text()) } else { Err(answer.status()) }
    }

    /// Writes; returns the status.
    pub fn write(&mut self, handle: &[u8], offset: u64, data: &[u8]) -> u32 {
        self.ask(WRITE, text(handle).long(offset).text(data)).status()
    }

    /// The only name in the answer to a request, or the status.
    pub fn name(&mut self, kind: u8, fields: Fields) -> Result<Vec<u8>, u32> {
        let mut answer = self.ask(kind, fields);
        if answer.kind != NAME {
            return Err(answer.status());
        }
        assert_eq!(answer.word(), 1);
        Ok(answer.text())
    }

    /// All names in a folder and their lines.
    pub fn list(&mut self, path: impl AsRef<[u8]>) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut opened = self.ask(OPENDIR, text(path));
        assert_eq!(opened.kind, HANDLE, "{opened:?}");
        let handle = opened.text();
        let mut all = Vec::new();
        loop {
            let mut answer = self.ask(READDIR, text(&handle));
            if answer.kind == STATUS {
                assert_eq!(answer.status(), EOF);
                assert_eq!(self.ask(CLOSE, text(&handle)).status(), OK);
                return all;
            }
            for _ in 0..answer.word() {
                let named = (answer.text(), answer.text());
                assert_eq!(answer.word(), 15, "all attributes are told");
                // Size, owner, permissions, times.
                for _ in 0..7 {
                    answer.word();
                }
                all.push(named);
            }
        }
    }

    /// Ends the input and waits for the process; returns its exit code, and what it said on standard error where that can be told.
    pub fn finish(self) -> (i32, String) {
        match self.ends {
            Ends::Process(mut process, input, mut output) => {
                drop(input);
                let mut rest = Vec::new();
                output.read_to_end(&mut rest).expect("read to the end");
                assert!(rest.is_empty(), "nothing comes unasked: {rest:?}");
                (process.wait().expect("wait").code().expect("an exit code"), String::new())
            }
            Ends::Job(mut client, come) => {
                assert!(come.is_empty(), "nothing comes unasked: {come:?}");
                client.input(&[]);
                let Outcome { out, err, exit } = client.finish();
                assert!(out.is_empty(), "nothing comes unasked: {out:?}");
                (exit.code, String::from_utf8_lossy(&err).into_owned())
            }
        }
    }
}

/// The order for a session as a job.
pub fn order(folder: &str, user: User) -> Exec {
    Exec { builtin: Some(Builtin::Sftp), folder: folder.into(), user, stdin: true, ..command(&["sftp"]) }
}
