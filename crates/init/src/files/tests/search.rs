//! Finding files.

use boxyard_proto::files::{Answer, Ask, Failure, FileKind, Match, SEARCH_DEFAULT, Search};

use crate::files::testing::{Told, World};

fn ask(world: &World, search: Search) -> Told {
    world.ask(&Ask::Search(Search { path: search.path.clone().or_else(|| Some(world.path("w/"))), ..search }))
}

fn matches(told: &Told) -> Vec<Match> {
    let some = told.answers.iter().filter_map(|answer| match answer {
        Answer::Matches { matches } => Some(matches.clone()),
        _ => None,
    });
    some.flatten().collect()
}

/// The paths below the root.
fn paths(world: &World, search: Search) -> Vec<String> {
    let told = ask(world, search);
    assert!(!told.done());
    let root = world.text("w/");
    let below = |found: &Match| {
        String::from_utf8(found.path.bytes().expect("base64").into_owned()).expect("text").replace(&root, "")
    };
    matches(&told).iter().map(below).collect()
}

fn world() -> World {
    let world = World::new();
    world.make_file("w/src/main.rs", "fn main() {\n    println!(\"Hello\");\r\n}\n");
    world.make_file("w/src/deep/lib.rs", "pub fn hello() {}");
    world.make_file("w/readme.md", "Hello, hello\nworld");
    world.make_file("w/.git/config", "hello");
    world.make_file("w/binary", b"hello\n\0\nhello");
    world.make_link(world.text("outside"), "w/out");
    world.make_link("src", "w/linked");
    world.make_file("outside/hello.rs", "hello");
    world
}

#[test]
fn names_are_found() {
    let world = world();
    let name = |name: &str| Search { name: Some(name.into()), ..Search::default() };
    assert_eq!(paths(&world, name("*.rs")), ["src/deep/lib.rs", "src/main.rs"]);
    assert_eq!(paths(&world, name("src/*.rs")), ["src/main.rs"]);
    assert_eq!(paths(&world, name("/src/**/*.rs")), ["src/deep/lib.rs", "src/main.rs"]);
    assert_eq!(paths(&world, name("{deep,out}")), ["out", "src/deep"]);
    assert_eq!(paths(&world, name("config")), Vec::<String>::new());
    assert_eq!(paths(&world, Search { hidden: true, ..name("config") }), [".git/config"]);
    assert_eq!(paths(&world, Search { ignore_case: true, ..name("README.*") }), ["readme.md"]);
    assert_eq!(
        paths(&world, Search::default()),
        ["binary", "linked", "out", "readme.md", "src", "src/deep", "src/deep/lib.rs", "src/main.rs"]
    );
    let kinds: Vec<_> = matches(&ask(&world, name("[os]*"))).iter().map(|found| found.kind).collect();
    assert_eq!(kinds, [FileKind::Symlink, FileKind::Directory]);
}

#[test]
fn lines_are_found() {
    let world = world();
    let content = |text: &str| Search { content: Some(text.into()), ..Search::default() };
    let lines = |search: Search| -> Vec<(Option<u64>, String)> {
        let told = ask(&world, search);
        told.done();
        matches(&told).into_iter().map(|found| (found.line, found.text.expect("a text"))).collect()
    };
    assert_eq!(
        lines(content("ello")),
        [
            (Some(1), "Hello, hello".to_owned()),
            (Some(1), "pub fn hello() {}".to_owned()),
            (Some(2), "    println!(\"Hello\");".to_owned())
        ]
    );
    assert_eq!(lines(content("hello()")).len(), 1, "a text is no expression");
    assert_eq!(lines(Search { ignore_case: true, ..content("WORLD") }), [(Some(2), "world".to_owned())]);
    assert_eq!(lines(Search { regex: true, ..content(r"^\w+ld$") }), [(Some(2), "world".to_owned())]);
    assert_eq!(lines(Search { name: Some("*.rs".into()), ..content("fn") }).len(), 2);
    assert_eq!(
        paths(&world, Search { hidden: true, ..content("hello") }),
        [".git/config", "readme.md", "src/deep/lib.rs"]
    );
}

#[test]
fn long_lines_and_many_are_counted_right() {
    let world = World::new();
    let mut text = String::new();
    for number in 1..=50_000 {
        text.push_str(&format!("line {number}\n"));
    }
    text.push_str(&"x".repeat(700_000));
    text.push_str("needle\nneedle");
    world.make_file("w/text", &text);
    world.make_file("w/wide", format!("needle{}", "é".repeat(300_000)));
    let told = ask(&world, Search { content: Some("needle".into()), ..Search::default() });
    assert!(!told.done());
    let found = matches(&told);
    assert_eq!(found.iter().map(|found| found.line).collect::<Vec<_>>(), [Some(50_002), Some(1)]);
    assert_eq!(found[1].text.as_ref().map(|text| text.chars().count()), Some(1000));
    let told = ask(&world, Search { content: Some("line 49999".into()), ..Search::default() });
    assert_eq!(matches(&told)[0].line, Some(49_999));
}

#[test]
fn there_is_an_end_to_what_is_told() {
    let world = World::new();
    for number in 0..SEARCH_DEFAULT + 1 {
        world.make_file(&format!("w/{number:05}"), "x\n".repeat(3));
    }
    let count = |search: Search| {
        let told = ask(&world, search);
        (matches(&told).len(), told.done())
    };
    assert_eq!(count(Search::default()), (1000, true));
    assert_eq!(count(Search { limit: 1001, ..Search::default() }), (1001, false));
    assert_eq!(count(Search { limit: 1, ..Search::default() }), (1, true));
    assert_eq!(count(Search { limit: u32::MAX, content: Some("x".into()), ..Search::default() }), (3003, false));
    assert_eq!(count(Search { limit: 2, content: Some("x".into()), ..Search::default() }), (2, true));
}

#[test]
fn patterns_that_would_take_for_ever_elsewhere_do_not() {
    let world = World::new();
    world.make_file("w/text", "a".repeat(200_000));
    let regex = |text: &str| Search { content: Some(text.into()), regex: true, ..Search::default() };
    assert_eq!(paths(&world, regex("(a*)*(a*)*(a*)*b$")), Vec::<String>::new());
    assert_eq!(paths(&world, regex("(x+x+)+y|a{100}b")), Vec::<String>::new());
    let stars = Search { name: Some("*t".repeat(200)), ..Search::default() };
    assert_eq!(paths(&world, stars), Vec::<String>::new());
    for wrong in ["(", "a{1000}{1000}{1000}", r"(?=a)", &"(".repeat(1000), &"a".repeat(5000)] {
        let told = ask(&world, regex(wrong));
        assert_eq!(told.failure(), Failure::Invalid, "{wrong}");
        assert!(told.message().len() < 200, "{}", told.message());
    }
    assert_eq!(ask(&world, Search { name: Some("{a".into()), ..Search::default() }).failure(), Failure::Invalid);
    assert_eq!(world.ask(&Ask::Search(Search::default())).failure(), Failure::Invalid);
    let at = |path: &str| ask(&world, Search { path: Some(world.path(path)), ..Search::default() }).failure();
    assert_eq!((at("w/text"), at("w/none"), at("outside")), (Failure::NotFolder, Failure::NotFound, Failure::Denied));
}
