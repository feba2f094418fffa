//! What goes to the server.

use std::convert::Infallible;
use std::time::Duration;

use boxyard_proto::api::session::ClientFrame;
use futures_util::SinkExt;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_tungstenite::tungstenite::{Bytes, Message};

use super::Sink;

/// How often the server is asked whether it is there: often enough for an answer within the time that it may be silent.
const PING_EVERY: Duration = Duration::from_secs(20);

/// A frame as a message.
pub(super) fn frame(frame: &ClientFrame) -> Message {
    // Plain enums of texts and numbers always serialise.
    Message::text(serde_json::to_string(frame).unwrap_or_default())
}

/// Sends what comes, signals and sizes before input. A connection that takes nothing more is told of by who hears it end.
pub(super) async fn say(
    sink: &mut Sink,
    mut steered: mpsc::Receiver<Message>,
    mut fed: mpsc::Receiver<Message>,
) -> Infallible {
    let mut ping = interval_at(Instant::now() + PING_EVERY, PING_EVERY);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let message = tokio::select! {
            biased;
            Some(message) = steered.recv() => message,
            _ = ping.tick() => Message::Ping(Bytes::new()),
            Some(message) = fed.recv() => message,
        };
        if sink.send(message).await.is_err() {
            return std::future::pending().await;
        }
    }
}
