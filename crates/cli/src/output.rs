//! Writing to the terminal without falling over when nobody reads.

use std::io::{self, Write};
use std::process::ExitCode;

use crate::failure::{FAILED, Failure};

/// Writes `text` and a line break to standard output. A reader that has gone (`boxyard list | head -1`) is no failure.
pub(crate) fn print(text: &str) -> Result<ExitCode, Failure> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{}", fit(text)).and_then(|()| out.flush()) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::from(FAILED)),
        Err(error) => Err(Failure::failed("cannot write to standard output", error)),
    }
}

/// Writes a line to standard error.
pub(crate) fn note(text: &str) {
    // There is nowhere left to complain to.
    let _ = writeln!(io::stderr(), "{}", fit(text));
}

/// A text as a terminal may have it: names, addresses and errors have parts in which a box, or who wrote a repository, says what it likes.
fn fit(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && !matches!(c, '\n' | '\t') { '?' } else { c }).collect()
}

/// A table with a heading and columns as wide as they must be.
pub(crate) fn table<const N: usize>(heading: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = heading.map(|cell| cell.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: [&str; N]| {
        let mut line = String::new();
        for (cell, width) in cells.into_iter().zip(widths) {
            line.push_str(&format!("{cell:width$}  "));
        }
        line.trim_end().to_owned()
    };
    let mut lines = vec![line(heading)];
    lines.extend(rows.iter().map(|row| line(row.each_ref().map(String::as_str))));
    lines.join("\n")
}

/// A time as people write it, in UTC. `milliseconds` since 1970.
pub(crate) fn time(milliseconds: i64) -> String {
    match jiff::Timestamp::from_millisecond(milliseconds) {
        Ok(time) => time.strftime("%Y-%m-%d %H:%M:%SZ").to_string(),
        Err(_) => "?".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_box_says_in_names_and_errors_does_not_steer_the_terminal() {
        let remote = "Pushed main to \u{1b}]0;mine\u{7}\u{9b}2Jorigin\r\n\tü";
        assert_eq!(fit(remote), "Pushed main to ?]0;mine??2Jorigin?\n\tü");
    }

    #[test]
    fn columns_are_as_wide_as_they_must_be() {
        let rows = [["a".into(), "ü".into()], ["long one".into(), String::new()]];
        assert_eq!(table(["ID", "NAME"], &rows), "ID        NAME\na         ü\nlong one");
        assert_eq!(time(0), "1970-01-01 00:00:00Z");
        assert_eq!(time(i64::MAX), "?");
    }
}
