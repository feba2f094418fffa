//! Clients that have ended.

use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// How long a client may take, unless a test says otherwise.
pub const DEADLINE: Duration = Duration::from_secs(90);

/// What became of a client.
#[derive(Debug, Clone)]
pub struct Done {
    /// Exit status; none when it was ended by a signal.
    pub code: Option<i32>,
    /// Standard output, if it was not sent elsewhere.
    pub out: Vec<u8>,
    /// Standard error: what the command in the box and what the client itself had to say.
    pub err: String,
}

impl Done {
    /// Standard output as text, without the last newline.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).trim_end_matches('\n').to_owned()
    }

    /// Itself, when the exit status was 0.
    ///
    /// # Errors
    /// It was not; the text has what was said.
    pub fn ok(self) -> Result<Self> {
        ensure!(self.code == Some(0), "ended with {:?}: {}{}", self.code, self.text(), self.err);
        Ok(self)
    }
}

/// Starts a program and waits until it has ended, and its output too.
///
/// # Errors
/// It does not start, or not end within [`DEADLINE`]; then it is killed.
pub fn finish(command: &mut Command) -> Result<Done> {
    finish_within(command, DEADLINE)
}

/// [`finish`] with another deadline.
///
/// # Errors
/// It does not start, or not end in time; then it is killed.
pub fn finish_within(command: &mut Command, deadline: Duration) -> Result<Done> {
    let spelled = format!("{command:?}");
    let mut child = command.spawn().with_context(|| format!("starting {spelled}"))?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    std::thread::scope(|scope| {
        let out = scope.spawn(move || all(out));
        let err = scope.spawn(move || all(err));
        let status = wait(&mut child, deadline);
        if status.is_err() {
            let _killed = child.kill();
            let _status = child.wait();
        }
        let heard = |reader: std::thread::ScopedJoinHandle<'_, std::io::Result<Vec<u8>>>| {
            reader.join().map_err(|_| anyhow!("a reader panicked"))?.context("reading what a client said")
        };
        let (out, err) = (heard(out)?, String::from_utf8_lossy(&heard(err)?).into_owned());
        match status {
            Ok(status) => Ok(Done { code: status.code(), out, err }),
            Err(error) => {
                bail!("{error:#}: {spelled}; it said: {}{err}", String::from_utf8_lossy(&out[..out.len().min(2000)]))
            }
        }
    })
}

fn all(from: Option<impl Read>) -> std::io::Result<Vec<u8>> {
    let mut whole = Vec::new();
    if let Some(mut from) = from {
        from.read_to_end(&mut whole)?;
    }
    Ok(whole)
}

/// Waits for the end of a child.
///
/// # Errors
/// It does not end in time.
pub fn wait(child: &mut Child, deadline: Duration) -> Result<ExitStatus> {
    // One that was waited for already has no pid any more.
    if let Some(status) = child.try_wait()? {
        return Ok(status);
    }
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("its pid is none")?;
    let handle = pidfd_open(pid, PidfdFlags::empty())?;
    let limit = Timespec::try_from(deadline)?;
    let ended = poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&limit))?;
    ensure!(ended == 1, "a client did not end within {} s", deadline.as_secs());
    Ok(child.wait()?)
}

/// A command whose output is collected and whose input is empty.
pub(crate) fn quiet(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}
