//! Archives of a pretended box's files.

use std::io::{Cursor, Read, Write};

use boxyard_proto::files::{Failure, Format};
use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;

use super::tree::{Refusal, Tree, place};

const BROKEN: Refusal = Refusal(Failure::Invalid, "this is no archive");

/// A folder, or a file, as an archive.
pub(super) fn pack(tree: &Tree, path: &[u8], format: Format) -> Result<Vec<u8>, Refusal> {
    let node = tree.find(path)?;
    let (base, nodes) = match node.content {
        None => (path.len() + 1, tree.below(path)),
        Some(_) => (path.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1), vec![(path.to_vec(), node)]),
    };
    let mut archive = tar::Builder::new(Vec::new());
    for (path, node) in nodes {
        let name = String::from_utf8_lossy(path.get(base..).unwrap_or_default()).into_owned();
        let stat = node.stat();
        let content = node.content.clone().unwrap_or_default();
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(if node.content.is_some() { tar::EntryType::Regular } else { tar::EntryType::Directory });
        header.set_size(content.len() as u64);
        header.set_mode(stat.mode);
        header.set_mtime(u64::try_from(stat.modified_ns / 1_000_000_000).unwrap_or(0));
        archive.append_data(&mut header, name, &*content).map_err(|_| BROKEN)?;
    }
    let plain = archive.into_inner().map_err(|_| BROKEN)?;
    match format {
        Format::Tar => Ok(plain),
        Format::TarGz => {
            let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
            packed.write_all(&plain).and_then(|()| packed.finish()).map_err(|_| BROKEN)
        }
        // That there is one is all that is shown of it here.
        Format::Zip => Ok([&b"PK\x05\x06"[..], &[0; 18]].concat()),
    }
}

/// Puts what is in an archive into a folder.
pub(super) fn unpack(tree: &Tree, folder: &[u8], packed: &Bytes) -> Result<(), Refusal> {
    let mut plain = Vec::new();
    if packed.starts_with(b"\x1f\x8b") {
        GzDecoder::new(Cursor::new(packed)).read_to_end(&mut plain).map_err(|_| BROKEN)?;
    } else {
        plain.extend_from_slice(packed);
    }
    tree.make_folder(folder, true)?;
    let mut archive = tar::Archive::new(Cursor::new(plain));
    for entry in archive.entries().map_err(|_| BROKEN)? {
        let mut entry = entry.map_err(|_| BROKEN)?;
        let name = entry.path_bytes().into_owned();
        let path = place(&boxyard_proto::files::PathText::new(&[folder, b"/", &name].concat()))?;
        if !path.starts_with(folder) {
            return Err(Refusal(Failure::Denied, "a name leads out of the folder"));
        }
        if entry.header().entry_type().is_dir() {
            tree.make_folder(&path, true)?;
        } else if entry.header().entry_type().is_file() {
            let mut content = Vec::new();
            entry.read_to_end(&mut content).map_err(|_| BROKEN)?;
            tree.write(&path, content.into(), entry.header().mode().ok().map(|mode| mode & 0o777))?;
            tree.date(&path, entry.header().mtime().unwrap_or_default());
        }
    }
    Ok(())
}
