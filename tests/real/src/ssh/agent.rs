//! Keys of users, and the agent that holds them.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::done::{finish, quiet};
use crate::until;

/// How long the agent may take to listen.
const DEADLINE: Duration = Duration::from_secs(20);

/// A key pair in a file of its own, without a passphrase.
#[derive(Debug, Clone)]
pub struct Key {
    /// The private half.
    pub file: PathBuf,
    /// The line of the public half.
    pub public: String,
}

impl Key {
    /// Makes a pair by `ssh-keygen`; `kind` is its `-t`, with `-b` behind a colon: `ed25519`, `rsa:3072`.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn make(folder: &Path, name: &str, kind: &str) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let file = folder.join(name);
        let (kind, bits) = kind.split_once(':').map_or((kind, None), |(kind, bits)| (kind, Some(bits)));
        let mut command = quiet("ssh-keygen");
        command.args(["-q", "-N", "", "-C", "key of a test", "-t", kind]).arg("-f").arg(&file);
        command.args(bits.into_iter().flat_map(|bits| ["-b", bits]));
        finish(&mut command)?.ok().context("ssh-keygen")?;
        let public = fs::read_to_string(file.with_extension("pub"))?.trim().to_owned();
        Ok(Self { file, public })
    }

    /// Its fingerprint, as `ssh-keygen -l` shows it: `SHA256:…`.
    ///
    /// # Errors
    /// ssh-keygen does not know it.
    pub fn fingerprint(&self) -> Result<String> {
        let said = finish(quiet("ssh-keygen").arg("-lf").arg(&self.file))?.ok()?.text();
        Ok(said.split(' ').nth(1).context("no fingerprint")?.to_owned())
    }
}

/// OpenSSH's agent with one key. It ends when this value is dropped.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    socket: PathBuf,
}

impl Agent {
    /// Starts it with that key.
    ///
    /// # Errors
    /// It does not start, or not take the key.
    pub fn with(key: &Key) -> Result<Self> {
        let socket = key.file.with_extension("agent");
        let mut command = Command::new("ssh-agent");
        command.arg("-D").arg("-a").arg(&socket).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let agent = Self { child: command.spawn().context("starting ssh-agent")?, socket };
        until("ssh-agent to listen", DEADLINE, || Ok(UnixStream::connect(&agent.socket).ok()))?;
        finish(quiet("ssh-add").arg(&key.file).env("SSH_AUTH_SOCK", &agent.socket))?.ok().context("ssh-add")?;
        Ok(agent)
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _killed = self.child.kill();
        let _status = self.child.wait();
    }
}
