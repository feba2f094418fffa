//! What must hold for any body that a client could send as a multipart form: for the fuzz target `multipart`, and for ordinary tests.

use std::convert::Infallible;

use axum::body::Body;
use axum::extract::Request;
use bytes::Bytes;

use super::incoming::Incoming;
use super::parts::{HEAD_MAX, Parts};
use crate::http::error::ApiError;

/// What stands between the parts, after two dashes.
const BOUNDARY: &str = "x";

/// Places at most at which a body is cut.
const CUTS_MAX: usize = 8;

/// A part's name and content.
pub(super) type Found = (Option<String>, Vec<u8>);

/// Takes `bytes` as a form with the boundary `x`, after a byte that says how many cuts there are and two for where each is.
///
/// # Panics
/// Something that must hold does not.
pub fn multipart(bytes: &[u8]) {
    let Some((&count, rest)) = bytes.split_first() else { return };
    let count = usize::from(count) % (CUTS_MAX + 1);
    let Some((cuts, body)) = rest.split_at_checked(2 * count) else { return };
    // Of longer heads some pieces have too much at once and others do not.
    if body.len() > HEAD_MAX {
        return;
    }
    let cuts = cuts.chunks_exact(2).map(|cut| usize::from(cut[0]) << 8 | usize::from(cut[1])).collect();
    let (whole, pieces) = (parts(vec![body.to_vec()]), parts(cut(body, cuts)));
    assert_eq!(whole.as_ref().ok(), pieces.as_ref().ok(), "another form where it is cut");
    match whole {
        Ok(found) => {
            let all: usize = found.iter().map(|(_, content)| content.len()).sum();
            assert!(all <= body.len(), "more than came");
            let delimiter = format!("\r\n--{BOUNDARY}");
            for (_, content) in &found {
                let has = content.windows(delimiter.len()).any(|part| part == delimiter.as_bytes());
                assert!(!has, "a content that goes on beyond its end");
            }
        }
        Err(error) => assert!(!error.message().is_empty() && error.message().len() < 1000, "{error:?}"),
    }
}

/// The parts of a body that comes in these pieces, or why there are none.
pub(super) fn parts(pieces: Vec<Vec<u8>>) -> Result<Vec<Found>, ApiError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let pieces = pieces.into_iter().map(|piece| Ok::<_, Infallible>(Bytes::from(piece)));
        let body = Body::from_stream(futures_util::stream::iter(pieces));
        let mut parts = Parts::new(Incoming::new(Request::new(body), 1 << 20), BOUNDARY.into());
        let mut all = Vec::new();
        while let Some(mut field) = parts.next().await? {
            let (name, mut content) = (field.name().map(str::to_owned), Vec::new());
            while let Some(bytes) = parts.content(&mut field).await? {
                content.extend_from_slice(&bytes);
            }
            all.push((name, content));
        }
        Ok(all)
    })
}

/// A body in pieces that end at these places.
pub(super) fn cut(all: &[u8], mut cuts: Vec<usize>) -> Vec<Vec<u8>> {
    cuts.iter_mut().for_each(|cut| *cut = (*cut).min(all.len()));
    cuts.push(all.len());
    cuts.sort_unstable();
    let mut from = 0;
    cuts.into_iter().map(|to| all[std::mem::replace(&mut from, to)..to].to_vec()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_a_form_or_none(
            cuts in prop::collection::vec(any::<[u8; 2]>().prop_map(|[high, low]| [high & 1, low]), 0..=CUTS_MAX),
            pieces in prop::collection::vec(prop_oneof![
                prop::sample::select(vec![
                    "--x\r\n", "\r\n--x\r\n", "--x--", "\r\n--x--\r\n", "--x", "\r\n", "--", "\r", "\n", "-", " ", "\t", "\0", "ü", ":", ";",
                    "Content-Disposition: form-data; name=\"files\"; filename=\"f\"", "Content-Disposition: form-data; name=paths",
                    "Content-Disposition: form-data", "content-type: a/b", "Content-Type: \u{1}", "\r\n\r\n", "\r\n\r\n", "\"", "a: b\r\n",
                ]).prop_map(|text| text.as_bytes().to_vec()),
                prop::collection::vec(any::<u8>(), 0..20),
            ], 0..20),
        ) {
            let mut bytes = vec![u8::try_from(cuts.len()).expect("few")];
            bytes.extend(cuts.concat());
            bytes.extend(pieces.concat());
            multipart(&bytes);
        }
    }
}
