//! There and back again.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::sync::Arc;

use rustix::fs::{CWD, FileType, Mode, XattrFlags, fgetxattr, fsetxattr, mknodat};
use tempfile::TempDir;

use super::super::layout::{Contents, receive};
use super::super::{Allowance, Unpacking};
use super::*;

fn attribute(path: &Path, name: &str, value: &[u8]) {
    fsetxattr(File::open(path).unwrap(), name, value, XattrFlags::empty()).unwrap();
}

fn read_attribute(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = [0; 256];
    let length = fgetxattr(File::open(path).unwrap(), name, &mut value[..]).ok()?;
    Some(value[..length].to_vec())
}

/// A folder on a file system with all abilities, which /tmp may not be.
fn folder() -> TempDir {
    tempfile::tempdir_in("/var/tmp").unwrap()
}

fn node(path: &Path, kind: FileType) {
    mknodat(CWD, path, kind, Mode::from_raw_mode(0o640), 0).unwrap();
}

/// What a box may have written.
fn odd_tree(top: &Path) {
    fs::create_dir_all(top.join("a/b")).unwrap();
    fs::write(top.join("a/b/file"), "text").unwrap();
    chown(top.join("a/b/file"), Some(1000), Some(1001)).unwrap();
    fs::set_permissions(top.join("a/b/file"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::hard_link(top.join("a/b/file"), top.join("z-other")).unwrap();
    fs::set_permissions(top.join("a"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::set_permissions(top, fs::Permissions::from_mode(0o711)).unwrap();
    symlink("/etc/../../passwd", top.join("link")).unwrap();
    fs::hard_link(top.join("link"), top.join("link2")).unwrap();
    fs::write(top.join(OsStr::from_bytes(b"\xff\xfe \n")), "odd").unwrap();
    let deep = (0..20).fold(top.to_owned(), |path, _| path.join("x".repeat(100)));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("far"), "away").unwrap();
    node(&top.join("gone"), FileType::CharacterDevice);
    node(&top.join("y".repeat(255)), FileType::CharacterDevice);
    node(&top.join("fifo"), FileType::Fifo);
    node(&top.join("socket"), FileType::Socket);
    fs::create_dir(top.join("opaque")).unwrap();
    attribute(&top.join("opaque"), "user.overlay.opaque", b"y");
    attribute(&top.join("opaque"), "user.overlay.origin", b"\0\xfb");
    attribute(&top.join("opaque"), "user.overlay.overlay.opaque", b"x");
    attribute(&top.join("z-other"), "user.a=b%", b"\0\n");
    let capability = [&[1, 0, 0, 2][..], &[0; 16]].concat();
    attribute(&top.join("z-other"), "security.capability", &capability);
    let acl =
        |tag: u16, perm: u16, id: u32| [tag.to_le_bytes().as_slice(), &perm.to_le_bytes(), &id.to_le_bytes()].concat();
    let none = u32::MAX;
    let entries = [acl(1, 7, none), acl(2, 6, 1234), acl(4, 5, none), acl(16, 7, none), acl(32, 1, none)];
    attribute(&top.join("a/b"), "system.posix_acl_access", &[&[2, 0, 0, 0][..], &entries.concat()].concat());
    let holes = File::create(top.join("holes")).unwrap();
    holes.set_len(1 << 40).unwrap();
    holes.write_all_at(b"middle", 32 << 20).unwrap();
    File::create(top.join("nothing but holes")).unwrap().set_len(1 << 20).unwrap();
    holes.sync_all().unwrap();
}

/// All that can be seen of a tree but for what is in files.
fn seen(top: &Path) -> BTreeMap<Vec<u8>, String> {
    let (mut seen, mut numbers) = (BTreeMap::new(), BTreeMap::new());
    let mut waiting = vec![top.to_owned()];
    let mut paths = Vec::new();
    while let Some(path) = waiting.pop() {
        if path.symlink_metadata().unwrap().is_dir() {
            waiting.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        paths.push(path);
    }
    paths.sort();
    for path in paths {
        let stat = path.symlink_metadata().unwrap();
        let (size, next) = (if stat.is_dir() { 0 } else { stat.len() }, numbers.len());
        // Which names are of the same file.
        let number = *numbers.entry(stat.ino()).or_insert(next);
        let (target, times) = (fs::read_link(&path).ok(), (stat.mtime(), stat.mtime_nsec()));
        let text = format!("{:o} {} {} {times:?} {size} {number} {target:?}", stat.mode(), stat.uid(), stat.gid());
        seen.insert(path.strip_prefix(top).unwrap().as_os_str().as_bytes().to_vec(), text);
    }
    seen
}

fn description() -> Description {
    let (runtime, size, name) = ("node".into(), "medium".into(), "mine ü".into());
    Description { runtime, size, name, source: "wise-otter-12345".parse().ok(), created_at_ms: 1_700_000_000_123 }
}

/// Packs `upper` over one layer.
async fn packed(base: &Path, upper: &Path, without_image: bool) -> io::Result<Vec<u8>> {
    let stop = AtomicBool::new(false);
    let packing = Packing {
        layers: vec![Base { tree: base.to_owned(), key: Some("k".into()), known: None }],
        upper: upper.to_owned(),
        env: BTreeMap::from([("PATH".into(), "/bin".into())]),
        description: &description(),
        without_image,
        bytes: 1 << 30,
        stop: &stop,
    };
    let packed = run(&packing, Spool::new(&std::env::temp_dir(), 1 << 30, 0)?)?;
    let length = packed.len();
    let mut bytes = Vec::new();
    packed.into_reader().read_to_end(&mut bytes).await?;
    assert_eq!(bytes.len() as u64, length);
    Ok(bytes)
}

fn contents(archive: &[u8]) -> io::Result<Contents> {
    let spool = Spool::new(&std::env::temp_dir(), 1 << 30, 0)?;
    receive(archive, spool, 1 << 30, &AtomicBool::new(false))?.contents()
}

fn unpacking() -> Unpacking {
    Unpacking { allowance: Allowance::new(1 << 30), keep_free: 0, stop: Arc::default() }
}

#[tokio::test]
async fn what_a_box_has_written_goes_there_and_back() {
    let dir = folder();
    let [base, upper, into] = ["base", "upper", "into"].map(|name| dir.path().join(name));
    for path in [&base, &upper, &into] {
        fs::create_dir(path).unwrap();
    }
    odd_tree(&upper);
    let archive = packed(&base, &upper, false).await.unwrap();
    assert_eq!(archive, packed(&base, &upper, false).await.unwrap(), "the same tree makes the same archive");
    let contents = contents(&archive).unwrap();
    assert_eq!(contents.description, description());
    assert_eq!(contents.env, BTreeMap::from([("PATH".into(), "/bin".into())]));
    assert_eq!((contents.image.len(), contents.image[0].key.as_deref()), (1, Some("k")));
    let own = contents.own;
    unpacking().run(own.blob.unwrap(), &into, &own.diff_id).unwrap();
    fs::remove_file(upper.join("socket")).unwrap();
    let mtime = fs::metadata(&into).unwrap();
    File::open(&upper).unwrap().set_modified(mtime.modified().unwrap()).unwrap();
    // A mark has no owner, mode or time that anybody could see.
    let (mut old, mut new) = (seen(&upper), seen(&into));
    for gone in [b"gone".to_vec(), vec![b'y'; 255]] {
        assert!(old.remove(&gone).is_some() && new.remove(&gone).is_some_and(|text| text.starts_with("20000 ")));
    }
    assert_eq!(old, new);
    for (path, name) in [
        ("opaque", "user.overlay.opaque"),
        ("opaque", "user.overlay.overlay.opaque"),
        ("z-other", "user.a=b%"),
        ("z-other", "security.capability"),
        ("a/b", "system.posix_acl_access"),
    ] {
        let [old, new] = [&upper, &into].map(|top| read_attribute(&top.join(path), name));
        assert!(old.is_some(), "{name}");
        assert_eq!(old, new, "{name}");
    }
    assert_eq!(read_attribute(&into.join("opaque"), "user.overlay.origin"), None);
    assert_eq!(fs::read(into.join("a/b/file")).unwrap(), b"text");
    let mut middle = [0; 8];
    File::open(into.join("holes")).unwrap().read_exact_at(&mut middle, 32 << 20).unwrap();
    assert_eq!(&middle, b"middle\0\0");
    assert!(fs::metadata(into.join("holes")).unwrap().blocks() < 1000, "holes stay holes");
    assert_eq!(archive, {
        // What was unpacked packs to the same, so hosts find out that they have the same.
        node(&into.join("socket"), FileType::Socket);
        let mtime = fs::metadata(&upper).unwrap().modified().unwrap();
        File::open(&into).unwrap().set_modified(mtime).unwrap();
        packed(&base, &into, false).await.unwrap()
    });
}

#[tokio::test]
async fn an_image_may_be_left_out() {
    let dir = folder();
    let [base, upper] = ["base", "upper"].map(|name| dir.path().join(name));
    fs::create_dir(&base).unwrap();
    fs::create_dir(&upper).unwrap();
    fs::write(base.join("file"), vec![7; 100_000]).unwrap();
    let contents = contents(&packed(&base, &upper, true).await.unwrap()).unwrap();
    assert!(contents.image[0].blob.is_none());
    let full = self::contents(&packed(&base, &upper, false).await.unwrap()).unwrap();
    assert_eq!(full.image[0].diff_id, contents.image[0].diff_id);
    assert_eq!(hash(&base, 1 << 30, &AtomicBool::new(false)).unwrap().diff_id, full.image[0].diff_id);
    let mut blob = full.image.into_iter().next().unwrap().blob.unwrap();
    let mut bytes = Vec::new();
    blob.read_to_end(&mut bytes).unwrap();
}

#[tokio::test]
async fn what_no_archive_can_hold_is_refused_with_its_name() {
    let dir = folder();
    let base = dir.path().join("base");
    fs::create_dir(&base).unwrap();
    let upper = |name: &str, make: &dyn Fn(&Path)| {
        let upper = dir.path().join(name);
        fs::create_dir(&upper).unwrap();
        make(&upper);
        upper
    };
    for (upper, told) in [
        (upper("file", &|top| fs::write(top.join(".wh.x"), "").unwrap()), "\".wh.x\" has a name that means"),
        (upper("folder", &|top| fs::create_dir(top.join(".wh..wh..opq")).unwrap()), "has a name that means"),
        (
            upper("deep", &|top| {
                fs::create_dir_all((0..300).fold(top.to_owned(), |path, _| path.join("d"))).unwrap();
            }),
            "more folders within folders",
        ),
        (upper("owner", &|top| chown(top, Some(70_000), Some(0)).unwrap()), "no box knows"),
        (upper("big", &|top| fs::write(top.join("big"), vec![1; 2 << 20]).unwrap()), "bytes in it"),
    ] {
        let stop = AtomicBool::new(false);
        let description = description();
        let packing = Packing {
            layers: vec![],
            upper,
            env: BTreeMap::new(),
            description: &description,
            without_image: false,
            bytes: 1 << 20,
            stop: &stop,
        };
        let error = run(&packing, Spool::new(dir.path(), 1 << 30, 0).unwrap()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert!(error.to_string().contains(told), "{error}");
    }
    let full = Spool::new(dir.path(), 1 << 30, u64::MAX).unwrap_err();
    assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 6, "a spool leaves nothing");
}

#[tokio::test]
async fn archives_that_are_not_whole_or_not_right_are_refused() {
    let dir = folder();
    let [base, upper] = ["base", "upper"].map(|name| dir.path().join(name));
    fs::create_dir(&base).unwrap();
    fs::create_dir(&upper).unwrap();
    fs::write(upper.join("file"), vec![7; 5000]).unwrap();
    let archive = packed(&base, &upper, false).await.unwrap();
    let whole = archive.len() - 2 * BLOCK;
    for length in (0..whole).step_by(BLOCK / 2) {
        assert!(contents(&archive[..length]).is_err(), "{length} of {whole}");
    }
    for at in (0..whole).step_by(97) {
        let mut broken = archive.clone();
        broken[at] ^= 0x55;
        // Either it is noticed, or it was nothing that means anything.
        if let Ok(contents) = contents(&broken) {
            let own = contents.own;
            assert_eq!(contents.description.runtime, "node");
            unpacking().check(own.blob.unwrap(), &own.diff_id).unwrap();
        }
    }
    let error = receive(&archive[..], Spool::new(dir.path(), 1 << 30, 0).unwrap(), 4096, &AtomicBool::new(false));
    assert!(error.unwrap_err().to_string().contains("more than is allowed"));
    // Compressed as a whole it is the same.
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&archive).unwrap();
    assert!(contents(&encoder.finish().unwrap()).is_ok());
}
