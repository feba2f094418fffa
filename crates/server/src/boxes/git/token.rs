//! Tokens: what opens a repository to whoever has it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::super::InvalidOrder;
use crate::config::Secret;

/// Characters of a token at least: what is shorter is none, and could not be kept out of texts.
const CHARS_MIN: usize = 4;
/// Characters of a token at most.
const CHARS_MAX: usize = 1024;
/// The variable that git's helper finds the token in.
pub(super) const VARIABLE: &str = "BOXYARD_GIT_TOKEN";
/// The user name that goes with a token; GitHub takes any.
const USER: &str = "x-access-token";
/// What is put where a secret was.
const HIDDEN: &[u8] = b"***";

/// A token for GitHub, or another host that takes one as a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token(Secret);

impl Token {
    /// Checks a token that was sent; an empty one is none.
    ///
    /// # Errors
    /// It cannot be one. The text does not show it.
    pub fn check(text: Option<String>) -> Result<Option<Self>, InvalidOrder> {
        let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
        let fits = (CHARS_MIN..=CHARS_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        if !fits {
            return Err(InvalidOrder(format!(
                "github_token must have {CHARS_MIN} to {CHARS_MAX} visible ASCII characters"
            )));
        }
        Ok(Some(Self(Secret::new(text))))
    }

    /// One that the server has kept.
    pub(super) fn kept(secret: Secret) -> Self {
        Self(secret)
    }

    pub(crate) fn secret(&self) -> &Secret {
        &self.0
    }

    /// Takes the token out of what git or GitHub said, in each form in which it was given away. With `cut`, more followed, and the
    /// beginning of a token may be the end of this.
    pub(super) fn scrub(&self, bytes: &mut Vec<u8>, cut: bool) {
        let plain = self.0.expose();
        let forms = [plain.to_owned(), STANDARD.encode(format!("{USER}:{plain}")), percent(plain)];
        for form in &forms {
            hide(bytes, form.as_bytes(), cut);
        }
    }

    /// The same, of a text.
    pub(super) fn scrubbed(&self, text: String) -> String {
        let mut bytes = text.into_bytes();
        self.scrub(&mut bytes, false);
        String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
    }
}

/// A token and the hosts that may have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) token: Token,
    /// URLs without a path, such as `https://github.com`.
    pub(super) origins: Vec<String>,
}

impl Credentials {
    /// What stands between `git` and its own arguments: for these hosts no other helper is asked than one that knows the variable.
    pub(super) fn arguments(&self) -> Vec<String> {
        let helper = format!(
            "!f() {{ test \"$1\" = get || exit 0; printf 'username={USER}\\npassword=%s\\n' \"${VARIABLE}\"; }}; f"
        );
        let of_origin = |origin: &String| {
            let key = format!("credential.{origin}.helper");
            ["-c".to_owned(), format!("{key}="), "-c".to_owned(), format!("{key}={helper}")]
        };
        self.origins.iter().flat_map(of_origin).collect()
    }

    pub(super) fn variable(&self) -> String {
        format!("{VARIABLE}={}", self.token.0.expose())
    }
}

/// As it stands in a URL.
fn percent(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

fn hide(bytes: &mut Vec<u8>, secret: &[u8], cut: bool) {
    let mut clean = Vec::new();
    let mut rest = bytes.as_slice();
    while let Some(at) = rest.windows(secret.len()).position(|window| window == secret) {
        clean.extend_from_slice(&rest[..at]);
        clean.extend_from_slice(HIDDEN);
        rest = &rest[at + secret.len()..];
    }
    let begun = (CHARS_MIN..secret.len()).rev().find(|&length| cut && rest.ends_with(&secret[..length]));
    let rest = &rest[..rest.len() - begun.unwrap_or(0)];
    if clean.is_empty() {
        let length = rest.len();
        bytes.truncate(length);
    } else {
        clean.extend_from_slice(rest);
        *bytes = clean;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(text: &str) -> Token {
        Token::check(Some(text.into())).expect("a token").expect("not empty")
    }

    fn scrubbed(said: &str, cut: bool) -> String {
        let mut bytes = said.as_bytes().to_vec();
        token("ghp/secret+1").scrub(&mut bytes, cut);
        String::from_utf8(bytes).expect("text")
    }

    #[test]
    fn a_token_is_taken_out_in_every_form() {
        let basic = STANDARD.encode("x-access-token:ghp/secret+1");
        for (said, clean) in [
            ("ghp/secret+1".to_owned(), "***"),
            ("a ghp/secret+1 and ghp/secret+1 b".to_owned(), "a *** and *** b"),
            (format!("Authorization: Basic {basic}\n"), "Authorization: Basic ***\n"),
            ("https://x:ghp%2Fsecret%2B1@h/".to_owned(), "https://x:***@h/"),
            ("ghp/secret is another".to_owned(), "ghp/secret is another"),
        ] {
            assert_eq!(scrubbed(&said, false), clean);
        }
        assert_eq!(scrubbed("first ghp/secret+1, last ghp/sec", true), "first ***, last ");
        assert_eq!(scrubbed("last ghp/sec", true), "last ");
        assert_eq!(scrubbed("last ghp/sec", false), "last ghp/sec");
    }

    #[test]
    fn a_token_is_nothing_that_could_be_something_else() {
        assert_eq!(Token::check(None), Ok(None));
        assert_eq!(Token::check(Some(String::new())), Ok(None));
        for text in ["abc", "with space", "two\nlines", "nul\0nul", "ümlaut-token", &"x".repeat(1025)] {
            let error = Token::check(Some(text.to_owned())).expect_err(text);
            assert!(!error.to_string().contains(text), "the text shows it");
        }
        assert!(!format!("{:?}", token("ghp_secret")).contains("ghp_secret"));
    }

    #[test]
    fn only_the_hosts_that_are_named_may_have_it() {
        let credentials = Credentials { token: token("ghp_secret"), origins: vec!["https://github.com".into()] };
        let arguments = credentials.arguments();
        assert_eq!(arguments[..3], ["-c", "credential.https://github.com.helper=", "-c"]);
        assert!(arguments[3].starts_with("credential.https://github.com.helper=!f()"), "{arguments:?}");
        assert!(!arguments.concat().contains("ghp_secret"));
        assert_eq!(credentials.variable(), "BOXYARD_GIT_TOKEN=ghp_secret");
    }
}
