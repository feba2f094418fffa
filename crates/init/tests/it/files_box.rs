//! The work on files in real boxes: whose rights it has, and that it ends when it should.

use boxyard_proto::files::{Answer, Ask, ChangeKind, Failure, FileKind, Format};
use boxyard_proto::wire::{Exec, User};

use crate::support::boxes::TestBox;
use crate::support::client::{ok, run, shell};
use crate::support::files::Files;

/// A box with the folders of a box.
fn launched() -> TestBox {
    let made = TestBox::launched();
    ok(made.socket(), "mkdir -p /workspace/home /home/boxuser; chown 1000:1000 /workspace/home /home/boxuser");
    made
}

fn boxuser(made: &TestBox) -> Files {
    Files::in_box(made.socket(), User::BOXUSER)
}

fn as_boxuser(made: &TestBox, script: &str) -> String {
    run(made.socket(), Exec { user: User::BOXUSER, ..shell(script) }).text()
}

#[test]
fn it_has_the_rights_of_its_user_in_the_two_folders_and_no_more() {
    let made = launched();
    ok(
        made.socket(),
        "cd /workspace/home; mkdir theirs; echo hush > theirs/secret; chmod 600 theirs/secret; echo shown > theirs/shown; echo old > rooted; \
         echo open > open; chmod 666 open; ln -s /etc/passwd out; ln -s /home/boxuser across",
    );
    let mut files = boxuser(&made);
    assert_eq!(files.write("/workspace/home/a/b", b"mine"), None);
    assert_eq!(files.write("/workspace/home/across/c", b"also mine"), None);
    assert_eq!(
        as_boxuser(&made, "stat -c %u:%g:%a /workspace/home/a /workspace/home/a/b; cat /home/boxuser/c"),
        "1000:1000:755\n1000:1000:644\nalso mine"
    );
    assert_eq!(files.read("/workspace/home/theirs/shown"), Ok(b"shown\n".to_vec()));
    assert_eq!(files.read("/workspace/home/theirs/secret"), Err(Failure::Denied));
    assert_eq!(files.write("/workspace/home/theirs/new", b"x"), Some(Failure::Denied));
    assert_eq!(files.write("/workspace/home/theirs/shown", b"x"), Some(Failure::Denied));
    // The folder is ours, so that we could replace these; but one of them we may not write.
    assert_eq!(files.write("/workspace/home/rooted", b"x"), Some(Failure::Denied));
    assert_eq!(files.write("/workspace/home/open", b"written"), None);
    assert_eq!(
        as_boxuser(&made, "stat -c %a /workspace/home/open; cat /workspace/home/open /workspace/home/rooted"),
        "666\nwrittenold"
    );
    let remove = |path: &str| Ask::Remove { path: path.into(), recursive: true };
    assert_eq!(files.ask(&remove("/workspace/home/theirs")).2, Some(Failure::Denied));
    assert_eq!(files.ask(&remove("/workspace/home")).2, Some(Failure::Denied));
    for path in
        ["/etc/passwd", "/workspace/home/out", "/proc/self/maps", "/tmp/x", "/workspace/../etc/passwd", "/home/user/x"]
    {
        assert_eq!(files.read(path), Err(Failure::Denied), "{path}");
        assert_eq!(files.write(path, b"x"), Some(Failure::Denied), "{path}");
    }
    let chmod = Ask::Chmod { path: "/workspace/home/rooted".into(), mode: 0o777, recursive: false };
    assert_eq!(files.ask(&chmod).2, Some(Failure::Denied));
    assert_eq!(files.finish(), (0, String::new()));
    assert_eq!(ok(made.socket(), "cat /workspace/home/theirs/*"), "hush\nshown");
}

#[test]
fn nobody_in_the_box_sees_its_memory() {
    let made = launched();
    let mut files = boxuser(&made);
    assert_eq!(files.read("/workspace/home/none"), Err(Failure::NotFound));
    let pid = files.pid;
    let script = format!(
        "for f in environ maps mem; do head -c 1 /proc/{pid}/$f >/dev/null 2>&1 && echo read $f; done; readlink /proc/{pid}/exe; \
         ls /proc/{pid}/fd 2>/dev/null; cat /proc/{pid}/comm"
    );
    for user in [User::BOXUSER, User::ROOT] {
        assert_eq!(run(made.socket(), Exec { user, ..shell(&script) }).text(), "files", "{user:?}");
    }
    assert_eq!(files.finish(), (0, String::new()));
}

#[test]
fn many_requests_go_through_one_connection_in_order() {
    let made = launched();
    let mut files = boxuser(&made);
    let path = |number: usize| format!("/workspace/home/many/{}/{number}", number % 10);
    let content = |number: usize| vec![u8::try_from(number % 251).expect("small"); number * 7 % 5000 + 1];
    for number in 0..500 {
        files.say(&Ask::Write { path: path(number).as_str().into(), mode: Some(0o640) });
        files.content(&content(number));
        files.content(b"");
        files.say(&Ask::Read { path: path(number).as_str().into(), offset: 0, length: None });
    }
    for number in 0..500 {
        assert_eq!(files.end().2, None);
        let (opened, read, failed) = files.end();
        assert!(
            matches!(&opened[..], [Answer::Opened { stat, .. }] if stat.mode == 0o640 && stat.kind == FileKind::File)
        );
        assert!(read == content(number) && failed.is_none());
    }
    // A large one, both ways, as an archive too.
    let large: Vec<u8> = (0..40_000_000_u32).map(|number| (number / 7).to_le_bytes()[0]).collect();
    assert_eq!(files.write("/workspace/home/large/file", &large[..1_000_000]), None);
    files.say(&Ask::Write { path: "/workspace/home/large/file".into(), mode: None });
    large.chunks(1_000_000).for_each(|piece| files.content(piece));
    files.content(b"");
    assert_eq!(files.end().2, None);
    assert!(files.read("/workspace/home/large/file").is_ok_and(|read| read == large));
    let (_, archive, failed) = files.ask(&Ask::Archive { path: "/workspace/home/large".into(), format: Format::TarGz });
    assert_eq!(failed, None);
    files.say(&Ask::Unpack { path: "/home/boxuser/copy".into() });
    archive.chunks(1_000_000).for_each(|piece| files.content(piece));
    files.content(b"");
    assert_eq!(files.end().2, None);
    assert!(files.read("/home/boxuser/copy/file").is_ok_and(|read| read == large));
    assert_eq!(files.finish(), (0, String::new()));
}

#[test]
fn a_write_whose_connection_is_lost_leaves_nothing() {
    let made = launched();
    let mut files = boxuser(&made);
    assert_eq!(files.write("/workspace/home/file", b"old"), None);
    files.say(&Ask::Write { path: "/workspace/home/file".into(), mode: None });
    files.content(&[b'x'; 100_000]);
    drop(files);
    made.cgroup.wait_until_empty("job-3");
    assert_eq!(ok(made.socket(), "cd /workspace/home; ls -A; cat file"), "file\nold");
    // Who does not speak the protocol is told so on standard error, and the box goes on.
    let mut other = boxuser(&made);
    other.raw(b"GET / HTTP/1.1\r\n\r\n");
    let (code, complaint) = other.finish();
    assert_eq!((code, complaint.starts_with("boxyard: files: frame of")), (1, true), "{complaint}");
    assert_eq!(ok(made.socket(), "echo fine"), "fine");
}

#[test]
fn changes_are_told_as_they_happen_and_end_with_the_connection() {
    let made = launched();
    let mut files = boxuser(&made);
    files.say(&Ask::Watch { path: "/workspace/home".into(), recursive: true });
    assert_eq!(files.hear().0, Answer::Watching { truncated: false });
    ok(made.socket(), "mkdir -p /workspace/home/new/deep; echo x > /workspace/home/new/deep/file");
    let mut seen = Vec::new();
    while !seen.contains(&(ChangeKind::Create, "/workspace/home/new/deep/file".into())) {
        let Answer::Changes { changes, lost: false } = files.hear().0 else { panic!("something else than changes") };
        seen.extend(changes.into_iter().map(|change| (change.kind, change.path)));
    }
    assert_eq!(
        seen[..2],
        [(ChangeKind::Create, "/workspace/home/new".into()), (ChangeKind::Create, "/workspace/home/new/deep".into())]
    );
    drop(files);
    made.cgroup.wait_until_empty("job-2");
}
