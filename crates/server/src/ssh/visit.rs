//! One connection, from its being accepted to its end.
//!
//! `russh` runs a connection in a task that goes on when nobody waits for it. What ends it is its stream: cancelling `cut` is an end of
//! file to its reads and an error to its writes. So every path here leads over `cut`, and waits for the task.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use russh::Disconnect;
use russh::server::{Config, Handle, RunningSession, run_stream};
use rustix::net::sockopt::set_tcp_user_timeout;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::auth::Auth;
use super::handler::Visitor;
use super::places::{Full, Place};
use super::stream::{Pace, Stream};
use super::throttle::Throttle;
use super::{Link, Shared};
use crate::store::Store;

/// How long a client may take no byte of what we have sent: neither acknowledged nor taken from its own kernel's buffers. This, and not
/// `russh`, bounds a write to a client that does not read.
const STALL_MAX: Duration = Duration::from_secs(180);
/// Silence after which the kernel asks whether the client's host is there: for those that do not get as far as `russh`'s own questions.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
/// Time between such questions.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(15);
/// How long what a client sent before it closed may take to be worked off.
const WORK_OFF: Duration = Duration::from_secs(5);
/// How long a client that was told to leave may take to do so.
const GOODBYE: Duration = Duration::from_secs(1);
/// How long a connection that was cut may take to end. Only a callback that hangs takes so long.
const CUT_DEADLINE: Duration = Duration::from_secs(5);
/// How long connections may take to end after their grace.
pub(super) const LEAVE_TIME: Duration = Duration::from_secs(10);

/// Sets the socket up and says at which address the client came in.
pub(super) fn prepare(stream: &TcpStream) -> io::Result<SocketAddr> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_EVERY);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)?;
    set_tcp_user_timeout(stream, u32::try_from(STALL_MAX.as_millis()).unwrap_or(u32::MAX))?;
    stream.local_addr()
}

/// A connection that was let in.
pub(super) struct Visit {
    pub(super) stream: TcpStream,
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
    pub(super) place: Arc<Place>,
    pub(super) shared: Arc<Shared>,
    pub(super) settings: Arc<Config>,
    pub(super) store: Store,
    pub(super) throttle: Arc<Throttle>,
}

impl Visit {
    /// Returns when it is over, whoever ends it.
    pub(super) async fn run(self) {
        let span = tracing::info_span!("ssh", peer = %self.peer, id = tracing::field::Empty);
        self.attend().instrument(span).await;
    }

    async fn attend(self) {
        let Self { stream, peer, local, place, shared, settings, store, throttle } = self;
        let (cut, arrived, pace) = (CancellationToken::new(), CancellationToken::new(), Pace::new());
        let link = Link { peer, local, gone: CancellationToken::new(), pace: pace.clone() };
        // Whatever happens here, what the connection has begun ends with it.
        let (_gone, _cut) = (link.gone.clone().drop_guard(), cut.clone().drop_guard());
        let socket = Arc::new(stream);
        let stream = Stream::new(Arc::clone(&socket), &cut, &arrived, pace, &shared.metrics);
        let auth = Auth::new(Arc::clone(&shared), store, throttle, peer);
        let visitor = Visitor::new(Arc::clone(&shared), auth, link.clone(), Arc::clone(&place), arrived.clone());

        let mut login_time = std::pin::pin!(sleep(shared.limits.ssh_login_time));
        let begun = tokio::select! {
            begun = run_stream(settings, stream, visitor) => begun,
            () = &mut login_time => return tracing::debug!("no version in time"),
            () = place.evicted() => return tracing::debug!("no version, and others want the place"),
            () = shared.stop.cancelled() => return,
        };
        let mut session = match begun {
            Ok(session) => session,
            Err(error) => return tracing::debug!(%error, "not a client of ours"),
        };
        let handle = session.handle();
        tokio::select! {
            result = &mut session => return ended(&result),
            () = arrived.cancelled() => {}
            () = &mut login_time => {
                tracing::debug!("no login in time");
                return end(session, &link, &cut).await;
            }
            () = place.evicted() => {
                tracing::debug!("no login, and others want the place");
                let goodbye = async {
                    let _ = handle
                        .disconnect(Disconnect::TooManyConnections, Full::LoggingIn.to_string(), String::new())
                        .await;
                    (&mut session).await
                };
                // It is not told if it is in the middle of a key exchange.
                return match timeout(GOODBYE, goodbye).await {
                    Ok(result) => ended(&result),
                    Err(_) => end(session, &link, &cut).await,
                };
            }
            () = shared.stop.cancelled() => return end(session, &link, &cut).await,
        }
        if let Some(id) = place.inside() {
            tracing::Span::current().record("id", tracing::field::display(id));
        }
        tokio::select! {
            result = &mut session => return ended(&result),
            () = said_goodbye(&shared, &handle) => {}
            () = link.gone.cancelled() => tracing::debug!("the client does not leave a box that is gone"),
            () = closed(&socket) => tracing::debug!("the client has closed and is not waited for any longer"),
        }
        end(session, &link, &cut).await;
    }
}

/// Cuts the connection and waits for its task.
async fn end(session: RunningSession<Visitor>, link: &Link, cut: &CancellationToken) {
    link.gone.cancel();
    cut.cancel();
    match timeout(CUT_DEADLINE, session).await {
        Ok(result) => ended(&result),
        Err(_) => tracing::error!("an SSH connection did not end after it was cut"),
    }
}

fn ended(result: &Result<(), russh::Error>) {
    match result {
        Ok(()) => tracing::debug!("ended"),
        // Clients that leave, send nonsense or fall silent are everyday life.
        Err(error) => tracing::debug!(%error, "ended early"),
    }
}

/// Returns when the server is leaving, the grace is over, and the client has been told.
async fn said_goodbye(shared: &Shared, handle: &Handle) {
    shared.stop.cancelled().await;
    sleep(shared.limits.ssh_shutdown_grace).await;
    let text = "the server is shutting down".to_owned();
    // It is not told if it does not take what was sent before.
    let _ = timeout(GOODBYE, handle.disconnect(Disconnect::ByApplication, text, String::new())).await;
    sleep(GOODBYE).await;
}

/// Returns when the client has closed its side and what it sent before has had its time. `russh` sees that by itself, unless it is stuck
/// in a write to a client that does not read.
async fn closed(socket: &TcpStream) {
    reads_closed(socket).await;
    sleep(WORK_OFF).await;
}

/// Returns when the client has closed its side, whether what it sent before has been read or not.
async fn reads_closed(socket: &TcpStream) {
    loop {
        // Priority data are not asked for at all, so that what makes this ready is the end, without a byte being read.
        match socket.ready(Interest::PRIORITY).await {
            Ok(ready) if !ready.is_read_closed() => tokio::task::yield_now().await,
            Ok(_) | Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::task::Poll;

    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn the_end_is_seen_before_what_came_first_is_read() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
        let mut client = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connect");
        let (socket, _) = listener.accept().await.expect("accept");
        let mut end = pin!(reads_closed(&socket));
        client.write_all(&[7; 10_000]).await.expect("send");
        socket.readable().await.expect("data");
        let early = poll_fn(|cx| Poll::Ready(end.as_mut().poll(cx).is_ready())).await;
        assert!(!early, "data are no end");
        client.shutdown().await.expect("close");
        timeout(Duration::from_secs(20), end).await.expect("the end is seen");
        assert!(socket.try_read(&mut [0; 10_000]).is_ok_and(|length| length > 0), "nothing was read");
    }
}
