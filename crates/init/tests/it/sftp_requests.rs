//! What OpenSSH's client never asks: requests that are wrong, odd or hostile, sent one by one.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

use crate::support::sftp::{
    APPENDING, BAD_MESSAGE, CLOSE, DENIED, EMPTYING, EOF, EXTENDED, EXTENDED_REPLY, FAILURE, FOR_READING, FOR_WRITING,
    Fields, HANDLE, MAKING, MKDIR, NEW, NO_SUCH_FILE, OK, OPENDIR, READ, READDIR, READLINK, REALPATH, RENAME, SETSTAT,
    STAT, SYMLINK, Sftp, UNSUPPORTED, text,
};
use crate::support::{PROGRAM, folder};

const EVERYTHING: u32 = FOR_READING | FOR_WRITING | MAKING;

fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

#[test]
fn names_are_any_bytes() {
    let place = folder("names");
    let mut sftp = Sftp::on_host();
    let names: [&[u8]; 5] = [b"with space", b"new\nline", b"\xff\xfe not text", "käse".as_bytes(), b"-rf *"];
    for name in names {
        let path = [bytes(&place), b"/", name].concat();
        let handle = sftp.open(&path, EVERYTHING | NEW).expect("open");
        assert_eq!(sftp.write(&handle, 0, name), OK);
        assert_eq!(sftp.read(&handle, 0, 1000).expect("read"), name);
        assert_eq!(sftp.ask(CLOSE, text(&handle)).status(), OK);
        assert_eq!(sftp.name(REALPATH, text(&path)).expect("resolve"), path);
    }
    let listed = sftp.list(bytes(&place));
    for name in names {
        let (_, line) = listed.iter().find(|(listed, _)| listed == name).expect("listed");
        assert!(line.starts_with(b"-rw-r--r--") && line.ends_with(name), "{line:?}");
    }
    assert_eq!(sftp.finish().0, 0);
    let _ = fs::remove_dir_all(place);
}

#[test]
fn reading_and_writing_anywhere() {
    let place = folder("anywhere");
    let file = place.join("f");
    let mut sftp = Sftp::on_host();
    let handle = sftp.open(bytes(&file), EVERYTHING).expect("open");
    assert_eq!(sftp.write(&handle, 10, b"later"), OK);
    assert_eq!(sftp.write(&handle, 0, b"first"), OK);
    assert_eq!(sftp.read(&handle, 3, 9).expect("read"), b"st\0\0\0\0\0la");
    assert_eq!(sftp.read(&handle, 15, 1), Err(EOF));
    assert_eq!(sftp.read(&handle, 3, 0).expect("nothing is read"), b"");
    assert_eq!(sftp.read(&handle, u64::MAX, 1), Err(BAD_MESSAGE));
    assert_ne!(sftp.write(&handle, u64::MAX, b"x"), OK);
    assert_eq!(sftp.open(bytes(&file), EVERYTHING | NEW), Err(FAILURE), "it is there");
    let appending = sftp.open(bytes(&file), FOR_WRITING | APPENDING).expect("open");
    assert_eq!(sftp.write(&appending, 0, b"!"), OK);
    assert_eq!(
        sftp.read(&appending, 0, 1),
        Err(NO_SUCH_FILE),
        "not open for reading: as OpenSSH has it for a bad descriptor"
    );
    assert_eq!(fs::read(&file).expect("read"), b"first\0\0\0\0\0later!");
    let emptied = sftp.open(bytes(&file), FOR_WRITING | EMPTYING).expect("open");
    assert_eq!(sftp.ask(SETSTAT, text(bytes(&file)).word(1 | 4).long(3).word(0o600)).status(), OK);
    assert_eq!(fs::read(&file).expect("read"), [0; 3]);
    // A read longer than is allowed is a shorter one.
    assert_eq!(sftp.write(&emptied, 0, &vec![7; 200_000]), OK);
    assert_eq!(sftp.write(&emptied, 200_000, &vec![7; 200_000]), OK);
    assert_eq!(sftp.read(&handle, 0, u32::MAX).expect("read").len(), 255 * 1024);
    assert_eq!(sftp.finish().0, 0);
    let _ = fs::remove_dir_all(place);
}

#[test]
fn answers_wait_for_a_client_that_reads_late() {
    let place = folder("late");
    let file = place.join("f");
    fs::write(&file, vec![3; 300_000]).expect("write");
    let mut sftp = Sftp::on_host();
    let handle = sftp.open(bytes(&file), FOR_READING).expect("open");
    // 50 MB of answers, asked for in 8 KB.
    let many = 200;
    for _ in 0..many {
        sftp.say(READ, text(&handle).long(5).word(255 * 1024));
    }
    for left in (0..many).rev() {
        let mut answer = sftp.answer(left);
        assert_eq!(answer.text(), vec![3; 255 * 1024]);
    }
    assert_eq!(sftp.finish().0, 0);
    let _ = fs::remove_dir_all(place);
}

#[test]
fn requests_that_make_no_sense_are_refused_and_the_session_goes_on() {
    let place = folder("nonsense");
    let mut sftp = Sftp::on_host();
    assert_eq!(sftp.ask(99, Fields::default()).status(), UNSUPPORTED);
    assert_eq!(sftp.ask(EXTENDED, text("teleport@example.com")).status(), UNSUPPORTED);
    assert_eq!(sftp.ask(STAT, Fields::default()).status(), BAD_MESSAGE);
    assert_eq!(sftp.ask(STAT, Fields::default().word(u32::MAX)).status(), BAD_MESSAGE);
    assert_eq!(sftp.ask(STAT, text(vec![b'a'; 5000])).status(), BAD_MESSAGE);
    assert_eq!(sftp.ask(STAT, text(b"a\0b")).status(), BAD_MESSAGE);
    assert_eq!(sftp.ask(CLOSE, text("no handle")).status(), FAILURE);
    assert_eq!(sftp.read(&[0; 8], 0, 1), Err(FAILURE));
    assert_eq!(sftp.ask(READDIR, text([0; 300])).status(), FAILURE);
    // A folder is no file and a file is no folder.
    let mut opened = sftp.ask(OPENDIR, text(bytes(&place)));
    assert_eq!(opened.kind, HANDLE);
    let opened = opened.text();
    assert_eq!(sftp.read(&opened, 0, 1), Err(FAILURE));
    assert_eq!(sftp.write(&opened, 0, b"x"), FAILURE);
    let file = sftp.open([bytes(&place), b"/f"].concat(), EVERYTHING).expect("open");
    assert_eq!(sftp.ask(READDIR, text(&file)).status(), NO_SUCH_FILE);
    assert_eq!(sftp.ask(OPENDIR, text([bytes(&place), b"/f"].concat())).status(), NO_SUCH_FILE);
    assert_eq!(sftp.open("", FOR_READING), Err(NO_SUCH_FILE));
    assert_eq!(sftp.finish().0, 0);

    // Where nothing can be answered, the session ends.
    for end in [&[0xff; 4][..], &[0, 4, 5, 0], &[0, 0, 0, 0], &[0, 0, 0, 4, 3, 0, 0, 0]] {
        let mut sftp = Sftp::on_host();
        sftp.raw(end);
        assert_eq!(sftp.finish().0, 1, "{end:?}");
    }
    // So it does before a greeting, and an end in the middle of a packet is an end.
    let mut sftp = Sftp::on_host();
    sftp.raw(&[0, 0, 1, 0, 17]);
    assert_eq!(sftp.finish().0, 0);
    let _ = fs::remove_dir_all(place);
}

#[test]
fn handles_run_out_and_come_back() {
    let mut sftp = Sftp::on_host();
    let mut handles: Vec<_> = (0..256).map(|_| sftp.open("/dev/null", FOR_READING).expect("open")).collect();
    assert_eq!(sftp.open("/dev/null", FOR_READING), Err(FAILURE));
    let unmade = folder("handles").join("unmade");
    assert_eq!(sftp.open(bytes(&unmade), EVERYTHING), Err(FAILURE));
    assert!(!unmade.exists(), "what cannot be used is not made");
    assert_eq!(sftp.ask(OPENDIR, text("/")).status(), FAILURE);
    let closed = handles.pop().expect("a handle");
    assert_eq!(sftp.ask(CLOSE, text(&closed)).status(), OK);
    assert_eq!(sftp.ask(CLOSE, text(&closed)).status(), FAILURE);
    sftp.open("/dev/null", FOR_READING).expect("room again");
    assert_eq!(sftp.finish().0, 0);
    let _ = fs::remove_dir(unmade.parent().expect("a folder"));
}

#[test]
fn a_full_disk_is_told_and_not_lost() {
    let place = folder("full");
    let script = format!("mount -t tmpfs -o size=300k none '{}' && exec '{PROGRAM}' sftp", place.display());
    let mut sftp = Sftp::by(Command::new("unshare").args(["-m", "sh", "-c", &script]));
    let handle = sftp.open([bytes(&place), b"/f"].concat(), EVERYTHING).expect("open");
    let mut answer = sftp.ask(6, text(&handle).long(0).text(vec![1; 200_000]));
    assert_eq!(answer.status(), OK);
    let mut answer = sftp.ask(6, text(&handle).long(200_000).text(vec![1; 200_000]));
    assert_eq!(answer.status(), FAILURE);
    assert_eq!(answer.text(), b"No space left on device");
    let mut known = sftp.ask(EXTENDED, text("fstatvfs@openssh.com").text(&handle));
    assert_eq!(known.kind, EXTENDED_REPLY);
    let [block, _, blocks, free] = [(); 4].map(|()| known.long());
    assert_eq!((block * blocks, free), (300 * 1024, 0));
    // What was there before is as it was.
    assert_eq!(sftp.read(&handle, 0, 200_000).expect("read"), vec![1; 200_000]);
    assert_eq!(sftp.finish().0, 0);
    let _ = fs::remove_dir(place);
}

#[test]
fn paths_are_resolved_as_openssh_does() {
    let place = folder("paths");
    let real = fs::canonicalize(&place).expect("resolve");
    let at = |name: &str| [bytes(&real), name.as_bytes()].concat();
    let mut sftp = Sftp::by(Command::new(PROGRAM).arg("sftp").current_dir(&place));
    assert_eq!(sftp.ask(MKDIR, text("d").word(4).word(0o1750)).status(), OK);
    assert_eq!(sftp.ask(SYMLINK, text("d/none").text("link")).status(), OK);
    assert_eq!(sftp.name(READLINK, text("link")).expect("a link"), b"d/none");
    for (path, resolved) in [
        ("", Ok("")),
        (".", Ok("")),
        ("d/..", Ok("")),
        ("d/./new", Ok("/d/new")),
        ("new/", Ok("/new")),
        ("d//", Ok("/d")),
        ("no/new", Err(())),
    ] {
        let found = sftp.name(REALPATH, text(path));
        assert_eq!(found, resolved.map(at).map_err(|()| NO_SUCH_FILE), "{path}");
    }
    assert_eq!(sftp.name(REALPATH, text("/../..")).expect("the root"), b"/");
    assert_eq!(sftp.name(REALPATH, text("/nothing-is-here")).expect("in the root"), b"/nothing-is-here");
    let expand = |path: &str| text("expand-path@openssh.com").text(path);
    assert_eq!(sftp.name(EXTENDED, expand("~")).expect("our home"), b"/root");
    assert_eq!(sftp.name(EXTENDED, expand("~root/x")).expect("a home"), b"/root/x");
    assert_eq!(sftp.name(EXTENDED, expand("d")).expect("no home"), at("/d"));
    assert_eq!(sftp.name(EXTENDED, expand("~nobody-of-this-name")), Err(NO_SUCH_FILE));
    assert_eq!(sftp.name(EXTENDED, text("home-directory").text("root")).expect("a home"), b"/root");
    let ids =
        Fields::default().text("users-groups-by-id@openssh.com").text([0, 0, 0, 0, 9, 9, 9, 9]).text([0, 0, 0, 0]);
    let mut named = sftp.ask(EXTENDED, ids);
    assert_eq!(
        (named.kind, named.text(), named.text()),
        (EXTENDED_REPLY, b"\0\0\0\x04root\0\0\0\0".to_vec(), b"\0\0\0\x04root".to_vec())
    );
    let ids = Fields::default().text("users-groups-by-id@openssh.com").text(vec![0; 20_000]).text("");
    assert_eq!(sftp.ask(EXTENDED, ids).status(), FAILURE);
    let mut limits = sftp.ask(EXTENDED, text("limits@openssh.com"));
    assert_eq!([(); 4].map(|()| limits.long()), [256 * 1024, 255 * 1024, 255 * 1024, 256]);
    // Renaming does not replace.
    fs::write(place.join("d/one"), "1").expect("write");
    fs::write(place.join("d/two"), "2").expect("write");
    assert_eq!(sftp.ask(RENAME, text("d/one").text("d/two")).status(), FAILURE);
    assert_eq!(sftp.ask(RENAME, text("d").text("d/inside")).status(), BAD_MESSAGE);
    assert_eq!(sftp.ask(RENAME, text("d/one").text("d/three")).status(), OK);
    // What changes a link changes what is there, and not what it leads to.
    let lsetstat = |path: &str| text("lsetstat@openssh.com").text(path).word(2 | 8).word(5).word(6).word(7).word(8);
    assert_eq!(sftp.ask(EXTENDED, lsetstat("link")).status(), OK);
    let link = fs::symlink_metadata(place.join("link")).expect("stat");
    use std::os::unix::fs::MetadataExt;
    assert_eq!((link.uid(), link.gid(), link.atime(), link.mtime()), (5, 6, 7, 8));
    let mode = |path: &str| text("lsetstat@openssh.com").text(path).word(4).word(0o604);
    assert_eq!(sftp.ask(EXTENDED, mode("link")).status(), FAILURE);
    assert_eq!(sftp.ask(EXTENDED, mode("d/two")).status(), OK);
    assert_eq!(fs::metadata(place.join("d/two")).expect("stat").mode() & 0o7777, 0o604);
    assert_eq!(sftp.finish().0, 0);
    let _ = fs::remove_dir_all(place);
}

#[test]
fn data_is_copied_within_the_server() {
    let place = folder("copy");
    let mut sftp = Sftp::by(Command::new(PROGRAM).arg("sftp").current_dir(&place));
    fs::write(place.join("from"), b"0123456789").expect("write");
    let from = sftp.open("from", FOR_READING).expect("open");
    let to = sftp.open("to", EVERYTHING).expect("open");
    let copy = |from: &[u8], at: u64, length: u64, to: &[u8], there: u64| {
        text("copy-data").text(from).long(at).long(length).text(to).long(there)
    };
    assert_eq!(sftp.ask(EXTENDED, copy(&from, 2, 3, &to, 1)).status(), OK);
    assert_eq!(fs::read(place.join("to")).expect("read"), b"\x00234");
    assert_eq!(sftp.ask(EXTENDED, copy(&from, 5, 0, &to, 0)).status(), OK);
    assert_eq!(fs::read(place.join("to")).expect("read"), b"56789");
    let end = sftp.open("to", FOR_WRITING | APPENDING).expect("open");
    assert_eq!(sftp.ask(EXTENDED, copy(&from, 0, 0, &end, 0)).status(), OK);
    assert_eq!(fs::read(place.join("to")).expect("read"), b"567890123456789");
    // What has no size of its own, and what never ends but is asked for in part.
    let status = sftp.open("/proc/version", FOR_READING).expect("open");
    assert_eq!(sftp.ask(EXTENDED, copy(&status, 0, 0, &to, 0)).status(), OK);
    assert!(fs::read(place.join("to")).expect("read").starts_with(b"Linux"));
    let zero = sftp.open("/dev/zero", FOR_READING).expect("open");
    assert_eq!(sftp.ask(EXTENDED, copy(&zero, 0, 1_000_000, &to, 0)).status(), OK);
    assert_eq!(fs::metadata(place.join("to")).expect("stat").len(), 1_000_000);
    let same = sftp.open("to", FOR_READING).expect("open");
    assert_eq!(sftp.ask(EXTENDED, copy(&same, 0, 0, &to, 0)).status(), FAILURE, "it would never end");
    assert_eq!(sftp.ask(EXTENDED, copy(&from, 0, 0, b"nothing!", 0)).status(), FAILURE);
    assert_eq!(sftp.finish().0, 0);
    let _ = fs::remove_dir_all(place);
}

#[test]
fn the_server_shows_nothing_of_itself() {
    let mut sftp = Sftp::on_host();
    for file in ["maps", "mem", "environ", "auxv", "status", "task", "fd"] {
        assert_eq!(sftp.open(format!("/proc/self/{file}"), FOR_READING), Err(DENIED), "{file}");
    }
    assert_eq!(sftp.open("/proc/thread-self/maps", FOR_READING), Err(DENIED));
    assert_eq!(sftp.ask(OPENDIR, text("/proc/self")).status(), DENIED);
    for link in ["exe", "fd/0", "cwd/Cargo.toml", "root/etc/passwd"] {
        assert_eq!(sftp.open(format!("/proc/self/{link}"), FOR_READING), Err(NO_SUCH_FILE), "{link}");
    }
    assert_eq!(sftp.name(READLINK, text("/proc/self/exe")), Err(DENIED));
    assert_eq!(sftp.name(REALPATH, text("/proc/self/exe")), Err(DENIED));
    sftp.open("/proc/1/status", FOR_READING).expect("others are seen as far as the kernel lets us");
    assert_eq!(sftp.ask(OPENDIR, text("/proc")).kind, HANDLE);
    assert_eq!(sftp.finish().0, 0);
}
