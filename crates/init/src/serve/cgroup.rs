//! The cgroup of each job, by which its whole process tree is found, whatever it did to its sessions and process groups.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, mkdirat, openat, unlinkat};
use rustix::io::Errno;
use rustix::process::Pid;
use tokio::io::Interest;
use tokio::time::timeout;

use crate::sys;

/// Rounds of looking for processes that were forked while their siblings were signalled.
const ROUNDS: usize = 8;

/// Bytes read of a file of the kernel's at most.
const FILE_MAX: usize = 1024 * 1024;

/// How long processes may take to stop. Only who waits in the kernel for a disk takes longer than a moment.
const FREEZING: Duration = Duration::from_secs(1);

/// A v2 cgroup that we may make others in.
#[derive(Debug)]
pub struct Parent(OwnedFd);

impl Parent {
    /// The group that `folder` is of.
    pub fn new(folder: OwnedFd) -> Self {
        Self(folder)
    }

    /// Opens the group at `path`.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?))
    }

    /// Makes the leaf `name` in it.
    pub fn make(&self, name: String) -> Result<Leaf, Errno> {
        mkdirat(&self.0, name.as_str(), Mode::from_raw_mode(0o755))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(&self.0, name.as_str(), flags, Mode::empty()) {
            Ok(folder) => Ok(Leaf { folder, name }),
            Err(error) => {
                let _ = unlinkat(&self.0, name.as_str(), AtFlags::REMOVEDIR);
                Err(error)
            }
        }
    }

    /// Removes the leaf `name`, if nothing runs in it. Says whether it is gone.
    pub fn remove(&self, name: &str) -> bool {
        !matches!(unlinkat(&self.0, name, AtFlags::REMOVEDIR), Err(Errno::BUSY))
    }
}

/// A job's own cgroup.
#[derive(Debug)]
pub struct Leaf {
    folder: OwnedFd,
    name: String,
}

impl Leaf {
    /// Its name in its parent.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its folder, to make processes in.
    pub fn folder(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }

    /// The processes in it, but those that are not in our own process ids.
    pub fn pids(&self) -> Vec<u32> {
        let listed = self.read("cgroup.procs").unwrap_or_default();
        listed.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).collect()
    }

    /// Stops every process in it until what this returns is dropped. They can be killed meanwhile, and a new one starts stopped.
    ///
    /// # Errors
    /// The kernel does not do it.
    pub async fn freeze(&self) -> io::Result<Frozen<'_>> {
        let events = openat(&self.folder, c"cgroup.events", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let events = sys::watch(events, Interest::PRIORITY)?;
        self.write("cgroup.freeze", "1")?;
        let frozen = Frozen(self);
        let until_frozen = async {
            let mut text = [0; 256];
            loop {
                // The kernel tells of every change after the last read.
                let read = rustix::io::pread(&events, &mut text, 0)?;
                if text[..read].split(|byte| *byte == b'\n').any(|line| line == b"frozen 1") {
                    return Ok::<_, io::Error>(());
                }
                events.ready(Interest::PRIORITY).await?.clear_ready();
            }
        };
        // Who does not stop in time waits in the kernel, and does nothing else either.
        timeout(FREEZING, until_frozen).await.unwrap_or(Ok(()))?;
        Ok(frozen)
    }

    /// Sends `signal` to every process in it, those included that are forked meanwhile.
    pub fn signal(&self, signal: i32) {
        let mut done = Vec::new();
        for _ in 0..ROUNDS {
            let fresh: Vec<u32> = self.pids().into_iter().filter(|pid| !done.contains(pid)).collect();
            if fresh.is_empty() {
                break;
            }
            for pid in fresh.iter().filter_map(|pid| Pid::from_raw(pid.cast_signed())) {
                // Gone already is as good.
                let _ = sys::kill(pid, signal);
            }
            done.extend(fresh);
        }
    }

    /// Kills every process in it, all at once.
    pub fn kill(&self) {
        if self.write("cgroup.kill", "1").is_err() {
            // Kernels before 5.14.
            self.signal(libc::SIGKILL);
        }
    }

    /// CPU time of everything that ever ran in it, in nanoseconds.
    pub fn cpu_ns(&self) -> Option<u64> {
        let stat = self.read("cpu.stat").ok()?;
        let micros = stat.lines().find_map(|line| line.strip_prefix("usage_usec "))?;
        micros.parse::<u64>().ok()?.checked_mul(1000)
    }

    /// The most memory that it had at once, in bytes, where the kernel counts it.
    pub fn memory_peak(&self) -> Option<u64> {
        self.read("memory.peak").ok()?.trim().parse().ok()
    }

    fn write(&self, name: &str, text: &str) -> io::Result<()> {
        let file = openat(&self.folder, name, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::io::write(&file, text.as_bytes())?;
        Ok(())
    }

    fn read(&self, name: &str) -> io::Result<String> {
        let file = openat(&self.folder, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let mut text = vec![0; 4096];
        let mut length = 0;
        loop {
            let read = rustix::io::read(&file, &mut text[length..])?;
            length += read;
            if read == 0 || length >= FILE_MAX {
                break;
            }
            if length == text.len() {
                text.resize(length * 2, 0);
            }
        }
        text.truncate(length);
        String::from_utf8(text).map_err(io::Error::other)
    }
}

/// A leaf whose processes stand still. Dropping it lets them go on.
#[derive(Debug)]
pub struct Frozen<'a>(&'a Leaf);

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        // A leaf that is gone has nothing in it that could go on.
        let _ = self.0.write("cgroup.freeze", "0");
    }
}
