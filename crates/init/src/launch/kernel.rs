//! `/proc` and `/sys` of a box: fresh, without what tells about the host or changes it.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FileType, fstat};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::mounts::{Stage, again, attach, folder_spot, make, spot};
use super::namespaces::write_below;
use crate::sys;
use crate::trouble::{Doing, Trouble};

/// Hidden below an empty file or folder, where the kernel has them at all.
const MASKED: [&str; 15] = [
    "proc/acpi",
    "proc/asound",
    "proc/interrupts",
    "proc/kcore",
    "proc/keys",
    "proc/latency_stats",
    "proc/sched_debug",
    "proc/scsi",
    "proc/timer_list",
    "proc/timer_stats",
    "sys/devices/virtual/powercap",
    "sys/firmware",
    "sys/fs/selinux",
    "sys/kernel/debug",
    "sys/kernel/tracing",
];

/// Readable, never writable.
const READ_ONLY: [&str; 5] = ["bus", "fs", "irq", "sys", "sysrq-trigger"];

/// Settings of the box's own network namespace. Its root cannot change them later: `/proc/sys` is read-only for it.
const SETTINGS: [(&str, &str); 2] = [
    // ping without privileges, for every group of the box.
    ("sys/net/ipv4/ping_group_range", "0 65535"),
    // A web server needs no root to listen on port 80.
    ("sys/net/ipv4/ip_unprivileged_port_start", "0"),
];

/// The box's procfs and sysfs.
#[derive(Debug)]
pub struct Kernel {
    proc: OwnedFd,
}

impl Kernel {
    /// Mounts both and attaches them to the box's root, still bare. To be called while the host's are still visible: the kernel lets
    /// only those have new ones who see old ones.
    pub fn mount(root: &OwnedFd) -> Result<Self, Trouble> {
        let quiet =
            MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let proc = make("proc", &[], quiet)?;
        let sys = make("sysfs", &[], quiet | MountAttrFlags::MOUNT_ATTR_RDONLY)?;
        attach(&proc, folder_spot(root, "proc").doing("opening /proc in the image")?).doing("attaching /proc")?;
        attach(&sys, folder_spot(root, "sys").doing("opening /sys in the image")?).doing("attaching /sys")?;
        let kernel = Self { proc };
        for (path, value) in SETTINGS {
            kernel.set(path, value)?;
        }
        Ok(kernel)
    }

    /// The box's procfs.
    pub fn proc(&self) -> &OwnedFd {
        &self.proc
    }

    /// Changes a setting of the box's namespaces.
    pub fn set(&self, path: &str, value: &str) -> Result<(), Trouble> {
        write_below(&self.proc, path, value)
    }

    /// Changes a setting where the kernel has it.
    pub fn set_if_there(&self, path: &str, value: &str) -> Result<(), Trouble> {
        match self.set(path, value) {
            Err(trouble) if trouble.error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            result => result,
        }
    }

    /// Hides what the box shall not see and closes what it shall not change. `null` is the box's `/dev/null`, attached already.
    pub fn mask(&self, stage: &Stage, root: &OwnedFd, null: &OwnedFd) -> Result<(), Trouble> {
        stage.make_folder("empty", 0o555)?;
        for path in MASKED {
            let doing = || format!("masking /{path}");
            let spot = match spot(root, path) {
                Ok(spot) => spot,
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(error).doing_with(doing),
            };
            let kind = FileType::from_raw_mode(fstat(&spot).doing_with(doing)?.st_mode);
            let mask = if kind == FileType::Directory { again(stage.folder(), "empty") } else { again(null, "") };
            let mask = mask.doing_with(doing)?;
            sys::mount_setattr(mask.as_fd(), libc::MOUNT_ATTR_RDONLY, None).doing_with(doing)?;
            attach(mask, spot).doing_with(doing)?;
        }
        for name in READ_ONLY {
            let doing = || format!("closing /proc/{name}");
            let closed = match again(&self.proc, name) {
                Ok(closed) => closed,
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(error).doing_with(doing),
            };
            sys::mount_setattr(closed.as_fd(), libc::MOUNT_ATTR_RDONLY, None).doing_with(doing)?;
            attach(closed, spot(&self.proc, name).doing_with(doing)?).doing_with(doing)?;
        }
        Ok(())
    }
}
