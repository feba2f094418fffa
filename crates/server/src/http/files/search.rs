//! Files by name or content.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use boxyard_engine::agent::files::Part;
use boxyard_proto::api::files::{FileMatch, FileMatches, SearchQuery};
use boxyard_proto::files::{Ask, Match, SEARCH_DEFAULT, SEARCH_MAX, Search};

use super::list::endless;
use super::told::{AsyncNext, List, Piece, tell};
use super::{begin, given};
use crate::boxes::{FileError, FileWork};
use crate::http::Http;
use crate::http::auth::Caller;
use crate::http::error::files::{FileRefusals, about};
use crate::http::error::{ApiError, Refusals};
use crate::http::json::{Path, Query};

/// Bytes of a pattern at most.
const PATTERN_MAX: usize = 4096;

/// Finds files by name or content
///
/// With `content`, a match for each line that has it; otherwise one for each file or folder whose name fits. How long a search goes on and
/// how much it reads is bounded: `truncated` says that a bound was met.
#[utoipa::path(get, path = "/v2/box/{id}/files/search", tag = "files",
    params(("id" = String, Path, description = "Id or name of the box"), SearchQuery),
    responses((status = 200, body = FileMatches), Refusals, FileRefusals))]
pub(crate) async fn search(
    State(http): State<Arc<Http>>,
    Caller(account): Caller,
    Path(id): Path<String>,
    Query(query): Query<SearchQuery>,
) -> Result<Response, ApiError> {
    let kept = http.boxes.find(&account, &id)?;
    let folder = given::folder("path", query.path, query.path_base64)?;
    for (name, pattern) in [("name", &query.name), ("content", &query.content)] {
        if pattern.as_ref().is_some_and(|pattern| pattern.len() > PATTERN_MAX) {
            return Err(ApiError::bad_request(format!("{name} is longer than {PATTERN_MAX} bytes")));
        }
    }
    let limit = query.limit.filter(|limit| *limit > 0).unwrap_or(SEARCH_DEFAULT).min(SEARCH_MAX);
    let ask = Ask::Search(Search {
        path: Some(folder.text()),
        name: query.name.filter(|name| !name.is_empty()),
        content: query.content.filter(|content| !content.is_empty()),
        regex: given::yes("regex", query.regex.as_deref())?,
        ignore_case: given::yes("ignore_case", query.ignore_case.as_deref())?,
        hidden: given::yes("hidden", query.hidden.as_deref())?,
        limit,
    });
    let mut work = begin(&http, &kept).await?;
    work.begin(&ask).await.map_err(about(&folder))?;
    tell(Searching { work, list: List::new("matches"), limit: u64::from(limit) }, Found, about(&folder)).await
}

struct Searching {
    work: FileWork,
    list: List,
    limit: u64,
}

struct Found;

impl AsyncNext<Searching> for Found {
    async fn next(&self, searching: &mut Searching) -> Result<Piece, FileError> {
        match searching.work.next_matches().await? {
            Part::Some(found) if searching.list.count() + found.len() as u64 > searching.limit => Err(endless()),
            Part::Some(found) => Ok(searching.list.items(found.into_iter().map(told))),
            Part::End { truncated } => Ok(searching.list.end(truncated)),
        }
    }
}

fn told(found: Match) -> FileMatch {
    let (path, path_base64) = given::told_text(&found.path);
    FileMatch { path, path_base64, r#type: given::file_type(found.kind), line: found.line, text: found.text }
}
