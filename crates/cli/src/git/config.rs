//! Who commits in a box, and the box's own token.

use std::path::PathBuf;
use std::process::ExitCode;

use boxyard_proto::api::git::{GitConfig, GitConfigRequest};
use clap::{ArgGroup, Args};
use reqwest::Method;

use super::token;
use crate::client::{ClientOptions, box_argument};
use crate::failure::Failure;
use crate::output::print;

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true).multiple(true))]
pub(crate) struct Config {
    /// Id or name of the box
    #[arg(value_name = "BOX", value_parser = box_argument)]
    id: String,
    /// Name of who commits in the box
    #[arg(long, value_name = "NAME", group = "what")]
    name: Option<String>,
    /// Address of who commits in the box
    #[arg(long, value_name = "ADDRESS", group = "what")]
    email: Option<String>,
    /// File with a token for GitHub that the server is to keep for the box, - for standard input
    #[arg(long, value_name = "FILE", group = "what")]
    token_file: Option<PathBuf>,
    /// Remove the box's own token
    #[arg(long, group = "what", conflicts_with = "token_file")]
    forget_token: bool,
    #[command(flatten)]
    client: ClientOptions,
}

impl Config {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let given = self.token_file.as_deref().map(token::read).transpose()?;
        let body = GitConfigRequest {
            git_user_name: self.name,
            git_user_email: self.email,
            github_token: given.or_else(|| self.forget_token.then(String::new)),
        };
        let client = self.client.connect()?;
        let request = client.request(Method::PUT, &[&self.id, "config", "git"]).json(&body);
        let GitConfig { git_user_name, git_user_email } = client.call(request).await?;
        print(&format!("{git_user_name} <{git_user_email}>"))
    }
}
