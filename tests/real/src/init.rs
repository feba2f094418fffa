//! How long `boxyard-init` takes from its start to its first answer.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

/// Where `boxyard-init serve` expects its listening socket.
const NUMBER: i32 = 3;
/// How long one start may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// A frame with the greeting: length, kind 0, JSON.
const HELLO: &[u8] = br#"{"type":"hello","protocol":1,"abilities":[]}"#;

/// Descriptor 3 of this process, which children inherit.
#[derive(Debug)]
pub struct Third(OwnedFd);

impl Third {
    /// Takes descriptor 3, if nobody has it. To be called before other files are opened.
    ///
    /// # Errors
    /// This process can open no more files.
    pub fn reserve() -> Result<Option<Self>> {
        // `dup2` over it, later, clears the flag "close on exec": that is what makes it inherited.
        let taken = rustix::io::fcntl_dupfd_cloexec(std::io::stdin().as_fd(), NUMBER)?;
        Ok((taken.as_raw_fd() == NUMBER).then_some(Self(taken)))
    }

    /// Starts the program `boxyard-init` as a server of jobs outside any box, and measures until it has answered a greeting.
    ///
    /// # Errors
    /// It does not start or not answer.
    pub fn time_to_ready(&mut self, program: &Path) -> Result<Duration> {
        let socket = PathBuf::from(format!("/run/boxyard-bench-{}.sock", std::process::id()));
        let listener = UnixListener::bind(&socket)?;
        rustix::io::dup2(&listener, &mut self.0)?;
        drop(listener);
        let client = UnixStream::connect(&socket)?;
        fs::remove_file(&socket)?;
        client.set_read_timeout(Some(DEADLINE))?;
        let mut greeting = u32::try_from(HELLO.len())?.to_be_bytes().to_vec();
        greeting.push(0);
        greeting.extend_from_slice(HELLO);
        (&client).write_all(&greeting)?;

        let mut command = Command::new(program);
        command.arg("serve").env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
        let began = Instant::now();
        let mut child = command.spawn().with_context(|| format!("starting {}", program.display()))?;
        let mut head = [0; 5];
        let answered = (&client).read_exact(&mut head);
        let took = began.elapsed();
        // It serves until it is ended.
        child.kill()?;
        child.wait()?;
        answered.context("boxyard-init did not answer")?;
        ensure!(head[4] == 0, "boxyard-init answered with a frame of kind {}", head[4]);
        Ok(took)
    }
}
