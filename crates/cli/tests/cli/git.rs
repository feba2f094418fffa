use std::io::Write as _;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use axum::extract::Request;
use axum::http::StatusCode;
use axum::{Json, Router};
use serde_json::{Value, json};

use super::{Server, run, text};

/// Requests as they came: method, path with query, body.
type Seen = Arc<Mutex<Vec<(String, String, Value)>>>;

fn server() -> (Server, Seen) {
    let seen = Seen::default();
    let noted = Arc::clone(&seen);
    let answer = async move |request: Request| {
        let (method, uri) = (request.method().to_string(), request.uri().to_string());
        let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.expect("a body");
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        noted.lock().expect("seen").push((method, uri.clone(), body.clone()));
        let path = uri.split('?').next().unwrap_or_default();
        let answer = match path.rsplit('/').next().unwrap_or_default() {
            "clone" => json!({"message": "m", "folder": "/workspace/home/b"}),
            "status" => json!({"status": "?? a.txt\n"}),
            "diff" => json!({"diff": "", "truncated": true}),
            "commit" if body["message"] == "none" => {
                return (StatusCode::CONFLICT, Json(json!({"error": "nothing to commit"})));
            }
            "commit" => json!({"sha": "0123", "message": "x"}),
            "push" | "checkout" => json!({"message": "Done so"}),
            "exec" => json!({"output": "fatal: bad\n", "exit_code": 128}),
            "create-pr" => {
                json!({"url": "https://hub.test/1", "number": 1, "title": "t", "base": "b", "warning": "not all"})
            }
            "create-issue" => json!({"url": "https://hub.test/2", "number": 2, "title": "t"}),
            _ => json!({"git_user_name": "Ada", "git_user_email": "ada@example.com"}),
        };
        (StatusCode::OK, Json(answer))
    };
    (Server::start(Router::new().fallback(answer)), seen)
}

fn last(seen: &Seen) -> (String, String, Value) {
    let (method, path, mut body) = seen.lock().expect("seen").last().expect("a request").clone();
    if let Some(fields) = body.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    (method, path, body)
}

fn asked(method: &str, path: &str, body: Value) -> (String, String, Value) {
    (method.into(), format!("/v2/box/my-box/{path}"), body)
}

#[test]
fn every_command_asks_for_what_it_says_and_prints_what_comes_of_it() {
    let (server, seen) = server();
    let call = |arguments: &[&str]| run(server.boxyard(&[&["git"], arguments].concat()));
    let ok = |out: &str, err: &str| (0, out.to_owned(), err.to_owned());
    let clone = call(&["clone", "my-box", "github.com/a/b", "--branch", "x", "--depth", "1", "-C", "to"]);
    assert_eq!(clone, ok("/workspace/home/b\n", ""));
    let body = json!({"repo": "github.com/a/b", "branch": "x", "depth": 1, "folder": "to"});
    assert_eq!(last(&seen), asked("POST", "git/clone", body));
    assert_eq!(call(&["status", "my-box"]), ok("?? a.txt\n", ""));
    assert_eq!(last(&seen), asked("GET", "git/status", Value::Null));
    let (code, out, err) = call(&["diff", "my-box", "--folder", "a b"]);
    assert_eq!((code, out.as_str(), err.contains("there is more")), (0, "", true));
    assert_eq!(last(&seen), asked("GET", "git/diff?folder=a+b", Value::Null));
    assert_eq!(call(&["commit", "my-box", "-m", "A change", "--author-name", "Ada"]), ok("0123\n", ""));
    assert_eq!(last(&seen), asked("POST", "git/commit", json!({"message": "A change", "author_name": "Ada"})));
    assert_eq!(call(&["commit", "my-box", "-m", "none"]), (1, String::new(), "boxyard: nothing to commit\n".into()));
    assert_eq!(call(&["push", "my-box", "--branch", "x"]), ok("", "Done so\n"));
    assert_eq!(last(&seen), asked("POST", "git/push", json!({"branch": "x"})));
    assert_eq!(call(&["checkout", "my-box", "x"]), ok("", "Done so\n"));
    assert_eq!(call(&["exec", "my-box", "--", "log", "-1"]), (128, "fatal: bad\n".into(), String::new()));
    assert_eq!(last(&seen), asked("POST", "git/exec", json!({"args": ["log", "-1"]})));
    let create = call(&["create-pr", "my-box", "--title", "t", "--base", "b", "--attach", "x", "--attach", "y"]);
    assert_eq!(create, ok("https://hub.test/1\n", "boxyard: not all\n"));
    assert_eq!(last(&seen), asked("POST", "git/create-pr", json!({"title": "t", "base": "b", "attach": ["x", "y"]})));
    assert_eq!(call(&["create-issue", "my-box", "--title", "t", "--body", "b"]), ok("https://hub.test/2\n", ""));
    assert_eq!(call(&["config", "my-box", "--name", "Ada"]), ok("Ada <ada@example.com>\n", ""));
    assert_eq!(last(&seen), asked("PUT", "config/git", json!({"git_user_name": "Ada"})));
    assert_eq!(call(&["config", "my-box", "--forget-token"]).0, 0);
    assert_eq!(last(&seen), asked("PUT", "config/git", json!({"github_token": ""})));
    for wrong in [&["config", "my-box"][..], &["commit", "my-box"], &["exec", "my-box"], &["clone", "..", "x"]] {
        assert_eq!(call(wrong).0, 64, "{wrong:?}");
    }
}

#[test]
fn a_token_comes_from_a_file_or_the_variable_and_that_of_the_variable_goes_to_github_only() {
    let (server, seen) = server();
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("token");
    std::fs::write(&file, " from-the-file\n").expect("write the token");
    let call = |arguments: &[&str]| {
        let mut command = server.boxyard(&[&["git"], arguments].concat());
        command.env("GITHUB_TOKEN", "from-the-variable");
        let (code, _, err) = run(command);
        assert_eq!(code, 0, "{arguments:?}: {err}");
        last(&seen).2["github_token"].clone()
    };
    assert_eq!(call(&["clone", "my-box", "https://github.com/a/b"]), "from-the-variable");
    assert_eq!(call(&["clone", "my-box", "https://elsewhere.test/a/b"]), Value::Null);
    assert_eq!(call(&["clone", "my-box", "https://elsewhere.test/a/b", "--token-file", text(&file)]), "from-the-file");
    assert_eq!(call(&["push", "my-box"]), "from-the-variable");
    assert_eq!(call(&["create-pr", "my-box", "-t", "t", "--token-file", text(&file)]), "from-the-file");
    assert_eq!(call(&["config", "my-box", "--name", "Ada"]), Value::Null, "it is not kept unless that is asked for");

    let mut command = server.boxyard(&["git", "config", "my-box", "--token-file", "-"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("start");
    child.stdin.take().expect("its input").write_all(b"from-the-input").expect("write");
    assert!(child.wait().expect("its end").success());
    assert_eq!(last(&seen).2["github_token"], "from-the-input");
    std::fs::write(&file, "\n").expect("write nothing");
    assert_eq!(run(server.boxyard(&["git", "push", "my-box", "--token-file", text(&file)])).0, 64);
}
