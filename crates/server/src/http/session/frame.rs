//! Frames for the client.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use boxyard_proto::api::session::ServerFrame;
use tokio_tungstenite::tungstenite::Message;

/// A frame as a message.
pub(super) fn message(frame: &ServerFrame) -> Message {
    // Plain enums of texts and numbers always serialise.
    Message::text(serde_json::to_string(frame).unwrap_or_default())
}

/// Bytes of standard output.
pub(super) fn stdout(bytes: &[u8]) -> Message {
    data("stdout", bytes)
}

/// Bytes of standard error.
pub(super) fn stderr(bytes: &[u8]) -> Message {
    data("stderr", bytes)
}

/// What [`message`] makes of such a frame, without looking at the base64 a second time: nothing in it needs an escape.
fn data(kind: &str, bytes: &[u8]) -> Message {
    let mut text = String::with_capacity(bytes.len() / 3 * 4 + 48);
    text.push_str(r#"{"type":""#);
    text.push_str(kind);
    text.push_str(r#"","data":""#);
    BASE64_STANDARD.encode_string(bytes, &mut text);
    text.push_str(r#""}"#);
    Message::text(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_output_are_what_serde_would_make_of_them() {
        for bytes in [&b""[..], b"a", b"\x00\xff\"", &[7; 1000]] {
            let data = BASE64_STANDARD.encode(bytes);
            assert_eq!(stdout(bytes), message(&ServerFrame::Stdout { data: data.clone() }));
            assert_eq!(stderr(bytes), message(&ServerFrame::Stderr { data }));
        }
    }
}
