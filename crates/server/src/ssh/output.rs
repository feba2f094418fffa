//! The sending side of a channel.
//!
//! Nothing is sent that the client has not given window for: `russh` stops taking messages of *all* channels while one has bytes
//! without window. So everything here waits, for ever if the client never reads; whoever calls ends that with the channel.

use std::time::Duration;

use boxyard_engine::agent::Event;
use boxyard_proto::wire::Exit;
use bytes::Bytes;
use russh::ChannelWriteHalf;
use russh::server::{Handle, Msg};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::signals;

/// `SSH_EXTENDED_DATA_STDERR`, RFC 4254, section 5.2.
const STDERR: u32 = 1;
/// How long a client may take to make room for a last message.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The client or its channel is gone, or it takes packets of no size.
#[derive(Debug)]
pub(super) struct Unreadable;

/// How a session ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// Its program ended.
    Exit(Exit),
    /// There is no program any more or there never was one: why, and the exit status for that.
    Refused(String, u32),
    /// The connection to the program broke.
    Lost(String),
    /// Nobody can be told.
    Unreadable,
}

/// A channel to send on.
#[derive(Debug)]
pub(super) struct Output {
    write: ChannelWriteHalf<Msg>,
    handle: Handle,
}

impl Output {
    pub(super) fn new(write: ChannelWriteHalf<Msg>, handle: Handle) -> Self {
        Self { write, handle }
    }

    /// Sends bytes of standard output, or of a socket.
    pub(super) async fn data(&self, bytes: Bytes) -> Result<(), Unreadable> {
        self.write.data_bytes(bytes).await.map_err(|_| Unreadable)
    }

    /// Sends what a program has written; says how it ended, if it has.
    pub(super) async fn event(&self, event: Event) -> Option<Ended> {
        let sent = match event {
            Event::Out(bytes) => self.write.data_bytes(bytes).await,
            Event::Err(bytes) => self.write.extended_data_bytes(STDERR, bytes).await,
            Event::Exit(exit) => return Some(Ended::Exit(exit)),
        };
        sent.err().map(|_| Ended::Unreadable)
    }

    /// Tells the client how its program ended. The channel must be closed next.
    pub(super) async fn finish(&self, ended: Ended, terminal: bool) {
        let id = self.write.id();
        // Failures below mean that the connection is gone, and that nobody is left to be told.
        match ended {
            Ended::Exit(Exit { signal: Some(signal), .. }) => {
                let (text, tag) = (String::new(), String::new());
                let _ = self.handle.exit_signal_request(id, signals::name(signal), false, text, tag).await;
            }
            Ended::Exit(exit) => {
                let _ = self.write.exit_status(u32::try_from(exit.code).unwrap_or(u32::MAX)).await;
            }
            Ended::Refused(text, status) => {
                let told = async {
                    if terminal {
                        self.data(format!("\r\n{text}\r\n").into()).await
                    } else {
                        let line = Bytes::from(format!("{text}\n"));
                        self.write.extended_data_bytes(STDERR, line).await.map_err(|_| Unreadable)
                    }
                };
                let _ = timeout(LAST_WORDS, told).await;
                let _ = self.write.exit_status(status).await;
            }
            Ended::Lost(_) | Ended::Unreadable => {}
        }
        let _ = self.write.eof().await;
    }

    /// Nothing more comes.
    pub(super) async fn eof(&self) {
        let _ = self.write.eof().await;
    }

    /// Closes the channel.
    pub(super) async fn close(&self) {
        let _ = self.write.close().await;
    }
}

/// Waits for a token, for ever if there is none.
pub(super) async fn cancelled(token: Option<&CancellationToken>) {
    match token {
        Some(token) => token.cancelled().await,
        None => std::future::pending().await,
    }
}
