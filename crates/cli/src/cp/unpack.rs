//! An archive that a box made, into a folder of this host. Boxes are not trusted: whatever the archive says, nothing outside of the folder
//! is made, changed or removed.
//!
//! Every step from the folder down is taken by descriptor and through no link, so there is no moment in which a path could come to mean
//! something else.

use std::cell::Cell;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, FileTimes};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, fchmod, mkdirat, openat, symlinkat, unlinkat};
use rustix::io::Errno;
use tar::{Archive, Entry};
use tokio::sync::mpsc::Receiver;

use super::{failed, granted, shown};
use crate::failure::Failure;

/// Names in a path at most.
const DEPTH_MAX: usize = 256;

/// How folders on the way are opened.
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Bytes that the heads of an entry may take, with its long names: the library keeps those in memory, however long they are.
const HEAD_MAX: u64 = 256 * 1024;

/// Names at most that are told as left out.
const TOLD_MAX: usize = 100;

/// What was left out of an archive.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct LeftOut {
    /// The first names.
    pub(super) names: Vec<PathBuf>,
    /// How many more there are.
    pub(super) more: u64,
}

/// Unpacks what comes into `folder`, which is made if it is missing; returns what is left out. Blocks.
pub(super) fn unpack(folder: &Path, packed: Receiver<io::Result<Bytes>>) -> Result<LeftOut, Failure> {
    fs::create_dir_all(folder).map_err(|error| failed("make", folder, error))?;
    // The folder itself is the user's choice, links and all.
    let root = openat(CWD, folder, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let root = root.map_err(|error| failed("open", folder, error.into()))?;
    let mask = granted(0o777);
    let (mut left_out, mut folders) = (LeftOut::default(), Vec::new());
    let allowed = Cell::new(None);
    let mut pieces = Pieces { from: packed, piece: Bytes::new(), ended: false, allowed: &allowed };
    let mut archive = Archive::new(&mut pieces);
    let broken = |error: io::Error| Failure::failed("what the box sends is no whole archive", error);
    let mut entries = archive.entries().map_err(broken)?;
    loop {
        allowed.set(Some(HEAD_MAX));
        let Some(entry) = entries.next() else { break };
        allowed.set(None);
        let mut entry = entry.map_err(broken)?;
        let name = PathBuf::from(OsStr::from_bytes(&entry.path_bytes()).to_os_string());
        let Some(parts) = parts(&name) else {
            return Err(Failure::plain(format!(
                "the box sends an archive with the name '{}', which leads elsewhere: nothing more is unpacked",
                shown(&name)
            )));
        };
        let placed = place(&root, &parts, &mut entry, &mut folders, mask);
        match placed.map_err(|error| failed("write", &folder.join(&name), error))? {
            Placed::Yes => {}
            Placed::LeftOut if left_out.names.len() < TOLD_MAX => left_out.names.push(name),
            Placed::LeftOut => left_out.more += 1,
        }
        // What is not looked at would count as the next one's head.
        io::copy(&mut entry, &mut io::sink()).map_err(broken)?;
    }
    allowed.set(None);
    if !pieces.has_ended().map_err(broken)? {
        return Err(broken(io::ErrorKind::UnexpectedEof.into()));
    }
    // Only now: a folder without permission to write takes no files.
    for (folder, mode) in folders.into_iter().rev() {
        fchmod(&folder, mode)
            .map_err(|error| Failure::failed("cannot set permissions of a folder", io::Error::from(error)))?;
    }
    Ok(left_out)
}

enum Placed {
    Yes,
    LeftOut,
}

/// The names of a path, if it stays below where it starts.
fn parts(name: &Path) -> Option<Vec<OsString>> {
    let mut parts = Vec::new();
    for component in name.components() {
        match component {
            Component::Normal(part) if !part.as_bytes().contains(&0) => parts.push(part.to_owned()),
            Component::CurDir => {}
            Component::Normal(_) | Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    (parts.len() <= DEPTH_MAX).then_some(parts)
}

/// Folders kept open until the end, for their permission bits; more get what they are made with.
const FOLDERS_MAX: usize = 500;

fn place<R: Read>(
    root: &OwnedFd,
    parts: &[OsString],
    entry: &mut Entry<'_, R>,
    folders: &mut Vec<(OwnedFd, Mode)>,
    mask: u32,
) -> io::Result<Placed> {
    let mode = Mode::from_raw_mode(entry.header().mode().unwrap_or(0o644) & mask);
    let Some((name, above)) = parts.split_last() else { return Ok(Placed::Yes) };
    let depth = above.len();
    let above = walk(root, above)?;
    let kind = entry.header().entry_type();
    if kind.is_dir() {
        let folder = walk(&above, std::slice::from_ref(name))?;
        if folders.len() < FOLDERS_MAX {
            folders.push((folder, mode));
        }
    } else if kind.is_file() || kind.is_contiguous() {
        remove(&above, name)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(&above, name.as_os_str(), flags, Mode::from_raw_mode(0o600))?);
        let size = entry.size();
        if io::copy(entry, &mut file)? != size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        fchmod(&file, mode)?;
        if let Ok(seconds) = entry.header().mtime()
            && let Some(time) = UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
        {
            file.set_times(FileTimes::new().set_modified(time))?;
        }
    } else if kind.is_symlink() {
        let target = entry.link_name_bytes().map(|target| target.into_owned()).unwrap_or_default();
        if !stays_within(&target, depth) {
            return Ok(Placed::LeftOut);
        }
        remove(&above, name)?;
        symlinkat(OsStr::from_bytes(&target), &above, name.as_os_str())?;
    } else {
        return Ok(Placed::LeftOut);
    }
    Ok(Placed::Yes)
}

/// Opens the folder with these names below another, through no link, and makes what is missing of it.
fn walk(from: &OwnedFd, parts: &[OsString]) -> io::Result<OwnedFd> {
    let mut folder = from.try_clone()?;
    for part in parts {
        let part = part.as_os_str();
        folder = match openat(&folder, part, FOLDER, Mode::empty()) {
            Ok(next) => next,
            Err(Errno::NOENT) => {
                mkdirat(&folder, part, Mode::from_raw_mode(0o755))?;
                openat(&folder, part, FOLDER, Mode::empty())?
            }
            Err(Errno::LOOP | Errno::NOTDIR) => {
                return Err(io::Error::other("there is a link or a file where the archive has a folder"));
            }
            Err(error) => return Err(error.into()),
        };
    }
    Ok(folder)
}

/// Removes the file or link of this name, if there is one.
fn remove(folder: impl AsFd, name: &OsStr) -> io::Result<()> {
    match unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Whether a link in a folder so deep below the top leads to what is below the top, as long as the links on its way do: those are checked
/// where they are made. So `..` may only stand at the beginning, where it is about the folder itself: what comes after a name may be about
/// wherever a link of that name leads.
fn stays_within(target: &[u8], depth: usize) -> bool {
    if target.is_empty() || target.contains(&0) {
        return false;
    }
    let (mut depth, mut goes_down) = (depth, false);
    for component in Path::new(OsStr::from_bytes(target)).components() {
        match component {
            Component::Normal(_) => goes_down = true,
            Component::CurDir => {}
            Component::ParentDir if goes_down || depth == 0 => return false,
            Component::ParentDir => depth -= 1,
            Component::RootDir | Component::Prefix(_) => return false,
        }
    }
    true
}

/// What comes, to be read.
struct Pieces<'a> {
    from: Receiver<io::Result<Bytes>>,
    piece: Bytes,
    ended: bool,
    /// How much more may be read, if that is bounded at the moment.
    allowed: &'a Cell<Option<u64>>,
}

impl Pieces<'_> {
    /// Reads what is left; whether it ends as it should.
    fn has_ended(&mut self) -> io::Result<bool> {
        let mut room = [0; 64 * 1024];
        while self.read(&mut room)? > 0 {}
        Ok(self.ended)
    }
}

impl Read for Pieces<'_> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let allowed = self.allowed.get();
        if allowed == Some(0) {
            return Err(io::Error::other("the head of an entry has no end"));
        }
        while self.piece.is_empty() {
            match self.from.blocking_recv() {
                Some(piece) => self.piece = piece?,
                None => {
                    self.ended = true;
                    return Ok(0);
                }
            }
        }
        let most = allowed.and_then(|allowed| usize::try_from(allowed).ok()).unwrap_or(usize::MAX);
        let piece = self.piece.split_to(self.piece.len().min(room.len()).min(most));
        self.allowed.set(allowed.map(|allowed| allowed.saturating_sub(piece.len() as u64)));
        room.get_mut(..piece.len()).unwrap_or_default().copy_from_slice(&piece);
        Ok(piece.len())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use tar::{Builder, EntryType, Header};

    use super::*;

    /// An entry with whatever name, which the library would not write.
    fn entry(archive: &mut Builder<Vec<u8>>, kind: EntryType, name: &str, target: &str, content: &[u8]) {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o7755);
        header.set_size(content.len() as u64);
        header.as_gnu_mut().expect("GNU").name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_gnu_mut().expect("GNU").linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_cksum();
        archive.append(&header, content).expect("memory");
    }

    fn unpacked(folder: &Path, build: impl FnOnce(&mut Builder<Vec<u8>>)) -> Result<LeftOut, Failure> {
        let mut archive = Builder::new(Vec::new());
        build(&mut archive);
        let bytes = archive.into_inner().expect("memory");
        let (to, from) = tokio::sync::mpsc::channel(1000);
        for piece in bytes.chunks(700) {
            to.blocking_send(Ok(Bytes::copy_from_slice(piece))).expect("room");
        }
        drop(to);
        unpack(folder, from)
    }

    #[test]
    fn nothing_outside_of_the_folder_is_touched_whatever_the_archive_says() {
        let here = tempfile::tempdir().expect("a folder");
        let (inside, outside) = (here.path().join("in/to"), here.path().join("out"));
        fs::create_dir(&outside).expect("a folder");
        fs::write(outside.join("precious"), "mine").expect("a file");
        let file = EntryType::Regular;
        for name in ["../out/precious", "/out/precious", "a/../../../out/precious", "..", "a/.."] {
            let done = unpacked(&inside, |archive| entry(archive, file, name, "", b"theirs"));
            assert!(done.expect_err(name).text().contains("leads elsewhere"), "{name}");
        }
        for target in ["../../out", "/", "a/../../../out", "", "../.."] {
            let done = unpacked(&inside, |archive| {
                entry(archive, EntryType::Symlink, "link", target, b"");
                entry(archive, file, "link/precious", "", b"theirs");
            });
            // The link is left out, and a folder of that name is made.
            assert_eq!(done.expect(target).names, [PathBuf::from("link")], "{target}");
            assert!(inside.join("link").symlink_metadata().expect("there").is_dir());
            fs::remove_dir_all(&inside).expect("cleaned");
        }
        // A link that was there already, and one that stays within: neither is gone through.
        fs::create_dir_all(&inside).expect("a folder");
        symlink(&outside, inside.join("old")).expect("a link");
        let done = unpacked(&inside, |archive| entry(archive, file, "old/precious", "", b"theirs"));
        assert!(done.is_err());
        let done = unpacked(&inside, |archive| {
            entry(archive, EntryType::Symlink, "ok", ".", b"");
            entry(archive, file, "ok/x", "", b"");
        });
        assert!(done.is_err());
        // A link in the place of a file is replaced, not written through.
        symlink(outside.join("precious"), inside.join("file")).expect("a link");
        let done = unpacked(&inside, |archive| entry(archive, file, "file", "", b"theirs"));
        assert_eq!(done.expect("replaced"), LeftOut::default());
        assert_eq!(fs::read(inside.join("file")).expect("a file"), b"theirs");
        let kinds = [EntryType::Link, EntryType::Fifo, EntryType::Char, EntryType::Block];
        for kind in kinds {
            let done = unpacked(&inside, |archive| entry(archive, kind, "odd", "../../out/precious", b""));
            assert_eq!(done.expect("left out").names, [PathBuf::from("odd")]);
            assert!(inside.join("odd").symlink_metadata().is_err());
        }
        assert_eq!(fs::read(outside.join("precious")).expect("there"), b"mine");
        assert_eq!(fs::read_dir(&outside).expect("there").count(), 1);
    }

    #[test]
    fn links_that_lead_out_only_together_are_left_out() {
        let here = tempfile::tempdir().expect("a folder");
        let inside = here.path().join("in");
        let link = EntryType::Symlink;
        let left_out = unpacked(&inside, |archive| {
            // To the top itself, and through it to what is above.
            entry(archive, link, "a/b/top", "../..", b"");
            entry(archive, link, "out", "a/b/top/..", b"");
            entry(archive, link, "a/out", "./b/top/../../x", b"");
            entry(archive, link, "a/fine", "../a/b/top", b"");
        });
        assert_eq!(left_out.expect("unpacked").names, [PathBuf::from("out"), PathBuf::from("a/out")]);
        let top = fs::canonicalize(inside.join("a/fine")).expect("it leads somewhere");
        assert_eq!(top, fs::canonicalize(&inside).expect("there"));
    }

    #[test]
    fn what_an_archive_says_twice_is_what_it_says_last_and_never_goes_through_a_link() {
        let here = tempfile::tempdir().expect("a folder");
        let (inside, outside) = (here.path().join("in"), here.path().join("out"));
        fs::create_dir(&outside).expect("a folder");
        fs::write(outside.join("x"), "mine").expect("a file");
        let (file, link) = (EntryType::Regular, EntryType::Symlink);
        let left_out = unpacked(&inside, |archive| {
            entry(archive, file, "x", "", b"first");
            entry(archive, link, "x", "y", b"");
            entry(archive, file, "x", "", b"last");
            entry(archive, link, "x2", "../out/x", b"");
            entry(archive, EntryType::Link, "x3", "x", b"");
            entry(archive, file, "x2", "", b"last");
        });
        assert_eq!(left_out.expect("unpacked").names, [PathBuf::from("x2"), PathBuf::from("x3")]);
        for name in ["x", "x2"] {
            assert!(inside.join(name).symlink_metadata().expect("there").is_file());
            assert_eq!(fs::read(inside.join(name)).expect("there"), b"last");
        }
        assert!(!inside.join("y").exists());
        // A folder does not make way for a file or a link, nor a file for a folder.
        for (first, then) in [(EntryType::Directory, file), (EntryType::Directory, link), (file, EntryType::Directory)]
        {
            let done = unpacked(&inside, |archive| {
                entry(archive, first, "d", "", b"");
                entry(archive, then, "d", "x", b"");
            });
            assert!(done.is_err(), "{then:?} in place of {first:?}");
            let _ = fs::remove_file(inside.join("d")).or_else(|_| fs::remove_dir(inside.join("d")));
        }
        assert_eq!(fs::read(outside.join("x")).expect("there"), b"mine");
    }

    #[test]
    fn a_name_without_end_and_left_out_things_without_end_take_no_memory() {
        let here = tempfile::tempdir().expect("a folder");
        for kind in [EntryType::GNULongName, EntryType::GNULongLink, EntryType::XHeader] {
            let done = unpacked(here.path(), |archive| {
                entry(archive, kind, "l", "", &vec![b'x'; 600_000]);
                entry(archive, EntryType::Regular, "x", "", b"");
            });
            let text = done.expect_err("no end").text().to_owned();
            assert!(text.contains("has no end"), "{kind:?}: {text}");
        }
        let left_out = unpacked(here.path(), |archive| {
            for n in 0..TOLD_MAX + 7 {
                entry(archive, EntryType::Fifo, &format!("fifo-{n}"), "", b"");
            }
            // Content of what is left out is none of the next one's head.
            entry(archive, EntryType::Link, "hard", "", &vec![b'x'; 600_000]);
            entry(archive, EntryType::Regular, "last", "", b"here");
        });
        let left_out = left_out.expect("unpacked");
        assert_eq!((left_out.names.len(), left_out.more), (TOLD_MAX, 8));
        assert_eq!(fs::read(here.path().join("last")).expect("there"), b"here");
    }

    #[test]
    fn what_is_in_an_archive_comes_with_mode_and_time_and_no_special_bits() {
        let here = tempfile::tempdir().expect("a folder");
        let long = vec![b'x'; 300_000];
        let left_out = unpacked(here.path(), |archive| {
            entry(archive, EntryType::Directory, "./d/", "", b"");
            entry(archive, EntryType::Regular, "d/run", "", &long);
            entry(archive, EntryType::Symlink, "d/link", "../d/run", b"");
        });
        assert_eq!(left_out.expect("unpacked"), LeftOut::default());
        assert!(fs::read(here.path().join("d/link")).expect("through the link") == long);
        let metadata = fs::metadata(here.path().join("d/run")).expect("there");
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o7777, 0o755);
        assert_eq!(metadata.modified().expect("a time"), UNIX_EPOCH);
    }

    #[test]
    fn an_archive_that_breaks_off_is_no_whole_one() {
        let here = tempfile::tempdir().expect("a folder");
        let (to, from) = tokio::sync::mpsc::channel(1);
        to.blocking_send(Err(io::Error::other("cut"))).expect("room");
        drop(to);
        assert!(unpack(here.path(), from).is_err());
    }
}
