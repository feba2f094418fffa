//! Addresses of repositories: what a client wants cloned, and what a box says that its `origin` is.

use super::super::InvalidOrder;
use crate::config::{GitHubHost, is_host};

/// Bytes of an address at most.
const BYTES_MAX: usize = 4096;
/// Bytes of a folder's name at most.
const NAME_BYTES_MAX: usize = 255;

/// The address of a repository, as git is to be given it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    address: String,
    name: String,
    /// Where it is, if it is reached by HTTP: `https://github.com`, in lower case and without a path.
    origin: Option<String>,
    /// The host by its name, whatever it is reached by, with its port where it is reached by HTTP.
    host: Option<String>,
    path: String,
}

/// A repository of GitHub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OfGitHub {
    pub(super) owner: String,
    pub(super) name: String,
}

impl Repository {
    /// Reads an address: a URL that git knows, the same without `https://`, `user@host:path`, or an absolute path in the box.
    ///
    /// # Errors
    /// Says what is wrong with it. The text does not show it: it may have a password in it.
    pub fn parse(text: &str) -> Result<Self, InvalidOrder> {
        let text = text.trim();
        let refused = |why: &str| Err(InvalidOrder(format!("repo {why}")));
        if text.is_empty() {
            return refused("is required: the URL of a repository, such as https://github.com/owner/name");
        }
        if text.len() > BYTES_MAX || text.chars().any(char::is_control) {
            return refused(&format!("must have at most {BYTES_MAX} bytes and no control characters"));
        }
        if text.starts_with('/') {
            return Self::new(text.to_owned(), None, None, text);
        }
        if let Some((scheme, rest)) = text.split_once("://") {
            return Self::of_url(&scheme.to_ascii_lowercase(), rest);
        }
        let (first, path) = text.split_once('/').unwrap_or((text, ""));
        if let Some((user, rest)) = text.split_once('@')
            && let Some((host, path)) = rest.split_once(':')
            && is_user(user)
            && is_host(host)
            && !path.is_empty()
        {
            return Self::new(text.to_owned(), None, Some(host.to_ascii_lowercase()), path);
        }
        let names_a_host = is_host(first) && (first.contains(['.', ':']) || first == "localhost");
        if names_a_host && !path.is_empty() {
            return Self::of_url("https", text);
        }
        refused(
            "must be the URL of a repository, such as https://github.com/owner/name, or an absolute path in the box",
        )
    }

    fn of_url(scheme: &str, rest: &str) -> Result<Self, InvalidOrder> {
        let refused = |why: &str| Err(InvalidOrder(format!("repo {why}")));
        if scheme == "file" {
            return Self::new(format!("file://{rest}"), None, None, rest);
        }
        if !matches!(scheme, "https" | "http" | "ssh" | "git") {
            return refused("must begin with https://, http://, ssh://, git:// or file://");
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        if user.is_some_and(|user| user.contains(':')) {
            return refused(
                "must not have a password in it: send it as github_token, which is not written down in the box",
            );
        }
        if !is_host(host) || user.is_some_and(|user| !is_user(user)) {
            return refused("has no valid host");
        }
        let host = host.to_ascii_lowercase();
        let by_http = matches!(scheme, "https" | "http");
        let known = match (by_http, host.starts_with('[')) {
            // Over SSH the port is that of SSH.
            (false, false) => host.split(':').next().unwrap_or_default().to_owned(),
            (true, _) | (false, true) => host.clone(),
        };
        let origin = by_http.then(|| format!("{scheme}://{host}"));
        Self::new(format!("{scheme}://{rest}"), origin, Some(known), path)
    }

    fn new(address: String, origin: Option<String>, host: Option<String>, path: &str) -> Result<Self, InvalidOrder> {
        let path = path.trim_matches('/');
        let stem = path.strip_suffix("/.git").unwrap_or(path).trim_end_matches('/');
        let name = stem.rsplit(['/', ':']).next().unwrap_or_default();
        let name = name.strip_suffix(".git").unwrap_or(name);
        if matches!(name, "" | "." | "..") || name.len() > NAME_BYTES_MAX {
            return Err(InvalidOrder("repo does not name a repository".into()));
        }
        Ok(Self { address, name: name.to_owned(), origin, host, path: path.to_owned() })
    }

    /// As git is to be given it.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// What its folder is called unless something else is said.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Where it is, if a token can be sent there: never without TLS, unless the operator says so of the host.
    pub(super) fn origin_for_token(&self, hosts: &[GitHubHost]) -> Option<String> {
        let origin = self.origin.as_ref()?;
        let may = origin.starts_with("https://") || hosts.iter().any(|host| host.origin() == *origin);
        may.then(|| origin.clone())
    }

    /// Which of these hosts it is on, and what it is there.
    pub(super) fn on_github<'a>(&self, hosts: &'a [GitHubHost]) -> Option<(&'a GitHubHost, OfGitHub)> {
        let host = self.host.as_deref()?;
        let host = hosts.iter().find(|known| match &self.origin {
            Some(origin) => known.origin() == *origin,
            None => known.host.split(':').next() == Some(host),
        })?;
        let (owner, name) = self.path.split_once('/')?;
        let name = name.strip_suffix(".git").unwrap_or(name);
        // What they have is put into paths of URLs.
        let fits = |text: &str, more: &[u8]| {
            (1..=100).contains(&text.len())
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || more.contains(&byte))
                && !matches!(text, "." | "..")
        };
        let fits = fits(owner, b"-_") && fits(name, b"-_.");
        fits.then(|| (host, OfGitHub { owner: owner.to_owned(), name: name.to_owned() }))
    }
}

fn is_user(text: &str) -> bool {
    (1..=100).contains(&text.len())
        && !text.starts_with('-')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.+%~".contains(&byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hosts() -> Vec<GitHubHost> {
        let host =
            |host: &str, insecure| GitHubHost { host: host.into(), insecure, api: format!("https://api.{host}") };
        vec![host("github.com", false), host("ghe.test:8443", false), host("192.0.2.7:80", true)]
    }

    #[test]
    fn addresses_are_what_git_takes_and_give_a_folder_its_name() {
        for (text, address, name) in [
            ("https://github.com/octocat/Hello-World.git", "https://github.com/octocat/Hello-World.git", "Hello-World"),
            ("github.com/octocat/Hello-World", "https://github.com/octocat/Hello-World", "Hello-World"),
            (" HTTPS://GitHub.com/a/b/ ", "https://GitHub.com/a/b/", "b"),
            ("localhost:3000/a/b", "https://localhost:3000/a/b", "b"),
            ("git@github.com:a/b.git", "git@github.com:a/b.git", "b"),
            ("ssh://git@github.com:22/a/b", "ssh://git@github.com:22/a/b", "b"),
            ("/srv/origin.git", "/srv/origin.git", "origin"),
            ("/srv/work/.git", "/srv/work/.git", "work"),
            ("file:///srv/x", "file:///srv/x", "x"),
            ("https://user@x.test/-x", "https://user@x.test/-x", "-x"),
        ] {
            let parsed = Repository::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!((parsed.address(), parsed.name()), (address, name), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_without_being_shown() {
        for text in [
            "",
            "-x",
            "--upload-pack=evil",
            "owner/name",
            "name",
            "ext::sh -c evil",
            "https://",
            "https://x.test",
            "https://x.test/",
            "https://x.test/..",
            "https://-x/a",
            "https://x y/a",
            "ftp://x.test/a",
            "ssh://-oProxyCommand=evil/a",
            "-oProxyCommand=evil@x:y",
            "git@-oProxyCommand=evil:a",
            "https://x.test/a\nb",
            "https://user:s3cret@x.test/a/b",
            "https://:s3cret@x.test/a/b",
        ] {
            let error = Repository::parse(text).expect_err(text).to_string();
            assert!(!error.contains("s3cret") && !error.contains("evil"), "{error}");
        }
    }

    #[test]
    fn repositories_of_github_are_found_by_any_address_of_theirs() {
        let hosts = hosts();
        let of = |text: &str| {
            let (host, OfGitHub { owner, name }) = Repository::parse(text).ok()?.on_github(&hosts)?;
            Some(format!("{} {owner} {name}", host.host))
        };
        for text in [
            "https://github.com/octo-cat/Hello.World.git",
            "https://x-access-token@github.com/octo-cat/Hello.World",
            "git@github.com:octo-cat/Hello.World.git",
            "git@github.com:/octo-cat/Hello.World",
            "ssh://git@github.com:22/octo-cat/Hello.World.git",
        ] {
            assert_eq!(of(text).as_deref(), Some("github.com octo-cat Hello.World"), "{text}");
        }
        assert_eq!(of("https://ghe.test:8443/a/b").as_deref(), Some("ghe.test:8443 a b"));
        assert_eq!(of("git@ghe.test:a/b").as_deref(), Some("ghe.test:8443 a b"));
        assert_eq!(of("http://192.0.2.7:80/a/b").as_deref(), Some("192.0.2.7:80 a b"));
        for text in [
            "https://gitlab.test/a/b",
            "http://github.com/a/b",
            "https://github.com:444/a/b",
            "https://github.com.evil.test/a/b",
            "https://github.com/a",
            "https://github.com/a/b/c",
            "https://github.com/../b",
            "https://github.com/a/b?x=y",
            "https://github.com/a/%2e%2e",
            "https://evil.test/github.com/a/b",
            "/github.com/a/b",
        ] {
            assert_eq!(of(text), None, "{text}");
        }
    }

    #[test]
    fn a_token_is_never_sent_in_the_clear_to_a_host_that_nobody_named() {
        let origin = |text: &str| Repository::parse(text).ok().and_then(|parsed| parsed.origin_for_token(&hosts()));
        assert_eq!(origin("https://x@GitLab.test/a/b").as_deref(), Some("https://gitlab.test"));
        assert_eq!(origin("http://192.0.2.7:80/a").as_deref(), Some("http://192.0.2.7:80"));
        for text in ["http://github.com/a/b", "http://192.0.2.7/a", "git@github.com:a/b", "/srv/x", "file:///srv/x"] {
            assert_eq!(origin(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,60}") {
            if let Ok(parsed) = Repository::parse(&text) {
                prop_assert!(!parsed.address().starts_with('-'));
                prop_assert!(!parsed.name().contains('/') && !parsed.name().is_empty());
            }
        }

        #[test]
        fn what_is_on_github_is_fit_for_a_path(owner in "\\PC{1,20}", name in "\\PC{1,20}") {
            let hosts = hosts();
            let parsed = Repository::parse(&format!("https://github.com/{owner}/{name}"));
            if let Some((_, of)) = parsed.ok().and_then(|parsed| parsed.on_github(&hosts)) {
                prop_assert!(!of.owner.contains(['/', '?', '#', '%', '.']) && !of.name.contains(['/', '?', '#', '%']));
            }
        }
    }
}
