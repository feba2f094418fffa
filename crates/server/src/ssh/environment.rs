//! The variables of a session: which of its client's we pass on, and what we add.

use std::net::SocketAddr;

/// Variables that a client may send for one session.
const VARIABLES_MAX: usize = 64;
/// Bytes of a variable's name.
const NAME_MAX: usize = 64;
/// Bytes of a variable's value.
const VALUE_MAX: usize = 4096;
/// Bytes of a terminal type.
const TERM_MAX: usize = 64;

/// Names that are passed on: they say how a person wants to see and write things, and none of them decides what is run. (OpenSSH's
/// `AcceptEnv` has no default; distributions ship `LANG LC_*`, and `COLORTERM NO_COLOR` and `GIT_PROTOCOL` more and more.)
const ACCEPTED: [&str; 11] = [
    "LANG",
    "LANGUAGE",
    "TERM",
    "COLORTERM",
    "NO_COLOR",
    "EDITOR",
    "VISUAL",
    "PAGER",
    "TZ",
    "GIT_PROTOCOL",
    "TERM_PROGRAM",
];
/// Beginnings of names that are passed on.
const ACCEPTED_PREFIXES: [&str; 3] = ["LC_", "GIT_AUTHOR_", "GIT_COMMITTER_"];

/// What a client has sent and we accepted.
#[derive(Debug, Default)]
pub(super) struct Variables(Vec<(String, String)>);

impl Variables {
    /// Takes a variable of the client's, if we pass it on.
    pub(super) fn accept(&mut self, name: &str, value: &str) -> bool {
        if !fits(name, value) {
            return false;
        }
        if let Some((_, known)) = self.0.iter_mut().find(|(known, _)| known == name) {
            value.clone_into(known);
            return true;
        }
        if self.0.len() >= VARIABLES_MAX {
            return false;
        }
        self.0.push((name.to_owned(), value.to_owned()));
        true
    }

    /// The session's variables as `NAME=value`: the client's, and who it is. `term` is the type of the terminal, if there is one.
    pub(super) fn lines(&self, term: Option<&str>, peer: SocketAddr, local: SocketAddr) -> Vec<String> {
        let (peer_ip, local_ip) = (peer.ip().to_canonical(), local.ip().to_canonical());
        let sent = self.0.iter().filter(|(name, _)| term.is_none() || name != "TERM");
        let mut lines: Vec<String> = sent.map(|(name, value)| format!("{name}={value}")).collect();
        lines.extend(term.map(|term| format!("TERM={term}")));
        lines.push(format!("SSH_CLIENT={peer_ip} {} {}", peer.port(), local.port()));
        lines.push(format!("SSH_CONNECTION={peer_ip} {} {local_ip} {}", peer.port(), local.port()));
        lines
    }
}

fn fits(name: &str, value: &str) -> bool {
    let accepted = ACCEPTED.contains(&name) || ACCEPTED_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    accepted
        && name.len() <= NAME_MAX
        && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
        && value.len() <= VALUE_MAX
        && !value.chars().any(char::is_control)
}

/// The type of a client's terminal, `dumb` if it has no sane name.
pub(super) fn term(sent: &str) -> &str {
    let sane = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'+' | b'-');
    if (1..=TERM_MAX).contains(&sent.len()) && sent.bytes().all(sane) { sent } else { "dumb" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_decides_what_is_run_is_not_passed_on() {
        let mut variables = Variables::default();
        for name in ["LANG", "LC_ALL", "LC_TERMINAL", "COLORTERM", "TZ", "GIT_PROTOCOL", "GIT_AUTHOR_NAME", "EDITOR"] {
            assert!(variables.accept(name, "value"), "{name}");
        }
        for name in [
            "PATH",
            "LD_PRELOAD",
            "BASH_ENV",
            "ENV",
            "IFS",
            "SHELLOPTS",
            "HOME",
            "GIT_SSH_COMMAND",
            "PYTHONPATH",
            "SSH_CONNECTION",
            "lang",
            "LC_x",
            "LC_A=B",
            "LANG ",
            "",
        ] {
            assert!(!variables.accept(name, "value"), "{name}");
        }
        for value in ["a\nb", "\0", "\u{1b}[2J", &"x".repeat(VALUE_MAX + 1)] {
            assert!(!variables.accept("LANG", value));
        }
        assert!(!variables.accept(&format!("LC_{}", "X".repeat(NAME_MAX)), "value"));
        for n in 0..VARIABLES_MAX {
            variables.accept(&format!("LC_{n}"), "value");
        }
        assert!(!variables.accept("LC_MORE", "value"), "there is a limit");
        assert!(variables.accept("LC_1", "other"), "the same again replaces it");
        assert_eq!(variables.0.len(), VARIABLES_MAX);
    }

    #[test]
    fn a_session_knows_its_terminal_and_its_client() {
        let mut variables = Variables::default();
        assert!(variables.accept("TERM", "vt100") && variables.accept("LANG", "de_DE.UTF-8"));
        let (peer, local) = ("[::ffff:192.0.2.7]:50000", "[2001:db8::1]:22");
        let (peer, local) = (peer.parse().expect("an address"), local.parse().expect("an address"));
        let connection = "SSH_CONNECTION=192.0.2.7 50000 2001:db8::1 22";
        let lines = variables.lines(Some("xterm-256color"), peer, local);
        let wanted = ["LANG=de_DE.UTF-8", "TERM=xterm-256color", "SSH_CLIENT=192.0.2.7 50000 22", connection];
        assert_eq!(lines, wanted);
        assert_eq!(variables.lines(None, peer, local)[0], "TERM=vt100", "a command may know of one without having it");
    }

    #[test]
    fn a_terminal_type_is_a_word() {
        for sane in ["xterm-256color", "screen.xterm", "rxvt+pcfkeys", "VT100"] {
            assert_eq!(term(sane), sane);
        }
        for odd in ["", "a b", "../../etc", "x\n", "ü", &"x".repeat(TERM_MAX + 1)] {
            assert_eq!(term(odd), "dumb");
        }
    }
}
