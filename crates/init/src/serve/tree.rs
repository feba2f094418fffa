//! A job's process tree without cgroups: what descends from its first process, and what is in its session. Processes that left both are
//! missed, which is why boxes have cgroups.

use std::fs;

use rustix::process::Pid;

use crate::sys;

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

struct Process {
    pid: u32,
    parent: u32,
    session: u32,
}

fn list() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| read(entry.file_name().to_str()?.parse().ok()?)).collect()
}

fn read(pid: u32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may contain anything, parentheses included: state, parent, group and session follow the last.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let parent = fields.nth(1)?.parse().ok()?;
    let session = fields.nth(1)?.parse().ok()?;
    Some(Process { pid, parent, session })
}
