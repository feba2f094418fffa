//! The accept loop: who may come in at all, and an orderly end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Shared;
use super::host_keys::{HostKeyError, HostKeys, show};
use super::identity::Identity;
use super::places::Places;
use super::refusal::refuse;
use super::settings::settings;
use super::share::Shares;
use super::source::Source;
use super::throttle::Throttle;
use super::visit::{LEAVE_TIME, Visit, prepare};
use crate::boxes::Boxes;
use crate::config::Config;
use crate::metrics::{Metrics, Reason};
use crate::store::Store;

/// The pause after a failed accept, which is mostly a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Clients at once that are told why they cannot come in. More are sent away without a word.
const REFUSALS_AT_ONCE: usize = 64;

/// A listening socket and what a visit needs.
pub struct Door {
    listener: TcpListener,
    identity: Identity,
    settings: Arc<russh::server::Config>,
    throttle: Arc<Throttle>,
    places: Places,
    boxes: Boxes,
    store: Store,
    metrics: Arc<Metrics>,
    limits: crate::config::Limits,
}

impl std::fmt::Debug for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Door").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// Why there is no door.
#[derive(Debug, thiserror::Error)]
pub enum DoorError {
    /// The system does not say where the socket listens.
    #[error("cannot tell the address of the SSH door")]
    Address(#[from] io::Error),
    /// A host key cannot be shown.
    #[error(transparent)]
    HostKey(#[from] HostKeyError),
}

impl Door {
    /// Will open boxes on `listener`.
    ///
    /// # Errors
    /// The system does not say where it listens, or a key cannot be shown.
    pub fn new(
        listener: TcpListener,
        keys: &HostKeys,
        config: &Config,
        boxes: Boxes,
        store: Store,
        metrics: Arc<Metrics>,
    ) -> Result<Self, DoorError> {
        let limits = config.limits;
        let keys = keys.offered(config.ssh_ecdsa);
        let host_keys = keys.iter().map(show).collect::<Result<_, _>>()?;
        Ok(Self {
            identity: Identity { address: listener.local_addr()?, host_keys },
            listener,
            settings: Arc::new(settings(keys, config.ssh_post_quantum_only, limits.ssh_rekey_bytes)),
            throttle: Arc::new(Throttle::new(
                limits.ssh_failures_per_minute,
                limits.ssh_account_failures_per_minute,
                limits.ssh_idlers_per_minute,
            )),
            places: Places::new(limits, Arc::clone(&metrics)),
            boxes,
            store,
            metrics,
            limits,
        })
    }

    /// Where it is and how it proves itself.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Lets clients in until `stop`. Then it listens no more, and connections have their grace. When this returns no connection is
    /// left.
    pub async fn serve(self, stop: CancellationToken) {
        let Self { listener, settings, throttle, places, boxes, store, metrics, limits, identity: _ } = self;
        let shared = Arc::new(Shared { boxes, metrics, limits, shares: Shares::default(), stop: stop.clone() });
        let tasks = TaskTracker::new();
        let refusals = Arc::new(Semaphore::new(REFUSALS_AT_ONCE));
        let send_away = |stream: TcpStream, reason: &'static str, text: String| {
            shared.metrics.ssh_refused.get_or_create(&Reason { reason }).inc();
            if let Ok(permit) = Arc::clone(&refusals).try_acquire_owned() {
                tasks.spawn(async move {
                    refuse(stream, &text).await;
                    drop(permit);
                });
            }
        };
        let let_in = |stream: TcpStream, peer: SocketAddr| {
            let source = Source::of(peer.ip());
            if let Some(left) = throttle.away(source, Instant::now()) {
                let text = format!(
                    "too many failed logins from your address; try again in {} s",
                    left.as_secs().saturating_add(1)
                );
                tracing::debug!(%peer, "an SSH client was sent away: too many failed logins");
                return send_away(stream, "throttled", text);
            }
            let place = match places.enter(source) {
                Ok(place) => Arc::new(place),
                Err(full) => {
                    tracing::debug!(%peer, %full, "an SSH client was sent away");
                    return send_away(stream, full.word(), full.to_string());
                }
            };
            let local = match prepare(&stream) {
                Ok(local) => local,
                Err(error) => return tracing::debug!(%peer, %error, "an SSH connection could not be prepared"),
            };
            let visit = Visit {
                stream,
                peer,
                local,
                place,
                shared: Arc::clone(&shared),
                settings: Arc::clone(&settings),
                store: store.clone(),
                throttle: Arc::clone(&throttle),
            };
            tasks.spawn(visit.run());
        };
        let accept = async {
            loop {
                match listener.accept().await {
                    Ok((stream, peer)) => let_in(stream, peer),
                    Err(error) => {
                        tracing::warn!(%error, "an SSH connection could not be accepted");
                        sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        };
        stop.run_until_cancelled(accept).await;
        drop(listener);
        tasks.close();
        if timeout(limits.ssh_shutdown_grace + LEAVE_TIME, tasks.wait()).await.is_err() {
            tracing::warn!(left = tasks.len(), "SSH connections did not end in time");
        }
    }
}
