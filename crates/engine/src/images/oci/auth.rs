//! Getting into a registry: what it asks for, and tokens (the distribution project's "Token Authentication").

use serde::Deserialize;

/// What a registry asks for when it answers 401.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// A name and a password with each request.
    Basic,
    /// A token from `realm`.
    Bearer { realm: String, service: Option<String> },
}

impl Challenge {
    /// Reads a `WWW-Authenticate` header (RFC 9110, section 11.6.1); nothing when it asks for something else.
    pub fn parse(header: &str) -> Option<Self> {
        let (scheme, rest) = header.trim().split_once(' ').unwrap_or_else(|| (header.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let mut realm = None;
        let mut service = None;
        let mut rest = rest.trim_start_matches([' ', ',']);
        while let Some((name, after)) = rest.split_once('=') {
            let (value, after) = match after.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"')?,
                None => after.split_once(',').unwrap_or((after, "")),
            };
            match name.trim().to_ascii_lowercase().as_str() {
                "realm" => realm = Some(value.to_owned()),
                "service" => service = Some(value.to_owned()),
                _ => {}
            }
            rest = after.trim_start_matches([' ', ',']);
        }
        Some(Self::Bearer { realm: realm?, service })
    }
}

/// A token server's answer. Some say `token`, some `access_token`, some both.
#[derive(Deserialize)]
pub(super) struct Token {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
}

impl Token {
    pub fn into_text(self) -> Option<String> {
        let text = self.token.filter(|token| !token.is_empty()).or(self.access_token)?;
        text.bytes().all(|byte| byte.is_ascii_graphic()).then_some(text).filter(|text| !text.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_registries_ask_for_is_understood() {
        let bearer = |realm: &str, service: Option<&str>| {
            Some(Challenge::Bearer { realm: realm.into(), service: service.map(Into::into) })
        };
        for (header, challenge) in [
            (
                r#"Bearer realm="https://a.test/token",service="r.test",scope="repository:a/b:pull,push""#,
                bearer("https://a.test/token", Some("r.test")),
            ),
            (r#"bearer scope="x" , realm="https://a.test/t?a=b""#, bearer("https://a.test/t?a=b", None)),
            ("Bearer realm=https://a.test", bearer("https://a.test", None)),
            ("Basic realm=\"x\"", Some(Challenge::Basic)),
            ("BASIC", Some(Challenge::Basic)),
            ("Bearer", None),
            ("Bearer realm=\"unfinished", None),
            ("Negotiate abc", None),
            ("", None),
        ] {
            assert_eq!(Challenge::parse(header), challenge, "{header}");
        }
    }
}
