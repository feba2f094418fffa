//! A client of live sessions: a WebSocket over plain TCP, without a runtime.

use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Message, WebSocket, client};

use crate::http::Client;

/// How long one frame may take to come.
const DEADLINE: Duration = Duration::from_secs(60);

/// A session's connection. Dropping it closes it.
#[derive(Debug)]
pub struct Live(WebSocket<TcpStream>);

impl Live {
    /// Connects to a box and shakes hands; nothing is started yet.
    ///
    /// # Errors
    /// The server refuses.
    pub fn open(server: &Client, id: &str) -> Result<Self> {
        let stream = TcpStream::connect(server.address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        let url = format!("ws://{}/v2/box/{id}/exec-session", server.address);
        let mut request = url.into_client_request()?;
        request.headers_mut().insert("x-box-api-key", server.key.parse()?);
        let (socket, _) = client(request, stream).map_err(|error| anyhow::anyhow!("{error}"))?;
        Ok(Self(socket))
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// Nobody takes it.
    pub fn say(&mut self, frame: &Value) -> Result<()> {
        self.0.send(Message::text(frame.to_string())).context("sending a frame")
    }

    /// The next frame.
    ///
    /// # Errors
    /// The server has closed, or says nothing in time.
    pub fn hear(&mut self) -> Result<Value> {
        loop {
            match self.0.read().context("waiting for a frame")? {
                Message::Text(text) => return Ok(serde_json::from_str(&text)?),
                Message::Ping(_) | Message::Pong(_) => {}
                Message::Binary(_) | Message::Close(_) | Message::Frame(_) => bail!("the server has closed"),
            }
        }
    }
}
