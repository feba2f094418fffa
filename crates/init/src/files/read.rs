//! Reading files.

use std::os::fd::{AsFd, OwnedFd};

use boxyard_proto::files::{Answer, PathText};
use rustix::fs::{Advice, fadvise};
use rustix::io::Errno;

use super::channel::{CHUNK, Channel};
use super::jail::Jail;
use super::path::Path;
use super::refusal::Refusal;
use super::session::{Done, Outcome};
use super::stat;
use crate::pipes::again;

/// Bytes from which on the kernel is told that a file will be read from start to end.
const LONG: u64 = 1024 * 1024;

/// Tells a part of a file.
pub fn read(jail: &Jail, path: &PathText, offset: u64, length: Option<u64>, channel: &mut Channel<'_>) -> Outcome {
    let opened = Path::try_from(path).and_then(|path| jail.open_file(&path));
    let (fd, stat) = match opened {
        Ok(opened) => opened,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let stat = stat::told(&stat);
    let length = stat.size.saturating_sub(offset).min(length.unwrap_or(u64::MAX));
    channel.say(&Answer::Opened { stat, length: Some(length) })?;
    if length >= LONG {
        // Only advice.
        let _ = fadvise(&fd, offset, std::num::NonZeroU64::new(length), Advice::Sequential);
    }
    let mut left = length;
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        match channel.data(most, |room| again(|| pread(&fd, &mut *room, offset + (length - left))))? {
            Ok(0) => return Ok(Ok(Done { truncated: true })),
            Ok(count) => left -= count as u64,
            Err(error) => return Ok(Err(Refusal::from(error))),
        }
    }
    Ok(Ok(Done::default()))
}

/// Reads at a place, which no file reaches beyond 2^63.
fn pread(fd: &OwnedFd, room: &mut [u8], offset: u64) -> Result<usize, Errno> {
    rustix::io::pread(fd.as_fd(), room, offset)
}
