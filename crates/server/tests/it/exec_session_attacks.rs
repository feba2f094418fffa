//! Live sessions of clients that mean no good, or have bad luck.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use boxyard_engine::fake::Call;
use futures_util::SinkExt;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

use crate::support::{Client, KEY, Live, PATIENCE, Yard};

/// Bytes of input that a client which asks may have on their way.
const WINDOW: usize = 1024 * 1024;

fn stdin(bytes: &[u8]) -> Value {
    json!({"type": "stdin", "data": BASE64_STANDARD.encode(bytes)})
}

/// Looks whether the last frame is an error that says this.
fn is_error(last: &Value, reason: &str) {
    assert_eq!(last["type"], "error", "{last}");
    assert!(last["message"].as_str().is_some_and(|text| text.contains(reason)), "{last}");
}

async fn idle(client: &Client, id: &str) {
    client.until(&format!("/v2/box/{id}"), |data| data["status"] == "idle").await;
}

/// The head of a handshake.
fn handshake(id: &str, more: &str) -> String {
    format!(
        "GET /v2/box/{id}/exec-session HTTP/1.1\r\nhost: x\r\nx-box-api-key: {KEY}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
    )
}

/// A connection that has sent a handshake and has been answered.
async fn raw(yard: &Yard, id: &str) -> TcpStream {
    let mut stream = TcpStream::connect(yard.address()).await.expect("connect");
    stream.write_all(handshake(id, "").as_bytes()).await.expect("send");
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(timeout(PATIENCE, stream.read_u8()).await.expect("in time").expect("an answer"));
    }
    assert!(answer.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&answer));
    stream
}

#[tokio::test]
async fn a_frame_that_says_it_is_giant_is_refused_by_its_head() {
    let yard = Yard::start().await;
    let id = yard.client().new_box().await;
    for length in [16 * 1024 * 1024 + 1, 1 << 40, u64::MAX >> 1] {
        let mut stream = raw(&yard, &id).await;
        // A text of so many bytes, masked, of which none comes.
        let head = [&[0x81, 0xff][..], &length.to_be_bytes(), &[1, 2, 3, 4]].concat();
        stream.write_all(&head).await.expect("send");
        let mut said = Vec::new();
        timeout(PATIENCE, stream.read_to_end(&mut said)).await.expect("the server closes").expect("in order");
        assert!(String::from_utf8_lossy(&said).contains("a frame has more than"), "{length}");
    }
}

#[tokio::test]
async fn fragments_without_an_end_add_up_to_a_frame_that_is_too_long() {
    let yard = Yard::start().await;
    let id = yard.client().new_box().await;
    let mut live = Live::open(&yard, KEY, &id).await.expect("open");
    let piece = vec![b' '; 1024 * 1024];
    let fragment = |opcode| Message::Frame(Frame::message(piece.clone(), OpCode::Data(opcode), false));
    let mut sent = live.0.send(fragment(Data::Text)).await;
    for _ in 0..17 {
        // The server may have closed by then.
        sent = sent.and(live.0.send(fragment(Data::Continue)).await);
    }
    drop(sent);
    is_error(&live.last().await, "a frame has more than");
}

#[tokio::test]
async fn frames_of_very_many_or_very_deep_values_are_refused() {
    let yard = Yard::start().await;
    let id = yard.client().new_box().await;
    let many = ["0"; 3 * 1024 * 1024].join(",");
    let deep = "[".repeat(100_000);
    for (frame, reason) in [
        (format!(r#"{{"type":"start","argv":["true"],"x":[{many}]}}"#), "more than"),
        (format!(r#"{{"type":"start","argv":["true"],"x":{deep}"#), "EOF while parsing"),
        (format!(r#"{{"type":"start","argv":{deep}{}}}"#, "]".repeat(100_000)), "invalid type"),
    ] {
        let mut live = Live::open(&yard, KEY, &id).await.expect("open");
        live.0.send(Message::text(frame)).await.expect("sent");
        is_error(&live.last().await, reason);
    }
}

#[tokio::test]
async fn a_handshake_with_a_body_holds_no_connection() {
    let yard = Yard::with(|config| {
        config.limits.connections = 1;
        config.limits.header_timeout = std::time::Duration::from_millis(200);
    })
    .await;
    let client = yard.client();
    let id = client.new_box().await;
    drop(client);
    for more in ["content-length: 10\r\n", "transfer-encoding: chunked\r\n"] {
        let mut stream = TcpStream::connect(yard.address()).await.expect("connect");
        stream.write_all(handshake(&id, more).as_bytes()).await.expect("send");
        let mut answer = vec![0; 4096];
        let length = timeout(PATIENCE, stream.read(&mut answer)).await.expect("in time").expect("an answer");
        let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
        drop(stream);
        // There is one place, and it is free again.
        yard.client().get("/v2/box").await;
    }
}

#[tokio::test]
async fn floods_of_sizes_and_signals_do_no_more_than_a_few() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let mut live = Live::open(&yard, KEY, &id).await.expect("open");
    live.start(&["cat"]).await;
    for n in 0..20_000_u32 {
        live.0
            .feed(Message::text(json!({"type": "resize", "rows": n, "cols": u32::MAX}).to_string()))
            .await
            .expect("fed");
    }
    for name in ["", "SIG", "NOTHING", "term", "65", "-9", "RTMIN+40", "\u{0}", &"x".repeat(100_000)] {
        live.0.feed(Message::text(json!({"type": "signal", "signal": name}).to_string())).await.expect("fed");
    }
    live.say(stdin(b"still here")).await;
    assert_eq!(live.hear().await.map(|frame| frame["data"].clone()), Some(json!("c3RpbGwgaGVyZQ==")));
    for _ in 0..2_000 {
        live.0.feed(Message::text(r#"{"type":"signal","signal":"TERM"}"#)).await.expect("fed");
    }
    live.say(json!({"type": "terminate", "graceMs": u64::MAX})).await;
    assert_eq!(live.last().await, json!({"type": "exit", "code": 143}));
    idle(&client, &id).await;
}

#[tokio::test]
async fn input_that_nobody_reads_does_not_stand_in_the_way_of_a_signal() {
    let yard = Yard::start().await;
    let id = yard.client().new_box().await;
    let mut live = Live::open(&yard, KEY, &id).await.expect("open");
    live.say(json!({"type": "start", "argv": ["sleep", "300"], "window": true})).await;
    assert_eq!(live.hear().await.expect("an answer")["window"], json!(WINDOW));
    for _ in 0..16 {
        live.say(stdin(&[0; WINDOW / 16])).await;
    }
    live.say(json!({"type": "signal", "signal": "KILL"})).await;
    assert_eq!(live.last().await["code"], json!(137));
}

#[tokio::test]
async fn a_client_that_asks_is_told_how_much_of_its_input_was_taken() {
    let yard = Yard::start().await;
    let id = yard.client().new_box().await;
    let mut live = Live::open(&yard, KEY, &id).await.expect("open");
    live.say(json!({"type": "start", "argv": ["cat"], "window": true})).await;
    live.hear().await.expect("started");
    let (mut sent, mut taken, mut back) = (0_u64, 0, 0);
    while back < 8 * WINDOW {
        while sent - taken < WINDOW as u64 && sent < 8 * WINDOW as u64 {
            live.say(stdin(&[7; 64 * 1024])).await;
            sent += 64 * 1024;
        }
        let frame = live.hear().await.expect("a frame");
        match frame["type"].as_str() {
            Some("stdin_taken") => {
                let total = frame["total"].as_u64().expect("a number");
                assert!(total > taken && total <= sent, "{total} of {sent} after {taken}");
                taken = total;
            }
            _ => back += BASE64_STANDARD.decode(frame["data"].as_str().expect("data")).expect("base64").len(),
        }
    }
    live.say(json!({"type": "stdin_close"})).await;
    assert_eq!(live.last().await, json!({"type": "exit", "code": 0}));
}

#[tokio::test]
async fn a_client_that_goes_while_its_input_is_stuck_takes_its_program_along() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let mut live = Live::open(&yard, KEY, &id).await.expect("open");
    live.start(&["sleep", "300"]).await;
    // More than there is room for anywhere; the rest stays in the connection.
    let flood = async { while live.0.send(Message::text(stdin(&[0; WINDOW]).to_string())).await.is_ok() {} };
    let held = async { client.until(&format!("/v2/box/{id}"), |data| data["status"] == "running").await };
    tokio::select! {
        () = flood => panic!("the server has closed"),
        _ = async { held.await; for _ in 0..20 { client.sh(&id, "true").await; } } => {}
    }
    drop(live);
    idle(&client, &id).await;
}

#[tokio::test]
async fn a_client_that_goes_while_its_program_is_started_leaves_nothing() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    yard.engine.hold(Call::Connect, Some("start"));
    for count in 1..=3 {
        let mut live = Live::open(&yard, KEY, &id).await.expect("open");
        live.say(json!({"type": "start", "argv": ["sleep", "300"]})).await;
        yard.engine.came_to("start", count).await;
        drop(live);
        idle(&client, &id).await;
    }
    yard.engine.hold(Call::Connect, None);
    yard.engine.open("start");
    assert_eq!(client.status(&id).await, "idle");
}

#[tokio::test]
async fn a_box_that_is_deleted_while_a_program_is_started_ends_the_session_with_a_word() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    yard.engine.hold(Call::Connect, Some("start"));
    let mut live = Live::open(&yard, KEY, &id).await.expect("open");
    live.say(json!({"type": "start", "argv": ["sleep", "300"]})).await;
    yard.engine.came_to("start", 1).await;
    client.delete(&format!("/v2/box/{id}")).await;
    yard.engine.hold(Call::Connect, None);
    yard.engine.open("start");
    assert_eq!(live.last().await["type"], "error");
}

#[tokio::test]
async fn a_box_takes_only_so_many_sessions_and_has_its_places_back_after_them() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let mut held = Vec::new();
    let refused = loop {
        let mut live = Live::open(&yard, KEY, &id).await.expect("open");
        live.say(json!({"type": "start", "argv": ["cat"]})).await;
        let first = live.hear().await.expect("an answer");
        if first["type"] == "error" {
            break first;
        }
        assert!(held.len() < 1000, "there is no end to it");
        held.push(live);
    };
    assert!(held.len() > 100, "{} and then {refused}", held.len());
    drop(held);
    idle(&client, &id).await;
    let mut live = Live::open(&yard, KEY, &id).await.expect("open");
    live.start(&["true"]).await;
    assert_eq!(live.last().await, json!({"type": "exit", "code": 0}));
}
