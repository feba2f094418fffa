//! `boxyard shell`: a login shell in a box, over the API alone.

use std::process::ExitCode;

use boxyard_server::boxes::WORKSPACE;
use clap::Args;

use crate::client::{ClientOptions, box_argument};
use crate::failure::Failure;
use crate::session::{self, Escape, Order, escape_argument, has_terminal, stdin_is_terminal};

/// Becomes the box's login shell. An image of one's own need not have bash.
const SHELL: &str = "command -v bash >/dev/null && exec bash -l || exec sh -l";
/// Becomes a login shell that runs a line.
const LINE: &str = r#"command -v bash >/dev/null && exec bash -lc "$0" || exec sh -lc "$0""#;

#[derive(Debug, Args)]
pub(crate) struct Shell {
    /// Id or name of the box
    #[arg(value_name = "BOX", value_parser = box_argument)]
    id: String,
    /// A command, run by the box's shell, instead of a dialogue; boxyard's own options come before the box
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<String>,
    /// The key that begins an escape at the beginning of a line (`~.` leaves), or none
    #[arg(long, short, value_name = "KEY", default_value = "~", value_parser = escape_argument)]
    escape: Escape,
    #[command(flatten)]
    client: ClientOptions,
}

impl Shell {
    /// The shell's exit code.
    pub(crate) async fn run(self) -> Result<ExitCode, Failure> {
        self.log_in().await.map_err(Failure::of_ssh)
    }

    async fn log_in(self) -> Result<ExitCode, Failure> {
        let client = self.client.connect()?;
        // A terminal would change what a command writes into a file or a pipe.
        let terminal = if self.command.is_empty() { stdin_is_terminal() } else { has_terminal() };
        let argv = match self.command.as_slice() {
            [] => vec!["sh".into(), "-c".into(), SHELL.into()],
            // As ssh has it.
            words => vec!["sh".into(), "-c".into(), LINE.into(), words.join(" ")],
        };
        let order =
            Order { id: &self.id, argv, folder: WORKSPACE.to_owned(), input: true, terminal, escape: self.escape };
        session::run(&client, order).await
    }
}
