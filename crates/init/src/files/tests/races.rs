//! Somebody changes what is worked on, all the time: nothing outside is ever reached.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::SystemTime;

use boxyard_proto::files::{Answer, Ask, Format, Search};
use rustix::fs::{CWD, OFlags, RenameFlags, ResolveFlags, openat2, renameat_with};

use crate::files::testing::{Told, World};

/// Rounds of every request.
const ROUNDS: usize = 50;

/// What is outside, and must stay as it is.
fn outside(world: &World) -> (Vec<String>, Vec<String>, String, u32, SystemTime) {
    let stat = world.place("outside/in/secret").metadata().expect("stat");
    let time = world.place("outside/in").metadata().and_then(|stat| stat.modified()).expect("stat");
    let names = (world.names("outside"), world.names("outside/in"));
    (names.0, names.1, world.content("outside/in/secret"), stat.mode(), time)
}

/// An archive that plants files where the swapped folder is.
fn hostile_archive() -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir_all(folder.path().join("in/deep")).expect("make folders");
    for name in ["in/planted", "in/deep/planted", "in/secret"] {
        std::fs::write(folder.path().join(name), "planted").expect("write");
    }
    let packed =
        std::process::Command::new("tar").args(["-c", "in"]).current_dir(folder.path()).output().expect("run tar");
    packed.stdout
}

/// Makes what is worked on, without following the links that may be there at the moment.
fn furnish(world: &World) {
    let Ok(root) = open(CWD, &world.place("w/"), OFlags::DIRECTORY) else { return };
    let _ = rustix::fs::mkdirat(&root, "x", 0o755.into());
    let _ = open(&root, Path::new("x"), OFlags::DIRECTORY).map(|x| rustix::fs::mkdirat(&x, "in", 0o755.into()));
    let _ = open(&root, Path::new("x/in/secret"), OFlags::CREATE | OFlags::WRONLY)
        .map(|file| rustix::io::write(&file, b"mine"));
}

fn open(at: impl AsFd, path: &Path, flags: OFlags) -> Result<OwnedFd, rustix::io::Errno> {
    let mode = if flags.contains(OFlags::CREATE) { 0o644.into() } else { 0.into() };
    openat2(at, path, flags | OFlags::CLOEXEC, mode, ResolveFlags::NO_SYMLINKS)
}

/// Does every request again and again on `w/x`, while that and `w/x/in` are swapped with links to outside.
fn besieged(world: &World, links: [String; 2]) {
    world.make_file("outside/in/secret", "the secret");
    world.make_folder("spare");
    let before = outside(world);
    let (over, swaps) = (AtomicBool::new(false), AtomicUsize::new(0));
    let archive = hostile_archive();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                furnish(world);
                for (place, target) in [("w/x", &links[0]), ("w/x/in", &links[1])] {
                    let spare = world.place("spare/link");
                    let _ = std::fs::remove_dir_all(&spare);
                    let _ = std::os::unix::fs::symlink(target, &spare);
                    for _ in 0..2 {
                        // What is swapped may just be gone.
                        let _ = renameat_with(CWD, world.place(place), CWD, &spare, RenameFlags::EXCHANGE);
                        swaps.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        });
        let path = |path: &str| world.path(path);
        for round in 0..ROUNDS {
            let asks = [
                Ask::Read { path: path("w/x/in/secret"), offset: 0, length: None },
                Ask::Write { path: path("w/x/in/planted"), mode: Some(0o777) },
                Ask::Write { path: path("w/x/in/new/planted"), mode: None },
                Ask::Write { path: path("w/x/in/secret"), mode: Some(0o777) },
                Ask::List { path: path("w/x/in"), after: None, limit: None },
                Ask::Stat { path: path("w/x/in/secret"), follow: true },
                Ask::Mkdir { path: path("w/x/in/a/b"), parents: true },
                Ask::Chmod { path: path("w/x/in/secret"), mode: 0o777, recursive: false },
                Ask::Chmod { path: path("w/x"), mode: 0o777, recursive: true },
                Ask::Archive { path: path("w/"), format: Format::Tar },
                Ask::Archive { path: path("w/x/in"), format: Format::Zip },
                Ask::Search(Search { path: Some(path("w/")), content: Some("secret".into()), ..Search::default() }),
                Ask::Unpack { path: path("w/x") },
                Ask::Unpack { path: path("w/") },
                Ask::Rename { from: path("w/x/in/secret"), to: path("h/stolen") },
                Ask::Rename { from: path("w/x/in/planted"), to: path("w/x/in/secret") },
                Ask::Remove { path: path("w/x/in/secret"), recursive: false },
                Ask::Remove { path: path(if round % 2 == 0 { "w/x" } else { "w/x/in" }), recursive: true },
            ];
            for ask in asks {
                let content = if matches!(ask, Ask::Unpack { .. }) { &archive[..] } else { b"planted" };
                let told = world.with(&ask, content);
                assert!(!shows(&told), "{ask:?}: {told:?}");
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    assert!(swaps.into_inner() > ROUNDS, "somebody swapped");
    assert_eq!(outside(world), before);
    assert!(!world.place("h/stolen").exists() || world.content("h/stolen") != "the secret");
}

/// Whether something of what is outside was told.
fn shows(told: &Told) -> bool {
    let found = told.answers.iter().any(|answer| matches!(answer, Answer::Matches { matches } if !matches.is_empty()));
    found || told.content.windows(10).any(|window| window == b"the secret")
}

#[test]
fn swapped_links_lead_nowhere() {
    let world = World::new();
    let links = [world.text("outside"), world.text("outside/in")];
    besieged(&world, links);
}

#[test]
fn swapped_relative_links_lead_nowhere() {
    besieged(&World::new(), ["../../outside".into(), "../../../outside/in".into()]);
}

#[test]
fn a_folder_that_is_filled_while_it_is_removed_is_removed_or_said_to_be_too_busy() {
    let world = World::new();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let _ = std::fs::create_dir_all(world.place("w/x/a/b"));
                let _ = std::fs::write(world.place("w/x/a/file"), "");
            }
        });
        for _ in 0..ROUNDS {
            let told = world.remove("w/x", true);
            let ends = matches!(told.answers[..], [Answer::Done { truncated: false } | Answer::Failed { .. }]);
            assert!(ends, "{told:?}");
        }
        over.store(true, Ordering::Relaxed);
    });
    world.mkdir("w/x", true).done();
    assert!(!world.remove("w/x", true).done());
}

#[test]
fn two_who_write_one_file_get_one_of_both() {
    let world = World::new();
    let (one, other) = (vec![b'1'; 100_000], vec![b'2'; 70_000]);
    std::thread::scope(|scope| {
        for content in [&one, &other] {
            let world = &world;
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    assert!(!world.write("w/file", content).done());
                    if round % 3 == 0 {
                        let _ = world.remove("w/file", false);
                    }
                }
            });
        }
        for _ in 0..ROUNDS {
            let read = world.read("w/file");
            assert!(read.content.is_empty() || read.content == one || read.content == other);
        }
    });
    world.write("w/file", "end").done();
    assert_eq!(world.names("w/"), ["file"]);
}
