//! The client of `boxyard-init` against peers that keep and break the protocol.

use tokio::io::{AsyncReadExt, DuplexStream, duplex};

use super::*;

/// A job whose other end is ours: it has been started, and `sent` follows.
async fn job(sent: &[u8]) -> (Result<Job, AgentError>, DuplexStream) {
    let (ours, theirs) = duplex(8 * 1024 * 1024);
    let mut bytes = wire::json_frame(&FromInit::Hello(Hello::ours()));
    bytes.extend_from_slice(sent);
    let (mut read, mut write) = tokio::io::split(theirs);
    write.write_all(&bytes).await.expect("it fits");
    let job = begin(Box::new(ours), ToInit::Attach { job: "j".into(), from: None }, None).await;
    let mut greeting = [0; wire::HEADER_LEN];
    read.read_exact(&mut greeting).await.expect("a greeting");
    (job, read.unsplit(write))
}

fn started() -> Vec<u8> {
    wire::json_frame(&FromInit::Started { pid: 7, from: 0 })
}

#[tokio::test]
async fn output_comes_in_order_whatever_the_frames_and_the_end_comes_last() {
    let mut sent = started();
    for (kind, bytes) in [(Kind::Out, &b"one"[..]), (Kind::Err, b""), (Kind::Err, b"two"), (Kind::Out, b"three")] {
        sent.extend_from_slice(&wire::header(kind, bytes.len()));
        sent.extend_from_slice(bytes);
    }
    let exit = Exit { code: 300, signal: None, cpu_ns: 1, memory_peak: 2 };
    sent.extend_from_slice(&wire::json_frame(&FromInit::Unsupported { message: "x".repeat(5000) }));
    sent.extend_from_slice(&wire::json_frame(&FromInit::Exit(exit)));
    let (job, _peer) = job(&sent).await;
    let mut job = job.expect("started");
    assert_eq!(job.pid(), 7);
    assert_eq!(job.next().await.expect("output"), Event::Out(Bytes::from_static(b"one")));
    assert_eq!(job.next().await.expect("output"), Event::Err(Bytes::from_static(b"two")));
    assert_eq!(job.next().await.expect("output"), Event::Out(Bytes::from_static(b"three")));
    let end = Event::Exit(Exit { code: 255, ..exit });
    assert_eq!(job.next().await.expect("the end"), end, "a code that no process has is cut to one");
}

#[tokio::test]
async fn a_peer_that_breaks_the_protocol_is_left() {
    let too_long = [0xff, 0xff, 0xff, 0xff, Kind::Out.number()];
    let unknown_kind = [0, 0, 0, 1, 9, 0];
    let no_json = [0, 0, 0, 2, Kind::Json.number(), b'{', b'{'];
    for sent in [&too_long[..], &unknown_kind, &no_json, &wire::header(Kind::In, 1), &started()] {
        let (job, _peer) = job(&[&started(), sent].concat()).await;
        let answer = job.expect("started").next().await;
        assert!(matches!(answer, Err(AgentError::Protocol(_))), "{sent:?}: {answer:?}");
    }
    let exit = FromInit::Exit(Exit { code: 0, signal: None, cpu_ns: 0, memory_peak: 0 });
    for first in [FromInit::Started { pid: 0, from: 0 }, exit] {
        let (job, _peer) = job(&wire::json_frame(&first)).await;
        assert!(matches!(job, Err(AgentError::Protocol(_))), "{first:?}: {job:?}");
    }
}

#[tokio::test]
async fn a_refusal_is_passed_on_and_its_text_is_cut() {
    let message = "no such folder ".repeat(1000);
    let (job, _peer) = job(&wire::json_frame(&FromInit::Failed { kind: FailedKind::NotFound, message })).await;
    let Err(AgentError::Refused { kind, message }) = job else { panic!("refused: {job:?}") };
    assert_eq!((kind, message.len()), (FailedKind::NotFound, MESSAGE_MAX));
}

#[tokio::test]
async fn a_connection_that_ends_before_the_job_is_lost() {
    let (job, peer) = job(&[&started()[..], &wire::header(Kind::Out, 10), b"half"].concat()).await;
    let mut job = job.expect("started");
    drop(peer);
    assert_eq!(job.next().await.expect("what came"), Event::Out(Bytes::from_static(b"half")));
    assert!(matches!(job.next().await, Err(AgentError::Lost { .. })));
}

#[tokio::test]
async fn what_a_box_says_of_its_failure_cannot_steer_terminals_and_is_cut_wherever_it_is_quoted() {
    let escape = "\u{1b}]0;owned\u{7}\u{9b}2J\r\n";
    let message = format!("folder '{escape}' does not exist");
    let (job_refused, _peer) = job(&wire::json_frame(&FromInit::Failed { kind: FailedKind::NotFound, message })).await;
    let text = job_refused.expect_err("refused").to_string();
    assert_eq!(text, "folder ' ]0;owned  2J  ' does not exist");
    // A message that does not parse is quoted by what says so.
    for field in [r#""exit","code""#, r#""started","pid""#, r#""failed","message":"","kind":{}, "x""#] {
        let json = format!(r#"{{"type":{field}:{:?}}}"#, "x".repeat(50_000));
        let mut frame = wire::header(Kind::Json, json.len()).to_vec();
        frame.extend_from_slice(json.as_bytes());
        let (job, _peer) = job(&[&started()[..], &frame].concat()).await;
        let text = job.expect("started").next().await.expect_err("no message").to_string();
        assert!(text.len() < 2 * MESSAGE_MAX && !text.contains(char::is_control), "{} bytes: {text:.200}", text.len());
    }
}

#[tokio::test]
async fn a_box_cannot_have_us_keep_a_long_message_whose_end_does_not_come() {
    let begun = [&started()[..], &wire::header(Kind::Json, 100_000), &[b' '; 1000]].concat();
    let (job, _peer) = job(&begun).await;
    let answer = job.expect("started").next().await;
    assert!(matches!(&answer, Err(AgentError::Protocol(text)) if text == "a message of 100000 bytes"), "{answer:?}");
}

#[tokio::test]
async fn a_box_of_an_older_server_does_what_it_can_and_says_what_it_cannot() {
    for (needs, refused) in [(None, false), (Some(ability::EXEC), false), (Some(ability::SFTP), true)] {
        let (ours, theirs) = duplex(1024 * 1024);
        // What the first version said.
        let hello = Hello { protocol: wire::PROTOCOL, abilities: vec!["exec".into(), "attach".into()] };
        let (_read, mut write) = tokio::io::split(theirs);
        write.write_all(&wire::json_frame(&FromInit::Hello(hello))).await.expect("it fits");
        write.write_all(&started()).await.expect("it fits");
        let begun = begin(Box::new(ours), ToInit::Attach { job: "j".into(), from: None }, needs).await;
        match begun {
            Err(error @ AgentError::TooOld(_)) if refused => {
                let text = error.to_string();
                assert_eq!(
                    text,
                    "this box was started by an older version of the server, which had no sftp; make a new one"
                );
            }
            begun => assert!(begun.is_ok() && !refused, "{needs:?}: {begun:?}"),
        }
    }
}
