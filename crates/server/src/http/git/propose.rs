//! Pull requests and issues.

use std::sync::Arc;

use axum::extract::State;
use boxyard_proto::api::git::{CreateIssue, CreatePullRequest, Issue, PullRequest};

use super::begin;
use crate::boxes::Proposal;
use crate::http::Http;
use crate::http::auth::Caller;
use crate::http::error::git::GitRefusals;
use crate::http::error::{ApiError, Refusals};
use crate::http::json::{Json, Path};

/// Makes a pull request on GitHub
///
/// Of the branch that is checked out, which must have been pushed, in the repository that `origin` names. The server asks GitHub, with the
/// request's token or else the box's own. When a pull request of the branch is open already it is answered, with a `warning`.
#[utoipa::path(post, path = "/v2/box/{id}/git/create-pr", tag = "git", params(("id" = String, Path, description = "Id or name of the box")),
    request_body = CreatePullRequest, responses((status = 200, body = PullRequest), Refusals, GitRefusals))]
pub(in crate::http) async fn create_pr(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Path(id): Path<String>,
    Json(request): Json<CreatePullRequest>,
) -> Result<axum::Json<PullRequest>, ApiError> {
    let CreatePullRequest { title, body, base, attach, folder, github_token } = request;
    let proposal = Proposal::check(title, body, attach, folder.as_deref(), github_token)?.onto(base)?;
    let made = begin(&http, &account, &id, "create-pr").await?.propose_merge(proposal).await?;
    let answer =
        PullRequest { url: made.url, number: made.number, title: made.title, base: made.base, warning: made.warning };
    Ok(axum::Json(answer))
}

/// Makes an issue on GitHub
///
/// In the repository that `origin` names. The server asks GitHub, with the request's token or else the box's own.
#[utoipa::path(post, path = "/v2/box/{id}/git/create-issue", tag = "git",
    params(("id" = String, Path, description = "Id or name of the box")), request_body = CreateIssue,
    responses((status = 200, body = Issue), Refusals, GitRefusals))]
pub(in crate::http) async fn create_issue(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Path(id): Path<String>,
    Json(request): Json<CreateIssue>,
) -> Result<axum::Json<Issue>, ApiError> {
    let CreateIssue { title, body, attach, folder, github_token } = request;
    let proposal = Proposal::check(title, body, attach, folder.as_deref(), github_token)?;
    let made = begin(&http, &account, &id, "create-issue").await?.propose_issue(proposal).await?;
    Ok(axum::Json(Issue { url: made.url, number: made.number, title: made.title, warning: made.warning }))
}
