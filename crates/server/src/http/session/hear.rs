//! What a client says.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use boxyard_proto::api::session::{ClientFrame, Start};
use futures_util::StreamExt;
use tokio::io::{AsyncWriteExt, SimplexStream, WriteHalf};
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::Stream;
use super::steer::Steering;
use crate::http::websocket::MESSAGE_MAX;

/// What a terminal takes for the end of input.
const END_OF_INPUT: &[u8] = b"\x04";
/// How long input may find no room before that is told.
const STUCK_AFTER: Duration = Duration::from_millis(500);

/// Why nothing more is heard of a client.
#[derive(Debug)]
pub(super) enum Heard {
    /// It has gone.
    Left,
    /// What it said makes no sense, for the reason given.
    Nonsense(String),
}

/// The frame that every session begins with.
pub(super) async fn first(stream: &mut Stream) -> Result<Start, Heard> {
    match next(stream).await? {
        ClientFrame::Start(start) => Ok(start),
        ClientFrame::Stdin { .. }
        | ClientFrame::StdinClose
        | ClientFrame::Resize { .. }
        | ClientFrame::Signal { .. }
        | ClientFrame::Terminate { .. } => Err(Heard::Nonsense("the first frame must be start".into())),
    }
}

/// Takes in what the client says, to its end. When much input waits for the program this waits too, and so does the client; `stuck` is
/// told of that again and again.
pub(super) async fn hear(
    stream: &mut Stream,
    input: WriteHalf<SimplexStream>,
    mut steering: Steering,
    with_terminal: bool,
    stuck: &Notify,
) -> Heard {
    let mut input = Some(input);
    loop {
        match next(stream).await {
            Err(heard) => return heard,
            Ok(ClientFrame::Start(_)) => return Heard::Nonsense("the session has been started already".into()),
            Ok(ClientFrame::Stdin { data }) => {
                let Ok(bytes) = BASE64_STANDARD.decode(data) else {
                    return Heard::Nonsense("stdin: data is not base64".into());
                };
                // After stdin_close nobody takes it.
                if let Some(input) = &mut input {
                    pass(input, &bytes, stuck).await;
                }
            }
            Ok(ClientFrame::StdinClose) if with_terminal => {
                if let Some(input) = &mut input {
                    pass(input, END_OF_INPUT, stuck).await;
                }
            }
            Ok(ClientFrame::StdinClose) => {
                if let Some(mut input) = input.take() {
                    let _ = input.shutdown().await;
                }
            }
            Ok(ClientFrame::Resize { rows, cols }) => steering.resize(rows, cols),
            Ok(ClientFrame::Signal { signal }) => steering.signal(&signal),
            Ok(ClientFrame::Terminate { grace_ms }) => steering.terminate(grace_ms),
        }
    }
}

/// Puts bytes where they wait for the program, when there is room.
async fn pass(input: &mut WriteHalf<SimplexStream>, bytes: &[u8], stuck: &Notify) {
    let mut passing = std::pin::pin!(input.write_all(bytes));
    // The pipe is memory: writing to it fails only when nobody will read it.
    while timeout(STUCK_AFTER, &mut passing).await.is_err() {
        stuck.notify_one();
    }
}

/// The next frame that is one of ours.
async fn next(stream: &mut Stream) -> Result<ClientFrame, Heard> {
    loop {
        let text = match stream.next().await {
            Some(Ok(Message::Text(text))) => text,
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
            Some(Ok(Message::Binary(_))) => return Err(Heard::Nonsense("frames are JSON texts".into())),
            Some(Err(Error::Capacity(_))) => {
                return Err(Heard::Nonsense(format!("a frame has more than {MESSAGE_MAX} bytes")));
            }
            Some(Ok(Message::Close(_)) | Err(_)) | None => return Err(Heard::Left),
        };
        match ClientFrame::parse(&text) {
            Ok(Some(frame)) => return Ok(frame),
            // From a newer client.
            Ok(None) => {}
            Err(error) => return Err(Heard::Nonsense(format!("a frame is not as it must be: {error}"))),
        }
    }
}
