//! Live sessions over a WebSocket.

use boxyard_server::keys;
use futures_util::{SinkExt, StreamExt};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::support::{KEY, Yard};

/// A client of a session.
struct Live(WebSocketStream<TcpStream>);

impl Live {
    /// Opens the WebSocket, or returns the status that it was refused with.
    async fn open(yard: &Yard, key: &str, id: &str) -> Result<Self, StatusCode> {
        let address = yard.address();
        let mut request = format!("ws://{address}/v2/box/{id}/exec-session").into_client_request().expect("a request");
        request.headers_mut().insert("x-box-api-key", key.parse().expect("a key"));
        let stream = TcpStream::connect(address).await.expect("a connection");
        match client_async(request, stream).await {
            Ok((stream, _)) => Ok(Self(stream)),
            Err(Error::Http(response)) => Err(response.status()),
            Err(error) => panic!("{error}"),
        }
    }

    async fn say(&mut self, frame: Value) {
        self.0.send(Message::text(frame.to_string())).await.expect("sent");
    }

    /// The next frame; `None` when the server has closed.
    async fn hear(&mut self) -> Option<Value> {
        loop {
            match self.0.next().await {
                Some(Ok(Message::Text(text))) => return Some(serde_json::from_str(&text).expect("JSON")),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Close(_))) | None => return None,
                other => panic!("{other:?}"),
            }
        }
    }

    /// Starts a program, which must work.
    async fn start(&mut self, argv: &[&str]) -> Value {
        self.say(json!({"type": "start", "argv": argv, "cwd": "/workspace/home"})).await;
        let started = self.hear().await.expect("an answer");
        assert_eq!(started["type"], "started", "{started}");
        assert!(started["pid"].as_u64().is_some_and(|pid| pid > 0), "{started}");
        assert!(started["execId"].as_str().is_some_and(|name| !name.is_empty()), "{started}");
        started
    }

    /// The last frame, after which the server closes.
    async fn last(&mut self) -> Value {
        let mut last = Value::Null;
        while let Some(frame) = self.hear().await {
            last = frame;
        }
        last
    }
}

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
    let log = client.get(&format!("/v2/box/{id}/logs")).await.text();
    assert!(log.contains("started: cat") && log.contains("ended with exit code 0"), "{log}");
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
