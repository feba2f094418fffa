//! What must hold for any text that a client or a server of a live session sends: for the fuzz target `session` and for the tests.

use boxyard_proto::api::session::{CONTROL_MAX, ClientFrame, FrameError, ServerFrame};
use serde::Serialize;

/// Takes `bytes` as one frame, in either direction.
///
/// # Panics
/// Something that must hold does not.
pub fn session(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    frame(text, ClientFrame::parse);
    frame(text, ServerFrame::parse);
}

/// What was understood can be said again, and is then understood in the same way.
fn frame<F: Serialize + PartialEq + std::fmt::Debug>(
    text: &str,
    parse: impl Fn(&str) -> Result<Option<F>, FrameError>,
) {
    if let Ok(Some(frame)) = parse(text)
        // Said again, control characters may take six times the space.
        && text.len() < CONTROL_MAX / 6
    {
        let said = serde_json::to_string(&frame).expect("texts and numbers serialise");
        assert!(matches!(parse(&said), Ok(Some(again)) if again == frame), "{frame:?}");
    }
}
