//! Writing to the terminal without falling over when nobody reads.

use std::io::{self, Write};
use std::process::ExitCode;

use crate::failure::{FAILED, Failure};

/// Writes `text` and a line break to standard output. A reader that has gone (`boxyard list | head -1`) is no failure.
pub(crate) fn print(text: &str) -> Result<ExitCode, Failure> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::from(FAILED)),
        Err(error) => Err(Failure::failed("cannot write to standard output", error)),
    }
}

/// Writes a line to standard error.
pub(crate) fn note(text: &str) {
    // There is nowhere left to complain to.
    let _ = writeln!(io::stderr(), "{text}");
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
    fn columns_are_as_wide_as_they_must_be() {
        let rows = [["a".into(), "ü".into()], ["long one".into(), String::new()]];
        assert_eq!(table(["ID", "NAME"], &rows), "ID        NAME\na         ü\nlong one");
        assert_eq!(time(0), "1970-01-01 00:00:00Z");
        assert_eq!(time(i64::MAX), "?");
    }
}
