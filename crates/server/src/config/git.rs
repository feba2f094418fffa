//! How git in boxes is helped: how long it may take, and which hosts are GitHub.

use std::time::Duration;

use super::layers::{ConfigError, Layers};
use super::value::{Setting, Span};

/// How git in boxes is helped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Git {
    /// How long one call about git may take.
    pub timeout: Duration,
    /// The hosts that are GitHub: those that boxes' tokens are for, and their APIs.
    pub github_hosts: Vec<GitHubHost>,
}

/// A host that is GitHub, or speaks as GitHub does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitHubHost {
    /// Name or address in lower case, with its port where that is not the usual one.
    pub host: String,
    /// Whether tokens are sent to it without TLS.
    pub insecure: bool,
    /// The URL of its API, without a slash at the end.
    pub api: String,
}

impl GitHubHost {
    /// Where its repositories are, without a slash at the end.
    pub fn origin(&self) -> String {
        format!("{}://{}", if self.insecure { "http" } else { "https" }, self.host)
    }

    /// The one that everybody knows.
    fn github() -> Self {
        Self { host: "github.com".into(), insecure: false, api: "https://api.github.com".into() }
    }
}

impl Git {
    pub(super) fn read(layers: &Layers<'_>) -> Result<Self, ConfigError> {
        let mut github_hosts: Vec<GitHubHost> = layers.list("git.github_hosts")?;
        if github_hosts.is_empty() {
            github_hosts.push(GitHubHost::github());
        }
        let timeout = layers.get("git.timeout")?.map_or(Duration::from_mins(10), |Span(span)| span);
        Ok(Self { timeout, github_hosts })
    }
}

impl Setting for GitHubHost {
    const EXPECTED: &'static str = "a host such as github.com or github.example, perhaps with the URL of its API as in \
         github.example=https://github.example/api/v3, and with http:// before it where tokens may go without TLS";

    fn read(text: &str) -> Option<Self> {
        let (host, api) = match text.split_once('=') {
            Some((host, api)) => (host.trim(), Some(api.trim())),
            None => (text.trim(), None),
        };
        let (insecure, host) = match host.strip_prefix("http://") {
            Some(host) => (true, host),
            None => (false, host.strip_prefix("https://").unwrap_or(host)),
        };
        let host = host.trim_end_matches('/').to_ascii_lowercase();
        if !is_host(&host) {
            return None;
        }
        let api = match api {
            Some(api) => plain_url(api)?,
            None if host == "github.com" => Self::github().api,
            None => format!("{}://{host}/api/v3", if insecure { "http" } else { "https" }),
        };
        Some(Self { host, insecure, api })
    }
}

/// A URL without anything that could be a login, a query or a fragment.
fn plain_url(text: &str) -> Option<String> {
    let text = text.trim_end_matches('/');
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"))?;
    let host = rest.split('/').next().unwrap_or_default().to_ascii_lowercase();
    let plain = rest.bytes().all(|byte| byte.is_ascii_graphic() && !b"@?#\\\"<>".contains(&byte));
    (is_host(&host) && plain).then(|| text.to_owned())
}

/// Whether a text is a name or an address of a host, perhaps with a port.
pub(crate) fn is_host(text: &str) -> bool {
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let Some((address, port)) = rest.split_once(']') else { return false };
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return false;
            }
            ("v6", port)
        }
        None => match text.split_once(':') {
            Some((name, _)) => (name, &text[name.len()..]),
            None => (text, ""),
        },
    };
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    let port_fits = port.is_empty()
        || port.strip_prefix(':').is_some_and(|port| {
            port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0)
        });
    name.len() <= 253 && name.split('.').all(label) && port_fits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_have_the_api_that_such_hosts_have_unless_another_is_named() {
        for (text, origin, api) in [
            ("github.com", "https://github.com", "https://api.github.com"),
            ("GitHub.Example", "https://github.example", "https://github.example/api/v3"),
            ("https://ghe.test:8443/", "https://ghe.test:8443", "https://ghe.test:8443/api/v3"),
            ("http://192.0.2.7:80", "http://192.0.2.7:80", "http://192.0.2.7:80/api/v3"),
            ("github.com = http://127.0.0.1:9/", "https://github.com", "http://127.0.0.1:9"),
            ("http://[2001:db8::1]:80=https://a.test/b", "http://[2001:db8::1]:80", "https://a.test/b"),
        ] {
            let host = GitHubHost::read(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!((host.origin().as_str(), host.api.as_str()), (origin, api), "{text}");
        }
        for text in [
            "",
            "ssh://github.com",
            "user@github.com",
            "github.com/owner",
            "github.com:0",
            "github.com:+1",
            "-x.test",
            "a..b",
            "[::1",
            "[nonsense]",
            "a b",
            "github.com=ftp://x",
            "github.com=https://user@x",
            "github.com=https://x?token=1",
            "github.com=https://",
        ] {
            assert_eq!(GitHubHost::read(text), None, "{text}");
        }
    }
}
