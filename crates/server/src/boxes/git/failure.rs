//! Why git did not do as asked.

use std::time::Duration;

use boxyard_engine::agent::AgentError;

use super::super::BoxError;
use crate::store::StoreError;

/// What sort of no it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The folder is in no repository.
    NotRepository,
    /// There is no such repository, branch or commit.
    NotFound,
    /// The other side wants a login, or another one.
    Denied,
    /// It is not possible as things are.
    Conflict,
    /// The box has no git.
    NoGit,
    /// The other side wants to be asked less often.
    TooOften,
    /// The other side is out of order.
    Unreachable,
    /// Anything else that git or GitHub says.
    Other,
}

/// Why git did not do as asked. Texts are fit for users, and have no secret in them.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// The box takes no work.
    #[error(transparent)]
    Box(#[from] BoxError),
    /// Git could not be started, or the box does not answer.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The folder is not there.
    #[error("folder '{0}' does not exist in the box")]
    NoFolder(String),
    /// The box was deleted, paused or lost meanwhile.
    #[error("{0}")]
    Interrupted(String),
    /// It took too long, and was ended.
    #[error("git did not end within {} s, which is the limit of this server (git.timeout), and was ended", .0.as_secs())]
    TimedOut(Duration),
    /// Git or GitHub said no.
    #[error("{text}")]
    Refused {
        /// What sort of no.
        kind: Refusal,
        /// In whose words ever.
        text: String,
    },
    /// The server is shutting down.
    #[error("the server is shutting down")]
    Leaving,
}

impl GitError {
    pub(super) fn refused(kind: Refusal, text: impl Into<String>) -> Self {
        Self::Refused { kind, text: text.into() }
    }

    pub(super) fn is(&self, wanted: Refusal) -> bool {
        matches!(self, Self::Refused { kind, .. } if *kind == wanted)
    }
}

impl From<StoreError> for GitError {
    fn from(error: StoreError) -> Self {
        Self::Box(error.into())
    }
}
