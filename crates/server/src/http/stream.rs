//! The body of `exec-stream` and `code-stream`: raw output, then one block that says how it ended.
//!
//! ```text
//!   bytes as the program wrote them
//!   [\n if the last one was none]event: exit\ndata: {"exit_code":0,"cpu_ns":1000}\n\n
//! ```
//! The block is one chunk: published clients lose the exit code when it comes in two. There are no heartbeats, because whatever is not
//! the block is output.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use boxyard_proto::RunId;
use boxyard_proto::api::error::ErrorBody;
use boxyard_proto::api::exec::StreamExit;
use bytes::Bytes;
use futures_util::stream::unfold;
use http::header;
use http_body::Frame;
use serde::Serialize;
use tokio::sync::oneshot;

use super::error::ApiError;
use super::exec::run_id_header;
use super::paced::Patience;
use crate::boxes::{BoxError, Collected, Cut, Ended, Ending, PipeReader, Reader, Started};

/// Answers with a run's output. The head goes out at once, before the first byte of output.
pub(super) fn respond(started: Started, output: PipeReader, folder: String, patience: &Patience) -> Response {
    let body = Output { output, end: Some(started.end), last: None, folder };
    answer(&started.id, Body::new(body), patience)
}

/// Answers with the output of a run that was begun before, from what is kept of it, and then with how it has `ended`.
pub(super) fn replay(
    id: &RunId,
    output: Reader,
    ended: impl Future<Output = Result<Ended, BoxError>> + Send + 'static,
    patience: &Patience,
) -> Response {
    let parts = unfold(Some((output, ended, None)), async |state| {
        let (mut output, ended, last) = state?;
        let end = match output.next().await {
            Ok(Some(bytes)) => {
                let last = bytes.last().copied().or(last);
                return Some((Ok(bytes), Some((output, ended, last))));
            }
            Ok(None) => match ended.await {
                Ok(Ended { exit_code: Some(exit_code), cpu_ns, complaint }) => {
                    End::Exit { exit_code, cpu_ns, complaint }
                }
                Ok(Ended { complaint, .. }) => End::Error(ApiError::not_run_again(complaint.as_deref())),
                Err(error) => End::Error(error.into()),
            },
            Err(Cut::Leaving) => End::Error(ApiError::leaving()),
            // It breaks off: a last block would say that this was all.
            Err(cut) => return Some((Err(cut), None)),
        };
        Some((Ok(last_block(&end, last)), None))
    });
    answer(id, Body::from_stream(parts), patience)
}

fn answer(id: &RunId, body: Body, patience: &Patience) -> Response {
    patience.have();
    let head = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-cache"),
        // Proxies that would hold output back until there is more of it know this one.
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    (head, run_id_header(id), body).into_response()
}

struct Output {
    output: PipeReader,
    /// Taken when the last block has been sent.
    end: Option<oneshot::Receiver<Collected>>,
    last: Option<u8>,
    folder: String,
}

impl http_body::Body for Output {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        let Some(end) = &mut this.end else { return Poll::Ready(None) };
        if let Some(bytes) = ready!(this.output.poll_next(cx)) {
            this.last = bytes.last().copied();
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        let end = ready!(Pin::new(end).poll(cx));
        this.end = None;
        let ending = end.map_or(Ending::Left, |collected| collected.ending);
        Poll::Ready(Some(Ok(Frame::data(last_block(&End::of(&ending, &this.folder), this.last)))))
    }

    fn is_end_stream(&self) -> bool {
        self.end.is_none()
    }
}

/// What is told of a run's end.
enum End {
    Exit { exit_code: i32, cpu_ns: i64, complaint: Option<String> },
    Error(ApiError),
}

impl End {
    fn of(ending: &Ending, folder: &str) -> Self {
        match (ApiError::of_ending(ending, folder), ending.code()) {
            (None, Some(exit_code)) => Self::Exit { exit_code, cpu_ns: ending.cpu_ns(), complaint: ending.complaint() },
            (Some(error), _) => Self::Error(error),
            (None, None) => Self::Error(ApiError::internal("the run's end is unknown")),
        }
    }
}

/// What follows the output, in one piece. `last` is the output's last byte.
fn last_block(end: &End, last: Option<u8>) -> Bytes {
    let mut text = String::new();
    if last.is_some_and(|last| last != b'\n') {
        text.push('\n');
    }
    match end {
        End::Exit { exit_code, cpu_ns, complaint } => {
            if let Some(complaint) = complaint {
                text.push_str(complaint);
                text.push('\n');
            }
            push_event(&mut text, "exit", &StreamExit { exit_code: *exit_code, cpu_ns: *cpu_ns });
        }
        End::Error(error) => push_event(&mut text, "error", &ErrorBody { error: error.message().to_owned() }),
    }
    text.into()
}

fn push_event<T: Serialize>(text: &mut String, event: &str, data: &T) {
    // Plain structs of texts and numbers always serialise.
    let data = serde_json::to_string(data).unwrap_or_default();
    text.push_str("event: ");
    text.push_str(event);
    text.push_str("\ndata: ");
    text.push_str(&data);
    text.push_str("\n\n");
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use boxyard_proto::wire::Exit;

    use super::*;

    #[test]
    fn the_last_block_is_as_clients_parse_it() {
        let exit = |code| Exit { code, signal: None, cpu_ns: 7, memory_peak: 0 };
        let block = |ending: &Ending, last| last_block(&End::of(ending, "/x"), last);
        let plain = "event: exit\ndata: {\"exit_code\":3,\"cpu_ns\":7}\n\n";
        assert_eq!(block(&Ending::Exited(exit(3)), None), plain);
        assert_eq!(block(&Ending::Exited(exit(3)), Some(b'\n')), plain);
        assert_eq!(block(&Ending::Exited(exit(3)), Some(b'c')), format!("\n{plain}"));
        let timed_out = Ending::TimedOut(Duration::from_millis(50), exit(143));
        let expected = "code timed out after 50 ms\nevent: exit\ndata: {\"exit_code\":124,\"cpu_ns\":7}\n\n";
        assert_eq!(block(&timed_out, None), expected);
        let error = "event: error\ndata: {\"error\":\"the server is shutting down\"}\n\n";
        assert_eq!(block(&Ending::Left, None), error);
    }
}
