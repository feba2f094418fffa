//! The accept loop: connection cap, deadlines, and an orderly end.
//!
//! `axum::serve` has neither a header deadline nor a cap, so the loop is ours. A connection is a task. When the server stops, idle
//! connections close at once and busy ones after their answer; when the grace is over, handlers are told to give up; what is left
//! after that is cut.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use prometheus_client::metrics::gauge::Gauge;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::paced::{Paced, Patience};

/// Silence after which a connection is asked whether it is still there.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
/// Time between such questions.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(15);
/// How long a client may take no byte of an answer; the reader of a stream may pause for as long as it likes.
const STALL_MAX: Duration = Duration::from_secs(120);
/// The pause after a failed accept, which is mostly a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long handlers that were told to give up may take to answer.
const GIVE_UP_DEADLINE: Duration = Duration::from_secs(2);
/// How long cut connections may take to end.
const CUT_DEADLINE: Duration = Duration::from_secs(5);

/// What a request that becomes something longer than a request, such as a WebSocket, needs to live on; every request carries one. Whoever
/// goes on beyond the answer does so by [`Berth::live_on`]: the door waits for it when it closes.
#[derive(Debug, Clone)]
pub(super) struct Berth {
    tasks: TaskTracker,
    /// Cancelled when the server's grace is over: what goes on then has two seconds to say goodbye.
    pub(super) give_up: CancellationToken,
    cut: CancellationToken,
    place: Arc<Place>,
}

impl Berth {
    /// Lives on as `task`, until that ends or is cut off.
    pub(super) fn live_on(self, task: impl Future<Output = ()> + Send + 'static) {
        let Self { tasks, cut, place, .. } = self;
        tasks.spawn(async move {
            let _place = place;
            cut.run_until_cancelled(task).await;
        });
    }
}

/// A connection's place among those that there may be.
#[derive(Debug)]
struct Place {
    _permit: OwnedSemaphorePermit,
    connections: Gauge,
}

impl Place {
    fn new(permit: OwnedSemaphorePermit, connections: Gauge) -> Arc<Self> {
        connections.inc();
        Arc::new(Self { _permit: permit, connections })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.dec();
    }
}

/// A listening socket and what to serve on it.
pub struct Door {
    listener: TcpListener,
    router: Router,
    header_timeout: Duration,
    connections_max: usize,
    connections: Gauge,
}

impl std::fmt::Debug for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Door").field("listener", &self.listener).finish_non_exhaustive()
    }
}

impl Door {
    /// Will serve `router` on `listener`.
    pub fn new(
        listener: TcpListener,
        router: Router,
        header_timeout: Duration,
        connections_max: usize,
        connections: Gauge,
    ) -> Self {
        Self { listener, router, header_timeout, connections_max, connections }
    }

    /// The address that it listens on.
    ///
    /// # Errors
    /// The system does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop`, then lets requests under way finish for at most `grace`, then cancels `give_up`, upon which handlers answer
    /// with what they have. When this returns no request is under way.
    pub async fn serve(self, stop: CancellationToken, grace: Duration, give_up: CancellationToken) {
        let Self { listener, router, header_timeout, connections_max, connections } = self;
        let (tasks, cut) = (TaskTracker::new(), CancellationToken::new());
        let places = Arc::new(Semaphore::new(connections_max.min(Semaphore::MAX_PERMITS)));
        let accept = async {
            loop {
                // Without a free place new connections wait in the kernel's queue.
                let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
                let stream = match listener.accept().await {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        tracing::warn!(%error, "a connection could not be accepted");
                        sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                };
                let berth = Berth {
                    tasks: tasks.clone(),
                    give_up: give_up.clone(),
                    cut: cut.clone(),
                    place: Place::new(place, connections.clone()),
                };
                let served = serve_one(stream, router.clone(), header_timeout, stop.clone(), berth.clone());
                berth.live_on(served);
            }
        };
        stop.run_until_cancelled(accept).await;
        drop(listener);
        tasks.close();
        if timeout(grace, tasks.wait()).await.is_ok() {
            return;
        }
        tracing::warn!(left = tasks.len(), "requests under way did not end in time");
        give_up.cancel();
        if timeout(GIVE_UP_DEADLINE, tasks.wait()).await.is_err() {
            cut.cancel();
            // Dropping a connection takes no time; the deadline is for a handler that blocks its thread.
            let _ = timeout(CUT_DEADLINE, tasks.wait()).await;
        }
    }
}

async fn serve_one(stream: TcpStream, router: Router, header_timeout: Duration, stop: CancellationToken, berth: Berth) {
    if let Err(error) = prepare(&stream) {
        tracing::debug!(%error, "a connection could not be prepared");
        return;
    }
    let patience = Patience::default();
    let stream = Paced::new(stream, patience.clone(), STALL_MAX);
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        patience.lose();
        request.extensions_mut().insert(patience.clone());
        request.extensions_mut().insert(berth.clone());
        router.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        // Clients that leave, send nonsense or are too slow are everyday life.
        tracing::debug!(%error, "a connection ended early");
    }
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_EVERY);
    socket.set_tcp_keepalive(&keepalive)
}
