//! Nothing outside the roots is reached, and everything inside is, by whatever way.

use boxyard_proto::files::{Ask, Failure, FileKind};

use crate::files::testing::World;

#[test]
fn links_that_stay_inside_work_however_they_are_said() {
    let world = World::new();
    world.make_file("w/deep/er/file", "here");
    world.make_file("h/other", "there");
    world.make_link("deep/er", "w/relative");
    world.make_link(world.text("w/deep"), "w/absolute");
    world.make_link(world.text("h/"), "w/across");
    world.make_link("../../../work/home/deep", "w/deep/around");
    world.make_link(world.text("w/absolute/er/file"), "w/to_file");
    for path in [
        "w/relative/file",
        "w/absolute/er/file",
        "w/absolute/around/er/file",
        "w//./relative/../er/file",
        "w/across/../user/../../work/home/deep/er/file",
        "w/to_file",
        "h/../../work/home/to_file",
        "work/../work/./home//deep/er/file",
    ] {
        assert_eq!(world.read(path).text(), "here", "{path}");
    }
    assert_eq!(world.read("w/across/other").text(), "there");
    assert_eq!(world.read("w/deep/../../../home/user/other").text(), "there");
    assert_eq!(world.list("w/.").names(), ["absolute", "across", "deep", "relative", "to_file"]);
    assert_eq!(world.list("w/across/").names(), ["other"]);
    // What a link means is what it means to the kernel: `..` after one is above what it leads to.
    assert_eq!(world.list("w/relative/..").names(), ["around", "er"]);
}

#[test]
fn what_leads_out_is_refused_by_every_request() {
    let world = World::new();
    world.make_link(world.text("outside"), "w/out");
    world.make_link("../../outside", "w/up");
    world.make_link(world.text("outside/secret"), "w/secret");
    world.make_link("/proc/self/root", "w/magic");
    world.make_link("/proc/self/cwd", "w/cwd");
    world.make_file("w/mine", "mine");
    let outs = [
        "w/out/secret",
        "w/up/secret",
        "w/../../outside/secret",
        "w/../user/../home/../../outside/secret",
        "outside/secret",
        "w/magic/etc/passwd",
        "w/../../../../../../../etc/passwd",
        "",
        "work",
        "w/..",
    ];
    for out in outs {
        let path = || world.path(out);
        let asks = [
            Ask::Read { path: path(), offset: 0, length: None },
            Ask::Write { path: path(), mode: None },
            Ask::List { path: path(), after: None, limit: None },
            Ask::Stat { path: path(), follow: false },
            Ask::Stat { path: path(), follow: true },
            Ask::Rename { from: path(), to: world.path("w/in") },
            Ask::Rename { from: world.path("w/mine"), to: path() },
            Ask::Remove { path: path(), recursive: true },
            Ask::Mkdir { path: path(), parents: true },
            Ask::Chmod { path: path(), mode: 0o777, recursive: false },
        ];
        for ask in asks {
            let kind = world.ask(&ask).failure();
            // A path that ends in `..` or a slash is no name of a file, wherever it leads.
            let fits = kind == Failure::Denied
                || ((out.is_empty() || out.ends_with("..")) && matches!(kind, Failure::Invalid | Failure::IsFolder));
            assert!(fits, "{ask:?}: {kind:?}");
        }
    }
    // Links as the last part: what they lead to is out of reach, they themselves are not.
    for link in ["w/secret", "w/out"] {
        assert_eq!(world.read(link).failure(), Failure::Denied);
        assert_eq!(world.write(link, "x").failure(), Failure::Denied);
        assert_eq!(world.stat(link, true).failure(), Failure::Denied);
        assert_eq!(world.stat(link, false).stat().kind, FileKind::Symlink);
        assert_eq!(world.stat(&format!("{link}/"), false).failure(), Failure::Denied);
    }
    let listed = world.list("w/").entries();
    assert!(listed.iter().all(|entry| (entry.stat.kind == FileKind::File) == (entry.stat.target.is_none())));
    assert!(!world.rename("w/secret", "w/renamed").done());
    assert!(!world.remove("w/renamed", false).done());
    assert_eq!(world.content("outside/secret"), "secret");
    assert_eq!(world.names("outside"), ["secret"]);
}

#[test]
fn loops_and_links_to_nothing_end() {
    let world = World::new();
    world.make_link("b", "w/a");
    world.make_link("a", "w/b");
    world.make_link(world.text("w/self"), "w/self");
    world.make_link("gone", "w/dangling");
    for path in ["w/a", "w/self", "w/self/x", "w/a/x"] {
        assert_eq!(world.read(path).failure(), Failure::Invalid, "{path}");
        assert_eq!(world.write(path, "").failure(), Failure::Invalid, "{path}");
    }
    assert_eq!(world.read("w/dangling").failure(), Failure::NotFound);
    assert_eq!(world.stat("w/a", false).stat().target, Some("b".into()));
    // Forty links are followed, one more is not; as absolute ones they are walked by hand.
    world.make_file("w/end", "end");
    for number in 0..41 {
        let to = if number == 0 { world.text("w/end") } else { world.text(&format!("w/{}", number - 1)) };
        world.make_link(to, &format!("w/{number}"));
    }
    assert_eq!(world.read("w/39").text(), "end");
    assert_eq!(world.read("w/40").failure(), Failure::Invalid);
}

#[test]
fn the_roots_themselves_stay() {
    let world = World::new();
    world.make_folder("w/in");
    for root in ["w/", "w/.", "w/in/..", "h/../user", "w//"] {
        let removed = world.remove(root, true).failure();
        assert!(matches!(removed, Failure::Denied | Failure::Invalid), "{root}: {removed:?}");
        for told in [world.rename(root, "h/x"), world.rename("w/in", root)] {
            assert!(matches!(told.failure(), Failure::Denied | Failure::Invalid), "{root}: {told:?}");
        }
        assert_eq!(
            world.write(root, "x").failure(),
            if root.ends_with("user") { Failure::Denied } else { Failure::IsFolder }
        );
        assert_eq!(world.mkdir(root, false).failure(), Failure::Exists, "{root}");
        assert!(!world.mkdir(root, true).done());
        assert_eq!(world.stat(root, false).stat().kind, FileKind::Directory);
    }
    assert_eq!(world.names("w/"), ["in"]);
}

#[test]
fn a_root_that_is_missing_or_a_link_has_nothing_in_it() {
    let world = World::new();
    std::fs::remove_dir(world.place("h/")).expect("remove");
    assert_eq!(world.read("h/x").failure(), Failure::NotFound);
    assert_eq!(world.write("h/x", "x").failure(), Failure::NotFound);
    std::os::unix::fs::symlink("/etc", world.place("home/user")).expect("link");
    assert!(matches!(world.read("h/passwd").failure(), Failure::Invalid | Failure::Denied));
    assert!(matches!(world.list("h/").failure(), Failure::Invalid | Failure::Denied));
    world.write("w/x", "the other is not concerned").done();
}
