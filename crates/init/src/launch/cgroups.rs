//! The box's cgroups, seen from the host: handing the v2 folder over, and putting the box into its v1 groups.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use boxyard_proto::launch::Launch;
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Uid, chownat, mkdirat, openat, unlinkat};
use rustix::io::Errno;

use super::mounts::again;
use super::namespaces::{open_folder, write_below};
use crate::trouble::{Doing, Trouble};

/// The cgroup of PID 1 inside the box's.
const LEAF: &str = "init";

/// Cgroups below the box's at most: one for each job that has left something running, and one for PID 1.
const DESCENDANTS: u32 = 1024;

/// The box's v2 cgroup. Dropping it removes the leaf for PID 1 again.
#[derive(Debug)]
pub struct BoxCgroup {
    folder: OwnedFd,
    leaf: OwnedFd,
}

impl BoxCgroup {
    /// Opens the cgroup that the engine made, makes the leaf for PID 1 and hands over what the box's root needs for making others.
    pub fn open(plan: &Launch) -> Result<Self, Trouble> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = openat(CWD, &plan.cgroup, flags, Mode::empty())
            .doing_with(|| format!("opening the cgroup {}", plan.cgroup.display()))?;
        if !plan.controllers.is_empty() {
            let words: Vec<_> = plan.controllers.iter().map(|name| format!("+{name}")).collect();
            write_below(&folder, "cgroup.subtree_control", &words.join(" "))?;
        }
        write_below(&folder, "cgroup.max.descendants", &DESCENDANTS.to_string())?;
        match mkdirat(&folder, LEAF, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error).doing("making the cgroup of PID 1"),
        }
        let leaf = openat(&folder, LEAF, flags | OFlags::NOFOLLOW, Mode::empty()).doing("opening PID 1's cgroup")?;
        let cgroup = Self { folder, leaf };
        cgroup.hand_over(plan.uid_start)?;
        Ok(cgroup)
    }

    /// Making a child group and moving processes between children is the box root's right; changing the box's limits is not.
    fn hand_over(&self, root: u32) -> Result<(), Trouble> {
        let (uid, gid) = (Some(Uid::from_raw(root)), Some(Gid::from_raw(root)));
        for name in ["", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"] {
            let flags = if name.is_empty() { AtFlags::EMPTY_PATH } else { AtFlags::SYMLINK_NOFOLLOW };
            chownat(&self.folder, name, uid, gid, flags).doing("handing the cgroup over to the box")?;
        }
        Ok(())
    }

    /// A descriptor of the box's cgroup, for PID 1. On a mount of its own that ends here: above a folder of the host's mount lies the
    /// whole host (CVE-2024-21626).
    pub fn folder(&self) -> Result<OwnedFd, Trouble> {
        again(&self.folder, "").doing("opening the cgroup for PID 1")
    }

    /// The folder of PID 1's cgroup.
    pub fn leaf(&self) -> &OwnedFd {
        &self.leaf
    }

    /// Leaves everything as it is: the box runs.
    pub fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for BoxCgroup {
    fn drop(&mut self) {
        // The box's cgroup itself is the engine's to remove; a leaf that something still runs in stays with it.
        let _ = unlinkat(&self.folder, LEAF, AtFlags::REMOVEDIR);
    }
}

/// The box's cgroups in v1 hierarchies.
#[derive(Debug)]
pub struct V1Cgroups(Vec<(OwnedFd, PathBuf)>);

impl V1Cgroups {
    /// Opens them.
    pub fn open(paths: &[PathBuf]) -> Result<Self, Trouble> {
        let open = |path: &PathBuf| Ok((open_folder(path)?, path.clone()));
        Ok(Self(paths.iter().map(open).collect::<Result<_, _>>()?))
    }

    /// Moves the process `pid` into each. The first move in a while waits for a grace period of the kernel's, about 5 ms.
    pub fn enter(&self, pid: i32) -> Result<(), Trouble> {
        let pid = pid.to_string();
        self.0.iter().try_for_each(|(folder, path)| enter(folder.as_fd(), path, &pid))
    }
}

fn enter(folder: impl AsFd, path: &Path, pid: &str) -> Result<(), Trouble> {
    write_below(folder, "cgroup.procs", pid)
        .map_err(|trouble| Trouble { doing: format!("moving the box into {}", path.display()), error: trouble.error })
}
