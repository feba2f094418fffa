//! Listing folders.

use std::os::fd::OwnedFd;

use boxyard_proto::files::{Answer, ENTRIES_MAX, Entry, FileKind, LIST_MAX, PathText};
use rustix::fs::{AtFlags, Dir, OFlags, readlinkat, statat};
use rustix::io::Errno;

use super::channel::Channel;
use super::jail::Jail;
use super::path::Path;
use super::refusal::Refusal;
use super::session::{Done, Outcome};
use super::stat;

/// Bytes of names in an answer, counted as they are at the longest in JSON, at which no more are added.
const ANSWER: usize = 512 * 1024;

/// Bytes that a byte of a name takes in JSON at most.
const ESCAPED: usize = 6;

/// Tells what is in a folder.
pub fn list(
    jail: &Jail,
    path: &PathText,
    after: Option<&PathText>,
    limit: Option<u32>,
    channel: &mut Channel<'_>,
) -> Outcome {
    let limit = usize::try_from(limit.unwrap_or(LIST_MAX).min(LIST_MAX)).unwrap_or(usize::MAX);
    let (path, folder, names, truncated) = match names_at(jail, path, after, limit) {
        Ok(Some(found)) => found,
        Ok(None) => return Ok(Ok(Done::default())),
        Err(refusal) => return Ok(Err(refusal)),
    };
    let mut batch = Batch::default();
    for name in names {
        // Those that vanish meanwhile are left out.
        if let Some(entry) = entry(jail, &path, &folder, &name) {
            batch.add(entry, channel)?;
        }
    }
    batch.tell(channel)?;
    Ok(Ok(Done { truncated }))
}

/// A folder by its path and descriptor, the first names in it, and whether there are more.
type Found = (Path, OwnedFd, Vec<Vec<u8>>, bool);

fn names_at(jail: &Jail, path: &PathText, after: Option<&PathText>, limit: usize) -> Result<Option<Found>, Refusal> {
    let path = Path::try_from(path)?;
    let after = after.map(|after| after.bytes().ok_or_else(|| Refusal::invalid("the name is not base64")));
    let after = after.transpose()?;
    let folder = match jail.open(&path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK) {
        Err(refusal) if refusal == Errno::NOTDIR.into() => {
            // A file has nothing in it; but what is no folder on the way is another matter.
            jail.open(&path, OFlags::PATH)?;
            return Ok(None);
        }
        folder => folder?,
    };
    let (names, truncated) = first_names(&folder, after.as_deref().unwrap_or_default(), limit)?;
    Ok(Some((path, folder, names, truncated)))
}

/// The first `limit` names in a folder that come after `after`, in order, and whether there are more. Memory grows with `limit`, not with
/// the folder.
pub fn first_names(folder: &OwnedFd, after: &[u8], limit: usize) -> Result<(Vec<Vec<u8>>, bool), Errno> {
    let mut names: Vec<Vec<u8>> = Vec::new();
    let mut truncated = false;
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") || (!after.is_empty() && name <= after) {
            continue;
        }
        names.push(name.to_vec());
        if names.len() > limit.saturating_mul(2).max(1024) {
            truncated |= keep_first(&mut names, limit);
        }
    }
    truncated |= keep_first(&mut names, limit);
    names.sort_unstable();
    Ok((names, truncated))
}

/// Drops all but the first `limit` of `names`, in any order. Returns whether that were any.
fn keep_first(names: &mut Vec<Vec<u8>>, limit: usize) -> bool {
    let more = names.len() > limit;
    if more {
        names.select_nth_unstable(limit);
        names.truncate(limit);
    }
    more
}

fn entry(jail: &Jail, path: &Path, folder: &OwnedFd, name: &[u8]) -> Option<Entry> {
    let mut told = stat::told(&statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).ok()?);
    if told.kind == FileKind::Symlink {
        let target = readlinkat(folder, name, Vec::new()).ok().map(|target| PathText::new(&target.into_bytes()));
        // What leads nowhere, or out of the roots, is told as the link that it is.
        let leads_to = Path::new(path.child(name).into()).and_then(|path| stat::of_path(jail, &path, true));
        told = leads_to.unwrap_or(told);
        told.target = target;
    }
    Some(Entry { name: PathText::new(name), stat: told })
}

/// Entries that are told together.
#[derive(Debug, Default)]
struct Batch {
    entries: Vec<Entry>,
    bytes: usize,
}

impl Batch {
    fn add(&mut self, entry: Entry, channel: &mut Channel<'_>) -> std::io::Result<()> {
        self.bytes += (length(&entry.name) + entry.stat.target.as_ref().map_or(0, length)) * ESCAPED;
        self.entries.push(entry);
        if self.entries.len() == ENTRIES_MAX || self.bytes >= ANSWER {
            self.tell(channel)?;
        }
        Ok(())
    }

    fn tell(&mut self, channel: &mut Channel<'_>) -> std::io::Result<()> {
        self.bytes = 0;
        let entries = std::mem::take(&mut self.entries);
        if entries.is_empty() { Ok(()) } else { channel.say(&Answer::Entries { entries }) }
    }
}

/// Bytes of a name as it is told, before anything in it is escaped.
pub fn length(text: &PathText) -> usize {
    match text {
        PathText::Text(text) => text.len(),
        PathText::Bytes { base64 } => base64.len(),
    }
}
