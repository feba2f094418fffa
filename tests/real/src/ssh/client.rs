//! OpenSSH's client and all that goes through it, as one user of one box.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result};

use super::dialogue::Dialogue;
use super::done::{Done, finish, quiet};
use super::door::Door;

/// What the configuration calls the box: `scp file box:` copies to it.
pub const HOST: &str = "box";

/// Numbers configuration files.
static NEXT: AtomicUsize = AtomicUsize::new(0);

/// How to prove who one is.
#[derive(Debug, Clone)]
enum Secret {
    Nothing,
    Password(String),
    Key(PathBuf),
    Agent(PathBuf),
}

/// A way to log in.
#[derive(Debug, Clone)]
pub struct Ssh {
    door: Door,
    user: String,
    secret: Secret,
    options: Vec<String>,
    env: Vec<(String, String)>,
}

impl Ssh {
    /// As that user, without any means to prove it.
    pub(super) fn new(door: Door, user: &str) -> Self {
        Self { door, user: user.to_owned(), secret: Secret::Nothing, options: Vec::new(), env: Vec::new() }
    }

    /// The same as another user: another box, or the same box by its name.
    #[must_use]
    pub fn user(mut self, user: &str) -> Self {
        self.user = user.to_owned();
        self
    }

    /// Logs in by a password, which the client asks for once.
    #[must_use]
    pub fn password(mut self, password: &str) -> Self {
        self.secret = Secret::Password(password.to_owned());
        self
    }

    /// Logs in by a private key, and nothing else.
    #[must_use]
    pub fn key(mut self, file: &Path) -> Self {
        self.secret = Secret::Key(file.to_owned());
        self
    }

    /// Logs in by what the agent behind that socket has, and nothing else.
    #[must_use]
    pub fn agent(mut self, socket: &Path) -> Self {
        self.secret = Secret::Agent(socket.to_owned());
        self
    }

    /// A line of the client's configuration, such as `SendEnv LANG`.
    #[must_use]
    pub fn option(mut self, line: &str) -> Self {
        self.options.push(line.to_owned());
        self
    }

    /// A variable in the client's own environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The door that it logs in at.
    pub fn door(&self) -> &Door {
        &self.door
    }

    /// The user's name, which is the box's.
    pub fn user_name(&self) -> &str {
        &self.user
    }

    /// Writes the configuration into a file.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn config(&self) -> Result<PathBuf> {
        let own = match &self.secret {
            Secret::Nothing => vec!["PubkeyAuthentication no".to_owned()],
            // Not keyboard-interactive: whichever comes first would be asked for the same secret.
            Secret::Password(_) => {
                vec!["PubkeyAuthentication no".to_owned(), "PreferredAuthentications password".to_owned()]
            }
            Secret::Key(file) => vec![
                "PreferredAuthentications publickey".to_owned(),
                format!("IdentityFile {}", file.display()),
                "IdentitiesOnly yes".to_owned(),
            ],
            Secret::Agent(socket) => vec![
                "PreferredAuthentications publickey".to_owned(),
                format!("IdentityAgent {}", socket.display()),
                "IdentityFile none".to_owned(),
            ],
        };
        let address = self.door.address();
        let known = format!("UserKnownHostsFile {}", self.door.known_hosts().display());
        let (name, port) = (format!("HostName {}", address.ip()), format!("Port {}", address.port()));
        let user = format!("User {}", self.user);
        let common = [
            name.as_str(),
            port.as_str(),
            user.as_str(),
            known.as_str(),
            "GlobalKnownHostsFile /dev/null",
            "StrictHostKeyChecking yes",
            "UpdateHostKeys no",
            "NumberOfPasswordPrompts 1",
            "ConnectTimeout 20",
        ];
        // The client takes the first value that it finds, so what a test wants comes first.
        let wanted = self.options.iter().map(String::as_str);
        let lines: Vec<&str> = wanted.chain(own.iter().map(String::as_str)).chain(common).collect();
        let text = format!("Host {HOST}\n  {}\n", lines.join("\n  "));
        let path = self.door.folder().join(format!("config-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }

    /// A program with the client's environment, and no other: how it is to be told the password. Its output is collected.
    pub fn program(&self, program: &str) -> Command {
        let mut command = quiet(program);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", self.door.folder()).env("LC_ALL", "C.UTF-8").current_dir(self.door.folder());
        if let Secret::Password(password) = &self.secret {
            command.env("SSH_ASKPASS", self.door.askpass()).env("SSH_ASKPASS_REQUIRE", "force");
            command.env("BOXYARD_TEST_PASSWORD", password);
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    /// A program of OpenSSH's family, which takes its configuration by `-F`: ssh, sftp, scp.
    ///
    /// # Errors
    /// The configuration cannot be written.
    pub fn command(&self, program: &str) -> Result<Command> {
        let mut command = self.program(program);
        command.arg("-F").arg(self.config()?);
        Ok(command)
    }

    /// What other programs take as their remote shell: `ssh -F …`.
    ///
    /// # Errors
    /// The configuration cannot be written.
    pub fn shell(&self) -> Result<String> {
        Ok(format!("ssh -F {}", self.config()?.display()))
    }

    /// `ssh box LINE`.
    ///
    /// # Errors
    /// The client does not start or not end.
    pub fn run(&self, line: &str) -> Result<Done> {
        finish(self.command("ssh")?.args([HOST, line])).with_context(|| format!("`ssh box {line}`"))
    }

    /// `ssh box LINE`, which must succeed; its standard output without the last newline.
    ///
    /// # Errors
    /// The client or the command fails.
    pub fn sh(&self, line: &str) -> Result<String> {
        Ok(self.run(line)?.ok().with_context(|| format!("`ssh box {line}`"))?.text())
    }

    /// `ssh ARGUMENTS` on pipes, to talk with.
    ///
    /// # Errors
    /// The client does not start.
    pub fn dialogue(&self, arguments: &[&str]) -> Result<Dialogue> {
        let mut command = self.command("ssh")?;
        command.args(arguments);
        Dialogue::on_pipes(command)
    }

    /// `ssh ARGUMENTS` on a terminal of 80 × 24.
    ///
    /// # Errors
    /// The client does not start.
    pub fn terminal(&self, arguments: &[&str]) -> Result<Dialogue> {
        let mut command = self.command("ssh")?;
        command.args(arguments);
        Dialogue::on_terminal(&command, 80, 24)
    }
}
