//! Files and folders out of a box, as they are.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use boxyard_proto::api::files::DownloadQuery;
use boxyard_proto::files::{Ask, FileKind, Format, Stat};
use futures_util::stream::unfold;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use jiff::Timestamp;

use super::range::Range;
use super::{begin, given};
use crate::boxes::{FileContent, FileError, FilePath, Kept};
use crate::http::Http;
use crate::http::auth::Caller;
use crate::http::error::files::{FileRefusals, about};
use crate::http::error::{ApiError, Refusals};
use crate::http::json::{Path, Query};

/// Downloads a file, or a folder as an archive
///
/// The body is the file as it is; `Range` asks for a part of it and `If-Range` says of which version, by the `ETag` that came with the
/// part before. With `format` it is an archive, with names relative to the folder; devices, sockets and what cannot be read are left out.
/// An answer that breaks off is not complete.
#[utoipa::path(get, path = "/v2/box/{id}/files/download", tag = "files",
    params(("id" = String, Path, description = "Id or name of the box"), DownloadQuery),
    responses((status = 200, body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 206, body = Vec<u8>, content_type = "application/octet-stream", description = "The range that was asked for"),
        (status = 416, body = boxyard_proto::api::error::ErrorBody, description = "The file has no such range"),
        Refusals, FileRefusals))]
pub(crate) async fn download(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Path(id): Path<String>,
    Query(query): Query<DownloadQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let kept = http.boxes.find(&account, &id)?;
    let path = given::path("folder", query.path.or(query.folder), query.path_base64)?;
    if let Some(format) = query.format.as_deref().filter(|format| !format.is_empty()) {
        return archive(&http, &kept, &path, format).await;
    }
    let range = headers.get(header::RANGE).and_then(|range| range.to_str().ok()).and_then(Range::parse);
    if let Some(range) = range
        && let Some(part) = part(&http, &kept, &path, range, headers.get(header::IF_RANGE)).await?
    {
        return Ok(part);
    }
    let content = open(&http, &kept, &path, 0, None).await?;
    let mut head = head(content.stat(), &path);
    if let Some(length) = content.length() {
        set(&mut head, header::CONTENT_LENGTH, &length.to_string());
    }
    Ok((head, body(content, about(&path)).await?).into_response())
}

/// A part of a file; none where it is another file than the client has a part of.
async fn part(
    http: &Arc<Http>,
    kept: &Kept,
    path: &FilePath,
    range: Range,
    if_range: Option<&HeaderValue>,
) -> Result<Option<Response>, ApiError> {
    let stat = begin(http, kept).await?.stat(path, true).await.map_err(about(path))?;
    if stat.kind != FileKind::File || if_range.is_some_and(|tag| tag.as_bytes() != tag_of(&stat).as_bytes()) {
        return Ok(None);
    }
    let Some((from, length)) = range.of(stat.size) else {
        let text = format!("{}: the file has {} bytes, and none in this range", path.shown(), stat.size);
        let mut refusal = ApiError::no_such_range(text).into_response();
        set(refusal.headers_mut(), header::CONTENT_RANGE, &format!("bytes */{}", stat.size));
        return Ok(Some(refusal));
    };
    let content = open(http, kept, path, from, Some(length)).await?;
    // It was changed in between.
    if tag_of(content.stat()) != tag_of(&stat) || content.length() != Some(length) {
        return Ok(None);
    }
    let mut head = head(&stat, path);
    set(&mut head, header::CONTENT_LENGTH, &length.to_string());
    set(&mut head, header::CONTENT_RANGE, &format!("bytes {from}-{}/{}", from + length - 1, stat.size));
    Ok(Some((StatusCode::PARTIAL_CONTENT, head, body(content, about(path)).await?).into_response()))
}

async fn open(
    http: &Arc<Http>,
    kept: &Kept,
    path: &FilePath,
    offset: u64,
    length: Option<u64>,
) -> Result<FileContent, ApiError> {
    let ask = Ask::Read { path: path.text(), offset, length };
    begin(http, kept).await?.open(&ask).await.map_err(about(path))
}

async fn archive(http: &Arc<Http>, kept: &Kept, path: &FilePath, format: &str) -> Result<Response, ApiError> {
    let (format, ending, content_type) = match format {
        "tar" => (Format::Tar, ".tar", "application/x-tar"),
        "tar.gz" | "tgz" => (Format::TarGz, ".tar.gz", "application/gzip"),
        "zip" => (Format::Zip, ".zip", "application/zip"),
        _ => return Err(ApiError::bad_request("format must be tar, tar.gz or zip")),
    };
    let content =
        begin(http, kept).await?.open(&Ask::Archive { path: path.text(), format }).await.map_err(about(path))?;
    let mut head = HeaderMap::new();
    head.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    set(&mut head, header::CONTENT_DISPOSITION, &attachment(path, ending));
    Ok((head, body(content, about(path)).await?).into_response())
}

fn head(stat: &Stat, path: &FilePath) -> HeaderMap {
    let mut head = HeaderMap::new();
    head.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    head.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    // What a box holds is not for browsers to guess at and run.
    head.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    set(&mut head, header::CONTENT_DISPOSITION, &attachment(path, ""));
    set(&mut head, header::ETAG, &tag_of(stat));
    if let Ok(changed) = Timestamp::from_second(stat.modified_ns.div_euclid(1_000_000_000)) {
        set(&mut head, header::LAST_MODIFIED, &changed.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string());
    }
    set(&mut head, HeaderName::from_static("x-file-mode"), &given::octal(stat.mode));
    head
}

fn tag_of(stat: &Stat) -> String {
    format!("\"{}\"", given::version(stat))
}

/// The last name in the path, for browsers, in the form of RFC 8187.
fn attachment(path: &FilePath, ending: &str) -> String {
    let mut name = String::new();
    for byte in path.prefix().split(|byte| *byte == b'/').rfind(|part| !part.is_empty()).unwrap_or(b"files") {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => name.push(char::from(*byte)),
            other => name.push_str(&format!("%{other:02X}")),
        }
    }
    format!("attachment; filename*=UTF-8''{name}{ending}")
}

fn set(head: &mut HeaderMap, name: HeaderName, value: &str) {
    // Digits, letters and a few signs make valid headers.
    if let Ok(value) = HeaderValue::from_str(value) {
        head.insert(name, value);
    }
}

/// All of it. What fails in the first two pieces is told as such; later it breaks off, instead of ending, where there is more that cannot
/// be had.
async fn body(mut content: FileContent, refuse: impl Fn(FileError) -> ApiError) -> Result<Body, ApiError> {
    let Some(first) = content.next().await.map_err(&refuse)? else {
        shrunk(&content).map_err(ApiError::conflict)?;
        return Ok(Body::empty());
    };
    let Some(second) = content.next().await.map_err(&refuse)? else {
        shrunk(&content).map_err(ApiError::conflict)?;
        return Ok(first.into());
    };
    Ok(Body::from_stream(unfold(Some((vec![second, first], content)), async |at| {
        let (mut ready, mut content) = at?;
        if let Some(piece) = ready.pop() {
            return Some((Ok(piece), Some((ready, content))));
        }
        let error = match content.next().await {
            Ok(Some(bytes)) => return Some((Ok(bytes), Some((ready, content)))),
            Ok(None) => shrunk(&content).err()?.to_owned(),
            Err(error) => error.to_string(),
        };
        tracing::debug!(error, "a download breaks off");
        Some((Err(std::io::Error::other(error)), None))
    })))
}

/// Whether less came than was said in the head.
fn shrunk(content: &FileContent) -> Result<(), &'static str> {
    let shrunk = content.is_truncated() && content.length().is_some();
    if shrunk { Err("the file shrank while it was read; read it again") } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_for_browsers_are_plain_ascii() {
        let named = |path: &[u8]| attachment(&FilePath::new(path).expect("a path"), ".tar");
        assert_eq!(named(b"/a/b c.txt"), "attachment; filename*=UTF-8''b%20c.txt.tar");
        assert_eq!(named("ü\"\r\n".as_bytes()), "attachment; filename*=UTF-8''%C3%BC%22%0D%0A.tar");
        assert_eq!(named(b"/"), "attachment; filename*=UTF-8''files.tar");
    }
}
