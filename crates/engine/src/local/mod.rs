//! The engine of this host: namespaces, overlay and cgroups, made by `boxyard-init launch`.
//!
//! ```text
//!   create: slot ─▶ record, folders ─▶ cgroups ─▶ boxyard-init launch ─▶ socket accepts
//!                   (boxyard-init starts meanwhile)
//!   pause:  cgroup.freeze      stop: cgroup.kill ─▶ groups, link, socket      resume: thaw, or create again
//!   remove: cgroup.kill ─▶ groups, link, socket ─▶ disk ─▶ folder into the trash ─▶ slot
//! ```
//!
//! Where boxes' disks lie is `storage`'s business, and saving them `snapshot`'s.
//!
//! A box depends on nothing of this process: it goes on when the server ends, and a new server finds it by its folder, its group and
//! its socket. A box's record is written before anything else of it exists and is the last to go, so whatever is broken off in
//! between is found by `observe` and finished by `create` or `remove`.
//!
//! Everything that an instance makes on the host carries its tag, so that several can be there at once: the groups and the firewall's
//! table `boxyard[-_]<tag>`, the links `by<tag>-<slot>`, the sockets in `/run/boxyard-<tag>`. Two instances need two network ranges;
//! give them two ranges of uids as well.

mod cgroup;
mod cidr;
mod create;
mod disk;
mod doctor;
mod host;
mod instance;
mod launcher;
mod layer;
mod network;
mod observe;
mod open;
mod pause;
mod record;
mod remove;
mod settle;
mod slots;
mod snapshot;
mod storage;
mod sweep;
mod trash;
mod usage;

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use boxyard_proto::{BoxId, SnapshotId};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

pub use self::cidr::{Cidr, InvalidCidr};
pub use self::doctor::{Check, check_host};
use self::host::Host;
use self::network::Network;
pub use self::storage::{PoolGrowth, StorageChoice, grow_pool};
use crate::archive::{ArchiveBytes, ArchiveLimits, ExportOrder, Exported, Imported};
use crate::images::archive::{Stored, Unpacking};
use crate::images::{Addition, BuildProgress, Image, Images, ImagesConfig, Kept, LayerRunner};
use crate::{Abilities, BoxSpec, DiskRoom, Duplex, Engine, EngineError, ErrorKind, Observed, Resumed, Saved, Usage};

/// How long a box may leave a connection waiting when its queue of connections is full.
const ACCEPT_DEADLINE: Duration = Duration::from_secs(5);

/// Connections that wait at once for boxes whose queues are full. Each keeps a thread, of which the server has 512 for everything.
const PATIENT: usize = 64;

/// How a [`LocalEngine`] is set up.
#[derive(Debug, Clone)]
pub struct LocalConfig {
    /// Where boxes and images lie. Made root's alone.
    pub data_dir: PathBuf,
    /// The program `boxyard-init`.
    pub init: PathBuf,
    /// Addresses for boxes; the first that can be used is the host's, as boxes see it.
    pub network_range: Cidr,
    /// Ranges closed to boxes besides those that are closed always.
    pub network_deny: Vec<Cidr>,
    /// Ranges open to boxes though they are private. What `network_deny` holds stays closed.
    pub network_allow: Vec<Cidr>,
    /// First of the host's uids for boxes; each takes 65,536.
    pub uid_start: u32,
    /// Boxes at once, at most. Fewer if addresses or uids run out first.
    pub boxes_max: u32,
    /// How images are made.
    pub images: ImagesConfig,
    /// Who resolves names for boxes; empty for whom the host itself asks.
    pub dns_upstreams: Vec<SocketAddr>,
    /// Names that the boxes' name server answers by itself, in lower case and without a dot at the end.
    pub dns_hosts: BTreeMap<String, Ipv4Addr>,
    /// Where the disks of new boxes lie.
    pub storage: StorageChoice,
    /// Bytes of the pool, where there is one: how large it is made, or grows. `None` for 80 % of the space that is free when it is made.
    pub pool_size: Option<u64>,
}

impl LocalConfig {
    /// The defaults: addresses of 198.18.0.0/15, which ordinary networks do not use, and uids that systemd leaves alone.
    pub fn new(data_dir: PathBuf, init: PathBuf, images: ImagesConfig) -> Self {
        Self {
            data_dir,
            init,
            network_range: Cidr::new(Ipv4Addr::new(198, 18, 0, 0), 15),
            network_deny: Vec::new(),
            network_allow: Vec::new(),
            uid_start: 0x7000_0000,
            boxes_max: 4094,
            images,
            dns_upstreams: Vec::new(),
            dns_hosts: BTreeMap::new(),
            storage: StorageChoice::Auto,
            pool_size: None,
        }
    }
}

/// Boxes on this host. See the [module](self).
///
/// Dropping it ends its background tasks and leaves boxes as they are.
#[derive(Debug)]
pub struct LocalEngine {
    host: Arc<Host>,
    network: Network,
    images: Arc<dyn ImageSource>,
    tasks: TaskTracker,
    patience: Arc<Semaphore>,
    _tenders: [AbortOnDropHandle<()>; 3],
}

/// Where images come from.
#[async_trait]
trait ImageSource: Send + Sync + std::fmt::Debug {
    /// The image if it is built.
    fn find(&self, name: &str) -> Result<Option<Image>, EngineError>;

    /// The image, built first where it is missing.
    async fn ensure(&self, name: &str, runner: &dyn LayerRunner) -> Result<Image, EngineError>;

    /// Whether there is such an image, built or not; else the names that there are.
    fn check(&self, _name: &str) -> Result<(), Vec<String>> {
        Ok(())
    }

    /// Keeps layers from being removed.
    async fn keep(&self) -> Result<Option<Kept>, EngineError> {
        Ok(None)
    }

    /// Adds an image and builds it.
    async fn add(&self, addition: &Addition, _runner: &dyn LayerRunner) -> Result<bool, EngineError> {
        Err(EngineError::new(ErrorKind::Unsupported, format!("adding the image {}", addition.name())))
    }

    /// Takes in a layer that came with a snapshot of a box with this runtime.
    async fn take_in(&self, layer: Stored, runtime: &str, unpacking: &Unpacking) -> Result<PathBuf, EngineError>;

    /// Whether a layer came with a snapshot.
    fn is_imported(&self, layer: &Path) -> bool;

    /// Frees layers that came with snapshots and that nobody needs any more. Blocks.
    fn release(&self) -> Result<(), EngineError>;

    /// What builds are doing.
    fn progress(&self) -> watch::Receiver<Option<BuildProgress>>;
}

#[async_trait]
impl ImageSource for Images {
    fn find(&self, name: &str) -> Result<Option<Image>, EngineError> {
        Self::find(self, name)
    }

    async fn ensure(&self, name: &str, runner: &dyn LayerRunner) -> Result<Image, EngineError> {
        Self::ensure(self, name, runner).await
    }

    fn check(&self, name: &str) -> Result<(), Vec<String>> {
        Self::check(self, name)
    }

    async fn keep(&self) -> Result<Option<Kept>, EngineError> {
        Self::keep(self).await.map(Some)
    }

    async fn add(&self, addition: &Addition, runner: &dyn LayerRunner) -> Result<bool, EngineError> {
        Self::add(self, addition, Some(runner)).await
    }

    async fn take_in(&self, layer: Stored, runtime: &str, unpacking: &Unpacking) -> Result<PathBuf, EngineError> {
        Self::take_in(self, layer, runtime, unpacking).await
    }

    fn is_imported(&self, layer: &Path) -> bool {
        Self::is_imported(self, layer)
    }

    fn release(&self) -> Result<(), EngineError> {
        Self::release(self).map(drop)
    }

    fn progress(&self) -> watch::Receiver<Option<BuildProgress>> {
        Self::progress(self)
    }
}

impl LocalEngine {
    /// The image `name`, built first where it is missing, which may take minutes.
    ///
    /// # Errors
    /// There is no such image, or it cannot be built.
    pub async fn build_image(&self, name: &str) -> Result<Image, EngineError> {
        self.images.ensure(name, self).await
    }

    /// Adds an image, or replaces the added one of its name, and builds it. Until this succeeds nothing has changed.
    ///
    /// # Errors
    /// Its name is taken, or it cannot be pulled or built.
    pub async fn add_image(&self, addition: &Addition) -> Result<(), EngineError> {
        self.images.add(addition, self).await.map(drop)
    }

    /// What builds of images are doing: `None` while there are none.
    pub fn build_progress(&self) -> watch::Receiver<Option<BuildProgress>> {
        self.images.progress()
    }
}

#[async_trait]
impl Engine for LocalEngine {
    fn name(&self) -> &'static str {
        "local"
    }

    fn abilities(&self) -> Abilities {
        let kind = self.host.storages.default_kind();
        let disk_limit = self.host.storages.of(kind).is_ok_and(|storage| storage.limits());
        Abilities { pause: true, save: true, disk_limit }
    }

    fn check_image(&self, name: &str) -> Result<(), Vec<String>> {
        self.images.check(name)
    }

    async fn create(&self, spec: &BoxSpec) -> Result<(), EngineError> {
        self.make(spec).await.map_err(|error| error.about(&spec.id))
    }

    async fn connect(&self, id: &BoxId) -> Result<Box<dyn Duplex>, EngineError> {
        let path = self.host.instance.socket(id);
        let connected = match UnixStream::connect(&path).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                connect_patiently(Arc::clone(&self.patience), path).await
            }
            connected => connected,
        };
        match connected {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => {
                let is = |kinds: &[io::ErrorKind]| kinds.contains(&error.kind());
                let kind = if is(&[io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused]) {
                    ErrorKind::NotFound
                } else if is(&[io::ErrorKind::WouldBlock]) {
                    ErrorKind::Exhausted
                } else {
                    ErrorKind::Broken
                };
                Err(EngineError { kind, ..EngineError::broken("connecting to the box", error) }.about(id))
            }
        }
    }

    async fn ended(&self, id: &BoxId) -> Result<(), EngineError> {
        self.host.cgroups.died(id).await.map_err(create::broken("watching the box")).map_err(|error| error.about(id))
    }

    async fn pause(&self, id: &BoxId) -> Result<(), EngineError> {
        self.freeze(id).await.map_err(|error| error.about(id))
    }

    async fn stop(&self, id: &BoxId) -> Result<(), EngineError> {
        self.halt(id).await.map_err(|error| error.about(id))
    }

    async fn resume(&self, id: &BoxId) -> Result<Resumed, EngineError> {
        self.go_on(id).await.map_err(|error| error.about(id))
    }

    async fn save(&self, id: &BoxId, into: &SnapshotId) -> Result<Saved, EngineError> {
        self.make_snapshot(id, into, false).await.map_err(|error| error.about(id))
    }

    async fn save_once(&self, id: &BoxId, into: &SnapshotId) -> Result<Saved, EngineError> {
        self.make_snapshot(id, into, true).await.map_err(|error| error.about(id))
    }

    async fn drop_snapshot(&self, id: &SnapshotId) -> Result<(), EngineError> {
        self.remove_snapshot(id).await
    }

    async fn snapshots(&self) -> Result<Vec<SnapshotId>, EngineError> {
        self.list_snapshots().await
    }

    async fn export(&self, id: &SnapshotId, order: &ExportOrder) -> Result<Exported, EngineError> {
        self.pack_snapshot(id, order).await
    }

    async fn import(
        &self,
        into: &SnapshotId,
        archive: ArchiveBytes,
        limits: &ArchiveLimits,
    ) -> Result<Imported, EngineError> {
        self.unpack_snapshot(into, archive, limits).await
    }

    async fn remove(&self, id: &BoxId) -> Result<(), EngineError> {
        self.unmake(id).await.map_err(|error| error.about(id))
    }

    async fn observe(&self) -> Result<Vec<Observed>, EngineError> {
        self.look().await
    }

    async fn disk_room(&self) -> Result<DiskRoom, EngineError> {
        let host = Arc::clone(&self.host);
        // A file system that is busy answers late.
        let room = tokio::task::spawn_blocking(move || host.storages.room(host.instance.data())).await;
        let room = room.map_err(io::Error::other).and_then(|room| room);
        room.map_err(create::broken("finding out how much room there is for disks"))
    }

    async fn usage(&self, id: &BoxId) -> Result<Usage, EngineError> {
        self.measure(id).await.map_err(|error| error.about(id))
    }
}

/// Connects to a socket whose queue is full: such a connect either fails at once or blocks its thread.
async fn connect_patiently(room: Arc<Semaphore>, path: PathBuf) -> io::Result<UnixStream> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
    let place = timeout(ACCEPT_DEADLINE, room.acquire_owned()).await.map_err(|_| io::ErrorKind::WouldBlock)?;
    let place = place.map_err(io::Error::other)?;
    let connected = tokio::task::spawn_blocking(move || {
        // The thread keeps its place when nobody waits for it any more.
        let _place = place;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        set_socket_timeout(&socket, Timeout::Send, Some(ACCEPT_DEADLINE))?;
        connect(&socket, &SocketAddrUnix::new(&path)?)?;
        let stream = std::os::unix::net::UnixStream::from(socket);
        stream.set_nonblocking(true)?;
        Ok::<_, io::Error>(stream)
    });
    UnixStream::from_std(connected.await.map_err(io::Error::other)??)
}

#[cfg(test)]
mod tests;
