//! What is done in a repository.

use std::process::ExitCode;

use boxyard_proto::api::boxes::MessageBody;
use boxyard_proto::api::git::{
    CheckoutRequest, CloneRequest, Cloned, CommitRequest, GitCommit, GitDiff, GitExecRequest, GitExecResult, GitStatus,
    PushRequest,
};
use clap::Args;
use reqwest::Method;
use serde::de::DeserializeOwned;

use super::At;
use super::token::TokenOptions;
use crate::client::{ClientOptions, box_argument};
use crate::exec::{NO_READER, write};
use crate::failure::{Failure, NOT_RUN};
use crate::output::{note, print};

#[derive(Debug, Args)]
pub(crate) struct Clone {
    /// Id or name of the box
    #[arg(value_name = "BOX", value_parser = box_argument)]
    id: String,
    /// The repository's URL, such as github.com/owner/name
    repo: String,
    /// Branch or tag to check out
    #[arg(long, short, value_name = "NAME")]
    branch: Option<String>,
    /// How many commits of history to fetch
    #[arg(long, value_name = "N")]
    depth: Option<u32>,
    /// Folder to clone into, absolute or below /workspace/home [default: one named after the repository]
    #[arg(long, short = 'C', value_name = "DIR")]
    folder: Option<String>,
    #[command(flatten)]
    token: TokenOptions,
    #[command(flatten)]
    client: ClientOptions,
}

#[derive(Debug, Args)]
pub(crate) struct Look {
    #[command(flatten)]
    at: At,
}

#[derive(Debug, Args)]
pub(crate) struct Commit {
    #[command(flatten)]
    at: At,
    /// What the commit is about
    #[arg(long, short, value_name = "TEXT")]
    message: String,
    /// Name of the author, of this commit only
    #[arg(long, value_name = "NAME")]
    author_name: Option<String>,
    /// Address of the author, of this commit only
    #[arg(long, value_name = "ADDRESS")]
    author_email: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Push {
    #[command(flatten)]
    at: At,
    /// Branch to push to [default: the current one's upstream]
    #[arg(long, short, value_name = "NAME")]
    branch: Option<String>,
    #[command(flatten)]
    token: TokenOptions,
}

#[derive(Debug, Args)]
pub(crate) struct Checkout {
    #[command(flatten)]
    at: At,
    /// Branch, tag or commit
    branch: String,
}

#[derive(Debug, Args)]
pub(crate) struct Exec {
    #[command(flatten)]
    at: At,
    /// Arguments of git, without git itself
    #[arg(required = true, last = true, value_name = "ARGS")]
    args: Vec<String>,
}

impl Clone {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let body = CloneRequest {
            github_token: self.token.for_repository(&self.repo)?,
            repo: Some(self.repo),
            branch: self.branch,
            depth: self.depth,
            folder: self.folder,
        };
        let client = self.client.connect()?;
        let request = client.request(Method::POST, &[&self.id, "git", "clone"]).json(&body);
        let cloned: Cloned = client.call_patiently(request).await?;
        print(&cloned.folder)
    }
}

impl Look {
    pub(super) async fn status(self) -> Result<ExitCode, Failure> {
        let GitStatus { status, truncated } = self.look("status").await?;
        show(&status, truncated).await
    }

    pub(super) async fn diff(self) -> Result<ExitCode, Failure> {
        let GitDiff { diff, truncated } = self.look("diff").await?;
        show(&diff, truncated).await
    }

    async fn look<T: DeserializeOwned>(&self, what: &str) -> Result<T, Failure> {
        let client = self.at.connect()?;
        let query: Vec<_> = self.at.folder.iter().map(|folder| ("folder", folder.as_str())).collect();
        client.call_patiently(client.request_with(Method::GET, &[&self.at.id, "git", what], &query)).await
    }
}

impl Commit {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let body = CommitRequest {
            message: Some(self.message),
            author_name: self.author_name,
            author_email: self.author_email,
            folder: self.at.folder.clone(),
        };
        let made: GitCommit = self.at.post("commit", &body).await?;
        print(&made.sha)
    }
}

impl Push {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let body =
            PushRequest { branch: self.branch, folder: self.at.folder.clone(), github_token: self.token.for_github()? };
        let MessageBody { message } = self.at.post("push", &body).await?;
        note(&message);
        Ok(ExitCode::SUCCESS)
    }
}

impl Checkout {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let body = CheckoutRequest { branch: Some(self.branch), folder: self.at.folder.clone() };
        let MessageBody { message } = self.at.post("checkout", &body).await?;
        note(&message);
        Ok(ExitCode::SUCCESS)
    }
}

impl Exec {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let body = GitExecRequest { args: Some(self.args), folder: self.at.folder.clone() };
        let GitExecResult { output, exit_code, truncated } = self.at.post("exec", &body).await?;
        show(&output, truncated).await?;
        Ok(ExitCode::from(u8::try_from(exit_code).unwrap_or(NOT_RUN)))
    }
}

/// Prints a text as it is.
async fn show(text: &str, truncated: bool) -> Result<ExitCode, Failure> {
    let shown = write(&mut tokio::io::stdout(), text.as_bytes()).await?;
    if truncated {
        note("boxyard: there is more than the server answers at once; this is the beginning");
    }
    Ok(if shown { ExitCode::SUCCESS } else { ExitCode::from(NO_READER) })
}
