//! Lines of files.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use memchr::{memchr, memchr_iter, memrchr};
use rustix::fs::{Mode, OFlags, openat};

use super::Bounds;
use super::pattern::Pattern;
use crate::files::jail::read_place;
use crate::pipes::again;

/// Bytes that are read at once; of a line that is longer only so much is looked at.
const BUFFER: usize = 64 * 1024;

/// Characters of a line that are told.
const TOLD: usize = 1000;

/// Reads files, one after the other.
#[derive(Debug)]
pub struct Content {
    buffer: Vec<u8>,
}

impl Content {
    /// Nothing read yet.
    pub fn new() -> Self {
        Self { buffer: vec![0; BUFFER] }
    }

    /// Tells the lines that `wanted` is in, by number and text, until `tell` says no. A file that cannot be read has none, nor has one
    /// with a NUL in it, from there on.
    pub fn search(
        &mut self,
        folder: BorrowedFd<'_>,
        name: &[u8],
        wanted: &Pattern,
        bounds: &mut Bounds,
        mut tell: impl FnMut(u64, String) -> io::Result<bool>,
    ) -> io::Result<()> {
        let Some(fd) = open(folder, name) else { return Ok(()) };
        let mut start = 0;
        let mut number = 1;
        // We are in a line that was looked at already, as far as it is.
        let mut is_rest = false;
        loop {
            let room = self.buffer.get_mut(start..).unwrap_or_default();
            let count = again(|| rustix::io::read(&fd, &mut *room)).unwrap_or(0);
            bounds.read(count);
            let end = start + count;
            let there = self.buffer.get(..end).unwrap_or_default();
            let come = there.get(start..).unwrap_or_default();
            if memchr(0, come).is_some() || bounds.are_met() {
                return Ok(());
            }
            let is_full = end == self.buffer.len();
            let whole = match memrchr(b'\n', come) {
                Some(last) => start + last + 1,
                // The last line need not end as a line does, and one that does not fit is looked at as far as it does.
                None if count == 0 || is_full => end,
                None => 0,
            };
            let (mut lines, rest) = there.split_at_checked(whole).unwrap_or_default();
            if !wanted.may_be_in_lines_of(lines) {
                number += memchr_iter(b'\n', lines).count() as u64;
                is_rest = if lines.is_empty() { is_rest } else { !lines.ends_with(b"\n") };
                lines = b"";
            }
            while !lines.is_empty() {
                if bounds.are_met() {
                    return Ok(());
                }
                let line_end = memchr(b'\n', lines);
                let (line, after) = lines.split_at(line_end.unwrap_or(lines.len()));
                if !is_rest && wanted.is_in(line) && !tell(number, told(line))? {
                    return Ok(());
                }
                is_rest = line_end.is_none();
                number += u64::from(line_end.is_some());
                lines = after.get(1..).unwrap_or_default();
            }
            if count == 0 {
                return Ok(());
            }
            start = rest.len();
            self.buffer.copy_within(whole..end, 0);
        }
    }
}

fn open(folder: BorrowedFd<'_>, name: &[u8]) -> Option<OwnedFd> {
    let place = openat(folder, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).ok()?;
    read_place(&place).ok().map(|(fd, _)| fd)
}

/// A line as it is told.
fn told(line: &[u8]) -> String {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    // Four bytes are the most that a character has.
    String::from_utf8_lossy(line.get(..4 * TOLD).unwrap_or(line)).chars().take(TOLD).collect()
}
