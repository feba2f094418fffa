//! The box's first process and its namespaces, seen from the host.

use std::os::fd::{AsFd, OwnedFd};

use boxyard_proto::launch::UIDS_PER_BOX;
use rustix::fs::{CWD, Mode, OFlags, PROC_SUPER_MAGIC, ResolveFlags, Uid, fstatfs, openat, openat2};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use rustix::thread::{capabilities, set_capabilities, set_thread_res_uid};

use crate::sys::{self, Child};
use crate::trouble::{Doing, Trouble};

/// The namespaces of every box. Not the cgroup namespace: each job enters one of its own, rooted in its own cgroup, because on hosts
/// that mount cgroup2 with `nsdelegate` a PID 1 in a namespace rooted in its leaf could not start jobs in sibling leaves.
pub const NAMESPACES: i32 = libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC;

/// The host's procfs, known to be one: a write that is meant for the kernel must not land in a file that looks like it
/// (CVE-2019-16884, CVE-2025-52881).
#[derive(Debug)]
pub struct Proc(OwnedFd);

impl Proc {
    /// Opens `/proc`.
    pub fn open() -> Result<Self, Trouble> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = openat(CWD, c"/proc", flags, Mode::empty()).doing("opening /proc")?;
        let magic = fstatfs(&folder).doing("examining /proc")?.f_type;
        if magic != PROC_SUPER_MAGIC {
            return Err(Trouble::new("examining /proc", "it is not the kernel's"));
        }
        Ok(Self(folder))
    }

    /// Writes `text` to the file at `path` below it.
    pub fn write(&self, path: &str, text: &str) -> Result<(), Trouble> {
        write_below(&self.0, path, text)
    }

    /// Opens the user namespace of the process `pid`.
    pub fn user_namespace(&self, pid: i32) -> Result<OwnedFd, Trouble> {
        // The one magic link of this program; it comes from procfs itself and leads to the namespace file system.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        openat(&self.0, format!("{pid}/ns/user"), flags, Mode::empty()).doing("opening the user namespace")
    }
}

/// Writes `text` in one go to a file below `folder`, whose path crosses no link and no mount.
pub fn write_below(folder: impl AsFd, path: &str, text: &str) -> Result<(), Trouble> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let file = openat2(folder, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty(), resolve)
        .doing_with(|| format!("opening {path}"))?;
    let written = rustix::io::write(&file, text.as_bytes()).doing_with(|| format!("writing {path}"))?;
    if written == text.len() {
        Ok(())
    } else {
        Err(Trouble::new(format!("writing {path}"), "the kernel took only a part"))
    }
}

/// Maps the ids 0 to 65,535 of the child's user namespace to the host's from `start` on.
pub fn map_ids(proc: &Proc, child: &Child, start: u32) -> Result<(), Trouble> {
    if start < UIDS_PER_BOX || start.checked_add(UIDS_PER_BOX).is_none() {
        return Err(Trouble::new("mapping ids", "the range overlaps the host's own ids"));
    }
    let pid = child.pid.as_raw_nonzero();
    let map = format!("0 {start} {UIDS_PER_BOX}\n");
    proc.write(&format!("{pid}/uid_map"), &map)?;
    proc.write(&format!("{pid}/gid_map"), &map)
}

/// Acts as the host's user `uid` with all that this process may do, until it is told to act as another.
///
/// The kernel counts what a user namespace uses of the host's limits for each user (inotify instances and watches, pending signals,
/// message queues) against whoever made the namespace. Made by the host's root, one box could use up root's share, which is also that
/// of all other boxes; so the box's own first uid makes it, which nobody outside has.
pub fn act_as(uid: u32) -> Result<(), Trouble> {
    let doing = || format!("acting as the user {uid}");
    set_thread_res_uid(Uid::ROOT, Uid::from_raw(uid), Uid::ROOT).doing_with(doing)?;
    // A change from root to another user has cleared what is in effect, and nothing else.
    let mut sets = capabilities(None).doing_with(doing)?;
    sets.effective = sets.permitted;
    set_capabilities(None, sets).doing_with(doing)
}

/// Ends the child, and with it all that it started, and waits until it is gone.
pub fn end(child: &Child) {
    if let Some(pidfd) = &child.pidfd {
        // Neither can fail for a child of ours that nobody else waits for; and there is nobody to tell.
        let _ = pidfd_send_signal(pidfd, Signal::KILL);
        let _ = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
    }
}

/// Opens a folder of the host's that no box can change, for handing on and for making things in it; not for reading.
pub fn open_folder(path: &std::path::Path) -> Result<OwnedFd, Trouble> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty()).doing_with(|| format!("opening {}", path.display()))
}

/// Lets the child die with the launcher, until it stands on its own feet.
pub fn die_with_launcher(yes: bool) -> Result<(), Trouble> {
    let signal = if yes { Some(Signal::KILL) } else { None };
    rustix::process::set_parent_process_death_signal(signal).doing("binding the box to its launcher")
}

/// What the child does when it cannot even say what went wrong.
pub fn give_up() -> ! {
    sys::exit_now(1)
}
