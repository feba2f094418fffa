//! Layers as they should be, and as nobody should make them.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path as FsPath, PathBuf};

use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

use super::super::reference::Digest;
use super::*;

/// A layer that is put together entry by entry.
struct Layer(Builder<Vec<u8>>);

impl Layer {
    fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    fn header(kind: EntryType, mode: u32) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.set_size(0);
        header
    }

    /// An entry whose path is written as it is, whatever it says.
    fn entry(mut self, kind: EntryType, path: &str, mode: u32, content: &[u8]) -> Self {
        let mut header = Self::header(kind, mode);
        header.set_size(content.len() as u64);
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    fn link(mut self, kind: EntryType, path: &str, target: &str) -> Self {
        let mut header = Self::header(kind, 0o777);
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_cksum();
        self.0.append(&header, &[][..]).unwrap();
        self
    }

    fn pax(mut self, records: &[(&str, &[u8])]) -> Self {
        self.0.append_pax_extensions(records.iter().copied()).unwrap();
        self
    }

    fn folder(self, path: &str) -> Self {
        self.entry(EntryType::Directory, path, 0o755, b"")
    }

    fn file(self, path: &str, content: &str) -> Self {
        self.entry(EntryType::Regular, path, 0o644, content.as_bytes())
    }

    fn symlink(self, path: &str, target: &str) -> Self {
        self.link(EntryType::Symlink, path, target)
    }

    fn hard_link(self, path: &str, target: &str) -> Self {
        self.link(EntryType::Link, path, target)
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// A place with a folder for a layer, beside which things lie that nobody may touch.
struct Place {
    dir: TempDir,
    entries: u64,
    bytes: u64,
    keep_free: Option<u64>,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/layer")).unwrap();
        fs::create_dir_all(dir.path().join("etc")).unwrap();
        fs::write(dir.path().join("etc/passwd"), "precious").unwrap();
        fs::write(dir.path().join("a/beside"), "precious").unwrap();
        Self { dir, entries: 10_000, bytes: 1 << 30, keep_free: None }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("a/layer")
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root().join(path)
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    fn unpack_as(&self, bytes: &[u8], diff_id: &Digest) -> io::Result<Stats> {
        let root = OwnedFd::from(fs::File::open(self.root()).unwrap());
        let stop = AtomicBool::new(false);
        let terms = Terms {
            allowance: Allowance::new(self.bytes),
            entries: self.entries,
            rules: Rules::Image,
            keep_free: self.keep_free,
            stop: &stop,
        };
        unpack(bytes, root, diff_id, &terms)
    }

    fn unpack(&self, layer: Layer) -> io::Result<Stats> {
        let bytes = layer.bytes();
        self.unpack_as(&bytes, &Digest::of(&bytes))
    }

    /// Everything but the layer, with what it says and when it was changed.
    fn outside(&self) -> BTreeMap<PathBuf, (u64, i64, Option<Vec<u8>>)> {
        let mut found = BTreeMap::new();
        let mut folders = vec![self.dir.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let entry = entry.unwrap();
                let (path, meta) = (entry.path(), entry.metadata().unwrap());
                if path == self.root() {
                    continue;
                }
                if meta.is_dir() {
                    folders.push(path.clone());
                }
                let text = meta.is_file().then(|| fs::read(&path).unwrap());
                found.insert(path, (meta.nlink(), meta.mtime_nsec(), text));
            }
        }
        found
    }
}

fn mode(path: &FsPath) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn a_layer_becomes_the_tree_that_it_describes() {
    let place = Place::new();
    let long = format!("deep/{}/{}", "x".repeat(150), "y".repeat(150));
    let layer = Layer::new()
        // The mode of a folder that nobody could write into comes before what is in it.
        .entry(EntryType::Directory, "closed/", 0o555, b"")
        .file("closed/inside", "here")
        .entry(EntryType::Regular, "usr/bin/sudo", 0o4755, b"#!")
        .symlink("usr/bin/link", "../../etc/passwd")
        .hard_link("usr/bin/again", "usr/bin/sudo")
        .hard_link("usr/bin/link2", "/usr/bin/link")
        .entry(EntryType::Fifo, "pipe", 0o640, b"")
        .entry(EntryType::Directory, "tmp", 0o1777, b"")
        .pax(&[("path", long.as_bytes()), ("mtime", b"1234.5"), ("uid", b"1000"), ("gid", b"65535")])
        .file("short", "long name")
        .pax(&[
            ("SCHILY.xattr.user.note", b"kept"),
            ("SCHILY.xattr.user.overlay.redirect", b"/etc"),
            ("SCHILY.xattr.trusted.x", b"y"),
        ])
        .file("noted", "")
        // Twice: the later one counts.
        .file("twice", "first")
        .entry(EntryType::Regular, "twice", 0o600, b"second")
        .symlink("was-link", "/etc")
        .folder("was-link")
        .folder("was-folder/with/more")
        .file("was-folder", "now a file");
    let bytes = layer.bytes();
    let gzip = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&bytes).unwrap();
        encoder.finish().unwrap()
    };
    let stats = place.unpack_as(&gzip, &Digest::of(&bytes)).unwrap();
    assert_eq!(stats.skipped, 0);
    assert_eq!((place.read("closed/inside").as_str(), mode(&place.path("closed"))), ("here", 0o555));
    assert_eq!(fs::metadata(place.path("closed")).unwrap().mtime(), 1_000_000_000, "filling it does not count");
    assert_eq!(mode(&place.path("usr/bin/sudo")), 0o4755);
    assert_eq!(fs::metadata(place.path("usr/bin/again")).unwrap().nlink(), 2);
    assert_eq!(fs::read_link(place.path("usr/bin/link2")).unwrap(), FsPath::new("../../etc/passwd"));
    assert!(fs::metadata(place.path("pipe")).unwrap().file_type().is_fifo());
    assert_eq!((mode(&place.path("pipe")), mode(&place.path("tmp")), mode(&place.path("usr"))), (0o640, 0o1777, 0o755));
    let meta = fs::metadata(place.path(&long)).unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.mtime(), meta.mtime_nsec()), (1000, 65_535, 1234, 500_000_000));
    let names = fs::File::open(place.path("noted")).unwrap();
    let mut list = [0_u8; 1000];
    let length = rustix::fs::flistxattr(&names, &mut list[..]).unwrap();
    assert_eq!(&list[..length], b"user.note\0");
    assert_eq!((place.read("twice").as_str(), mode(&place.path("twice"))), ("second", 0o600));
    assert!(fs::symlink_metadata(place.path("was-link")).unwrap().is_dir());
    assert_eq!(place.read("was-folder"), "now a file");
}

#[test]
fn whiteouts_become_overlays_own() {
    let place = Place::new();
    let layer = Layer::new()
        .file("etc/.wh.gone", "")
        .file("etc/.wh..wh..opq", "")
        .file(".wh..wh.plnk", "")
        .file("a/.wh.dir", "")
        // Hidden, and then there again: what was below stays hidden.
        .folder("a/dir")
        .file("a/dir/new", "")
        .file("b/.wh.dir", "")
        .file("b/dir/implied/new", "")
        .file("c/file", "stays")
        .file("c/.wh.file", "")
        .folder("d/dir")
        .file("d/.wh.dir", "")
        .file("e/.wh.file", "")
        .file("e/file", "new");
    place.unpack(layer).unwrap();
    let whiteout = |path: &str| {
        let meta = fs::symlink_metadata(place.path(path)).unwrap();
        meta.file_type().is_char_device() && meta.rdev() == 0
    };
    let opaque = |path: &str| super::super::is_opaque(fs::File::open(place.path(path)).unwrap());
    assert!(whiteout("etc/gone") && opaque("etc"));
    assert!(opaque("a/dir") && place.path("a/dir/new").exists() && !opaque("a"));
    assert!(opaque("b/dir") && place.path("b/dir/implied/new").exists());
    assert!(opaque("d/dir"));
    assert_eq!((place.read("c/file").as_str(), place.read("e/file").as_str()), ("stays", "new"));
    assert!(!place.path(".wh..wh.plnk").exists());
}

#[test]
fn nothing_outside_is_ever_touched() {
    let up = "../../../../../../../../../../etc/passwd";
    let device = |kind: EntryType| Layer::new().entry(kind, "dev/thing", 0o666, b"");
    let refused: Vec<(&str, Layer)> = vec![
        ("a path upwards", Layer::new().file("../beside", "owned")),
        ("a path upwards from within", Layer::new().file("a/b/../../../beside", "owned")),
        ("a folder upwards", Layer::new().folder("..")),
        ("a hard link upwards", Layer::new().hard_link("x", "../beside")),
        ("a hard link far up", Layer::new().hard_link("x", up)),
        ("a hard link to an absolute path", Layer::new().hard_link("x", "/etc/passwd")),
        ("a hard link through a link", Layer::new().symlink("out", "../..").hard_link("x", "out/a/beside")),
        ("a hard link to a folder", Layer::new().folder("d").hard_link("x", "d")),
        ("a hard link to the root", Layer::new().hard_link("x", "/")),
        ("a hard link to a whiteout", Layer::new().file(".wh.w", "").hard_link("x", "w")),
        ("a whiteout upwards", Layer::new().file("a/.wh...", "")),
        ("a whiteout of its folder", Layer::new().file("a/.wh..", "")),
        ("a whiteout of nothing", Layer::new().file("a/.wh.", "")),
        ("a whiteout through a path upwards", Layer::new().file("../.wh.beside", "")),
        ("a file in a file", Layer::new().file("f", "").file("f/g", "")),
        ("a file through a dangling link", Layer::new().symlink("l", "/nowhere").file("l/g", "")),
        ("a link to itself", Layer::new().symlink("l", "l").file("l/g", "")),
        ("a root that is a file", Layer::new().file(".", "")),
        ("an extended path upwards", Layer::new().pax(&[("path", b"../beside")]).file("fine", "owned")),
        ("an extended link upwards", Layer::new().pax(&[("linkpath", b"../beside")]).hard_link("fine", "fine")),
        ("a path with a NUL", Layer::new().pax(&[("path", b"a\0b")]).file("fine", "")),
        ("an owner that boxes do not have", Layer::new().pax(&[("uid", b"65536")]).file("f", "")),
        ("an owner out of range", Layer::new().pax(&[("gid", b"4294967296")]).file("f", "")),
        ("a size that lies", Layer::new().pax(&[("size", b"9223372036854775807")]).file("f", "x")),
        ("a size beyond all", Layer::new().pax(&[("size", b"18446744073709551615")]).file("f", "x")),
        (
            "a map of holes that leads back",
            Layer::new().pax(&[("GNU.sparse.size", b"10"), ("GNU.sparse.map", b"5,1,0,1")]).file("f", "xx"),
        ),
        (
            "a map of holes out of the file",
            Layer::new().pax(&[("GNU.sparse.size", b"1"), ("GNU.sparse.map", b"5,2")]).file("f", "xx"),
        ),
        ("an unknown type", Layer::new().entry(EntryType::new(b'Z'), "f", 0o644, b"")),
        ("a name that is too long", Layer::new().pax(&[("path", &[b'x'; 256])]).file("f", "")),
        ("a path that is too deep", Layer::new().pax(&[("path", "d/".repeat(300).as_bytes())]).folder("f")),
    ];
    for (what, layer) in refused {
        let place = Place::new();
        let before = place.outside();
        assert!(place.unpack(layer).is_err(), "{what} must be refused");
        assert_eq!(place.outside(), before, "{what}");
    }
    let harmless: Vec<(&str, Layer)> = vec![
        ("absolute paths", Layer::new().file("/etc/passwd", "inside")),
        (
            "a link out and a file through it",
            Layer::new().folder("etc").symlink("out", "/etc").file("out/passwd", "inside"),
        ),
        (
            "a relative link out and a file through it",
            Layer::new().folder("etc").symlink("a", "../../../etc").file("a/passwd", "inside"),
        ),
        (
            "links that lead to each other",
            Layer::new().folder("etc").symlink("a", "/etc").symlink("b", "a").file("b/passwd", "inside"),
        ),
        (
            "a file over a link out",
            Layer::new()
                .symlink("etc", "/etc")
                .symlink("x", "/etc/passwd")
                .file("x", "mine")
                .folder("etc")
                .file("etc/passwd", "inside"),
        ),
        (
            "a whiteout through a link out",
            Layer::new().folder("etc").symlink("a", "../../../etc").file("etc/passwd", "inside").file("a/.wh.x", ""),
        ),
        (
            "an opaque marker through a link out",
            Layer::new()
                .folder("etc")
                .symlink("a", "/../../etc")
                .file("etc/passwd", "inside")
                .file("a/.wh..wh..opq", ""),
        ),
        (
            "a folder over a link out",
            Layer::new().symlink("etc", "../../etc").folder("etc").file("etc/passwd", "inside"),
        ),
        (
            "device nodes",
            device(EntryType::Char).entry(EntryType::Block, "dev/sda", 0o666, b"").file("etc/passwd", "inside"),
        ),
    ];
    for (what, layer) in harmless {
        let place = Place::new();
        let before = place.outside();
        place.unpack(layer).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(place.outside(), before, "{what}");
        assert_eq!(place.read("etc/passwd"), "inside", "{what}");
        assert!(!place.path("dev/thing").exists() && !place.path("dev/sda").exists());
    }
}

#[test]
fn links_cannot_nest_folders_without_end() {
    let place = Place::new();
    let deep = "d/".repeat(120);
    let mut layer = Layer::new().pax(&[("path", deep.as_bytes())]).folder("f");
    let mut through = deep.trim_end_matches('/').to_owned();
    for round in 0..10 {
        let link = format!("l{round}");
        layer = layer.pax(&[("linkpath", through.as_bytes())]).symlink(&link, "");
        let path = format!("{link}/{deep}");
        layer = layer.pax(&[("path", path.as_bytes())]).folder("f");
        through = path.trim_end_matches('/').to_owned();
    }
    let error = place.unpack(layer).unwrap_err();
    assert!(error.to_string().contains("too long"), "{error}");
}

#[test]
fn too_much_is_refused() {
    let mut place = Place::new();
    let many = |count: usize| (0..count).fold(Layer::new(), |layer, number| layer.folder(&number.to_string()));
    place.entries = 1000;
    assert_eq!(place.unpack(many(1000)).unwrap().entries, 1000);
    assert!(place.unpack(many(1001)).unwrap_err().to_string().contains("more than 1000 entries"));
    // A bomb: a gibibyte of zeros in a megabyte, and a file that is one big hole.
    place.bytes = 10 << 20;
    let zeros = Layer::new().entry(EntryType::Regular, "big", 0o644, &vec![0; 11 << 20]).bytes();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(&zeros).unwrap();
    let error = place.unpack_as(&encoder.finish().unwrap(), &Digest::of(&zeros)).unwrap_err();
    assert!(error.to_string().contains("more than is allowed"), "{error}");
    let hole = Layer::new().pax(&[("GNU.sparse.size", b"11000000000"), ("GNU.sparse.map", b"0,1")]).file("hole", "x");
    assert!(place.unpack(hole).unwrap_err().to_string().contains("more than is allowed"));
    // Headers that would be held in memory.
    let mut header = Header::new_ustar();
    for kind in [EntryType::XHeader, EntryType::XGlobalHeader, EntryType::GNULongName, EntryType::GNULongLink] {
        header.set_entry_type(kind);
        header.set_size(2 << 20);
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        bytes.resize(4 << 20, b'x');
        assert!(place.unpack_as(&bytes, &Digest::of(&bytes)).is_err(), "{kind:?}");
    }
}

#[test]
fn what_a_small_layer_takes_on_the_disk_counts_and_not_only_what_it_has() {
    let mut place = Place::new();
    // Attributes for every file that follows: 12 KB of an archive were 400 MB on a disk.
    let values: Vec<String> = (0..50).map(|number| format!("SCHILY.xattr.user.a{number}")).collect();
    let mut records = Vec::new();
    for key in &values {
        let rest = key.len() + 3000 + 3;
        records.extend(format!("{} {key}=", rest + 4).into_bytes());
        records.extend([b'v'; 3000]);
        records.push(b'\n');
    }
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::XGlobalHeader);
    header.set_size(records.len() as u64);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend(&records);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    let files = (0..100).fold(Layer::new(), |layer, number| layer.file(&format!("file{number}"), ""));
    bytes.extend(files.bytes());
    place.bytes = 2 << 20;
    let error = place.unpack_as(&bytes, &Digest::of(&bytes)).unwrap_err();
    assert!(error.to_string().contains("more than is allowed"), "{error}");

    // A byte in each block: 25 bytes of an archive were 4096 on a disk.
    let place = Place::new();
    let map: Vec<String> = (0..1000).map(|number| format!("{},1", number * 8192)).collect();
    let bytes_of_file = "x".repeat(1000);
    let scattered = |size: &str| {
        Layer::new()
            .pax(&[("GNU.sparse.size", size.as_bytes()), ("GNU.sparse.map", map.join(",").as_bytes())])
            .file("scattered", &bytes_of_file)
            .bytes()
    };
    let bytes = scattered("8184001");
    let stop = AtomicBool::new(false);
    let root = || OwnedFd::from(fs::File::open(place.root()).unwrap());
    // As from an archive of a snapshot, where holes take nothing.
    let terms = |bytes| Terms {
        allowance: Allowance::new(bytes),
        entries: 10,
        rules: Rules::Snapshot,
        keep_free: None,
        stop: &stop,
    };
    let error = unpack(&bytes[..], root(), &Digest::of(&bytes), &terms(3 << 20)).unwrap_err();
    assert!(error.to_string().contains("more than is allowed"), "{error}");
    unpack(&bytes[..], root(), &Digest::of(&bytes), &terms(5 << 20)).unwrap();
}

#[test]
fn room_is_looked_at_when_a_layer_is_begun_and_while_it_is_unpacked() {
    // More than there is anywhere.
    let mut place = Place { keep_free: Some(u64::MAX), ..Place::new() };
    let small = || Layer::new().file("small", "x");
    assert_eq!(place.unpack(small()).unwrap_err().kind(), io::ErrorKind::StorageFull);
    let (stop, root) = (AtomicBool::new(false), OwnedFd::from(fs::File::open(place.root()).unwrap()));
    let mut work = Work { tree: Tree::new(root), times: Vec::new(), kept: 0, unseen: 0, buffer: Vec::new() };
    let allowance = Allowance::new(0);
    let terms = Terms { allowance, entries: 0, rules: Rules::Snapshot, keep_free: place.keep_free, stop: &stop };
    work.spend(LOOK_EVERY - 1, &terms).unwrap();
    assert_eq!(work.spend(1, &terms).unwrap_err().kind(), io::ErrorKind::StorageFull);
    work.spend(1, &terms).unwrap();
    place.keep_free = Some(0);
    place.unpack(small()).unwrap();
}

#[test]
fn another_content_than_promised_is_refused() {
    let place = Place::new();
    let bytes = Layer::new().file("f", "content").bytes();
    let error = place.unpack_as(&bytes, &Digest::of(b"other")).unwrap_err();
    assert!(error.to_string().contains("and should to sha256:"), "{error}");
    // What comes after the archive's end counts too.
    let longer = [bytes.clone(), vec![0; 4096]].concat();
    place.unpack_as(&longer, &Digest::of(&longer)).unwrap();
    assert!(place.unpack_as(&longer, &Digest::of(&bytes)).is_err());
    for length in [100, 511, 513, 700] {
        let cut = &bytes[..length];
        assert!(place.unpack_as(cut, &Digest::of(cut)).is_err(), "an archive of {length} bytes");
    }
    let mut wrong = bytes.clone();
    wrong[0] = b'g';
    assert!(place.unpack_as(&wrong, &Digest::of(&wrong)).unwrap_err().to_string().contains("checksum"));
}

#[test]
fn archives_of_this_hosts_tar_are_understood_in_all_its_formats() {
    let source = tempfile::tempdir().unwrap();
    let path = |name: &str| source.path().join(name);
    let long = "l".repeat(200);
    fs::write(path(&long), "long").unwrap();
    std::os::unix::fs::symlink("t".repeat(300), path("link")).unwrap();
    let holes = fs::File::create(path("holes")).unwrap();
    for (offset, text) in [(0, "start"), (5 << 20, "middle"), ((20 << 20) - 3, "end")] {
        rustix::io::pwrite(&holes, text.as_bytes(), offset).unwrap();
    }
    for number in 0..30_u64 {
        rustix::io::pwrite(&holes, b"piece", (6 << 20) + number * (128 << 10)).unwrap();
    }
    let wanted = fs::read(path("holes")).unwrap();
    for format in [
        &["--format=gnu"][..],
        &["--format=gnu", "--sparse"],
        &["--format=posix"],
        &["--format=posix", "--sparse", "--sparse-version=0.1"],
        &["--format=posix", "--sparse", "--sparse-version=1.0"],
    ] {
        let made = std::process::Command::new("tar")
            .args(["--create", "--directory"])
            .arg(source.path())
            .args(format)
            .arg(".")
            .output();
        let bytes = made.unwrap().stdout;
        let place = Place::new();
        place.unpack_as(&bytes, &Digest::of(&bytes)).unwrap_or_else(|error| panic!("{format:?}: {error}"));
        assert_eq!(place.read(&long), "long");
        assert_eq!(fs::read_link(place.path("link")).unwrap(), PathBuf::from("t".repeat(300)));
        assert!(fs::read(place.path("holes")).unwrap() == wanted, "{format:?}");
        if format.len() > 1 {
            assert!(
                fs::metadata(place.path("holes")).unwrap().blocks() * 512 < 4 << 20,
                "{format:?}: holes stay holes"
            );
        }
    }
}

#[test]
fn programs_keep_their_capabilities() {
    let place = Place::new();
    let second = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let third = [&[1, 0, 0, 3][..], &second[4..], &[0; 4]].concat();
    let foreign = [&[1, 0, 0, 3][..], &second[4..], &1000_u32.to_le_bytes()].concat();
    let layer = Layer::new()
        .pax(&[("SCHILY.xattr.security.capability", &second)])
        .file("second", "")
        .pax(&[("SCHILY.xattr.security.capability", &third)])
        .file("third", "")
        .pax(&[("SCHILY.xattr.security.capability", &foreign)])
        .file("foreign", "")
        .pax(&[("SCHILY.xattr.security.capability", b"junk")])
        .file("junk", "");
    place.unpack(layer).unwrap();
    let get = |path: &str| {
        let mut value = [0_u8; 64];
        let length =
            rustix::fs::fgetxattr(fs::File::open(place.path(path)).unwrap(), "security.capability", &mut value[..]);
        length.map(|length| value[..length].to_vec()).ok()
    };
    assert_eq!((get("second"), get("third")), (Some(second.to_vec()), Some(second.to_vec())));
    assert_eq!((get("foreign"), get("junk")), (None, None));
}
