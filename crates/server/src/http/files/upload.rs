//! Many files into a box, as a multipart form.

use std::collections::VecDeque;
use std::sync::Arc;

use axum::extract::{Request, State};
use boxyard_engine::agent::files::ANSWER_DEADLINE;
use boxyard_proto::api::boxes::MessageBody;
use boxyard_proto::files::{Ask, PATH_MAX};
use bytes::{Bytes, BytesMut};
use http::header;
use multer::Field;

use super::incoming::Incoming;
use super::parts::{Parts, boundary};
use super::transfer::{Sending, Transferred, transfer};
use super::{begin, given};
use crate::boxes::FilePath;
use crate::http::Http;
use crate::http::auth::Caller;
use crate::http::error::files::FileRefusals;
use crate::http::error::{ApiError, Refusals};
use crate::http::json::Path;

/// Paths at most that wait for their files.
const PATHS_MAX: usize = 100_000;
/// Bytes of them at most.
const PATHS_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bytes at most of files that wait for their paths; published clients send paths first.
const FILES_BYTES_MAX: usize = 1024 * 1024;
/// Such files at most.
const FILES_MAX: usize = 1000;

/// Uploads files
///
/// Fields `paths` (text) and `files`, each as often as there are files; the first path is the first file's, wherever they stand. A file's
/// own name counts for nothing. A path should come before its file: files whose paths come later are held, 1 MiB together at most. Each
/// file is written in one step when all of it has come; when one fails, those before it are there.
#[utoipa::path(post, path = "/v2/box/{id}/files/upload", tag = "files",
    params(("id" = String, Path, description = "Id or name of the box")),
    request_body(content = UploadForm, content_type = "multipart/form-data"),
    responses((status = 200, body = MessageBody), Refusals, FileRefusals))]
pub(crate) async fn upload(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Path(id): Path<String>,
    request: Request,
) -> Result<axum::Json<MessageBody>, ApiError> {
    let boundary = boundary(request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()));
    let mut parts = Parts::new(Incoming::new(request, http.upload_cap), boundary.as_ref().cloned().unwrap_or_default());
    let received = async {
        let kept = http.boxes.find(&account, &id)?;
        boundary?;
        let mut work = begin(&http, &kept).await?;
        let receive = async |sending: &mut Sending<'_>| Pairs::default().receive(&mut parts, sending).await;
        transfer(&mut work, ANSWER_DEADLINE, receive).await
    };
    match received.await {
        Ok(Transferred { count, .. }) => Ok(axum::Json(MessageBody { message: format!("{count} files uploaded") })),
        Err(error) => {
            parts.drop_rest().await;
            Err(error)
        }
    }
}

/// The form, for the OpenAPI document.
#[derive(Debug, utoipa::ToSchema)]
#[expect(dead_code, reason = "only its derived description is used")]
pub(crate) struct UploadForm {
    /// Where the files go.
    paths: Vec<String>,
    /// Their contents.
    #[schema(value_type = Vec<String>, format = Binary)]
    files: Vec<Vec<u8>>,
}

/// Brings paths and files together.
#[derive(Default)]
struct Pairs {
    paths: VecDeque<FilePath>,
    paths_bytes: usize,
    files: VecDeque<Bytes>,
    files_bytes: usize,
}

impl Pairs {
    async fn receive(mut self, parts: &mut Parts, sending: &mut Sending<'_>) -> Result<(), ApiError> {
        while let Some(field) = sending.wait_for(parts.next()).await?? {
            match field.name() {
                Some("paths" | "path") => self.path(parts, field, sending).await?,
                Some("files" | "file") => self.file(parts, field, sending).await?,
                Some(_) | None => drain(parts, field, sending).await?,
            }
        }
        match (self.paths.len(), self.files.len()) {
            (0, 0) => Ok(()),
            (0, files) => Err(ApiError::bad_request(format!("{files} more files than paths came"))),
            (paths, _) => Err(ApiError::bad_request(format!("{paths} more paths than files came"))),
        }
    }

    async fn path(&mut self, parts: &Parts, field: Field<'static>, sending: &mut Sending<'_>) -> Result<(), ApiError> {
        let too_long = || ApiError::bad_request(format!("paths is longer than {} bytes", PATH_MAX - 1));
        let text = hold(parts, field, sending, PATH_MAX, too_long).await?;
        if text.is_empty() {
            return Err(ApiError::bad_request("paths is required: the path of each file"));
        }
        let path = given::checked("paths", &text)?;
        if let Some(content) = self.files.pop_front() {
            self.files_bytes -= content.len();
            begin_file(sending, path).await?;
            sending.content(content).await?;
            return sending.end().await;
        }
        self.paths_bytes += path.bytes().len();
        self.paths.push_back(path);
        if self.paths.len() > PATHS_MAX || self.paths_bytes > PATHS_BYTES_MAX {
            let text =
                format!("more than {PATHS_MAX} paths, or {PATHS_BYTES_MAX} bytes of them, come before their files");
            return Err(ApiError::bad_request(text));
        }
        Ok(())
    }

    async fn file(
        &mut self,
        parts: &Parts,
        mut field: Field<'static>,
        sending: &mut Sending<'_>,
    ) -> Result<(), ApiError> {
        if let Some(path) = self.paths.pop_front() {
            self.paths_bytes -= path.bytes().len();
            begin_file(sending, path).await?;
            while let Some(bytes) = sending.wait_for(parts.content(&mut field)).await?? {
                sending.content(bytes).await?;
            }
            return sending.end().await;
        }
        let too_much = || {
            ApiError::bad_request(format!(
                "files whose paths come after them can have {FILES_BYTES_MAX} bytes together; send each path before its file"
            ))
        };
        let content = hold(parts, field, sending, FILES_BYTES_MAX - self.files_bytes, too_much).await?;
        self.files_bytes += content.len();
        self.files.push_back(content);
        if self.files.len() > FILES_MAX { Err(too_much()) } else { Ok(()) }
    }
}

async fn begin_file(sending: &mut Sending<'_>, path: FilePath) -> Result<(), ApiError> {
    sending.begin(&Ask::Write { path: path.text(), mode: None }, path).await
}

/// A part's whole content, of at most `cap` bytes.
async fn hold(
    parts: &Parts,
    mut field: Field<'static>,
    sending: &mut Sending<'_>,
    cap: usize,
    too_long: impl Fn() -> ApiError,
) -> Result<Bytes, ApiError> {
    let mut all = BytesMut::new();
    while let Some(bytes) = sending.wait_for(parts.content(&mut field)).await?? {
        if all.len() + bytes.len() > cap {
            return Err(too_long());
        }
        all.extend_from_slice(&bytes);
    }
    Ok(all.freeze())
}

/// Reads and drops a part that means nothing here.
async fn drain(parts: &Parts, mut field: Field<'static>, sending: &mut Sending<'_>) -> Result<(), ApiError> {
    while sending.wait_for(parts.content(&mut field)).await??.is_some() {}
    Ok(())
}
