//! A connection that is given up when its client takes no bytes for too long, except while a stream is being read.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// Whether the client of a connection may take its time. Clones share the answer; every request of a connection carries one.
#[derive(Debug, Clone, Default)]
pub(super) struct Patience(Arc<AtomicBool>);

impl Patience {
    /// From here to the connection's next request its client may pause for as long as it likes: the reader of a stream decides how
    /// fast its program goes on.
    pub(super) fn have(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Another request has begun.
    pub(super) fn lose(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    fn is_had(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The connection. The kernel's own timeout for what it has sent (`TCP_USER_TIMEOUT`) is not used, because it also ends connections
/// whose client is there and has merely stopped reading.
pub(super) struct Paced<T> {
    inner: T,
    patience: Patience,
    stall_max: Duration,
    /// Runs while the client takes nothing.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<T> Paced<T> {
    /// `stall_max` is how long a client may take no byte of an answer.
    pub(super) fn new(inner: T, patience: Patience, stall_max: Duration) -> Self {
        Self { inner, patience, stall_max, stalled: None }
    }

    /// The connection itself.
    pub(super) fn into_inner(self) -> T {
        self.inner
    }

    fn pace(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_ready() || self.patience.is_had() {
            self.stalled = None;
            return written;
        }
        let stall_max = self.stall_max;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(stall_max)));
        stalled.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Paced<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Paced<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.pace(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.pace(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn a_client_that_reads_nothing_is_given_up() {
        let (near, _far) = duplex(4);
        let mut near = Paced::new(near, Patience::default(), Duration::from_millis(1));
        let error = near.write_all(b"12345").await.expect_err("nobody reads");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_reader_of_a_stream_that_pauses_for_minutes_still_gets_all_of_it() {
        let (near, mut far) = duplex(4);
        let patience = Patience::default();
        // With no time at all, the first write without room would be the last.
        let mut near = Paced::new(near, patience.clone(), Duration::ZERO);
        patience.have();
        let mut writing = Box::pin(near.write_all(b"12345678"));
        for _ in 0..3 {
            assert!(futures_util::poll!(&mut writing).is_pending());
            tokio::task::yield_now().await;
        }
        let mut read = [0; 8];
        let (wrote, got) = tokio::join!(writing, far.read_exact(&mut read));
        wrote.expect("written");
        got.expect("read");
        assert_eq!(&read, b"12345678");
    }
}
