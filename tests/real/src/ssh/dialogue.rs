//! A program that one talks with while it runs, on pipes or on a pseudo-terminal.

use std::fs::File;
use std::io::{Read, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use super::done::wait;

/// How long something may take to be said.
const DEADLINE: Duration = Duration::from_secs(60);
/// Bytes of what was heard that a failure shows.
const SHOWN: usize = 3000;

/// A running program. Dropping it kills it.
#[derive(Debug)]
pub struct Dialogue {
    child: Child,
    input: Option<File>,
    terminal: Option<OwnedFd>,
    out: Heard,
    err: Option<Heard>,
}

/// What comes from one stream, and how much of it has been taken note of.
#[derive(Debug)]
struct Heard {
    shared: Arc<(Mutex<Stream>, Condvar)>,
    taken: usize,
}

#[derive(Debug, Default)]
struct Stream {
    bytes: Vec<u8>,
    over: bool,
}

impl Heard {
    /// Reads in a thread of its own, which ends with the stream.
    fn to(mut from: impl Read + Send + 'static) -> Self {
        let shared = Arc::new((Mutex::new(Stream::default()), Condvar::new()));
        let writer = Arc::clone(&shared);
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 * 1024];
            loop {
                // The end of a terminal's other side is told as an error (EIO).
                let count = from.read(&mut buffer).unwrap_or(0);
                let mut stream = writer.0.lock().unwrap_or_else(PoisonError::into_inner);
                stream.bytes.extend_from_slice(&buffer[..count]);
                stream.over = count == 0;
                writer.1.notify_all();
                if count == 0 {
                    return;
                }
            }
        });
        Self { shared, taken: 0 }
    }

    /// Waits for `wanted` behind what was taken before, and returns what came before it.
    fn expect(&mut self, wanted: &str) -> Result<String> {
        let end = Instant::now() + DEADLINE;
        let mut stream = self.shared.0.lock().unwrap_or_else(PoisonError::into_inner);
        // What has been searched is searched again only where the text could have been cut.
        let mut from = self.taken;
        loop {
            let found = stream.bytes[from..].windows(wanted.len()).position(|part| part == wanted.as_bytes());
            if let Some(at) = found {
                let before = String::from_utf8_lossy(&stream.bytes[self.taken..from + at]).into_owned();
                self.taken = from + at + wanted.len();
                return Ok(before);
            }
            from = self.taken.max(stream.bytes.len().saturating_sub(wanted.len()));
            let left = end.saturating_duration_since(Instant::now());
            if stream.over || left.is_zero() {
                let heard = String::from_utf8_lossy(&stream.bytes[stream.bytes.len().saturating_sub(SHOWN)..]);
                let why = if stream.over { "the stream ended" } else { "time ran out" };
                bail!("{why} before {wanted:?} was heard; at the end: {heard:?}");
            }
            stream = self.shared.1.wait_timeout(stream, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for the end of the stream and returns all of it.
    fn whole(&self) -> Result<Vec<u8>> {
        let stream = self.shared.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.shared.1.wait_timeout_while(stream, DEADLINE, |stream| !stream.over);
        let (stream, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        if timeout.timed_out() {
            bail!("a stream did not end within {} s", DEADLINE.as_secs());
        }
        Ok(stream.bytes.clone())
    }
}

impl Dialogue {
    /// Starts a program on pipes.
    ///
    /// # Errors
    /// It does not start.
    pub fn on_pipes(mut command: Command) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("starting {command:?}"))?;
        let input = child.stdin.take().context("no standard input")?;
        let out = Heard::to(child.stdout.take().context("no standard output")?);
        let err = Heard::to(child.stderr.take().context("no standard error")?);
        Ok(Self { child, input: Some(OwnedFd::from(input).into()), terminal: None, out, err: Some(err) })
    }

    /// Starts a program as the leader of a session on a new pseudo-terminal of that size. Its
    /// environment is what the command names, and `TERM=xterm-256color`.
    ///
    /// # Errors
    /// It does not start.
    pub fn on_terminal(command: &Command, columns: u16, rows: u16) -> Result<Self> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let terminal = openpt(flags)?;
        grantpt(&terminal)?;
        unlockpt(&terminal)?;
        tcsetwinsize(&terminal, size(columns, rows))?;
        let own = ioctl_tiocgptpeer(&terminal, flags)?;
        // `setsid` of util-linux makes the terminal the session's; only so do signals and changes of size reach the client.
        let mut session = Command::new("setsid");
        session.arg("--ctty").arg(command.get_program()).args(command.get_args());
        session.env_clear().current_dir(command.get_current_dir().unwrap_or_else(|| Path::new("/")));
        session.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        session.env("TERM", "xterm-256color");
        session.stdin(own.try_clone()?).stdout(own.try_clone()?).stderr(own);
        let child = session.spawn().with_context(|| format!("starting {session:?}"))?;
        // The command holds our copies of the program's side; with them open the end would never be heard.
        drop(session);
        let reader: File = terminal.try_clone()?.into();
        let input: File = terminal.try_clone()?.into();
        Ok(Self { child, input: Some(input), terminal: Some(terminal), out: Heard::to(reader), err: None })
    }

    /// Waits until the program has said `text`, after what was waited for last, and returns what came before it.
    ///
    /// # Errors
    /// It does not, in time.
    pub fn expect(&mut self, text: &str) -> Result<String> {
        self.out.expect(text)
    }

    /// The same of standard error; on a terminal it is the same stream.
    ///
    /// # Errors
    /// It does not, in time.
    pub fn expect_err(&mut self, text: &str) -> Result<String> {
        self.err.as_mut().unwrap_or(&mut self.out).expect(text)
    }

    /// Sends bytes as if they were typed.
    ///
    /// # Errors
    /// Nobody takes them.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        self.input.as_mut().context("the input is closed")?.write_all(bytes.as_ref()).context("sending")
    }

    /// Ends the program's input; on a terminal nothing happens.
    pub fn end_input(&mut self) {
        self.input = None;
    }

    /// Changes the size of the terminal, of which the program is told by SIGWINCH.
    ///
    /// # Errors
    /// There is no terminal.
    pub fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        Ok(tcsetwinsize(self.terminal.as_ref().context("no terminal")?, size(columns, rows))?)
    }

    /// Whether every key that is typed reaches the program as it is.
    ///
    /// # Errors
    /// There is no terminal.
    pub fn is_raw(&self) -> Result<bool> {
        // Asked of its outer side, it tells the modes of its inner one.
        let modes = tcgetattr(self.terminal.as_ref().context("no terminal")?)?.local_modes;
        Ok(!modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG))
    }

    /// Waits for the end of the program and returns its status.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let ended = wait(&mut self.child, DEADLINE);
        ended.with_context(|| {
            let stream = self.out.shared.0.lock().unwrap_or_else(PoisonError::into_inner);
            let heard = &stream.bytes[stream.bytes.len().saturating_sub(SHOWN)..];
            format!("it said last: {:?}", String::from_utf8_lossy(heard))
        })
    }

    /// All of its output, once it has ended.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn all_out(&self) -> Result<Vec<u8>> {
        self.out.whole()
    }

    /// All of its standard error, once it has ended.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn all_err(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&self.err.as_ref().unwrap_or(&self.out).whole()?).into_owned())
    }

    /// Kills it as a lost laptop would.
    ///
    /// # Errors
    /// It cannot be.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Dialogue {
    fn drop(&mut self) {
        // It may have ended already.
        let _killed = self.child.kill();
        let _status = self.child.wait();
    }
}

fn size(columns: u16, rows: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}
