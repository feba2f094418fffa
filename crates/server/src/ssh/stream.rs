//! The socket as `russh` sees it: counted, cut off when it is time, and slowed down when a client does nothing but keep us busy.

use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::metrics::{Direction, Metrics};

/// Bytes that are read at once when `russh` asks for less: it asks for each packet's head and body apart.
const BUFFER: usize = 128 * 1024;
/// Bytes that a client may send until it has logged in. Sixty keys of 8192 bits, each offered and one signed with, are less; what this
/// bounds is how often whoever has no key at all can have us exchange keys.
const BEFORE_LOGIN: usize = 128 * 1024;
/// A read that gave less than this gave little (see [`Pace`]).
const LITTLE: usize = 1024;
/// How long a client may take to close its side after we have closed ours.
const LINGER: Duration = Duration::from_secs(1);

/// How fast a connection is read. Clones share it.
///
/// `russh` grants a channel's window back as it receives data, however slowly somebody consumes them. A channel that nobody consumes is
/// given tiny windows, and its client sends tiny packets as fast as the network carries them; while a pace is set, reads that gave
/// little are followed by a pause, so that this costs next to nothing.
#[derive(Debug, Clone, Default)]
pub(super) struct Pace(Arc<AtomicU64>);

impl Pace {
    /// As fast as data come.
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// From now on, the time between a read that gave little and the next; none means as fast as data come. Precise to a microsecond.
    pub(super) fn set(&self, pause: Option<Duration>) {
        let micros = pause.map_or(0, |pause| u64::try_from(pause.as_micros()).unwrap_or(u64::MAX));
        self.0.store(micros, Ordering::Relaxed);
    }

    fn pause(&self) -> Option<Duration> {
        Some(self.0.load(Ordering::Relaxed)).filter(|micros| *micros > 0).map(Duration::from_micros)
    }
}

/// A client's connection. It ends for `russh` when its token is cancelled: a `russh` task that has begun can be ended in no other way.
#[derive(Debug)]
pub(super) struct Stream {
    socket: Arc<TcpStream>,
    cut_reads: Pin<Box<WaitForCancellationFutureOwned>>,
    cut_writes: Pin<Box<WaitForCancellationFutureOwned>>,
    received: Counter,
    sent: Counter,
    /// Bytes that may still come before `arrived`.
    before_login: usize,
    arrived: CancellationToken,
    pace: Pace,
    /// The pause that the pace demands.
    pause: Option<Pin<Box<Sleep>>>,
    /// Runs when our side is closed.
    linger: Option<Pin<Box<Sleep>>>,
    /// Costs only as much memory as has ever been read at once.
    buffer: Box<[u8]>,
    /// What of the buffer has not been handed on.
    start: usize,
    end: usize,
}

impl Stream {
    /// Reads and writes `socket` until `cut` is cancelled; and reads only so much before `arrived` is.
    pub(super) fn new(
        socket: Arc<TcpStream>,
        cut: &CancellationToken,
        arrived: &CancellationToken,
        pace: Pace,
        metrics: &Metrics,
    ) -> Self {
        Self {
            socket,
            cut_reads: Box::pin(cut.clone().cancelled_owned()),
            cut_writes: Box::pin(cut.clone().cancelled_owned()),
            received: metrics.ssh_bytes.get_or_create_owned(&Direction::RECEIVED),
            sent: metrics.ssh_bytes.get_or_create_owned(&Direction::SENT),
            before_login: BEFORE_LOGIN,
            arrived: arrived.clone(),
            pace,
            pause: None,
            linger: None,
            buffer: vec![0; BUFFER].into_boxed_slice(),
            start: 0,
            end: 0,
        }
    }

    fn read_from_socket(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        // Large reads go where they are wanted at once.
        let direct = buf.remaining() >= BUFFER;
        let length = loop {
            ready!(self.socket.poll_read_ready(cx))?;
            let target = if direct { buf.initialize_unfilled() } else { &mut *self.buffer };
            match self.socket.try_read(target) {
                Ok(length) => break length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        };
        if direct {
            buf.advance(length);
        } else {
            (self.start, self.end) = (0, length);
        }
        self.received.inc_by(length as u64);
        self.before_login = self.before_login.saturating_sub(length);
        if self.before_login == 0 && !self.arrived.is_cancelled() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        if length < LITTLE {
            self.pause = self.pace.pause().map(|pause| Box::pin(sleep(pause)));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.cut_reads.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        if let Some(linger) = &mut this.linger
            && linger.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Ok(()));
        }
        if this.start == this.end {
            ready!(this.read_from_socket(cx, buf))?;
        }
        let length = buf.remaining().min(this.end - this.start);
        buf.put_slice(&this.buffer[this.start..this.start + length]);
        this.start += length;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.cut_writes.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        loop {
            ready!(this.socket.poll_write_ready(cx))?;
            match this.socket.try_write(bytes) {
                Ok(length) => {
                    this.sent.inc_by(length as u64);
                    return Poll::Ready(Ok(length));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Closes our side. `russh` reads until the client has closed its own, which this bounds.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.linger.get_or_insert_with(|| Box::pin(sleep(LINGER)));
        match SockRef::from(&*this.socket).shutdown(Shutdown::Write) {
            Err(error) if error.kind() != io::ErrorKind::NotConnected => Poll::Ready(Err(error)),
            Ok(()) | Err(_) => Poll::Ready(Ok(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::time::Instant;

    use super::*;
    use crate::store::{Store, StoreOptions};

    struct Pair {
        ours: Stream,
        client: TcpStream,
        cut: CancellationToken,
        arrived: CancellationToken,
        pace: Pace,
        metrics: Metrics,
        _folder: TempDir,
    }

    async fn pair() -> Pair {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = Store::open(&folder.path().join("test.db"), StoreOptions::default()).await.expect("open a store");
        let metrics = Metrics::new(store);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
        let client = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connect");
        let (socket, _) = listener.accept().await.expect("accept");
        let (cut, arrived, pace) = (CancellationToken::new(), CancellationToken::new(), Pace::new());
        let ours = Stream::new(Arc::new(socket), &cut, &arrived, pace.clone(), &metrics);
        Pair { ours, client, cut, arrived, pace, metrics, _folder: folder }
    }

    fn pattern(length: usize) -> Vec<u8> {
        (0..=250).cycle().take(length).collect()
    }

    #[tokio::test]
    async fn bytes_come_through_whole_however_they_are_asked_for() {
        let Pair { ours, mut client, arrived, metrics, .. } = pair().await;
        arrived.cancel();
        let sent = pattern(300_000);
        let expected = sent.clone();
        let (mut reader, mut writer) = tokio::io::split(ours);
        let writing = tokio::spawn(async move {
            client.write_all(&sent).await.expect("send");
            client.shutdown().await.expect("close");
            let mut back = Vec::new();
            client.read_to_end(&mut back).await.expect("read");
            back
        });
        let mut got = Vec::new();
        for size in [1, 4, 16, 8191, 8192, 8193, 40_000, 3].into_iter().cycle() {
            let mut part = vec![0; size];
            let length = reader.read(&mut part).await.expect("read");
            if length == 0 {
                break;
            }
            got.extend_from_slice(&part[..length]);
        }
        assert!(got == expected, "{} bytes", got.len());
        writer.write_all(&pattern(100_000)).await.expect("write");
        writer.shutdown().await.expect("close");
        assert!(writing.await.expect("no panic") == pattern(100_000));
        assert_eq!(metrics.ssh_bytes.get_or_create(&Direction::RECEIVED).get(), 300_000);
        assert_eq!(metrics.ssh_bytes.get_or_create(&Direction::SENT).get(), 100_000);
    }

    #[tokio::test]
    async fn who_has_not_logged_in_may_send_so_much_and_no_more() {
        let Pair { mut ours, mut client, .. } = pair().await;
        let sending = tokio::spawn(async move { client.write_all(&pattern(BEFORE_LOGIN)).await });
        let mut got = Vec::new();
        let refused = ours.read_to_end(&mut got).await.expect_err("an error");
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionAborted);
        assert!(got.len() < BEFORE_LOGIN);
        drop(ours);
        // The client may notice.
        let _ = sending.await.expect("no panic");
    }

    #[tokio::test]
    async fn cancelling_ends_a_read_and_a_write_that_wait() {
        let Pair { ours, client, cut, .. } = pair().await;
        let (mut reader, mut writer) = tokio::io::split(ours);
        let writing = tokio::spawn(async move { writer.write_all(&vec![0; 64 << 20]).await });
        let reading = tokio::spawn(async move { reader.read(&mut [0; 100]).await });
        // The client reads nothing, so both wait, for ever; it does not matter whether they do so already.
        cut.cancel();
        assert_eq!(reading.await.expect("no panic").expect("an end"), 0);
        let refused = writing.await.expect("no panic").expect_err("an error");
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionAborted);
        drop(client);
    }

    #[tokio::test]
    async fn a_client_that_never_closes_is_let_go_after_we_have_closed() {
        let Pair { mut ours, mut client, .. } = pair().await;
        ours.shutdown().await.expect("close");
        assert_eq!(client.read(&mut [0; 100]).await.expect("an end"), 0);
        assert_eq!(ours.read(&mut [0; 100]).await.expect("an end"), 0);
    }

    #[tokio::test]
    async fn a_pace_slows_small_reads_and_no_others() {
        let Pair { mut ours, mut client, pace, .. } = pair().await;
        let mut exchange = async |size: usize| {
            client.write_all(&vec![7; size]).await.expect("send");
            let (begun, mut part) = (Instant::now(), vec![0; size]);
            ours.read_exact(&mut part).await.expect("read");
            (begun.elapsed(), ours.pause.is_some())
        };
        assert!(!exchange(10).await.1);
        let pause = Duration::from_millis(200);
        pace.set(Some(pause));
        assert!(exchange(10).await.1, "the pause comes after a read that gave little");
        let (waited, pauses) = exchange(4096).await;
        assert!(waited >= pause / 2 && !pauses, "{waited:?}");
        pace.set(None);
        assert!(!exchange(10).await.1);
    }
}
