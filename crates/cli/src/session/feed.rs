//! Standard input, on its way to the program.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use boxyard_proto::api::session::ClientFrame;
use rustix::process::Signal;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::{mpsc, watch};
use tokio_tungstenite::tungstenite::Message;

use super::say::frame;
use super::{End, Escape};
use crate::failure::Failure;

/// Bytes that are read and sent at once.
const PIECE: usize = 64 * 1024;

/// Reads `input` and hands it on, piece by piece: the next is read when the one before is on its way and, where the server has told of a
/// `window`, when the program has `taken` enough of what went before. With an `escape` it is a terminal's, and looked through.
///
/// Returns only when the session is to end; the end of input is not the session's.
///
/// # Errors
/// Standard input cannot be read.
pub(super) async fn feed(
    mut input: impl AsyncRead + Unpin,
    window: Option<u64>,
    mut taken: watch::Receiver<u64>,
    mut escape: Option<Escape>,
    on: mpsc::Sender<Message>,
) -> Result<End, Failure> {
    let mut piece = vec![0; PIECE];
    let mut sent = 0_u64;
    loop {
        let room = match window {
            None => PIECE,
            // Whoever hears lives as long as the session.
            Some(window) => {
                let under_way = taken.wait_for(|taken| sent.saturating_sub(*taken) < window).await;
                let Ok(under_way) = under_way.map(|taken| sent.saturating_sub(*taken)) else {
                    return std::future::pending().await;
                };
                usize::try_from(window - under_way).unwrap_or(PIECE)
            }
        };
        let length = match input.read(&mut piece[..room.clamp(1, PIECE)]).await {
            Ok(length) => length,
            // The terminal is gone, or another job has it.
            Err(_) if escape.is_some() => 0,
            Err(error) => return Err(Failure::failed("cannot read standard input", error)),
        };
        let typed = &piece[..length];
        let message = match &mut escape {
            Some(_) if length == 0 => return Ok(End::Signalled(Signal::HUP.as_raw())),
            None if length == 0 => {
                let _ = on.send(frame(&ClientFrame::StdinClose)).await;
                return std::future::pending().await;
            }
            None => {
                sent += length as u64;
                data(typed)
            }
            Some(escape) => {
                let mut passed = Vec::with_capacity(length + 1);
                if escape.pass(typed, &mut passed) {
                    return Ok(End::Escaped);
                }
                if passed.is_empty() {
                    continue;
                }
                sent += passed.len() as u64;
                data(&passed)
            }
        };
        let _ = on.send(message).await;
    }
}

/// A frame of input.
fn data(bytes: &[u8]) -> Message {
    let mut text = String::with_capacity(bytes.len() / 3 * 4 + 48);
    text.push_str(r#"{"type":"stdin","data":""#);
    BASE64_STANDARD.encode_string(bytes, &mut text);
    text.push_str(r#""}"#);
    Message::text(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of(message: &Message) -> usize {
        let text = message.to_text().expect("text");
        match ClientFrame::parse(text).expect("a frame") {
            Some(ClientFrame::Stdin { data }) => BASE64_STANDARD.decode(data).expect("base64").len(),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn no_more_is_on_its_way_than_the_server_has_room_for() {
        let (told, taken) = watch::channel(0);
        let (on, mut fed) = mpsc::channel(1);
        let window = 3 * PIECE as u64 + 5;
        let feeding = tokio::spawn(feed(tokio::io::repeat(7), Some(window), taken, None, on));
        let mut sent = 0;
        while sent < window {
            sent += bytes_of(&fed.recv().await.expect("input")) as u64;
        }
        assert_eq!(sent, window);
        assert!(fed.try_recv().is_err(), "more than there is room for");
        told.send_replace(10);
        assert_eq!(bytes_of(&fed.recv().await.expect("input")), 10);
        // A server that has taken more than was sent is none of ours, and does no harm.
        told.send_replace(u64::MAX);
        assert_eq!(bytes_of(&fed.recv().await.expect("input")), PIECE);
        feeding.abort();
    }

    #[tokio::test]
    async fn the_end_of_input_is_told_and_does_not_end_the_session() {
        let (_told, taken) = watch::channel(0);
        let (on, mut fed) = mpsc::channel(1);
        let feeding = tokio::spawn(feed(&b"abc"[..], None, taken, None, on));
        assert_eq!(bytes_of(&fed.recv().await.expect("input")), 3);
        assert_eq!(fed.recv().await, Some(frame(&ClientFrame::StdinClose)));
        assert!(!feeding.is_finished());
        feeding.abort();
    }
}
