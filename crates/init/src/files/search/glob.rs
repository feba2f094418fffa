//! Patterns for names: `*` and `?` as in a shell, `**` for any number of folders, `[a-z]` and `[!a-z]`, `{one,other}`, and `\` before
//! what shall be meant as it is. They become regular expressions, which take time in proportion to what they are matched against.

use crate::files::refusal::Refusal;

/// Alternatives within alternatives at most.
const DEPTH: usize = 20;

/// Any character of a name.
const ANY: &str = "[^/]";

/// A regular expression for whole names, or paths.
pub fn regex(glob: &str) -> Result<String, Refusal> {
    let mut regex = String::from(r"(?s)\A(?:");
    let mut depth = 0;
    let mut rest = glob;
    while let Some(character) = rest.chars().next() {
        let after = &rest[character.len_utf8()..];
        rest = after;
        match character {
            '*' => {
                let stars = after.len() - after.trim_start_matches('*').len();
                rest = &after[stars..];
                let at_start = regex.ends_with("(?:") || regex.ends_with('/');
                if stars == 0 {
                    regex.push_str(ANY);
                    regex.push('*');
                } else if at_start && rest.starts_with('/') {
                    rest = &rest[1..];
                    regex.push_str("(?:.*/)?");
                } else {
                    regex.push_str(".*");
                }
            }
            '?' => regex.push_str(ANY),
            '[' => match class(after) {
                Some((class, end)) => {
                    regex.push_str(&class);
                    rest = end;
                }
                None => regex.push_str(r"\["),
            },
            '{' => {
                depth += 1;
                if depth > DEPTH {
                    return Err(Refusal::invalid("the pattern has too many braces within braces"));
                }
                regex.push_str("(?:");
            }
            '}' if depth > 0 => {
                depth -= 1;
                regex.push(')');
            }
            ',' if depth > 0 => regex.push('|'),
            '\\' => {
                let next = after.chars().next().ok_or_else(|| Refusal::invalid("the pattern ends in a backslash"))?;
                rest = &after[next.len_utf8()..];
                escape(next, &mut regex);
            }
            other => escape(other, &mut regex),
        }
    }
    if depth > 0 {
        return Err(Refusal::invalid("the pattern has a brace that is not closed"));
    }
    regex.push_str(r")\z");
    Ok(regex)
}

/// A set of characters, and what comes after it. None where it has no end.
fn class(glob: &str) -> Option<(String, &str)> {
    let (not, mut rest) = match glob.strip_prefix(['!', '^']) {
        Some(rest) => (true, rest),
        None => (false, glob),
    };
    let mut class = String::from(if not { "[^/" } else { "[" });
    let start = rest.len();
    loop {
        let character = rest.chars().next()?;
        let is_first = rest.len() == start;
        rest = &rest[character.len_utf8()..];
        match character {
            ']' if !is_first => break,
            // Between two others it makes a range.
            '-' if !is_first && !rest.starts_with(']') => class.push('-'),
            '\\' => {
                let next = rest.chars().next()?;
                rest = &rest[next.len_utf8()..];
                escape(next, &mut class);
            }
            other => escape(other, &mut class),
        }
    }
    class.push(']');
    Some((class, rest))
}

fn escape(character: char, to: &mut String) {
    // Those that mean something, and no others: some get a meaning by it.
    if r"\.+*?()|[]{}^$#&-~".contains(character) {
        to.push('\\');
    }
    to.push(character);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::search::pattern::Pattern;

    fn matches(glob: &str, name: impl AsRef<[u8]>) -> bool {
        Pattern::of_names(glob, false).expect("a pattern").is_in(name.as_ref())
    }

    #[test]
    fn names_match_as_in_a_shell() {
        for (glob, fits, not) in [
            ("*.rs", &["a.rs", ".rs", "ü.rs"][..], &["a.rsx", "a/b.rs", "rs"][..]),
            ("a?c", &["abc", "aüc"], &["ac", "abbc", "a/c"]),
            ("[a-c]x", &["ax", "cx"], &["dx", "x"]),
            ("[!a-c]x", &["dx", "üx"], &["ax", "/x"]),
            ("[]a]", &["]", "a"], &["b"]),
            ("[a", &["[a"], &["a"]),
            ("[a-]", &["a", "-"], &["b"]),
            ("[[:x]", &["[", ":", "x"], &["]"]),
            ("{a,b*}.{x,y}", &["a.x", "bcd.y"], &["c.x", "a.z"]),
            ("{a,{b,c}}", &["a", "b", "c"], &["d"]),
            ("\\*\\{", &["*{"], &["a{"]),
            ("a.b", &["a.b"], &["axb"]),
            ("<a>&[<-~]", &["<a>&=", "<a>&~"], &["a&=", "<a>&!"]),
            ("a}b,c", &["a}b,c"], &["a"]),
            ("**/x", &["x", "a/x", "a/b/x"], &["ax", "a/xb"]),
            ("a/**", &["a/", "a/b", "a/b/c"], &["a", "b/a"]),
            ("a/**/b", &["a/b", "a/x/b", "a/x/y/b"], &["ab", "a/xb"]),
            ("src/*.rs", &["src/a.rs"], &["src/a/b.rs"]),
            ("**", &["", "a/b\n"], &[]),
        ] {
            assert!(fits.iter().all(|name| matches(glob, name)), "{glob}");
            assert!(!not.iter().any(|name| matches(glob, name)), "{glob}");
        }
        assert!(matches("*x", b"\xff\xfex") && matches("?x", b"\xffx") && !matches("x", b"\xff"));
        assert!(regex("{a").is_err() && regex("a\\").is_err() && regex(&"{".repeat(50)).is_err());
    }
}
