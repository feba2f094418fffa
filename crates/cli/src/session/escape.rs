//! The way out of a session whose program takes every key: `~.` at the beginning of a line, as in ssh.

/// What a user may type instead of it.
const DEFAULT: u8 = b'~';

/// Finds the escape in what is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Escape {
    key: Option<u8>,
    at: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// At the beginning of a line.
    Beginning,
    /// Behind an escape key there, which has not been passed on.
    Escaped,
    Elsewhere,
}

impl Default for Escape {
    fn default() -> Self {
        Self { key: Some(DEFAULT), at: Place::Beginning }
    }
}

impl Escape {
    /// Passes on what is typed, and says whether the user wants to leave.
    pub(super) fn pass(&mut self, typed: &[u8], on: &mut Vec<u8>) -> bool {
        let Some(key) = self.key else {
            on.extend_from_slice(typed);
            return false;
        };
        for &byte in typed {
            match self.at {
                Place::Beginning if byte == key => {
                    self.at = Place::Escaped;
                    continue;
                }
                Place::Escaped if byte == b'.' => return true,
                Place::Escaped if byte != key => on.push(key),
                Place::Beginning | Place::Escaped | Place::Elsewhere => {}
            }
            on.push(byte);
            self.at = if matches!(byte, b'\r' | b'\n') { Place::Beginning } else { Place::Elsewhere };
        }
        false
    }
}

/// Reads an escape key from the command line: one character, or `none`.
pub(crate) fn escape_argument(text: &str) -> Result<Escape, String> {
    let key = match text.as_bytes() {
        b"none" => None,
        [key] if key.is_ascii_graphic() && *key != b'.' => Some(*key),
        _ => return Err("it must be one character, or none".into()),
    };
    Ok(Escape { key, ..Escape::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is passed on of these pieces, and whether the user has left.
    fn typed(mut escape: Escape, pieces: &[&str]) -> (String, bool) {
        let mut on = Vec::new();
        let left = pieces.iter().any(|piece| escape.pass(piece.as_bytes(), &mut on));
        (String::from_utf8(on).expect("text"), left)
    }

    #[test]
    fn only_at_the_beginning_of_a_line_is_the_way_out() {
        for pieces in [&["~."][..], &["~", "."], &["ls\r~."], &["ls\n", "~", ".", "x"], &["~~\r~."]] {
            assert!(typed(Escape::default(), pieces).1, "{pieces:?}");
        }
        for (pieces, on) in [
            (&["ls ~."][..], "ls ~."),
            (&["~/x\r"], "~/x\r"),
            (&["~~."], "~."),
            (&["~", "~", "~."], "~~."),
            (&["~\r."], "~\r."),
            (&["a~", "."], "a~."),
        ] {
            assert_eq!(typed(Escape::default(), pieces), (on.to_owned(), false), "{pieces:?}");
        }
    }

    #[test]
    fn the_key_can_be_another_or_none() {
        let other = escape_argument("%").expect("a key");
        assert_eq!(typed(other, &["~.\r%."]), ("~.\r".to_owned(), true));
        let none = escape_argument("none").expect("no key");
        assert_eq!(typed(none, &["~."]), ("~.".to_owned(), false));
        for text in ["", "ab", ".", "ä", " ", "\x01"] {
            assert!(escape_argument(text).is_err(), "{text:?}");
        }
    }
}
