//! The answer of a run whose output was held, as JSON made while it is sent: escaped as a whole, 64 MiB of output could take six times
//! as much memory.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::Frame;

use crate::boxes::Share;

/// Bytes of output that are turned into JSON at once.
const PIECE: usize = 64 * 1024;

/// A part of a text of JSON.
pub(super) enum Part {
    /// JSON as it is.
    Json(String),
    /// The same, of somebody else's.
    Raw(Bytes),
    /// What stands between the quotes of a string.
    Text(Bytes),
}

/// The body: the same text that [`boxyard_proto::api::exec::ExecResult`] serialises to.
pub(super) struct Held {
    parts: VecDeque<Part>,
    /// The output's share of what the server may hold, given back when the answer is sent.
    _share: Share,
}

impl Held {
    pub(super) fn new(exit_code: i32, output: Vec<u8>, error: Vec<u8>, truncated: bool, share: Share) -> Self {
        let mut parts = VecDeque::from([
            Part::Json(format!("{{\"exit_code\":{exit_code},\"output\":\"")),
            Part::Text(output.into()),
            Part::Json("\"".into()),
        ]);
        if !error.is_empty() {
            parts.extend([Part::Json(",\"error\":\"".into()), Part::Text(error.into()), Part::Json("\"".into())]);
        }
        parts.push_back(Part::Json(if truncated { ",\"truncated\":true}" } else { "}" }.into()));
        Self::of_parts(parts, share)
    }

    /// A body of these parts.
    pub(super) fn of_parts(parts: impl Into<VecDeque<Part>>, share: Share) -> Self {
        Self { parts: parts.into(), _share: share }
    }

    /// An object with this text under the name `name`, and behind it `rest`, the inside of an object that is not empty, or nothing.
    pub(super) fn text(name: &str, text: Vec<u8>, rest: &str, share: Share) -> Self {
        let end = if rest.is_empty() { "\"}".to_owned() } else { format!("\",{rest}}}") };
        let parts = [Part::Json(format!("{{\"{name}\":\"")), Part::Text(text.into()), Part::Json(end)];
        Self { parts: parts.into(), _share: share }
    }
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let json = loop {
            match self.parts.front_mut() {
                None => return Poll::Ready(None),
                Some(Part::Text(text)) if !text.is_empty() => {
                    let piece = text.split_to(cut(text));
                    break escaped(&String::from_utf8_lossy(&piece)).into();
                }
                Some(Part::Text(_)) => drop(self.parts.pop_front()),
                Some(Part::Raw(bytes)) => {
                    let bytes = std::mem::take(bytes);
                    self.parts.pop_front();
                    break bytes;
                }
                Some(Part::Json(json)) => {
                    let json = std::mem::take(json);
                    self.parts.pop_front();
                    break Bytes::from(json);
                }
            }
        };
        Poll::Ready(Some(Ok(Frame::data(json))))
    }

    fn is_end_stream(&self) -> bool {
        self.parts.is_empty()
    }
}

/// Where to cut so that no character is divided. Bytes that are no UTF-8 may be cut anywhere: each reads as U+FFFD by itself, or stands
/// behind the beginning that it belongs to.
fn cut(text: &[u8]) -> usize {
    if text.len() <= PIECE {
        return text.len();
    }
    let begins = |at: &usize| text[*at] & 0b1100_0000 != 0b1000_0000;
    (PIECE - 3..=PIECE).rev().find(begins).unwrap_or(PIECE)
}

fn escaped(text: &str) -> String {
    // A text always serialises, and in quotes.
    let mut json = serde_json::to_string(text).unwrap_or_else(|_| "\"\"".into());
    json.pop();
    json.remove(0);
    json
}

#[cfg(test)]
mod tests {
    use boxyard_proto::api::exec::ExecResult;
    use http_body_util::BodyExt;

    use super::*;

    async fn sent(output: &[u8], error: &[u8], truncated: bool) -> (String, usize) {
        let mut body = Held::new(7, output.to_vec(), error.to_vec(), truncated, Share::default());
        let (mut all, mut longest) = (Vec::new(), 0);
        while let Some(frame) = body.frame().await {
            let data = frame.expect("infallible").into_data().expect("data");
            longest = longest.max(data.len());
            all.extend_from_slice(&data);
        }
        (String::from_utf8(all).expect("JSON is UTF-8"), longest)
    }

    #[tokio::test]
    async fn it_is_what_the_type_serialises_to_wherever_it_is_cut() {
        for unit in ["a", "ü", "€", "😀", "\0", "\"\\\n", "a😀"].map(str::as_bytes).into_iter().chain([
            &b"\xff"[..],
            b"\x80",
            b"\xf0\x9f\x98",
            b"\xe2\x82a",
            b"\xc3",
        ]) {
            for shift in 0..4 {
                let output = [&b"xxx"[..shift], &unit.repeat((PIECE * 2 + 10) / unit.len())].concat();
                let error: &[u8] = if shift == 0 { b"" } else { unit };
                let expected = ExecResult {
                    exit_code: 7,
                    output: String::from_utf8_lossy(&output).into_owned(),
                    error: Some(String::from_utf8_lossy(error).into_owned()).filter(|error| !error.is_empty()),
                    truncated: shift == 1,
                };
                let (found, _) = sent(&output, error, shift == 1).await;
                assert!(found == serde_json::to_string(&expected).expect("JSON"), "{unit:?} {shift}");
            }
        }
    }

    #[tokio::test]
    async fn output_of_zeros_does_not_take_six_times_its_memory() {
        let (all, longest) = sent(&vec![0; 4 << 20], b"", false).await;
        assert!(all.len() > 24 << 20 && longest <= 6 * PIECE, "{longest}");
    }
}
