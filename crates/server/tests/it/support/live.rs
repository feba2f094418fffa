//! A client of live sessions.

use futures_util::{SinkExt, StreamExt};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::Yard;

/// A client of a session.
pub struct Live(pub WebSocketStream<TcpStream>);

impl Live {
    /// Opens the WebSocket, or returns the status that it was refused with.
    pub async fn open(yard: &Yard, key: &str, id: &str) -> Result<Self, StatusCode> {
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

    pub async fn say(&mut self, frame: Value) {
        self.0.send(Message::text(frame.to_string())).await.expect("sent");
    }

    /// The next frame; `None` when the server has closed.
    pub async fn hear(&mut self) -> Option<Value> {
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
    pub async fn start(&mut self, argv: &[&str]) -> Value {
        self.say(json!({"type": "start", "argv": argv, "cwd": "/workspace/home"})).await;
        let started = self.hear().await.expect("an answer");
        assert_eq!(started["type"], "started", "{started}");
        assert!(started["pid"].as_u64().is_some_and(|pid| pid > 0), "{started}");
        assert!(started["execId"].as_str().is_some_and(|name| !name.is_empty()), "{started}");
        started
    }

    /// The last frame, after which the server closes.
    pub async fn last(&mut self) -> Value {
        let mut last = Value::Null;
        while let Some(frame) = self.hear().await {
            last = frame;
        }
        last
    }
}
