//! `boxyard ssh-fingerprint`: what the server's SSH door proves itself with.

use std::process::ExitCode;

use clap::Args;

use crate::door::DoorOptions;
use crate::failure::Failure;
use crate::output::print;

#[derive(Debug, Args)]
pub(crate) struct SshFingerprint {
    /// Print lines for ~/.ssh/known_hosts instead
    #[arg(long)]
    known_hosts: bool,
    #[command(flatten)]
    door: DoorOptions,
}

impl SshFingerprint {
    pub(crate) async fn run(self) -> Result<ExitCode, Failure> {
        let client = self.door.client.connect()?;
        let door = self.door.find(&client).await?;
        if self.known_hosts {
            return print(&door.known_hosts(None));
        }
        let lines: Vec<String> =
            door.host_keys.iter().map(|key| format!("{} {}", key.fingerprint, key.algorithm)).collect();
        print(&lines.join("\n"))
    }
}
