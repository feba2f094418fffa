//! What comes of a piece of code: held for an answer, or passed on as it comes. Bounded either way.

use boxyard_proto::api::contexts::CodeError;
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::frames::Shown;
use crate::boxes::output::{Budget, Output, Share, Stream};

/// Results of one piece of code at most.
pub(super) const RESULTS_MAX: usize = 256;
/// Parts that wait for a reader at most.
const PIPE_PARTS: usize = 4;

/// A part of what comes of a piece of code.
#[derive(Debug)]
pub enum Part {
    /// Bytes of its standard output.
    Stdout(Bytes),
    /// Bytes of its standard error.
    Stderr(Bytes),
    /// Something that it shows, with what that takes of the memory for answers.
    Result(Shown, Share),
}

/// What came of a piece of code that was begun.
#[derive(Debug, Default)]
pub struct Finished {
    /// Which it was to its interpreter, from 1.
    pub execution_count: u64,
    /// What it wrote, where that was to be held.
    pub stdout: Vec<u8>,
    /// The same for standard error.
    pub stderr: Vec<u8>,
    /// What it showed, where that was to be held.
    pub results: Vec<Shown>,
    /// What ended it early.
    pub error: Option<CodeError>,
    /// Whether there was more output, or more results.
    pub truncated: bool,
    /// Why the interpreter was started anew for it, if it was.
    pub note: Option<String>,
    /// What the answer takes of the memory for answers.
    pub share: Share,
}

/// Where what comes of a piece of code goes.
pub(super) struct Sink {
    to: To,
    results: usize,
    result_bytes: usize,
    truncated: bool,
    pub(super) error: Option<CodeError>,
    hurry: CancellationToken,
}

enum To {
    Hold(Output, Vec<Shown>),
    /// To a reader; with the memory for answers, of which each result takes a share for as long as it is on its way.
    Pipe(mpsc::Sender<Part>, Budget),
    /// Nobody reads any more.
    Nowhere,
}

impl Sink {
    /// Holds it. Results take at most so many bytes.
    pub(super) fn hold(output: Output, result_bytes: usize) -> Self {
        Self::new(To::Hold(output, Vec::new()), result_bytes)
    }

    /// Passes it on to a reader, who decides how fast the code goes on.
    pub(super) fn pipe(budget: &Budget, result_bytes: usize) -> (Self, mpsc::Receiver<Part>) {
        let (parts, reader) = mpsc::channel(PIPE_PARTS);
        (Self::new(To::Pipe(parts, budget.clone()), result_bytes), reader)
    }

    fn new(to: To, result_bytes: usize) -> Self {
        let hurry = CancellationToken::new();
        Self { to, results: RESULTS_MAX, result_bytes, truncated: false, error: None, hurry }
    }

    /// When this is cancelled, what a reader does not take at once is left out: the code is being ended.
    pub(super) fn hurry(&self) -> CancellationToken {
        self.hurry.clone()
    }

    pub(super) async fn written(&mut self, stream: Stream, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        match &mut self.to {
            To::Hold(output, _) => output.hold(stream, &bytes),
            To::Pipe(..) => {
                let part = match stream {
                    Stream::Out => Part::Stdout(bytes),
                    Stream::Err => Part::Stderr(bytes),
                };
                self.send(part).await;
            }
            To::Nowhere => {}
        }
    }

    pub(super) async fn shown(&mut self, shown: Shown) {
        let bytes = shown.len();
        // An honest driver keeps to these by itself.
        if self.results == 0 || bytes > self.result_bytes {
            self.truncated = true;
            return;
        }
        self.results -= 1;
        self.result_bytes -= bytes;
        match &mut self.to {
            To::Hold(output, results) => {
                if output.hold_elsewhere(bytes) {
                    results.push(shown);
                } else {
                    self.truncated = true;
                }
            }
            To::Pipe(_, budget) => {
                let mut room = budget.output();
                if room.hold_elsewhere(bytes) {
                    self.send(Part::Result(shown, room.share)).await;
                } else {
                    self.truncated = true;
                }
            }
            To::Nowhere => {}
        }
    }

    async fn send(&mut self, part: Part) {
        let To::Pipe(parts, _) = &self.to else { return };
        let sent = tokio::select! {
            biased;
            room = parts.reserve() => room.map(|room| room.send(part)),
            () = self.hurry.cancelled() => {
                self.truncated = true;
                Ok(())
            }
        };
        if sent.is_err() {
            self.to = To::Nowhere;
        }
    }

    /// Whether it is held for an answer.
    pub(super) fn holds(&self) -> bool {
        matches!(self.to, To::Hold(..))
    }

    /// Nobody wants it any more.
    pub(super) fn forget(&mut self) {
        self.to = To::Nowhere;
    }

    /// Notes that not all that there was has come.
    pub(super) fn cut(&mut self) {
        self.truncated = true;
    }

    /// All that there was. A reader's pipe ends with this.
    pub(super) fn finish(self, execution_count: u64, note: Option<String>) -> Finished {
        let Self { to, truncated, error, .. } = self;
        let finished = Finished { execution_count, error, note, truncated, ..Finished::default() };
        match to {
            To::Hold(output, results) => {
                let Output { out: stdout, err: stderr, truncated: more, share, .. } = output;
                Finished { stdout, stderr, results, truncated: truncated || more, share, ..finished }
            }
            To::Pipe(..) | To::Nowhere => finished,
        }
    }
}
