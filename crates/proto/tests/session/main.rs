//! Frames of live sessions under any text: random ones, and real frames with something changed in them. The same entry is a fuzz target
//! (see `fuzz/README.md`).

mod entry;

use boxyard_proto::api::session::{CONTROL_MAX, ClientFrame, FrameError, ServerFrame, Start};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};

use entry::session;

/// One frame of every sort, as text.
fn all() -> Vec<String> {
    let start = Start {
        argv: Some(vec!["sh".into(), "-c".into(), "echo \"\u{1f600}\"\n".into()]),
        tty: Some(true),
        cwd: Some("/workspace/home".into()),
        rows: Some(24),
        cols: Some(u32::MAX),
        env: Some(vec!["A=b".into()]),
        window: Some(true),
        ..Start::default()
    };
    let client = [
        ClientFrame::Start(start),
        ClientFrame::Start(Start { cmd: Some("true".into()), ..Start::default() }),
        ClientFrame::Stdin { data: "aGVsbG8=".into() },
        ClientFrame::StdinClose,
        ClientFrame::Resize { rows: 50, cols: 132 },
        ClientFrame::Signal { signal: "TERM".into() },
        ClientFrame::Terminate { grace_ms: Some(1000) },
        ClientFrame::Terminate { grace_ms: None },
    ];
    let server = [
        ServerFrame::Started { pid: 7, exec_id: "session-1".into(), window: None },
        ServerFrame::Started { pid: 7, exec_id: "session-1".into(), window: Some(1 << 20) },
        ServerFrame::Stdout { data: "aGVsbG8=".into() },
        ServerFrame::Stderr { data: String::new() },
        ServerFrame::StdinTaken { total: u64::MAX },
        ServerFrame::Exit { code: -1 },
        ServerFrame::Error { message: "a\tb".into() },
    ];
    let text = |frame: serde_json::Result<String>| frame.expect("texts and numbers serialise");
    let client = client.iter().map(|frame| text(serde_json::to_string(frame)));
    client.chain(server.iter().map(|frame| text(serde_json::to_string(frame)))).collect()
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
fn real_frames_are_understood_as_they_are_meant() {
    for text in all() {
        session(text.as_bytes());
        let (client, server) = (ClientFrame::parse(&text), ServerFrame::parse(&text));
        // Each is of one side only; to the other it is from a newer version.
        assert!(matches!((&client, &server), (Ok(Some(_)), Ok(None)) | (Ok(None), Ok(Some(_)))), "{text}");
        let again = match (client, server) {
            (Ok(Some(frame)), _) => serde_json::to_string(&frame),
            (_, Ok(Some(frame))) => serde_json::to_string(&frame),
            other => panic!("{other:?}"),
        };
        assert_eq!(again.expect("texts and numbers serialise"), text);
    }
}

#[test]
fn frames_of_newer_versions_are_passed_over_and_nonsense_is_refused() {
    for text in [r#"{"type":"dance","how":[1,{"x":null}]}"#, r#"{"how":"wildly","type":"DANCE"}"#] {
        assert!(matches!(ClientFrame::parse(text), Ok(None)), "{text}");
    }
    let newer = r#"{"rows":1,"type":"resize","cols":2,"depth":{"of":[3]}}"#;
    assert!(matches!(ClientFrame::parse(newer), Ok(Some(ClientFrame::Resize { rows: 1, cols: 2 }))));
    for text in
        ["", "{", "[]", "null", "{}", r#"{"type":7}"#, r#"{"type":"stdin"}"#, r#"{"type":"resize","rows":-1,"cols":1}"#]
    {
        assert!(ClientFrame::parse(text).is_err(), "{text}");
    }
}

#[test]
fn a_long_frame_of_many_small_values_is_refused_before_they_are_made() {
    // Each of these takes three bytes here and two dozen as a value in memory.
    let many = vec![r#""""#; CONTROL_MAX / 3].join(",");
    for text in [format!(r#"{{"type":"start","argv":[{many}]}}"#), format!(r#"{{"type":"resize","x":[{many}]}}"#)] {
        assert!(matches!(ClientFrame::parse(&text), Err(FrameError::TooLong(_))), "{} bytes", text.len());
    }
    let data = format!(r#"{{"type":"stdin","x":[{many}],"data":"aGVsbG8="}}"#);
    assert!(matches!(ClientFrame::parse(&data), Ok(Some(ClientFrame::Stdin { data })) if data == "aGVsbG8="));
}

#[test]
fn any_text_is_taken() {
    run(5_000, &any::<String>(), |text| session(text.as_bytes()));
}

#[test]
fn real_frames_with_anything_changed_in_them_are_taken() {
    let all = all();
    let changes = prop::collection::vec((any::<Index>(), any::<u8>()), 0..6);
    run(15_000, &(any::<Index>(), changes, any::<[Index; 2]>()), |(which, changes, [from, to])| {
        let mut bytes = which.get(&all).clone().into_bytes();
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        session(&bytes);
        let (from, to) = (from.index(bytes.len()), to.index(bytes.len()));
        drop(bytes.drain(from.min(to)..from.max(to)));
        session(&bytes);
    });
}
