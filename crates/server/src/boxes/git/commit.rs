//! Committing.

use boxyard_proto::api::git::COMMIT_MESSAGE_MAX;

use super::super::InvalidOrder;
use super::super::order::folder_of;
use super::command::Command;
use super::failure::GitError;
use super::look::is_object;
use super::names::check_person;
use super::told;
use super::work::GitWork;

/// A commit to make. Everything in it has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    message: String,
    name: Option<String>,
    email: Option<String>,
    folder: String,
}

/// A commit that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// Its name.
    pub sha: String,
    /// Its message.
    pub message: String,
}

impl Commit {
    /// Checks what was asked for.
    ///
    /// # Errors
    /// Says what is wrong.
    pub fn check(
        message: Option<String>,
        name: Option<String>,
        email: Option<String>,
        folder: Option<&str>,
    ) -> Result<Self, InvalidOrder> {
        let message = message.filter(|message| !message.trim().is_empty());
        let message = message.ok_or_else(|| InvalidOrder("message is required: what the commit is about".into()))?;
        if message.len() > COMMIT_MESSAGE_MAX || message.contains('\0') {
            return Err(InvalidOrder(format!("message must have at most {COMMIT_MESSAGE_MAX} bytes and no NUL byte")));
        }
        Ok(Self {
            message,
            name: check_person(name, "author_name")?,
            email: check_person(email, "author_email")?,
            folder: folder_of(folder)?,
        })
    }
}

impl GitWork {
    /// Commits what is staged, or all that has changed when nothing is.
    ///
    /// # Errors
    /// What git says: that there is nothing to commit, for example.
    pub async fn commit(&self, commit: &Commit) -> Result<Committed, GitError> {
        let folder = commit.folder.as_str();
        self.succeed(Command::new(folder, ["rev-parse", "--git-dir"])).await?;
        // 0 when there is no difference, 1 when there is one.
        let staged = self.run(Command::new(folder, ["diff", "--cached", "--quiet"])).await?;
        match staged.code {
            0 => drop(self.succeed(Command::new(folder, ["add", "--all"])).await?),
            1 => {}
            _ => return Err(told::refusal(&staged)),
        }
        let mut command = Command::new(folder, ["commit".to_owned(), format!("--message={}", commit.message)]);
        for (name, value) in [("GIT_AUTHOR_NAME", &commit.name), ("GIT_AUTHOR_EMAIL", &commit.email)] {
            if let Some(value) = value {
                command = command.variable(name, value);
            }
        }
        self.succeed(command).await?;
        let made = ["log", "-1", "--no-show-signature", "--no-color", "--format=%H%n%B"];
        let said = self.succeed(Command::new(folder, made)).await?;
        let text = String::from_utf8_lossy(&said.out);
        let (sha, message) = text.split_once('\n').unwrap_or((&text, ""));
        if !is_object(sha) {
            return Err(told::refusal(&said));
        }
        Ok(Committed { sha: sha.to_owned(), message: message.trim_end().to_owned() })
    }
}
