//! Live sessions over a WebSocket.

use boxyard_server::keys;
use futures_util::SinkExt;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::support::{KEY, Live, Yard};

#[tokio::test]
async fn a_program_speaks_and_is_spoken_to() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let mut live = Live::open(&yard, KEY, &id).await.expect("open");
    live.start(&["cat"]).await;
    assert_eq!(client.status(&id).await, "running");
    // What this server does not know is for a newer one.
    live.say(json!({"type": "dance", "how": "wildly"})).await;
    live.say(json!({"type": "stdin", "data": "aGVsbG8="})).await;
    assert_eq!(live.hear().await, Some(json!({"type": "stdout", "data": "aGVsbG8="})));
    live.say(json!({"type": "stdin_close"})).await;
    assert_eq!(live.last().await, json!({"type": "exit", "code": 0}));
    client.until(&format!("/v2/box/{id}"), |data| data["status"] == "idle").await;
    // The log is written behind what it tells of.
    let told =
        |log: &Value| log.to_string().contains("started: cat") && log.to_string().contains("ended with exit code 0");
    client.until(&format!("/v2/box/{id}/logs"), told).await;
}

#[tokio::test]
async fn nonsense_is_answered_with_the_reason_and_the_end() {
    let yard = Yard::start().await;
    let id = yard.client().new_box().await;
    for (frame, reason) in [
        ("{", "not as it must be"),
        (r#"{"type":"stdin","data":""}"#, "must be start"),
        (r#"{"type":"start"}"#, "argv or cmd"),
        (r#"{"type":"start","argv":[]}"#, "command is required"),
        (r#"{"type":"start","argv":["a"],"env":["1=2"]}"#, "not a variable name"),
        (r#"{"type":"start","argv":["pwd"],"cwd":"/nowhere"}"#, "/nowhere"),
    ] {
        let mut live = Live::open(&yard, KEY, &id).await.expect("open");
        live.0.send(Message::text(frame)).await.expect("sent");
        let last = live.last().await;
        assert_eq!(last["type"], "error", "{frame}: {last}");
        assert!(last["message"].as_str().is_some_and(|text| text.contains(reason)), "{frame}: {last}");
    }
    for (frame, reason) in
        [(json!({"type": "stdin", "data": "*"}), "base64"), (json!({"type": "start", "argv": ["true"]}), "already")]
    {
        let mut live = Live::open(&yard, KEY, &id).await.expect("open");
        live.start(&["cat"]).await;
        live.say(frame).await;
        let last = live.last().await;
        assert!(last["message"].as_str().is_some_and(|text| text.contains(reason)), "{last}");
    }
    yard.client().until(&format!("/v2/box/{id}"), |data| data["status"] == "idle").await;
}

#[tokio::test]
async fn only_those_who_may_get_a_websocket() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let path = format!("/v2/box/{id}/exec-session");
    client.refused(Method::GET, &path, Value::Null, StatusCode::UPGRADE_REQUIRED, "this path speaks WebSocket").await;
    let (_, stranger) = keys::create_key(&yard.store().await, "stranger", None).await.expect("a key");
    assert_eq!(Live::open(&yard, stranger.expose(), &id).await.err(), Some(StatusCode::NOT_FOUND));
    assert_eq!(Live::open(&yard, "box_nobody", &id).await.err(), Some(StatusCode::UNAUTHORIZED));
    assert_eq!(Live::open(&yard, KEY, "current-wasp-05510").await.err(), Some(StatusCode::NOT_FOUND));
}

#[tokio::test]
async fn a_client_that_goes_takes_its_program_along() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let mut live = Live::open(&yard, KEY, &id).await.expect("open");
    live.start(&["sleep", "300"]).await;
    assert_eq!(client.status(&id).await, "running");
    drop(live);
    client.until(&format!("/v2/box/{id}"), |data| data["status"] == "idle").await;
    let told = |log: &Value| log.to_string().contains("ended with its connection");
    client.until(&format!("/v2/box/{id}/logs"), told).await;
}

#[tokio::test]
async fn signals_sizes_and_the_end_reach_the_program() {
    let yard = Yard::start().await;
    let id = yard.client().new_box().await;
    let mut live = Live::open(&yard, KEY, &id).await.expect("open");
    live.say(json!({"type": "start", "argv": ["stty", "size"], "tty": true, "rows": 40, "cols": 100})).await;
    assert_eq!(live.hear().await.expect("an answer")["type"], "started");
    assert_eq!(live.hear().await, Some(json!({"type": "stdout", "data": "NDAgMTAwDQo="})));
    assert_eq!(live.last().await, json!({"type": "exit", "code": 0}));
    let mut live = Live::open(&yard, KEY, &id).await.expect("open");
    live.start(&["sleep", "300"]).await;
    live.say(json!({"type": "signal", "signal": "KILL"})).await;
    assert_eq!(live.last().await, json!({"type": "exit", "code": 137}));
    let mut live = Live::open(&yard, KEY, &id).await.expect("open");
    live.start(&["sleep", "300"]).await;
    live.say(json!({"type": "terminate", "graceMs": 1})).await;
    assert_eq!(live.last().await, json!({"type": "exit", "code": 143}));
}

#[tokio::test]
async fn a_deleted_box_ends_its_sessions_with_a_word() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let mut live = Live::open(&yard, KEY, &id).await.expect("open");
    live.start(&["cat"]).await;
    client.delete(&format!("/v2/box/{id}")).await;
    let last = live.last().await;
    assert!(last["message"].as_str().is_some_and(|text| text.contains("deleted")), "{last}");
}
