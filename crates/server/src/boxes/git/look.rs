//! What has changed in a repository.

use super::super::output::Share;
use super::command::Command;
use super::failure::GitError;
use super::work::{GitWork, Said, is_missing, no_git};

/// What there is to see.
#[derive(Debug, Default)]
pub struct Looked {
    /// Git's own words.
    pub text: Vec<u8>,
    /// Whether there is more.
    pub truncated: bool,
    /// The text's share of what the server may hold. To be dropped when the text is.
    pub share: Share,
}

impl Looked {
    /// What was said, where git did as asked: outside of a repository there is nothing to see, as with the real service.
    fn of(said: Said) -> Result<Self, GitError> {
        if is_missing(said.code, &said.err) {
            return Err(no_git());
        }
        let Said { code, out, truncated, share, .. } = said;
        Ok(if code == 0 { Self { text: out, truncated, share } } else { Self::default() })
    }
}

impl GitWork {
    /// Files that have changed, are staged or unknown to git, in the short form that is made for programs.
    ///
    /// # Errors
    /// The folder is not there, the box has no git, or does not answer.
    pub async fn status(&self, folder: &str) -> Result<Looked, GitError> {
        let status = ["status", "--porcelain", "--untracked-files=normal"];
        Looked::of(self.run(Command::new(folder, status).only_reads()).await?)
    }

    /// What has changed in tracked files since the last commit.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    pub async fn diff(&self, folder: &str) -> Result<Looked, GitError> {
        let since = async |commit: &str| {
            let diff = ["diff", "--no-color", "--no-ext-diff", commit, "--"];
            self.run(Command::new(folder, diff).only_reads()).await
        };
        let said = since("HEAD").await?;
        if said.code == 0 || is_missing(said.code, &said.err) {
            return Looked::of(said);
        }
        // Before the first commit everything is new.
        let nothing = self.run(Command::new(folder, ["hash-object", "-t", "tree", "/dev/null"])).await?;
        let tree = nothing.line();
        if nothing.code != 0 || !is_object(&tree) {
            return Ok(Looked::default());
        }
        Looked::of(since(&tree).await?)
    }
}

/// Whether a text is the name of an object: 40 hexadecimal digits, or 64.
pub(super) fn is_object(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}
