//! GitHub's REST API, called by the server: no token for it enters a box.
//!
//! Where it is called is the operator's configuration; of what a box says, only names that are fit for a path get there. What it answers
//! is capped, and a redirect is followed only where it stays on the same host.

use std::time::Duration;

use reqwest::header::{ACCEPT, HeaderMap, HeaderName, HeaderValue, LOCATION};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, Response, StatusCode, Url};
use serde_json::Value;

use super::failure::{GitError, Refusal};
use super::token::Token;
use super::told::last_lines;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(10);
/// How long one call may take.
const CALL: Duration = Duration::from_secs(60);
/// Bytes of an answer at most. That of a repository has some ten thousand.
const ANSWER_MAX: usize = 4 * 1024 * 1024;
/// Redirects that one call follows at most; a repository that was renamed is one.
const REDIRECTS_MAX: usize = 3;
/// The version of the API that this is written for.
const VERSION: (&str, &str) = ("x-github-api-version", "2022-11-28");

/// The API of one host, with a token for it.
pub(super) struct GitHub {
    http: Client,
    base: Url,
    token: Token,
}

impl GitHub {
    /// Prepares to call the API at this URL.
    pub(super) fn new(base: &str, token: Token) -> Result<Self, GitError> {
        let broken = |text: &str| GitError::refused(Refusal::Unreachable, text);
        let base = Url::parse(base).map_err(|_| broken("the configured URL of GitHub's API is none"))?;
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/vnd.github+json"));
        headers.insert(HeaderName::from_static(VERSION.0), HeaderValue::from_static(VERSION.1));
        let http = Client::builder()
            .default_headers(headers)
            .user_agent(concat!("boxyard/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            .timeout(CALL)
            .redirect(Policy::none())
            .build()
            .map_err(|_| broken("the server cannot speak TLS"))?;
        Ok(Self { http, base, token })
    }

    /// Asks for something.
    pub(super) async fn get(&self, path: &[&str], query: &[(&str, &str)]) -> Result<Value, GitError> {
        self.call(Method::GET, path, query, None).await
    }

    /// Makes something.
    pub(super) async fn post(&self, path: &[&str], body: &Value) -> Result<Value, GitError> {
        self.call(Method::POST, path, &[], Some(body)).await
    }

    async fn call(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Value, GitError> {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        for _ in 0..=REDIRECTS_MAX {
            let mut request = self.http.request(method.clone(), url.clone()).bearer_auth(self.token.secret().expose());
            if let Some(body) = body {
                request = request.json(body);
            }
            let answer = request.send().await.map_err(|error| self.unreachable(&error))?;
            let Some(next) = moved(&url, &answer) else { return self.read(answer).await };
            if next.origin() != url.origin() {
                let text = "GitHub's API leads to another host, which the token is not sent to";
                return Err(GitError::refused(Refusal::Unreachable, text));
            }
            url = next;
        }
        Err(GitError::refused(Refusal::Unreachable, "GitHub's API leads from one address to the next"))
    }

    async fn read(&self, mut answer: Response) -> Result<Value, GitError> {
        let status = answer.status();
        let mut bytes = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(|error| self.unreachable(&error))? {
            if bytes.len() + piece.len() > ANSWER_MAX {
                return Err(GitError::refused(Refusal::Unreachable, "GitHub's answer is too long"));
            }
            bytes.extend_from_slice(&piece);
        }
        let said: Option<Value> = serde_json::from_slice(&bytes).ok();
        if !status.is_success() {
            return Err(self.refusal(status, said.as_ref()));
        }
        said.ok_or_else(|| GitError::refused(Refusal::Unreachable, "GitHub's answer makes no sense"))
    }

    fn refusal(&self, status: StatusCode, said: Option<&Value>) -> GitError {
        let kind = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Refusal::Denied,
            StatusCode::NOT_FOUND | StatusCode::GONE => Refusal::NotFound,
            StatusCode::CONFLICT => Refusal::Conflict,
            StatusCode::TOO_MANY_REQUESTS => Refusal::TooOften,
            status if status.is_client_error() => Refusal::Other,
            _ => Refusal::Unreachable,
        };
        let words = said.map(words).filter(|words| !words.is_empty());
        let words = words.unwrap_or_else(|| format!("it answered with status {}", status.as_u16()));
        GitError::refused(kind, format!("GitHub: {}", self.token.scrubbed(last_lines(&words))))
    }

    fn unreachable(&self, error: &reqwest::Error) -> GitError {
        let mut text = String::from("GitHub's API cannot be reached");
        let mut cause = std::error::Error::source(error);
        while let Some(source) = cause {
            text = format!("{text}: {source}");
            cause = source.source();
        }
        GitError::refused(Refusal::Unreachable, self.token.scrubbed(last_lines(&text)))
    }
}

/// Where an answer sends its client on to.
fn moved(from: &Url, answer: &Response) -> Option<Url> {
    let redirects = [StatusCode::MOVED_PERMANENTLY, StatusCode::TEMPORARY_REDIRECT, StatusCode::PERMANENT_REDIRECT];
    let location = answer.headers().get(LOCATION).filter(|_| redirects.contains(&answer.status()))?;
    from.join(location.to_str().ok()?).ok()
}

/// What GitHub complains of: its message, and what is wrong with which field.
fn words(said: &Value) -> String {
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let details = said["errors"].as_array().map(Vec::as_slice).unwrap_or_default().iter().take(10);
    let detail = |error: &Value| match (error.as_str(), text(error, "message")) {
        (Some(text), _) => text.to_owned(),
        (None, message) if message.is_empty() => format!("{} is {}", text(error, "field"), text(error, "code")),
        (None, message) => message,
    };
    let parts = std::iter::once(text(said, "message")).chain(details.map(detail));
    parts.filter(|part| !part.trim().is_empty()).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_github_complains_of_is_passed_on() {
        for (said, text) in [
            (json!({"message": "Bad credentials"}), "Bad credentials"),
            (
                json!({"message": "Validation Failed", "errors": [{"resource": "PullRequest", "field": "head", "code": "invalid"}]}),
                "Validation Failed: head is invalid",
            ),
            (
                json!({"message": "Validation Failed", "errors": [{"message": "No commits between main and x"}]}),
                "Validation Failed: No commits between main and x",
            ),
            (json!({"errors": ["plain"]}), "plain"),
            (json!([1]), ""),
        ] {
            assert_eq!(words(&said), text);
        }
    }
}
