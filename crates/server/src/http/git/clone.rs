//! Clones.

use std::sync::Arc;

use axum::extract::State;
use boxyard_proto::api::git::{CloneRequest, Cloned};

use super::begin;
use crate::boxes::Cloning;
use crate::http::Http;
use crate::http::auth::Caller;
use crate::http::error::git::GitRefusals;
use crate::http::error::{ApiError, Refusals};
use crate::http::json::{Json, Path};

/// Clones a repository into a box
///
/// Without `folder` the clone is in a folder of the workspace that is named after the repository. `github_token` is used for this call only
/// and never written down in the box; without it the box's own token is, for GitHub. Answers when all is there.
#[utoipa::path(post, path = "/v2/box/{id}/git/clone", tag = "git", params(("id" = String, Path, description = "Id or name of the box")),
    request_body = CloneRequest, responses((status = 200, body = Cloned), Refusals, GitRefusals))]
pub(in crate::http) async fn clone(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Path(id): Path<String>,
    Json(request): Json<CloneRequest>,
) -> Result<axum::Json<Cloned>, ApiError> {
    let CloneRequest { repo, branch, depth, folder, github_token } = request;
    let clone = Cloning::check(&repo.unwrap_or_default(), branch, depth, folder.as_deref(), github_token)?;
    let folder = begin(&http, &account, &id, "clone").await?.clone_repository(&clone).await?;
    Ok(axum::Json(Cloned { message: "Repository cloned".into(), folder }))
}
