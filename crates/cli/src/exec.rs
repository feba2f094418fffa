//! `boxyard exec`: runs a command in a box and streams what it says.

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use boxyard_proto::api::exec::{ExecRequest, ExecStarted};
use boxyard_server::boxes::WORKSPACE;
use clap::Args;
use reqwest::{Method, Response};
use tokio::io::{AsyncWriteExt, Stdout};
use tokio::time::{Instant, sleep_until};

use crate::client::{Client, ClientOptions, box_argument};
use crate::failure::{Failure, NOT_RUN};
use crate::output::{note, print};
use crate::session::{self, Escape, Order, escape_argument, stdin_is_terminal};
use crate::signals::Signals;
use crate::trailer::{Ending, Trailer};

/// How long a cancelled command may take to end before it is left alone.
const CANCEL_DEADLINE: Duration = Duration::from_secs(15);
/// What shells say of a command that Ctrl-C ended: 128 and SIGINT.
pub(crate) const INTERRUPTED: u8 = 130;
/// What shells say of a command whose reader went away: 128 and SIGPIPE.
pub(crate) const NO_READER: u8 = 141;
/// Header of the run's id.
const RUN_ID: &str = "x-box-run-id";

#[derive(Debug, Args)]
pub(crate) struct Exec {
    /// Id or name of the box
    #[arg(value_name = "BOX", value_parser = box_argument)]
    id: String,
    /// Working folder, absolute or below /workspace/home
    #[arg(long)]
    folder: Option<String>,
    /// Print the run's id at once and let the command go on; `attach` shows what it writes
    #[arg(long, short)]
    detach: bool,
    /// Pass standard input on to the command, and SIGINT and SIGTERM too; the command ends with this program
    #[arg(long, short, conflicts_with = "detach")]
    interactive: bool,
    /// Run the command on a terminal like this one, for which standard input must be one
    #[arg(long, short, conflicts_with = "detach")]
    tty: bool,
    /// With -it: the key that begins an escape at the beginning of a line (`~.` leaves), or none
    #[arg(long, short, value_name = "KEY", default_value = "~", value_parser = escape_argument)]
    escape: Escape,
    /// The command, run without a shell
    #[arg(required = true, last = true, value_name = "ARGV")]
    argv: Vec<String>,
    #[command(flatten)]
    client: ClientOptions,
}

impl Exec {
    /// The command's exit code; Ctrl-C cancels it. Standard output and standard error of the command come as one stream, but for a live
    /// session's.
    pub(crate) async fn run(self) -> Result<ExitCode, Failure> {
        self.stream().await.map_err(Failure::of_exec)
    }

    async fn stream(self) -> Result<ExitCode, Failure> {
        if self.tty && !stdin_is_terminal() {
            return Err(Failure::usage(
                "-t needs a terminal, and standard input is none; -i alone goes with pipes and files",
            ));
        }
        let client = self.client.connect()?;
        if self.interactive || self.tty {
            let order = Order {
                id: &self.id,
                argv: self.argv,
                folder: self.folder.unwrap_or_else(|| WORKSPACE.to_owned()),
                input: self.interactive,
                terminal: self.tty,
                escape: self.escape,
            };
            return session::run(&client, order).await;
        }
        if self.detach {
            let body = ExecRequest { command: Some(self.argv), folder: self.folder, detach: Some(true) };
            let request = client.request(Method::POST, &[&self.id, "exec"]).json(&body);
            let started: ExecStarted = client.call(request).await?;
            return print(&started.run_id);
        }
        let mut signals = Signals::watch()?;
        let body = ExecRequest { command: Some(self.argv), folder: self.folder, detach: None };
        let request = client.request(Method::POST, &[&self.id, "exec-stream"]).json(&body);
        let answer = tokio::select! {
            answer = client.send(request) => answer?,
            () = signals.next() => return Ok(ExitCode::from(INTERRUPTED)),
        };
        let run_id = answer.headers().get(RUN_ID).and_then(|id| id.to_str().ok()).map(str::to_owned);

        let again = match &run_id {
            Some(run_id) => format!("boxyard attach {} {run_id}", self.id),
            None => "boxyard attach".into(),
        };
        let mut copying = std::pin::pin!(copy(answer, tokio::io::stdout(), &again));
        tokio::select! {
            code = &mut copying => return code,
            () = signals.next() => {}
        }
        let deadline = Instant::now() + CANCEL_DEADLINE;
        let cancelled = async {
            match &run_id {
                Some(run_id) => cancel(&client, &self.id, run_id).await,
                None => Err(Failure::plain("the server did not name the run: the command goes on")),
            }
        };
        tokio::select! {
            outcome = async { tokio::join!(&mut copying, cancelled) } => {
                if let (_, Err(failure)) = outcome {
                    failure.tell();
                }
            }
            () = signals.next() => {}
            () = sleep_until(deadline) => note("boxyard: the command has not ended yet"),
        }
        Ok(ExitCode::from(INTERRUPTED))
    }
}

async fn cancel(client: &Client, id: &str, run_id: &str) -> Result<(), Failure> {
    let request = client.request(Method::POST, &[id, "runs", run_id, "cancel"]).timeout(CANCEL_DEADLINE);
    client.send(request).await.map(drop)
}

async fn copy(mut answer: Response, mut out: Stdout, again: &str) -> Result<ExitCode, Failure> {
    let mut trailer = Trailer::default();
    let broke_off =
        |why: &str| Failure::plain(format!("the stream broke off{why}; the command goes on, see it with: {again}"));
    while let Some(piece) = answer.chunk().await.map_err(|error| broke_off(&format!(" ({})", error.without_url())))? {
        if !write(&mut out, &trailer.push(&piece)).await? {
            return Ok(ExitCode::from(NO_READER));
        }
    }
    let (rest, ending) = trailer.finish();
    if !write(&mut out, &rest).await? {
        return Ok(ExitCode::from(NO_READER));
    }
    match ending {
        Some(Ending::Exit(exit)) => Ok(ExitCode::from(u8::try_from(exit.exit_code).unwrap_or(NOT_RUN))),
        Some(Ending::Error(text)) => Err(Failure::plain(text)),
        None => Err(broke_off("")),
    }
}

/// Says whether anybody reads.
pub(crate) async fn write(out: &mut Stdout, bytes: &[u8]) -> Result<bool, Failure> {
    let written = async {
        out.write_all(bytes).await?;
        out.flush().await
    };
    match written.await {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::failed("cannot write to standard output", error)),
    }
}
