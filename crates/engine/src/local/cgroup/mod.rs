//! Cgroups: what a box may use, who belongs to it, and how it dies.
//!
//! Every box has one group in the v2 tree, whatever the host: it says which processes are the box's, and one write to its
//! `cgroup.kill` ends them all. The limits are in the same group where the v2 tree has the controller, and else in a group of the
//! same name in the controller's v1 hierarchy.
//!
//! ```text
//!   <v2>/boxyard-<tag>/<box>            cgroup.kill, cgroup.freeze, cgroup.events, cpu.stat (and the limits, on a v2 host)
//!                      <box>/init       PID 1, made by the launcher
//!                      <box>/<job>      one per job, made by boxyard-init
//!   <v1 memory>/boxyard-<tag>/<box>     limits, on a v1 or hybrid host; the same for cpu and pids
//! ```
//!
//! The groups lie at the root of each hierarchy as far as this process can see it, not under the server's own group: boxes outlive
//! the server, so they must not be in what a service manager ends or counts as the server's. In a container the root that we see has
//! processes in it, our own; v2 then wants them in a leaf, and [`Cgroups::open`] moves this process, and only this one, into
//! `boxyard-<tag>-server`.

mod detect;
mod empty;
mod freeze;
mod limits;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use boxyard_proto::BoxId;

use self::detect::Mounts;
use self::limits::{Controller, number, set};
use crate::{Limits, Usage};

/// Levels of groups that a box's root may make below its own.
const DEPTH_MAX: u32 = 16;

/// The groups of one instance.
#[derive(Debug)]
pub(super) struct Cgroups {
    /// Our folder in the v2 tree.
    tree: PathBuf,
    /// Our folder in the v1 hierarchy of a controller; controllers that are not here are in the v2 tree.
    v1: Vec<(Controller, PathBuf)>,
    /// The v2 tree's root if it was mounted for this instance.
    own_mount: Option<PathBuf>,
}

/// The groups of one box, as the launcher is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    /// Its group in the v2 tree.
    pub(super) v2: PathBuf,
    /// Its groups elsewhere.
    pub(super) v1: Vec<PathBuf>,
    /// Controllers to enable for the groups of its jobs.
    pub(super) controllers: Vec<String>,
}

impl Cgroups {
    /// Finds the hierarchies of this host and makes this instance's folders in them. Where no v2 tree is mounted it is mounted at
    /// `own_mount`, for this instance alone.
    ///
    /// # Errors
    /// A controller is missing, or a folder cannot be made.
    pub(super) fn open(tag: &str, own_mount: &Path) -> io::Result<Self> {
        Self::open_on(&Mounts::parse(&fs::read_to_string("/proc/self/mountinfo")?), tag, own_mount)
    }

    fn open_on(mounts: &Mounts, tag: &str, own_mount: &Path) -> io::Result<Self> {
        let root = match &mounts.v2 {
            Some(root) => root.clone(),
            None => {
                mount_tree(own_mount)?;
                own_mount.to_owned()
            }
        };
        let mut cgroups = Self::at(&root, mounts, tag)?;
        cgroups.own_mount = (root == own_mount).then_some(root.clone());
        let wanted = cgroups.in_v2();
        if !wanted.is_empty() {
            enable(&root, &wanted, tag)?;
        }
        make_folder(&cgroups.tree)?;
        if !wanted.is_empty() {
            set(&cgroups.tree.join("cgroup.subtree_control"), &wanted)?;
        }
        for base in cgroups.v1_folders() {
            make_folder(base)?;
        }
        match cgroups.v1_of(Controller::Cpu) {
            Some(base) => limits::weigh_v1(base, limits::cpus())?,
            None => limits::weigh_v2(&cgroups.tree, limits::cpus())?,
        }
        Ok(cgroups)
    }

    /// Decides for each controller where it is.
    fn at(root: &Path, mounts: &Mounts, tag: &str) -> io::Result<Self> {
        let offered = fs::read_to_string(root.join("cgroup.controllers"))?;
        let folder = format!("boxyard-{tag}");
        let mut v1 = Vec::new();
        for controller in Controller::ALL {
            if let Some(hierarchy) = mounts.v1.get(controller.name()) {
                v1.push((controller, hierarchy.join(&folder)));
            } else if !offers(&offered, controller) {
                let text = format!("the kernel's cgroup controller '{}' is not available", controller.name());
                return Err(io::Error::new(io::ErrorKind::Unsupported, text));
            }
        }
        Ok(Self { tree: root.join(folder), v1, own_mount: None })
    }

    /// What to write to `cgroup.subtree_control`.
    fn in_v2(&self) -> String {
        let in_v2 = Controller::ALL.into_iter().filter(|controller| self.v1_of(*controller).is_none());
        in_v2.map(|controller| format!("+{}", controller.name())).collect::<Vec<_>>().join(" ")
    }

    fn v1_of(&self, controller: Controller) -> Option<&Path> {
        self.v1.iter().find(|(one, _)| *one == controller).map(|(_, base)| base.as_path())
    }

    /// Our folders in v1 hierarchies; controllers may share one.
    fn v1_folders(&self) -> BTreeSet<&Path> {
        self.v1.iter().map(|(_, base)| base.as_path()).collect()
    }

    /// Makes and limits the groups of a box. What is there already is limited anew.
    ///
    /// # Errors
    /// A folder cannot be made or a limit not be set.
    pub(super) fn make(&self, id: &BoxId, limits: &Limits) -> io::Result<Group> {
        let v2 = self.tree.join(id.as_str());
        make_folder(&v2)?;
        // The box's root makes groups as it likes below this one. How many is the launcher's to say.
        set(&v2.join("cgroup.max.depth"), &DEPTH_MAX.to_string())?;
        let mut v1 = Vec::new();
        for base in self.v1_folders() {
            let dir = base.join(id.as_str());
            make_folder(&dir)?;
            v1.push(dir);
        }
        let mut controllers = Vec::new();
        for controller in Controller::ALL {
            match self.v1_of(controller) {
                Some(base) => controller.limit_v1(&base.join(id.as_str()), limits)?,
                None => {
                    controller.limit_v2(&v2, limits)?;
                    // For the peak of each job; time is counted without a controller.
                    if controller == Controller::Memory {
                        controllers.push(controller.name().to_owned());
                    }
                }
            }
        }
        Ok(Group { v2, v1, controllers })
    }

    /// Whether the box has a group: it has, or had, processes that nobody has cleared away.
    pub(super) fn is_there(&self, id: &BoxId) -> bool {
        self.tree.join(id.as_str()).exists()
    }

    /// Whether the box has processes.
    ///
    /// # Errors
    /// The kernel's file cannot be read. A box without a group has no processes.
    pub(super) fn is_populated(&self, id: &BoxId) -> io::Result<bool> {
        match number(&self.tree.join(id.as_str()).join("cgroup.events"), Some("populated ")) {
            Ok(populated) => Ok(populated != 0),
            Err(error) if is_gone(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// What the box uses now; `None` when it has no group.
    ///
    /// # Errors
    /// A file of the kernel's cannot be read.
    pub(super) fn usage(&self, id: &BoxId) -> io::Result<Option<Usage>> {
        let v2 = self.tree.join(id.as_str());
        let read = || {
            let at = |controller, file_v1: &str, file_v2: &str| match self.v1_of(controller) {
                Some(base) => number(&base.join(id.as_str()).join(file_v1), None),
                None => number(&v2.join(file_v2), None),
            };
            Ok(Usage {
                cpu_ns: number(&v2.join("cpu.stat"), Some("usage_usec "))?.saturating_mul(1000),
                memory_bytes: at(Controller::Memory, "memory.usage_in_bytes", "memory.current")?,
                pids: at(Controller::Pids, "pids.current", "pids.current")?,
                oom_kills: self.oom_kills(id)?,
                ..Usage::default()
            })
        };
        match read() {
            Ok(usage) => Ok(Some(usage)),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Bytes of the box's files that are in memory and have not been written out. None when it has no processes' memory at all.
    ///
    /// # Errors
    /// A file of the kernel's cannot be read.
    pub(super) fn unwritten(&self, id: &BoxId) -> io::Result<u64> {
        let (file, keys) = match self.v1_of(Controller::Memory) {
            Some(base) => (base.join(id.as_str()).join("memory.stat"), ["total_dirty ", "total_writeback "]),
            None => (self.tree.join(id.as_str()).join("memory.stat"), ["file_dirty ", "file_writeback "]),
        };
        let bytes = keys.iter().map(|key| number(&file, Some(key))).sum();
        match bytes {
            Err(error) if is_gone(&error) => Ok(0),
            // Older kernels do not count: there may be any number.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(u64::MAX),
            counted => counted,
        }
    }

    /// How many of the box's processes the kernel has ended because the box was out of memory.
    fn oom_kills(&self, id: &BoxId) -> io::Result<u64> {
        let file = match self.v1_of(Controller::Memory) {
            Some(base) => base.join(id.as_str()).join("memory.oom_control"),
            None => self.tree.join(id.as_str()).join("memory.events"),
        };
        match number(&file, Some("oom_kill ")) {
            // Kernels before 4.13 do not count.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(0),
            counted => counted,
        }
    }

    /// Names of all boxes that have a group anywhere. The names are ours: boxes make groups below their own only.
    ///
    /// # Errors
    /// A folder cannot be listed.
    pub(super) fn names(&self) -> io::Result<BTreeSet<String>> {
        let mut names = BTreeSet::new();
        for base in self.v1_folders().into_iter().chain([self.tree.as_path()]) {
            for entry in fs::read_dir(base)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    names.insert(entry.file_name().to_string_lossy().into_owned());
                }
            }
        }
        Ok(names)
    }

    /// Removes this instance's folders, which must be empty of boxes, and its mount if it has one.
    ///
    /// # Errors
    /// A folder is in use.
    pub(super) fn remove_folders(&self) -> io::Result<()> {
        self.v1_folders().into_iter().chain([self.tree.as_path()]).try_for_each(remove_folder)?;
        if let Some(point) = &self.own_mount {
            rustix::mount::unmount(point, rustix::mount::UnmountFlags::NOFOLLOW)?;
        }
        Ok(())
    }
}

/// Names of the controllers that boxes need and this host has in no version.
///
/// # Errors
/// The host's mounts cannot be read.
pub(super) fn missing() -> io::Result<Vec<&'static str>> {
    let mounts = Mounts::parse(&fs::read_to_string("/proc/self/mountinfo")?);
    let offered = match &mounts.v2 {
        Some(root) => fs::read_to_string(root.join("cgroup.controllers"))?,
        None => String::new(),
    };
    let there = |controller: &Controller| mounts.v1.contains_key(controller.name()) || offers(&offered, *controller);
    Ok(Controller::ALL.into_iter().filter(|controller| !there(controller)).map(Controller::name).collect())
}

/// Whether the text of `cgroup.controllers` has the controller.
fn offers(offered: &str, controller: Controller) -> bool {
    offered.split_whitespace().any(|name| name == controller.name())
}

fn is_gone(error: &io::Error) -> bool {
    // A group that is being removed answers ENODEV on files that were open already.
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error())
}

fn make_folder(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(io::Error::new(error.kind(), format!("making {}: {error}", path.display()))),
    }
}

fn remove_folder(path: &Path) -> io::Result<()> {
    match fs::remove_dir(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Hosts with v1 only have no v2 tree anywhere; it can always be had, beside v1. An earlier life of the server may have mounted it.
fn mount_tree(point: &Path) -> io::Result<()> {
    use rustix::mount::{MountFlags, mount};
    fs::create_dir_all(point)?;
    if point.join("cgroup.procs").exists() {
        return Ok(());
    }
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    Ok(mount("boxyard", point, "cgroup2", flags, None)?)
}

/// Lets the children of `root` have the controllers `wanted`.
fn enable(root: &Path, wanted: &str, tag: &str) -> io::Result<()> {
    let switch = root.join("cgroup.subtree_control");
    match set(&switch, wanted) {
        // Not the host's root but one with processes in it: a container's, or one delegated to us.
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            let leaf = root.join(format!("boxyard-{tag}-server"));
            make_folder(&leaf)?;
            set(&leaf.join("cgroup.procs"), &std::process::id().to_string())?;
            set(&switch, wanted).map_err(|error| {
                io::Error::new(error.kind(), format!("{error} (other processes share {} with us)", root.display()))
            })
        }
        other => other,
    }
}

#[cfg(test)]
mod tests;
