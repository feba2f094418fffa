//! The only place that knows HTTP statuses: every refusal of every layer becomes one [`ApiError`].
//!
//! What a client may know is in the message; what went wrong underneath goes to the server's log, beside the request's id.

use std::error::Error as StdError;

use axum::Json;
use axum::response::{IntoResponse, Response};
use boxyard_engine::ErrorKind;
use boxyard_engine::agent::AgentError;
use boxyard_proto::api::error::ErrorBody;
use boxyard_proto::names::InvalidName;
use boxyard_proto::wire::FailedKind;
use http::{HeaderValue, StatusCode, header};

use crate::boxes::{BoxError, ContextError, Ending, InvalidOrder, RestoreError, chain};
use crate::ssh_keys::SshKeyError;
use crate::ssh_tokens::SshTokenError;
use crate::store::StoreError;

pub(super) mod files;
pub(super) mod git;

/// A refusal, as the client gets it.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    message: String,
    cause: Option<String>,
}

impl ApiError {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), cause: None }
    }

    fn because(mut self, cause: &(dyn StdError + 'static)) -> Self {
        self.cause = Some(chain(cause));
        self
    }

    /// The request is wrong; the message says what to change.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// No key, or one that opens nothing. Some clients look for these words.
    pub fn unauthorized(why: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, format!("unauthorized: {why}"))
    }

    /// There is nothing at this path.
    pub fn no_route() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "there is nothing at this path; schedules, public URLs and agents are not supported by this server yet; see /openapi.json",
        )
    }

    /// This server has no SSH door.
    pub fn no_ssh_door() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "this server's SSH door is off; its operator turns it on with the setting ssh, for example BOXYARD_SSH=0.0.0.0:2222",
        )
    }

    /// The path is right and the method is not.
    pub fn wrong_method() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "this path does not take that method; see /openapi.json")
    }

    /// The body did not arrive in time.
    pub fn slow_body() -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "the request's body did not arrive in time")
    }

    /// The body is longer than this server takes.
    pub fn body_too_long(cap: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the request's body is over the limit of {cap} bytes"))
    }

    /// There are too many long bodies at once.
    pub fn no_room_for_body() -> Self {
        let text = "the server is busy with other long request bodies (limits.body_budget); try again";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, text)
    }

    /// Whether it refuses a body for its length, or for that of all there are.
    pub(super) fn is_about_length(&self) -> bool {
        matches!(self.status, StatusCode::PAYLOAD_TOO_LARGE | StatusCode::SERVICE_UNAVAILABLE)
    }

    /// The path is for clients that speak WebSocket.
    pub fn upgrade_required(why: &str) -> Self {
        Self::new(StatusCode::UPGRADE_REQUIRED, format!("this path speaks WebSocket, version 13: {why}"))
    }

    /// An archive is longer than this server takes.
    pub fn archive_too_long(most: u64) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the archive is over the limit of {most} bytes"))
    }

    /// The request asks for something that this server does not do.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, message)
    }

    /// Something of ours failed.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// A run was begun under this idempotency key, and there is no answer of it to give.
    pub fn not_run_again(why: Option<&str>) -> Self {
        let why = why.unwrap_or("what it has written is not known any more");
        Self::new(
            StatusCode::CONFLICT,
            format!("{why}; it is not run again under this Idempotency-Key, take a new key for that"),
        )
    }

    /// The server is shutting down.
    pub fn leaving() -> Self {
        BoxError::Leaving.into()
    }

    /// A box could not be made.
    pub fn not_created(kind: ErrorKind, text: &str) -> Self {
        let status = match kind {
            ErrorKind::Exhausted => StatusCode::SERVICE_UNAVAILABLE,
            ErrorKind::Unsupported | ErrorKind::Invalid | ErrorKind::NotFound => StatusCode::UNPROCESSABLE_ENTITY,
            ErrorKind::Broken => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, format!("Box creation failed: {text}"))
    }

    /// What to answer when a run ended without an exit code; `None` when it ended with one.
    pub fn of_ending(ending: &Ending, folder: &str) -> Option<Self> {
        let failed = |text: &dyn std::fmt::Display| format!("Failed to execute command: {text}");
        match ending {
            Ending::Exited(_) | Ending::TimedOut(..) | Ending::Cancelled(_) => None,
            Ending::NotStarted(AgentError::Refused { kind, message }) => Some(match kind {
                FailedKind::NotFound => Self::bad_request(format!("folder '{folder}' does not exist in the box")),
                FailedKind::NotAllowed | FailedKind::Invalid => Self::bad_request(failed(message)),
                FailedKind::Exhausted => Self::new(StatusCode::SERVICE_UNAVAILABLE, failed(message)),
                FailedKind::Other => Self::internal(failed(message)),
            }),
            Ending::NotStarted(AgentError::Engine(error)) if error.kind == ErrorKind::Exhausted => {
                Some(Self::new(StatusCode::SERVICE_UNAVAILABLE, failed(&"the box is too busy to take another command")))
            }
            Ending::NotStarted(error) | Ending::Lost(error) => Some(Self::internal(failed(error)).because(error)),
            Ending::NotRecorded(error) => Some(Self::internal(failed(&"the server's database failed")).because(error)),
            Ending::BoxEnded => {
                Some(Self::new(StatusCode::NOT_FOUND, "Box not found: it was deleted or lost while the command ran"))
            }
            Ending::Stopped(_) => {
                Some(Self::new(StatusCode::CONFLICT, failed(&ending.complaint().unwrap_or_default())))
            }
            Ending::Unknown | Ending::Left => Some(Self::leaving()),
        }
    }

    /// The text that the client gets.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl From<InvalidName> for ApiError {
    fn from(error: InvalidName) -> Self {
        Self::bad_request(error.to_string())
    }
}

impl From<InvalidOrder> for ApiError {
    fn from(error: InvalidOrder) -> Self {
        Self::bad_request(error.to_string())
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        BoxError::Store(error).into()
    }
}

impl From<RestoreError> for ApiError {
    fn from(error: RestoreError) -> Self {
        match error {
            RestoreError::Invalid(error) => error.into(),
            RestoreError::Box(error) => error.into(),
        }
    }
}

impl From<ContextError> for ApiError {
    fn from(error: ContextError) -> Self {
        let status = match error {
            ContextError::Box(error) => return error.into(),
            ContextError::NotFound => StatusCode::NOT_FOUND,
            ContextError::Over { .. } => StatusCode::GONE,
            ContextError::TooMany(_) | ContextError::QueueFull => StatusCode::TOO_MANY_REQUESTS,
            ContextError::Superseded => StatusCode::CONFLICT,
            ContextError::NoFolder(_) => StatusCode::BAD_REQUEST,
            ContextError::Unfit(_) => StatusCode::UNPROCESSABLE_ENTITY,
            ContextError::Exhausted(_) => StatusCode::SERVICE_UNAVAILABLE,
            ContextError::Broken(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}

impl From<SshKeyError> for ApiError {
    fn from(error: SshKeyError) -> Self {
        let status = match error {
            SshKeyError::Invalid(_) => StatusCode::BAD_REQUEST,
            SshKeyError::TooMany => StatusCode::TOO_MANY_REQUESTS,
            SshKeyError::NotFound => StatusCode::NOT_FOUND,
            SshKeyError::Store(error) => return error.into(),
        };
        Self::new(status, error.to_string())
    }
}

impl From<SshTokenError> for ApiError {
    fn from(error: SshTokenError) -> Self {
        let status = match error {
            SshTokenError::Lifetime | SshTokenError::Label(_) => StatusCode::BAD_REQUEST,
            SshTokenError::TooMany => StatusCode::TOO_MANY_REQUESTS,
            SshTokenError::BoxNotFound | SshTokenError::NotFound => StatusCode::NOT_FOUND,
            SshTokenError::Store(error) => return error.into(),
        };
        Self::new(status, error.to_string())
    }
}

impl From<BoxError> for ApiError {
    fn from(error: BoxError) -> Self {
        let status = match &error {
            BoxError::NotFound
            | BoxError::RunNotFound
            | BoxError::OutputUnknown
            | BoxError::LabelMissing
            | BoxError::SnapshotNotFound => StatusCode::NOT_FOUND,
            BoxError::ClaimDiffers => StatusCode::UNPROCESSABLE_ENTITY,
            // A sixth label is a broken rule of the request, as it is when a box is created with six.
            BoxError::LabelsFull | BoxError::Env(_) | BoxError::Runtime(_) | BoxError::Size(_) => {
                StatusCode::BAD_REQUEST
            }
            BoxError::NameTaken(_)
            | BoxError::LabelTaken
            | BoxError::RunEnded(_)
            | BoxError::KeptAlive
            | BoxError::Failed { .. } => StatusCode::CONFLICT,
            BoxError::Undone { kind, .. } => match kind {
                ErrorKind::Exhausted => StatusCode::SERVICE_UNAVAILABLE,
                ErrorKind::Unsupported | ErrorKind::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
                ErrorKind::NotFound | ErrorKind::Broken => StatusCode::INTERNAL_SERVER_ERROR,
            },
            BoxError::Full(full) if full.is_of_host() => StatusCode::SERVICE_UNAVAILABLE,
            BoxError::Full(_)
            | BoxError::TooManyRuns(_)
            | BoxError::TooManySnapshots(_)
            | BoxError::TooManyTransfers => StatusCode::TOO_MANY_REQUESTS,
            BoxError::NotUnpacked { kind: ErrorKind::Invalid, .. } => StatusCode::BAD_REQUEST,
            BoxError::NotPacked { kind, .. } | BoxError::NotUnpacked { kind, .. } => match kind {
                ErrorKind::Exhausted => StatusCode::SERVICE_UNAVAILABLE,
                ErrorKind::Unsupported | ErrorKind::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
                ErrorKind::NotFound | ErrorKind::Broken => StatusCode::INTERNAL_SERVER_ERROR,
            },
            BoxError::Usage(_) => StatusCode::INTERNAL_SERVER_ERROR,
            BoxError::SnapshotNotReady(_) => StatusCode::CONFLICT,
            BoxError::NotSaved { kind: ErrorKind::Exhausted, .. } => StatusCode::SERVICE_UNAVAILABLE,
            BoxError::NotSaved { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            BoxError::Busy | BoxError::Leaving | BoxError::Store(StoreError::Busy | StoreError::Closed) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            BoxError::Store(
                StoreError::NameTaken
                | StoreError::IdTaken
                | StoreError::NotFound
                | StoreError::Full
                | StoreError::Newer { .. }
                | StoreError::Broken { .. },
            ) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let answer = Self::new(status, error.to_string());
        // A full host is no failure, and has no cause underneath.
        let failed = status.is_server_error() && !matches!(error, BoxError::Full(_));
        if failed { answer.because(&error) } else { answer }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        if self.status.is_server_error() {
            let cause = self.cause.as_deref().unwrap_or_default();
            tracing::error!(status = self.status.as_u16(), message = self.message, cause, "a request failed");
        }
        let mut response = (self.status, Json(ErrorBody { error: self.message })).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.status == StatusCode::UPGRADE_REQUIRED {
            response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        }
        response
    }
}

/// The refusals that any route may answer with, for the OpenAPI document.
#[derive(Debug, utoipa::IntoResponses)]
#[expect(dead_code, reason = "only its derived description is used")]
pub enum Refusals {
    /// The request is wrong; the text says what to change.
    #[response(status = 400)]
    BadRequest(ErrorBody),
    /// The API key is missing or unknown.
    #[response(status = 401)]
    Unauthorized(ErrorBody),
    /// There is no such box, or nothing of that name in it.
    #[response(status = 404)]
    NotFound(ErrorBody),
    /// It is not possible as things are, for example because a name is taken.
    #[response(status = 409)]
    Conflict(ErrorBody),
    /// The request's body is too long.
    #[response(status = 413)]
    TooLong(ErrorBody),
    /// This server does not do that.
    #[response(status = 422)]
    Unsupported(ErrorBody),
    /// A limit is reached.
    #[response(status = 429)]
    TooMany(ErrorBody),
    /// Something of the server's failed.
    #[response(status = 500)]
    Failed(ErrorBody),
    /// Not now; later perhaps.
    #[response(status = 503)]
    Unavailable(ErrorBody),
}
