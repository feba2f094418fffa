//! Which status a failure with a box's files is answered with.
//!
//! What a client asks wrongly is never a 500, and a box that lies or stays silent is a 502: it is neither the client's fault nor ours.

use boxyard_engine::ErrorKind;
use boxyard_engine::agent::AgentError;
use boxyard_engine::agent::files::FilesError;
use boxyard_proto::api::error::ErrorBody;
use boxyard_proto::files::Failure;
use boxyard_proto::wire::FailedKind;
use http::StatusCode;

use super::ApiError;
use crate::boxes::{FileError, FilePath};

/// Characters of a path that a refusal shows.
const SHOWN_MAX: usize = 500;

/// The refusals of the files routes beside those of any route, for the OpenAPI document.
#[derive(Debug, utoipa::IntoResponses)]
#[expect(dead_code, reason = "only its derived description is used")]
pub enum FileRefusals {
    /// The box's user may not, or the path leads out of the folders that may be used; the text begins with `permission denied`.
    #[response(status = 403)]
    Denied(ErrorBody),
    /// The client was silent for too long in the middle of a body.
    #[response(status = 408)]
    Slow(ErrorBody),
    /// The box does not answer, or answers nonsense.
    #[response(status = 502)]
    Box(ErrorBody),
    /// The box's disk is full.
    #[response(status = 507)]
    NoSpace(ErrorBody),
}

/// What to answer when something about `path` failed.
pub(crate) fn about(path: &FilePath) -> impl Fn(FileError) -> ApiError {
    move |error| refusal(error, Some(path.shown()))
}

/// What to answer when something failed that is about these words.
pub(crate) fn about_words(words: String) -> impl Fn(FileError) -> ApiError {
    move |error| refusal(error, Some(words.clone()))
}

impl ApiError {
    /// It is not possible as things are.
    pub(crate) fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, message)
    }

    /// A file is longer than can be answered so.
    pub(crate) fn file_too_long(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    }

    /// A file has nothing in the range that is asked for.
    pub(crate) fn no_such_range(message: impl Into<String>) -> Self {
        Self::new(StatusCode::RANGE_NOT_SATISFIABLE, message)
    }
}

impl From<FileError> for ApiError {
    fn from(error: FileError) -> Self {
        refusal(error, None)
    }
}

fn refusal(error: FileError, about: Option<String>) -> ApiError {
    match error {
        FileError::Box(error) => error.into(),
        FileError::Interrupted(text) => ApiError::new(StatusCode::CONFLICT, text),
        FileError::Leaving => ApiError::leaving(),
        FileError::Files(FilesError::Refused { kind, message }) => {
            let about: Option<String> = about.map(|about| about.chars().take(SHOWN_MAX).collect());
            ApiError::new(status(kind), text(kind, about.as_deref(), &message))
        }
        FileError::Files(FilesError::Agent(error)) => of_agent(error),
    }
}

fn status(kind: Failure) -> StatusCode {
    match kind {
        Failure::NotFound => StatusCode::NOT_FOUND,
        Failure::Denied => StatusCode::FORBIDDEN,
        Failure::Exists | Failure::NotEmpty | Failure::Other => StatusCode::CONFLICT,
        Failure::IsFolder | Failure::NotFolder | Failure::Special | Failure::Invalid => StatusCode::BAD_REQUEST,
        Failure::NoSpace => StatusCode::INSUFFICIENT_STORAGE,
    }
}

fn text(kind: Failure, about: Option<&str>, message: &str) -> String {
    // Clients look for these words.
    let words = match kind {
        Failure::Denied => Some("permission denied"),
        Failure::NotFound => Some("not found"),
        Failure::Exists
        | Failure::IsFolder
        | Failure::NotFolder
        | Failure::NotEmpty
        | Failure::Special
        | Failure::NoSpace
        | Failure::Invalid
        | Failure::Other => None,
    };
    let said = Some(message).filter(|message| Some(*message) != words);
    [words, about, said].into_iter().flatten().collect::<Vec<_>>().join(": ")
}

fn of_agent(error: AgentError) -> ApiError {
    match &error {
        AgentError::Refused { kind: FailedKind::Exhausted, message } => {
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message.clone())
        }
        AgentError::Engine(engine) if engine.kind == ErrorKind::Exhausted => {
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the box is too busy to take more work")
        }
        AgentError::Engine(engine) if engine.kind == ErrorKind::NotFound => {
            ApiError::new(StatusCode::NOT_FOUND, "Box not found: it was deleted or lost")
        }
        AgentError::TooOld(_) => ApiError::unsupported(error.to_string()),
        AgentError::Engine(_) | AgentError::Refused { .. } | AgentError::Lost { .. } | AgentError::Protocol(_) => {
            ApiError::new(StatusCode::BAD_GATEWAY, error.to_string()).because(&error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_find_the_words_that_they_look_for() {
        let path = FilePath::new(b"/etc/x").expect("a path");
        let refused = |kind, message: &str| {
            about(&path)(FileError::Files(FilesError::refused(kind, message))).message().to_owned()
        };
        assert_eq!(refused(Failure::Denied, "permission denied"), "permission denied: /etc/x");
        assert_eq!(
            refused(Failure::Denied, "the path leads out of the folders that may be used"),
            "permission denied: /etc/x: the path leads out of the folders that may be used"
        );
        assert_eq!(refused(Failure::NotFound, "there is no such file"), "not found: /etc/x: there is no such file");
        assert_eq!(refused(Failure::IsFolder, "this is a folder"), "/etc/x: this is a folder");
    }
}
