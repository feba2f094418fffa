//! Cloning a repository into a box.

use super::super::InvalidOrder;
use super::super::order::{WORKSPACE, folder_of};
use super::address::Repository;
use super::command::Command;
use super::failure::{GitError, Refusal};
use super::names::check_branch;
use super::token::{Credentials, Token};
use super::told;
use super::work::GitWork;

/// What git says of a folder that it does not clone into.
const NOT_EMPTY: &[u8] = b"already exists and is not an empty directory";
/// Commits of history at most: git counts no further.
const DEPTH_MAX: u32 = i32::MAX.unsigned_abs();

/// A clone to make. Everything in it has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cloning {
    repository: Repository,
    branch: Option<String>,
    depth: Option<u32>,
    folder: Option<String>,
    token: Option<Token>,
}

impl Cloning {
    /// Checks what was asked for.
    ///
    /// # Errors
    /// Says what is wrong.
    pub fn check(
        repo: &str,
        branch: Option<String>,
        depth: Option<u32>,
        folder: Option<&str>,
        token: Option<String>,
    ) -> Result<Self, InvalidOrder> {
        let repository = Repository::parse(repo)?;
        let branch = branch.filter(|branch| !branch.is_empty());
        if let Some(branch) = &branch {
            check_branch(branch, "branch")?;
        }
        if depth.is_some_and(|depth| !(1..=DEPTH_MAX).contains(&depth)) {
            return Err(InvalidOrder(format!("depth must be 1 to {DEPTH_MAX}; leave it out for all of the history")));
        }
        let folder = folder.filter(|folder| !folder.is_empty()).map(|folder| folder_of(Some(folder))).transpose()?;
        Ok(Self { repository, branch, depth, folder, token: Token::check(token)? })
    }

    fn command(&self, into: &str, credentials: Option<Credentials>) -> Command {
        let mut args = vec!["clone".to_owned()];
        if let Some(branch) = &self.branch {
            args.extend(["--branch".to_owned(), branch.clone()]);
        }
        if let Some(depth) = self.depth {
            args.extend(["--depth".to_owned(), depth.to_string()]);
        }
        args.extend(["--".to_owned(), self.repository.address().to_owned(), into.to_owned()]);
        Command::new(WORKSPACE, args).credentials(credentials)
    }
}

impl GitWork {
    /// Clones a repository and returns the folder in which it is.
    ///
    /// # Errors
    /// What git says, or it took too long; nothing is left of it then.
    pub async fn clone_repository(&self, clone: &Cloning) -> Result<String, GitError> {
        let credentials = self.credentials_of_clone(clone).await?;
        let within = |folder: &str| format!("{}/{}", folder.trim_end_matches('/'), clone.repository.name());
        let into = clone.folder.clone().unwrap_or_else(|| within(WORKSPACE));
        let said = self.run(clone.command(&into, credentials.clone())).await?;
        if said.code == 0 {
            return Ok(into);
        }
        // The folder that a client is in is sent as this, too.
        if clone.folder.is_some() && said.err.windows(NOT_EMPTY.len()).any(|words| words == NOT_EMPTY) {
            let into = within(&into);
            self.succeed(clone.command(&into, credentials)).await?;
            return Ok(into);
        }
        let error = told::refusal(&said);
        let unsent = credentials.is_none() && clone.token.is_some() && error.is(Refusal::Denied);
        if unsent && let GitError::Refused { kind, text } = error {
            let hint = "the token was not sent: only over https is it, and over http to hosts that the server's operator names";
            return Err(GitError::refused(kind, format!("{text}\n{hint}")));
        }
        Err(error)
    }

    /// A token that was sent goes to the repository's own host. Clients send the box's own one with every clone: that goes where it goes
    /// otherwise.
    async fn credentials_of_clone(&self, clone: &Cloning) -> Result<Option<Credentials>, GitError> {
        let own = self.token(None).await?;
        let Some(token) = clone.token.clone().filter(|token| own.as_ref() != Some(token)) else {
            return self.credentials(own).await;
        };
        let origin = clone.repository.origin_for_token(&self.boxes.yard.git.github_hosts);
        Ok(origin.map(|origin| Credentials { token, origins: vec![origin] }))
    }
}
