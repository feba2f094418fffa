//! `boxyard git`: git in a box, and pull requests and issues of what is in it.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use reqwest::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::client::{Client, ClientOptions, box_argument};
use crate::failure::Failure;

mod config;
mod propose;
mod repository;
mod token;

pub(crate) use token::read as read_token;

#[derive(Debug, Subcommand)]
pub(crate) enum Git {
    /// Clone a repository into a box and print the folder in which it is
    Clone(repository::Clone),
    /// Print which files have changed, as git status --porcelain does
    Status(repository::Look),
    /// Print what has changed since the last commit, as a patch
    Diff(repository::Look),
    /// Commit what is staged, or all changes when nothing is, and print the commit's name
    Commit(repository::Commit),
    /// Push a branch
    Push(repository::Push),
    /// Check out a branch; one that there is not is made
    Checkout(repository::Checkout),
    /// Run git with any arguments, and end with its exit code
    Exec(repository::Exec),
    /// Make a pull request of the current branch on GitHub and print its address
    CreatePr(propose::CreatePr),
    /// Make an issue on GitHub and print its address
    CreateIssue(propose::CreateIssue),
    /// Change who commits in a box, and print it; set or remove the box's own token
    Config(config::Config),
}

/// Which box, which folder in it, and which server.
#[derive(Debug, Args)]
struct At {
    /// Id or name of the box
    #[arg(value_name = "BOX", value_parser = box_argument)]
    id: String,
    /// Folder of the repository, absolute or below /workspace/home
    #[arg(long, short = 'C', value_name = "DIR")]
    folder: Option<String>,
    #[command(flatten)]
    client: ClientOptions,
}

impl At {
    fn connect(&self) -> Result<Client, Failure> {
        self.client.connect()
    }

    /// Asks for something that may take long; Ctrl-C ends it in the box, too.
    async fn post<T: DeserializeOwned>(&self, what: &str, body: &impl Serialize) -> Result<T, Failure> {
        let client = self.connect()?;
        client.call_patiently(client.request(Method::POST, &[&self.id, "git", what]).json(body)).await
    }
}

impl Git {
    pub(crate) async fn run(self) -> Result<ExitCode, Failure> {
        match self {
            Self::Clone(clone) => clone.run().await,
            Self::Status(look) => look.status().await,
            Self::Diff(look) => look.diff().await,
            Self::Commit(commit) => commit.run().await,
            Self::Push(push) => push.run().await,
            Self::Checkout(checkout) => checkout.run().await,
            Self::Exec(exec) => exec.run().await.map_err(Failure::of_exec),
            Self::CreatePr(create) => create.run().await,
            Self::CreateIssue(create) => create.run().await,
            Self::Config(config) => config.run().await,
        }
    }
}
