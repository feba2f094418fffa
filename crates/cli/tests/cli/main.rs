//! The program as its users meet it: called, with its output and exit codes.

mod attach;
mod boxes;
mod cp;
mod doctor;
mod env;
mod exec;
mod git;
mod image;
mod keys;
mod session;
mod snapshot;
mod ssh;
mod ssh_access;
mod usage;
mod yard;

use std::path::Path;
use std::process::{Command, Output};

use axum::Router;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// A call of `boxyard` with an environment of its own.
fn boxyard(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_boxyard"));
    command.args(arguments).env_clear();
    command
}

/// Calls and returns exit code, standard output and standard error.
fn run(mut command: Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().expect("run boxyard");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (status.code().expect("an exit code"), text(stdout), text(stderr))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a UTF-8 path")
}

/// A server that answers as its routes say, until it is dropped.
struct Server {
    url: String,
    _runtime: Runtime,
}

impl Server {
    fn start(routes: Router) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("listen");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        runtime.spawn(async move { axum::serve(listener, routes).await });
        Self { url, _runtime: runtime }
    }

    /// A call of `boxyard` that speaks to this server.
    fn boxyard(&self, arguments: &[&str]) -> Command {
        let mut command = boxyard(arguments);
        command.env("BOXYARD_URL", &self.url).env("BOXYARD_API_KEY", "box_test");
        command
    }
}

#[test]
fn wrong_calls_exit_64_and_say_how_it_is_meant() {
    for arguments in [&[][..], &["fly"], &["exec", "my-box"], &["exec", "..", "--", "true"], &["delete"]] {
        let (code, out, err) = run(boxyard(arguments));
        assert_eq!((code, out.as_str()), (64, ""), "{arguments:?}");
        assert!(err.contains("Usage") || err.contains("usage") || err.contains("--help"), "{arguments:?}: {err}");
    }
    let (code, out, _) = run(boxyard(&["--help"]));
    assert_eq!(code, 0);
    assert!(out.contains("Run a command in a box"), "{out}");
}

#[test]
fn a_wrong_setting_exits_64_and_is_named() {
    let mut call = boxyard(&["key", "list"]);
    call.env("BOXYARD_DATA_DIR", "relative");
    let (code, _, err) = run(call);
    assert_eq!((code, err.as_str()), (64, "boxyard: BOXYARD_DATA_DIR is 'relative' and must be an absolute path\n"));
}
