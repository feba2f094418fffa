//! Who commits in a box, and the box's own token.

use std::sync::Arc;

use axum::extract::State;
use boxyard_proto::AccountId;
use boxyard_proto::api::git::{GitConfig, GitConfigRequest};

use super::begin;
use crate::boxes::{Identity, Token};
use crate::http::Http;
use crate::http::auth::Caller;
use crate::http::error::git::GitRefusals;
use crate::http::error::{ApiError, Refusals};
use crate::http::json::{Json, Path};

/// Changes who commits in a box
///
/// What is left out stays as it is. With `github_token` the box's own token is set, which no call shows, or removed when that is empty.
#[utoipa::path(put, path = "/v2/box/{id}/config/git", tag = "git", params(("id" = String, Path, description = "Id or name of the box")),
    request_body = GitConfigRequest, responses((status = 200, body = GitConfig), Refusals, GitRefusals))]
pub(in crate::http) async fn config(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Path(id): Path<String>,
    Json(request): Json<GitConfigRequest>,
) -> Result<axum::Json<GitConfig>, ApiError> {
    change(&http, &account, &id, request).await
}

/// Changes who commits in a box, for older clients
///
/// The same as `PUT /v2/box/{id}/config/git`.
#[utoipa::path(put, path = "/v2/box/{id}/git-config", tag = "git", params(("id" = String, Path, description = "Id or name of the box")),
    request_body = GitConfigRequest, responses((status = 200, body = GitConfig), Refusals, GitRefusals))]
pub(in crate::http) async fn git_config(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Path(id): Path<String>,
    Json(request): Json<GitConfigRequest>,
) -> Result<axum::Json<GitConfig>, ApiError> {
    change(&http, &account, &id, request).await
}

async fn change(
    http: &Arc<Http>,
    account: &AccountId,
    id: &str,
    request: GitConfigRequest,
) -> Result<axum::Json<GitConfig>, ApiError> {
    let GitConfigRequest { git_user_name, git_user_email, github_token } = request;
    let identity = Identity::check(git_user_name, git_user_email)?;
    if identity.is_empty() && github_token.is_none() {
        return Err(ApiError::bad_request("at least one of git_user_name and git_user_email is required"));
    }
    let changes_token = github_token.is_some();
    let token = Token::check(github_token)?;
    let work = begin(http, account, id, "config").await?;
    let (git_user_name, git_user_email) = work.identify(&identity).await?;
    if changes_token {
        work.keep_token(token).await?;
    }
    Ok(axum::Json(GitConfig { git_user_name, git_user_email }))
}
