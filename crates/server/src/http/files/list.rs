//! What is in a folder.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use boxyard_engine::agent::AgentError;
use boxyard_engine::agent::files::Part;
use boxyard_proto::api::files::{FileEntry, FileList, ListQuery};
use boxyard_proto::files::{Ask, Entry, FileKind, LIST_MAX, PathText};

use super::told::{AsyncNext, List, Piece, tell};
use super::{begin, given};
use crate::boxes::{FileError, FileWork};
use crate::http::Http;
use crate::http::auth::Caller;
use crate::http::error::files::{FileRefusals, about};
use crate::http::error::{ApiError, Refusals};
use crate::http::json::{Path, Query};

/// Lists a folder
///
/// Without what is in folders below it, but with names that begin with a dot. A path that is no folder has no entries.
#[utoipa::path(get, path = "/v2/box/{id}/files/list", tag = "files",
    params(("id" = String, Path, description = "Id or name of the box"), ListQuery),
    responses((status = 200, body = FileList), Refusals, FileRefusals))]
pub(crate) async fn list(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Path(id): Path<String>,
    Query(query): Query<ListQuery>,
) -> Result<Response, ApiError> {
    let kept = http.boxes.find(&account, &id)?;
    let folder = given::folder("folder", query.folder, query.folder_base64)?;
    let after = given::given("after", query.after, query.after_base64)?.filter(|after| !after.is_empty());
    let limit = query.limit.unwrap_or(LIST_MAX).min(LIST_MAX);
    let mut work = begin(&http, &kept).await?;
    let ask = Ask::List { path: folder.text(), after: after.as_deref().map(PathText::new), limit: Some(limit) };
    work.begin(&ask).await.map_err(about(&folder))?;
    let listing = Listing { work, prefix: folder.prefix(), list: List::new("files"), limit: u64::from(limit) };
    tell(listing, Entries, about(&folder)).await
}

struct Listing {
    work: FileWork,
    prefix: Vec<u8>,
    list: List,
    limit: u64,
}

struct Entries;

impl AsyncNext<Listing> for Entries {
    async fn next(&self, listing: &mut Listing) -> Result<Piece, FileError> {
        match listing.work.next_entries().await? {
            Part::Some(entries) if listing.list.count() + entries.len() as u64 > listing.limit => Err(endless()),
            Part::Some(entries) => {
                let prefix = &listing.prefix;
                Ok(listing.list.items(entries.into_iter().map(|entry| told(prefix, &entry))))
            }
            Part::End { truncated } => Ok(listing.list.end(truncated)),
        }
    }
}

/// A box that tells more than it was asked for.
pub(super) fn endless() -> FileError {
    AgentError::Protocol("a list that has no end".into()).into()
}

fn told(prefix: &[u8], entry: &Entry) -> FileEntry {
    let (name, _) = given::told_text(&entry.name);
    let (path, path_base64) = given::told(&[prefix, &entry.name.bytes().unwrap_or_default()].concat());
    FileEntry {
        name,
        path,
        path_base64,
        size: entry.stat.size,
        is_dir: entry.stat.kind == FileKind::Directory,
        mod_time: given::time(entry.stat.modified_ns),
        mode: given::octal(entry.stat.mode),
        target: entry.stat.target.as_ref().map(|target| given::told_text(target).0),
    }
}
