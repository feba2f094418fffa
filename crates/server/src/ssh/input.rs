//! What a client has sent on a channel and the box has not taken yet.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use boxyard_engine::agent::JobControl;
use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;

use super::flow::{Flow, Gauge, Overrun};

/// Pieces shorter than this are put together, so that a client cannot make us keep much more than the bytes themselves.
const SMALL: usize = 4096;
/// Bytes of small pieces that are put together at most.
const TOGETHER: usize = 64 * 1024;

/// Bytes that are written to the box at once, if so many wait.
const AT_ONCE: usize = 256 * 1024;

/// A queue of bytes with one writer, who never waits, and one reader.
#[derive(Debug)]
pub(super) struct Input {
    waiting: Mutex<Waiting>,
    changed: Notify,
}

#[derive(Debug)]
struct Waiting {
    pieces: VecDeque<Bytes>,
    /// Small pieces that came after all others.
    small: BytesMut,
    gauge: Gauge,
    ended: bool,
    /// Nobody will take anything any more.
    unwanted: bool,
}

impl Input {
    /// Nothing yet, of a channel of this connection.
    pub(super) fn new(flow: &Arc<Flow>) -> Self {
        let waiting = Waiting {
            pieces: VecDeque::new(),
            small: BytesMut::new(),
            gauge: flow.gauge(),
            ended: false,
            unwanted: false,
        };
        Self { waiting: Mutex::new(waiting), changed: Notify::new() }
    }

    /// Adds what the client has sent.
    ///
    /// # Errors
    /// There is no room; the client has not kept to its window.
    pub(super) fn push(&self, bytes: Bytes) -> Result<(), Overrun> {
        let mut waiting = self.waiting();
        if waiting.unwanted || waiting.ended || bytes.is_empty() {
            return Ok(());
        }
        waiting.gauge.arrived(bytes.len())?;
        if bytes.len() >= SMALL {
            waiting.gather();
            waiting.pieces.push_back(bytes);
        } else {
            if waiting.small.len() + bytes.len() > TOGETHER {
                waiting.gather();
            }
            waiting.small.extend_from_slice(&bytes);
        }
        drop(waiting);
        self.changed.notify_one();
        Ok(())
    }

    /// The client sends no more.
    pub(super) fn end(&self) {
        self.waiting().ended = true;
        self.changed.notify_one();
    }

    /// Writes everything to the box, to its end. When the box takes no more, the rest is thrown away as it comes.
    pub(super) async fn feed(&self, control: &JobControl) {
        loop {
            match self.next().await {
                None => {
                    // Whoever does not read any more need not be told of the end.
                    let _ = control.end_input().await;
                    return;
                }
                Some(pieces) => {
                    let written = control.input_pieces(&pieces).await;
                    let mut waiting = self.waiting();
                    waiting.gauge.taken(pieces.iter().map(Bytes::len).sum());
                    if written.is_err() {
                        waiting.discard();
                        return;
                    }
                }
            }
        }
    }

    /// The next pieces, which count as waiting until [`Gauge::taken`] is told of them; `None` at the end.
    async fn next(&self) -> Option<Vec<Bytes>> {
        loop {
            {
                let mut waiting = self.waiting();
                if waiting.pieces.is_empty() {
                    waiting.gather();
                }
                let mut total = 0;
                let fits = |piece: &&Bytes| {
                    total += piece.len();
                    total <= AT_ONCE
                };
                // One at least, which is never larger than a packet.
                let count = waiting.pieces.iter().take_while(fits).count().max(1).min(waiting.pieces.len());
                if count > 0 {
                    return Some(waiting.pieces.drain(..count).collect());
                }
                if waiting.ended {
                    return None;
                }
            }
            self.changed.notified().await;
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// Makes the small pieces one of the others.
    fn gather(&mut self) {
        if !self.small.is_empty() {
            self.pieces.push_back(std::mem::take(&mut self.small).freeze());
        }
    }

    fn discard(&mut self) {
        let left: usize = self.pieces.iter().map(Bytes::len).sum::<usize>() + self.small.len();
        self.gauge.taken(left);
        self.pieces = VecDeque::new();
        self.small = BytesMut::new();
        self.unwanted = true;
    }
}

#[cfg(test)]
mod tests {
    use super::super::Pace;
    use super::super::flow::Backlogs;
    use super::*;

    #[tokio::test]
    async fn pieces_come_out_in_their_order_and_small_ones_together() {
        let input = Input::new(&Flow::new(Backlogs::default(), Pace::new()));
        let big = Bytes::from(vec![b'x'; SMALL]);
        for piece in [Bytes::from_static(b"a"), Bytes::from_static(b"b"), big.clone(), Bytes::from_static(b"c")] {
            input.push(piece).expect("room");
        }
        input.end();
        input.push(Bytes::from_static(b"after the end")).expect("ignored");
        assert_eq!(input.next().await, Some(vec![Bytes::from_static(b"ab"), big]));
        assert_eq!(input.next().await, Some(vec![Bytes::from_static(b"c")]));
        assert_eq!(input.next().await, None);
    }

    #[test]
    fn what_nobody_wants_takes_no_room() {
        let backlogs = Backlogs::default();
        let input = Input::new(&Flow::new(backlogs.clone(), Pace::new()));
        input.push(Bytes::from(vec![0; 100_000])).expect("room");
        input.push(Bytes::from_static(b"small")).expect("room");
        assert_eq!(backlogs.waiting(), 100_005);
        input.waiting().discard();
        assert_eq!(backlogs.waiting(), 0);
        input.push(Bytes::from(vec![0; 100_000])).expect("ignored");
        assert_eq!(backlogs.waiting(), 0);
    }
}
