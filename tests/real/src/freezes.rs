//! How long a box stands still, seen from the host and not from its server.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{CreateFlags, ReadFlags, Reader, WatchFlags, add_watch, init};

use crate::footprint::cgroups;
use crate::lane::Lane;

/// Sees each time that somebody freezes a box's cgroup and lets it go on. What happens between two waits is kept.
#[derive(Debug)]
pub struct Freezes {
    events: OwnedFd,
}

impl Freezes {
    /// Begins to watch the box `id`, which is awake.
    ///
    /// # Errors
    /// It has no cgroup that can be frozen.
    pub fn watch(lane: &Lane, id: &str) -> Result<Self> {
        let tag = lane.tag().context("the server has not run")?;
        let switches = cgroups(&tag)?.into_iter().map(|folder| folder.join(id).join("cgroup.freeze"));
        let switch: PathBuf = switches.into_iter().find(|path| path.exists()).context("the box cannot be frozen")?;
        let events = init(CreateFlags::CLOEXEC)?;
        // Opening is watched as well: two equal events that follow each other would be told of as one.
        add_watch(&events, &switch, WatchFlags::MODIFY | WatchFlags::OPEN)?;
        Ok(Self { events })
    }

    /// Waits until the box has been frozen and let go, and returns how long that was. To be called before it begins: what is read
    /// late has the time at which it was read.
    ///
    /// # Errors
    /// It did not happen within `deadline`.
    pub fn next(&self, deadline: Duration) -> Result<Duration> {
        let end = Instant::now() + deadline;
        let mut buffer = [MaybeUninit::uninit(); 512];
        let mut events = Reader::new(&self.events, &mut buffer);
        let begun = self.written(&mut events, end).context("waiting for the box to be frozen")?;
        let ended = self.written(&mut events, end).context("waiting for the box to be let go")?;
        Ok(ended - begun)
    }

    /// Waits for the switch to be written.
    fn written(&self, events: &mut Reader<'_, &OwnedFd>, end: Instant) -> Result<Instant> {
        loop {
            if events.is_buffer_empty() {
                let left = Timespec::try_from(end.saturating_duration_since(Instant::now()))?;
                let ready = poll(&mut [PollFd::new(&self.events, PollFlags::IN)], Some(&left))?;
                ensure!(ready == 1, "nothing happened in time");
            }
            if events.next()?.events().contains(ReadFlags::MODIFY) {
                return Ok(Instant::now());
            }
        }
    }
}
