//! All jobs of this process: their names, their cgroups, and the results that nobody has fetched yet.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;

use boxyard_proto::wire::{Exec, Exit, FailedKind, FromInit, Scope};
use rustix::io::Errno;
use tokio::sync::mpsc;

use super::cgroup::{Leaf, Parent};
use super::connection::Connection;
use super::exec::{Command, Refusal, Started};
use super::hangup::Grace;
use super::members::Members;
use super::oom::Score;
use super::output::Scratch;
use super::reaper::Waiting;

/// Results kept for a later `attach` at most; the oldest goes first.
const RESULTS: usize = 1024;

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
}

/// A job under way.
#[derive(Debug)]
struct Running {
    members: Rc<Members>,
    /// Takes a new connection, where the job can be attached to.
    door: Option<mpsc::Sender<Connection>>,
}

#[derive(Debug, Default)]
struct Results {
    by_name: HashMap<String, (u32, Exit)>,
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
        }
    }

    /// The buffer that all bytes pass through.
    pub fn scratch(&self) -> Rc<Scratch> {
        Rc::clone(&self.scratch)
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
    pub fn open_door(&self, name: &str) -> mpsc::Receiver<Connection> {
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

    /// Keeps the result of the job `name` until somebody fetches it.
    pub fn keep_result(&self, name: &str, pid: u32, exit: Exit) {
        let results = &mut *self.results.borrow_mut();
        if results.order.len() >= RESULTS
            && let Some(oldest) = results.order.pop_front()
        {
            results.by_name.remove(&oldest);
        }
        if results.by_name.insert(name.to_owned(), (pid, exit)).is_none() {
            results.order.push_back(name.to_owned());
        }
    }

    /// Hands `connection` over to the job `name`, or answers it with the job's result.
    pub async fn attach(&self, name: &str, mut connection: Connection) -> Result<(), (Connection, Refusal)> {
        let door = self.running.borrow().get(name).and_then(|running| running.door.clone());
        if let Some(door) = door {
            match door.send(connection).await {
                Ok(()) => return Ok(()),
                // It has ended in this very moment.
                Err(unsent) => connection = unsent.0,
            }
        }
        let Some((pid, exit)) = self.take_result(name) else {
            return Err((connection, Refusal::new(FailedKind::NotFound, "there is no such job")));
        };
        connection.say(&FromInit::Started { pid });
        connection.say(&FromInit::Exit(exit));
        // Fetched by others meanwhile or not: it is there until somebody has certainly read it.
        if !connection.deliver().await {
            self.keep_result(name, pid, exit);
        }
        Ok(())
    }

    /// Drops the result of the job `name`: it has been read.
    pub fn forget_result(&self, name: &str) {
        self.take_result(name);
    }

    fn take_result(&self, name: &str) -> Option<(u32, Exit)> {
        let results = &mut *self.results.borrow_mut();
        let result = results.by_name.remove(name)?;
        results.order.retain(|other| other != name);
        Some(result)
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
