//! Running git in a box, to its end or to its deadline.

use std::time::Duration;

use boxyard_engine::agent::{self, AgentError, Event, Job};
use boxyard_proto::BoxId;
use boxyard_proto::wire::{self, Exit, FailedKind, OnClose, User};
use tokio::time::{Instant, sleep_until, timeout};

use super::super::kept::{Kept, Lease};
use super::super::output::{Output, Share, Stream};
use super::super::work::ENVIRONMENT;
use super::super::{Boxes, memory};
use super::command::Command;
use super::failure::{GitError, Refusal};
use super::token::{Credentials, Token};
use super::told;

/// Bytes of one git's output that are held, standard output and standard error together.
const OUTPUT_MAX: usize = 16 * 1024 * 1024;
/// Between TERM and KILL when git is ended: time to remove what it has not finished.
const END_GRACE: Duration = Duration::from_secs(2);
/// How long after KILL a box may take to say that git has ended.
const END_DEADLINE: Duration = Duration::from_secs(10);
/// What shells say of a program that is not there.
const NOT_FOUND: i32 = 127;

/// Work with git in one box: all calls of one request. Dropping it ends what runs.
#[derive(Debug)]
pub struct GitWork {
    pub(super) boxes: Boxes,
    lease: Lease,
    limit: Duration,
    deadline: Instant,
}

/// How one git ended and what it said.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) code: i32,
    pub(super) out: Vec<u8>,
    pub(super) err: Vec<u8>,
    /// Whether there was more.
    pub(super) truncated: bool,
    /// Its share of what the server may hold.
    pub(super) share: Share,
}

impl Said {
    /// The first line of its output.
    pub(super) fn line(&self) -> String {
        let line = self.out.split(|byte| *byte == b'\n').next().unwrap_or_default();
        String::from_utf8_lossy(line).into_owned()
    }
}

impl Boxes {
    /// Begins work with git in a box, which may take as long as is configured from now on.
    ///
    /// # Errors
    /// The box takes no work.
    pub async fn git(&self, kept: &Kept) -> Result<GitWork, GitError> {
        let lease = kept.lease().await?;
        let limit = self.yard.git.timeout;
        Ok(GitWork { boxes: self.clone(), lease, limit, deadline: Instant::now() + limit })
    }
}

impl GitWork {
    /// The box's id.
    pub fn id(&self) -> &BoxId {
        self.kept().id()
    }

    pub(super) fn kept(&self) -> &Kept {
        self.lease.kept()
    }

    /// The token for GitHub that is the request's, or else the box's own.
    pub(super) async fn token(&self, given: Option<Token>) -> Result<Option<Token>, GitError> {
        match given {
            Some(given) => Ok(Some(given)),
            None => Ok(self.boxes.yard.store.git_token(self.kept().id()).await?.map(Token::kept)),
        }
    }

    /// The same, for git to use with GitHub and nobody else.
    pub(super) async fn credentials(&self, given: Option<Token>) -> Result<Option<Credentials>, GitError> {
        let origins = self.boxes.yard.git.github_hosts.iter().map(|host| host.origin()).collect();
        Ok(self.token(given).await?.map(|token| Credentials { token, origins }))
    }

    /// Runs git and returns how it ended, whatever it says.
    ///
    /// # Errors
    /// It could not be started, was lost, or took too long.
    pub(super) async fn run(&self, command: Command) -> Result<Said, GitError> {
        let (yard, halts) = (&self.boxes.yard, self.kept().halts());
        let mut job = self.begin(&command, halts).await?;
        let mut output = yard.outputs.output_up_to(OUTPUT_MAX);
        let exit = match self.follow(&mut job, &mut output, command.stops_when_full, halts).await? {
            Some(exit) => exit,
            // All that there is room for is there, so that how it would have ended is of no interest.
            None => self.end(&mut job).await.map_or(0, |exit| if exit.signal.is_some() { 0 } else { exit.code }),
        };
        drop(job);
        let Output { mut out, mut err, truncated, share, .. } = output;
        if let Some(Credentials { token, .. }) = &command.credentials {
            token.scrub(&mut out, truncated);
            token.scrub(&mut err, truncated);
        }
        Ok(Said { code: exit, out, err, truncated, share })
    }

    /// Runs git, which must succeed.
    ///
    /// # Errors
    /// As [`run`](Self::run), or what git says when it fails.
    pub(super) async fn succeed(&self, command: Command) -> Result<Said, GitError> {
        told::succeeded(self.run(command).await?)
    }

    async fn begin(&self, command: &Command, halts: u64) -> Result<Job, GitError> {
        let (engine, kept) = (self.boxes.yard.engine.as_ref(), self.kept());
        let exec = wire::Exec {
            env: ENVIRONMENT.iter().map(|&variable| variable.to_owned()).chain(command.env()).collect(),
            on_close: OnClose::End,
            ..wire::Exec::new(
                format!("git-{:032x}", rand::random::<u128>()),
                command.argv(),
                command.folder.clone(),
                User::BOXUSER,
            )
        };
        let starting = async {
            let start = async |exec| {
                let _awake = kept.awake().await?;
                Ok::<_, GitError>(agent::exec(engine, kept.id(), exec).await?)
            };
            let mut started = start(exec.clone()).await;
            if let Err(GitError::Agent(error)) = &started
                && kept.revived(halts, error).await
            {
                started = start(exec).await;
            }
            started
        };
        let started = tokio::select! {
            biased;
            () = self.lease.over().cancelled() => return Err(self.interrupted()),
            () = self.boxes.yard.leaving.cancelled() => return Err(GitError::Leaving),
            () = sleep_until(self.deadline) => return Err(GitError::TimedOut(self.limit)),
            started = starting => started,
        };
        match started {
            Err(GitError::Agent(AgentError::Refused { kind: FailedKind::NotFound, .. })) => {
                Err(GitError::NoFolder(command.folder.clone()))
            }
            Err(GitError::Agent(error @ AgentError::Lost { .. })) => Err(self.lost(error, halts).await),
            started => started,
        }
    }

    /// Holds what git says until it has ended, and says how; nothing when it was not followed to its end because its output is full.
    async fn follow(
        &self,
        job: &mut Job,
        output: &mut Output,
        stops_when_full: bool,
        halts: u64,
    ) -> Result<Option<i32>, GitError> {
        let mut unready = std::pin::pin!(self.kept().unready());
        loop {
            let event = tokio::select! {
                biased;
                () = self.lease.over().cancelled() => return Err(self.interrupted()),
                (phase, halt) = &mut unready => return Err(GitError::Interrupted(self.kept().farewell(phase, halt))),
                () = self.boxes.yard.leaving.cancelled() => return Err(GitError::Leaving),
                () = sleep_until(self.deadline) => {
                    self.end(job).await;
                    return Err(GitError::TimedOut(self.limit));
                }
                event = job.next() => event,
            };
            match event {
                Ok(Event::Out(bytes)) => output.hold(Stream::Out, &bytes),
                Ok(Event::Err(bytes)) => output.hold(Stream::Err, &bytes),
                Ok(Event::Exit(exit)) => {
                    self.ended(exit);
                    return Ok(Some(exit.code));
                }
                Err(error) => return Err(self.lost(error, halts).await),
            }
            if output.truncated && stops_when_full {
                return Ok(None);
            }
        }
    }

    /// Ends git and all that it started, and waits for that, though not for ever.
    async fn end(&self, job: &mut Job) -> Option<Exit> {
        let over = async {
            // If the connection is broken, reading it says so, too.
            let _ = job.control().end(END_GRACE).await;
            loop {
                match job.next().await {
                    Ok(Event::Exit(exit)) => return Some(exit),
                    Ok(Event::Out(_) | Event::Err(_)) => {}
                    Err(_) => return None,
                }
            }
        };
        let exit = timeout(END_GRACE + END_DEADLINE, over).await.ok().flatten()?;
        self.ended(exit);
        Some(exit)
    }

    fn ended(&self, exit: Exit) {
        self.lease.worked(i64::try_from(exit.cpu_ns).unwrap_or(i64::MAX));
        memory::look(&self.boxes.yard, &self.kept().shared, exit);
    }

    fn interrupted(&self) -> GitError {
        let kept = self.kept();
        GitError::Interrupted(kept.farewell(kept.phase(), None))
    }

    /// Why the connection to git is lost: most of the time because of what became of its box.
    async fn lost(&self, error: AgentError, halts: u64) -> GitError {
        let kept = self.kept();
        let halt = kept.halted_since(halts).await;
        if halt.is_some() || !kept.phase().is_awake() {
            return GitError::Interrupted(kept.farewell(kept.phase(), halt));
        }
        GitError::Agent(error)
    }
}

/// Git's own failure, and not that of what it was asked for.
pub(super) fn is_missing(code: i32, err: &[u8]) -> bool {
    code == NOT_FOUND && String::from_utf8_lossy(err).contains("not found")
}

pub(super) fn no_git() -> GitError {
    GitError::refused(
        Refusal::NoGit,
        "this box has no git: install it there, or make the box from an image that has it",
    )
}
