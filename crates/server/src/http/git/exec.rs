//! Git with any arguments.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use boxyard_proto::api::git::{GitExecRequest, GitExecResult};

use super::{begin, text};
use crate::boxes::{Ran, Raw};
use crate::http::Http;
use crate::http::auth::Caller;
use crate::http::error::git::GitRefusals;
use crate::http::error::{ApiError, Refusals};
use crate::http::json::{Json, Path};

/// Runs git
///
/// The answer is 200 whatever the exit code. Nobody is there to be asked: git says what it lacks, and an editor leaves texts as they are. The
/// box's own token is there for fetch, pull, push and the like from and to GitHub.
#[utoipa::path(post, path = "/v2/box/{id}/git/exec", tag = "git", params(("id" = String, Path, description = "Id or name of the box")),
    request_body = GitExecRequest, responses((status = 200, body = GitExecResult), Refusals, GitRefusals))]
pub(in crate::http) async fn exec(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Path(id): Path<String>,
    Json(request): Json<GitExecRequest>,
) -> Result<Response, ApiError> {
    let raw = Raw::check(request.args, request.folder.as_deref())?;
    let Ran { code, output, truncated, share } = begin(&http, &account, &id, "exec").await?.raw(&raw).await?;
    Ok(text::answer("output", output, Some(code), truncated, share))
}
