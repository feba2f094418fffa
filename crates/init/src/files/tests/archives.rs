//! Archives: what goes in comes out, what others make is read, and what is meant badly leads nowhere.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

use boxyard_proto::files::{Answer, Ask, Failure, Format};
use rustix::fs::{CWD, FileType, Timespec, Timestamps};

use crate::files::testing::{Told, World};

const FORMATS: [Format; 3] = [Format::Tar, Format::TarGz, Format::Zip];

fn archive(world: &World, path: &str, format: Format) -> Told {
    let told = world.ask(&Ask::Archive { path: world.path(path), format });
    assert!(
        matches!(told.answers[..], [Answer::Opened { length: None, .. }, Answer::Done { .. }]),
        "{:?}",
        told.answers
    );
    told
}

fn unpack(world: &World, path: &str, archive: &[u8]) -> Told {
    world.with(&Ask::Unpack { path: world.path(path) }, archive)
}

/// Everything below a folder: path, sort, permission bits, time, and content or target.
fn tree(folder: &Path) -> BTreeMap<Vec<u8>, (u32, i64, Vec<u8>)> {
    let (mut all, mut ahead) = (BTreeMap::new(), vec![folder.to_path_buf()]);
    while let Some(next) = ahead.pop() {
        for entry in std::fs::read_dir(next).expect("list") {
            let path = entry.expect("entry").path();
            let stat = path.symlink_metadata().expect("stat");
            let content = if stat.is_dir() {
                ahead.push(path.clone());
                Vec::new()
            } else if stat.is_symlink() {
                path.read_link().expect("link").as_os_str().as_bytes().to_vec()
            } else {
                std::fs::read(&path).expect("read")
            };
            let below = path.strip_prefix(folder).expect("below").as_os_str().as_bytes().to_vec();
            all.insert(below, (stat.mode(), stat.mtime(), content));
        }
    }
    all
}

/// A folder with everything in it that an archive can hold.
fn of_all_sorts() -> World {
    let world = World::new();
    world.make_file("w/all/a", "a");
    world.make_file("w/all/deep/er/b", vec![7; 1_000_000]);
    world.make_file("w/all/deep/empty", "");
    world.make_folder("w/all/nothing");
    world.make_link("deep/../a", "w/all/link");
    world.make_link("/etc/passwd", "w/all/out");
    world.make_link("x".repeat(300), "w/all/far");
    let long = format!("w/all/{}/{}", "l".repeat(120), "é".repeat(120));
    world.make_file(&long, "long");
    let odd = world.place("w/all").join(std::ffi::OsStr::from_bytes(b"odd\xff\n"));
    std::fs::write(&odd, "odd").expect("write");
    std::fs::write(world.place(&long).with_file_name(std::ffi::OsStr::from_bytes(&[0xfe; 150])), "").expect("write");
    std::fs::set_permissions(&odd, std::fs::Permissions::from_mode(0o751)).expect("chmod");
    let time = |seconds| Timespec { tv_sec: seconds, tv_nsec: 0 };
    for (number, path) in ["w/all/a", "w/all/deep/empty", "w/all/deep", "w/all/nothing"].iter().enumerate() {
        let time = time(1_000_000_000 + i64::try_from(number).expect("small"));
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, world.place(path), &times, rustix::fs::AtFlags::empty()).expect("set its time");
    }
    std::fs::set_permissions(world.place("w/all/deep"), std::fs::Permissions::from_mode(0o555)).expect("chmod");
    world
}

#[test]
fn what_is_packed_comes_out_the_same() {
    let world = of_all_sorts();
    for format in [Format::Tar, Format::TarGz] {
        let told = archive(&world, "w/all", format);
        assert!(!told.done());
        assert!(!unpack(&world, "h/made/copy", &told.content).done());
        assert_eq!(tree(&world.place("h/made/copy")), tree(&world.place("w/all")), "{format:?}");
        // Over what is there already as well.
        assert!(!unpack(&world, "h/made/copy/", &told.content).done());
        let mut again = tree(&world.place("h/made/copy"));
        // Folders that are there stay as they are.
        again.get_mut(&b"deep"[..]).expect("a folder").1 = 1_000_000_002;
        assert_eq!(again, tree(&world.place("w/all")), "{format:?}");
        assert!(!world.remove("h/made", true).done());
    }
}

/// Runs a program with this input; returns its output.
fn run(program: &mut Command, input: &[u8]) -> String {
    let mut child = program.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("start it");
    // It reads all before it says anything.
    child.stdin.take().expect("its input").write_all(input).expect("send");
    let output = child.wait_with_output().expect("wait");
    assert!(output.status.success(), "{program:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn gnu_tar_reads_our_archives_and_we_read_its() {
    let world = of_all_sorts();
    let hole = std::fs::File::create(world.place("w/all/hole")).expect("make");
    hole.write_all_at(b"middle", 5_000_000).expect("write");
    hole.set_len(10_000_000).expect("set its length");
    std::fs::hard_link(world.place("w/all/a"), world.place("w/all/again")).expect("link");
    for (format, flags) in [(Format::Tar, "-xpf"), (Format::TarGz, "-xpzf")] {
        let told = archive(&world, "w/all/", format);
        assert!(told.content.len() < 5_000_000, "holes take no place: {}", told.content.len());
        world.make_folder("h/theirs");
        run(Command::new("tar").arg(flags).arg("-").arg("-C").arg(world.place("h/theirs")), &told.content);
        assert_eq!(tree(&world.place("h/theirs")), tree(&world.place("w/all")), "{format:?}");
        assert!(!unpack(&world, "h/ours", &told.content).done());
        let copy = world.place("h/ours/hole").metadata().expect("stat");
        assert!(copy.len() == 10_000_000 && copy.blocks() < 1000, "{copy:?}");
        assert_eq!(tree(&world.place("h/ours")), tree(&world.place("w/all")));
        assert_eq!(world.place("h/ours/a").metadata().expect("stat").nlink(), 2);
        assert!(!world.remove("h/theirs", true).done() && !world.remove("h/ours", true).done());
    }
    for flags in [&["--format=gnu"][..], &["--format=posix"], &["--format=posix", "-S"], &["--format=posix", "-z"]] {
        let mut tar = Command::new("tar");
        let packed = tar.args(flags).args(["-c", "."]).current_dir(world.place("w/all")).output().expect("run tar");
        assert!(packed.status.success(), "{flags:?}");
        let told = unpack(&world, "h/ours", &packed.stdout);
        assert!(!told.done());
        assert_eq!(tree(&world.place("h/ours")), tree(&world.place("w/all")), "{flags:?}");
        assert!(!world.remove("h/ours", true).done());
    }
}

#[test]
fn others_read_our_zip_archives() {
    let world = of_all_sorts();
    let told = archive(&world, "w/all", Format::Zip);
    assert!(!told.done());
    let script = "import io, sys, zipfile
archive = zipfile.ZipFile(io.BytesIO(sys.stdin.buffer.read()))
assert archive.testzip() is None
for entry in archive.infolist():
    print(ascii(entry.filename[:20]), oct(entry.external_attr >> 16), entry.file_size, entry.date_time[0])
print(archive.read('a'), archive.read('link'), archive.read('deep/er/b') == b'\\7' * 1000000)";
    let seen = run(Command::new("python3").args(["-c", script]), &told.content);
    for line in [
        "'a' 0o100644 1 2001",
        "'deep/' 0o40555 0 2001",
        "'deep/empty' 0o100644 0 2001",
        "'link' 0o120777 9 ",
        "b'a' b'deep/../a' True",
    ] {
        assert!(seen.contains(line), "{line}: {seen}");
    }
    assert_eq!(seen.lines().count(), 14, "{seen}");
}

#[test]
fn a_file_and_an_empty_folder_are_archives_too() {
    let world = World::new();
    world.make_file("w/some/file", "content");
    world.make_folder("w/empty");
    assert!(!unpack(&world, "h/one", &archive(&world, "w/some/file", Format::Tar).content).done());
    assert_eq!((world.names("h/one"), world.content("h/one/file")), (vec!["file".into()], "content".into()));
    assert!(!unpack(&world, "h/two", &archive(&world, "w/empty", Format::TarGz).content).done());
    assert_eq!(world.names("h/two"), Vec::<String>::new());
    assert!(!unpack(&world, "h/three", b"").done());
    let empty = archive(&world, "w/empty", Format::Zip).content;
    assert_eq!(empty.len(), 22);
}

#[test]
fn what_cannot_be_packed_is_left_out_and_that_is_said() {
    let world = World::new();
    world.make_file("w/a/file", "x");
    rustix::fs::mknodat(CWD, world.place("w/a/fifo"), FileType::Fifo, 0o666.into(), 0).expect("a FIFO");
    for format in FORMATS {
        assert!(archive(&world, "w/a", format).done(), "{format:?}");
    }
    let told = world.ask(&Ask::Archive { path: world.path("w/a/fifo"), format: Format::Tar });
    assert_eq!(told.failure(), Failure::Special);
    let told = world.ask(&Ask::Archive { path: world.path("w/none"), format: Format::Tar });
    assert_eq!(told.failure(), Failure::NotFound);
    assert!(told.content.is_empty());
}

/// An entry of a hostile archive.
fn entry(kind: u8, path: &[u8], target: &[u8], content: &[u8]) -> Vec<u8> {
    let mut block = [0; 512];
    block[..path.len()].copy_from_slice(path);
    block[100..107].copy_from_slice(b"0006755");
    block[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
    block[136..147].copy_from_slice(b"00000000000");
    block[156] = kind;
    block[157..157 + target.len()].copy_from_slice(target);
    block[257..265].copy_from_slice(b"ustar\x0000");
    sum(&mut block);
    let mut bytes = [&block[..], content].concat();
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn sum(block: &mut [u8; 512]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
}

#[test]
fn nothing_in_an_archive_leads_out_of_the_folder() {
    let world = World::new();
    world.make_file("w/before", "kept");
    let outside = world.text("outside");
    let out = outside.as_bytes();
    let link = |name: &[u8], target: &[u8]| entry(b'2', name, target, b"");
    let file = |name: &[u8]| entry(b'0', name, b"", b"content");
    let hostile = [
        file(b"../escaped"),
        file(b"a/../../escaped"),
        file(b"/escaped"),
        file(&[out, b"/escaped"].concat()),
        [link(b"l", out), file(b"l/escaped")].concat(),
        [link(b"l", b"../../outside"), entry(b'5', b"l/folder", b"", b"")].concat(),
        [link(b"l", b".."), link(b"m", b"l/.."), file(b"m/escaped")].concat(),
        [link(b"l", b"."), file(b"l/inside")].concat(),
        entry(b'1', b"hard", &[out, b"/secret"].concat(), b""),
        entry(b'1', b"hard", b"../../outside/secret", b""),
        [link(b"l", out), entry(b'1', b"hard", b"l/secret", b"")].concat(),
        [link(b"l", out), entry(b'2', b"l/link", b"x", b"")].concat(),
        [link(b"l", out), entry(b'1', b"l/hard", b"l", b"")].concat(),
    ];
    for bytes in hostile {
        let told = unpack(&world, "w/in", &bytes);
        assert_eq!(told.failure(), Failure::Denied, "{}", String::from_utf8_lossy(&bytes));
        assert_eq!(told.message().contains("what came before"), bytes[156] == b'2', "{}", told.message());
        assert_eq!(world.names("outside"), ["secret"]);
        assert!(!world.remove("w/in", true).done());
    }
    assert_eq!((world.names("w/"), world.content("outside/secret")), (vec!["before".into()], "secret".into()));
    // A link itself is replaced by a file of its name, and not written through.
    let bytes = [link(b"l", &[out, b"/secret"].concat()), file(b"l")].concat();
    assert!(!unpack(&world, "w/in", &bytes).done());
    assert_eq!((world.content("w/in/l"), world.content("outside/secret")), ("content".into(), "secret".into()));
    // And it leads nowhere, should it stay: it is not followed.
    let linked = [link(b"l", &[out, b"/secret"].concat()), entry(b'1', b"hard", b"l", b"")].concat();
    assert!(!unpack(&world, "w/in", &linked).done());
    assert_eq!(world.read("w/in/hard").failure(), Failure::Denied);
}

#[test]
fn devices_are_left_out_and_set_uid_bits_are_taken_away() {
    let world = World::new();
    let bytes = [
        entry(b'3', b"null", b"", b""),
        entry(b'6', b"fifo", b"", b""),
        entry(b'0', b"tool", b"", b"x"),
        entry(b'5', b"folder", b"", b""),
        entry(b'9', b"newer", b"", b"whatever it is"),
        vec![0; 1024],
        b"what comes after the end does not matter".to_vec(),
    ];
    assert!(unpack(&world, "w/in", &bytes.concat()).done());
    assert_eq!(world.names("w/in"), ["folder", "tool"]);
    for name in ["w/in/tool", "w/in/folder"] {
        assert_eq!(world.place(name).metadata().expect("stat").mode() & 0o7777, 0o755, "{name}");
    }
}

#[test]
fn what_is_there_is_replaced_and_folders_are_kept() {
    let world = World::new();
    world.make_file("w/in/folder/kept", "kept");
    world.make_file("w/in/file", "old");
    world.make_link("gone", "w/in/link");
    let bytes = [
        entry(b'5', b"folder/", b"", b""),
        entry(b'0', b"./folder//new", b"", b"new"),
        entry(b'0', b"file", b"", b"new"),
        entry(b'2', b"link", b"file", b""),
        entry(b'1', b"same", b"file", b""),
        entry(b'1', b"same", b"file", b""),
    ];
    assert!(!unpack(&world, "w/in", &bytes.concat()).done());
    assert_eq!(world.names("w/in/folder"), ["kept", "new"]);
    assert_eq!((world.content("w/in/link"), world.content("w/in/same")), ("new".into(), "new".into()));
    let told = |entry: Vec<u8>| unpack(&world, "w/in", &entry).failure();
    assert_eq!(told(entry(b'0', b"folder", b"", b"")), Failure::IsFolder);
    assert_eq!(told(entry(b'5', b"file", b"", b"")), Failure::NotFolder);
    assert_eq!(told(entry(b'0', b"file/x", b"", b"")), Failure::NotFolder);
    assert_eq!(told(entry(b'1', b"x", b"none", b"")), Failure::NotFound);
    assert_eq!(told(entry(b'1', b"file", b"file", b"")), Failure::Invalid);
    assert_eq!(unpack(&world, "w/in/file", b"").failure(), Failure::NotFolder);
    assert_eq!(unpack(&world, "outside", b"").failure(), Failure::Denied);
    assert_eq!(world.content("w/in/file"), "new");
}

#[test]
fn damaged_archives_are_said_to_be_and_the_next_request_is_found() {
    let world = World::new();
    let whole = [entry(b'0', b"a", b"", &[1; 700]), entry(b'5', b"b", b"", b"")].concat();
    for end in (1..whole.len()).filter(|end| *end != 1536) {
        let told = unpack(&world, "w/in", &whole[..end]);
        assert_eq!(told.failure(), Failure::Invalid, "{end}");
        assert_eq!(told.message().contains("what came before"), end >= 512 + 700);
    }
    for wrong in [b"PK\x03\x04 a zip".repeat(100), vec![0x1f, 0x8b, 8, 0, 0], vec![0x1f]] {
        assert_eq!(unpack(&world, "w/in", &wrong).failure(), Failure::Invalid);
    }
    // Sizes that nothing has.
    let mut huge = [0; 512];
    huge.copy_from_slice(&entry(b'x', b"a", b"", b"")[..512]);
    huge[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
    for kind in [b'0', b'x', b'g', b'L', b'K', b'S', b'5'] {
        huge[156] = kind;
        sum(&mut huge);
        let told = unpack(&world, "w/in", &huge);
        assert!(kind == b'5' || told.failure() == Failure::Invalid, "{kind}: {told:?}");
    }
    let ask = boxyard_proto::wire::json_frame(&Ask::Unpack { path: world.path("w/in") });
    let ask = [ask, crate::files::testing::framed(&vec![b'x'; 3_000_000])].concat();
    let told = world.all(&[&ask[..], &ask].concat());
    assert_eq!(told.iter().map(Told::failure).collect::<Vec<_>>(), [Failure::Invalid; 2]);
}

#[test]
fn a_file_that_shrinks_while_it_is_packed_is_filled_up() {
    use super::super::archive::content::Content;
    let world = World::new();
    world.make_file("w/file", vec![1; 1000]);
    let file = std::fs::File::options().read(true).write(true).open(world.place("w/file")).expect("open");
    let stat = rustix::fs::fstat(&file).expect("stat");
    let mut content = Content::new(file.try_clone().expect("clone").into(), &stat);
    file.set_len(400).expect("shrink");
    let mut bytes = Vec::new();
    content.copy(0, content.size, &mut bytes).expect("writing to memory");
    assert!(content.is_short && bytes == [vec![1; 400], vec![0; 600]].concat());
    // And one that grows is cut.
    let mut content = Content::new(file.try_clone().expect("clone").into(), &rustix::fs::fstat(&file).expect("stat"));
    file.set_len(5000).expect("grow");
    bytes.clear();
    content.copy(0, content.size, &mut bytes).expect("writing to memory");
    assert!(!content.is_short && bytes == vec![1; 400]);
}
