//! Files as JSON.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use boxyard_proto::api::files::{FileContent as Answer, RANGE_MAX, READ_MAX, ReadQuery};
use boxyard_proto::files::Ask;

use super::given::Encoding;
use super::told::{AsyncNext, Piece, tell};
use super::{begin, given};
use crate::boxes::{FileContent, FileError};
use crate::http::Http;
use crate::http::auth::Caller;
use crate::http::error::files::{FileRefusals, about};
use crate::http::error::{ApiError, Refusals};
use crate::http::json::{Path, Query};

/// Reads a file
///
/// As text, in which U+FFFD stands for what is no UTF-8, or in base64. `length` (also 0) asks for a range, which is empty beyond the end.
/// A whole file may have 64 MiB; longer ones are for `files/download`.
#[utoipa::path(get, path = "/v2/box/{id}/files/read", tag = "files",
    params(("id" = String, Path, description = "Id or name of the box"), ReadQuery),
    responses((status = 200, body = Answer), Refusals, FileRefusals))]
pub(crate) async fn read(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Path(id): Path<String>,
    Query(query): Query<ReadQuery>,
) -> Result<Response, ApiError> {
    let kept = http.boxes.find(&account, &id)?;
    let path = given::path("path", query.path, query.path_base64)?;
    let encoding = Encoding::parse(query.encoding.as_deref())?;
    if query.length.is_some_and(|length| length > RANGE_MAX) {
        return Err(ApiError::bad_request(format!("length can be at most {RANGE_MAX} bytes")));
    }
    let offset = query.length.and(query.offset).unwrap_or(0);
    let ask = Ask::Read { path: path.text(), offset, length: query.length };
    let content = begin(&http, &kept).await?.open(&ask).await.map_err(about(&path))?;
    if content.length().is_none_or(|length| length > READ_MAX) {
        let text = format!(
            "{}: the file is longer than the {READ_MAX} bytes that can be read as JSON; use files/download, or read ranges",
            path.shown()
        );
        return Err(ApiError::file_too_long(text));
    }
    let encoder = Encoder { encoding, begun: false, held: Vec::new() };
    tell(Reading { content, encoder }, Content, about(&path)).await
}

struct Reading {
    content: FileContent,
    encoder: Encoder,
}

struct Content;

impl AsyncNext<Reading> for Content {
    async fn next(&self, reading: &mut Reading) -> Result<Piece, FileError> {
        let Reading { content, encoder } = reading;
        Ok(match content.next().await? {
            Some(bytes) => Piece::Some(encoder.some(&bytes).into()),
            None => Piece::Last(encoder.end().into()),
        })
    }
}

/// Makes `{"content":"…"}` of bytes, wherever they are cut.
struct Encoder {
    encoding: Encoding,
    begun: bool,
    /// What cannot be told without what comes next: up to three bytes of a character, or up to two for base64.
    held: Vec<u8>,
}

impl Encoder {
    fn some(&mut self, bytes: &[u8]) -> String {
        let mut text = self.begin();
        let joined;
        let bytes = if self.held.is_empty() {
            bytes
        } else {
            self.held.extend_from_slice(bytes);
            joined = std::mem::take(&mut self.held);
            &joined
        };
        let (now, later) = bytes.split_at(match self.encoding {
            Encoding::Text => bytes.len() - unfinished(bytes),
            Encoding::Base64 => bytes.len() - bytes.len() % 3,
        });
        self.tell(&mut text, now);
        self.held = later.to_vec();
        text
    }

    fn end(&mut self) -> String {
        let mut text = self.begin();
        let held = std::mem::take(&mut self.held);
        self.tell(&mut text, &held);
        text.push_str("\"}");
        text
    }

    fn begin(&mut self) -> String {
        if std::mem::replace(&mut self.begun, true) { String::new() } else { "{\"content\":\"".into() }
    }

    fn tell(&self, text: &mut String, bytes: &[u8]) {
        match self.encoding {
            Encoding::Base64 => STANDARD.encode_string(bytes, text),
            Encoding::Text => {
                // A text always serialises, and in quotes.
                let json = serde_json::to_string(&String::from_utf8_lossy(bytes)).unwrap_or_default();
                text.push_str(json.get(1..json.len().saturating_sub(1)).unwrap_or_default());
            }
        }
    }
}

/// How many bytes at the end are the beginning of a character.
fn unfinished(bytes: &[u8]) -> usize {
    let tail = bytes.get(bytes.len().saturating_sub(3)..).unwrap_or_default();
    // What begins a character, with what follows it.
    let Some(start) = tail.iter().rposition(|byte| *byte >= 0b1100_0000) else { return 0 };
    let begun = tail.get(start..).unwrap_or_default();
    match str::from_utf8(begun) {
        Err(error) if error.valid_up_to() == 0 && error.error_len().is_none() => begun.len(),
        Ok(_) | Err(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn told(encoding: Encoding, pieces: &[&[u8]]) -> String {
        let mut encoder = Encoder { encoding, begun: false, held: Vec::new() };
        let mut text: String = pieces.iter().map(|piece| encoder.some(piece)).collect();
        text.push_str(&encoder.end());
        serde_json::from_str::<Answer>(&text).expect("JSON").content
    }

    proptest! {
        #[test]
        fn it_is_the_same_wherever_it_is_cut(
            text in prop::collection::vec(prop_oneof![
                Just("ü".as_bytes()), Just("€".as_bytes()), Just("😀".as_bytes()), Just(&b"\xff"[..]), Just(&b"\xf0\x9f"[..]),
                Just(&b"\xe2"[..]), Just(&b"\x80"[..]), Just(&b"\0\"\\\n"[..]), Just(&b"a"[..])], 0..12),
            cuts in prop::collection::vec(0..40_usize, 0..4),
        ) {
            let all = text.concat();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(all.len())).collect();
            cuts.sort_unstable();
            cuts.push(all.len());
            let mut from = 0;
            let pieces: Vec<&[u8]> = cuts.iter().map(|cut| &all[std::mem::replace(&mut from, *cut)..*cut]).collect();
            prop_assert_eq!(told(Encoding::Text, &pieces), String::from_utf8_lossy(&all));
            prop_assert_eq!(told(Encoding::Base64, &pieces), STANDARD.encode(&all));
        }
    }
}
