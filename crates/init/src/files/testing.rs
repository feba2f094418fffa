//! What tests of this module stand on: two roots in a fresh folder, something outside of them, and requests.

use std::path::{Path, PathBuf};

use boxyard_proto::files::{Answer, Ask, Entry, Failure, PathText, Stat};
use boxyard_proto::wire::{HEADER_LEN, Kind, header, json_frame, parse_header};

use super::channel::Channel;
use super::jail::Jail;
use super::session::Session;

/// A fresh folder with the roots `work/home` and `home/user`, and `outside` with a `secret` in it.
#[derive(Debug)]
pub struct World {
    folder: tempfile::TempDir,
}

/// What was told in answer to one request.
#[derive(Debug, Default)]
pub struct Told {
    pub answers: Vec<Answer>,
    pub content: Vec<u8>,
}

impl World {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        for place in ["work/home", "home/user", "outside"] {
            std::fs::create_dir_all(folder.path().join(place)).expect("make it");
        }
        std::fs::write(folder.path().join("outside/secret"), "secret").expect("write");
        Self { folder }
    }

    /// A place on disk; `w/…` is in the first root, `h/…` in the second, everything else below the folder.
    pub fn place(&self, path: &str) -> PathBuf {
        let at = |path: &str| self.folder.path().join(path);
        match path.split_once('/') {
            Some(("w", rest)) => at("work/home").join(rest),
            Some(("h", rest)) => at("home/user").join(rest),
            _ => at(path),
        }
    }

    /// The same as a request says it.
    pub fn path(&self, path: &str) -> PathText {
        PathText::from(self.text(path).as_str())
    }

    pub fn text(&self, path: &str) -> String {
        // Not joined by `Path`, which would tidy it up.
        let base = self.folder.path().to_str().expect("text");
        match path.split_once('/') {
            Some(("w", rest)) => format!("{base}/work/home/{rest}"),
            Some(("h", rest)) => format!("{base}/home/user/{rest}"),
            _ => format!("{base}/{path}"),
        }
    }

    pub fn make_file(&self, path: &str, content: impl AsRef<[u8]>) {
        let place = self.place(path);
        std::fs::create_dir_all(place.parent().expect("a folder above")).expect("make folders");
        std::fs::write(place, content).expect("write");
    }

    pub fn make_folder(&self, path: &str) {
        std::fs::create_dir_all(self.place(path)).expect("make folders");
    }

    pub fn make_link(&self, target: impl AsRef<Path>, path: &str) {
        std::os::unix::fs::symlink(target, self.place(path)).expect("link");
    }

    pub fn content(&self, path: &str) -> String {
        String::from_utf8_lossy(&std::fs::read(self.place(path)).expect("read")).into_owned()
    }

    /// The names in a folder.
    pub fn names(&self, path: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.place(path)).expect("list").map(|entry| entry.expect("entry").file_name());
        let mut names: Vec<_> = entries.map(|name| name.to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    pub fn jail(&self) -> Jail {
        Jail::new([self.text("w/"), self.text("h/")])
    }

    /// Everything that is answered to these bytes.
    pub fn bytes(&self, bytes: &[u8]) -> (Vec<u8>, std::io::Result<()>) {
        let (mut input, mut output) = (bytes, Vec::new());
        let mut channel = Channel::new(&mut input, &mut output);
        let ended = Session::new(self.jail()).run(&mut channel);
        (output, ended)
    }

    /// What is told in answer to each of these requests, in frames.
    pub fn all(&self, frames: &[u8]) -> Vec<Told> {
        let (output, ended) = self.bytes(frames);
        ended.expect("the requests are understood");
        told(&output)
    }

    /// What is told in answer to one request.
    pub fn ask(&self, ask: &Ask) -> Told {
        self.with(ask, b"")
    }

    /// The same of one with content.
    pub fn with(&self, ask: &Ask, content: &[u8]) -> Told {
        let mut all =
            self.all(&[json_frame(ask), if takes_content(ask) { framed(content) } else { Vec::new() }].concat());
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }

    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) -> Told {
        self.with(&Ask::Write { path: self.path(path), mode: None }, content.as_ref())
    }

    pub fn read(&self, path: &str) -> Told {
        self.ask(&Ask::Read { path: self.path(path), offset: 0, length: None })
    }

    pub fn remove(&self, path: &str, recursive: bool) -> Told {
        self.ask(&Ask::Remove { path: self.path(path), recursive })
    }

    pub fn rename(&self, from: &str, to: &str) -> Told {
        self.ask(&Ask::Rename { from: self.path(from), to: self.path(to) })
    }

    pub fn list(&self, path: &str) -> Told {
        self.ask(&Ask::List { path: self.path(path), after: None, limit: None })
    }

    pub fn stat(&self, path: &str, follow: bool) -> Told {
        self.ask(&Ask::Stat { path: self.path(path), follow })
    }

    pub fn mkdir(&self, path: &str, parents: bool) -> Told {
        self.ask(&Ask::Mkdir { path: self.path(path), parents })
    }
}

pub fn takes_content(ask: &Ask) -> bool {
    matches!(ask, Ask::Write { .. } | Ask::Unpack { .. })
}

/// Content as it is sent.
pub fn framed(content: &[u8]) -> Vec<u8> {
    let mut frames = Vec::new();
    for piece in content.chunks(100_000).chain([&b""[..]]) {
        frames.extend(header(Kind::In, piece.len()));
        frames.extend(piece);
    }
    frames
}

/// Answers, cut after each final one.
pub fn told(mut bytes: &[u8]) -> Vec<Told> {
    let (mut all, mut now) = (Vec::new(), Told::default());
    while let Some((head, rest)) = bytes.split_first_chunk::<HEADER_LEN>() {
        let (kind, length) = parse_header(*head).expect("a frame");
        let (payload, rest) = rest.split_at(length);
        bytes = rest;
        match kind {
            Kind::Json => {
                let answer: Answer = serde_json::from_slice(payload).expect("an answer");
                let is_final = matches!(answer, Answer::Done { .. } | Answer::Failed { .. });
                now.answers.push(answer);
                if is_final {
                    all.push(std::mem::take(&mut now));
                }
            }
            Kind::Out => {
                assert!(!payload.is_empty());
                now.content.extend(payload);
            }
            Kind::In | Kind::Err => panic!("a frame of kind {kind:?}"),
        }
    }
    assert!(bytes.is_empty() && now.answers.is_empty() && now.content.is_empty(), "{now:?}");
    all
}

impl Told {
    /// Whether it was done; true where something was left out.
    pub fn done(&self) -> bool {
        match self.answers.last() {
            Some(Answer::Done { truncated }) => *truncated,
            other => panic!("{other:?} instead of done"),
        }
    }

    /// How it failed.
    pub fn failure(&self) -> Failure {
        match self.answers.last() {
            Some(Answer::Failed { kind, .. }) => *kind,
            other => panic!("{other:?} instead of a failure"),
        }
    }

    pub fn message(&self) -> &str {
        match self.answers.last() {
            Some(Answer::Failed { message, .. }) => message,
            other => panic!("{other:?} instead of a failure"),
        }
    }

    /// The content, which was told in full.
    pub fn text(&self) -> String {
        assert!(!self.done());
        String::from_utf8_lossy(&self.content).into_owned()
    }

    pub fn entries(&self) -> Vec<Entry> {
        self.done();
        let entries = self.answers.iter().filter_map(|answer| match answer {
            Answer::Entries { entries } => Some(entries.clone()),
            _ => None,
        });
        entries.flatten().collect()
    }

    /// The names of the entries.
    pub fn names(&self) -> Vec<String> {
        let text = |name: &PathText| String::from_utf8_lossy(&name.bytes().expect("base64")).into_owned();
        self.entries().iter().map(|entry| text(&entry.name)).collect()
    }

    pub fn stat(&self) -> Stat {
        match self.answers.first() {
            Some(Answer::Stat { stat } | Answer::Opened { stat, .. }) => stat.clone(),
            other => panic!("{other:?} instead of a stat"),
        }
    }
}
