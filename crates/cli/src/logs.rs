//! `boxyard logs`: what a box's log tells.

use std::collections::VecDeque;
use std::process::ExitCode;

use boxyard_proto::api::logs::{CURSOR_HEADER, FollowedEntry, LIMIT_MAX, LogEntry, LogLevel, LogSource, Logs as Page};
use clap::Args;
use reqwest::{Method, Response};
use tokio::io::Stdout;

use crate::client::{Client, ClientOptions, box_argument};
use crate::exec::{INTERRUPTED, NO_READER, write};
use crate::failure::Failure;
use crate::output::time;
use crate::patience::Patience;
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
        let mut out = tokio::io::stdout();
        let mut patience = Patience::new();
        let mut cursor = None;
        loop {
            let followed = match self.ask(client, cursor.as_deref()).await {
                Ok(answer) => {
                    let before = cursor.clone();
                    let copied = self.copy(answer, &mut out, &mut cursor).await;
                    patience.renew(cursor != before);
                    copied
                }
                Err(failure) => Err(failure),
            };
            match followed {
                // What the server refuses, it refuses again. Without a cursor nobody knows what is missing.
                Err(failure) if failure.is_absence() && cursor.is_some() => patience.wait(failure).await?,
                followed => return followed,
            }
        }
    }

    async fn ask(&self, client: &Client, cursor: Option<&str>) -> Result<Response, Failure> {
        let tail = self.tail.map(|tail| tail.to_string());
        let mut query = vec![("follow", "1")];
        match cursor {
            Some(cursor) => query.push(("after", cursor)),
            None => query.extend(tail.as_deref().map(|tail| ("tail", tail))),
        }
        client.send(client.request_with(Method::GET, &[&self.id, "logs"], &query)).await
    }

    /// Prints what comes, to the end of the log, and keeps `cursor` at what was printed last.
    async fn copy(
        &self,
        mut answer: Response,
        out: &mut Stdout,
        cursor: &mut Option<String>,
    ) -> Result<ExitCode, Failure> {
        let begins = answer.headers().get(CURSOR_HEADER).and_then(|cursor| cursor.to_str().ok());
        *cursor = cursor.take().or_else(|| begins.map(str::to_owned));
        let mut rest = Vec::new();
        let broke_off = |error: reqwest::Error| Failure::failed("the log broke off", error.without_url()).of_absence();
        while let Some(piece) = answer.chunk().await.map_err(broke_off)? {
            rest.extend_from_slice(&piece);
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                let next: FollowedEntry = serde_json::from_slice(&line)
                    .map_err(|error| Failure::failed("the server's answer makes no sense", error))?;
                if !write(out, self.line(&next.entry).as_bytes()).await? {
                    return Ok(ExitCode::from(NO_READER));
                }
                *cursor = next.cursor;
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
