//! `boxyard context`: interpreters whose variables live between calls.

use std::io::{self, Read as _};
use std::process::ExitCode;

use boxyard_proto::ContextId;
use boxyard_proto::api::boxes::MessageBody;
use boxyard_proto::api::contexts::{
    CodeDone, CodeError, CodeOutput, CodeText, ContextData, Contexts, CreateContext, Interrupted, RunInContext,
};
use clap::{Args, Subcommand};
use reqwest::{Method, Response};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::client::{Client, ClientOptions, box_argument};
use crate::exec::{NO_READER, write};
use crate::failure::{FAILED, Failure};
use crate::output::{note, print, table, time};
use crate::signals::Signals;

/// Bytes of code at most, as the server says.
const CODE_MAX: u64 = 16 * 1024 * 1024;
/// Bytes of one event at most.
const EVENT_MAX: usize = 64 * 1024 * 1024;

#[derive(Debug, Subcommand)]
pub(crate) enum Context {
    /// Start an interpreter in a box and print the context's id
    Create(Create),
    /// List a box's contexts
    List(List),
    /// Run code in a context and print what comes of it
    Run(Run),
    /// End contexts, and what their code has started
    Delete(Delete),
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// Id or name of the box
    #[arg(value_name = "BOX", value_parser = box_argument)]
    id: String,
    /// python or js
    #[arg(default_value = "python")]
    language: String,
    /// Working folder, absolute or below /workspace/home
    #[arg(long)]
    folder: Option<String>,
    #[command(flatten)]
    client: ClientOptions,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// Id or name of the box
    #[arg(value_name = "BOX", value_parser = box_argument)]
    id: String,
    /// Print the server's JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientOptions,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Id or name of the box
    #[arg(value_name = "BOX", value_parser = box_argument)]
    id: String,
    /// Id of the context, as `boxyard context list` shows it
    context: ContextId,
    /// The code [default: what comes on standard input]
    code: Option<String>,
    /// Milliseconds after which the code is interrupted
    #[arg(long, value_name = "MS")]
    timeout: Option<u64>,
    /// Print the server's JSON, when the code has ended: plots and tables are in it
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientOptions,
}

#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// Id or name of the box
    #[arg(value_name = "BOX", value_parser = box_argument)]
    id: String,
    /// Ids of the contexts
    #[arg(required = true, value_name = "CONTEXT")]
    contexts: Vec<ContextId>,
    #[command(flatten)]
    client: ClientOptions,
}

impl Context {
    pub(crate) async fn run(self) -> Result<ExitCode, Failure> {
        match self {
            Self::Create(create) => create.run().await,
            Self::List(list) => list.run().await,
            Self::Run(run) => run.run().await,
            Self::Delete(delete) => delete.run().await,
        }
    }
}

impl Create {
    async fn run(self) -> Result<ExitCode, Failure> {
        let client = self.client.connect()?;
        let body = CreateContext { language: Some(self.language), folder: self.folder, env: None };
        let request = client.request(Method::POST, &[&self.id, "contexts"]).json(&body);
        let made: ContextData = client.call(request).await?;
        print(made.id.as_str())
    }
}

impl List {
    async fn run(self) -> Result<ExitCode, Failure> {
        let client = self.client.connect()?;
        let list: Contexts = client.call(client.request(Method::GET, &[&self.id, "contexts"])).await?;
        if self.json {
            return print(&json(&list)?);
        }
        let row = |context: ContextData| {
            [
                context.id.to_string(),
                context.language.as_str().to_owned(),
                context.status.as_str().to_owned(),
                context.execution_count.to_string(),
                time(context.last_used_at.saturating_mul(1000)),
                context.folder,
            ]
        };
        let rows: Vec<_> = list.contexts.into_iter().map(row).collect();
        print(&table(["CONTEXT", "LANGUAGE", "STATUS", "EXECUTIONS", "LAST USED", "FOLDER"], &rows))
    }
}

impl Delete {
    async fn run(self) -> Result<ExitCode, Failure> {
        let client = self.client.connect()?;
        let mut code = ExitCode::SUCCESS;
        for context in self.contexts {
            let request = client.request(Method::DELETE, &[&self.id, "contexts", context.as_str()]);
            if let Err(failure) = client.call::<MessageBody>(request).await {
                failure.about(context.as_str()).tell();
                code = ExitCode::from(FAILED);
            }
        }
        Ok(code)
    }
}

impl Run {
    /// 0 when the code came to its end, 1 when it raised an error. Ctrl-C interrupts the code.
    async fn run(self) -> Result<ExitCode, Failure> {
        let code = match self.code {
            Some(code) => code,
            None => read_code()?,
        };
        let client = self.client.connect()?;
        let body = RunInContext { code: Some(code), timeout: self.timeout };
        let path = |what| [self.id.as_str(), "contexts", self.context.as_str(), what];
        if self.json {
            let outcome: Value = client.call(client.request(Method::POST, &path("code")).json(&body)).await?;
            let printed = print(&json(&outcome)?)?;
            return Ok(if outcome["error"].is_null() { printed } else { ExitCode::from(FAILED) });
        }
        let mut signals = Signals::watch()?;
        let answer = client.send(client.request(Method::POST, &path("code-stream")).json(&body)).await?;
        let mut telling = std::pin::pin!(tell(answer));
        loop {
            tokio::select! {
                code = &mut telling => return code,
                () = signals.next() => interrupt(&client, &path("interrupt")).await?,
            }
        }
    }
}

async fn interrupt(client: &Client, path: &[&str]) -> Result<(), Failure> {
    client.call::<Interrupted>(client.request(Method::POST, path)).await.map(drop)
}

fn read_code() -> Result<String, Failure> {
    let mut code = String::new();
    let read = io::stdin().lock().take(CODE_MAX + 1).read_to_string(&mut code);
    read.map_err(|error| Failure::failed("cannot read the code from standard input", error))?;
    Ok(code)
}

/// Prints what comes of the code as it comes.
async fn tell(mut answer: Response) -> Result<ExitCode, Failure> {
    let mut out = tokio::io::stdout();
    let (mut waiting, mut searched, mut code) = (Vec::new(), 0, ExitCode::SUCCESS);
    let broke_off = || Failure::plain("the stream broke off; the code goes on");
    loop {
        let piece = answer.chunk().await.map_err(|_| broke_off())?.ok_or_else(broke_off)?;
        waiting.extend_from_slice(&piece);
        if waiting.len() > EVENT_MAX {
            return Err(Failure::plain("the server's answer is too long"));
        }
        while let Some(end) = waiting[searched..].windows(2).position(|pair| pair == b"\n\n") {
            let event: Vec<u8> = waiting.drain(..searched + end + 2).collect();
            searched = 0;
            let event = String::from_utf8_lossy(&event);
            let Some((name, data)) = event.strip_prefix("event: ").and_then(|event| event.split_once("\ndata: "))
            else {
                continue;
            };
            let text = match name {
                "stdout" => read::<CodeText>(data)?.text,
                "stderr" => {
                    eprint(&read::<CodeText>(data)?.text);
                    continue;
                }
                "result" => line_of(&read(data)?),
                "error" => {
                    let CodeError { name, message, traceback } = read(data)?;
                    let text = if traceback.is_empty() { format!("{name}: {message}") } else { traceback };
                    note(text.trim_end());
                    code = ExitCode::from(FAILED);
                    continue;
                }
                "done" => {
                    let CodeDone { truncated, note: why, .. } = read(data)?;
                    if let Some(why) = why {
                        note(&format!("boxyard: {why}"));
                    }
                    if truncated {
                        note("boxyard: there was more, which the server has not kept");
                    }
                    return Ok(code);
                }
                _ => continue,
            };
            if !write(&mut out, text.as_bytes()).await? {
                return Ok(ExitCode::from(NO_READER));
            }
        }
        searched = waiting.len().saturating_sub(1);
    }
}

/// A result as a line of text: its own text, or what else there is of it.
fn line_of(output: &CodeOutput) -> String {
    let mut line = match output.data.get("text/plain").or_else(|| output.data.get("text/markdown")) {
        Some(Value::String(text)) => text.clone(),
        Some(_) | None => String::new(),
    };
    let other = |kind: &&String| !matches!(kind.as_str(), "text/plain" | "text/markdown" | "application/json");
    let others: Vec<&str> = output.data.keys().filter(other).map(String::as_str).collect();
    if !others.is_empty() {
        line.push_str(&format!("{}[{}]", if line.is_empty() { "" } else { " " }, others.join(", ")));
    }
    line.push('\n');
    line
}

fn eprint(text: &str) {
    use std::io::Write as _;
    // There is nowhere left to complain to.
    let _ = io::stderr().write_all(text.as_bytes());
}

fn read<T: DeserializeOwned>(data: &str) -> Result<T, Failure> {
    serde_json::from_str(data.trim_end()).map_err(|error| Failure::failed("the server's answer makes no sense", error))
}

fn json<T: serde::Serialize>(value: &T) -> Result<String, Failure> {
    serde_json::to_string_pretty(value).map_err(|error| Failure::failed("cannot print the answer", error))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn results_are_shown_as_text_and_what_else_there_is_of_them_is_named() {
        let line = |data: Value| line_of(&serde_json::from_value(data).expect("an output"));
        assert_eq!(line(json!({"is_main": true, "text/plain": "42"})), "42\n");
        assert_eq!(line(json!({"is_main": true, "text/plain": "[1]", "application/json": [1]})), "[1]\n");
        assert_eq!(
            line(json!({"is_main": false, "text/plain": "Figure", "image/png": "aGk="})),
            "Figure [image/png]\n"
        );
        assert_eq!(line(json!({"is_main": false, "text/html": "<b>"})), "[text/html]\n");
    }
}
