//! Which status a failure of git is answered with.
//!
//! What is wrong with a repository, a login or the other side is a 4xx with git's own words. None is a 401, which clients take for a wrong key
//! of this API.

use boxyard_engine::ErrorKind;
use boxyard_engine::agent::AgentError;
use boxyard_proto::api::error::ErrorBody;
use boxyard_proto::wire::FailedKind;
use http::StatusCode;

use super::ApiError;
use crate::boxes::{GitError, Refusal};

/// The refusals of the git routes beside those of any route, for the OpenAPI document.
#[derive(Debug, utoipa::IntoResponses)]
#[expect(dead_code, reason = "only its derived description is used")]
pub enum GitRefusals {
    /// The other side wants a login, or another one.
    #[response(status = 403)]
    Denied(ErrorBody),
    /// The box does not answer, or GitHub does not.
    #[response(status = 502)]
    Unreachable(ErrorBody),
    /// Git took too long, and was ended.
    #[response(status = 504)]
    TimedOut(ErrorBody),
}

impl From<GitError> for ApiError {
    fn from(error: GitError) -> Self {
        let status = match &error {
            GitError::NoFolder(_) => StatusCode::BAD_REQUEST,
            GitError::Interrupted(_) => StatusCode::CONFLICT,
            GitError::TimedOut(_) => StatusCode::GATEWAY_TIMEOUT,
            GitError::Refused { kind, .. } => of_refusal(*kind),
            GitError::Leaving => return Self::leaving(),
            GitError::Agent(agent) => return Self::new(of_agent(agent), error.to_string()).because(&error),
            GitError::Box(_) => {
                let GitError::Box(error) = error else { return Self::leaving() };
                return error.into();
            }
        };
        Self::new(status, error.to_string())
    }
}

fn of_refusal(kind: Refusal) -> StatusCode {
    match kind {
        Refusal::NotRepository => StatusCode::BAD_REQUEST,
        Refusal::NotFound => StatusCode::NOT_FOUND,
        Refusal::Denied => StatusCode::FORBIDDEN,
        Refusal::Conflict => StatusCode::CONFLICT,
        Refusal::NoGit | Refusal::Other => StatusCode::UNPROCESSABLE_ENTITY,
        Refusal::TooOften => StatusCode::TOO_MANY_REQUESTS,
        Refusal::Unreachable => StatusCode::BAD_GATEWAY,
    }
}

fn of_agent(error: &AgentError) -> StatusCode {
    match error {
        AgentError::Refused { kind: FailedKind::NotAllowed | FailedKind::Invalid, .. } => StatusCode::BAD_REQUEST,
        AgentError::Refused { kind: FailedKind::Exhausted, .. } => StatusCode::SERVICE_UNAVAILABLE,
        AgentError::Engine(engine) if engine.kind == ErrorKind::Exhausted => StatusCode::SERVICE_UNAVAILABLE,
        AgentError::Engine(engine) if engine.kind == ErrorKind::NotFound => StatusCode::NOT_FOUND,
        AgentError::TooOld(_) => StatusCode::UNPROCESSABLE_ENTITY,
        AgentError::Refused { .. } | AgentError::Engine(_) | AgentError::Lost { .. } | AgentError::Protocol(_) => {
            StatusCode::BAD_GATEWAY
        }
    }
}
