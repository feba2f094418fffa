//! A folder of this host as an archive.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tar::{Builder, EntryType, Header};
use tokio::sync::mpsc::Sender;

use super::failed;
use super::tree::Files;
use crate::failure::Failure;

/// Bytes of the archive that are handed on at once.
const PIECE: usize = 256 * 1024;

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Packed {
    /// Sockets, FIFOs and devices.
    pub(super) left_out: Vec<PathBuf>,
    /// Files that are there already.
    pub(super) skipped: u64,
}

/// Packs what is in `folder` and hands it on in pieces. Files of `there` are left out. Blocks. With an empty failure nobody takes the
/// pieces any more.
pub(super) fn pack(folder: &Path, there: &Files, pieces: Sender<io::Result<Bytes>>) -> Result<Packed, Failure> {
    let mut packed = Packed::default();
    let mut archive = Builder::new(Pieces { to: pieces.clone(), held: Vec::with_capacity(PIECE) });
    let done = add_all(&mut archive, folder, there, &mut packed);
    let done = done.and_then(|()| {
        let finished = archive.into_inner().and_then(|mut pieces| pieces.flush());
        finished.map_err(|error| failed("pack", folder, error))
    });
    match done {
        Ok(()) => Ok(packed),
        Err(failure) => {
            // An archive that simply ends would be taken for a whole one.
            let gone = pieces.blocking_send(Err(io::Error::other("packing failed"))).is_err();
            Err(if gone { Failure::plain("") } else { failure })
        }
    }
}

fn add_all(archive: &mut Builder<Pieces>, folder: &Path, there: &Files, packed: &mut Packed) -> Result<(), Failure> {
    let mut folders = VecDeque::from([PathBuf::new()]);
    while let Some(below) = folders.pop_front() {
        let whole = folder.join(&below);
        for name in names(&whole)? {
            let (name, path) = (below.join(&name), whole.join(&name));
            let metadata = fs::symlink_metadata(&path).map_err(|error| failed("read", &path, error))?;
            if metadata.is_dir() {
                add(archive, &path, &name, &metadata, EntryType::Directory, io::empty())?;
                folders.push_back(name);
            } else if metadata.is_file() {
                if there.has(&name, metadata.len(), metadata.mtime()) {
                    packed.skipped += 1;
                    continue;
                }
                let file = File::open(&path).map_err(|error| failed("read", &path, error))?;
                let content = Exactly { file, left: metadata.len() };
                add(archive, &path, &name, &metadata, EntryType::Regular, content)?;
            } else if metadata.is_symlink() {
                let target = fs::read_link(&path).map_err(|error| failed("read", &path, error))?;
                let mut header = header(&metadata, EntryType::Symlink);
                let added = archive.append_link(&mut header, &name, &target);
                added.map_err(|error| failed("pack", &path, error))?;
            } else {
                packed.left_out.push(path);
            }
        }
    }
    Ok(())
}

/// Names in a folder, in order.
fn names(folder: &Path) -> Result<Vec<OsString>, Failure> {
    let listed =
        || fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.file_name())).collect::<io::Result<Vec<_>>>();
    let mut names = listed().map_err(|error| failed("read", folder, error))?;
    names.sort_unstable();
    Ok(names)
}

fn add(
    archive: &mut Builder<Pieces>,
    path: &Path,
    name: &Path,
    metadata: &Metadata,
    kind: EntryType,
    content: impl Read,
) -> Result<(), Failure> {
    let mut header = header(metadata, kind);
    archive.append_data(&mut header, name, content).map_err(|error| failed("pack", path, error))
}

fn header(metadata: &Metadata, kind: EntryType) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(metadata.mode() & 0o777);
    header.set_mtime(u64::try_from(metadata.mtime()).unwrap_or(0));
    header.set_size(if kind == EntryType::Regular { metadata.len() } else { 0 });
    header
}

/// As many bytes as its entry says there are: a file that grows meanwhile would spoil the archive.
struct Exactly {
    file: File,
    left: u64,
}

impl Read for Exactly {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(room.len());
        if most == 0 {
            return Ok(0);
        }
        let count = self.file.read(room.get_mut(..most).unwrap_or_default())?;
        if count == 0 {
            return Err(io::Error::other("the file shrank while it was read"));
        }
        self.left -= count as u64;
        Ok(count)
    }
}

/// Hands on what is written.
struct Pieces {
    to: Sender<io::Result<Bytes>>,
    held: Vec<u8>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.held.extend_from_slice(bytes);
        if self.held.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.held.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.held, Vec::with_capacity(PIECE));
        self.to.blocking_send(Ok(piece.into())).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
