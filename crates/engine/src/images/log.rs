//! The log of one layer's build: a file, its last lines at hand for errors, and how far the packages are.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Bytes of a log that are kept; a build that says more goes on unheard.
const LOG_MAX: u64 = 16 * 1024 * 1024;

const TAIL_LINES: usize = 12;
const LINE_MAX: usize = 300;

/// Writes what a builder says.
pub(super) struct Log<F> {
    file: File,
    left: u64,
    line: Vec<u8>,
    tail: VecDeque<String>,
    packages: Packages,
    /// Called with the part that is done whenever that is known and changes.
    done: F,
}

impl<F: FnMut(f32)> Log<F> {
    /// `rounds`: how many times apt is expected to install packages.
    pub fn create(path: &Path, rounds: u8, done: F) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(path)?;
        let packages = Packages { rounds_left: rounds, ..Packages::default() };
        Ok(Self { file, left: LOG_MAX, line: Vec::new(), tail: VecDeque::new(), packages, done })
    }

    /// The last lines, oldest first.
    pub fn tail(&self) -> Vec<String> {
        let rest = (!self.line.is_empty()).then(|| text(&self.line));
        self.tail.iter().cloned().chain(rest).collect()
    }

    fn line_ended(&mut self) {
        let line = text(&self.line);
        self.line.clear();
        if line.trim().is_empty() {
            return;
        }
        if let Some(fraction) = self.packages.hear(&line) {
            (self.done)(fraction);
        }
        if self.tail.len() == TAIL_LINES {
            self.tail.pop_front();
        }
        self.tail.push_back(line);
    }
}

impl<F: FnMut(f32)> Write for Log<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let kept = usize::try_from(self.left).map_or(bytes.len(), |left| bytes.len().min(left));
        self.file.write_all(&bytes[..kept])?;
        self.left -= u64::try_from(kept).unwrap_or(self.left);
        if kept < bytes.len() && self.left == 0 && kept > 0 {
            self.file.write_all(b"\n(the log is full; the build goes on)\n")?;
        }
        for byte in bytes {
            match byte {
                b'\n' | b'\r' => self.line_ended(),
                _ if self.line.len() < LINE_MAX => self.line.push(*byte),
                _ => {}
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Text for terminals: without the escape sequences that packages' scripts may have in theirs.
fn text(line: &[u8]) -> String {
    String::from_utf8_lossy(line).chars().filter(|c| !c.is_control()).collect()
}

/// Follows apt and dpkg. A release is installed in two rounds, the essential packages and the rest, of unlike size; a layer in one.
#[derive(Debug, Default)]
struct Packages {
    rounds_left: u8,
    total: u32,
    seen: u32,
    before: f64,
    reached: f64,
}

impl Packages {
    fn hear(&mut self, line: &str) -> Option<f32> {
        if let Some((words, _)) = line.split_once(" newly installed") {
            self.total = words.rsplit(' ').next()?.parse::<u32>().ok().filter(|total| *total > 0)?;
            self.seen = 0;
            self.rounds_left = self.rounds_left.saturating_sub(1);
            self.before = self.reached;
            return None;
        }
        if self.total == 0 || !(line.starts_with("Unpacking ") || line.starts_with("Setting up ")) {
            return None;
        }
        self.seen += 1;
        // The essential packages come first and are about a third of a release.
        let until = if self.rounds_left > 0 { 0.3 } else { 1.0 };
        let part = f64::from(self.seen) / (2.0 * f64::from(self.total));
        self.reached = self.before + (until - self.before) * part.min(1.0);
        #[expect(clippy::cast_possible_truncation, reason = "a fraction loses only precision that nobody sees")]
        let fraction = self.reached as f32;
        Some(fraction)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_last_lines_and_counts_packages() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        let mut heard = Vec::new();
        let mut log = Log::create(&path, 2, |fraction| heard.push(fraction)).unwrap();
        log.write_all(b"0 upgraded, 1 newly installed, 0 to remove\nUnpacking a (1) ...\nSetting up a (1) ...\n")
            .unwrap();
        log.write_all(b"0 upgraded, 2 newly installed, 0 to remove\nSetting up b (1) ...\n").unwrap();
        for number in 0..50 {
            writeln!(log, "\u{1b}[1mline {number}").unwrap();
        }
        log.write_all(b"unfinished").unwrap();
        let tail = log.tail();
        assert_eq!(tail.len(), TAIL_LINES + 1);
        assert_eq!(tail[TAIL_LINES - 1], "[1mline 49");
        assert_eq!(tail[TAIL_LINES], "unfinished");
        drop(log);
        assert_eq!(heard.len(), 3);
        assert!(heard[1] < heard[2] && heard[2] < 1.0);
        assert!(std::fs::read_to_string(&path).unwrap().contains("line 3\n"));
    }

    #[test]
    fn a_log_has_an_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        let mut log = Log::create(&path, 1, |_| {}).unwrap();
        let piece = vec![b'x'; 1 << 20];
        for _ in 0..20 {
            log.write_all(&piece).unwrap();
        }
        assert!(std::fs::metadata(&path).unwrap().len() < LOG_MAX + 100);
    }
}
