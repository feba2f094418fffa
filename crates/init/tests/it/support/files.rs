//! A client of the work on files, as the engine is one.

use std::path::Path;

use boxyard_proto::files::{Answer, Ask, Failure};
use boxyard_proto::wire::{Builtin, Exec, HEADER_LEN, Kind, User, header, json_frame, parse_header};

use super::client::{Client, Frame, Outcome, command};

/// A session over a connection.
#[derive(Debug)]
pub struct Files {
    client: Client,
    /// What has come and was not wanted yet.
    come: Vec<u8>,
    /// The process's id in the box.
    pub pid: u32,
}

/// The order for a session as a job.
pub fn order(user: User) -> Exec {
    Exec { builtin: Some(Builtin::Files), user, stdin: true, ..command(&["files"]) }
}

impl Files {
    /// A session in a box.
    pub fn in_box(socket: &Path, user: User) -> Self {
        let mut client = Client::new(socket);
        let pid = client.start(order(user));
        Self { client, come: Vec::new(), pid }
    }

    /// Sends bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(900_000) {
            self.client.input(piece);
        }
    }

    /// Sends a request without waiting for its answer.
    pub fn say(&mut self, ask: &Ask) {
        self.raw(&json_frame(ask));
    }

    /// Sends a piece of content; none is its end.
    pub fn content(&mut self, bytes: &[u8]) {
        self.raw(&[&header(Kind::In, bytes.len())[..], bytes].concat());
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        while self.come.len() < count {
            match self.client.next() {
                Frame::Data(Kind::Out, bytes) => self.come.extend(bytes),
                other => panic!("{other:?} instead of an answer"),
            }
        }
        self.come.drain(..count).collect()
    }

    /// The next answer, and the content that came before it.
    pub fn hear(&mut self) -> (Answer, Vec<u8>) {
        let mut content = Vec::new();
        loop {
            let head = self.bytes(HEADER_LEN).try_into().expect("five bytes");
            let (kind, length) = parse_header(head).expect("a frame");
            let payload = self.bytes(length);
            match kind {
                Kind::Json => return (serde_json::from_slice(&payload).expect("an answer"), content),
                Kind::Out => content.extend(payload),
                other => panic!("a frame of kind {other:?}"),
            }
        }
    }

    /// Sends a request; returns what came before its end, the content, and how it failed if it did.
    pub fn ask(&mut self, ask: &Ask) -> (Vec<Answer>, Vec<u8>, Option<Failure>) {
        self.say(ask);
        self.end()
    }

    /// The rest of the answers to a request.
    pub fn end(&mut self) -> (Vec<Answer>, Vec<u8>, Option<Failure>) {
        let (mut answers, mut all) = (Vec::new(), Vec::new());
        loop {
            let (answer, content) = self.hear();
            all.extend(content);
            match answer {
                Answer::Done { truncated: false } => return (answers, all, None),
                Answer::Failed { kind, .. } => return (answers, all, Some(kind)),
                other => answers.push(other),
            }
        }
    }

    /// Writes a file; tells how that failed if it did.
    pub fn write(&mut self, path: &str, content: &[u8]) -> Option<Failure> {
        self.say(&Ask::Write { path: path.into(), mode: None });
        self.content(content);
        if !content.is_empty() {
            self.content(b"");
        }
        self.end().2
    }

    /// Reads a file.
    pub fn read(&mut self, path: &str) -> Result<Vec<u8>, Failure> {
        let (_, content, failed) = self.ask(&Ask::Read { path: path.into(), offset: 0, length: None });
        failed.map_or(Ok(content), Err)
    }

    /// Ends the input and waits for the process; returns its exit code and what it said on standard error.
    pub fn finish(mut self) -> (i32, String) {
        assert!(self.come.is_empty(), "nothing comes unasked: {:?}", self.come);
        self.client.input(&[]);
        let Outcome { out, err, exit } = self.client.finish();
        assert!(out.is_empty(), "nothing comes unasked: {out:?}");
        (exit.code, String::from_utf8_lossy(&err).into_owned())
    }
}
