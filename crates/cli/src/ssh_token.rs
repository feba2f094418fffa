//! `boxyard ssh-token`: passwords of one box's SSH, for a time.

use std::process::ExitCode;
use std::time::Duration;

use boxyard_proto::SshTokenId;
use boxyard_proto::api::boxes::MessageBody;
use boxyard_proto::api::ssh::{CreateSshToken, CreatedSshToken, SshTokens};
use boxyard_server::config::duration;
use clap::{Args, Subcommand};
use reqwest::Method;

use crate::client::{Client, ClientOptions, box_argument};
use crate::failure::{FAILED, Failure};
use crate::output::{note, print, table, time};

#[derive(Debug, Subcommand)]
pub(crate) enum SshToken {
    /// Make a token and print it, this once
    Create(Create),
    /// List a box's tokens that let somebody in still
    List(List),
    /// Revoke tokens of a box; open sessions stay open
    Revoke(Revoke),
}

/// Which box, and which server.
#[derive(Debug, Args)]
pub(crate) struct OfBox {
    /// Id or name of the box
    #[arg(long = "box", value_name = "BOX", value_parser = box_argument)]
    id: String,
    #[command(flatten)]
    client: ClientOptions,
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    #[command(flatten)]
    of: OfBox,
    /// How long it lets in, 1m to 30d
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = duration)]
    expires: Duration,
    /// What the token is called
    #[arg(long)]
    label: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    of: OfBox,
}

#[derive(Debug, Args)]
pub(crate) struct Revoke {
    #[command(flatten)]
    of: OfBox,
    /// Ids of the tokens, as `boxyard ssh-token list` shows them
    #[arg(required = true, value_name = "ID")]
    ids: Vec<SshTokenId>,
}

impl SshToken {
    pub(crate) async fn run(self) -> Result<ExitCode, Failure> {
        match self {
            Self::Create(create) => create.run().await,
            Self::List(list) => list.run().await,
            Self::Revoke(revoke) => revoke.run().await,
        }
    }
}

/// Makes a token for a box that lets in for `expires`.
pub(crate) async fn make(
    client: &Client,
    id: &str,
    expires: Duration,
    label: Option<String>,
) -> Result<CreatedSshToken, Failure> {
    let body = CreateSshToken { expires_in: Some(expires.as_secs()), label };
    client.call(client.request(Method::POST, &[id, "ssh-tokens"]).json(&body)).await
}

impl Create {
    async fn run(self) -> Result<ExitCode, Failure> {
        let client = self.of.client.connect()?;
        let made = make(&client, &self.of.id, self.expires, self.label).await?;
        let until = time(made.expires_at.saturating_mul(1000));
        note(&format!("{} opens box {} until {until}. It is shown this once:", made.id, made.box_id));
        print(&made.token)
    }
}

impl List {
    async fn run(self) -> Result<ExitCode, Failure> {
        let client = self.of.client.connect()?;
        let tokens: SshTokens = client.call(client.request(Method::GET, &[&self.of.id, "ssh-tokens"])).await?;
        let rows: Vec<_> = tokens
            .tokens
            .into_iter()
            .map(|token| {
                let (made, ends) = (token.created_at.saturating_mul(1000), token.expires_at.saturating_mul(1000));
                [token.id.to_string(), time(made), time(ends), token.label.unwrap_or_default()]
            })
            .collect();
        print(&table(["ID", "MADE", "EXPIRES", "LABEL"], &rows))
    }
}

impl Revoke {
    async fn run(self) -> Result<ExitCode, Failure> {
        let client = self.of.client.connect()?;
        let mut code = ExitCode::SUCCESS;
        for id in &self.ids {
            let request = client.request(Method::DELETE, &[&self.of.id, "ssh-tokens", id.as_str()]);
            if let Err(failure) = client.call::<MessageBody>(request).await {
                failure.about(id.as_str()).tell();
                code = ExitCode::from(FAILED);
            }
        }
        Ok(code)
    }
}
