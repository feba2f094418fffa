//! `boxyard cp` and `boxyard edit` against a server of its own, on the engine in memory.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use boxyard_engine::fake::FakeEngine;
use boxyard_server::App;
use boxyard_server::config::{Config, Flags, Secret};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use crate::{Server, boxyard, run, text};

/// A server with one box.
struct Yard {
    url: String,
    id: String,
    folder: TempDir,
    stop: CancellationToken,
    _runtime: Runtime,
}

impl Yard {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut config = Config::load(&Flags::default(), &BTreeMap::new(), &BTreeMap::new(), Path::new("/bin/boxyard"))
            .expect("defaults");
        config.data_dir = folder.path().join("data");
        config.http = SocketAddr::from(([127, 0, 0, 1], 0));
        config.ssh = None;
        config.bootstrap_key = Some(Secret::new("the-first-key-of-tests".into()));
        let runtime = Runtime::new().expect("a runtime");
        let app = runtime.block_on(App::build(&config, FakeEngine::new())).expect("a server");
        let (url, stop) = (format!("http://{}", app.ready().http), CancellationToken::new());
        runtime.spawn(app.run(stop.clone()));
        let mut yard = Self { url, id: String::new(), folder, stop, _runtime: runtime };
        yard.id = yard.ok(&["create"]).trim().to_owned();
        yard
    }

    fn boxyard(&self, arguments: &[&str]) -> Command {
        let mut command = boxyard(arguments);
        command
            .env("BOXYARD_URL", &self.url)
            .env("BOXYARD_API_KEY", "the-first-key-of-tests")
            .env("PATH", "/usr/bin:/bin");
        command.current_dir(self.folder.path());
        command
    }

    /// What a call says that goes well.
    fn ok(&self, arguments: &[&str]) -> String {
        let (code, out, err) = run(self.boxyard(arguments));
        assert_eq!(code, 0, "{arguments:?}: {err}");
        out
    }

    /// What a call says that does not.
    fn refused(&self, arguments: &[&str]) -> String {
        let (code, _, err) = run(self.boxyard(arguments));
        assert!(code == 1 || code == 64, "{arguments:?}: {code} {err}");
        err
    }

    /// A path in the box.
    fn there(&self, path: &str) -> String {
        format!("{}:{path}", self.id)
    }

    fn write(&self, name: &str, content: &[u8]) {
        let path = self.folder.path().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, content).expect("a file");
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.folder.path().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }
}

impl Drop for Yard {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[test]
fn files_go_both_ways_as_they_are() {
    let yard = Yard::start();
    let content: Vec<u8> = (0..3_000_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    yard.write("a b", &content);
    fs::set_permissions(yard.folder.path().join("a b"), fs::Permissions::from_mode(0o750)).expect("a mode");
    yard.ok(&["cp", "a b", &yard.there("x")]);
    yard.ok(&["cp", &yard.there("x"), "back"]);
    assert!(yard.read("back") == content);
    let metadata = fs::metadata(yard.folder.path().join("back")).expect("there");
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o750);
    // Into what is a folder, under its own name.
    yard.ok(&["cp", "a b", &yard.there("new/folder/")]);
    yard.ok(&["cp", &yard.there("/workspace/home/new/folder/a b"), "."]);
    yard.ok(&["cp", "a b", &yard.there("")]);
    fs::create_dir(yard.folder.path().join("d")).expect("a folder");
    yard.ok(&["cp", &yard.there("a b"), "d"]);
    assert!(yard.read("d/a b") == content);
    let names: Vec<_> = fs::read_dir(yard.folder.path().join("d")).expect("there").collect();
    assert_eq!(names.len(), 1, "no parts are left: {names:?}");
    // Through pipes.
    let mut piped = yard.boxyard(&["cp", "-", &yard.there("piped")]);
    let mut piped = piped.stdin(Stdio::piped()).spawn().expect("started");
    piped.stdin.take().expect("a pipe").write_all(b"from a pipe").expect("written");
    assert!(piped.wait().expect("ended").success());
    assert_eq!(yard.ok(&["cp", &yard.there("piped"), "-"]), "from a pipe");
}

#[test]
fn folders_go_both_ways_with_all_that_is_in_them() {
    let yard = Yard::start();
    let long = format!("{}/{}", "n".repeat(120), "m".repeat(120));
    for (name, content) in [("src/main.rs", "fn main() {}"), ("src/deep/er/x", ""), (&format!("src/{long}"), "long")] {
        yard.write(name, content.as_bytes());
    }
    fs::create_dir(yard.folder.path().join("src/empty")).expect("a folder");
    yard.ok(&["cp", "src", &yard.there("copy")]);
    yard.ok(&["cp", "src", &yard.there("copy")]);
    assert_eq!(yard.ok(&["cp", &yard.there("copy/src/main.rs"), "-"]), "fn main() {}", "the second time into it");
    yard.ok(&["cp", "src/.", &yard.there("")]);
    assert_eq!(yard.ok(&["cp", &yard.there("deep/er/x"), "-"]), "");
    yard.ok(&["cp", &yard.there("copy"), "back"]);
    assert_eq!(yard.read("back/main.rs"), b"fn main() {}");
    assert_eq!(yard.read(&format!("back/{long}")), b"long");
    assert!(yard.folder.path().join("back/empty").is_dir());
    yard.ok(&["cp", &yard.there("copy"), "back"]);
    assert_eq!(yard.read("back/copy/main.rs"), b"fn main() {}");
    let time = |name: &str| {
        let metadata = fs::metadata(yard.folder.path().join(name)).expect("there");
        metadata.modified().expect("a time").duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs()
    };
    assert_eq!(time("src/main.rs"), time("back/main.rs"));
}

#[test]
fn what_cannot_be_copied_is_said() {
    let yard = Yard::start();
    yard.write("a", b"x");
    for (arguments, part) in [
        (vec!["cp".to_owned(), "a".into(), "b".into()], "one of the two must be in a box"),
        (vec!["cp".into(), yard.there("a"), yard.there("b")], "one of the two must be here"),
        (vec!["cp".into(), "nowhere".into(), yard.there("b")], "cannot read nowhere"),
        (vec!["cp".into(), yard.there("nowhere"), "b".into()], "there is no such file or folder in the box"),
        (vec!["cp".into(), "a".into(), yard.there("/etc/x")], "permission denied"),
        (vec!["cp".into(), "-".into(), yard.there("x/")], "needs the path of a file"),
        (vec!["cp".into(), "never-was-00000:a".into(), "b".into()], "Box not found"),
        (vec!["cp".into(), "a".into(), "no box:x".into()], "neither a box id nor a box name"),
    ] {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let said = yard.refused(&arguments);
        assert!(said.contains(part), "{arguments:?}: {said}");
    }
    assert!(fs::read_dir(yard.folder.path()).expect("there").count() <= 2, "nothing is left of what failed");
}

#[test]
fn copies_get_no_more_permissions_than_their_user_gives() {
    let yard = Yard::start();
    yard.write("src/run", b"x");
    let folder = yard.folder.path();
    fs::set_permissions(folder.join("src/run"), fs::Permissions::from_mode(0o777)).expect("a mode");
    fs::set_permissions(folder.join("src"), fs::Permissions::from_mode(0o755)).expect("a mode");
    yard.ok(&["cp", "src", &yard.there("")]);
    for (mask, file, below) in [("027", 0o750, 0o750), ("077", 0o700, 0o700), ("000", 0o777, 0o755)] {
        for (from, to) in [("src/run", "run"), ("", "all")] {
            let to = format!("{mask}/{to}");
            fs::create_dir_all(folder.join(mask)).expect("a folder");
            let call = yard.boxyard(&["cp", &yard.there(from), &to]);
            let mut masked = Command::new("sh");
            masked
                .arg("-c")
                .arg(format!("umask {mask}; exec \"$0\" \"$@\""))
                .arg(call.get_program())
                .args(call.get_args());
            masked.env_clear().current_dir(folder);
            masked.envs(call.get_envs().filter_map(|(name, value)| Some((name, value?))));
            let (code, _, err) = run(masked);
            assert_eq!(code, 0, "{err}");
        }
        let mode = |path: &str| {
            let metadata = fs::metadata(folder.join(mask).join(path)).expect("there");
            metadata.permissions().mode() & 0o7777
        };
        assert_eq!((mode("run"), mode("all/src/run"), mode("all/src")), (file, file, below), "umask {mask}");
    }
}

#[test]
fn thousands_of_files_go_both_ways_and_what_is_there_is_left_out_when_it_is_said_so() {
    let yard = Yard::start();
    for n in 0..2_000 {
        yard.write(&format!("many/{}/{n}", n % 20), n.to_string().as_bytes());
    }
    yard.ok(&["cp", "many", &yard.there("")]);
    yard.write("many/3/3", b"another");
    yard.write("many/new", b"new");
    let (code, _, err) = run(yard.boxyard(&["cp", "--resume", "many", &yard.there("")]));
    assert_eq!((code, err.as_str()), (0, "boxyard: 1999 files were there already\n"));
    yard.ok(&["cp", &yard.there("many"), "back"]);
    for n in 0..2_000 {
        let content = if n == 3 { "another".to_owned() } else { n.to_string() };
        assert_eq!(yard.read(&format!("back/{}/{n}", n % 20)), content.as_bytes());
    }
    assert_eq!(yard.read("back/new"), b"new");
}

/// A server that hands out one file and breaks off the first answer in the middle.
fn breaking_off(content: &'static [u8]) -> (Server, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let stat = move || async move {
        let size = content.len();
        format!(
            r#"{{"type":"file","size":{size},"mod_time":"2026-01-01T00:00:00Z","inode":1,"version":"1-2-3","mode":"0644"}}"#
        )
    };
    let download = move |request: Request| async move {
        let range = request.headers().get("range").map(|range| range.to_str().expect("text").to_owned());
        if count.fetch_add(1, Ordering::SeqCst) == 0 {
            assert_eq!(range, None);
            let half = vec![
                Ok(bytes::Bytes::from_static(&content[..content.len() / 2])),
                Err(std::io::Error::other("it breaks off")),
            ];
            let mut answer = Response::new(Body::from_stream(futures_util::stream::iter(half)));
            answer.headers_mut().insert("etag", "\"1-2-3\"".parse().expect("a header"));
            return answer;
        }
        assert_eq!(request.headers()["if-range"], "\"1-2-3\"");
        let from: usize = range.expect("a range")["bytes=".len()..].trim_end_matches('-').parse().expect("a number");
        let head = [("etag", "\"1-2-3\"")];
        (axum::http::StatusCode::PARTIAL_CONTENT, head, &content[from..]).into_response()
    };
    let routes = Router::new()
        .route("/v2/box/my-box/files/stat", axum::routing::get(stat))
        .route("/v2/box/my-box/files/download", axum::routing::get(download));
    (Server::start(routes), asked)
}

#[test]
fn a_download_that_breaks_off_goes_on_where_it_was() {
    // Long enough for its first half to be sent.
    static CONTENT: [u8; 4_000_000] = [7; 4_000_000];
    let (server, asked) = breaking_off(&CONTENT);
    let folder = tempfile::tempdir().expect("a folder");
    let to = folder.path().join("file");
    let (code, _, err) = run(server.boxyard(&["cp", "my-box:file", text(&to)]));
    assert_eq!(code, 0, "{err}");
    assert!(fs::read(&to).expect("there") == CONTENT);
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    // What an earlier call left is gone on with, and what is of another version is not.
    let part = folder.path().join(".file.1-2-3.boxyard-part");
    fs::write(&part, &CONTENT[..60_000]).expect("a part");
    fs::write(folder.path().join(".file.1-1-1.boxyard-part"), "old").expect("a part");
    let (code, _, err) = run(server.boxyard(&["cp", "my-box:file", text(&to)]));
    assert_eq!(code, 0, "{err}");
    assert!(fs::read(&to).expect("there") == CONTENT);
    assert_eq!(fs::read_dir(folder.path()).expect("there").count(), 1);
}

/// A server whose file is another one each time it is downloaded; it breaks off if it shall.
fn restless(breaks_off: bool) -> Server {
    let stat = async || r#"{"type":"file","size":3,"mod_time":"2026-01-01T00:00:00Z","inode":1,"version":"1-1-3","mode":"0644"}"#;
    let count = Arc::new(AtomicUsize::new(2));
    let download = move || async move {
        let content = vec![b'x'; 1_000_000];
        let pieces = [Ok(bytes::Bytes::from(content.clone())), Err(std::io::Error::other("it breaks off"))];
        let body = if breaks_off { Body::from_stream(futures_util::stream::iter(pieces)) } else { content.into() };
        let head = [
            ("etag", format!("\"1-{}-1000000\"", count.fetch_add(1, Ordering::SeqCst))),
            ("last-modified", "Tue, 06 Jan 2026 08:09:10 GMT".to_owned()),
            ("content-length", (if breaks_off { "2000000" } else { "1000000" }).to_owned()),
            ("x-file-mode", "0600".to_owned()),
        ];
        (head, body).into_response()
    };
    let routes = Router::new()
        .route("/v2/box/my-box/files/stat", axum::routing::get(stat))
        .route("/v2/box/my-box/files/download", axum::routing::get(download));
    Server::start(routes)
}

#[test]
fn a_file_that_others_write_meanwhile_is_copied_as_it_was_when_it_was_opened() {
    let server = restless(false);
    let folder = tempfile::tempdir().expect("a folder");
    let to = folder.path().join("log");
    let (code, _, err) = run(server.boxyard(&["cp", "my-box:log", text(&to)]));
    assert_eq!((code, err.as_str()), (0, ""));
    let metadata = fs::metadata(&to).expect("there");
    assert_eq!((metadata.len(), metadata.permissions().mode() & 0o7777), (1_000_000, 0o600));
    let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_767_686_950);
    assert_eq!(metadata.modified().expect("a time"), time);
    assert_eq!(fs::read_dir(folder.path()).expect("there").count(), 1, "no part is left");
}

#[test]
fn a_file_that_never_stands_still_is_given_up_at_last() {
    let server = restless(true);
    let folder = tempfile::tempdir().expect("a folder");
    let (code, _, err) = run(server.boxyard(&["cp", "my-box:log", text(&folder.path().join("log"))]));
    assert_eq!((code, err.contains("changed again and again")), (1, true), "{err}");
}

#[test]
fn a_part_that_is_a_link_is_not_written_through() {
    static CONTENT: [u8; 10] = [7; 10];
    let (server, _) = breaking_off(&CONTENT);
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("precious"), "mine").expect("a file");
    symlink("precious", folder.path().join(".file.1-2-3.boxyard-part")).expect("a link");
    let to = folder.path().join("file");
    let (code, _, _) = run(server.boxyard(&["cp", "my-box:file", text(&to)]));
    assert_eq!((code, fs::read(folder.path().join("precious")).expect("there").as_slice()), (1, &b"mine"[..]));
}

#[test]
fn a_file_is_edited_and_not_written_over_what_others_wrote() {
    let yard = Yard::start();
    yard.write("a", b"one\n");
    yard.ok(&["cp", "a", &yard.there("notes.txt")]);
    let edit = |editor: &str| {
        let mut command = yard.boxyard(&["edit", &yard.id, "notes.txt"]);
        command.env("EDITOR", editor);
        run(command)
    };
    let (code, _, err) = edit("sed -i s/one/two/");
    assert_eq!(code, 0, "{err}");
    assert_eq!(yard.ok(&["cp", &yard.there("notes.txt"), "-"]), "two\n");
    assert!(edit("true").2.contains("not changed"));
    let (code, _, err) = edit("false");
    assert_eq!((code, err.contains("the editor failed")), (1, true), "{err}");
    // Somebody else writes while the editor is open.
    let other = format!(
        "{} cp {} {} --url {} && echo mine >",
        env!("CARGO_BIN_EXE_boxyard"),
        "a",
        yard.there("notes.txt"),
        yard.url
    );
    let (code, _, err) = edit(&other);
    assert_eq!((code, err.contains("changed meanwhile")), (1, true), "{err}");
    let kept = err.rsplit("what you wrote is in ").next().expect("a path").trim();
    assert_eq!(fs::read(kept).expect("kept"), b"mine\n");
    fs::remove_dir_all(Path::new(kept).parent().expect("a folder")).expect("cleaned");
    assert_eq!(yard.ok(&["cp", &yard.there("notes.txt"), "-"]), "one\n");
    let mut new = yard.boxyard(&["edit", &yard.id, "new.md"]);
    new.env("EDITOR", "echo hello >");
    assert_eq!(run(new).0, 0);
    assert_eq!(yard.ok(&["cp", &yard.there("new.md"), "-"]), "hello\n");
}
