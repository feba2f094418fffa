//! Processes as `/proc` shows them, and a job's process tree without cgroups: what descends from its first process, and what is in its
//! session. Processes that left both are missed, which is why boxes have cgroups.

use std::fs;
use std::path::Path;

use boxyard_proto::wire::User;
use rustix::process::Pid;

use super::rights;
use crate::sys;

/// How far up one looks for who has started a process.
const ANCESTORS: usize = 64;

/// Sends `signal` to every process of the job whose first process is, or was, `first`.
pub fn signal(first: u32, signal: i32) {
    let processes = list();
    let mut tree = vec![first];
    let mut next = 0;
    while next < tree.len() {
        let parent = tree[next];
        next += 1;
        for process in &processes {
            let related = process.parent == parent || process.session == first;
            if related && !tree.contains(&process.pid) {
                tree.push(process.pid);
            }
        }
    }
    let alive = tree.iter().filter(|pid| processes.iter().any(|process| process.pid == **pid));
    for pid in alive.filter_map(|pid| Pid::from_raw(pid.cast_signed())) {
        // Gone already is as good.
        let _ = sys::kill(pid, signal);
    }
}

/// What is known of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Its process group.
    pub group: u32,
    /// Its session.
    pub session: u32,
    parent: u32,
}

impl Process {
    /// Looks at the process `pid`, if there is one.
    pub fn read(pid: u32) -> Option<Self> {
        Self::parse(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    fn parse(pid: u32, stat: &str) -> Option<Self> {
        // The name in parentheses may contain anything, parentheses included: state, parent, group and session follow the last.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(1);
        let mut number = || fields.next()?.parse().ok();
        let (parent, group, session) = (number()?, number()?, number()?);
        Some(Self { pid, group, session, parent })
    }

    /// Whether it ignores SIGHUP.
    pub fn ignores_hangup(&self) -> bool {
        fs::read_to_string(format!("/proc/{}/status", self.pid)).is_ok_and(|status| ignores_hangup(&status))
    }

    /// Whether somebody meant it to outlive its session's connection: it ignores SIGHUP, or is a server that works in the background (it
    /// reads nothing of the session, and what it says goes into a log), or belongs to such a process. Programs may undo what `nohup` has
    /// done for them (Node does), and what they start knows nothing of it.
    pub fn is_detached(&self) -> bool {
        let mut process = *self;
        for _ in 0..ANCESTORS {
            if process.ignores_hangup() || (process.pid != self.session && process.is_in_background()) {
                return true;
            }
            match Self::read(process.parent) {
                Some(parent) if parent.session == self.session => process = parent,
                Some(_) | None => return false,
            }
        }
        false
    }

    fn is_in_background(&self) -> bool {
        // Its descriptors are shown to its own user. Links are only read: nothing that a box has made is opened or asked.
        let stream = |number| fs::read_link(format!("/proc/{}/fd/{number}", self.pid));
        let Some(user) = self.user() else { return false };
        let Ok([input, out, err]) = rights::acting_as(user, || Ok([stream(0)?, stream(1)?, stream(2)?])) else {
            return false;
        };
        let is_file = |path: &Path| path.is_absolute() && !path.starts_with("/dev");
        (input == Path::new("/dev/null") || is_file(&input)) && is_file(&out) && is_file(&err)
    }

    /// With whose rights it acts.
    fn user(&self) -> Option<User> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let effective = |name: &str| {
            let ids = status.lines().find_map(|line| line.strip_prefix(name))?;
            ids.split_whitespace().nth(1)?.parse().ok()
        };
        let user = User { uid: effective("Uid:")?, gid: effective("Gid:")? };
        rights::check(user).ok().map(|()| user)
    }
}

/// Whether a process with this `status` ignores SIGHUP. Its name, which comes first, has no line breaks in it: the kernel escapes them.
fn ignores_hangup(status: &str) -> bool {
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|ignored| u64::from_str_radix(ignored.trim(), 16).ok());
    ignored.is_some_and(|ignored| ignored & (1 << (libc::SIGHUP - 1)) != 0)
}

/// The ids of all processes that there are.
pub fn pids() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn list() -> Vec<Process> {
    pids().into_iter().filter_map(Process::read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_pretend_to_be_the_rest() {
        let stat = "7 (x) R 1 1 1 (y)) S 3 4 5 34816 4 4194304 120";
        let parsed = Process { pid: 7, group: 4, session: 5, parent: 3 };
        assert_eq!(Process::parse(7, stat), Some(parsed));
        for cut in ["", "7", "7 (x", "7 (x)", "7 (x) S", "7 (x) S 3 4", "7 (x) S 3 4 -5", "7 x S 3 4 5"] {
            assert_eq!(Process::parse(7, cut), None, "{cut}");
        }
        let status =
            |ignored: &str| format!("Name:\tSigIgn:\\n1\nPid:\t7\nSigBlk:\t1\nSigIgn:\t{ignored}\nSigCgt:\t1\n");
        assert!(ignores_hangup(&status("0000000000001001")) && !ignores_hangup(&status("0000000000001000")));
        assert!(!ignores_hangup(&status("")) && !ignores_hangup(""));
    }
}
