//! Git in a box: clone, look, commit, push, and pull requests and issues on GitHub.

use serde::{Deserialize, Serialize};

/// Characters of the title of a pull request or an issue at most; GitHub takes no longer one.
pub const TITLE_CHARS_MAX: usize = 256;
/// Characters of the text of a pull request or an issue at most, what is attached included; GitHub takes no longer one.
pub const BODY_CHARS_MAX: usize = 65_536;
/// Files that one pull request or issue names as attachments at most.
pub const ATTACH_MAX: usize = 20;
/// Bytes of a commit's message at most.
pub const COMMIT_MESSAGE_MAX: usize = 64 * 1024;

/// Body of `POST /v2/box/{id}/git/clone`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct CloneRequest {
    /// The repository: `https://github.com/owner/repo`, also without `https://`; another URL that git knows; or an absolute path in the
    /// box. Required. Never with a password in it.
    pub repo: Option<String>,
    /// The branch or tag to check out; the repository's own choice when missing.
    pub branch: Option<String>,
    /// How many commits of history to fetch, at least 1; all when missing.
    pub depth: Option<u32>,
    /// Where to clone to: a folder that is missing or empty, absolute or below `/workspace/home`. In a folder that is not empty the clone
    /// gets a folder of its own, named after the repository, as it does in `/workspace/home` when this is missing.
    pub folder: Option<String>,
    /// A token for this call only, for the repository's own host; it is never stored. The box's own token when missing.
    pub github_token: Option<String>,
}

/// Answer of `POST /v2/box/{id}/git/clone`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Cloned {
    /// What was done.
    pub message: String,
    /// The absolute folder in which the clone is.
    pub folder: String,
}

/// Query of `GET /v2/box/{id}/git/status` and `…/git/diff`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams), into_params(parameter_in = Query))]
#[serde(default)]
pub struct GitFolder {
    /// A folder of the repository: absolute, or relative to `/workspace/home`, which is the default.
    pub folder: Option<String>,
}

/// Answer of `GET /v2/box/{id}/git/status`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GitStatus {
    /// What `git status --porcelain` prints: nothing for a clean tree, and nothing outside of a repository.
    pub status: String,
    /// Present and true when there was more than the server holds.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

/// Answer of `GET /v2/box/{id}/git/diff`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GitDiff {
    /// What has changed in tracked files since the last commit, staged or not, as a patch. Nothing outside of a repository.
    pub diff: String,
    /// Present and true when there was more than the server holds.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

/// Body of `POST /v2/box/{id}/git/commit`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct CommitRequest {
    /// The message, at most 64 KiB. Required.
    pub message: Option<String>,
    /// The author's name for this commit; the box's own when missing.
    pub author_name: Option<String>,
    /// The author's address for this commit; the box's own when missing.
    pub author_email: Option<String>,
    /// A folder of the repository.
    pub folder: Option<String>,
}

/// Answer of `POST /v2/box/{id}/git/commit`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GitCommit {
    /// The commit's name.
    pub sha: String,
    /// Its message, as it is in the repository.
    pub message: String,
}

/// Body of `POST /v2/box/{id}/git/push`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct PushRequest {
    /// The branch of `origin` to push to: the local branch of this name, or where there is none what is checked out. When missing, the
    /// current branch goes to its upstream, and gets `origin` for one if it has none.
    pub branch: Option<String>,
    /// A folder of the repository.
    pub folder: Option<String>,
    /// A token for this call only, for GitHub; the box's own when missing.
    pub github_token: Option<String>,
}

/// Body of `POST /v2/box/{id}/git/checkout`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct CheckoutRequest {
    /// A branch, which is made where it is missing; a tag, a commit, or a file, which is restored. Required.
    pub branch: Option<String>,
    /// A folder of the repository.
    pub folder: Option<String>,
}

/// Body of `POST /v2/box/{id}/git/exec`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct GitExecRequest {
    /// The arguments behind `git`. Required; not empty.
    pub args: Option<Vec<String>>,
    /// Working folder, as for commands.
    pub folder: Option<String>,
}

/// Answer of `POST /v2/box/{id}/git/exec`. A failing git is a success of the call.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GitExecResult {
    /// Standard output as it came, and behind it standard error when git failed. Bytes that are not UTF-8 read as U+FFFD.
    pub output: String,
    /// Git's exit code: 128 outside of a repository.
    pub exit_code: i32,
    /// Present and true when there was more than the server holds.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

/// Body of `PUT /v2/box/{id}/config/git` and `PUT /v2/box/{id}/git-config`. At least one of the fields must be there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct GitConfigRequest {
    /// The name of who commits in the box; as it is when missing or empty.
    pub git_user_name: Option<String>,
    /// The address of who commits in the box; as it is when missing or empty.
    pub git_user_email: Option<String>,
    /// The box's own token for GitHub, which the server keeps and no call shows; an empty text removes it. Ours, beyond the protocol.
    pub github_token: Option<String>,
}

/// Answer of `PUT /v2/box/{id}/config/git` and `PUT /v2/box/{id}/git-config`: who commits in the box from now on.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GitConfig {
    /// The name.
    pub git_user_name: String,
    /// The address.
    pub git_user_email: String,
}

/// Body of `POST /v2/box/{id}/git/create-pr`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct CreatePullRequest {
    /// Its title, at most 256 characters. Required.
    pub title: Option<String>,
    /// Its text.
    pub body: Option<String>,
    /// The branch that it is to be merged into; the repository's default branch when missing.
    pub base: Option<String>,
    /// Paths of files in the box, relative ones below `folder`. What is text and short goes into the text; `warning` names the others.
    pub attach: Option<Vec<String>>,
    /// A folder of the repository. Its current branch, which must have been pushed, is what is to be merged.
    pub folder: Option<String>,
    /// A token for this call only; the box's own when missing.
    pub github_token: Option<String>,
}

/// Answer of `POST /v2/box/{id}/git/create-pr`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PullRequest {
    /// Its page.
    pub url: String,
    /// Its number.
    pub number: u64,
    /// Its title.
    pub title: String,
    /// The branch that it is to be merged into.
    pub base: String,
    /// What is not as it was asked for, although the pull request is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
}

/// Body of `POST /v2/box/{id}/git/create-issue`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct CreateIssue {
    /// Its title, at most 256 characters. Required.
    pub title: Option<String>,
    /// Its text.
    pub body: Option<String>,
    /// Paths of files in the box, as for pull requests.
    pub attach: Option<Vec<String>>,
    /// A folder of the repository.
    pub folder: Option<String>,
    /// A token for this call only; the box's own when missing.
    pub github_token: Option<String>,
}

/// Answer of `POST /v2/box/{id}/git/create-issue`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Issue {
    /// Its page.
    pub url: String,
    /// Its number.
    pub number: u64,
    /// Its title.
    pub title: String,
    /// What is not as it was asked for, although the issue is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
}
