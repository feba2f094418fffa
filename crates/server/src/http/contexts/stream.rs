//! The body of `code-stream` of a context: server-sent events, each sent as soon as it is there.

use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use boxyard_proto::api::contexts::{CodeDone, CodeError};
use bytes::Bytes;
use futures_util::stream::unfold;
use http::header;
use http_body_util::BodyExt;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::outcome::{parts_of, text};
use crate::boxes::{CodeReply, Finished, Part};
use crate::http::error::ApiError;
use crate::http::held::{self, Held};
use crate::http::paced::Patience;

/// How often a line without meaning is sent: proxies cut what is silent for a minute.
const PING_EVERY: Duration = Duration::from_secs(25);
/// Bytes of a character that is not complete at most.
const BEGUN_MAX: usize = 3;

/// Answers with what comes of a piece of code. The head goes out at once.
pub(super) fn respond(reply: CodeReply, parts: mpsc::Receiver<Part>, patience: &Patience) -> Response {
    patience.have();
    let mut ping = interval_at(Instant::now() + PING_EVERY, PING_EVERY);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let told = Told { parts, reply: Some(reply), ping, result: None, begun: [Vec::new(), Vec::new()] };
    let events = unfold(told, async |mut told| {
        let event = told.next().await?;
        Some((Ok::<_, std::convert::Infallible>(event), told))
    });
    let head = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-cache"),
        // Proxies that would hold events back until there are more of them know this one.
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    (head, Body::from_stream(events)).into_response()
}

struct Told {
    parts: mpsc::Receiver<Part>,
    /// Taken when the last events have been told.
    reply: Option<CodeReply>,
    ping: Interval,
    /// A result that is being sent.
    result: Option<Held>,
    /// Bytes of characters whose end has not come, of standard output and standard error.
    begun: [Vec<u8>; 2],
}

impl Told {
    /// What to send next, if anything.
    async fn next(&mut self) -> Option<Bytes> {
        self.reply.as_ref()?;
        if let Some(piece) = self.piece().await {
            return Some(piece);
        }
        loop {
            let part = tokio::select! {
                biased;
                part = self.parts.recv() => part,
                _ = self.ping.tick() => return Some(Bytes::from_static(b": ping\n\n")),
            };
            let event = match part {
                Some(Part::Stdout(bytes)) => self.written(0, &bytes),
                Some(Part::Stderr(bytes)) => self.written(1, &bytes),
                Some(Part::Result(shown, share)) => {
                    let head = held::Part::Json("event: result\ndata: ".into());
                    let parts = [head].into_iter().chain(parts_of(shown));
                    let parts = parts.chain([held::Part::Json("\n\n".into())]).collect::<Vec<_>>();
                    self.result = Some(Held::of_parts(parts, share));
                    match self.piece().await {
                        None => continue,
                        piece => piece,
                    }
                }
                None => return Some(self.last().await),
            };
            if event.is_some() {
                return event;
            }
        }
    }

    /// The next piece of the result that is being sent: as JSON it may be several times as large, and is never there as a whole.
    async fn piece(&mut self) -> Option<Bytes> {
        let frame = self.result.as_mut()?.frame().await;
        let piece = frame.and_then(Result::ok).and_then(|frame| frame.into_data().ok());
        if piece.is_none() {
            self.result = None;
        }
        piece
    }

    /// Text that is complete. What is not waits for what comes next.
    fn written(&mut self, which: usize, bytes: &[u8]) -> Option<Bytes> {
        let mut all = std::mem::take(&mut self.begun[which]);
        all.extend_from_slice(bytes);
        let complete = complete(&all);
        self.begun[which] = all.split_off(complete);
        (!all.is_empty()).then(|| said(which, &all))
    }

    async fn last(&mut self) -> Bytes {
        let mut events = String::new();
        for which in [0, 1] {
            let begun = std::mem::take(&mut self.begun[which]);
            if !begun.is_empty() {
                events.push_str(&String::from_utf8_lossy(&said(which, &begun)));
            }
        }
        let Some(reply) = self.reply.take() else { return Bytes::new() };
        let ended = |error: ApiError| {
            let error = CodeError {
                name: "ContextEnded".into(),
                message: error.message().to_owned(),
                traceback: String::new(),
            };
            Finished { error: Some(error), ..Finished::default() }
        };
        let finished = match reply.await {
            Ok(Ok(finished)) => finished,
            Ok(Err(error)) => ended(error.into()),
            Err(_) => ended(ApiError::leaving()),
        };
        let Finished { execution_count, error, truncated, note, .. } = finished;
        if let Some(error) = error {
            events.push_str(&event("error", &error));
        }
        events.push_str(&event("done", &CodeDone { execution_count, truncated, note }));
        events.into()
    }
}

fn said(which: usize, bytes: &[u8]) -> Bytes {
    let name = ["stdout", "stderr"][which];
    format!("event: {name}\ndata: {{\"text\":{}}}\n\n", text(bytes)).into()
}

fn event<T: Serialize>(name: &str, data: &T) -> String {
    // Plain structs of texts and numbers always serialise, and on one line.
    format!("event: {name}\ndata: {}\n\n", serde_json::to_string(data).unwrap_or_default())
}

/// How many bytes there are without a character at the end that is not complete.
fn complete(bytes: &[u8]) -> usize {
    let from = bytes.len().saturating_sub(BEGUN_MAX);
    for at in (from..bytes.len()).rev() {
        let needs = match bytes[at] {
            0xc0..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf7 => 4,
            // Within a character.
            0x80..=0xbf => continue,
            _ => 1,
        };
        return if bytes.len() - at < needs { at } else { bytes.len() };
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_is_not_told_before_it_is_complete() {
        for (bytes, expected) in [
            ("aü".as_bytes(), 3),
            (b"a\xc3", 1),
            ("😀".as_bytes(), 4),
            (b"\xf0\x9f\x98", 0),
            (b"\xe2\x82", 0),
            (b"\xff", 1),
            (b"\x80\x80\x80\x80", 4),
            (b"", 0),
            (b"\xf0a", 2),
        ] {
            assert_eq!(complete(bytes), expected, "{bytes:?}");
        }
    }
}
