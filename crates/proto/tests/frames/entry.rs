//! What must hold for any bytes on a connection between an engine and `boxyard-init`: for the fuzz target `frames` and for the tests.

use boxyard_proto::wire::{self, FRAME_MAX, FromInit, HEADER_LEN, Kind, Parsed, ToInit, json_frame};
use serde::{Deserialize, Serialize};

/// Takes `bytes` as all that comes over a connection, and as one control message.
///
/// # Panics
/// Something that must hold does not.
pub fn frames(bytes: &[u8]) {
    messages(bytes);
    let mut rest = bytes;
    while let Some((&header, after)) = rest.split_first_chunk::<HEADER_LEN>() {
        let Ok((kind, length)) = wire::parse_header(header) else { return };
        assert!(length <= FRAME_MAX);
        assert_eq!(wire::header(kind, length), header, "a header says one thing in one way");
        let Some((payload, next)) = after.split_at_checked(length) else { return };
        if kind == Kind::Json {
            messages(payload);
        }
        rest = next;
    }
}

fn messages(payload: &[u8]) {
    message::<ToInit>(payload, &ToInit::KNOWN);
    message::<FromInit>(payload, &FromInit::KNOWN);
}

/// What was understood can be said again, and is then understood in the same way.
fn message<M>(payload: &[u8], known: &[&str])
where
    M: Serialize + for<'a> Deserialize<'a> + PartialEq + std::fmt::Debug,
{
    match wire::parse::<M>(payload, known) {
        // Said again it is longer by the fields that were left out, and must still fit.
        Ok(Parsed::Known(message)) if payload.len() < FRAME_MAX / 2 => {
            let frame = json_frame(&message);
            let again = frame.get(HEADER_LEN..).map(|payload| wire::parse::<M>(payload, known));
            assert!(matches!(again, Some(Ok(Parsed::Known(again))) if again == message), "{message:?}");
        }
        Ok(Parsed::Unknown(name)) => assert!(!known.contains(&name.as_str())),
        Ok(Parsed::Known(_)) | Err(_) => {}
    }
}
