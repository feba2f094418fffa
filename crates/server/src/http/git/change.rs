//! Commit, push, checkout.

use std::sync::Arc;

use axum::extract::State;
use boxyard_proto::api::boxes::MessageBody;
use boxyard_proto::api::git::{CheckoutRequest, CommitRequest, GitCommit, PushRequest};

use super::begin;
use crate::boxes::{Checkout, Commit, Push};
use crate::http::Http;
use crate::http::auth::Caller;
use crate::http::error::git::GitRefusals;
use crate::http::error::{ApiError, Refusals};
use crate::http::json::{Json, Path};

/// Commits
///
/// What is staged, or when nothing is, all that has changed. The author is who commits in the box unless the request names another.
#[utoipa::path(post, path = "/v2/box/{id}/git/commit", tag = "git", params(("id" = String, Path, description = "Id or name of the box")),
    request_body = CommitRequest, responses((status = 200, body = GitCommit), Refusals, GitRefusals))]
pub(in crate::http) async fn commit(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Path(id): Path<String>,
    Json(request): Json<CommitRequest>,
) -> Result<axum::Json<GitCommit>, ApiError> {
    let CommitRequest { message, author_name, author_email, folder } = request;
    let commit = Commit::check(message, author_name, author_email, folder.as_deref())?;
    let made = begin(&http, &account, &id, "commit").await?.commit(&commit).await?;
    Ok(axum::Json(GitCommit { sha: made.sha, message: made.message }))
}

/// Pushes a branch
///
/// Without `branch` the current one goes to its upstream, and gets `origin` for one if it has none. GitHub gets the request's token, or else the
/// box's own.
#[utoipa::path(post, path = "/v2/box/{id}/git/push", tag = "git", params(("id" = String, Path, description = "Id or name of the box")),
    request_body = PushRequest, responses((status = 200, body = MessageBody), Refusals, GitRefusals))]
pub(in crate::http) async fn push(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Path(id): Path<String>,
    Json(request): Json<PushRequest>,
) -> Result<axum::Json<MessageBody>, ApiError> {
    let PushRequest { branch, folder, github_token } = request;
    let push = Push::check(branch, folder.as_deref(), github_token)?;
    let message = begin(&http, &account, &id, "push").await?.push(&push).await?;
    Ok(axum::Json(MessageBody { message }))
}

/// Checks out a branch
///
/// One that git knows nothing of is made. A tag or a commit is checked out as well, and a file is restored.
#[utoipa::path(post, path = "/v2/box/{id}/git/checkout", tag = "git", params(("id" = String, Path, description = "Id or name of the box")),
    request_body = CheckoutRequest, responses((status = 200, body = MessageBody), Refusals, GitRefusals))]
pub(in crate::http) async fn checkout(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Path(id): Path<String>,
    Json(request): Json<CheckoutRequest>,
) -> Result<axum::Json<MessageBody>, ApiError> {
    let checkout = Checkout::check(request.branch, request.folder.as_deref())?;
    let made = begin(&http, &account, &id, "checkout").await?.checkout(&checkout).await?;
    let message = if made { "Branch created and checked out" } else { "Checked out" };
    Ok(axum::Json(MessageBody { message: message.into() }))
}
