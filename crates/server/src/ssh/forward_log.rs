//! Lines about forwards in a box's log. A browser behind `ssh -D` makes thousands of them, so there is a limit.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Lines of one connection in [`SPAN`].
const LINES_MAX: u32 = 60;
const SPAN: Duration = Duration::from_secs(60);

/// Decides which lines of one connection are written.
#[derive(Debug, Default)]
pub(super) struct ForwardLog(Mutex<Tally>);

#[derive(Debug, Default)]
struct Tally {
    since: Option<Instant>,
    lines: u32,
}

impl ForwardLog {
    /// The line to write now, if any: `what`, and where it comes from.
    pub(super) fn line(&self, what: std::fmt::Arguments<'_>, from: IpAddr) -> Option<String> {
        match self.0.lock().unwrap_or_else(PoisonError::into_inner).next(Instant::now()) {
            ..LINES_MAX => Some(format!("{what} from {from}")),
            LINES_MAX => Some(format!("more SSH forwards from {from}, not shown for a minute")),
            _ => None,
        }
    }
}

impl Tally {
    /// The number of this line since the current span began.
    fn next(&mut self, now: Instant) -> u32 {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= SPAN) {
            *self = Self { since: Some(now), lines: 0 };
        }
        let number = self.lines;
        self.lines = self.lines.saturating_add(1);
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_forwards_becomes_one_line_a_minute() {
        let log = ForwardLog::default();
        let from = IpAddr::from([192, 0, 2, 7]);
        let lines: Vec<String> =
            (0..1000).filter_map(|n| log.line(format_args!("SSH forward to db:{n}"), from)).collect();
        assert_eq!(lines.len(), 61);
        assert_eq!(lines[0], "SSH forward to db:0 from 192.0.2.7");
        assert!(lines[60].contains("not shown"));

        let (mut tally, start) = (Tally::default(), Instant::now());
        assert_eq!((tally.next(start), tally.next(start)), (0, 1));
        assert_eq!(tally.next(start + SPAN), 0);
    }
}
