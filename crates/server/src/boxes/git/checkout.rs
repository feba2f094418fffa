//! Checking out.

use super::super::InvalidOrder;
use super::super::order::folder_of;
use super::command::Command;
use super::failure::GitError;
use super::names::{check_revision, is_branch};
use super::told;
use super::work::GitWork;

/// What git says of a name that it does not know.
const UNKNOWN: &[u8] = b"did not match any file(s) known to git";

/// What to check out. Everything in it has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkout {
    what: String,
    folder: String,
}

impl Checkout {
    /// Checks what was asked for.
    ///
    /// # Errors
    /// Says what is wrong.
    pub fn check(branch: Option<String>, folder: Option<&str>) -> Result<Self, InvalidOrder> {
        let what = branch.filter(|branch| !branch.is_empty());
        let what = what.ok_or_else(|| InvalidOrder("branch is required: what to check out".into()))?;
        check_revision(&what)?;
        Ok(Self { what, folder: folder_of(folder)? })
    }
}

impl GitWork {
    /// Checks something out: a branch, which is made where git knows nothing of that name, a tag, a commit; of a file the version in the
    /// index, as the real service does. Says whether a branch was made.
    ///
    /// # Errors
    /// What git says.
    pub async fn checkout(&self, checkout: &Checkout) -> Result<bool, GitError> {
        let Checkout { what, folder } = checkout;
        let said = self.run(Command::new(folder, ["checkout", what])).await?;
        if said.code == 0 {
            return Ok(false);
        }
        if is_branch(what) && said.err.windows(UNKNOWN.len()).any(|words| words == UNKNOWN) {
            self.succeed(Command::new(folder, ["checkout", "-b", what])).await?;
            return Ok(true);
        }
        Err(told::refusal(&said))
    }
}
