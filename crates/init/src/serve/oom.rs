//! Who goes first when the box is out of memory: a job's process, not PID 1, with which all others would go.
//!
//! A process inherits its place in that order and can only move itself back as far as it has ever been. So PID 1 steps forward for the
//! moment in which it makes a job's process, and back again.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, openat};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

use crate::launch::limits;
use crate::trouble::{Doing, Trouble};

/// What a job's processes count for beyond the memory that they use: so many thousandths of the box's memory, more than PID 1 ever uses. A
/// process can lower its own to PID 1's and not below. Where the host itself is out of memory, boxes go before the host's own programs.
const FORWARD: &[u8] = b"100";
/// What PID 1 counts for: what it uses.
const BACK: &[u8] = b"0";

/// PID 1's place in the order.
#[derive(Debug)]
pub struct Score(OwnedFd);

impl Score {
    /// Opens it in the box's own procfs. To be called by PID 1 as the box's root while there is nobody else in the box: the kernel gives the
    /// file to root of the host unless whoever it is about can be looked at, which PID 1 can for this moment only.
    pub fn open(proc: impl AsFd) -> Result<Self, Trouble> {
        let doing = "opening PID 1's place among who goes first without memory";
        set_dumpable_behavior(DumpableBehavior::Dumpable).doing(doing)?;
        let opened = openat(proc, "self/oom_score_adj", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
        limits::hide()?;
        Ok(Self(opened.doing(doing)?))
    }

    /// Until what this returns is dropped, what is forked goes before PID 1.
    pub fn forward(&self) -> Forward<'_> {
        // Without it a box works as well, but for this.
        let _ = rustix::io::pwrite(&self.0, FORWARD, 0);
        Forward(self)
    }
}

impl AsFd for Score {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// PID 1 stands where jobs do.
#[derive(Debug)]
pub struct Forward<'a>(&'a Score);

impl Drop for Forward<'_> {
    fn drop(&mut self) {
        let _ = rustix::io::pwrite(&self.0.0, BACK, 0);
    }
}
