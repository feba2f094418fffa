//! What a file is.

use std::os::fd::AsFd;

use boxyard_proto::files::{FileKind, PathText, Stat};
use rustix::fs::{FileType, OFlags, fstat, readlinkat};

use super::jail::{Jail, kind};
use super::path::Path;
use super::refusal::Refusal;

/// What is at `path`; of a link, what it leads to where `follow` says so.
pub fn of_path(jail: &Jail, path: &Path, follow: bool) -> Result<Stat, Refusal> {
    let place = jail.open(path, if follow { OFlags::PATH } else { OFlags::PATH | OFlags::NOFOLLOW })?;
    of_place(&place)
}

/// What is at a place, with where it leads to if it is a link.
pub fn of_place(place: impl AsFd) -> Result<Stat, Refusal> {
    let mut stat = told(&fstat(&place)?);
    if stat.kind == FileKind::Symlink {
        stat.target = Some(PathText::new(&readlinkat(&place, c"", Vec::new())?.into_bytes()));
    }
    Ok(stat)
}

/// As it is told.
pub fn told(stat: &rustix::fs::Stat) -> Stat {
    Stat {
        kind: match kind(stat) {
            FileType::RegularFile => FileKind::File,
            FileType::Directory => FileKind::Directory,
            FileType::Symlink => FileKind::Symlink,
            FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown => FileKind::Other,
        },
        size: u64::try_from(stat.st_size).unwrap_or(0),
        mode: stat.st_mode & 0o7777,
        modified_ns: nanoseconds(stat),
        inode: stat.st_ino,
        uid: stat.st_uid,
        gid: stat.st_gid,
        target: None,
    }
}

/// When its content was changed, in nanoseconds since 1970; the nearest that can be said of times beyond the year 2262.
fn nanoseconds(stat: &rustix::fs::Stat) -> i64 {
    let fraction = i64::try_from(stat.st_mtime_nsec).unwrap_or(0);
    stat.st_mtime.saturating_mul(1_000_000_000).saturating_add(fraction)
}
