//! `boxyard-init serve` on the host.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use super::cgroup::Cgroup;
use super::{PROGRAM, folder, unique};

/// A server with a socket and a cgroup of its own. Dropping it ends it and all its jobs.
#[derive(Debug)]
pub struct Server {
    process: Child,
    folder: PathBuf,
    /// Where it listens.
    pub socket: PathBuf,
    /// What the jobs' cgroups are in.
    pub cgroup: Cgroup,
}

impl Server {
    /// Starts one.
    pub fn new() -> Self {
        Self::started_by("", true)
    }

    /// Starts one without cgroups.
    pub fn without_cgroup() -> Self {
        Self::started_by("", false)
    }

    /// Starts one that hangs up in a hurry: 100 ms between the signals.
    pub fn in_a_hurry() -> Self {
        Self::start("", true, &["--hangup-grace", "100"])
    }

    /// Starts one from a shell that has done `before`.
    pub fn started_by(before: &str, confined: bool) -> Self {
        Self::start(before, confined, &[])
    }

    fn start(before: &str, confined: bool, arguments: &[&str]) -> Self {
        let folder = folder("serve");
        let socket = folder.join("s");
        let listener = UnixListener::bind(&socket).expect("listen");
        let cgroup = Cgroup::new(&format!("test-{}-{}", std::process::id(), unique()));
        let mut command = Command::new("/bin/sh");
        let script = format!("{before}\nexec \"$0\" serve \"$@\" 3<&0 </dev/null");
        command.args(["-c", &script, PROGRAM]).stdin(OwnedFd::from(listener));
        if confined {
            command.arg("--cgroup").arg(&cgroup.0).args(arguments);
        }
        let process = command.spawn().expect("start the server");
        Self { process, folder, socket, cgroup }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
