//! `boxyard logs`: what a box's log tells.

use std::collections::VecDeque;
use std::process::ExitCode;

use boxyard_proto::api::logs::{LIMIT_MAX, LogEntry, LogLevel, LogSource, Logs as Page};
use clap::Args;
use reqwest::Method;

use crate::client::{Client, ClientOptions, box_argument};
use crate::exec::{INTERRUPTED, NO_READER, write};
use crate::failure::Failure;
use crate::output::time;
use crate::signals::Signals;

/// Bytes of one line of a followed log at most; the server's are far shorter.
const LINE_MAX: usize = 1024 * 1024;

#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// Id or name of the box
    #[arg(value_name = "BOX", value_parser = box_argument)]
    id: String,
    /// Go on with every new entry, until Ctrl-C or the end of the box
    #[arg(long, short)]
    follow: bool,
    /// Only so many of the newest entries that are there; with --follow at most 1000, 100 when missing
    #[arg(long)]
    tail: Option<usize>,
    /// Print the entries as lines of JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientOptions,
}

impl Logs {
    pub(crate) async fn run(self) -> Result<ExitCode, Failure> {
        let client = self.client.connect()?;
        if !self.follow {
            return self.print(&client).await;
        }
        let mut signals = Signals::watch()?;
        tokio::select! {
            followed = self.follow(&client) => followed,
            () = signals.next() => Ok(ExitCode::from(INTERRUPTED)),
        }
    }

    async fn print(&self, client: &Client) -> Result<ExitCode, Failure> {
        let mut newest = VecDeque::new();
        let mut offset = 0_usize;
        let limit = LIMIT_MAX.to_string();
        loop {
            let query = [("offset", offset.to_string()), ("limit", limit.clone())];
            let query = query.each_ref().map(|(name, value)| (*name, value.as_str()));
            let page: Page = client.call(client.request_with(Method::GET, &[&self.id, "logs"], &query)).await?;
            let count = page.logs.len();
            offset += count;
            newest.extend(page.logs);
            while self.tail.is_some_and(|tail| newest.len() > tail) {
                newest.pop_front();
            }
            if count < LIMIT_MAX as usize {
                break;
            }
        }
        let lines: String = newest.iter().map(|entry| self.line(entry)).collect();
        let written = write(&mut tokio::io::stdout(), lines.as_bytes()).await?;
        Ok(if written { ExitCode::SUCCESS } else { ExitCode::from(NO_READER) })
    }

    async fn follow(&self, client: &Client) -> Result<ExitCode, Failure> {
        let tail = self.tail.map(|tail| tail.to_string());
        let mut query = vec![("follow", "1")];
        query.extend(tail.as_deref().map(|tail| ("tail", tail)));
        let mut answer = client.send(client.request_with(Method::GET, &[&self.id, "logs"], &query)).await?;
        let mut out = tokio::io::stdout();
        let mut rest = Vec::new();
        let broke_off = |error: reqwest::Error| Failure::failed("the log broke off", error.without_url());
        while let Some(piece) = answer.chunk().await.map_err(broke_off)? {
            rest.extend_from_slice(&piece);
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                let entry: LogEntry = serde_json::from_slice(&line)
                    .map_err(|error| Failure::failed("the server's answer makes no sense", error))?;
                if !write(&mut out, self.line(&entry).as_bytes()).await? {
                    return Ok(ExitCode::from(NO_READER));
                }
            }
            if rest.len() > LINE_MAX {
                return Err(Failure::plain("the server's answer is too long"));
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    fn line(&self, entry: &LogEntry) -> String {
        if self.json {
            // Plain structs of texts and numbers always serialise.
            return serde_json::to_string(entry).unwrap_or_default() + "\n";
        }
        let level = match entry.level {
            LogLevel::Info => "info ",
            LogLevel::Warn => "warn ",
            LogLevel::Error => "error",
        };
        let source = match entry.source {
            LogSource::System => "system",
            LogSource::Agent => "agent",
            LogSource::User => "user",
        };
        // What a box has had a part in must not steer the terminal.
        let message: String =
            entry.message.chars().map(|c| if c.is_control() && c != '\t' { ' ' } else { c }).collect();
        format!("{}  {level}  {source:<6}  {message}\n", time(entry.timestamp.saturating_mul(1000)))
    }
}
