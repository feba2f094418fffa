//! What must hold for any bytes that could come, for the fuzz target `files` and for ordinary tests. Nothing is done on a disk: there are
//! no roots.

use std::borrow::Cow;

use boxyard_proto::files::{Answer, Ask, Failure};
use boxyard_proto::wire::{HEADER_LEN, Kind, parse_header};

use super::channel::Channel;
use super::jail::Jail;
use super::path::{Path, is_of_folder, parts};
use super::search::exercise::patterns;
use super::session::Session;
use super::unpack::Entries;

/// Takes `bytes` as all that comes from the server, as a path, as an archive, and as patterns.
///
/// # Panics
/// Something that must hold does not.
pub fn files(bytes: &[u8]) {
    let whole = session(bytes, usize::MAX);
    // However the stream is torn, it says the same.
    let step = usize::from(bytes.first().copied().unwrap_or(0)) % 61 + 1;
    assert_eq!(whole, session(bytes, step), "in steps of {step}");
    path(bytes);
    archive(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        patterns(text);
    }
}

/// A stream that comes in pieces of `step` bytes.
struct Torn<'a> {
    left: &'a [u8],
    step: usize,
}

impl std::io::Read for Torn<'_> {
    fn read(&mut self, room: &mut [u8]) -> std::io::Result<usize> {
        assert!(!room.is_empty(), "there is always room for more");
        let count = self.left.len().min(self.step).min(room.len());
        let (now, left) = self.left.split_at(count);
        room[..count].copy_from_slice(now);
        self.left = left;
        Ok(count)
    }
}

/// What is answered, and whether the stream was in order up to its end.
fn session(bytes: &[u8], step: usize) -> (Vec<u8>, bool) {
    let (mut input, mut output) = (Torn { left: bytes, step }, Vec::new());
    let ended = Session::new(Jail::default()).run(&mut Channel::new(&mut input, &mut output));
    let mut left = &output[..];
    while let Some((head, rest)) = left.split_first_chunk::<HEADER_LEN>() {
        let (kind, length) = parse_header(*head).expect("we send frames");
        let (payload, rest) = rest.split_at(length);
        assert_eq!(kind, Kind::Json, "there is no content");
        let answer: Answer = serde_json::from_slice(payload).expect("we send answers");
        let fits =
            matches!(answer, Answer::Failed { kind: Failure::Invalid | Failure::Denied | Failure::IsFolder, .. });
        assert!(fits, "nothing can be done: {answer:?}");
        left = rest;
    }
    assert!(left.is_empty());
    // What was understood can be said again, and is then understood in the same way.
    if let Ok(ask) = serde_json::from_slice::<Ask>(bytes) {
        let again = serde_json::to_vec(&ask).expect("it can be said");
        assert_eq!(serde_json::from_slice::<Ask>(&again).ok(), Some(ask));
    }
    (output, ended.is_ok())
}

fn path(bytes: &[u8]) {
    if let Ok(path) = Path::new(Cow::Borrowed(bytes)) {
        assert!(parts(path.bytes()).all(|part| !part.is_empty() && part != b"." && !part.contains(&b'/')));
        assert_eq!(path.is_of_folder(), is_of_folder(bytes));
        // There is no root that it could lead to.
        assert!(Jail::default().open(&path, rustix::fs::OFlags::PATH).is_err());
    }
}

fn archive(bytes: &[u8]) {
    let all = |step| {
        let mut entries = Entries::new(std::io::BufReader::with_capacity(1024, Torn { left: bytes, step }));
        let (mut seen, mut content) = (Vec::new(), Vec::new());
        let end = loop {
            match entries.next() {
                Ok(Some(entry)) => seen.push(entry),
                Ok(None) => break Ok(()),
                Err(refusal) => break Err(refusal),
            }
            while let Ok(piece) = entries.content()
                && !piece.is_empty()
            {
                content.extend_from_slice(piece);
                let count = piece.len();
                entries.take(count);
            }
        };
        assert!(content.len() <= bytes.len() && seen.len() <= bytes.len() / 512);
        (seen, content, end)
    };
    assert_eq!(all(usize::MAX), all(7));
}

#[cfg(test)]
mod tests {
    use boxyard_proto::files::{Format, PathText, Search};
    use boxyard_proto::wire::json_frame;
    use proptest::prelude::*;
    use proptest::sample::Index;
    use proptest::test_runner::{Config, TestRunner};

    use super::*;
    use crate::files::testing::{framed, takes_content};

    fn text() -> impl Strategy<Value = PathText> {
        prop_oneof![
            "(/[a-z.]{0,3}){0,5}".prop_map(|text| PathText::from(text.as_str())),
            any::<Vec<u8>>().prop_map(|bytes| PathText::new(&bytes))
        ]
    }

    /// One request of every sort but a watch, which only ends with its input.
    fn all((one, other, number, flag, pattern): &(PathText, PathText, u64, bool, String)) -> Vec<Ask> {
        let (path, flag, number) = (|| one.clone(), *flag, *number);
        let mode = u32::try_from(number % 8192).expect("small");
        let search = Search {
            path: Some(path()),
            name: Some(pattern.clone()),
            content: flag.then(|| pattern.clone()),
            regex: flag,
            limit: mode,
            ..Search::default()
        };
        vec![
            Ask::Read { path: path(), offset: number, length: flag.then_some(number) },
            Ask::Write { path: path(), mode: flag.then_some(mode) },
            Ask::List { path: path(), after: flag.then(|| other.clone()), limit: None },
            Ask::Stat { path: path(), follow: flag },
            Ask::Mkdir { path: path(), parents: flag },
            Ask::Rename { from: path(), to: other.clone() },
            Ask::Remove { path: path(), recursive: flag },
            Ask::Chmod { path: path(), mode, recursive: flag },
            Ask::Archive { path: path(), format: Format::Zip },
            Ask::Unpack { path: path() },
            Ask::Search(search),
            Ask::Watch { path: path(), recursive: flag },
        ]
    }

    fn run<S: Strategy>(cases: u32, strategy: &S, test: impl Fn(S::Value)) {
        let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
        let run = runner.run(strategy, |value| {
            test(value);
            Ok(())
        });
        run.expect("it holds for all");
    }

    #[test]
    fn any_bytes_are_taken() {
        run(1_000, &prop::collection::vec(any::<u8>(), 0..200), |bytes| files(&bytes));
    }

    #[test]
    fn requests_with_anything_changed_in_them_are_taken() {
        let parts = (text(), text(), any::<u64>(), any::<bool>(), "[a*?{},\\[\\]()|+/]{0,12}");
        let changes = prop::collection::vec((any::<Index>(), any::<u8>()), 0..4);
        let session =
            (parts, prop::collection::vec((any::<Index>(), any::<Vec<u8>>()), 1..5), changes, any::<[Index; 2]>());
        run(2_000, &session, |(parts, which, changes, [from, to])| {
            let all = all(&parts);
            let mut bytes = Vec::new();
            for (ask, content) in which {
                let ask = ask.get(&all);
                bytes.extend(json_frame(ask));
                if takes_content(ask) {
                    bytes.extend(framed(&content));
                }
            }
            let whole = session_of(&bytes);
            assert!(whole.1, "they are understood as they are");
            for (place, byte) in changes {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
            files(&bytes);
            bytes.truncate(from.index(bytes.len()).max(to.index(bytes.len())));
            files(&bytes);
        });
    }

    fn session_of(bytes: &[u8]) -> (Vec<u8>, bool) {
        session(bytes, usize::MAX)
    }

    #[test]
    fn archives_with_anything_changed_in_them_are_taken() {
        let tar = |arguments: &[&str]| {
            let folder = tempfile::tempdir().expect("a folder");
            std::fs::write(folder.path().join("x".repeat(150)), "content").expect("write");
            std::fs::File::create(folder.path().join("hole")).and_then(|file| file.set_len(100_000)).expect("make");
            std::os::unix::fs::symlink("y".repeat(150), folder.path().join("link")).expect("link");
            let mut command = std::process::Command::new("tar");
            command.args(arguments).args(["-cS", "."]).current_dir(folder.path()).output().expect("run tar").stdout
        };
        let archives = [tar(&["--format=gnu", "--hole-detection=raw"]), tar(&["--format=posix"])].map(|mut bytes| {
            bytes.truncate(8 * 1024);
            bytes
        });
        let changes = prop::collection::vec((any::<Index>(), any::<u8>()), 0..6);
        run(2_000, &(any::<bool>(), changes), |(first, changes)| {
            let mut bytes = archives[usize::from(first)].clone();
            for (place, byte) in changes {
                let place = place.index(bytes.len());
                // So that more than the first header is looked at, its sum is made right again.
                bytes[place] = byte;
                let header = place / 512 * 512;
                let sum: u32 = bytes[header..header + 512]
                    .iter()
                    .enumerate()
                    .map(|(at, &byte)| u32::from(if (148..156).contains(&at) { b' ' } else { byte }))
                    .sum();
                bytes[header + 148..header + 155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
            }
            archive(&bytes);
        });
    }
}
