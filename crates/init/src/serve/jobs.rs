//! All jobs of this process: their names, their cgroups, and the results that nobody has fetched yet.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;

use boxyard_proto::wire::{Exec, FailedKind, FromInit, Scope};
use rustix::io::Errno;
use tokio::sync::mpsc;

use super::cgroup::{Leaf, Parent};
use super::connection::Connection;
use super::exec::{Command, Refusal, Started};
use super::finished::Finished;
use super::hangup::Grace;
use super::held::{Held, Sending, Stock};
use super::members::Members;
use super::oom::Score;
use super::output::Scratch;
use super::reaper::Waiting;

/// Results kept for a later `attach` at most; the oldest goes first.
const RESULTS: usize = 1024;

/// Bytes of their output that ended jobs hold together at most; that of the oldest goes first.
const RESULTS_HELD_MAX: usize = 16 * 1024 * 1024;

/// Longest name of a job, in bytes.
const NAME_MAX: usize = 128;

/// Where the jobs run, what they are started with and what is known of them.
#[derive(Debug)]
pub struct Jobs {
    /// Base environment.
    env: Vec<String>,
    /// Limit of open files for each job, where PID 1 has another for itself. Only in a box.
    open_files: Option<u64>,
    cgroup: Option<Parent>,
    /// Puts jobs before PID 1 when memory is out. Only in a box.
    score: Option<Score>,
    /// For those who are hung up on.
    grace: Grace,
    next_leaf: Cell<u64>,
    /// Leaves in which something was left running.
    survivors: RefCell<Vec<String>>,
    running: RefCell<HashMap<String, Running>>,
    results: RefCell<Results>,
    waiting: Waiting,
    scratch: Rc<Scratch>,
    stock: Rc<Stock>,
}

/// A connection that takes a job over.
#[derive(Debug)]
pub struct Comer {
    /// The connection.
    pub connection: Connection,
    /// The first byte of the job's output that it wants.
    pub from: Option<u64>,
}

/// A job under way.
#[derive(Debug)]
struct Running {
    members: Rc<Members>,
    /// Takes a new connection, where the job can be attached to.
    door: Option<mpsc::Sender<Comer>>,
}

#[derive(Debug, Default)]
struct Results {
    by_name: HashMap<String, Rc<Finished>>,
    order: VecDeque<String>,
}

impl Jobs {
    /// For PID 1 of a box that `launch` has made.
    pub fn in_box(env: Vec<String>, cgroup: OwnedFd, score: Score, open_files: u64) -> Self {
        let jobs = Self::new(env, Some(Parent::new(cgroup)), Some(open_files), Grace::default());
        Self { score: Some(score), ..jobs }
    }

    /// For a process that is in no such box.
    pub fn on_host(env: Vec<String>, cgroup: Option<&Path>, grace: Grace) -> io::Result<Self> {
        Ok(Self::new(env, cgroup.map(Parent::open).transpose()?, None, grace))
    }

    fn new(env: Vec<String>, cgroup: Option<Parent>, open_files: Option<u64>, grace: Grace) -> Self {
        Self {
            env,
            open_files,
            cgroup,
            score: None,
            grace,
            next_leaf: Cell::new(1),
            survivors: RefCell::default(),
            running: RefCell::default(),
            results: RefCell::default(),
            waiting: Waiting::default(),
            scratch: Rc::new(Scratch::new()),
            stock: Rc::default(),
        }
    }

    /// The buffer that all bytes pass through.
    pub fn scratch(&self) -> Rc<Scratch> {
        Rc::clone(&self.scratch)
    }

    /// Room for output that is held until it is taken.
    pub fn hold(&self) -> Held {
        Held::new(Rc::clone(&self.stock))
    }

    /// How long those have who are hung up on.
    pub fn grace(&self) -> Grace {
        self.grace
    }

    /// Who waits for which child.
    pub fn waiting(&self) -> &Waiting {
        &self.waiting
    }

    /// Starts the process of a job, under its name.
    pub fn start(self: &Rc<Self>, exec: &Exec) -> Result<Started, Refusal> {
        if exec.job.is_empty() || exec.job.len() > NAME_MAX {
            return Err(Refusal::new(FailedKind::Invalid, format!("a job's name has 1 to {NAME_MAX} bytes")));
        }
        if self.running.borrow().contains_key(&exec.job) || self.results.borrow().by_name.contains_key(&exec.job) {
            return Err(Refusal::new(FailedKind::Invalid, "there is a job of this name already"));
        }
        let command = Command::new(exec, &self.env, self.open_files)?;
        let leaf = match &self.cgroup {
            Some(parent) => Some(self.make_leaf(parent)?),
            None => None,
        };
        let started = command.start(exec, leaf, &self.waiting, self.score.as_ref());
        match started {
            Ok(started) => {
                self.running.borrow_mut().insert(exec.job.clone(), Running { members: started.members(), door: None });
                Ok(started)
            }
            Err((refusal, leaf)) => {
                self.retire(leaf.as_ref());
                Err(refusal)
            }
        }
    }

    fn make_leaf(&self, parent: &Parent) -> Result<Leaf, Refusal> {
        self.sweep();
        loop {
            let number = self.next_leaf.get();
            self.next_leaf.set(number + 1);
            match parent.make(format!("job-{number}")) {
                Ok(leaf) => return Ok(leaf),
                // Left by an earlier process that served here.
                Err(Errno::EXIST) => {}
                Err(error) => return Err(Refusal::of_kernel("making the job's cgroup", error)),
            }
        }
    }

    /// Sends `signal` to the processes in `scope` of the job `name`. Returns its first process.
    pub fn signal(&self, name: &str, signal: i32, scope: Scope) -> Result<u32, Refusal> {
        if !(1..=64).contains(&signal) {
            return Err(Refusal::new(FailedKind::Invalid, "there is no such signal"));
        }
        let members = self.running.borrow().get(name).map(|running| Rc::clone(&running.members));
        let members = members.ok_or_else(|| Refusal::new(FailedKind::NotFound, "there is no such job"))?;
        members.signal(signal, scope);
        Ok(members.first())
    }

    /// Opens the job `name` for later connections.
    pub fn open_door(&self, name: &str) -> mpsc::Receiver<Comer> {
        let (door, comers) = mpsc::channel(1);
        if let Some(running) = self.running.borrow_mut().get_mut(name) {
            running.door = Some(door);
        }
        comers
    }

    /// Forgets that the job `name` is under way.
    pub fn close_door(&self, name: &str) {
        self.running.borrow_mut().remove(name);
    }

    /// Keeps the result of the job `name` until somebody has fetched it.
    pub fn keep_result(&self, name: &str, finished: &Rc<Finished>) {
        let results = &mut *self.results.borrow_mut();
        if results.order.len() >= RESULTS
            && let Some(oldest) = results.order.pop_front()
        {
            results.by_name.remove(&oldest);
        }
        if results.by_name.insert(name.to_owned(), Rc::clone(finished)).is_none() {
            results.order.push_back(name.to_owned());
        }
        let mut held: usize = results.by_name.values().map(|finished| finished.held_bytes()).sum();
        for name in &results.order {
            if held <= RESULTS_HELD_MAX {
                break;
            }
            if let Some(oldest) = results.by_name.get(name) {
                held -= oldest.held_bytes();
                oldest.drop_held();
            }
        }
    }

    /// Hands `connection` over to the job `name`, which begins with byte `from` of its output, or answers it with the job's result.
    pub async fn attach(
        &self,
        name: &str,
        from: Option<u64>,
        mut connection: Connection,
    ) -> Result<(), (Connection, Refusal)> {
        let door = self.running.borrow().get(name).and_then(|running| running.door.clone());
        if let Some(door) = door {
            match door.send(Comer { connection, from }).await {
                Ok(()) => return Ok(()),
                // It has ended in this very moment.
                Err(unsent) => connection = unsent.0.connection,
            }
        }
        let finished = self.results.borrow().by_name.get(name).cloned();
        let Some(finished) = finished else {
            return Err((connection, Refusal::new(FailedKind::NotFound, "there is no such job")));
        };
        let from = finished.follow(from);
        connection.say(&FromInit::Started { pid: finished.pid(), from });
        if finished.tell(connection, Sending::new(from)).await {
            self.forget_result(name, &finished);
        }
        Ok(())
    }

    /// Drops the result of the job `name`: it has been read.
    pub fn forget_result(&self, name: &str, finished: &Rc<Finished>) {
        let results = &mut *self.results.borrow_mut();
        if results.by_name.get(name).is_some_and(|kept| Rc::ptr_eq(kept, finished)) {
            results.by_name.remove(name);
            results.order.retain(|other| other != name);
        }
    }

    /// Removes a leaf that is of no more use, now or when the last of what still runs in it has ended. Says whether it is gone.
    pub fn retire(&self, leaf: Option<&Leaf>) -> bool {
        let (Some(parent), Some(leaf)) = (&self.cgroup, leaf) else { return false };
        let gone = parent.remove(leaf.name());
        if !gone {
            self.survivors.borrow_mut().push(leaf.name().to_owned());
        }
        gone
    }

    /// Removes the leaves in which nothing runs any more.
    pub fn sweep(&self) {
        if let Some(parent) = &self.cgroup {
            self.survivors.borrow_mut().retain(|name| !parent.remove(name));
        }
    }
}
