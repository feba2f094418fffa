//! Frames and messages under any bytes: random ones, and real connections with something changed in them. The same entry is a fuzz
//! target (see `fuzz/README.md`).

mod entry;

use boxyard_proto::wire::{
    self, Builtin, Endpoint, Exec, Exit, FailedKind, FromInit, Hello, Kind, OnClose, Pty, PtySize, Scope, ToInit, User,
    json_frame,
};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};

use entry::frames;

/// One frame of every sort.
fn all() -> Vec<Vec<u8>> {
    let size = PtySize { columns: 80, rows: 24, width: 640, height: 480 };
    let exec = Exec {
        env: vec!["A=b \u{1f600}\n".into()],
        stdin: true,
        on_close: OnClose::Hangup,
        pty: Some(Pty { size, modes: vec![(1, 3), (128, 38_400)], variable: Some("SSH_TTY".into()) }),
        builtin: Some(Builtin::Sftp),
        ..Exec::new("job \"1\"", vec!["sh".into(), "-c".into(), "\\".into()], "/workspace/home", User::BOXUSER)
    };
    let to_init = [
        ToInit::Hello(Hello::ours()),
        ToInit::Exec(exec),
        ToInit::Attach { job: "a".into(), from: None },
        ToInit::Attach { job: "a".into(), from: Some(7) },
        ToInit::Taken { upto: 9, ended: true },
        ToInit::Signal { signal: 15, scope: Scope::Group },
        ToInit::SignalJob { job: "a".into(), signal: 64, scope: Scope::All },
        ToInit::Resize { size },
        ToInit::Dial { to: Endpoint::Tcp { host: "localhost".into(), port: 80 }, user: User::ROOT },
        ToInit::Listen { at: Endpoint::Unix { path: "/tmp/s".into() }, user: User::BOXUSER },
        ToInit::Listen { at: Endpoint::AgentSocket, user: User::BOXUSER },
        ToInit::Accept { connection: u64::MAX },
        ToInit::End { grace_ms: 5 },
    ];
    let from_init = [
        FromInit::Started { pid: 1, from: 0 },
        FromInit::Opened { host: "::1".into(), port: 65_535 },
        FromInit::Incoming { connection: 7, host: String::new(), port: 0 },
        FromInit::OutEnd,
        FromInit::Exit(Exit { code: 255, signal: Some(9), cpu_ns: u64::MAX, memory_peak: 0 }),
        FromInit::Failed { kind: FailedKind::NotFound, message: "no".into() },
        FromInit::Unsupported { message: "teleport".into() },
    ];
    let data = [Kind::In, Kind::Out, Kind::Err].map(|kind| [&wire::header(kind, 3)[..], b"\0{\xff"].concat());
    to_init.iter().map(json_frame).chain(from_init.iter().map(json_frame)).chain(data).collect()
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
fn real_frames_hold() {
    frames(&all().concat());
}

#[test]
fn any_bytes_are_taken() {
    run(5_000, &prop::collection::vec(any::<u8>(), 0..200), |bytes| frames(&bytes));
}

#[test]
fn real_connections_with_anything_changed_in_them_are_taken() {
    let all = all();
    let changes = prop::collection::vec((any::<Index>(), any::<u8>()), 0..6);
    let connection = (prop::collection::vec(any::<Index>(), 1..5), changes, any::<[Index; 3]>(), any::<u8>());
    run(15_000, &connection, |(which, changes, [from, to, at], what)| {
        let mut bytes = which.iter().map(|index| index.get(&all).as_slice()).collect::<Vec<_>>().concat();
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        let (from, to) = (from.index(bytes.len()), to.index(bytes.len()));
        let (from, to) = (from.min(to), from.max(to));
        match what % 4 {
            0 => drop(bytes.drain(from..to)),
            1 => {
                let (piece, at) = (bytes[from..to].to_vec(), at.index(bytes.len()));
                bytes.splice(at..at, piece);
            }
            _ => {}
        }
        frames(&bytes);
        // Without the headers, so that changes in the length of a message do not hide the message.
        frames(bytes.get(wire::HEADER_LEN..).unwrap_or_default());
    });
}
