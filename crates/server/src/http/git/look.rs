//! What has changed in a repository.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use boxyard_proto::api::git::{GitDiff, GitFolder, GitStatus};

use super::{begin_look, text};
use crate::boxes::{Looked, folder_of};
use crate::http::Http;
use crate::http::auth::Caller;
use crate::http::error::git::GitRefusals;
use crate::http::error::{ApiError, Refusals};
use crate::http::json::{Path, Query};

/// Tells which files have changed
///
/// As `git status --porcelain` does. The text is empty for a clean tree, and outside of a repository.
#[utoipa::path(get, path = "/v2/box/{id}/git/status", tag = "git",
    params(("id" = String, Path, description = "Id or name of the box"), GitFolder),
    responses((status = 200, body = GitStatus), Refusals, GitRefusals))]
pub(in crate::http) async fn status(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Path(id): Path<String>,
    Query(query): Query<GitFolder>,
) -> Result<Response, ApiError> {
    let folder = folder_of(query.folder.as_deref())?;
    let Looked { text, truncated, share } = begin_look(&http, &account, &id).await?.status(&folder).await?;
    Ok(text::answer("status", text, None, truncated, share))
}

/// Shows what has changed since the last commit
///
/// A patch of tracked files, staged or not. The text is empty when nothing has changed, and outside of a repository. Of more than 16 MiB
/// the beginning comes, with `truncated`.
#[utoipa::path(get, path = "/v2/box/{id}/git/diff", tag = "git",
    params(("id" = String, Path, description = "Id or name of the box"), GitFolder),
    responses((status = 200, body = GitDiff), Refusals, GitRefusals))]
pub(in crate::http) async fn diff(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Path(id): Path<String>,
    Query(query): Query<GitFolder>,
) -> Result<Response, ApiError> {
    let folder = folder_of(query.folder.as_deref())?;
    let Looked { text, truncated, share } = begin_look(&http, &account, &id).await?.diff(&folder).await?;
    Ok(text::answer("diff", text, None, truncated, share))
}
