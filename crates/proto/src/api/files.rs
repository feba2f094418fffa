//! Files of a box.
//!
//! Paths are absolute, or relative to `/workspace/home`. A name in a box need not be UTF-8, a text in JSON must: where a name is not, its
//! text has U+FFFD for what is none, and a field that ends in `_base64` has its bytes. Requests take such a field in place of the path too.

use serde::{Deserialize, Serialize};

pub use super::runs::flag;

/// Bytes of a ranged read at most.
pub const RANGE_MAX: u64 = 8 * 1024 * 1024;

/// Bytes of a file that is read as JSON without a range at most; what is longer is for downloads.
pub const READ_MAX: u64 = 64 * 1024 * 1024;

/// Query of `GET /v2/box/{id}/files/read`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams), into_params(parameter_in = Query))]
#[serde(default)]
pub struct ReadQuery {
    /// The file.
    pub path: Option<String>,
    /// The path's bytes in base64, instead of `path`.
    pub path_base64: Option<String>,
    /// `utf-8`, which is the default and has U+FFFD for what is no UTF-8, or `base64`.
    pub encoding: Option<String>,
    /// First byte; 0 when missing. Only looked at with `length`.
    pub offset: Option<u64>,
    /// Bytes at most, up to 8 MiB; 0 is none. Missing: the whole file.
    pub length: Option<u64>,
}

/// Answer of `GET /v2/box/{id}/files/read`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FileContent {
    /// The file's content, in the encoding that was asked for.
    pub content: String,
}

/// Body of `POST /v2/box/{id}/files/write`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct WriteFile {
    /// The file; folders that are missing are made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The path's bytes in base64, instead of `path`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_base64: Option<String>,
    /// Its content.
    pub content: Option<String>,
    /// How `content` is given: `utf-8`, which is the default, or `base64`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoding: Option<String>,
    /// Permission bits in octal, such as `0755`. A file that is there keeps its own, a new one has `0644`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
}

/// Query of `GET /v2/box/{id}/files/list`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams), into_params(parameter_in = Query))]
#[serde(default)]
pub struct ListQuery {
    /// The folder; `/workspace/home` when missing.
    pub folder: Option<String>,
    /// The folder's bytes in base64, instead of `folder`.
    pub folder_base64: Option<String>,
    /// Only names after this one, for the next part of a folder that is longer than `limit`.
    pub after: Option<String>,
    /// The bytes of that name in base64, instead of `after`.
    pub after_base64: Option<String>,
    /// Entries at most, up to 100,000, which is the default.
    pub limit: Option<u32>,
}

/// An entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FileEntry {
    /// Its name.
    pub name: String,
    /// Its absolute path.
    pub path: String,
    /// The path's bytes in base64. Only there where they are no UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_base64: Option<String>,
    /// Bytes; of a symbolic link, of what it leads to.
    pub size: u64,
    /// Whether it is a folder, or a symbolic link to one.
    pub is_dir: bool,
    /// When its content was last changed, RFC 3339 in UTC.
    pub mod_time: String,
    /// Permission bits in octal.
    #[serde(default)]
    pub mode: String,
    /// Where a symbolic link leads. Left out for anything else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// Answer of `GET /v2/box/{id}/files/list`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FileList {
    /// What is in the folder, in order of the names' bytes. Nothing where it is no folder.
    pub files: Vec<FileEntry>,
    /// There is more; ask again with the last name as `after`. Left out where there is not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

/// Query of `GET /v2/box/{id}/files/stat`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams), into_params(parameter_in = Query))]
#[serde(default)]
pub struct StatQuery {
    /// The path.
    pub path: Option<String>,
    /// The path's bytes in base64, instead of `path`.
    pub path_base64: Option<String>,
    /// `true`: of what a symbolic link leads to, instead of the link.
    pub follow: Option<String>,
}

/// The sort of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum FileType {
    /// A regular file.
    File,
    /// A folder.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A device, socket or FIFO.
    Other,
}

/// What a path is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FileStat {
    /// Its sort.
    pub r#type: FileType,
    /// Bytes.
    pub size: u64,
    /// When its content was last changed, RFC 3339 in UTC.
    pub mod_time: String,
    /// Number of its inode.
    pub inode: u64,
    /// Another text when the file is another or its content was changed. Opaque.
    pub version: String,
    /// Permission bits in octal.
    #[serde(default)]
    pub mode: String,
    /// Id of its owner in the box.
    #[serde(default)]
    pub uid: u32,
    /// Id of its group in the box.
    #[serde(default)]
    pub gid: u32,
    /// Where a symbolic link leads. Left out for anything else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// Body of `POST /v2/box/{id}/files/mkdir`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct MakeFolder {
    /// The folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The path's bytes in base64, instead of `path`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_base64: Option<String>,
    /// Its missing parents too, and no failure when it is there.
    pub parents: Option<bool>,
}

/// Body of `POST /v2/box/{id}/files/rename`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct RenameFile {
    /// What is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Its path's bytes in base64, instead of `from`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_base64: Option<String>,
    /// Its new path. A file there is replaced; folders are not made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// The new path's bytes in base64, instead of `to`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_base64: Option<String>,
}

/// Body of `POST /v2/box/{id}/files/remove`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct RemoveFile {
    /// What to remove.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The path's bytes in base64, instead of `path`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_base64: Option<String>,
    /// A folder with all that is in it. Without it a folder is refused.
    pub recursive: Option<bool>,
}

/// Body of `POST /v2/box/{id}/files/chmod`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct ChangeMode {
    /// The file or folder; of a symbolic link, what it leads to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The path's bytes in base64, instead of `path`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_base64: Option<String>,
    /// Permission bits in octal, such as `0755`.
    pub mode: Option<String>,
    /// Of everything below it too.
    pub recursive: Option<bool>,
}

/// Query of `GET /v2/box/{id}/files/download`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams), into_params(parameter_in = Query))]
#[serde(default)]
pub struct DownloadQuery {
    /// The file, whatever the name of this says: so published clients ask. With `format`, a folder too.
    pub folder: Option<String>,
    /// The same as `folder`.
    pub path: Option<String>,
    /// The path's bytes in base64, instead of `folder` and `path`.
    pub path_base64: Option<String>,
    /// `tar`, `tar.gz` or `zip`: an archive of the folder, with names relative to it, or of the file. Missing: the file itself.
    pub format: Option<String>,
}

/// Query of `PUT /v2/box/{id}/files/upload`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams), into_params(parameter_in = Query))]
#[serde(default)]
pub struct PutQuery {
    /// The file; folders that are missing are made.
    pub path: Option<String>,
    /// The path's bytes in base64, instead of `path`.
    pub path_base64: Option<String>,
    /// Permission bits in octal, such as `0755`. A file that is there keeps its own, a new one has `0644`.
    pub mode: Option<String>,
    /// Only if the file that is there has this `version`. What writes it between the look and the write is not noticed.
    pub if_version: Option<String>,
}

/// Query of `PUT /v2/box/{id}/files/archive`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams), into_params(parameter_in = Query))]
#[serde(default)]
pub struct UnpackQuery {
    /// The folder to unpack into; it is made if it is missing.
    pub path: Option<String>,
    /// The path's bytes in base64, instead of `path`.
    pub path_base64: Option<String>,
}

/// Answer of `PUT /v2/box/{id}/files/archive`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Unpacked {
    /// What was done.
    pub message: String,
    /// FIFOs or devices were left out. Left out itself where there were none.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

/// Query of `GET /v2/box/{id}/files/search`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams), into_params(parameter_in = Query))]
#[serde(default)]
pub struct SearchQuery {
    /// The folder to look in; `/workspace/home` when missing.
    pub path: Option<String>,
    /// The path's bytes in base64, instead of `path`.
    pub path_base64: Option<String>,
    /// A glob for names, or for paths below the folder where it has a `/`; everything when missing.
    pub name: Option<String>,
    /// A text, or a regular expression, that a line has to contain.
    pub content: Option<String>,
    /// `true`: `content` is a regular expression, without look-around and back-references.
    pub regex: Option<String>,
    /// `true`: capital and small letters are the same, those of ASCII.
    pub ignore_case: Option<String>,
    /// `true`: names with a leading dot count too, and what is below them.
    pub hidden: Option<String>,
    /// Matches at most, up to 10,000; 1,000 when missing.
    pub limit: Option<u32>,
}

/// A match of a search.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FileMatch {
    /// Its absolute path.
    pub path: String,
    /// The path's bytes in base64. Only there where they are no UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_base64: Option<String>,
    /// Its sort.
    pub r#type: FileType,
    /// Number of the line, from 1. Only there where content was looked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// The line, cut to 1,000 characters. Only there where content was looked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// Answer of `GET /v2/box/{id}/files/search`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FileMatches {
    /// The matches.
    pub matches: Vec<FileMatch>,
    /// A bound was met: there may be more. Left out where it was not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

/// Query of `GET /v2/box/{id}/files/watch`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams), into_params(parameter_in = Query))]
#[serde(default)]
pub struct WatchQuery {
    /// The folder; `/workspace/home` when missing.
    pub path: Option<String>,
    /// The path's bytes in base64, instead of `path`.
    pub path_base64: Option<String>,
    /// `true`: in folders below it as well.
    pub recursive: Option<String>,
}

/// Data of the events `create`, `modify`, `delete` and `rename` of `GET /v2/box/{id}/files/watch`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FileChange {
    /// Absolute path.
    pub path: String,
    /// The path's bytes in base64. Only there where they are no UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_base64: Option<String>,
    /// Where it was before. Only there for a rename.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The bytes of `from` in base64. Only there where they are no UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_base64: Option<String>,
    /// Whether it is a folder.
    pub is_dir: bool,
}

/// Data of the event `watching`, the first of `GET /v2/box/{id}/files/watch`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Watching {
    /// There are more folders than can be watched: changes in some are not told.
    pub truncated: bool,
}
