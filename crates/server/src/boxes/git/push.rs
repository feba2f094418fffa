//! Pushing.

use super::super::InvalidOrder;
use super::super::order::folder_of;
use super::command::Command;
use super::failure::{GitError, Refusal};
use super::names::{check_branch, is_branch};
use super::token::Token;
use super::work::GitWork;

/// Where a branch goes that has no upstream.
const ORIGIN: &str = "origin";

/// A push to make. Everything in it has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Push {
    branch: Option<String>,
    folder: String,
    token: Option<Token>,
}

impl Push {
    /// Checks what was asked for.
    ///
    /// # Errors
    /// Says what is wrong.
    pub fn check(branch: Option<String>, folder: Option<&str>, token: Option<String>) -> Result<Self, InvalidOrder> {
        let branch = branch.filter(|branch| !branch.is_empty());
        if let Some(branch) = &branch {
            check_branch(branch, "branch")?;
        }
        Ok(Self { branch, folder: folder_of(folder)?, token: Token::check(token)? })
    }
}

impl GitWork {
    /// Pushes a branch, and says which and whereto.
    ///
    /// # Errors
    /// What git says.
    pub async fn push(&self, push: &Push) -> Result<String, GitError> {
        let folder = push.folder.as_str();
        let (args, done) = match &push.branch {
            Some(branch) => {
                let local = format!("refs/heads/{branch}");
                let known = ["show-ref", "--verify", "--quiet", &local];
                let is_local = self.run(Command::new(folder, known)).await?.code == 0;
                let from = if is_local { local.as_str() } else { "HEAD" };
                (vec![ORIGIN.to_owned(), format!("{from}:{local}")], format!("Pushed {branch} to {ORIGIN}"))
            }
            None => self.upstream(folder).await?,
        };
        let begin = ["push".to_owned()];
        let command = Command::new(folder, begin.into_iter().chain(args));
        self.succeed(command.credentials(self.credentials(push.token.clone()).await?)).await?;
        Ok(done)
    }

    /// The branch that is checked out.
    pub(super) async fn current_branch(&self, folder: &str) -> Result<String, GitError> {
        self.succeed(Command::new(folder, ["rev-parse", "--git-dir"])).await?;
        let said = self.run(Command::new(folder, ["symbolic-ref", "--quiet", "--short", "HEAD"])).await?;
        let branch = said.line();
        if said.code != 0 || !is_branch(&branch) {
            let text = "no branch is checked out: check one out, or say which is meant";
            return Err(GitError::refused(Refusal::Conflict, text));
        }
        Ok(branch)
    }

    /// What pushes the current branch to its upstream.
    async fn upstream(&self, folder: &str) -> Result<(Vec<String>, String), GitError> {
        let branch = self.current_branch(folder).await?;
        let local = format!("refs/heads/{branch}");
        let format = "--format=%(upstream:remotename)%0a%(upstream:remoteref)";
        let said = self.succeed(Command::new(folder, ["for-each-ref", format, "--", &local])).await?;
        let text = String::from_utf8_lossy(&said.out).into_owned();
        let (remote, reference) = text.trim_end_matches('\n').split_once('\n').unwrap_or_default();
        let done = |remote: &str| format!("Pushed {branch} to {remote}");
        if remote.is_empty() || reference.is_empty() {
            let args = vec!["--set-upstream".into(), "--".into(), ORIGIN.into(), format!("{local}:{local}")];
            return Ok((args, done(ORIGIN)));
        }
        Ok((vec!["--".into(), remote.to_owned(), format!("{local}:{reference}")], done(remote)))
    }
}
