//! The server as a whole: [`App::build`] binds, opens and recovers; [`App::run`] serves until it is told to stop.

use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use boxyard_engine::{Engine, fail};
use rustix::fs::{FlockOperation, flock};
use tokio::net::TcpListener;
use tokio::time::{Instant, interval_at, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::boxes::{Boxes, RecoveryError, chain};
use crate::config::{Config, Secret};
use crate::http::{self, Door};
use crate::keys::{FirstKey, KeyError, ensure_first_key};
use crate::metrics::Metrics;
use crate::ssh::host_keys::{self, HostKeyError};
use crate::ssh::identity::Identity;
use crate::ssh::{self, DoorError};
use crate::store::{Store, StoreError, StoreOptions};

/// Connections to the metrics at once.
const METRICS_CONNECTIONS: usize = 16;
/// How long the tasks of boxes and runs may take to end.
const LEAVE_DEADLINE: Duration = Duration::from_secs(10);
/// How often old log entries, runs and records of deleted boxes are removed.
const PRUNE_EVERY: Duration = Duration::from_secs(3600);

/// A server that is ready to run: it listens, and knows its boxes.
#[derive(Debug)]
pub struct App {
    door: Door,
    ssh_door: Option<ssh::Door>,
    metrics_door: Option<Door>,
    boxes: Boxes,
    store: Store,
    first_key: FirstKey,
    ready: Ready,
    grace: Duration,
    keep: Keep,
    /// Held for as long as this server uses the data directory.
    _lock: File,
}

#[derive(Debug, Clone, Copy)]
struct Keep {
    logs: Duration,
    runs: Duration,
    claims: Duration,
    boxes: Duration,
}

/// Where a server listens. Its text form is the line that `boxyard serve` prints when it accepts requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready {
    /// The HTTP API.
    pub http: SocketAddr,
    /// The SSH door, if there is one.
    pub ssh: Option<SocketAddr>,
    /// The metrics, if they are on.
    pub metrics: Option<SocketAddr>,
}

impl fmt::Display for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ready http={}", self.http)?;
        if let Some(address) = self.ssh {
            write!(f, " ssh={address}")?;
        }
        match self.metrics {
            Some(address) => write!(f, " metrics={address}"),
            None => Ok(()),
        }
    }
}

/// Why a server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The data directory cannot be used.
    #[error("cannot use the data directory {path}")]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another server uses the data directory.
    #[error("another boxyard uses the data directory {0}: stop it, or choose another with --data-dir")]
    InUse(PathBuf),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The database cannot be used.
    #[error("cannot use the database")]
    Store(#[from] StoreError),
    /// There is no first key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// There are no keys for the SSH door.
    #[error(transparent)]
    HostKey(#[from] HostKeyError),
    /// There is no SSH door.
    #[error(transparent)]
    Ssh(#[from] DoorError),
    /// What an earlier server left cannot be taken over.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
}

impl App {
    /// Locks the data directory, binds the addresses, opens the database, makes sure that there is a key, and takes over the boxes of
    /// an earlier server. Requests wait in the kernel's queue until [`run`](Self::run).
    ///
    /// # Errors
    /// Says what is missing. Nothing goes on in the background then.
    pub async fn build(config: &Config, engine: Arc<dyn Engine>) -> Result<Self, BuildError> {
        let lock = lock_data_dir(&config.data_dir)?;
        let listener = bind(config.http).await?;
        let ssh_listener = match config.ssh {
            Some(address) => Some(bind(address).await?),
            None => None,
        };
        let metrics_listener = match config.metrics {
            Some(address) => Some(bind(address).await?),
            None => None,
        };
        let host_keys = host_keys::load_or_make(&config.data_dir)?;
        let store = Store::open(&config.database(), StoreOptions { synchronous: config.synchronous }).await?;
        fail::point("store: open");
        let bootstrap = config.bootstrap_key.as_ref().map(Secret::expose);
        let first_key = ensure_first_key(&store, bootstrap, &config.data_dir).await?;
        let metrics = Arc::new(Metrics::new(store.clone()));
        let boxes = Boxes::new(config, engine, store.clone(), Arc::clone(&metrics));
        if let Err(error) = boxes.recover().await {
            boxes.leave().await;
            store.close().await;
            return Err(error.into());
        }
        let limits = config.limits;
        let connections = usize::try_from(limits.connections).unwrap_or(usize::MAX);
        let ssh_door = match ssh_listener {
            Some(listener) => {
                let metrics = Arc::clone(&metrics);
                Some(ssh::Door::new(listener, &host_keys, config, boxes.clone(), store.clone(), metrics)?)
            }
            None => None,
        };
        let identity = ssh_door.as_ref().map(|door| door.identity().clone());
        let router = http::router(config, boxes.clone(), store.clone(), Arc::clone(&metrics), identity);
        let gauge = metrics.http_connections.clone();
        let door = Door::new(listener, router, limits.header_timeout, connections, gauge);
        let metrics_door = metrics_listener.map(|listener| {
            let router = http::metrics_router(metrics, boxes.clone());
            Door::new(listener, router, limits.header_timeout, METRICS_CONNECTIONS, Default::default())
        });
        let address = |door: &Door, asked: SocketAddr| {
            door.address().map_err(|source| BuildError::Bind { address: asked, source })
        };
        let ready = Ready {
            http: address(&door, config.http)?,
            ssh: ssh_door.as_ref().map(|door| door.identity().address),
            metrics: match (&metrics_door, config.metrics) {
                (Some(door), Some(asked)) => Some(address(door, asked)?),
                (Some(_) | None, _) => None,
            },
        };
        let keep = Keep {
            logs: config.logs_keep,
            runs: config.runs_keep,
            claims: config.idempotency_keep,
            boxes: config.boxes_deleted_keep,
        };
        Ok(Self {
            door,
            ssh_door,
            metrics_door,
            boxes,
            store,
            first_key,
            ready,
            grace: limits.shutdown_grace,
            keep,
            _lock: lock,
        })
    }

    /// Where it listens; the ports are those it got when port 0 was asked for.
    pub fn ready(&self) -> Ready {
        self.ready
    }

    /// How the SSH door proves itself, if there is one.
    pub fn identity(&self) -> Option<&Identity> {
        self.ssh_door.as_ref().map(ssh::Door::identity)
    }

    /// How the first key came about.
    pub fn first_key(&self) -> &FirstKey {
        &self.first_key
    }

    /// Serves until `stop`. Then it accepts nothing new, lets requests under way and SSH connections go on for their configured grace, and
    /// leaves: boxes and the commands in them go on, and the next server takes them over.
    pub async fn run(self, stop: CancellationToken) {
        let prune = AbortOnDropHandle::new(tokio::spawn(prune(self.store.clone(), self.boxes.clone(), self.keep)));
        let metrics = async {
            if let Some(door) = self.metrics_door {
                door.serve(stop.clone(), Duration::ZERO, CancellationToken::new()).await;
            }
        };
        let ssh = async {
            if let Some(door) = self.ssh_door {
                door.serve(stop.clone()).await;
            }
        };
        tokio::join!(self.door.serve(stop.clone(), self.grace, self.boxes.leaving()), ssh, metrics);
        drop(prune);
        if timeout(LEAVE_DEADLINE, self.boxes.leave()).await.is_err() {
            tracing::warn!("some tasks did not end in time; the next server finds what they leave");
        }
        self.store.close().await;
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener, BuildError> {
    TcpListener::bind(address).await.map_err(|source| BuildError::Bind { address, source })
}

/// Makes the data directory where it is missing and takes its lock, which ends with this process.
fn lock_data_dir(path: &Path) -> Result<File, BuildError> {
    let failed = |source| BuildError::DataDir { path: path.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path.join("server.lock"))
        .map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(BuildError::InUse(path.to_owned())),
        Err(error) => Err(failed(error.into())),
    }
}

/// Removes what has grown old, now and every hour. Ends by being dropped.
async fn prune(store: Store, boxes: Boxes, keep: Keep) {
    let mut hours = interval_at(Instant::now(), PRUNE_EVERY);
    loop {
        hours.tick().await;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let before = |keep: Duration| i64::try_from(now.saturating_sub(keep).as_millis()).unwrap_or(i64::MAX);
        loop {
            match store.prune(before(keep.logs), before(keep.runs), before(keep.claims)).await {
                Ok(pruned) => {
                    boxes.remove_outputs(pruned.outputs).await;
                    if !pruned.more {
                        break;
                    }
                }
                Err(error) => {
                    tracing::warn!(error = chain(&error), "old entries could not be removed");
                    break;
                }
            }
        }
        loop {
            match store.prune_boxes(before(keep.boxes)).await {
                Ok(pruned) if pruned.more => {}
                Ok(_) => break,
                Err(error) => {
                    tracing::warn!(error = chain(&error), "records of deleted boxes could not be removed");
                    break;
                }
            }
        }
    }
}
