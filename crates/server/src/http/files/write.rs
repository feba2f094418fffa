//! One file into a box: as JSON, or as it is. And an archive of many.

use std::sync::Arc;

use axum::extract::{Request, State};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use boxyard_engine::agent::files::{ANSWER_DEADLINE, FilesError, LONG_DEADLINE};
use boxyard_proto::api::boxes::MessageBody;
use boxyard_proto::api::files::{PutQuery, UnpackQuery, Unpacked, WriteFile};
use boxyard_proto::files::{Ask, Failure};

use super::given::Encoding;
use super::incoming::Incoming;
use super::transfer::{Sending, Transferred, transfer};
use super::{begin, given};
use crate::boxes::{FileError, FilePath, FileWork, Kept};
use crate::http::Http;
use crate::http::auth::Caller;
use crate::http::error::files::{FileRefusals, about};
use crate::http::error::{ApiError, Refusals};
use crate::http::json::{Json, Path, Query};

/// Writes a file
///
/// In one step: a reader finds the old content or the new one. Folders that are missing are made. What is longer than `limits.body_cap` as
/// JSON is for `files/upload`.
#[utoipa::path(post, path = "/v2/box/{id}/files/write", tag = "files",
    params(("id" = String, Path, description = "Id or name of the box")), request_body = WriteFile,
    responses((status = 200, body = MessageBody), Refusals, FileRefusals))]
pub(crate) async fn write(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Path(id): Path<String>,
    Json(request): Json<WriteFile>,
) -> Result<axum::Json<MessageBody>, ApiError> {
    let kept = http.boxes.find(&account, &id)?;
    let path = given::path("path", request.path, request.path_base64)?;
    let mode = request.mode.as_deref().map(given::mode).transpose()?;
    let content = request.content.ok_or_else(|| ApiError::bad_request("content is required"))?;
    let content = match Encoding::parse(request.encoding.as_deref())? {
        Encoding::Text => content.into_bytes(),
        Encoding::Base64 => {
            STANDARD.decode(content).map_err(|_| ApiError::bad_request("content is not base64, as encoding says"))?
        }
    };
    let mut work = begin(&http, &kept).await?;
    let ask = Ask::Write { path: path.text(), mode };
    let whole = async |sending: &mut Sending<'_>| {
        sending.begin(&ask, path.clone()).await?;
        sending.content(content.into()).await?;
        sending.end().await
    };
    transfer(&mut work, ANSWER_DEADLINE, whole).await?;
    Ok(axum::Json(MessageBody { message: "File written".into() }))
}

/// Uploads a file as it is
///
/// The body is the file's content, of any length up to `limits.upload_cap`. It is written in one step when all of it has come.
#[utoipa::path(put, path = "/v2/box/{id}/files/upload", tag = "files",
    params(("id" = String, Path, description = "Id or name of the box"), PutQuery),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 200, body = MessageBody), Refusals, FileRefusals))]
pub(crate) async fn put(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Path(id): Path<String>,
    Query(query): Query<PutQuery>,
    request: Request,
) -> Result<axum::Json<MessageBody>, ApiError> {
    let mut incoming = Incoming::new(request, http.upload_cap);
    let put = async {
        let kept = http.boxes.find(&account, &id)?;
        let path = given::path("path", query.path, query.path_base64)?;
        let mode = query.mode.as_deref().map(given::mode).transpose()?;
        let mut work = begin(&http, &kept).await?;
        if let Some(version) = query.if_version {
            check_version(&mut work, &path, &version).await?;
        }
        let ask = Ask::Write { path: path.text(), mode };
        pass_on(&mut work, &ask, path, &mut incoming, ANSWER_DEADLINE).await
    };
    if let Err(error) = put.await {
        incoming.drop_rest().await;
        return Err(error);
    }
    Ok(axum::Json(MessageBody { message: "File written".into() }))
}

/// Unpacks an archive
///
/// The body is a tar archive, plain or compressed with gzip, of any length up to `limits.upload_cap`. What is in it goes into the folder:
/// files and links that are there are replaced, folders are kept. A name that leads out of the folder fails the rest; what came before
/// stays.
#[utoipa::path(put, path = "/v2/box/{id}/files/archive", tag = "files",
    params(("id" = String, Path, description = "Id or name of the box"), UnpackQuery),
    request_body(content = Vec<u8>, content_type = "application/x-tar"),
    responses((status = 200, body = Unpacked), Refusals, FileRefusals))]
pub(crate) async fn unpack(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Path(id): Path<String>,
    Query(query): Query<UnpackQuery>,
    request: Request,
) -> Result<axum::Json<Unpacked>, ApiError> {
    let mut incoming = Incoming::new(request, http.upload_cap);
    let unpack = async {
        let kept: Kept = http.boxes.find(&account, &id)?;
        let path = given::folder("path", query.path, query.path_base64)?;
        let mut work = begin(&http, &kept).await?;
        pass_on(&mut work, &Ask::Unpack { path: path.text() }, path, &mut incoming, LONG_DEADLINE).await
    };
    match unpack.await {
        Ok(Transferred { truncated, .. }) => Ok(axum::Json(Unpacked { message: "Archive unpacked".into(), truncated })),
        Err(error) => {
            incoming.drop_rest().await;
            Err(error)
        }
    }
}

/// Passes a body on as the content of one request.
async fn pass_on(
    work: &mut FileWork,
    ask: &Ask,
    path: FilePath,
    incoming: &mut Incoming,
    patience: std::time::Duration,
) -> Result<Transferred, ApiError> {
    let send = async |sending: &mut Sending<'_>| {
        sending.begin(ask, path).await?;
        while let Some(bytes) = sending.wait_for(incoming.next()).await?? {
            sending.content(bytes).await?;
        }
        sending.end().await
    };
    transfer(work, patience, send).await
}

/// Refuses when the file is another than the client knows.
async fn check_version(work: &mut FileWork, path: &FilePath, version: &str) -> Result<(), ApiError> {
    let now = match work.stat(path, true).await {
        Ok(stat) => Some(given::version(&stat)),
        Err(FileError::Files(FilesError::Refused { kind: Failure::NotFound, .. })) => None,
        Err(error) => return Err(about(path)(error)),
    };
    if now.as_deref() == Some(version) {
        return Ok(());
    }
    let what = if now.is_some() { "the file has changed meanwhile" } else { "the file is gone meanwhile" };
    Err(ApiError::conflict(format!("{}: {what}", path.shown())))
}
