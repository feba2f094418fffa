//! A box's log.

use super::runs::flag;
use serde::{Deserialize, Serialize};

/// Entries of one answer at most, and when no limit is asked for.
pub const LIMIT_MAX: u32 = 1000;
/// Entries of an answer when no limit is asked for.
pub const LIMIT_DEFAULT: u32 = 100;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// Worth knowing.
    Info,
    /// Worth a look.
    Warn,
    /// Something failed.
    Error,
}

/// Who says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum LogSource {
    /// The server: the box's life.
    System,
    /// An agent in the box.
    Agent,
    /// What users run.
    User,
}

/// One entry. Exactly these four keys: a test of the real service demands it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LogEntry {
    /// When.
    pub timestamp: i64,
    /// How bad it is.
    pub level: LogLevel,
    /// Who says it.
    pub source: LogSource,
    /// What. Never a secret.
    pub message: String,
}

/// One line of a log that is followed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FollowedEntry {
    /// The entry.
    #[serde(flatten)]
    pub entry: LogEntry,
    /// Where it is in the log, to go on after it with [`LogPage::after`]. Means nothing else. A server that is too old says none.
    #[serde(default)]
    pub cursor: Option<String>,
}

/// The header of a followed log with the cursor from which it begins, before the first line.
pub const CURSOR_HEADER: &str = "x-log-cursor";

/// Answer of `GET /v2/box/{id}/logs`, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Logs {
    /// The asked-for page.
    pub logs: Vec<LogEntry>,
}

/// Query of `GET /v2/box/{id}/logs`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams), into_params(parameter_in = Query))]
#[serde(default)]
pub struct LogPage {
    /// Entries to leave out from the beginning; 0 when missing.
    pub offset: Option<u32>,
    /// Entries to return, 1 to 1000; 100 when missing.
    pub limit: Option<u32>,
    /// `1` or `true`: the newest entries and then every new one, as lines of JSON, until the box ends. Not with `offset` or `limit`.
    pub follow: Option<String>,
    /// With `follow`: how many entries of those that are there come first, at most 1000; 100 when missing.
    pub tail: Option<u32>,
    /// With `follow`, instead of `tail`: the `cursor` of the line after which to go on.
    pub after: Option<String>,
}

impl LogPage {
    /// Whether the log is to be followed; `None` where that is neither said nor denied.
    pub fn follows(&self) -> Option<bool> {
        flag(self.follow.as_deref())
    }
}
