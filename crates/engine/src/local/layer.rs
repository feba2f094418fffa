//! Throw-away boxes in which image layers are made.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use boxyard_proto::BoxId;
use boxyard_proto::wire::{Exec, User};
use tokio_util::task::TaskTracker;

use super::LocalEngine;
use super::create::{Plan, broken, environment};
use super::host::Host;
use crate::agent::{self, AgentError, Event};
use crate::images::{LayerRunner, interpreter};
use crate::{EngineError, ErrorKind, Limits};

/// Processes of a build at most.
const PIDS: u32 = 4096;

/// A build's memory where the host's cannot be read.
const MEMORY_FALLBACK: u64 = 1 << 30;

#[async_trait]
impl LayerRunner for LocalEngine {
    async fn run(
        &self,
        layers: &[PathBuf],
        upper: &Path,
        script: &str,
        log: &mut (dyn Write + Send),
    ) -> Result<(), EngineError> {
        let build = Build::new(self, upper)?;
        let ran = self.build(&build, layers, upper, script, log).await;
        let ended = build.end().await;
        ran.and(ended)
    }
}

impl LocalEngine {
    async fn build(
        &self,
        build: &Build,
        layers: &[PathBuf],
        upper: &Path,
        script: &str,
        log: &mut (dyn Write + Send),
    ) -> Result<(), EngineError> {
        let slot = self.take_slot(&build.id).await?;
        let (id, work, limits) = (&build.id, &build.work, limits());
        let waiting = self.host.launcher.start(id).await?;
        fs::create_dir_all(work).map_err(broken("making the build's work folder"))?;
        let plan = Plan { id, slot, limits: &limits, layers, upper, work, disk: None };
        self.launch(waiting, plan, environment(&BTreeMap::new(), &BTreeMap::new())).await?;
        let argv = vec![interpreter(script).into(), "-c".into(), script.into()];
        let env = vec!["HOME=/root".into(), "DEBIAN_FRONTEND=noninteractive".into()];
        let exec = Exec { env, ..Exec::new("build", argv, "/", User::ROOT) };
        let lost = |error: AgentError| EngineError::broken("running the build's script", error);
        let mut job = agent::exec(self, id, exec).await.map_err(lost)?;
        loop {
            match job.next().await.map_err(lost)? {
                Event::Out(bytes) | Event::Err(bytes) => {
                    log.write_all(&bytes).map_err(broken("writing the build's log"))?;
                }
                Event::Exit(exit) if exit.code == 0 => return Ok(()),
                Event::Exit(exit) => {
                    let text = format!("it exited with {}; the log tells more", exit.code);
                    return Err(EngineError::broken("running the build's script", text));
                }
            }
        }
    }
}

/// A build may use the whole CPU and half of the memory.
fn limits() -> Limits {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    });
    Limits {
        cpu_millis: u32::try_from(cpus * 1000).unwrap_or(u32::MAX),
        memory_bytes: memory.map_or(MEMORY_FALLBACK, |kib| kib * 1024 / 2),
        pids: PIDS,
        disk_bytes: u64::MAX,
    }
}

/// A throw-away box. Ended in the background if it is dropped before [`end`](Self::end): the build was broken off.
#[derive(Debug)]
struct Build {
    id: BoxId,
    work: PathBuf,
    host: Arc<Host>,
    tasks: TaskTracker,
    ended: bool,
}

impl Build {
    fn new(engine: &LocalEngine, upper: &Path) -> Result<Self, EngineError> {
        let mut name = upper.file_name().unwrap_or_default().to_owned();
        name.push(".work");
        let id = loop {
            let id = BoxId::from_entropy(rand::random());
            if engine.host.slots().get(&id).is_none() && engine.host.builds().insert(id.clone()) {
                break id;
            }
        };
        if engine.tasks.is_closed() {
            return Err(EngineError::new(ErrorKind::Broken, "starting a build after the engine was closed"));
        }
        let host = Arc::clone(&engine.host);
        Ok(Self { id, work: upper.with_file_name(name), host, tasks: engine.tasks.clone(), ended: false })
    }

    async fn end(mut self) -> Result<(), EngineError> {
        let ended = clean(&self.host, &self.id, &self.work).await;
        self.ended = true;
        ended
    }
}

impl Drop for Build {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        if let Err(error) = self.host.cgroups.kill_now(&self.id) {
            tracing::warn!(id = %self.id, %error, "ending a build that was broken off");
        }
        let (host, id, work) = (Arc::clone(&self.host), self.id.clone(), self.work.clone());
        self.tasks.spawn(async move {
            if let Err(error) = clean(&host, &id, &work).await {
                tracing::warn!(%id, ?error, "cleaning up after a build that was broken off");
            }
        });
    }
}

async fn clean(host: &Host, id: &BoxId, work: &Path) -> Result<(), EngineError> {
    host.end(id).await.map_err(broken("ending the build's box"))?;
    host.trash.throw(work).map_err(broken("removing the build's work folder"))?;
    host.retire(id);
    host.builds().remove(id);
    Ok(())
}
