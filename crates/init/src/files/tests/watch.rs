//! Changes, as they are told.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::thread::JoinHandle;

use boxyard_proto::files::{Answer, Ask, Change, ChangeKind, Failure};
use boxyard_proto::wire::{HEADER_LEN, json_frame, parse_header};

use crate::files::channel::Channel;
use crate::files::session::Session;
use crate::files::testing::World;
use crate::pipes::Pipe;

/// A watch under way in a thread.
struct Watching {
    input: Option<std::io::PipeWriter>,
    output: std::io::PipeReader,
    thread: JoinHandle<std::io::Result<()>>,
    come: Vec<Change>,
}

impl Watching {
    fn new(world: &World, path: &str, recursive: bool) -> Self {
        let (from, mut input) = std::io::pipe().expect("a pipe");
        let (output, to) = std::io::pipe().expect("a pipe");
        let jail = world.jail();
        let thread = std::thread::spawn(move || {
            let (mut reads, mut writes) = (Pipe(from.as_fd()), Pipe(to.as_fd()));
            let mut channel = Channel::of(from.as_fd(), &mut reads, &mut writes);
            Session::new(jail).run(&mut channel)
        });
        input.write_all(&json_frame(&Ask::Watch { path: world.path(path), recursive })).expect("ask");
        let mut watching = Self { input: Some(input), output, thread, come: Vec::new() };
        assert_eq!(watching.answer(), Answer::Watching { truncated: false });
        watching
    }

    fn answer(&mut self) -> Answer {
        let mut header = [0; HEADER_LEN];
        self.output.read_exact(&mut header).expect("an answer");
        let mut payload = vec![0; parse_header(header).expect("a header").1];
        self.output.read_exact(&mut payload).expect("an answer");
        serde_json::from_slice(&payload).expect("an answer")
    }

    /// The next change.
    fn change(&mut self) -> Change {
        while self.come.is_empty() {
            match self.answer() {
                Answer::Changes { changes, lost } => {
                    assert!(!lost);
                    self.come = changes;
                }
                other => panic!("{other:?} instead of changes"),
            }
        }
        self.come.remove(0)
    }

    /// The next changes, which must be these: what sort, of what, from where.
    fn expect(&mut self, world: &World, expected: &[(ChangeKind, &str, Option<&str>)]) {
        for (kind, path, from) in expected {
            let change = self.change();
            assert_eq!(
                (change.kind, &change.path, &change.from),
                (*kind, &world.path(path), &from.map(|from| world.path(from)))
            );
        }
    }

    fn finish(mut self) {
        drop(self.input.take());
        loop {
            match self.answer() {
                Answer::Done { truncated: false } => break,
                Answer::Changes { changes, lost: false } => {
                    assert!(changes.iter().all(|change| change.kind == Modify), "{changes:?}");
                }
                other => panic!("{other:?} instead of the end"),
            }
        }
        self.thread.join().expect("no panic").expect("an ordinary end");
    }
}

use ChangeKind::{Create, Delete, Modify, Rename};

#[test]
fn changes_are_told_in_order() {
    let world = World::new();
    world.make_file("w/a/old", "");
    let mut watching = Watching::new(&world, "w/", false);
    world.make_file("w/new", "content");
    watching.expect(&world, &[(Create, "w/new", None)]);
    world.mkdir("w/folder", false).done();
    std::fs::set_permissions(world.place("w/new"), std::fs::Permissions::from_mode(0o600)).expect("chmod");
    // Where it goes to nobody looks; and what comes from there is new.
    std::fs::rename(world.place("w/new"), world.place("w/folder/moved")).expect("move");
    let mut seen = Vec::new();
    while seen.last() != Some(&(Delete, world.path("w/new"), false)) {
        let change = watching.change();
        seen.push((change.kind, change.path, change.is_dir));
    }
    seen.retain(|(kind, path, _)| *kind != Modify || *path != world.path("w/new"));
    assert_eq!(seen, [(Create, world.path("w/folder"), true), (Delete, world.path("w/new"), false)]);
    std::fs::rename(world.place("w/folder/moved"), world.place("w/back")).expect("move");
    world.rename("w/back", "w/again").done();
    world.remove("w/again", false).done();
    watching
        .expect(&world, &[(Create, "w/back", None), (Rename, "w/again", Some("w/back")), (Delete, "w/again", None)]);
    watching.finish();
}

#[test]
fn a_write_is_one_change_and_our_hidden_names_are_not_told() {
    let world = World::new();
    let mut watching = Watching::new(&world, "w/", true);
    world.write("w/file", "one").done();
    watching.expect(&world, &[(Create, "w/file", None)]);
    world.write("w/file", "two").done();
    world.mkdir("w/end", false).done();
    watching.expect(&world, &[(Modify, "w/file", None), (Create, "w/end", None)]);
    watching.finish();
}

#[test]
fn nothing_in_new_folders_is_missed_or_told_twice() {
    let world = World::new();
    let mut watching = Watching::new(&world, "w/.", true);
    let mut expected = HashSet::new();
    for number in 0..30 {
        let folder = format!("w/{number}/a/b");
        world.make_folder(&folder);
        for path in [format!("w/{number}"), format!("w/{number}/a"), folder.clone()] {
            expected.insert(world.path(&path));
        }
        for file in 0..5 {
            let path = format!("{folder}/{file}");
            world.make_file(&path, "x");
            expected.insert(world.path(&path));
        }
    }
    while !expected.is_empty() {
        let change = watching.change();
        match change.kind {
            Create => assert!(expected.remove(&change.path), "twice: {change:?}"),
            kind => assert_eq!(kind, Modify, "{change:?}"),
        }
    }
    watching.finish();
}

#[test]
fn a_renamed_folder_is_followed() {
    let world = World::new();
    world.make_folder("w/a/b");
    let mut watching = Watching::new(&world, "w/", true);
    world.rename("w/a", "w/c").done();
    world.mkdir("w/c/b/x", false).done();
    watching.expect(&world, &[(Rename, "w/c", Some("w/a")), (Create, "w/c/b/x", None)]);
    // Out of sight, and back.
    world.rename("w/c", "h/c").done();
    watching.expect(&world, &[(Delete, "w/c", None)]);
    world.mkdir("h/c/unseen", false).done();
    world.rename("h/c", "w/d").done();
    watching.expect(&world, &[(Create, "w/d", None)]);
    let mut below: Vec<_> = (0..3).map(|_| watching.change().path).collect();
    below.sort();
    assert_eq!(below, [world.path("w/d/b"), world.path("w/d/b/x"), world.path("w/d/unseen")]);
    world.mkdir("w/d/b/x/y", false).done();
    watching.expect(&world, &[(Create, "w/d/b/x/y", None)]);
    watching.finish();
}

#[test]
fn a_watch_ends_with_its_folder() {
    let world = World::new();
    world.make_folder("w/a");
    let mut watching = Watching::new(&world, "w/a/", true);
    world.remove("w/a", true).done();
    watching.expect(&world, &[(Delete, "w/a", None)]);
    assert_eq!(watching.answer(), Answer::Done { truncated: false });
    watching.thread.join().expect("no panic").expect("an ordinary end");
}

#[test]
fn only_folders_inside_are_watched() {
    let world = World::new();
    world.make_file("w/file", "");
    world.make_link(world.text("outside"), "w/out");
    for (path, failure) in [
        ("w/file", Failure::NotFolder),
        ("w/none", Failure::NotFound),
        ("w/out", Failure::Denied),
        ("outside", Failure::Denied),
    ] {
        let (from, to) = std::io::pipe().expect("a pipe");
        drop(to);
        let ask = json_frame(&Ask::Watch { path: world.path(path), recursive: true });
        let (mut input, mut output) = (&ask[..], Vec::new());
        let mut channel = Channel::of(from.as_fd(), &mut input, &mut output);
        Session::new(world.jail()).run(&mut channel).expect("an ordinary end");
        assert_eq!(crate::files::testing::told(&output)[0].failure(), failure, "{path}");
    }
}
