//! What moves no content: looking at one path, folders, names, permission bits.

use std::sync::Arc;

use axum::extract::State;
use boxyard_proto::api::boxes::MessageBody;
use boxyard_proto::api::files::{ChangeMode, FileStat, MakeFolder, RemoveFile, RenameFile, StatQuery};
use boxyard_proto::files::Ask;

use super::{begin, given};
use crate::boxes::FilePath;
use crate::http::Http;
use crate::http::auth::Caller;
use crate::http::error::files::{FileRefusals, about, about_words};
use crate::http::error::{ApiError, Refusals};
use crate::http::json::{Json, Path, Query};

/// Tells what a path is
///
/// Of a symbolic link what the link is, and with `follow` what it leads to. `version` is another one when the file is another or its
/// content was changed.
#[utoipa::path(get, path = "/v2/box/{id}/files/stat", tag = "files",
    params(("id" = String, Path, description = "Id or name of the box"), StatQuery),
    responses((status = 200, body = FileStat), Refusals, FileRefusals))]
pub(crate) async fn stat(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Path(id): Path<String>,
    Query(query): Query<StatQuery>,
) -> Result<axum::Json<FileStat>, ApiError> {
    let kept = http.boxes.find(&account, &id)?;
    let path = given::path("path", query.path, query.path_base64)?;
    let follow = given::yes("follow", query.follow.as_deref())?;
    let stat = begin(&http, &kept).await?.stat(&path, follow).await.map_err(about(&path))?;
    Ok(axum::Json(FileStat {
        r#type: given::file_type(stat.kind),
        size: stat.size,
        mod_time: given::time(stat.modified_ns),
        inode: stat.inode,
        version: given::version(&stat),
        mode: given::octal(stat.mode),
        uid: stat.uid,
        gid: stat.gid,
        target: stat.target.as_ref().map(|target| given::told_text(target).0),
    }))
}

/// Makes a folder
///
/// With `parents` its missing parents too, and it may be there already.
#[utoipa::path(post, path = "/v2/box/{id}/files/mkdir", tag = "files",
    params(("id" = String, Path, description = "Id or name of the box")), request_body = MakeFolder,
    responses((status = 200, body = MessageBody), Refusals, FileRefusals))]
pub(crate) async fn mkdir(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Path(id): Path<String>,
    Json(request): Json<MakeFolder>,
) -> Result<axum::Json<MessageBody>, ApiError> {
    let path = given::path("path", request.path, request.path_base64)?;
    let ask = Ask::Mkdir { path: path.text(), parents: request.parents.unwrap_or(false) };
    carry_out(&http, &account, &id, &ask, &path, "Folder created").await
}

/// Renames a file or folder
///
/// As rename(2): a file at the new path is replaced, an empty folder by a folder. Folders for the new path are not made.
#[utoipa::path(post, path = "/v2/box/{id}/files/rename", tag = "files",
    params(("id" = String, Path, description = "Id or name of the box")), request_body = RenameFile,
    responses((status = 200, body = MessageBody), Refusals, FileRefusals))]
pub(crate) async fn rename(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Path(id): Path<String>,
    Json(request): Json<RenameFile>,
) -> Result<axum::Json<MessageBody>, ApiError> {
    let from = given::path("from", request.from, request.from_base64)?;
    let to = given::path("to", request.to, request.to_base64)?;
    let kept = http.boxes.find(&account, &id)?;
    let ask = Ask::Rename { from: from.text(), to: to.text() };
    let words = format!("{} to {}", from.shown(), to.shown());
    begin(&http, &kept).await?.carry_out(&ask).await.map_err(about_words(words))?;
    Ok(axum::Json(MessageBody { message: "Renamed".into() }))
}

/// Removes a file, a link, or, with `recursive`, a folder with all that is in it
#[utoipa::path(post, path = "/v2/box/{id}/files/remove", tag = "files",
    params(("id" = String, Path, description = "Id or name of the box")), request_body = RemoveFile,
    responses((status = 200, body = MessageBody), Refusals, FileRefusals))]
pub(crate) async fn remove(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Path(id): Path<String>,
    Json(request): Json<RemoveFile>,
) -> Result<axum::Json<MessageBody>, ApiError> {
    let path = given::path("path", request.path, request.path_base64)?;
    let ask = Ask::Remove { path: path.text(), recursive: request.recursive.unwrap_or(false) };
    carry_out(&http, &account, &id, &ask, &path, "Removed").await
}

/// Sets permission bits
///
/// Of what a symbolic link leads to; with `recursive` of everything below a folder too, but not through links there.
#[utoipa::path(post, path = "/v2/box/{id}/files/chmod", tag = "files",
    params(("id" = String, Path, description = "Id or name of the box")), request_body = ChangeMode,
    responses((status = 200, body = MessageBody), Refusals, FileRefusals))]
pub(crate) async fn chmod(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Path(id): Path<String>,
    Json(request): Json<ChangeMode>,
) -> Result<axum::Json<MessageBody>, ApiError> {
    let path = given::path("path", request.path, request.path_base64)?;
    let mode = given::mode(request.mode.as_deref().unwrap_or_default())?;
    let ask = Ask::Chmod { path: path.text(), mode, recursive: request.recursive.unwrap_or(false) };
    carry_out(&http, &account, &id, &ask, &path, "Mode changed").await
}

async fn carry_out(
    http: &Arc<Http>,
    account: &boxyard_proto::AccountId,
    id: &str,
    ask: &Ask,
    path: &FilePath,
    done: &str,
) -> Result<axum::Json<MessageBody>, ApiError> {
    let kept = http.boxes.find(account, id)?;
    begin(http, &kept).await?.carry_out(ask).await.map_err(about(path))?;
    Ok(axum::Json(MessageBody { message: done.into() }))
}
