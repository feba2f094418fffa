//! Running `boxyard-init launch`.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use boxyard_proto::BoxId;
use boxyard_proto::launch::{Launch, Launched};
use rustix::io::Errno;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use crate::fail;
use crate::{EngineError, ErrorKind};

/// Launchers at once. Each keeps a CPU busy for some milliseconds; more of them only wait for each other's locks in the kernel.
const AT_ONCE: usize = 8;

/// How long one launch may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// Bytes of an answer at most.
const ANSWER_MAX: u64 = 64 * 1024;

/// Starts launchers.
#[derive(Debug)]
pub(super) struct Launcher {
    program: PathBuf,
    room: Semaphore,
    /// Launchers that were ended in the middle and may not be gone yet.
    broken_off: Mutex<HashMap<BoxId, Child>>,
}

/// A launcher that waits to be told what to make. Dropping it, or the future of [`launch`](Self::launch), ends it.
#[derive(Debug)]
pub(super) struct Waiting<'a> {
    launcher: &'a Launcher,
    id: BoxId,
    child: Option<Child>,
    _permit: SemaphorePermit<'a>,
}

impl Launcher {
    /// Starts `program`, which is `boxyard-init`.
    pub(super) fn new(program: PathBuf) -> Self {
        Self { program, room: Semaphore::new(AT_ONCE), broken_off: Mutex::default() }
    }

    /// Starts a launcher for the box `id` when there is room for one more. It gets nothing of ours but three streams.
    ///
    /// # Errors
    /// The program cannot be started.
    pub(super) async fn start(&self, id: &BoxId) -> Result<Waiting<'_>, EngineError> {
        let permit = self.room.acquire().await.map_err(|error| EngineError::broken("starting boxyard-init", error))?;
        let child = Command::new(&self.program)
            // PID 1 of a box shows this name in the box: where the program lies on the host is no business of those inside.
            .arg0("boxyard-init")
            .arg("launch")
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // Out of reach of a Ctrl-C in the server's terminal.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| EngineError::broken(format!("starting {}", self.program.display()), error))?;
        Ok(Waiting { launcher: self, id: id.clone(), child: Some(child), _permit: permit })
    }

    /// Waits until a launcher that was making `id` when it was broken off is gone: a killed process finishes what the kernel is doing
    /// for it, and that may be a socket or a link that the box's removal would miss. Says whether there was one: what it made may look
    /// like a box that runs, and be about to die with it.
    ///
    /// # Errors
    /// It is still there after half a minute.
    pub(super) async fn settle(&self, id: &BoxId) -> io::Result<bool> {
        let child = self.broken_off().remove(id);
        let Some(mut child) = child else { return Ok(false) };
        match timeout(DEADLINE, child.wait()).await {
            Ok(ended) => ended.map(|_| true),
            Err(_) => {
                self.broken_off().insert(id.clone(), child);
                Err(io::Error::other("a launcher that was killed does not end"))
            }
        }
    }

    fn broken_off(&self) -> MutexGuard<'_, HashMap<BoxId, Child>> {
        self.broken_off.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take()
            // An error means that it has ended by itself.
            && child.start_kill().is_ok()
        {
            self.launcher.broken_off().insert(self.id.clone(), child);
        }
    }
}

impl Waiting<'_> {
    /// Makes the box. When this returns it accepts connections. Dropping the future ends the launcher in the middle.
    ///
    /// # Errors
    /// The launcher failed, said nothing within half a minute, or said nonsense.
    pub(super) async fn launch(mut self, launch: &Launch) -> Result<u32, EngineError> {
        let Some(child) = &mut self.child else { return Err(EngineError::new(ErrorKind::Broken, "launching twice")) };
        let answer = match timeout(DEADLINE, converse(child, launch)).await {
            Ok(answer) => answer.map_err(|error| EngineError::broken("talking to boxyard-init", error))?,
            Err(late) => return Err(EngineError::broken("waiting for boxyard-init to make the box", late)),
        };
        match serde_json::from_slice(&answer) {
            Ok(Launched::Ready { pid }) => {
                self.child = None;
                Ok(pid)
            }
            Ok(Launched::Failed { doing, error, errno }) => {
                let kind = if is_exhaustion(errno) { ErrorKind::Exhausted } else { ErrorKind::Broken };
                Err(EngineError { kind, ..EngineError::broken(cut(&doing), cut(&error)) })
            }
            Err(error) => {
                let ended = child.try_wait().ok().flatten();
                let text = format!("no answer from it ({ended:?}): {error}");
                Err(EngineError::broken("reading what boxyard-init says", text))
            }
        }
    }
}

async fn converse(child: &mut Child, launch: &Launch) -> io::Result<Vec<u8>> {
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(&serde_json::to_vec(launch)?).await {
            // It ended early; its answer tells why.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            written => written?,
        }
        fail::point("create: launcher told");
    }
    let mut answer = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(ANSWER_MAX).read_to_end(&mut answer).await?;
    }
    child.wait().await?;
    Ok(answer)
}

/// Whether the kernel ran out of something that may be there later.
fn is_exhaustion(errno: i32) -> bool {
    let scarce = [
        Errno::NOMEM,
        Errno::NOSPC,
        Errno::DQUOT,
        Errno::AGAIN,
        Errno::MFILE,
        Errno::NFILE,
        Errno::USERS,
        Errno::NOBUFS,
    ];
    scarce.iter().any(|scarce| scarce.raw_os_error() == errno)
}

fn cut(text: &str) -> String {
    text.chars().take(1000).collect()
}
