//! Bodies that are passed on as they come, however long they are: as long as the operator lets them be, and as fast as a box takes them.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::Request;
use bytes::Bytes;
use http::header;
use http_body::Body as _;
use tokio::time::{Sleep, sleep};

use crate::http::error::ApiError;
use crate::http::limits::{SILENCE_MAX, drop_rest};

/// What was wrong with a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum BodyError {
    #[error("the request's body did not arrive in time")]
    Slow,
    #[error("the request's body broke off")]
    Broken,
    #[error("the request's body is over the limit of {0} bytes")]
    TooLong(u64),
}

impl From<BodyError> for ApiError {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::Slow => Self::slow_body(),
            BodyError::Broken => Self::bad_request(error.to_string()),
            BodyError::TooLong(cap) => Self::body_too_long(cap),
        }
    }
}

/// A body as it comes.
pub(super) struct Incoming {
    body: Body,
    cap: u64,
    got: u64,
    announced: Option<u64>,
    /// The client waits to be told that it may send.
    asks_first: bool,
    /// Runs while the client is silent.
    silence: Option<Pin<Box<Sleep>>>,
    ended: bool,
}

impl Incoming {
    /// The body of `request`, of at most `cap` bytes.
    pub(super) fn new(request: Request, cap: u64) -> Self {
        let announced = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok());
        let announced = announced.and_then(|length| length.parse().ok());
        let asks_first = request.headers().contains_key(header::EXPECT);
        Self { body: request.into_body(), cap, got: 0, announced, asks_first, silence: None, ended: false }
    }

    /// The next bytes, never empty; none at the end.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, BodyError>> {
        if self.announced.is_some_and(|announced| announced > self.cap) {
            return Poll::Ready(Err(BodyError::TooLong(self.cap)));
        }
        loop {
            if self.ended {
                return Poll::Ready(Ok(None));
            }
            let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
                let silence = self.silence.get_or_insert_with(|| Box::pin(sleep(SILENCE_MAX)));
                return silence.as_mut().poll(cx).map(|()| Err(BodyError::Slow));
            };
            self.silence = None;
            // Once it has asked and been answered it sends.
            self.asks_first = false;
            let Some(frame) = frame else {
                self.ended = true;
                continue;
            };
            let Ok(frame) = frame else { return Poll::Ready(Err(BodyError::Broken)) };
            let Ok(data) = frame.into_data() else { continue };
            self.got += data.len() as u64;
            if self.got > self.cap {
                return Poll::Ready(Err(BodyError::TooLong(self.cap)));
            }
            if !data.is_empty() {
                return Poll::Ready(Ok(Some(data)));
            }
        }
    }

    /// The same.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Reads and drops what is left, within bounds, because many clients see a refusal only when they have sent everything.
    pub(super) async fn drop_rest(&mut self) {
        if !self.asks_first && !self.ended {
            drop_rest(&mut self.body).await;
        }
    }
}
