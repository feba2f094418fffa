//! Texts of clients that git is to take for what they are meant to be: branches, revisions, people.

use super::super::InvalidOrder;

/// Bytes of a branch's name at most: it is a path below `.git/refs/heads`.
const BRANCH_BYTES_MAX: usize = 240;
/// Characters of a person's name or address at most.
const PERSON_CHARS_MAX: usize = 200;

/// Checks the name of a branch, as `git check-ref-format --branch` does.
///
/// # Errors
/// No branch can be called so.
pub(super) fn check_branch(name: &str, field: &str) -> Result<(), InvalidOrder> {
    if is_branch(name) {
        return Ok(());
    }
    let shown: String = name.chars().take(80).collect();
    Err(InvalidOrder(format!("{field}: '{shown}' is not the name of a branch")))
}

/// Checks what can be checked out: a branch, a tag, a commit, and what `~`, `^` and `@{…}` make of them.
///
/// # Errors
/// It is none of that.
pub(super) fn check_revision(text: &str) -> Result<(), InvalidOrder> {
    let is_step = |step: &str| {
        let mut bytes = step.bytes();
        matches!(bytes.next(), Some(b'~' | b'^')) && bytes.all(|byte| byte.is_ascii_digit() || b"~^".contains(&byte))
    };
    let steps = text.find(['~', '^']).map_or("", |at| &text[at..]);
    let base = &text[..text.len() - steps.len()];
    let base = match base.split_once("@{") {
        Some((base, place)) if place.ends_with('}') && !place.chars().any(char::is_control) => base,
        Some(_) | None => base,
    };
    let stands_for_head = base == "@" || (base.is_empty() && text.starts_with("@{"));
    if text.len() <= BRANCH_BYTES_MAX
        && (steps.is_empty() || is_step(steps))
        && (is_branch(base) || base == "HEAD" || stands_for_head)
    {
        return Ok(());
    }
    let shown: String = text.chars().take(80).collect();
    Err(InvalidOrder(format!("branch: '{shown}' is not the name of a branch, a tag, a commit or a file")))
}

pub(super) fn is_branch(name: &str) -> bool {
    let part = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.ends_with(".lock");
    let strange = |c: char| c.is_ascii_control() || " ~^:?*[\\".contains(c);
    name.len() <= BRANCH_BYTES_MAX
        && !name.starts_with('-')
        && name.split('/').all(part)
        && !name.contains(strange)
        && !name.contains("..")
        && !name.contains("@{")
        && !name.ends_with('.')
        && !matches!(name, "@" | "HEAD")
}

/// Checks the name or the address of who commits; an empty one is none.
///
/// # Errors
/// Git would not take it as it is.
pub(super) fn check_person(text: Option<String>, field: &str) -> Result<Option<String>, InvalidOrder> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    // Git leaves these out where they stand at an edge, and takes a name of nothing else for none.
    let crud = |c: char| c <= ' ' || ".,:;<>\"\\'".contains(c);
    let strange = text.chars().any(|c| c.is_control() || matches!(c, '<' | '>'));
    if text.chars().count() > PERSON_CHARS_MAX || strange || text.starts_with('-') || text.chars().all(crud) {
        return Err(InvalidOrder(format!(
            "{field} must have 1 to {PERSON_CHARS_MAX} characters, not begin with '-', and have no '<', '>' or control characters"
        )));
    }
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn branches_are_called_as_git_lets_them() {
        for name in ["main", "feature/it", "v1.2", "fix#3", "a-b_c", "über", "README.md", "x@y"] {
            assert!(is_branch(name) && check_revision(name).is_ok(), "{name}");
        }
        for name in [
            "",
            "-x",
            "--orphan",
            "/x",
            "x/",
            "a//b",
            ".x",
            "a/.b",
            "x.lock",
            "a..b",
            "a b",
            "a~1",
            "a^",
            "a:b",
            "a?",
            "*",
            "a[b",
            "a\\b",
            "x.",
            "@",
            "HEAD",
            "a@{b",
            "a\nb",
            "\u{7f}",
            &"x".repeat(241),
        ] {
            assert!(!is_branch(name), "{name}");
            assert!(check_branch(name, "branch").is_err(), "{name}");
        }
    }

    #[test]
    fn revisions_are_branches_and_steps_from_them() {
        for text in [
            "HEAD",
            "HEAD~2",
            "HEAD^",
            "main^2~3",
            "@",
            "@~1",
            "@{-1}",
            "@{upstream}",
            "main@{1}",
            "main@{yesterday}~1",
        ] {
            assert!(check_revision(text).is_ok(), "{text}");
        }
        for text in [
            "",
            "-",
            "--",
            "-f",
            ".",
            "..",
            ":/x",
            ":(top)x",
            "*",
            "a b",
            "main:file",
            "HEAD~x",
            "a..b",
            "@{",
            "~1",
            "x@{\n}",
        ] {
            assert!(check_revision(text).is_err(), "{text}");
        }
    }

    #[test]
    fn people_are_called_as_git_takes_them() {
        let check = |text: &str| check_person(Some(text.into()), "author_name");
        for text in ["Ada Lovelace", "O'Neill", "名前", "ada@example.com", "Ünal, M."] {
            assert_eq!(check(text), Ok(Some(text.to_owned())));
        }
        assert_eq!((check(""), check_person(None, "x")), (Ok(None), Ok(None)));
        for text in [" ", "...", "-x", "a <b@c>", "a\nb", "a\0", &"x".repeat(201)] {
            assert!(check(text).is_err(), "{text}");
        }
    }
}
