//! Signals by their names in SSH (RFC 4254, section 6.10) and their numbers on Linux.

use russh::Sig;

/// Names without `SIG`, and numbers. Those of the RFC come first.
const NAMES: [(&str, i32); 24] = [
    ("ABRT", 6),
    ("ALRM", 14),
    ("FPE", 8),
    ("HUP", 1),
    ("ILL", 4),
    ("INT", 2),
    ("KILL", 9),
    ("PIPE", 13),
    ("QUIT", 3),
    ("SEGV", 11),
    ("TERM", 15),
    ("USR1", 10),
    ("USR2", 12),
    ("TRAP", 5),
    ("BUS", 7),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("WINCH", 28),
    ("IO", 29),
    ("SYS", 31),
    ("XCPU", 24),
    ("XFSZ", 25),
];
/// How many of [`NAMES`] the RFC knows.
const STANDARD: usize = 13;

/// The number of a signal that a client sends, if there is such a signal.
pub(super) fn number(signal: &Sig) -> Option<i32> {
    let name = match signal {
        Sig::ABRT => "ABRT",
        Sig::ALRM => "ALRM",
        Sig::FPE => "FPE",
        Sig::HUP => "HUP",
        Sig::ILL => "ILL",
        Sig::INT => "INT",
        Sig::KILL => "KILL",
        Sig::PIPE => "PIPE",
        Sig::QUIT => "QUIT",
        Sig::SEGV => "SEGV",
        Sig::TERM => "TERM",
        Sig::USR1 => "USR1",
        Sig::Custom(name) => name.split('@').next().unwrap_or_default(),
    };
    let name = name.strip_prefix("SIG").unwrap_or(name);
    NAMES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}

/// How a client is told of the signal that ended its program. Names that the RFC does not know carry a domain, as it demands.
pub(super) fn name(number: i32) -> Sig {
    let at = NAMES.iter().position(|(_, known)| *known == number);
    match at.map(|at| (at, NAMES[at].0)) {
        Some((_, "ABRT")) => Sig::ABRT,
        Some((_, "ALRM")) => Sig::ALRM,
        Some((_, "FPE")) => Sig::FPE,
        Some((_, "HUP")) => Sig::HUP,
        Some((_, "ILL")) => Sig::ILL,
        Some((_, "INT")) => Sig::INT,
        Some((_, "KILL")) => Sig::KILL,
        Some((_, "PIPE")) => Sig::PIPE,
        Some((_, "QUIT")) => Sig::QUIT,
        Some((_, "SEGV")) => Sig::SEGV,
        Some((_, "TERM")) => Sig::TERM,
        Some((_, "USR1")) => Sig::USR1,
        Some((at, name)) if at < STANDARD => Sig::Custom(name.into()),
        Some((_, name)) => Sig::Custom(format!("{name}@boxyard")),
        None => Sig::Custom(format!("{number}@boxyard")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_linux_and_of_the_rfc() {
        for (signal, wanted) in [
            (Sig::INT, Some(2)),
            (Sig::TERM, Some(15)),
            (Sig::Custom("USR2".into()), Some(12)),
            (Sig::Custom("SIGWINCH".into()), Some(28)),
            (Sig::Custom("SYS@openssh.com".into()), Some(31)),
            (Sig::Custom("9".into()), None),
            (Sig::Custom(String::new()), None),
            (Sig::Custom("INFO".into()), None),
        ] {
            assert_eq!(number(&signal), wanted, "{signal:?}");
        }
        assert!(matches!(name(9), Sig::KILL));
        for (number, wanted) in [(12, "USR2"), (31, "SYS@boxyard"), (64, "64@boxyard")] {
            assert!(matches!(name(number), Sig::Custom(told) if told == wanted), "{wanted}");
        }
        for (text, known) in NAMES {
            assert_eq!(number(&Sig::Custom(text.into())), Some(known));
            assert_eq!(number(&name(known)), Some(known), "{text} there and back");
        }
    }
}
