//! The content of a file, as long as it was when it was opened.

use std::io::{self, Write};
use std::os::fd::OwnedFd;

use rustix::fs::{SeekFrom, Stat, seek};

use crate::files::channel::CHUNK;
use crate::pipes::again;

/// Pieces of a file with holes that are told apart at most; what comes after them counts as one.
const PIECES_MAX: usize = 10_000;

/// A file that is put into an archive.
#[derive(Debug)]
pub struct Content {
    fd: OwnedFd,
    /// Bytes, holes included.
    pub size: u64,
    /// It became shorter, or could not be read to its end.
    pub is_short: bool,
    buffer: Vec<u8>,
}

impl Content {
    /// That of an open file.
    pub fn new(fd: OwnedFd, stat: &Stat) -> Self {
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let room = usize::try_from(size).unwrap_or(CHUNK).min(CHUNK);
        Self { fd, size, is_short: false, buffer: vec![0; room] }
    }

    /// Where it has content, as offsets and lengths, if it has holes that are worth it. The last piece ends where the file does.
    pub fn pieces(&self, stat: &Stat) -> Option<Vec<(u64, u64)>> {
        /// Bytes of a block, in which a file's place on disk is counted.
        const BLOCK: u64 = 512;
        let on_disk = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(BLOCK);
        if on_disk >= self.size {
            return None;
        }
        let mut pieces = Vec::new();
        let mut at = 0;
        while at < self.size && pieces.len() < PIECES_MAX {
            // There is nothing but holes from here on, or the file system cannot tell.
            let Ok(start) = seek(&self.fd, SeekFrom::Data(at)) else { break };
            let end = seek(&self.fd, SeekFrom::Hole(start)).unwrap_or(self.size).min(self.size);
            if start >= end {
                break;
            }
            pieces.push((start, end - start));
            at = end;
        }
        if pieces.len() == PIECES_MAX
            && let Some(last) = pieces.last_mut()
        {
            // With the holes that are in it.
            last.1 = self.size - last.0;
        } else if at < self.size {
            pieces.push((self.size, 0));
        }
        let stored: u64 = pieces.iter().map(|(_, length)| length).sum();
        (stored < self.size).then_some(pieces)
    }

    /// Writes `length` bytes from `offset` on, all of them whatever has become of the file.
    pub fn copy(&mut self, mut offset: u64, mut length: u64, to: &mut dyn Write) -> io::Result<()> {
        while length > 0 {
            let most = usize::try_from(length).unwrap_or(usize::MAX).min(self.buffer.len());
            let room = self.buffer.get_mut(..most).unwrap_or_default();
            let mut count =
                if self.is_short { 0 } else { again(|| rustix::io::pread(&self.fd, &mut *room, offset)).unwrap_or(0) };
            if count == 0 {
                self.is_short = true;
                room.fill(0);
                count = room.len();
            }
            to.write_all(room.get(..count).unwrap_or_default())?;
            offset += count as u64;
            length -= count as u64;
        }
        Ok(())
    }
}
