//! Pull requests and issues.

use std::process::ExitCode;

use boxyard_proto::api::git::{CreateIssue as IssueRequest, CreatePullRequest, Issue, PullRequest};
use clap::Args;

use super::At;
use super::token::TokenOptions;
use crate::failure::Failure;
use crate::output::{note, print};

/// What both have.
#[derive(Debug, Args)]
struct Text {
    /// Its title
    #[arg(long, short, value_name = "TEXT")]
    title: String,
    /// Its text
    #[arg(long, short, value_name = "TEXT")]
    body: Option<String>,
    /// File of the box to add to the text; may be given several times
    #[arg(long = "attach", value_name = "PATH")]
    attach: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct CreatePr {
    #[command(flatten)]
    at: At,
    #[command(flatten)]
    text: Text,
    /// Branch that it is to be merged into [default: the repository's default branch]
    #[arg(long, value_name = "NAME")]
    base: Option<String>,
    #[command(flatten)]
    token: TokenOptions,
}

#[derive(Debug, Args)]
pub(crate) struct CreateIssue {
    #[command(flatten)]
    at: At,
    #[command(flatten)]
    text: Text,
    #[command(flatten)]
    token: TokenOptions,
}

impl CreatePr {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let body = CreatePullRequest {
            title: Some(self.text.title),
            body: self.text.body,
            base: self.base,
            attach: (!self.text.attach.is_empty()).then_some(self.text.attach),
            folder: self.at.folder.clone(),
            github_token: self.token.for_github()?,
        };
        let made: PullRequest = self.at.post("create-pr", &body).await?;
        told(&made.url, made.warning)
    }
}

impl CreateIssue {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let body = IssueRequest {
            title: Some(self.text.title),
            body: self.text.body,
            attach: (!self.text.attach.is_empty()).then_some(self.text.attach),
            folder: self.at.folder.clone(),
            github_token: self.token.for_github()?,
        };
        let made: Issue = self.at.post("create-issue", &body).await?;
        told(&made.url, made.warning)
    }
}

fn told(url: &str, warning: Option<String>) -> Result<ExitCode, Failure> {
    if let Some(warning) = warning {
        note(&format!("boxyard: {warning}"));
    }
    print(url)
}
