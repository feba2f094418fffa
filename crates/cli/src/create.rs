//! `boxyard create`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use boxyard_proto::SnapshotId;
use boxyard_proto::api::boxes::{BoxData, BoxStatus, CreateBox};
use boxyard_proto::api::snapshots::RestoreBox;
use boxyard_server::config::duration;
use clap::Args;
use reqwest::Method;

use crate::client::{Client, ClientOptions};
use crate::failure::Failure;
use crate::git::read_token;
use crate::output::{note, print};
use crate::poll::{not_made, until_made};

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// Runtime: node, python, golang, ruby or rust
    #[arg(long)]
    runtime: Option<String>,
    /// Snapshot that the box's disk starts as a copy of; runtime, size and variables are its source's, unless given here
    #[arg(long, visible_alias = "snapshot", value_name = "SNAPSHOT", conflicts_with = "runtime")]
    from: Option<SnapshotId>,
    /// Size: small, medium, large, or another one that the server has
    #[arg(long)]
    size: Option<String>,
    /// Name that stands for the id
    #[arg(long)]
    name: Option<String>,
    /// Label; may be given several times
    #[arg(long = "label", value_name = "LABEL")]
    labels: Vec<String>,
    /// Variable of every process in the box; may be given several times
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
    /// Never pause it, and start it again when its host was restarted
    #[arg(long, conflicts_with = "ephemeral")]
    keep_alive: bool,
    /// Command line to run in the background whenever the box is started
    #[arg(long, value_name = "COMMAND")]
    init_command: Option<String>,
    /// Delete it by itself, after three days or --ttl
    #[arg(long)]
    ephemeral: bool,
    /// How long an ephemeral box lives, at most 72h: 90s, 30m, 1h, 2d, or a number of seconds
    #[arg(long, value_name = "TIME", requires = "ephemeral", value_parser = seconds)]
    ttl: Option<u64>,
    /// Name of who commits in the box
    #[arg(long, value_name = "NAME")]
    git_name: Option<String>,
    /// Address of who commits in the box
    #[arg(long, value_name = "ADDRESS")]
    git_email: Option<String>,
    /// File with a token for GitHub that the server is to keep for the box, - for standard input
    #[arg(long, value_name = "FILE")]
    github_token_file: Option<PathBuf>,
    /// Do not wait for a box whose image has to be built first
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    client: ClientOptions,
}

impl Create {
    pub(crate) async fn run(self) -> Result<ExitCode, Failure> {
        let client = self.client.connect()?;
        let github_token = self.github_token_file.as_deref().map(read_token).transpose()?;
        let labels = (!self.labels.is_empty()).then_some(self.labels);
        let env_vars = (!self.env.is_empty()).then(|| BTreeMap::from_iter(self.env));
        let request = match self.from {
            Some(from) => client.request(Method::POST, &["from-snapshot"]).json(&RestoreBox {
                snapshot_id: Some(from.to_string()),
                name: self.name,
                labels,
                size: self.size,
                runtime: None,
                env_vars,
                keep_alive: self.keep_alive.then_some(true),
                init_command: self.init_command,
                ephemeral: self.ephemeral.then_some(true),
                ttl: self.ttl,
                github_token,
                git_user_name: self.git_name,
                git_user_email: self.git_email,
            }),
            None => client.request(Method::POST, &[]).json(&CreateBox {
                name: self.name,
                labels,
                size: self.size,
                runtime: self.runtime,
                env_vars,
                keep_alive: self.keep_alive.then_some(true),
                init_command: self.init_command,
                ephemeral: self.ephemeral.then_some(true),
                ttl: self.ttl,
                github_token,
                git_user_name: self.git_name,
                git_user_email: self.git_email,
            }),
        };
        let made: BoxData = client.call(request).await?;
        finish(&client, &made, self.no_wait).await
    }
}

/// Waits until a box is made, unless nobody wants to, and prints its id.
pub(crate) async fn finish(client: &Client, made: &BoxData, no_wait: bool) -> Result<ExitCode, Failure> {
    if made.status == BoxStatus::Creating && !no_wait {
        note(&format!("{} is being made: the image of {} may have to be built first", made.id, made.runtime));
        let is_made = async || {
            let now: BoxData = client.call(client.request(Method::GET, &[made.id.as_str()])).await?;
            match now.status {
                BoxStatus::Creating => Ok(false),
                BoxStatus::Idle | BoxStatus::Running | BoxStatus::Paused => Ok(true),
                BoxStatus::Error | BoxStatus::Deleted => Err(not_made(made.id.as_str())),
            }
        };
        until_made(made.id.as_str(), is_made).await?;
    }
    print(made.id.as_str())
}

fn seconds(text: &str) -> Result<u64, String> {
    match duration(text)? {
        span if span.subsec_nanos() != 0 => Err("it must be whole seconds".to_owned()),
        span => Ok(span.as_secs()),
    }
}

fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}
