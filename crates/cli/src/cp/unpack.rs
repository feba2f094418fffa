//! An archive that a box made, into a folder of this host. Boxes are not trusted: whatever the archive says, nothing outside of the folder
//! is made, changed or removed.
//!
//! Every step from the folder down is taken by descriptor and through no link, so there is no moment in which a path could come to mean
//! something else.

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

use super::{failed, granted};
use crate::failure::Failure;

/// Names in a path at most.
const DEPTH_MAX: usize = 256;

/// How folders on the way are opened.
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Unpacks what comes into `folder`, which is made if it is missing; returns the names that are left out. Blocks.
pub(super) fn unpack(folder: &Path, packed: Receiver<io::Result<Bytes>>) -> Result<Vec<PathBuf>, Failure> {
    fs::create_dir_all(folder).map_err(|error| failed("make", folder, error))?;
    // The folder itself is the user's choice, links and all.
    let root = openat(CWD, folder, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let root = root.map_err(|error| failed("open", folder, error.into()))?;
    let mask = granted(0o777);
    let (mut left_out, mut folders) = (Vec::new(), Vec::new());
    let mut pieces = Pieces { from: packed, piece: Bytes::new(), ended: false };
    let mut archive = Archive::new(&mut pieces);
    let broken = |error: io::Error| Failure::failed("what the box sends is no whole archive", error);
    for entry in archive.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let name = PathBuf::from(OsStr::from_bytes(&entry.path_bytes()).to_os_string());
        let Some(parts) = parts(&name) else {
            return Err(Failure::plain(format!(
                "the box sends an archive with the name '{}', which leads elsewhere: nothing more is unpacked",
                name.display().to_string().escape_debug()
            )));
        };
        let placed = place(&root, &parts, &mut entry, &mut folders, mask);
        match placed.map_err(|error| failed("write", &folder.join(&name), error))? {
            Placed::Yes => {}
            Placed::LeftOut => left_out.push(name),
        }
    }
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

/// Whether a link in a folder so deep below the top leads to what is below the top, links on its way left aside: those are checked where
/// they are made, and a link to one that is left out leads nowhere.
fn stays_within(target: &[u8], depth: usize) -> bool {
    if target.is_empty() || target.contains(&0) {
        return false;
    }
    let mut depth = i64::try_from(depth).unwrap_or(i64::MAX);
    for component in Path::new(OsStr::from_bytes(target)).components() {
        match component {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir => depth -= 1,
            Component::RootDir | Component::Prefix(_) => return false,
        }
        if depth < 0 {
            return false;
        }
    }
    true
}

/// What comes, to be read.
struct Pieces {
    from: Receiver<io::Result<Bytes>>,
    piece: Bytes,
    ended: bool,
}

impl Pieces {
    /// Reads what is left; whether it ends as it should.
    fn has_ended(&mut self) -> io::Result<bool> {
        let mut room = [0; 64 * 1024];
        while self.read(&mut room)? > 0 {}
        Ok(self.ended)
    }
}

impl Read for Pieces {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.from.blocking_recv() {
                Some(piece) => self.piece = piece?,
                None => {
                    self.ended = true;
                    return Ok(0);
                }
            }
        }
        let piece = self.piece.split_to(self.piece.len().min(room.len()));
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

    fn unpacked(folder: &Path, build: impl FnOnce(&mut Builder<Vec<u8>>)) -> Result<Vec<PathBuf>, Failure> {
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
            assert_eq!(done.expect(target), [PathBuf::from("link")], "{target}");
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
        assert_eq!(done.expect("replaced"), Vec::<PathBuf>::new());
        assert_eq!(fs::read(inside.join("file")).expect("a file"), b"theirs");
        let kinds = [EntryType::Link, EntryType::Fifo, EntryType::Char, EntryType::Block];
        for kind in kinds {
            let done = unpacked(&inside, |archive| entry(archive, kind, "odd", "../../out/precious", b""));
            assert_eq!(done.expect("left out"), [PathBuf::from("odd")]);
            assert!(inside.join("odd").symlink_metadata().is_err());
        }
        assert_eq!(fs::read(outside.join("precious")).expect("there"), b"mine");
        assert_eq!(fs::read_dir(&outside).expect("there").count(), 1);
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
        assert_eq!(left_out.expect("unpacked"), Vec::<PathBuf>::new());
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
