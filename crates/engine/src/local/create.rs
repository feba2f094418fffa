//! Making a box.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use boxyard_proto::disk::Disk;
use boxyard_proto::launch::{File, Launch, Network};
use boxyard_proto::{BoxId, SnapshotId};

use super::LocalEngine;
use super::launcher::Waiting;
use super::record::{Record, SnapshotRecord};
use super::storage::Source;
use crate::fail;
use crate::images::Image;
use crate::{BoxSpec, EngineError, ErrorKind, Limits};

/// Open files of one process in a box.
const OPEN_FILES: u64 = 65_536;

/// The variables of every process, unless image or box say otherwise.
const ENV: [(&str, &str); 2] =
    [("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"), ("LANG", "C.UTF-8")];

/// What a launch needs besides the box's slot.
#[derive(Debug, Clone)]
pub(super) struct Plan<'a> {
    pub(super) id: &'a BoxId,
    pub(super) slot: u32,
    pub(super) limits: &'a Limits,
    pub(super) layers: &'a [PathBuf],
    pub(super) upper: &'a Path,
    pub(super) work: &'a Path,
    /// What the launcher makes of these two.
    pub(super) disk: Option<Disk>,
}

impl LocalEngine {
    /// Makes and starts the box, or finishes an attempt that was broken off. Whatever its writable layer holds already is kept, and the
    /// layers below it too.
    pub(super) async fn make(&self, spec: &BoxSpec) -> Result<(), EngineError> {
        let dir = self.host.instance.of(&spec.id);
        let earlier = Record::read(&dir).map_err(broken("reading the box's record"))?;
        if earlier.is_some() || self.host.slots().get(&spec.id).is_some() {
            let looking = "looking at the box";
            let broken_off = self.host.launcher.settle(&spec.id).await.map_err(broken(looking))?;
            if !broken_off {
                // Frozen for a save by a server that did not come back to it; nobody makes a box that is paused.
                self.host.cgroups.thaw(&spec.id).await.map_err(broken(looking))?;
                if self.host.is_running(&spec.id).await.map_err(broken(looking))? {
                    return Ok(());
                }
            }
            self.host.end(&spec.id).await.map_err(broken("ending what is left of the box"))?;
        }
        // Until the record names them, nothing else keeps the layers.
        let kept = self.images.keep().await?;
        let record = match earlier {
            Some(record) => Record { spec: spec.clone(), slot: self.take_slot(&spec.id).await?, ..record },
            None => self.new_record(spec).await?,
        };
        let from = match &spec.from {
            // A disk that is there already is the box's own, and the snapshot may be gone by now.
            Some(from) if !self.host.storages.has(record.storage, &spec.id) => Some(self.saved_disk(from)?),
            _ => None,
        };
        let storage = self.host.storages.of(record.storage).map_err(broken("finding the box's disk"))?;
        let begin = async || {
            make_folder(&dir).map_err(|error| EngineError::of_disk("making the box's folder", error))?;
            record.write(&dir).map_err(|error| EngineError::of_disk("writing the box's record", error))?;
            fail::point("create: recorded");
            let budget = record.budget(&dir).map_err(broken("reading what the box was given"))?;
            let disk = storage.prepare(&spec.id, from.as_ref(), budget).await;
            fail::point("create: disk prepared");
            disk.map_err(|error| EngineError::of_disk("making the box's disk", error))
        };
        let begun = Instant::now();
        let (waiting, disk) = if from.as_ref().is_some_and(|from| storage.copies(&from.folder)) {
            // Launchers are few, and this takes a while.
            let disk = begin().await?;
            (self.host.launcher.start(&spec.id).await?, disk)
        } else {
            // The program starts while the box's folder is made.
            let waiting = self.host.launcher.start(&spec.id).await?;
            (waiting, begin().await?)
        };
        // What was taken over is on the disk, under another name: that it has this one now must not be lost alone.
        let renamed = disk.as_ref().filter(|disk| disk.taken).and_then(|disk| disk.subvolume.parent());
        let recorded = tokio::spawn(Record::settle(dir.clone(), renamed.map(Path::to_owned)));
        drop(kept);
        tracing::debug!(id = %spec.id, begun = ?begun.elapsed(), "launcher started");
        let folder = storage.disk(&spec.id);
        let (upper, work) = (folder.join("upper"), folder.join("work"));
        let plan = Plan {
            id: &spec.id,
            slot: record.slot,
            limits: &spec.limits,
            layers: &record.layers,
            upper: &upper,
            work: &work,
            disk,
        };
        let env = environment(&record.image_env, &spec.env);
        self.launch(waiting, plan, env).await?;
        match recorded.await.map_err(io::Error::other).flatten() {
            Ok(()) => self.host.settler.add(&spec.id, dir, folder.clone()),
            Err(error) => {
                self.host.end(&spec.id).await.map_err(broken("ending a box whose record was not written out"))?;
                return Err(EngineError::of_disk("writing the box's record out", error));
            }
        }
        fail::point("create: launched");
        Ok(())
    }

    /// What is to be written down of a box that is not there yet.
    async fn new_record(&self, spec: &BoxSpec) -> Result<Record, EngineError> {
        let (layers, image_env, started_with) = match &spec.from {
            Some(from) => {
                let saved = SnapshotRecord::read(&self.host.snapshot(from));
                let saved = saved.map_err(broken("reading the snapshot's record"))?;
                let saved = saved.ok_or_else(|| EngineError::new(ErrorKind::NotFound, "finding the snapshot"))?;
                (saved.layers, saved.image_env, saved.size_bytes)
            }
            None => {
                let image = self.image(&spec.image).await?;
                (image.layers, image.env, 0)
            }
        };
        let storage = self.host.storages.default_kind();
        let slot = self.take_slot(&spec.id).await?;
        Ok(Record { spec: spec.clone(), slot, layers, image_env, storage, started_with })
    }

    /// A saved disk.
    fn saved_disk(&self, from: &SnapshotId) -> Result<Source, EngineError> {
        let saved = SnapshotRecord::read(&self.host.snapshot(from)).map_err(broken("reading the snapshot's record"))?;
        let saved = saved.ok_or_else(|| EngineError::new(ErrorKind::NotFound, "finding the snapshot"))?;
        let storage = self.host.storages.of(saved.storage).map_err(broken("finding the snapshot's disk"))?;
        Ok(Source { folder: storage.saved(from), take: saved.once })
    }

    /// The image `name`, built where it is missing.
    async fn image(&self, name: &str) -> Result<Image, EngineError> {
        match self.images.find(name)? {
            Some(image) => Ok(image),
            None => self.images.ensure(name, self).await,
        }
    }

    /// The slot of the box, a new one if it has none.
    pub(super) async fn take_slot(&self, id: &BoxId) -> Result<u32, EngineError> {
        let slot = self.host.take_slot(id).await;
        slot.ok_or_else(|| EngineError::new(ErrorKind::Exhausted, "finding room for one more box on this host"))
    }

    /// Limits the box and has it made by `waiting`. On failure nothing of it runs.
    pub(super) async fn launch(
        &self,
        waiting: Waiting<'_>,
        plan: Plan<'_>,
        env: Vec<String>,
    ) -> Result<(), EngineError> {
        let id = plan.id;
        let launched = self.try_launch(waiting, plan, env).await;
        if launched.is_err()
            && let Err(error) = self.host.end(id).await
        {
            tracing::warn!(%id, %error, "cleaning up after a launch that failed");
        }
        launched
    }

    async fn try_launch(&self, waiting: Waiting<'_>, plan: Plan<'_>, env: Vec<String>) -> Result<(), EngineError> {
        let begun = Instant::now();
        let group = self.host.cgroups.make(plan.id, plan.limits).map_err(broken("making the box's cgroups"))?;
        self.host.free_link(plan.slot).await.map_err(broken("removing an earlier box's link"))?;
        let Some(network) = self.network.of(plan.slot) else {
            return Err(EngineError::new(ErrorKind::Exhausted, "finding an address for the box"));
        };
        let launch = Launch {
            id: plan.id.clone(),
            uid_start: self.host.uid_start(plan.slot),
            layers: plan.layers.to_vec(),
            disk: plan.disk,
            upper: plan.upper.to_owned(),
            work: plan.work.to_owned(),
            socket: self.host.instance.socket(plan.id),
            cgroup: group.v2,
            cgroups_v1: group.v1,
            controllers: group.controllers,
            files: files(plan.id, &network),
            network: Some(network),
            env,
            open_files: OPEN_FILES,
        };
        let grouped = begun.elapsed();
        let pid = waiting.launch(&launch).await?;
        fail::point("create: running");
        tracing::debug!(id = %plan.id, pid, ?grouped, launched = ?begun.elapsed() - grouped, "box runs");
        Ok(())
    }
}

pub(super) fn broken<E>(doing: &'static str) -> impl FnOnce(E) -> EngineError
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    move |error| EngineError::broken(doing, error)
}

fn make_folder(dir: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// The base environment; later ones win.
pub(super) fn environment(image: &BTreeMap<String, String>, own: &BTreeMap<String, String>) -> Vec<String> {
    let base = ENV.map(|(name, value)| (name, value));
    let texts = |map| BTreeMap::iter(map).map(|(name, value): (&String, &String)| (name.as_str(), value.as_str()));
    let merged: BTreeMap<&str, &str> = base.into_iter().chain(texts(image)).chain(texts(own)).collect();
    merged.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

/// What a box must know about its place in the network.
fn files(id: &BoxId, network: &Network) -> Vec<File> {
    let file = |path: &str, content: String| File { path: path.into(), content, mode: 0o644 };
    vec![
        file("/etc/resolv.conf", format!("nameserver {}\n", network.gateway)),
        file("/etc/hosts", format!("127.0.0.1 localhost\n{} {id}\n", network.address)),
        file("/etc/hostname", format!("{id}\n")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boxes_own_variables_win_over_the_images_and_those_over_ours() {
        let map = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<BTreeMap<_, _>>()
        };
        let env = environment(&map(&[("LANG", "C"), ("A", "image"), ("B", "image")]), &map(&[("A", "box")]));
        assert_eq!(env[..3], ["A=box", "B=image", "LANG=C"]);
        assert!(env[3].starts_with("PATH=/usr/local/sbin:"));
    }
}
