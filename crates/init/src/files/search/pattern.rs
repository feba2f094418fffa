//! What a name or a line is compared with.

use std::borrow::Cow;

use memchr::memchr2_iter;
use memchr::memmem::Finder;
use regex_lite::{Regex, RegexBuilder};

use super::glob;
use crate::files::refusal::Refusal;

/// Bytes of a pattern at most.
const PATTERN_MAX: usize = 4096;

/// Bytes that a pattern may become. Time is in proportion to that and to what is searched.
const PROGRAM_MAX: usize = 128 * 1024;

/// Groups within groups at most.
const DEPTH: u32 = 50;

/// A text or a regular expression.
#[derive(Debug)]
pub enum Pattern {
    /// A text.
    Text(Box<Finder<'static>>),
    /// A text, whatever the case of its letters is. Never empty.
    Caseless(Vec<u8>),
    /// An expression, which sees what is not UTF-8 as replacement characters.
    Regex(Regex),
}

impl Pattern {
    /// For whole names or paths that fit `glob`.
    pub fn of_names(glob: &str, ignore_case: bool) -> Result<Self, Refusal> {
        check(glob)?;
        compile(&glob::regex(glob)?, ignore_case)
    }

    /// For lines that contain `text`, or what it means as an expression.
    pub fn of_lines(text: &str, is_regex: bool, ignore_case: bool) -> Result<Self, Refusal> {
        check(text)?;
        if is_regex {
            compile(text, ignore_case)
        } else if ignore_case {
            Ok(Self::Caseless(text.as_bytes().to_vec()))
        } else {
            Ok(Self::Text(Box::new(Finder::new(text).into_owned())))
        }
    }

    /// Whether it is in `bytes`.
    pub fn is_in(&self, bytes: &[u8]) -> bool {
        match self {
            Self::Text(text) => text.find(bytes).is_some(),
            Self::Caseless(text) => is_in_caseless(text, bytes),
            Self::Regex(regex) => regex.is_match(&text(bytes)),
        }
    }

    /// False when it is surely in no line of `bytes`.
    pub fn may_be_in_lines_of(&self, bytes: &[u8]) -> bool {
        match self {
            Self::Text(_) | Self::Caseless(_) => self.is_in(bytes),
            Self::Regex(_) => true,
        }
    }
}

/// Whether a text is in `bytes`, where the case of ASCII letters does not matter.
fn is_in_caseless(text: &[u8], bytes: &[u8]) -> bool {
    let Some(first) = text.first() else { return true };
    let mut starts = memchr2_iter(first.to_ascii_lowercase(), first.to_ascii_uppercase(), bytes);
    starts.any(|start| bytes.get(start..start + text.len()).is_some_and(|piece| piece.eq_ignore_ascii_case(text)))
}

/// Bytes as a text.
fn text(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

fn check(pattern: &str) -> Result<(), Refusal> {
    if pattern.len() > PATTERN_MAX { Err(Refusal::invalid("the pattern is too long")) } else { Ok(()) }
}

fn compile(pattern: &str, ignore_case: bool) -> Result<Pattern, Refusal> {
    let mut builder = RegexBuilder::new(pattern);
    builder.case_insensitive(ignore_case).crlf(true).size_limit(PROGRAM_MAX).nest_limit(DEPTH);
    builder.build().map(Pattern::Regex).map_err(|error| Refusal::invalid(format!("the pattern is none: {error}")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn texts_are_found_as_expressions_are(text in "[aAbB.é]{1,3}", bytes in "[aAbB.éÉ\n]{0,20}") {
            for ignore_case in [false, true] {
                let plain = Pattern::of_lines(&text, false, ignore_case).expect("a text");
                let regex = Pattern::of_lines(&regex_lite::escape(&text), true, ignore_case).expect("an expression");
                prop_assert_eq!(plain.is_in(bytes.as_bytes()), regex.is_in(bytes.as_bytes()));
                prop_assert_eq!(plain.may_be_in_lines_of(bytes.as_bytes()), plain.is_in(bytes.as_bytes()));
            }
        }
    }
}
