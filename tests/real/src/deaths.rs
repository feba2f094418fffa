//! When the processes of a box end, seen from the host and not from its server.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::footprint::cgroups;
use crate::lane::Lane;

/// All processes that a box has at one moment.
#[derive(Debug)]
pub struct Deaths {
    processes: Vec<OwnedFd>,
}

impl Deaths {
    /// Begins to watch the box `id`.
    ///
    /// # Errors
    /// It has no processes.
    pub fn watch(lane: &Lane, id: &str) -> Result<Self> {
        let tag = lane.tag().context("the server has not run")?;
        let mut processes = Vec::new();
        for folder in cgroups(&tag)?.into_iter().map(|folder| folder.join(id)) {
            // Every process is in the v2 tree, where groups can be frozen.
            if folder.join("cgroup.freeze").exists() {
                collect(&folder, &mut processes)?;
            }
        }
        ensure!(!processes.is_empty(), "the box has no processes");
        Ok(Self { processes })
    }

    /// Waits until all of them have ended.
    ///
    /// # Errors
    /// One has not within `deadline`.
    pub fn wait(&self, deadline: Duration) -> Result<()> {
        let end = Instant::now() + deadline;
        for process in &self.processes {
            let left = Timespec::try_from(end.saturating_duration_since(Instant::now()))?;
            let ended = poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&left))?;
            ensure!(ended == 1, "a process has not ended in time");
        }
        Ok(())
    }
}

/// The processes of a group and of those in it.
fn collect(group: &Path, processes: &mut Vec<OwnedFd>) -> Result<()> {
    for line in fs::read_to_string(group.join("cgroup.procs"))?.lines() {
        let pid = line.parse().ok().and_then(Pid::from_raw).with_context(|| format!("'{line}' is no pid"))?;
        match pidfd_open(pid, PidfdFlags::empty()) {
            // It has just ended.
            Err(rustix::io::Errno::SRCH) => {}
            opened => processes.push(opened?),
        }
    }
    for entry in fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), processes)?;
        }
    }
    Ok(())
}
