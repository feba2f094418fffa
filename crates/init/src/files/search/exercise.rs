//! What must hold for any patterns.

use super::pattern::Pattern;

/// Takes a text as patterns, and matches them with itself.
///
/// # Panics
/// Something that must hold does not.
pub fn patterns(text: &str) {
    let (pattern, name) = text.split_at_checked(text.len() / 2).unwrap_or((text, text));
    for ignore_case in [false, true] {
        if let Ok(glob) = Pattern::of_names(pattern, ignore_case) {
            glob.is_in(name.as_bytes());
        }
        if let Ok(line) = Pattern::of_lines(pattern, true, ignore_case) {
            line.is_in(name.as_bytes());
        }
        if let Ok(line) = Pattern::of_lines(pattern, false, ignore_case) {
            assert!(line.is_in(text.as_bytes()), "a text is in itself");
        }
    }
    // One that means nothing special is itself.
    if pattern.chars().all(|character| character.is_alphanumeric() || character == '.') && pattern.len() < 4096 {
        let glob = Pattern::of_names(pattern, false).expect("an ordinary name");
        assert!(glob.is_in(pattern.as_bytes()));
        assert_eq!(glob.is_in(name.as_bytes()), name == pattern);
    }
}
