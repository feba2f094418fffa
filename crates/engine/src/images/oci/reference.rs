//! Names of images in registries: `docker.io/library/alpine:3.22`, `registry.test:5000/team/tool@sha256:…`.

use std::fmt;

/// The registry meant by names without one, and the host that serves it.
const DOCKER_HUB: &str = "docker.io";
const DOCKER_HUB_API: &str = "registry-1.docker.io";

const REPOSITORY_MAX: usize = 255;
const TAG_MAX: usize = 128;
const HOST_MAX: usize = 255;

/// A SHA-256 in the form `sha256:…`, the only algorithm that registries use and we take.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Digest(String);

impl Digest {
    /// The 64 hexadecimal digits.
    pub fn hex(&self) -> &str {
        &self.0
    }

    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        Self::finish(sha2::Sha256::new_with_prefix(bytes))
    }

    /// The digest of all that `hash` was fed.
    pub fn finish(hash: sha2::Sha256) -> Self {
        use sha2::Digest as _;
        Self(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

impl TryFrom<String> for Digest {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let hex = text.strip_prefix("sha256:").ok_or_else(|| format!("{:?} is no sha256 digest", shorten(&text)))?;
        if hex.len() != 64 || !hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(format!("{:?} is no sha256 digest: 64 digits of 0-9 and a-f", shorten(&text)));
        }
        Ok(Self(hex.to_owned()))
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An image in a registry. Read as Docker reads it: without a host it is on Docker Hub, without a tag it is `latest`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::images) struct Reference {
    /// Host and, where it is not the usual one, port: `docker.io`, `registry.test:5000`.
    pub registry: String,
    /// `library/alpine`.
    pub repository: String,
    /// Says which image while there is no digest.
    pub tag: Option<String>,
    /// Says exactly which image.
    pub digest: Option<Digest>,
}

impl Reference {
    /// Reads a reference; the error is a sentence about what to change.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| format!("{:?} {why}", shorten(text));
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(Digest::try_from(digest.to_owned())?)),
            None => (text, None),
        };
        // A colon after the last slash begins a tag; one before it a port.
        let cut = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match rest[cut..].split_once(':') {
            Some((last, tag)) => (&rest[..cut + last.len()], Some(tag)),
            None => (rest, None),
        };
        let (registry, repository) = match name.split_once('/') {
            Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (host, path.to_owned()),
            _ => (DOCKER_HUB, name.to_owned()),
        };
        // Hosts are the same in whatever case, so before anything is compared.
        let registry = match registry.to_ascii_lowercase().as_str() {
            "index.docker.io" | DOCKER_HUB_API => DOCKER_HUB.to_owned(),
            other => other.to_owned(),
        };
        let repository = if registry == DOCKER_HUB && !repository.contains('/') {
            format!("library/{repository}")
        } else {
            repository
        };
        if !is_host(&registry) {
            return Err(wrong("does not name a registry: HOST or HOST:PORT is what stands before the first slash"));
        }
        if repository.len() > REPOSITORY_MAX || !repository.split('/').all(is_component) {
            return Err(wrong(
                "is no name of an image: [HOST[:PORT]/]PATH[:TAG][@sha256:DIGEST], the path in lower case",
            ));
        }
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(wrong("has a wrong tag: at most 128 letters, digits, `_`, `.` and `-`"));
        }
        let tag = match (tag, &digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, Some(_)) => None,
            (None, None) => Some("latest".to_owned()),
        };
        Ok(Self { registry, repository, tag, digest })
    }

    /// The host that serves the registry's API.
    pub fn api_host(&self) -> &str {
        if self.registry == DOCKER_HUB { DOCKER_HUB_API } else { &self.registry }
    }

    /// What stands for the image in the API: the digest, or the tag.
    pub fn wanted(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".to_owned(),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// Whether `text` is a host with an optional port. It becomes part of URLs.
pub(super) fn is_host(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) if address.parse::<std::net::Ipv6Addr>().is_ok() => ("v6", port.strip_prefix(':')),
            _ => return false,
        },
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
    };
    text.len() <= HOST_MAX
        && host.split('.').all(label)
        && port.is_none_or(|port| port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok())
}

/// The distribution specification's rule for a part of a repository's name.
fn is_component(text: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.first().is_some_and(|byte| alphanumeric(*byte))
        && bytes.last().is_some_and(|byte| alphanumeric(*byte))
        && bytes.iter().all(|byte| alphanumeric(*byte) || matches!(byte, b'.' | b'_' | b'-'))
        && !text.contains("..")
}

fn is_tag(text: &str) -> bool {
    (1..=TAG_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
        && !text.starts_with(['.', '-'])
}

fn shorten(text: &str) -> String {
    text.chars().take(100).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn references_are_read_as_docker_reads_them() {
        for (text, whole) in [
            ("alpine", "docker.io/library/alpine:latest"),
            ("alpine:3.22", "docker.io/library/alpine:3.22"),
            ("team/tool", "docker.io/team/tool:latest"),
            ("docker.io/library/alpine:3.22", "docker.io/library/alpine:3.22"),
            ("index.docker.io/alpine", "docker.io/library/alpine:latest"),
            // Found by a fuzzer: this was another image of the same registry.
            ("doCker.io/alpine", "docker.io/library/alpine:latest"),
            ("Index.Docker.io/alpine", "docker.io/library/alpine:latest"),
            ("localhost/a", "localhost/a:latest"),
            ("127.0.0.1:5000/a/b:c", "127.0.0.1:5000/a/b:c"),
            ("[::1]:5000/a", "[::1]:5000/a:latest"),
            ("Registry.Test/a__b/c-d", "registry.test/a__b/c-d:latest"),
            (&format!("r.test/a@sha256:{HEX}"), &format!("r.test/a@sha256:{HEX}")),
            (&format!("r.test/a:t@sha256:{HEX}"), &format!("r.test/a:t@sha256:{HEX}")),
        ] {
            let reference = Reference::parse(text).unwrap();
            assert_eq!(reference.to_string(), whole);
            assert_eq!(Reference::parse(whole).unwrap(), reference);
        }
        assert_eq!(Reference::parse("alpine").unwrap().api_host(), "registry-1.docker.io");
        assert_eq!(Reference::parse(&format!("r.test/a:t@sha256:{HEX}")).unwrap().wanted(), format!("sha256:{HEX}"));
    }

    #[test]
    fn what_would_become_another_url_is_refused() {
        for text in [
            "",
            "/",
            "a//b",
            "a/../b",
            "r.test/..",
            "r.test/a?b",
            "r.test/a#b",
            "r.test/a b",
            "r.test/A",
            "r.test:x/a",
            "u@r.test/a",
            "u:p@r.test/a",
            "r.test:99999/a",
            "a:",
            "a:b:c",
            "a:.b",
            "r.test/a%2e",
            "[::1/a",
            "-r.test/a",
            "a@sha512:00",
            "a@sha256:00",
            "https://r.test/a",
            "r.test/",
            "a\n",
        ] {
            assert!(Reference::parse(text).is_err(), "{text:?}");
        }
        assert!(Digest::try_from(format!("sha256:{}", HEX.to_uppercase())).is_err());
    }
}
