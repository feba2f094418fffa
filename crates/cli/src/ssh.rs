//! `boxyard ssh`: becomes this host's ssh, with a password and the server's host keys that the API gave.
//!
//! The program is replaced by ssh (`exec`): terminal, signals, job control and exit code are ssh's own. What ssh then needs of us it
//! asks for by calling this program again, see [`askpass`](crate::askpass).

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::Args;

use crate::askpass::{ALIAS, HOST_KEYS, KNOWN_HOSTS, PASSWORD};
use crate::client::box_argument;
use crate::door::{Door, DoorOptions};
use crate::failure::Failure;
use crate::ssh_token::make;

/// How long the token of a login lets in: as long as a login may take on a slow way, and no longer.
const TOKEN_LIVES: Duration = Duration::from_mins(5);

#[derive(Debug, Args)]
pub(crate) struct Ssh {
    /// Id or name of the box
    #[arg(value_name = "BOX", value_parser = box_argument)]
    id: String,
    /// Options of ssh, such as -L 8080:localhost:80; boxyard's own options come before them
    #[arg(value_name = "SSH_OPTION", allow_hyphen_values = true)]
    options: Vec<OsString>,
    /// A command, run by the box's shell; without one, a login shell
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
    #[command(flatten)]
    door: DoorOptions,
}

impl Ssh {
    /// Returns only if it fails: else this program has become ssh.
    pub(crate) async fn run(self) -> Result<ExitCode, Failure> {
        self.become_ssh().await.map_err(Failure::of_ssh)
    }

    async fn become_ssh(self) -> Result<ExitCode, Failure> {
        let client = self.door.client.connect()?;
        let door = self.door.find(&client).await?;
        let program = std::env::current_exe().map_err(|error| Failure::failed("cannot find this program", error))?;
        let known_hosts = known_hosts_command(&program)?;
        let token = make(&client, &self.id, TOKEN_LIVES, Some("boxyard ssh".into())).await?;

        let mut ssh = Command::new("ssh");
        ssh.args(options(&door, &known_hosts)).args(["-l", token.box_id.as_str(), &self.id]).args(&self.options);
        if !self.command.is_empty() {
            ssh.arg("--").args(&self.command);
        }
        ssh.env(PASSWORD, &token.token)
            .env(HOST_KEYS, door.known_hosts(Some(ALIAS)))
            .env("SSH_ASKPASS", &program)
            .env("SSH_ASKPASS_REQUIRE", "force");
        let error = ssh.exec();
        Err(if error.kind() == io::ErrorKind::NotFound {
            Failure::plain(
                "this host has no ssh; install OpenSSH's client (Debian and Ubuntu: apt install openssh-client)",
            )
        } else {
            Failure::failed("cannot start ssh", error)
        })
    }
}

/// What ssh is told. Of an option that is given twice the first counts, so neither the user's options nor their configuration undo it.
fn options(door: &Door, known_hosts: &str) -> Vec<String> {
    let mut options = vec!["-p".to_owned(), door.port.to_string()];
    for option in [
        &format!("HostName={}", door.host),
        // The host is known through the API, and only through it.
        &format!("HostKeyAlias={ALIAS}"),
        &format!("KnownHostsCommand={known_hosts}"),
        "UserKnownHostsFile=/dev/null",
        "GlobalKnownHostsFile=/dev/null",
        "StrictHostKeyChecking=yes",
        "CheckHostIP=no",
        "UpdateHostKeys=no",
        "VerifyHostKeyDNS=no",
        // The password is asked for once, and nothing else is.
        "PreferredAuthentications=password",
        "PasswordAuthentication=yes",
        "PubkeyAuthentication=no",
        "NumberOfPasswordPrompts=1",
        "BatchMode=no",
    ] {
        options.extend(["-o".to_owned(), option.to_owned()]);
    }
    options
}

/// The command that prints the host keys, as ssh reads it: words in quotes, `%` doubled.
fn known_hosts_command(program: &Path) -> Result<String, Failure> {
    let path = program.to_str().filter(|path| !path.contains(['"', '\\', '\n']));
    let path =
        path.ok_or_else(|| Failure::plain(format!("ssh cannot call a program with such a path: {program:?}")))?;
    Ok(format!("\"{}\" {KNOWN_HOSTS}", path.replace('%', "%%")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_for_host_keys_is_quoted_as_ssh_reads_it() {
        let quoted = |path: &str| known_hosts_command(Path::new(path)).ok();
        assert_eq!(quoted("/usr/bin/boxyard").as_deref(), Some("\"/usr/bin/boxyard\" ssh-known-hosts"));
        assert_eq!(quoted("/a b/100%/x").as_deref(), Some("\"/a b/100%%/x\" ssh-known-hosts"));
        assert_eq!(quoted("/a\"b"), None);
    }
}
