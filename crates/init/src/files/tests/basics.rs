//! Reading, writing, listing, and names.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use boxyard_proto::files::{Answer, Ask, Failure, FileKind, PathText};
use boxyard_proto::wire::json_frame;

use crate::files::testing::{World, framed};

fn mode(world: &World, path: &str) -> u32 {
    std::fs::metadata(world.place(path)).expect("stat").mode() & 0o7777
}

#[test]
fn what_is_written_is_read() {
    let world = World::new();
    for size in [0, 1, 99_999, 100_000, 262_144, 3_000_001] {
        let content: Vec<u8> = (0..size).map(|number: u32| u8::try_from(number % 251).expect("small")).collect();
        assert!(!world.write("w/new/folders/file", &content).done());
        let read = world.read("w/new/folders/file");
        assert!(read.content == content && !read.done(), "{size}");
        assert_eq!(read.stat().size, u64::from(size));
        assert!(
            matches!(read.answers[..], [Answer::Opened { length: Some(length), .. }, Answer::Done { .. }] if length == u64::from(size))
        );
    }
    assert_eq!(world.names("w/new/folders"), ["file"], "nothing else is left");
}

#[test]
fn parts_of_a_file_are_read() {
    let world = World::new();
    world.make_file("w/file", "0123456789");
    let read = |offset, length| world.ask(&Ask::Read { path: world.path("w/file"), offset, length });
    assert_eq!(read(3, Some(4)).text(), "3456");
    assert_eq!(read(8, Some(u64::MAX)).text(), "89");
    assert_eq!(read(8, None).text(), "89");
    assert_eq!(read(3, Some(0)).text(), "");
    assert_eq!(read(10, None).text(), "");
    assert_eq!(read(u64::MAX, Some(u64::MAX)).text(), "");
}

#[test]
fn a_sparse_file_is_read_with_its_holes() {
    let world = World::new();
    let file = std::fs::File::create(world.place("w/sparse")).expect("make");
    file.set_len(1_000_000).expect("set its length");
    let read = world.read("w/sparse");
    assert!(read.content.len() == 1_000_000 && read.content.iter().all(|&byte| byte == 0));
}

#[test]
fn only_files_are_read_and_written() {
    let world = World::new();
    let fifo = world.place("w/fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o666.into(), 0).expect("a FIFO");
    let _socket = std::os::unix::net::UnixListener::bind(world.place("w/socket")).expect("a socket");
    let device = rustix::fs::makedev(1, 5);
    rustix::fs::mknodat(
        rustix::fs::CWD,
        world.place("w/zero"),
        rustix::fs::FileType::CharacterDevice,
        0o666.into(),
        device,
    )
    .expect("a device");
    for name in ["w/fifo", "w/socket", "w/zero"] {
        assert_eq!(world.read(name).failure(), Failure::Special, "{name}");
        assert_eq!(world.write(name, "x").failure(), Failure::Special, "{name}");
        assert_eq!(world.stat(name, true).stat().kind, FileKind::Other);
    }
    world.make_folder("w/folder");
    assert_eq!(world.read("w/folder").failure(), Failure::IsFolder);
    assert_eq!(world.write("w/folder", "x").failure(), Failure::IsFolder);
    assert_eq!(world.write("w/new/", "x").failure(), Failure::IsFolder);
    world.make_file("w/file", "");
    assert_eq!(world.read("w/file/").failure(), Failure::NotFolder);
    assert_eq!(world.read("w/file/x").failure(), Failure::NotFolder);
    assert_eq!(world.write("w/file/x", "x").failure(), Failure::NotFolder);
    assert_eq!(world.read("w/none").failure(), Failure::NotFound);
    for name in ["w/fifo", "w/socket", "w/zero"] {
        assert!(!world.remove(name, false).done());
    }
}

#[test]
fn a_file_that_is_written_again_keeps_its_mode_and_owner_and_is_another_file() {
    let world = World::new();
    world.write("w/new", "x").done();
    assert_eq!(mode(&world, "w/new"), 0o644);
    world.make_file("w/tool", "old");
    let place = world.place("w/tool");
    std::os::unix::fs::chown(&place, Some(1234), Some(5678)).expect("tests need root");
    std::fs::set_permissions(&place, std::fs::Permissions::from_mode(0o6751)).expect("chmod");
    std::fs::hard_link(&place, world.place("w/same")).expect("link");
    world.write("w/tool", "new").done();
    assert_eq!(mode(&world, "w/tool"), 0o751, "as after write(2)");
    let stat = world.stat("w/tool", false).stat();
    assert_eq!((stat.uid, stat.gid, stat.mode, stat.size), (1234, 5678, 0o751, 3));
    assert_eq!(world.content("w/same"), "old");
    let told = world.with(&Ask::Write { path: world.path("w/tool"), mode: Some(0o4700) }, b"again");
    assert!(!told.done());
    assert_eq!(mode(&world, "w/tool"), 0o4700);
    world.with(&Ask::Write { path: world.path("w/fresh"), mode: Some(0o600) }, b"").done();
    assert_eq!(mode(&world, "w/fresh"), 0o600);
    let wrong = Ask::Write { path: world.path("w/fresh"), mode: Some(0o10_000) };
    assert_eq!(world.with(&wrong, b"").failure(), Failure::Invalid);
}

#[test]
fn without_nameless_files_a_hidden_name_is_used_and_never_left() {
    use crate::files::path::Path;
    use crate::files::walk::{Last, Missing};
    use crate::files::write::{New, is_hidden};
    let world = World::new();
    world.make_folder("w/in");
    let new = || {
        let path = Path::try_from(&world.path("w/in/file")).expect("a path");
        let spot = world.jail().spot(&path, Last::Follow, Missing::Fail).expect("a folder");
        let new = New::hidden(spot, Some(0o600.into())).expect("a file");
        rustix::io::write(&new.fd, b"content").expect("write");
        new
    };
    let dropped = new();
    let names = world.names("w/in");
    assert!(names.len() == 1 && is_hidden(names[0].as_bytes()), "{names:?}");
    drop(dropped);
    assert_eq!(world.names("w/in"), Vec::<String>::new());
    for _ in 0..2 {
        new().put().expect("named");
        assert_eq!((world.names("w/in"), world.content("w/in/file")), (vec!["file".into()], "content".into()));
        assert_eq!(mode(&world, "w/in/file"), 0o600);
    }
}

#[test]
fn links_are_written_through() {
    let world = World::new();
    world.make_file("w/target", "old");
    world.make_link("target", "w/relative");
    world.make_link(world.text("w/relative"), "h/absolute");
    world.make_link(world.text("w/made/later"), "h/dangling");
    world.write("h/absolute", "new").done();
    world.write("h/dangling", "made").done();
    assert_eq!((world.content("w/target"), world.content("w/made/later")), ("new".into(), "made".into()));
    assert!(world.place("h/absolute").is_symlink() && world.place("w/relative").is_symlink());
}

#[test]
fn a_failed_write_changes_nothing_and_the_next_request_is_found() {
    let world = World::new();
    world.make_folder("w/folder");
    let write = |path: &str, content: &[u8]| {
        [json_frame(&Ask::Write { path: world.path(path), mode: None }), framed(content)].concat()
    };
    let frames = [
        write("w/folder", &[b'x'; 300_000]),
        write("outside/x", b"no"),
        framed(b"content that nobody asked for"),
        br#"not json"#.iter().fold(json_frame(&0)[..0].to_vec(), |frame, _| frame),
        write("w/a", b"one"),
        write("w/b", b""),
    ];
    let told = world.all(&frames.concat());
    assert_eq!(told.len(), 4);
    assert_eq!((told[0].failure(), told[1].failure()), (Failure::IsFolder, Failure::Denied));
    assert!(!told[2].done() && !told[3].done());
    assert_eq!(world.names("w/"), ["a", "b", "folder"]);
    // An end within the content leaves the old file.
    let whole = write("w/a", b"two");
    for end in 1..whole.len() {
        let (_, ended) = world.bytes(&whole[..end]);
        assert!(ended.is_err(), "{end}");
        assert_eq!((world.content("w/a"), world.names("w/").len()), ("one".into(), 3));
    }
}

#[test]
fn requests_that_are_none_are_said_so() {
    let world = World::new();
    let relative = world.ask(&Ask::Read { path: "home/x".into(), offset: 0, length: None });
    assert_eq!(relative.failure(), Failure::Invalid);
    assert_eq!(relative.message(), "the path is not absolute");
    let told = world.all(&[json_frame(&"what?"), json_frame(&serde_json::json!({"type": "fly"}))].concat());
    assert_eq!(told.iter().map(super::super::testing::Told::failure).collect::<Vec<_>>(), [Failure::Invalid; 2]);
    let long = serde_json::json!({"type": "\u{1}".repeat(170_000)});
    assert!(world.all(&json_frame(&long))[0].message().len() < 300);
    // No frames at all, or ones that only we send.
    assert!(world.bytes(b"GET / HTTP/1.1\r\n\r\n").1.is_err());
    assert!(world.bytes(&[0, 0, 0, 0, 2]).1.is_err());
    assert!(world.bytes(&[]).1.is_ok());
}

#[test]
fn folders_are_listed_in_order_and_in_turns() {
    let world = World::new();
    let names: Vec<_> = (0..1500).map(|number| format!("{number:04}")).collect();
    for name in &names {
        world.make_file(&format!("w/{name}"), name);
    }
    let all = world.list("w/");
    assert_eq!(all.names(), names);
    assert!(all.answers.len() >= 4, "in pieces");
    assert_eq!(all.entries()[7].stat.size, 4);
    let turn = |after: Option<&str>, limit| {
        let told = world.ask(&Ask::List { path: world.path("w/"), after: after.map(PathText::from), limit });
        (told.names(), told.done())
    };
    assert_eq!(turn(None, Some(3)), (names[..3].to_vec(), true));
    assert_eq!(turn(Some("0002"), Some(2)), (names[3..5].to_vec(), true));
    assert_eq!(turn(Some("1497"), Some(2)), (names[1498..].to_vec(), false));
    assert_eq!(turn(Some("1499"), None), (vec![], false));
    assert_eq!(turn(None, Some(0)), (vec![], true));
    assert_eq!(world.list("w/0003").names(), Vec::<String>::new(), "of a file nothing");
    assert_eq!(world.list("w/none").failure(), Failure::NotFound);
    assert_eq!(world.list("w/0003/x").failure(), Failure::NotFolder);
}

#[test]
fn entries_tell_what_links_lead_to_and_any_name() {
    use std::os::unix::ffi::OsStrExt;
    let world = World::new();
    world.make_file("w/z", "123");
    world.make_folder("h/folder");
    world.make_link("z", "w/a");
    world.make_link(world.text("h/folder"), "w/b");
    world.make_link("gone", "w/c");
    let odd = std::ffi::OsStr::from_bytes(b"w\xff\"\n");
    std::fs::write(world.place("w/z").with_file_name(odd), "").expect("write");
    let entries = world.list("w/").entries();
    let seen: Vec<_> = entries
        .iter()
        .map(|entry| (entry.name.bytes().expect("base64").into_owned(), entry.stat.kind, entry.stat.size))
        .collect();
    assert_eq!(seen[0], (b"a".to_vec(), FileKind::File, 3));
    assert_eq!((&seen[1].0[..], seen[1].1), (&b"b"[..], FileKind::Directory));
    assert_eq!((&seen[2].0[..], seen[2].1), (&b"c"[..], FileKind::Symlink));
    assert_eq!(seen[3], (b"w\xff\"\n".to_vec(), FileKind::File, 0));
    assert_eq!((entries[2].stat.target.clone(), entries[4].stat.target.clone()), (Some("gone".into()), None));
    let path = PathText::new(&[world.text("w/").as_bytes(), b"w\xff\"\n"].concat());
    assert_eq!(world.ask(&Ask::Stat { path, follow: false }).stat().kind, FileKind::File);
}

#[test]
fn folders_are_made() {
    let world = World::new();
    assert!(!world.mkdir("w/a", false).done());
    assert_eq!(mode(&world, "w/a"), 0o755);
    assert_eq!(world.mkdir("w/a", false).failure(), Failure::Exists);
    assert!(!world.mkdir("w/a", true).done());
    assert_eq!(world.mkdir("w/b/c", false).failure(), Failure::NotFound);
    assert!(!world.mkdir("w/b/c/", true).done());
    world.make_file("w/file", "");
    world.make_link(world.text("w/b"), "w/link");
    world.make_link(world.text("h/new"), "w/dangling");
    assert_eq!(world.mkdir("w/file", true).failure(), Failure::Exists);
    assert_eq!(world.mkdir("w/file/x", true).failure(), Failure::NotFolder);
    assert!(!world.mkdir("w/link", true).done());
    assert!(!world.mkdir("w/link/d", true).done());
    assert_eq!(world.mkdir("w/dangling", true).failure(), Failure::Exists);
    assert!(!world.mkdir("w/dangling/x", true).done());
    assert!(world.place("w/b/d").is_dir() && world.place("h/new/x").is_dir());
}

#[test]
fn names_are_changed() {
    let world = World::new();
    world.make_file("w/a", "a");
    world.make_file("w/full/x", "x");
    world.make_folder("w/empty");
    assert!(!world.rename("w/a", "h/b").done());
    assert_eq!(world.content("h/b"), "a");
    assert_eq!(world.rename("w/a", "h/b").failure(), Failure::NotFound);
    assert_eq!(world.rename("h/b", "w/none/b").failure(), Failure::NotFound);
    assert_eq!(world.rename("h/b", "w/full").failure(), Failure::IsFolder);
    assert_eq!(world.rename("w/full", "h/b").failure(), Failure::NotFolder);
    assert_eq!(world.rename("w/empty", "w/full").failure(), Failure::NotEmpty);
    assert_eq!(world.rename("w/full", "w/full/x/y").failure(), Failure::NotFolder);
    assert_eq!(world.rename("w/full", "w/full/y").failure(), Failure::Invalid);
    assert_eq!(world.rename("h/b", "w/c/").failure(), Failure::NotFolder);
    assert!(!world.rename("w/full/", "w/empty/").done());
    assert_eq!(world.names("w/"), ["empty"]);
    world.make_file("w/empty/y", "y");
    assert!(!world.rename("h/b", "w/empty/y").done());
    assert_eq!(world.content("w/empty/y"), "a");
}

#[test]
fn things_are_removed_and_folders_only_when_that_is_meant() {
    let world = World::new();
    world.make_file("w/a/b/c/file", "");
    world.make_folder("w/a/empty");
    world.make_link(world.text("outside"), "w/a/b/out");
    world.make_link(world.text("h/"), "w/a/home");
    world.make_file("h/kept", "kept");
    world.make_file("w/file", "");
    world.make_link("a", "w/link");
    assert_eq!(world.remove("w/a", false).failure(), Failure::IsFolder);
    assert_eq!(world.remove("w/a/empty", false).failure(), Failure::IsFolder);
    assert_eq!(world.remove("w/file/", true).failure(), Failure::NotFolder);
    assert_eq!(world.remove("w/link/", true).failure(), Failure::NotFolder);
    assert_eq!(world.remove("w/none", true).failure(), Failure::NotFound);
    assert!(!world.remove("w/link", true).done());
    assert!(!world.remove("w/file", false).done());
    assert!(!world.remove("w/a/", true).done());
    assert_eq!(world.names("w/"), Vec::<String>::new());
    assert_eq!((world.names("outside"), world.names("h/")), (vec!["secret".into()], vec!["kept".into()]));
}

#[test]
fn folders_deeper_than_any_path_or_number_of_descriptors_are_removed() {
    let world = World::new();
    let mut folder: std::os::fd::OwnedFd = std::fs::File::open(world.place("w/")).expect("open").into();
    for _ in 0..2500 {
        rustix::fs::mkdirat(&folder, "d", 0o755.into()).expect("make");
        std::fs::write(crate::guard::by_descriptor(&folder) + "/file", "x").expect("write");
        folder = rustix::fs::openat(&folder, "d", rustix::fs::OFlags::DIRECTORY, 0.into()).expect("open");
    }
    assert!(!world.remove("w/d", true).done());
    assert_eq!(world.names("w/"), ["file"]);
}

#[test]
fn permission_bits_are_set_and_links_are_not_followed_below() {
    let world = World::new();
    world.make_file("w/a/b/file", "");
    world.make_file("h/other", "");
    world.make_link(world.text("h/other"), "w/a/link");
    world.make_link(world.text("w/a/b/file"), "w/to_file");
    let chmod = |path: &str, mode, recursive| world.ask(&Ask::Chmod { path: world.path(path), mode, recursive });
    assert!(!chmod("w/to_file", 0o4711, false).done());
    assert_eq!(mode(&world, "w/a/b/file"), 0o4711);
    assert!(!chmod("w/a", 0o750, true).done());
    assert_eq!(["w/a", "w/a/b", "w/a/b/file"].map(|path| mode(&world, path)), [0o750; 3]);
    assert!(!chmod("w/a/", 0o200, true).done());
    assert_eq!(["w/a", "w/a/b", "w/a/b/file"].map(|path| mode(&world, path)), [0o200; 3]);
    assert_eq!(mode(&world, "h/other"), 0o644);
    assert_eq!(chmod("w/a", 0o10_000, false).failure(), Failure::Invalid);
    assert_eq!(chmod("w/none", 0o700, false).failure(), Failure::NotFound);
}
