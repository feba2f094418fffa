//! What must hold for any bytes that a registry, or whoever sends an archive, could send: for the fuzz targets `layers` and `manifests`, and
//! for ordinary tests.

use super::decompress::{Allowance, Unpacked};
use super::layout;
use super::limits::OciLimits;
use super::manifest::{self, Answer, ImageConfig};
use super::reference::Reference;
use super::sparse::Piece;
use super::tar::{Archive, BLOCK, Entry, Kind, PATH_MAX};
use super::tree::Path;
use super::write::{self, Head};

/// Bytes that one input may unpack to.
const UNPACKED_MAX: u64 = 4 << 20;

/// Takes `bytes` as a layer or an archive.
///
/// # Panics
/// Something that must hold does not.
pub fn layers(bytes: &[u8]) {
    one_archive(bytes);
    // Nobody finds a right checksum by chance.
    one_archive(&with_checksums(bytes));
}

fn one_archive(bytes: &[u8]) {
    let Ok(source) = Unpacked::new(bytes, Allowance::new(UNPACKED_MAX)) else { return };
    let mut archive = Archive::new(source);
    while let Ok(Some(entry)) = archive.next() {
        let link = match &entry.kind {
            Kind::HardLink(link) | Kind::Symlink(link) => link.as_slice(),
            Kind::File | Kind::Folder | Kind::Fifo | Kind::Device => b"",
        };
        for path in [entry.path.as_slice(), link] {
            assert!(path.len() <= PATH_MAX && !path.contains(&0), "a path that no file can have");
            if let Ok(path) = Path::parse(path) {
                let parts = path.bytes();
                assert!(!parts.starts_with(b"/"), "a path from the root");
                assert!(parts.split(|byte| *byte == b'/').all(|part| part != b".."), "a path that leads out");
            }
        }
        let mut stored = 0;
        if entry.kind == Kind::File {
            let mut end = 0;
            for Piece { offset, length } in &entry.pieces {
                assert!(*offset >= end && offset + length <= entry.size, "pieces that are not in the file");
                end = offset + length;
                stored += length;
            }
        }
        let (mut read, mut buffer, mut whole) = (0, [0; 4096], true);
        loop {
            match archive.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => read += count as u64,
                Err(_) => {
                    whole = false;
                    break;
                }
            }
        }
        // What a folder has of content, as old programs wrote it, means nothing.
        let as_told = read == stored || !whole || entry.kind != Kind::File;
        assert!(read <= UNPACKED_MAX && as_told, "{read} of {stored} bytes");
        again(&entry, stored);
        if !whole {
            return;
        }
    }
}

/// What was understood can be written, and is then understood in the same way.
fn again(entry: &Entry, stored: u64) {
    let id = |id: u64| u32::try_from(id).ok().filter(|id| *id <= 0o777_7777);
    let (Some(uid), Some(gid)) = (id(entry.uid), id(entry.gid)) else { return };
    let kind = match &entry.kind {
        // No other program writes such names, and ours none from a file system.
        Kind::File if entry.path.ends_with(b"/") => return,
        Kind::File if entry.pieces == [Piece { offset: 0, length: entry.size }] => write::Kind::File(entry.size),
        Kind::File => write::Kind::Sparse(entry.size, &entry.pieces),
        Kind::HardLink(target) => write::Kind::HardLink(target),
        Kind::Symlink(target) => write::Kind::Symlink(target),
        Kind::Folder => write::Kind::Folder,
        Kind::Fifo => write::Kind::Fifo,
        Kind::Device => return,
    };
    if entry.path.is_empty() || entry.modified.0 == i64::MIN || stored > UNPACKED_MAX {
        return;
    }
    let head = Head {
        path: &entry.path,
        kind,
        mode: entry.mode,
        uid,
        gid,
        modified: entry.modified,
        attributes: &entry.attributes,
    };
    let mut out = Vec::new();
    // More than fits a header.
    let Ok(size) = write::begin(&mut out, &head) else { return };
    let filled = out.len() + usize::try_from(size).unwrap_or_default();
    out.resize(filled.next_multiple_of(BLOCK), 0);
    let mut archive = Archive::new(&out[..]);
    let found = archive.next().expect("what we write is well-formed").expect("an entry");
    let same = Entry { size: found.size, pieces: found.pieces.clone(), ..entry.clone() };
    assert_eq!(found, same);
    if entry.kind == Kind::File {
        assert_eq!((&found.size, &found.pieces), (&entry.size, &entry.pieces));
    }
}

/// The same with the checksums right of all blocks that look like headers.
fn with_checksums(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for block in bytes.as_chunks_mut::<BLOCK>().0 {
        if block[257..262] == *b"ustar" {
            block[148..156].copy_from_slice(b"        ");
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
    bytes
}

/// Takes `bytes` as an index, a manifest, a configuration and a reference.
///
/// # Panics
/// Something that must hold does not.
pub fn manifests(bytes: &[u8]) {
    let limits = OciLimits::default();
    if let Ok(Answer::Manifest(config, layers)) = manifest::answer(bytes, &limits) {
        assert!(config.size <= limits.config_bytes && (1..=limits.layers).contains(&layers.len()));
        assert!(layers.iter().map(|layer| layer.size).sum::<u64>() <= limits.compressed_bytes);
    }
    for layers in 0..3 {
        if let Ok(config) = ImageConfig::read(bytes, layers) {
            assert_eq!(config.diff_ids.len(), layers);
            assert!(config.env.len() <= 256);
            assert!(config.env.iter().all(|(name, value)| !name.contains('=') && !value.contains('\0')));
        }
    }
    // A chosen one is asked for by its digest, whatever else is said of it.
    let _ = layout::choose(bytes, &limits);
    if let Ok((description, _)) = layout::labels(bytes) {
        let runtime = &description.runtime;
        assert!((1..=63).contains(&runtime.len()) && !runtime.starts_with('.') && !runtime.contains('/'));
        assert!(description.size.len() <= 63 && description.size.bytes().all(|byte| byte.is_ascii_graphic()));
        assert!(description.name.chars().count() <= 200 && !description.name.chars().any(char::is_control));
    }
    if let Ok(text) = str::from_utf8(bytes)
        && let Ok(reference) = Reference::parse(text)
    {
        let again = Reference::parse(&reference.to_string()).expect("what is written is read");
        assert_eq!(again.to_string(), reference.to_string());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::Index;
    use proptest::test_runner::{Config, TestRunner};
    use serde_json::json;

    use super::*;
    use crate::images::oci::testing::tar;

    fn run<S: Strategy>(cases: u32, strategy: &S, test: impl Fn(S::Value)) {
        let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
        let run = runner.run(strategy, |value| {
            test(value);
            Ok(())
        });
        run.expect("it holds for all");
    }

    /// Bytes to change, and a piece to cut out or to say twice.
    fn changes() -> impl Strategy<Value = (Vec<(Index, u8)>, [Index; 3], u8)> {
        (prop::collection::vec((any::<Index>(), any::<u8>()), 0..8), any::<[Index; 3]>(), any::<u8>())
    }

    fn changed(mut bytes: Vec<u8>, (bits, [from, to, at], what): (Vec<(Index, u8)>, [Index; 3], u8)) -> Vec<u8> {
        for (place, byte) in bits {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        let (from, to, at) = (from.index(bytes.len()), to.index(bytes.len()), at.index(bytes.len()));
        let piece = bytes[from.min(to)..from.max(to)].to_vec();
        match what % 4 {
            0 => drop(bytes.drain(from.min(to)..from.max(to))),
            1 => drop(bytes.splice(at..at, piece)),
            _ => {}
        }
        bytes
    }

    fn archives() -> Vec<Vec<u8>> {
        let pieces = [Piece { offset: 512, length: 3 }, Piece { offset: 1 << 30, length: 0 }];
        let attributes = [(b"user.x".to_vec(), b"y".to_vec()), (b"user.a=b".to_vec(), b"z".to_vec())];
        let head = Head {
            path: b"file",
            kind: write::Kind::Sparse(1 << 30, &pieces),
            mode: 0o644,
            uid: 1,
            gid: 2,
            modified: (-1, 500),
            attributes: &attributes,
        };
        let mut sparse = Vec::new();
        write::begin(&mut sparse, &head).expect("it fits");
        sparse.extend([0; BLOCK]);
        let long = "d/".repeat(200);
        let plain = tar(&[("a/", ""), ("a/file", "text"), (&long, "")]);
        let old = Command::gnu(&["--format=gnu", "--sparse"]);
        vec![sparse, plain, old, Command::gnu(&["--format=pax", "--sparse", "--sparse-version=0.1"])]
    }

    /// This host's own tar.
    struct Command;

    impl Command {
        fn gnu(arguments: &[&str]) -> Vec<u8> {
            let dir = tempfile::tempdir().expect("a folder");
            let file = std::fs::File::create(dir.path().join("holes")).expect("a file");
            file.set_len(1 << 20).expect("a longer file");
            std::os::unix::fs::symlink("x".repeat(150), dir.path().join("l".repeat(120))).expect("a link");
            let made =
                std::process::Command::new("tar").args(arguments).arg("-C").arg(dir.path()).args(["-c", "."]).output();
            made.expect("tar").stdout
        }
    }

    #[test]
    fn a_folder_that_old_programs_wrote_as_a_file_with_content_is_a_folder() {
        let mut bytes = write::plain_header("folder/", b'0', 600).to_vec();
        bytes.extend([7; 1024]);
        bytes.extend(write::plain_header("next", b'0', 0));
        layers(&bytes);
        let mut archive = Archive::new(&bytes[..]);
        assert_eq!(archive.next().expect("an archive").map(|entry| entry.kind), Some(Kind::Folder));
        assert_eq!(archive.next().expect("an archive").map(|entry| entry.path), Some(b"next".to_vec()));
    }

    #[test]
    fn any_bytes_are_taken() {
        run(3_000, &prop::collection::vec(any::<u8>(), 0..1500), |bytes| {
            layers(&bytes);
            manifests(&bytes);
        });
    }

    #[test]
    fn real_archives_with_anything_changed_in_them_are_taken() {
        let archives = archives();
        run(10_000, &(any::<Index>(), changes()), |(which, changes)| {
            layers(&changed(which.get(&archives).clone(), changes));
        });
    }

    #[test]
    fn real_manifests_with_anything_changed_in_them_are_taken() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let of =
            |size: u64| json!({"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": size});
        let platform = json!({"architecture": manifest::architecture(), "os": "linux"});
        let labels = json!({layout::label::FORMAT: "1", layout::label::RUNTIME: "node", layout::label::SIZE: "small",
            layout::label::LAYERS: "[\"a\"]", layout::label::NAME: "ü"});
        let texts = [
            json!({"schemaVersion": 2, "config": of(5), "layers": [of(1), of(2)]}),
            json!({"schemaVersion": 2, "manifests": [{"digest": digest, "size": 3, "platform": platform}]}),
            json!({"architecture": manifest::architecture(), "os": "linux", "config": {"Env": ["A=b"], "Labels": labels},
                "rootfs": {"diff_ids": [digest, digest]}}),
            json!("docker.io/library/alpine:3.22@sha256"),
        ];
        let texts = texts.map(|text| text.to_string().trim_matches('"').as_bytes().to_vec());
        run(10_000, &(any::<Index>(), changes()), |(which, changes)| {
            manifests(&changed(which.get(&texts).clone(), changes));
        });
    }
}
