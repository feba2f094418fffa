//! `boxyard attach`: what a run has written and goes on to write.

use std::process::ExitCode;
use std::time::Duration;

use boxyard_proto::api::runs::RunData;
use clap::Args;
use reqwest::header::HeaderMap;
use reqwest::{Method, Response};
use tokio::io::Stdout;
use tokio::time::{Instant, sleep};

use crate::client::{Client, ClientOptions, box_argument};
use crate::exec::{INTERRUPTED, NO_READER, write};
use crate::failure::{Failure, NOT_RUN};
use crate::output::note;
use crate::signals::Signals;

/// How long a server that cannot be reached is waited for: as long as one takes to be started anew.
const PATIENCE: Duration = Duration::from_secs(60);
/// The pause between tries.
const PAUSE: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(crate) struct Attach {
    /// Id or name of the box
    #[arg(value_name = "BOX", value_parser = box_argument)]
    id: String,
    /// Id of the run
    #[arg(value_name = "RUN_ID", value_parser = run_argument)]
    run: String,
    /// The first byte to print, instead of 0
    #[arg(long, conflicts_with = "tail")]
    offset: Option<u64>,
    /// Begin so many bytes before the end of what there is
    #[arg(long)]
    tail: Option<u64>,
    #[command(flatten)]
    client: ClientOptions,
}

/// Reads a run's id from the command line. What is none would name something else of the API.
fn run_argument(text: &str) -> Result<String, String> {
    text.parse::<boxyard_proto::RunId>().map(|id| id.to_string()).map_err(|error| error.to_string())
}

impl Attach {
    /// The run's exit code. Ctrl-C leaves the run alone.
    pub(crate) async fn run(self) -> Result<ExitCode, Failure> {
        let client = self.client.connect()?;
        let mut signals = Signals::watch()?;
        let mut follower = Follower { client: &client, id: &self.id, run: &self.run, next: self.offset, seen: false };
        let followed = tokio::select! {
            followed = follower.follow(self.tail) => followed,
            () = signals.next() => {
                let next = follower.next.unwrap_or(0);
                note(&format!(
                    "boxyard: detached; the run goes on, see it with: boxyard attach {} {} --offset {next}",
                    self.id, self.run
                ));
                return Ok(ExitCode::from(INTERRUPTED));
            }
        };
        followed.map_err(Failure::of_exec)
    }
}

struct Follower<'a> {
    client: &'a Client,
    id: &'a str,
    run: &'a str,
    /// The next byte that is wanted, once that is known.
    next: Option<u64>,
    /// Something was heard of the server.
    seen: bool,
}

/// How a connection ended.
enum Heard {
    All,
    NoReader,
    BrokeOff(String),
}

impl Follower<'_> {
    async fn follow(&mut self, tail: Option<u64>) -> Result<ExitCode, Failure> {
        let mut out = tokio::io::stdout();
        let mut given_up_at = Instant::now() + PATIENCE;
        loop {
            let asked = (self.next, tail.filter(|_| self.next.is_none()));
            let broke_off = match self.ask(asked, true).await {
                Ok(answer) => {
                    self.begin(answer.headers());
                    match self.copy(answer, &mut out).await? {
                        Heard::All => match self.end().await? {
                            Some(code) => return Ok(code),
                            None => "the run goes on".to_owned(),
                        },
                        Heard::NoReader => return Ok(ExitCode::from(NO_READER)),
                        Heard::BrokeOff(why) => {
                            given_up_at = Instant::now() + PATIENCE;
                            why
                        }
                    }
                }
                // What the server refuses, it refuses again; what it did not hear, it may hear when it is back.
                Err(failure) if !self.seen || !failure.is_absence() || Instant::now() >= given_up_at => {
                    return Err(failure);
                }
                Err(failure) => failure.text().to_owned(),
            };
            if Instant::now() >= given_up_at {
                return Err(Failure::plain(format!("the connection broke off ({broke_off}); the run goes on")));
            }
            sleep(PAUSE).await;
        }
    }

    async fn ask(&self, (offset, tail): (Option<u64>, Option<u64>), follow: bool) -> Result<Response, Failure> {
        let numbers = [("offset", offset), ("tail", tail)];
        let numbers = numbers.map(|(name, number)| number.map(|number| (name, number.to_string())));
        let mut query: Vec<(&str, &str)> =
            numbers.iter().flatten().map(|(name, text)| (*name, text.as_str())).collect();
        if follow {
            query.push(("follow", "1"));
        }
        self.client.send(self.client.request_with(Method::GET, &[self.id, "runs", self.run, "output"], &query)).await
    }

    /// Notes where the answer begins.
    fn begin(&mut self, head: &HeaderMap) {
        self.seen = true;
        let Some(first) = number(head, "x-output-offset") else { return };
        let wanted = self.next.unwrap_or(first);
        if first > wanted || self.next.is_none() && number(head, "x-output-dropped") == Some(first) && first > 0 {
            let missing = if first > wanted { first - wanted } else { first };
            note(&format!("boxyard: {missing} bytes before this are not kept any more"));
        }
        self.next = Some(first.max(wanted));
    }

    async fn copy(&mut self, mut answer: Response, out: &mut Stdout) -> Result<Heard, Failure> {
        loop {
            match answer.chunk().await {
                Ok(Some(piece)) => {
                    if !write(out, &piece).await? {
                        return Ok(Heard::NoReader);
                    }
                    self.next = self.next.map(|next| next + piece.len() as u64);
                }
                Ok(None) => return Ok(Heard::All),
                Err(error) => return Ok(Heard::BrokeOff(error.without_url().to_string())),
            }
        }
    }

    /// The exit code of a run that has ended.
    async fn end(&self) -> Result<Option<ExitCode>, Failure> {
        let answer = self.ask((self.next, None), false).await?;
        let head = answer.headers();
        if head.get("x-box-run-status").is_some_and(|status| status == "running") {
            return Ok(None);
        }
        if let Some(code) = number(head, "x-box-exit-code") {
            return Ok(Some(ExitCode::from(u8::try_from(code).unwrap_or(NOT_RUN))));
        }
        let run: RunData = self.client.call(self.client.request(Method::GET, &[self.id, "runs", self.run])).await?;
        Err(Failure::plain(run.error_message.unwrap_or_else(|| "the run ended without an exit code".into())))
    }
}

fn number(head: &HeaderMap, name: &str) -> Option<u64> {
    head.get(name)?.to_str().ok()?.parse().ok()
}
