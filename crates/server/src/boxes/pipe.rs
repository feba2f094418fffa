//! A queue of bytes between a run and whoever reads its output: bounded by bytes, without copying what is large.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

/// Bytes that wait to be read at most.
const ROOM: usize = 2 * 1024 * 1024;
/// What the smallest piece counts for, so that the number of pieces is bounded too.
const PIECE_MIN: usize = 1024;
/// Pieces up to this size are copied: they would otherwise keep the large buffer alive that they were read into.
const COPIED_MAX: usize = 16 * 1024;

/// Makes a pipe.
pub(super) fn pipe() -> (Writer, Reader) {
    let (pieces, queue) = mpsc::unbounded_channel();
    let room = Arc::new(Semaphore::new(ROOM));
    (Writer { room: Arc::clone(&room), pieces, hurry: CancellationToken::new() }, Reader { room, queue })
}

struct Piece {
    bytes: Bytes,
    counts_for: usize,
}

/// The end that a run writes to. Dropping it ends the output.
pub(super) struct Writer {
    room: Arc<Semaphore>,
    /// Bounded by `room`.
    pieces: mpsc::UnboundedSender<Piece>,
    hurry: CancellationToken,
}

/// Nobody reads any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Closed;

impl Writer {
    /// When this is cancelled, bytes that there is no room for are dropped instead of waited with: what writes them is being ended.
    pub(super) fn hurry(&self) -> CancellationToken {
        self.hurry.clone()
    }

    /// Waits for room and hands the bytes over.
    pub(super) async fn send(&self, bytes: Bytes) -> Result<(), Closed> {
        if bytes.is_empty() {
            return Ok(());
        }
        let counts_for = bytes.len().clamp(PIECE_MIN, ROOM);
        let permits = u32::try_from(counts_for).unwrap_or(u32::MAX);
        tokio::select! {
            biased;
            () = self.pieces.closed() => return Err(Closed),
            room = self.room.acquire_many(permits) => room.map_err(|_| Closed)?.forget(),
            () = self.hurry.cancelled() => return Ok(()),
        }
        let bytes = if bytes.len() <= COPIED_MAX { Bytes::copy_from_slice(&bytes) } else { bytes };
        self.pieces.send(Piece { bytes, counts_for }).map_err(|_| Closed)
    }
}

/// The end that output is read from. Dropping it tells the writer that nobody reads.
pub struct Reader {
    room: Arc<Semaphore>,
    queue: mpsc::UnboundedReceiver<Piece>,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("waiting", &self.queue.len()).finish_non_exhaustive()
    }
}

impl Reader {
    /// The next bytes, never empty; `None` when the output has ended.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        Poll::Ready(ready!(self.queue.poll_recv(cx)).map(|piece| {
            self.room.add_permits(piece.counts_for);
            piece.bytes
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test]
    async fn bytes_come_out_in_order_and_the_end_after_them() {
        let (writer, mut reader) = pipe();
        let write = async move {
            for piece in 0..10_000_u32 {
                writer.send(Bytes::copy_from_slice(&piece.to_be_bytes())).await.expect("somebody reads");
            }
        };
        let read = async {
            let mut all = Vec::new();
            while let Some(bytes) = poll_fn(|cx| reader.poll_next(cx)).await {
                all.extend_from_slice(&bytes);
            }
            all
        };
        let ((), all) = tokio::join!(write, read);
        let expected: Vec<u8> = (0..10_000_u32).flat_map(u32::to_be_bytes).collect();
        assert_eq!(all, expected);
    }

    #[tokio::test]
    async fn a_full_pipe_holds_the_writer_until_somebody_reads_or_leaves() {
        let (writer, mut reader) = pipe();
        writer.send(Bytes::from(vec![1; ROOM])).await.expect("it fits");
        let mut blocked = Box::pin(writer.send(Bytes::from_static(b"x")));
        assert!(futures_util::poll!(&mut blocked).is_pending());
        assert_eq!(poll_fn(|cx| reader.poll_next(cx)).await.map(|bytes| bytes.len()), Some(ROOM));
        blocked.await.expect("there is room again");
        writer.send(Bytes::from(vec![1; ROOM - PIECE_MIN])).await.expect("it fits");
        let blocked = writer.send(Bytes::from_static(b"x"));
        drop(reader);
        assert_eq!(blocked.await, Err(Closed));
    }
}
