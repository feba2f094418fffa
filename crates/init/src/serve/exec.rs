//! Starting a job's process.
//!
//! Everything is made ready before the process is: between its birth and its `exec` the child makes system calls only.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::slice;
use std::time::Duration;

use boxyard_proto::launch::UIDS_PER_BOX;
use boxyard_proto::wire::{Builtin, Exec, FailedKind};
use rustix::fs::{Gid, Uid};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Resource, Rlimit, setrlimit};
use tokio::net::unix::pipe::Receiver;
use tokio::time::timeout;

use super::builtin;
use super::cgroup::Leaf;
use super::job::Job;
use super::jobs::Jobs;
use super::members::Members;
use super::oom::Score;
use super::output::non_blocking;
use super::reaper::Waiting;
use super::stdio::{self, Ends};
use crate::launch::limits;
use crate::launch::seccomp::FOR_JOBS;
use crate::sys::{self, Forked, Texts};

/// The `PATH` of a job whose environment has none.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Folders of `PATH` that are searched.
const PATH_FOLDERS: usize = 64;

/// Why a job does not start.
#[derive(Debug)]
pub struct Refusal {
    /// What sort of reason.
    pub kind: FailedKind,
    /// A lower-case text fit for a user.
    pub message: String,
}

impl Refusal {
    /// A refusal of ours.
    pub fn new(kind: FailedKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// A refusal of the kernel's.
    pub fn of_kernel(doing: &str, error: impl Into<io::Error>) -> Self {
        let error = error.into();
        let kind = match Errno::from_io_error(&error) {
            Some(Errno::AGAIN | Errno::NOMEM | Errno::MFILE | Errno::NFILE | Errno::NOSPC | Errno::NOBUFS) => {
                FailedKind::Exhausted
            }
            Some(_) | None => FailedKind::Other,
        };
        Self { kind, message: format!("{doing}: {error}") }
    }
}

/// What a process becomes.
#[derive(Debug)]
enum Program {
    /// The first of these that is there: in the order of `PATH`.
    Candidates(Vec<CString>),
    /// A part of our own.
    Builtin(Builtin),
}

/// A process that is ready to be made.
#[derive(Debug)]
pub struct Command {
    becomes: Program,
    argv: Texts,
    env: Texts,
    folder: CString,
    user: Option<(Uid, Gid)>,
    /// Set in a box: the job gets this limit of open files, its last seccomp filter and a cgroup namespace.
    open_files: Option<u64>,
    /// What a shell would say, for programs that are not there, may not be run, and cannot be run.
    complaints: [String; 3],
}

impl Command {
    /// Reads what is asked for.
    pub fn new(exec: &Exec, base: &[String], open_files: Option<u64>) -> Result<Self, Refusal> {
        let invalid = |message: &str| Refusal::new(FailedKind::Invalid, message);
        let text = |text: &str| CString::new(text).map_err(|_| invalid("a text has a NUL byte in it"));
        let program = exec.argv.first().filter(|program| !program.is_empty()).ok_or_else(|| invalid("no program"))?;
        if !exec.folder.starts_with('/') {
            return Err(invalid("the folder is not absolute"));
        }
        if exec.user.uid >= UIDS_PER_BOX || exec.user.gid >= UIDS_PER_BOX {
            return Err(invalid("there is no such user"));
        }
        let env = environment(base, &exec.env).ok_or_else(|| invalid("a variable has no name"))?;
        if exec.builtin.is_some() && exec.pty.is_some() {
            return Err(invalid("this program has no use for a terminal"));
        }
        let texts = |list: &[String]| list.iter().map(|entry| text(entry)).collect::<Result<Vec<_>, _>>();
        let becomes = match exec.builtin {
            Some(builtin) => Program::Builtin(builtin),
            None if program.contains('/') => Program::Candidates(texts(slice::from_ref(program))?),
            None => Program::Candidates(texts(&search(program, &env))?),
        };
        let user = (Uid::from_raw(exec.user.uid), Gid::from_raw(exec.user.gid));
        let already = user == (rustix::process::geteuid(), rustix::process::getegid());
        let shown: String = program.chars().take(200).collect();
        let missing = if program.contains('/') { "no such file or directory" } else { "command not found" };
        Ok(Self {
            becomes,
            argv: Texts::new(texts(&exec.argv)?),
            env: Texts::new(texts(&env)?),
            folder: text(&exec.folder)?,
            // On the host the tests of an ordinary user may run as that user.
            user: (open_files.is_some() || !already).then_some(user),
            open_files,
            complaints: [missing, "permission denied", "cannot be run"]
                .map(|reason| format!("boxyard: {shown}: {reason}\n")),
        })
    }

    /// Makes the process. On failure the leaf comes back, to be removed.
    pub fn start(
        mut self,
        exec: &Exec,
        leaf: Option<Leaf>,
        waiting: &Waiting,
        score: Option<&Score>,
    ) -> Result<Started, (Refusal, Option<Leaf>)> {
        let (stdio, ends) = match stdio::open(exec) {
            Ok(opened) => opened,
            Err((doing, error)) => return Err((Refusal::of_kernel(doing, error), leaf)),
        };
        if let Some(variable) = &stdio.variable {
            self.env = self.env.and(variable.clone());
        }
        match self.fork(ends, leaf.as_ref(), score) {
            Ok((pid, report)) => {
                let ended = waiting.enter(pid.cast_signed());
                let job = Job::new(exec, pid, leaf, ended, stdio);
                Ok(Started { report, folder: exec.folder.clone(), job })
            }
            Err(error) => Err((Refusal::of_kernel("starting the process", error), leaf)),
        }
    }

    /// Returns the child's id and what it reports through.
    fn fork(self, stdio: Ends, leaf: Option<&Leaf>, score: Option<&Score>) -> io::Result<(u32, Receiver)> {
        let (report, report_end) = pipe_with(PipeFlags::CLOEXEC)?;
        let report = Receiver::from_owned_fd_unchecked(non_blocking(report)?)?;
        let _forward = score.map(Score::forward);
        match sys::clone3(0, leaf.map(Leaf::folder), false)? {
            Forked::Child => self.become_program(&stdio, &report_end),
            Forked::Parent(child) => Ok((child.pid.as_raw_nonzero().get().cast_unsigned(), report)),
        }
    }

    /// The child's whole life before the program.
    fn become_program(&self, stdio: &Ends, report: &OwnedFd) -> ! {
        match self.prepare(stdio, report) {
            Ok(()) => {}
            Err((stage, error)) => {
                let errno = error.raw_os_error();
                let [a, b, c, d] = errno.to_ne_bytes();
                let _ = rustix::io::write(report, &[stage, a, b, c, d]);
                sys::exit_now(127);
            }
        }
        let candidates = match &self.becomes {
            Program::Builtin(builtin) => builtin::run(*builtin),
            Program::Candidates(candidates) => candidates,
        };
        let mut worst = Errno::NOENT;
        for candidate in candidates {
            let error = sys::execve(candidate, &self.argv, &self.env);
            match Errno::from_io_error(&error).unwrap_or(Errno::INVAL) {
                Errno::NOENT | Errno::NOTDIR => {}
                // Another folder may have one that can be run.
                Errno::ACCESS => worst = Errno::ACCESS,
                other => {
                    worst = other;
                    break;
                }
            }
        }
        let (complaint, code) = match worst {
            Errno::NOENT => (&self.complaints[0], 127),
            Errno::ACCESS => (&self.complaints[1], 126),
            _ => (&self.complaints[2], 126),
        };
        let _ = rustix::io::write(rustix::stdio::stderr(), complaint.as_bytes());
        sys::exit_now(code);
    }

    fn prepare(&self, stdio: &Ends, report: &OwnedFd) -> Result<(), (u8, Errno)> {
        let step = |result: Result<(), Errno>| result.map_err(|error| (STEP, error));
        let io_step = |result: io::Result<()>| {
            result.map_err(|error| (STEP, Errno::from_io_error(&error).unwrap_or(Errno::INVAL)))
        };
        step(rustix::process::setsid().map(drop))?;
        step(stdio.take())?;
        sys::restore_signals_for_exec();
        if let Some(open_files) = self.open_files {
            let limit = Rlimit { current: Some(open_files), maximum: Some(open_files) };
            step(setrlimit(Resource::Nofile, limit))?;
            io_step(sys::unshare_cgroup_namespace())?;
            io_step(sys::add_seccomp_filter(&FOR_JOBS))?;
        }
        // Before it is the user's: whoever may send it signals can stop it here, and what PID 1 has open must not stay open for that.
        sys::close_all_but_one(report.as_fd());
        if let Some((uid, gid)) = self.user {
            step(rustix::thread::set_thread_groups(&[]))?;
            step(rustix::thread::set_thread_res_gid(gid, gid, gid))?;
            step(rustix::thread::set_thread_res_uid(uid, uid, uid))?;
        }
        if let (Program::Builtin(_), Some(_)) = (&self.becomes, self.open_files) {
            // What `exec` would take from a job of root's.
            step(limits::drop_what_exec_would())?;
        }
        // As the user, who must be able to enter it; and with nothing open any more that leads out of the box (CVE-2024-21626).
        rustix::process::chdir(&self.folder).map_err(|error| (FOLDER, error))
    }
}

/// How long a process may take to become its program. Generous: the file system may be slow.
const STARTING: Duration = Duration::from_secs(60);

/// What a report's first byte says: which step has failed.
const STEP: u8 = 0;
const FOLDER: u8 = 1;

/// A process that was made and has yet to become its program.
#[derive(Debug)]
pub struct Started {
    /// Ends without a word when the process has become its program, or has said on its standard error why not.
    report: Receiver,
    folder: String,
    job: Job,
}

impl Started {
    /// Its processes.
    pub fn members(&self) -> Rc<Members> {
        Rc::clone(&self.job.members)
    }

    /// What the process says before it ends, if it does not become its program.
    async fn reported(&self) -> Option<[u8; 5]> {
        let mut report = [0; 5];
        loop {
            match self.report.try_read(&mut report) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // An error of the event loop's shows again in the read.
                    let _ = self.report.readable().await;
                }
                // A report is written in one go, and so is read.
                Ok(read) => return (read == report.len()).then_some(report),
                Err(_) => return None,
            }
        }
    }

    /// Waits until the process has become its program.
    pub async fn confirmed(self, jobs: &Jobs) -> Result<Job, Refusal> {
        let Ok(report) = timeout(STARTING, self.reported()).await else {
            self.job.kill();
            self.job.abandon(jobs).await;
            return Err(Refusal::new(FailedKind::Other, "the process did not start in time"));
        };
        let Some([stage, errno @ ..]) = report else {
            return Ok(self.job);
        };
        let error = io::Error::from_raw_os_error(i32::from_ne_bytes(errno));
        let shown: String = self.folder.chars().take(200).collect();
        self.job.abandon(jobs).await;
        if stage != FOLDER {
            return Err(Refusal::of_kernel("preparing the process", error));
        }
        Err(match Errno::from_io_error(&error) {
            Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG) => {
                Refusal::new(FailedKind::NotFound, format!("folder '{shown}' does not exist"))
            }
            Some(Errno::ACCESS | Errno::PERM) => {
                Refusal::new(FailedKind::NotAllowed, format!("folder '{shown}' may not be entered"))
            }
            Some(_) | None => Refusal::of_kernel(&format!("entering folder '{shown}'"), error),
        })
    }
}

/// `base` overlaid with `own`, in which later entries win; `None` when one is not `NAME=value`.
fn environment(base: &[String], own: &[String]) -> Option<Vec<String>> {
    let mut env: Vec<String> = Vec::with_capacity(base.len() + own.len() + 1);
    let mut places = std::collections::HashMap::new();
    for entry in base.iter().chain(own) {
        let name = entry.split_once('=').map(|(name, _)| name).filter(|name| !name.is_empty())?;
        match places.get(name) {
            Some(place) => env[*place] = entry.clone(),
            None => {
                places.insert(name, env.len());
                env.push(entry.clone());
            }
        }
    }
    if !places.contains_key("PATH") {
        env.push(format!("PATH={PATH}"));
    }
    Some(env)
}

/// Where `program` may be, by the `PATH` of `env`.
fn search(program: &str, env: &[String]) -> Vec<String> {
    let path = env.iter().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or(PATH);
    let folder = |folder: &str| if folder.is_empty() { format!("./{program}") } else { format!("{folder}/{program}") };
    path.split(':').take(PATH_FOLDERS).map(folder).collect()
}

#[cfg(test)]
mod tests {
    use boxyard_proto::wire::User;

    use super::*;

    fn exec(argv: &[&str]) -> Exec {
        let argv = argv.iter().map(|&word| word.to_owned()).collect();
        Exec::new("j", argv, "/", User::ROOT)
    }

    #[test]
    fn later_variables_win_and_a_path_is_always_there() {
        let strings = |list: &[&str]| list.iter().map(|&entry| entry.to_owned()).collect::<Vec<_>>();
        let env = environment(&strings(&["A=1", "B=2", "PATH=/x:"]), &strings(&["B=3", "C=a=b", "B=4"]));
        assert_eq!(env, Some(strings(&["A=1", "B=4", "PATH=/x:", "C=a=b"])));
        assert_eq!(search("ls", &strings(&["PATH=/x:"])), ["/x/ls", "./ls"]);
        assert_eq!(environment(&[], &[]), Some(vec![format!("PATH={PATH}")]));
        assert_eq!(environment(&[], &strings(&["=x"])), None);
        assert_eq!(environment(&[], &strings(&["x"])), None);
    }

    #[test]
    fn requests_that_make_no_sense_are_invalid() {
        let refused = |exec: &Exec| Command::new(exec, &[], None).expect_err("refused").kind;
        assert_eq!(refused(&exec(&[])), FailedKind::Invalid);
        assert_eq!(refused(&exec(&[""])), FailedKind::Invalid);
        assert_eq!(refused(&exec(&["a\0b"])), FailedKind::Invalid);
        assert_eq!(refused(&Exec { folder: "home".into(), ..exec(&["true"]) }), FailedKind::Invalid);
        assert_eq!(refused(&Exec { user: User { uid: u32::MAX, gid: 0 }, ..exec(&["true"]) }), FailedKind::Invalid);
    }
}
