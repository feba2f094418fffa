//! Which processes are a job's, and sending signals to them.

use std::collections::HashSet;
use std::rc::{Rc, Weak};

use boxyard_proto::wire::Scope;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::task::yield_now;

use super::cgroup::{Frozen, Leaf};
use super::pty::Terminal;
use super::tree::{self, Process};
use crate::sys;

/// Rounds of looking for processes that were forked while their siblings were signalled.
const ROUNDS: usize = 8;

/// Processes that are looked at in one go, before others have their turn. Each takes a descriptor for that long.
const AT_ONCE: usize = 64;

/// The processes of a job.
#[derive(Debug)]
pub struct Members {
    leaf: Option<Leaf>,
    first: u32,
    terminal: Weak<Terminal>,
}

impl Members {
    /// Those of the job whose first process is `first`, which leads a session of its own.
    pub fn new(leaf: Option<Leaf>, first: u32, terminal: Option<&Rc<Terminal>>) -> Self {
        Self { leaf, first, terminal: terminal.map(Rc::downgrade).unwrap_or_default() }
    }

    /// The job's cgroup, where there are cgroups.
    pub fn leaf(&self) -> Option<&Leaf> {
        self.leaf.as_ref()
    }

    /// The first process, whose id is the session's too. It may have ended.
    pub fn first(&self) -> u32 {
        self.first
    }

    /// Sends `signal` to those in `scope`.
    pub fn signal(&self, signal: i32, scope: Scope) {
        match (scope, &self.leaf) {
            (Scope::All, Some(leaf)) => leaf.signal(signal),
            (Scope::All, None) => tree::signal(self.first, signal),
            (Scope::Group, _) => self.signal_group(signal),
        }
    }

    /// Ends all of them at once.
    pub fn kill(&self) {
        match &self.leaf {
            Some(leaf) => leaf.kill(),
            None => tree::signal(self.first, libc::SIGKILL),
        }
    }

    fn signal_group(&self, signal: i32) {
        let group = match self.terminal.upgrade() {
            Some(terminal) => terminal.foreground(),
            None => Pid::from_raw(self.first.cast_signed()),
        };
        let Some(group) = group else { return };
        // When the last of the group has ended its number is another's some day, and a terminal goes on to name it.
        let number = group.as_raw_nonzero().get().cast_unsigned();
        let ours = |process: Process| process.group == number && process.session == self.first;
        if self.pids().into_iter().filter_map(Process::read).any(ours) {
            // Gone already is as good.
            let _ = sys::kill_group(group, signal);
        }
    }

    /// Sends `signals` to each of them that is `concerned`, those included that are forked meanwhile, as far as that can be had. Says
    /// whether there is certainly nobody (left) who is.
    pub async fn signal_each(&self, signals: &[Signal], concerned: impl Fn(&Process) -> bool) -> bool {
        let (mut seen, mut nobody) = (HashSet::new(), true);
        for _ in 0..ROUNDS {
            let fresh: Vec<u32> = self.pids().into_iter().filter(|pid| seen.insert(*pid)).collect();
            if fresh.is_empty() {
                return nobody;
            }
            for some in fresh.chunks(AT_ONCE) {
                nobody &= self.signal_some(some, signals, &concerned) == 0;
                yield_now().await;
            }
        }
        // There is always somebody new.
        false
    }

    fn signal_some(&self, pids: &[u32], signals: &[Signal], concerned: impl Fn(&Process) -> bool) -> usize {
        let hold = |pid: &u32| {
            let held = pidfd_open(Pid::from_raw(pid.cast_signed())?, PidfdFlags::empty()).ok()?;
            Process::read(*pid).filter(|process| concerned(process)).map(|process| (process.pid, held))
        };
        let held: Vec<_> = pids.iter().filter_map(hold).collect();
        if held.is_empty() {
            return 0;
        }
        // Until it was held, a number could have become another process's. One that is still listed is the job's, and if it is not the
        // one that is held, then that has ended and the signal goes nowhere.
        let listed: HashSet<u32> = self.pids().into_iter().collect();
        let held: Vec<_> = held.into_iter().filter(|(pid, _)| listed.contains(pid)).collect();
        for (_, process) in &held {
            for signal in signals {
                let _ = pidfd_send_signal(process, *signal);
            }
        }
        held.len()
    }

    /// Stops all of them where that is possible, until what this returns is dropped.
    pub async fn freeze(&self) -> Option<Frozen<'_>> {
        match &self.leaf {
            Some(leaf) => leaf.freeze().await.ok(),
            None => None,
        }
    }

    fn pids(&self) -> Vec<u32> {
        self.leaf.as_ref().map_or_else(tree::pids, Leaf::pids)
    }
}
