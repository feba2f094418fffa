//! The parts of a multipart body, as they come.
//!
//! The library that takes them apart reads ahead as far as it can and keeps all that it has read, the head of a part however long it is.
//! So it gets to see one piece of the body at a time, and only when what it has is not enough.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use multer::{Field, Multipart};

use super::incoming::{BodyError, Incoming};
use crate::http::error::ApiError;

/// Bytes of a part's head at most, and of what stands before the first one.
pub(super) const HEAD_MAX: usize = 64 * 1024;

/// A multipart body.
pub(super) struct Parts {
    multipart: Multipart<'static>,
    body: Gate,
}

/// A body that gives one piece each time it is opened.
#[derive(Clone)]
struct Gate(Arc<Mutex<Gated>>);

struct Gated {
    incoming: Incoming,
    open: bool,
    /// Bytes that it has given since the last step forward.
    given: usize,
    failure: Option<BodyError>,
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, Gated> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stream for Gate {
    type Item = Result<Bytes, BodyError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut gated = self.lock();
        if !gated.open {
            // Whoever opens it asks again.
            return Poll::Pending;
        }
        let Poll::Ready(given) = gated.incoming.poll_next(cx) else { return Poll::Pending };
        gated.open = false;
        Poll::Ready(match given {
            Ok(Some(bytes)) => {
                gated.given += bytes.len();
                Some(Ok(bytes))
            }
            Ok(None) => None,
            Err(error) => {
                gated.failure = Some(error);
                Some(Err(error))
            }
        })
    }
}

/// The boundary that a request's content type tells.
///
/// # Errors
/// It is no multipart form.
pub(super) fn boundary(content_type: Option<&str>) -> Result<String, ApiError> {
    let boundary = content_type.and_then(|content_type| multer::parse_boundary(content_type).ok());
    boundary.ok_or_else(|| {
        ApiError::bad_request(
            "the body must be multipart/form-data with repeated fields paths and files; for one file as it is, use PUT",
        )
    })
}

impl Parts {
    /// The parts of `incoming` between lines with `boundary`.
    pub(super) fn new(incoming: Incoming, boundary: String) -> Self {
        let body = Gate(Arc::new(Mutex::new(Gated { incoming, open: false, given: 0, failure: None })));
        Self { multipart: Multipart::new(body.clone(), boundary), body }
    }

    /// The next part; none at the end. The one before must have been read to its end.
    pub(super) async fn next(&mut self) -> Result<Option<Field<'static>>, ApiError> {
        let Self { multipart, body } = self;
        std::future::poll_fn(|cx| step(body, cx, |cx| multipart.poll_next_field(cx))).await
    }

    /// The next bytes of a part; none at its end.
    pub(super) async fn content(&self, field: &mut Field<'static>) -> Result<Option<Bytes>, ApiError> {
        let mut next = |cx: &mut Context<'_>| Pin::new(&mut *field).poll_next(cx).map(Option::transpose);
        std::future::poll_fn(|cx| step(&self.body, cx, &mut next)).await
    }

    /// Reads and drops what is left, within bounds.
    pub(super) async fn drop_rest(self) {
        let Self { multipart, body } = self;
        drop(multipart);
        // Nobody else has it any more.
        if let Ok(gated) = Arc::try_unwrap(body.0).map(Mutex::into_inner) {
            gated.unwrap_or_else(PoisonError::into_inner).incoming.drop_rest().await;
        }
    }
}

/// Goes on for as long as there is something to go on with.
fn step<T>(
    body: &Gate,
    cx: &mut Context<'_>,
    mut poll: impl FnMut(&mut Context<'_>) -> Poll<multer::Result<T>>,
) -> Poll<Result<T, ApiError>> {
    loop {
        if let Poll::Ready(done) = poll(cx) {
            let mut gated = body.lock();
            (gated.given, gated.open) = (0, false);
            return Poll::Ready(done.map_err(|error| refusal(gated.failure, &error)));
        }
        let mut gated = body.lock();
        if gated.open {
            // It has been asked, and nothing is there yet.
            return Poll::Pending;
        }
        if gated.given > HEAD_MAX {
            return Poll::Ready(Err(ApiError::bad_request(format!(
                "the body is not multipart/form-data with the boundary that its content type tells, or the head of a part is over {HEAD_MAX} bytes"
            ))));
        }
        gated.open = true;
    }
}

fn refusal(failure: Option<BodyError>, error: &multer::Error) -> ApiError {
    match failure {
        Some(failure) => failure.into(),
        None => ApiError::bad_request(format!("the multipart body is malformed or not complete: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::http::files::exercise::{cut, parts};

    proptest! {
        #[test]
        fn parts_are_the_same_wherever_the_body_is_cut(
            contents in prop::collection::vec(prop::collection::vec(
                prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'-'), Just(b'x'), any::<u8>()], 0..40), 0..6),
            cuts in prop::collection::vec(0..600_usize, 0..8),
        ) {
            let mut all = Vec::new();
            let mut expected = Vec::new();
            for content in contents {
                // What has the boundary in it is no content of a part.
                if [b"\r\n--x", &content[..], b"\r\n--x"].concat().windows(5).filter(|part| part == b"\r\n--x").count() > 2 {
                    continue;
                }
                all.extend_from_slice(b"--x\r\nContent-Disposition: form-data; name=\"files\"\r\n\r\n");
                all.extend_from_slice(&content);
                all.extend_from_slice(b"\r\n");
                expected.push((Some("files".to_owned()), content));
            }
            all.extend_from_slice(b"--x--\r\n");
            let found = parts(cut(&all, cuts)).map_err(|error| TestCaseError::fail(error.message().to_owned()))?;
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn whatever_comes_there_is_an_end(
            all in prop::collection::vec(prop::sample::select(vec![
                "--x", "\r\n", "--", "Content-Disposition: form-data; name=\"a", "\"", ":", "\0", "ü", "\r\n\r\n",
            ]), 0..30),
            cuts in prop::collection::vec(0..200_usize, 0..6),
        ) {
            // It ends at all, and without a panic.
            let _ = parts(cut(all.concat().as_bytes(), cuts));
        }
    }

    #[test]
    fn a_head_that_has_no_end_is_refused() {
        let endless = |start: &[u8]| [vec![start.to_vec()], vec![vec![b'a'; 10_000]; 50]].concat();
        for start in [&b"--x\r\nContent-Disposition: "[..], b"", b"--x\r\nA: b\r\n"] {
            let refused = parts(endless(start)).expect_err("no end");
            assert!(refused.message().contains("head of a part"), "{}", refused.message());
        }
        // A long content is none of that.
        let whole = [&b"--x\r\nContent-Disposition: form-data; name=\"f\"\r\n\r\n"[..], &[b'-'; 500_000], b"\r\n--x--"]
            .concat();
        assert_eq!(parts(vec![whole]).map(|parts| parts.len()).ok(), Some(1));
    }
}
