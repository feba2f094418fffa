//! Opening the engine, and closing it.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use boxyard_proto::BoxId;
use boxyard_proto::launch::UIDS_PER_BOX;
use tokio::sync::Semaphore;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::cgroup::Cgroups;
use super::create::broken;
use super::disk::DiskTool;
use super::doctor;
use super::host::Host;
use super::instance::Instance;
use super::launcher::Launcher;
use super::network::dns::DnsConfig;
use super::network::link::Links;
use super::network::{self, Network, NetworkConfig, room};
use super::record::Record;
use super::slots::Slots;
use super::storage::Storages;
use super::trash::Trash;
use super::{ImageSource, LocalConfig, LocalEngine, PATIENT};
use crate::EngineError;
use crate::fail;
use crate::images::Images;

impl LocalEngine {
    /// Takes over what an earlier server left on this host, running boxes included, and prepares the host for more.
    ///
    /// # Errors
    /// The host lacks something (see [`check_host`](super::check_host)), another server uses the data folder, or the network range is
    /// somebody else's.
    pub async fn open(config: LocalConfig) -> Result<Self, EngineError> {
        Self::open_with(config, |dir, config| Ok(Arc::new(Images::open(dir, config)?))).await
    }

    pub(super) async fn open_with(
        config: LocalConfig,
        images: impl FnOnce(&Path, crate::images::ImagesConfig) -> Result<Arc<dyn ImageSource>, EngineError>,
    ) -> Result<Self, EngineError> {
        let instance = Instance::open(&config.data_dir).await.map_err(broken("opening the data folder"))?;
        let tag = instance.tag().to_owned();
        let cgroups =
            Cgroups::open(&tag, &instance.run().join("cgroup2")).map_err(broken("preparing the host's cgroups"))?;
        let links = Links::open().map_err(broken("opening a netlink connection"))?;
        let slots = restore(&instance, slots_max(&config)).map_err(broken("reading the boxes' records"))?;
        let images = images(&instance.images(), config.images)?;
        let trash = Trash::new(instance.trash());
        let tool = Arc::new(DiskTool::new(config.init.clone()));
        let storages = Storages::open(instance.data(), config.storage, config.pool_size, &tool, &trash).await;
        let storages = storages.map_err(broken("preparing the boxes' disks"))?;
        fail::point("open: pool there");
        let launcher = Launcher::new(config.init);
        let host = Arc::new(Host::new(
            instance,
            cgroups,
            launcher,
            (config.uid_start, config.network_range, slots),
            trash,
            storages,
        ));
        host.end_builds(&links).await.map_err(broken("ending builds that were broken off"))?;
        fail::point("open: builds ended");
        host.thaw_saving().map_err(broken("letting boxes go on after saves that were broken off"))?;
        fail::point("open: saves undone");
        let network = NetworkConfig {
            range: config.network_range,
            deny: config.network_deny,
            allow: config.network_allow,
            dns: DnsConfig { upstreams: config.dns_upstreams, hosts: config.dns_hosts },
        };
        let network = match Network::open(&tag, network, &links).await {
            Ok(network) => network,
            Err(error) => {
                if host.known().is_ok_and(|boxes| boxes.is_empty()) {
                    // The reason to fail is the error at hand, whatever comes of this.
                    let _ = network::unload(&tag).await;
                    let _ = host.remove_folders();
                    let _ = host.storages.close();
                }
                return Err(EngineError::broken("preparing the boxes' network", error));
            }
        };
        fail::point("open: network made");
        if let Ok(Some(chain)) = tokio::task::spawn_blocking(doctor::closed_by_others).await {
            tracing::warn!(%chain, "another firewall keeps boxes from the network; `boxyard doctor` says what to do");
        }
        host.forget_strangers().await;
        host.settle_all().map_err(broken("reading the boxes' records"))?;
        let tenders = [
            AbortOnDropHandle::new(tokio::spawn(Arc::clone(&host.trash).sweep())),
            AbortOnDropHandle::new(tokio::spawn(Arc::clone(&host).sweep_slots())),
            AbortOnDropHandle::new(tokio::spawn(Arc::clone(&host.settler).work())),
        ];
        let patience = Arc::new(Semaphore::new(PATIENT));
        Ok(Self { host, network, images, tasks: TaskTracker::new(), patience, _tenders: tenders })
    }

    /// Finishes what is under way in the background. Boxes that run go on; where there are none, what was prepared on the host is removed,
    /// and the engine cannot make boxes any more.
    ///
    /// # Errors
    /// The host keeps something of ours that it should not.
    pub async fn close(&self) -> Result<(), EngineError> {
        let closing = "closing the engine";
        self.tasks.close();
        self.tasks.wait().await;
        self.host.sweep_now(true).await;
        let known = self.host.known().map_err(broken(closing))?;
        if !self.host.any_runs().map_err(broken(closing))? {
            self.host.storages.close().map_err(broken("unmounting the pool of boxes' disks"))?;
        }
        if !known.is_empty() {
            return Ok(());
        }
        self.host.trash.empty().await.map_err(broken("deleting the files of removed boxes"))?;
        let links = Links::open().map_err(broken(closing))?;
        self.network.remove(&links).await.map_err(broken("removing the boxes' network"))?;
        self.host.remove_folders().map_err(broken(closing))
    }
}

/// How many boxes the configured uids and addresses are enough for.
fn slots_max(config: &LocalConfig) -> u32 {
    let uids = (u32::MAX - config.uid_start) / UIDS_PER_BOX;
    config.boxes_max.min(room(config.network_range)).min(uids)
}

/// The slots of the boxes that are there.
fn restore(instance: &Instance, count: u32) -> io::Result<Slots> {
    let mut slots = Slots::new(count, rand::random());
    for entry in fs::read_dir(instance.boxes())? {
        let entry = entry?;
        let Ok(id) = entry.file_name().to_string_lossy().parse::<BoxId>() else { continue };
        match Record::read(&entry.path()) {
            Ok(Some(record)) if slots.restore(&id, record.slot) => {}
            Ok(Some(record)) => {
                tracing::warn!(%id, slot = record.slot, "the box's slot is not to be had; it cannot be started")
            }
            Ok(None) => tracing::info!(%id, "a box was not finished"),
            Err(error) => tracing::warn!(%id, %error, "the box's record cannot be read"),
        }
    }
    Ok(slots)
}

impl Host {
    /// Has the disks written out of boxes that an earlier server has not come to.
    fn settle_all(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.instance.boxes())? {
            let entry = entry?;
            let Ok(id) = entry.file_name().to_string_lossy().parse::<BoxId>() else { continue };
            if let Ok(Some(record)) = Record::read(&entry.path())
                && let Ok(storage) = self.storages.of(record.storage)
            {
                self.settler.add(&id, entry.path(), storage.disk(&id));
            }
        }
        Ok(())
    }

    /// Ends boxes without a folder: throw-away boxes of builds that went down with their server, and what it was removing.
    async fn end_builds(&self, links: &Links) -> io::Result<()> {
        for id in self.known()? {
            if !self.instance.of(&id).exists() {
                tracing::info!(%id, "ending a build that was broken off");
                self.end(&id).await?;
            }
        }
        // Nobody knows the slots of those; a link without a box tells.
        let names: Vec<_> = {
            let slots = self.slots();
            let tag = self.instance.tag();
            slots.boxes().filter_map(|id| Some(network::interface(tag, slots.get(id)?))).collect()
        };
        for link in links.names(&format!("by{}-", self.instance.tag())).await? {
            if !names.contains(&link) {
                links.remove(&link).await?;
            }
        }
        Ok(())
    }
}
