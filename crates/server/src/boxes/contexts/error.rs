//! Why contexts do not do as asked.

use boxyard_engine::ErrorKind;
use boxyard_engine::agent::AgentError;
use boxyard_proto::ContextId;
use boxyard_proto::wire::FailedKind;

use super::context::{Facts, QUEUE_MAX};
use super::course::Over;
use super::interpreter::NotStarted;
use crate::boxes::BoxError;

/// Why contexts did not do as asked. Texts are fit for users.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    /// The box takes no work.
    #[error(transparent)]
    Box(#[from] BoxError),
    /// The box has no such context.
    #[error("Context not found; contexts end with the server and with their box's processes")]
    NotFound,
    /// There was one, and it has ended.
    #[error("context {id} is over: {why}; make a new one")]
    Over {
        /// Which.
        id: ContextId,
        /// Why.
        why: String,
    },
    /// The box has as many as it may have.
    #[error("the limit of {0} contexts in one box is reached; delete one first")]
    TooMany(usize),
    /// As much code waits for its turn as may.
    #[error("{QUEUE_MAX} pieces of code wait in this context already; wait for some, or use another context")]
    QueueFull,
    /// The context was restarted before the code's turn came.
    #[error("the context was started anew before this code's turn came; it was not run")]
    Superseded,
    /// The folder that it is to be started in is not there.
    #[error("folder '{0}' does not exist in the box")]
    NoFolder(String),
    /// Its interpreter cannot be started in this box as it is.
    #[error("the context could not be started: {0}")]
    Unfit(String),
    /// The box has no room for another process.
    #[error("the context could not be started: {0}")]
    Exhausted(String),
    /// The box did not do as asked.
    #[error("the context could not be started: {0}")]
    Broken(String),
}

impl ContextError {
    pub(super) fn of_over(id: &ContextId, over: &Over) -> Self {
        match over {
            Over::Leaving => Self::Box(BoxError::Leaving),
            Over::Because(why) => Self::Over { id: id.clone(), why: why.clone() },
        }
    }

    pub(super) fn of_start(error: NotStarted, facts: &Facts) -> Self {
        if error.is_about_folder() {
            return Self::NoFolder(facts.folder.clone());
        }
        let text = error.to_string();
        match error {
            NotStarted::Box(error) => Self::Box(error),
            NotStarted::Agent(AgentError::Engine(error)) if error.kind == ErrorKind::Exhausted => Self::Exhausted(text),
            NotStarted::Agent(AgentError::Refused { kind, .. }) => match kind {
                FailedKind::Exhausted => Self::Exhausted(text),
                FailedKind::NotFound | FailedKind::NotAllowed | FailedKind::Invalid => Self::Unfit(text),
                FailedKind::Other => Self::Broken(text),
            },
            NotStarted::Agent(_) => Self::Broken(text),
            NotStarted::Ended(_) | NotStarted::Broken(_) | NotStarted::Slow => Self::Unfit(text),
        }
    }
}
