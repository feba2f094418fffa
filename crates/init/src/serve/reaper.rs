//! Taking dead children: of jobs, whose tasks wait to hear of it, and orphans of the box, which nobody asks about.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

use super::jobs::Jobs;
use crate::sys::{self, Ended};

/// Who waits for which child. A child is entered in the same turn of the event loop in which it is made, so it cannot be missed.
#[derive(Debug, Default)]
pub struct Waiting(RefCell<HashMap<i32, oneshot::Sender<Ended>>>);

impl Waiting {
    /// Enters the child `pid`.
    pub fn enter(&self, pid: i32) -> oneshot::Receiver<Ended> {
        let (tell, told) = oneshot::channel();
        self.0.borrow_mut().insert(pid, tell);
        told
    }

    fn tell(&self, ended: Ended) -> bool {
        match self.0.borrow_mut().remove(&ended.pid) {
            // A job that was hung up on has no interest any more: its processes are the box's orphans.
            Some(waiting) => waiting.send(ended).is_ok(),
            None => false,
        }
    }
}

/// The one place where children are waited for.
#[derive(Debug)]
pub struct Reaper(AsyncFd<OwnedFd>);

impl Reaper {
    /// Starts to listen for the end of children.
    pub fn new() -> io::Result<Self> {
        Ok(Self(sys::child_signals()?))
    }

    /// Takes children for ever; returns only when the kernel does not play along any more.
    pub async fn run(self, jobs: &Jobs) -> io::Error {
        loop {
            let mut ready = match self.0.readable().await {
                Ok(ready) => ready,
                Err(error) => return error,
            };
            // Several ends may hide behind one signal, so its content says nothing.
            let mut signals = [0_u8; 1024];
            if rustix::io::read(&self.0, &mut signals).is_err() {
                ready.clear_ready();
            }
            let mut orphans = false;
            while let Ok(Some(ended)) = sys::reap() {
                orphans |= !jobs.waiting().tell(ended);
            }
            if orphans {
                jobs.sweep();
            }
        }
    }
}
