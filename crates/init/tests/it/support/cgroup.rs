//! Cgroups of the tests' own, below the host's mounts and removed after use.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::DEADLINE;

/// A v2 cgroup. Dropping it ends everything in it and removes it.
#[derive(Debug)]
pub struct Cgroup(pub PathBuf);

impl Cgroup {
    /// Makes one called `boxyard-NAME`.
    pub fn new(name: &str) -> Self {
        let path = v2_mount().join(format!("boxyard-{name}"));
        fs::create_dir(&path).expect("make a cgroup: tests need root and cgroup2");
        Self(path)
    }

    /// Waits until no process is in the leaf `name`, which may be gone.
    pub fn wait_until_empty(&self, name: &str) {
        wait_until_empty(&self.0.join(name));
    }

    /// The leaves that there are.
    pub fn leaves(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).expect("list a cgroup").flatten();
        let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        folders.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::write(self.0.join("cgroup.kill"), "1");
        wait_until_empty(&self.0);
        for leaf in self.leaves() {
            let _ = fs::remove_dir(self.0.join(leaf));
        }
        let removed = fs::remove_dir(&self.0);
        if !std::thread::panicking() {
            removed.expect("remove a cgroup");
        }
    }
}

/// Where cgroup2 is mounted.
pub fn v2_mount() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("read mounts");
    let mount =
        mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).find(|words| words.get(2) == Some(&"cgroup2"));
    mount.map(|words| PathBuf::from(words[1])).expect("cgroup2 is mounted")
}

fn wait_until_empty(cgroup: &Path) {
    // The kernel tells when the file's content changes, but wakes nobody when the cgroup is removed before it could.
    let deadline = Instant::now() + DEADLINE;
    while Instant::now() < deadline {
        let Ok(mut file) = fs::File::open(cgroup.join("cgroup.events")) else { return };
        let mut text = String::new();
        if std::io::Read::read_to_string(&mut file, &mut text).is_err() || text.contains("populated 0") {
            return;
        }
        let timeout = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        poll(&mut [PollFd::new(&file, PollFlags::PRI)], Some(&timeout)).expect("wait for a cgroup");
    }
    assert!(std::thread::panicking(), "{} does not get empty", cgroup.display());
}
