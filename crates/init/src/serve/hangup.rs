//! Hanging up on a job whose connection has closed, as the end of a remote login does: whoever is still in its session is told, then
//! asked, then ended. Who has left the session (`setsid`, `tmux`) or ignores SIGHUP (`nohup`) is not touched, nor what it has started.
//!
//! With a terminal it is as with OpenSSH's server, where the kernel and the shell do most: closing the master hangs up the leader of the
//! session; a shell passes that on to its own jobs, except those that it was told to `disown`; and what follows here concerns the
//! leader and the terminal's foreground only. Without a terminal it concerns the whole session, for which OpenSSH does nothing; but not
//! servers in its background that write a log: editors start theirs so, and want to find them again.

use std::time::Duration;

use boxyard_proto::wire::HELD_SECONDS;
use rustix::process::{Pid, Signal};
use tokio::time::sleep;

use super::members::Members;
use super::tree::Process;

/// How long those who are hung up on have, and those who are left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grace {
    /// Between HUP and TERM.
    pub to_end: Duration,
    /// Between TERM and KILL.
    pub to_obey: Duration,
    /// How long a job whose held output is full waits for a connection; see [`HELD_SECONDS`].
    pub to_be_taken: Duration,
}

impl Default for Grace {
    fn default() -> Self {
        let to_be_taken = Duration::from_secs(HELD_SECONDS);
        Self { to_end: Duration::from_secs(2), to_obey: Duration::from_secs(3), to_be_taken }
    }
}

/// Who is hung up on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Concerned {
    /// Everybody in the session.
    Session,
    /// The leader of the session, whom the kernel has told by now, and its terminal's foreground process group.
    Terminal(Option<Pid>),
}

impl Concerned {
    fn has(self, process: &Process, session: u32) -> bool {
        process.session == session
            && match self {
                Self::Session => !process.is_detached(),
                Self::Terminal(foreground) => {
                    let group = Pid::from_raw(process.group.cast_signed());
                    let inside = process.pid == session || (group.is_some() && group == foreground);
                    inside && !process.ignores_hangup()
                }
            }
    }
}

/// Hangs up on those of `members` that are `concerned` and sees to their end.
pub async fn hang_up(members: &Members, concerned: Concerned, grace: Grace) {
    let session = members.first();
    let told_by_kernel = |process: &Process| process.pid == session && concerned != Concerned::Session;
    let told = |process: &Process| concerned.has(process, session) && !told_by_kernel(process);
    members.signal_each(&[Signal::HUP, Signal::CONT], told).await;
    sleep(grace.to_end).await;
    if members.signal_each(&[Signal::TERM, Signal::CONT], |process| concerned.has(process, session)).await {
        return;
    }
    sleep(grace.to_obey).await;
    // Somebody who forks faster than we look would get away, were all not stopped first.
    let frozen = members.freeze().await;
    members.signal_each(&[Signal::KILL], |process| concerned.has(process, session)).await;
    drop(frozen);
}
