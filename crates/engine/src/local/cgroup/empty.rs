//! Emptying groups: the death of a box.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use boxyard_proto::BoxId;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::timeout;

use super::limits::set_if_there;
use super::{Cgroups, is_gone, remove_folder};

/// How long killed processes may take to be gone. Only a process that is stuck in the kernel takes longer than a moment.
const DEATH_DEADLINE: Duration = Duration::from_secs(30);

/// The kernel tells of changes of a group once in ten milliseconds at most, and a change that follows another is told of that much
/// later. Freezing and dying take less, so the file is looked at some times before that.
const LOOKS: u32 = 12;
const LOOK_AGAIN: Duration = Duration::from_millis(1);

impl Cgroups {
    /// Kills every process of the box and tells the kernel only: returns before they are gone. For places that cannot wait.
    pub(in crate::local) fn kill_now(&self, id: &BoxId) -> io::Result<()> {
        match set_if_there(&self.tree.join(id.as_str()).join("cgroup.kill"), "1") {
            Err(error) if !is_gone(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// Waits until the box has no process. A box without a group has none.
    ///
    /// # Errors
    /// Processes did not go within half a minute.
    pub(in crate::local) async fn emptied(&self, id: &BoxId) -> io::Result<()> {
        wait_empty(&self.tree.join(id.as_str())).await
    }

    /// Waits, for as long as it takes, until the box has no process. A box without a group has none. The kernel wakes us when it is so, and
    /// else never: processes that come and go in a box change nothing in its own group's file.
    ///
    /// # Errors
    /// The kernel's file cannot be watched.
    pub(in crate::local) async fn died(&self, id: &BoxId) -> io::Result<()> {
        told(&self.tree.join(id.as_str()), "populated 0", 0).await
    }

    /// Kills every process of the box, waits until they are gone and removes its groups. Does nothing for a box without groups.
    ///
    /// # Errors
    /// Processes did not go within half a minute, or a group cannot be removed.
    pub(in crate::local) async fn clear(&self, id: &BoxId) -> io::Result<()> {
        self.kill_now(id)?;
        self.emptied(id).await?;
        remove_tree(&self.tree.join(id.as_str()))?;
        for base in self.v1_folders() {
            let group = base.join(id.as_str());
            match remove_folder(&group) {
                // A process that is in no v2 group of ours: a launcher was ended before it had placed PID 1 everywhere.
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                    kill_members(&group).await?;
                    remove_folder(&group)?;
                }
                other => other?,
            }
        }
        Ok(())
    }
}

/// Waits until no process is left in `group` or below.
async fn wait_empty(group: &Path) -> io::Result<()> {
    wait_for(group, "populated 0", DEATH_DEADLINE, "processes do not end").await
}

/// Waits until a line of the group's `cgroup.events` is this, or the group is gone.
pub(super) async fn wait_for(group: &Path, wanted: &str, deadline: Duration, late: &'static str) -> io::Result<()> {
    timeout(deadline, told(group, wanted, LOOKS)).await.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, late))?
}

/// The same without a deadline. The kernel says when to look: the file becomes readable out of band. Looks so many times before.
async fn told(group: &Path, wanted: &str, mut looks: u32) -> io::Result<()> {
    let file = match fs::File::open(group.join("cgroup.events")) {
        Ok(file) => file,
        Err(error) if is_gone(&error) => return Ok(()),
        Err(error) => return Err(error),
    };
    let events = watch(file.into(), Interest::PRIORITY)?;
    loop {
        let mut text = [0; 256];
        let length = match rustix::io::pread(events.get_ref(), &mut text, 0) {
            Err(Errno::NODEV) => return Ok(()),
            read => read?,
        };
        if String::from_utf8_lossy(&text[..length]).lines().any(|line| line == wanted) {
            return Ok(());
        }
        // Cleared before the next read, so that a change in between is not lost.
        let told = events.ready(Interest::PRIORITY);
        if looks > 0 {
            looks -= 1;
            if let Ok(told) = timeout(LOOK_AGAIN, told).await {
                told?.clear_ready();
            }
        } else {
            told.await?.clear_ready();
        }
    }
}

#[expect(
    deprecated,
    reason = "the new constructor is unsafe for types whose descriptor may change; an OwnedFd's does not"
)]
fn watch(file: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(file, interest)
}

/// Removes a group and all below it, which box and launcher made: leaves first. Depth and number are limited when a box is made.
fn remove_tree(group: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(group) {
        Ok(entries) => entries,
        Err(error) if is_gone(&error) => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    remove_folder(group)
}

/// Kills the processes of a v1 group one by one and waits for each.
async fn kill_members(group: &Path) -> io::Result<()> {
    let list = group.join("cgroup.procs");
    let members = |text: &str| text.lines().filter_map(|line| line.parse().ok()).collect::<Vec<i32>>();
    // New ones can appear while we go through the list; each round leaves fewer that could make them.
    for _ in 0..64 {
        let pids = members(&fs::read_to_string(&list)?);
        if pids.is_empty() {
            return Ok(());
        }
        for pid in pids {
            let Some(name) = Pid::from_raw(pid) else { continue };
            let Ok(process) = pidfd_open(name, PidfdFlags::NONBLOCK) else { continue };
            // The number may have passed to another process before it was opened, but not after.
            if members(&fs::read_to_string(&list)?).contains(&pid) {
                // It may have ended by itself; the wait tells.
                let _ = pidfd_send_signal(&process, Signal::KILL);
                let ended = watch(process, Interest::READABLE)?;
                match timeout(DEATH_DEADLINE, ended.readable()).await {
                    Ok(ready) => drop(ready?),
                    Err(_) => return Err(io::Error::other("processes do not end")),
                }
            }
        }
    }
    Err(io::Error::other("processes come back faster than they end"))
}
