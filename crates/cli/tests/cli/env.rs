use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use axum::extract::Path;
use axum::http::StatusCode;
use axum::routing::{get, put};
use axum::{Json, Router};
use serde_json::{Value, json};

use super::{Server, boxyard, run, text};

type Asked = Arc<Mutex<Vec<(String, Value)>>>;

/// A server that keeps what it is told.
fn server() -> (Server, Asked) {
    let asked: Asked = Arc::default();
    let keep = |what: &str, asked: &Asked, body: Value| {
        asked.lock().expect("not poisoned").push((what.to_owned(), body));
        Json(json!({"message": "ok"}))
    };
    let (replaced, set, unset) = (Arc::clone(&asked), Arc::clone(&asked), Arc::clone(&asked));
    let routes = Router::new()
        .route(
            "/v2/box/settings/env",
            get(|| async { Json(json!({"env_vars": {"B": "***", "A": "***"}})) })
                .put(move |Json(body): Json<Value>| async move { keep("replace", &replaced, body) }),
        )
        .route(
            "/v2/box/settings/env/{key}",
            put(move |Path(key): Path<String>, Json(body): Json<Value>| async move {
                if key == "FULL" {
                    return (StatusCode::BAD_REQUEST, Json(json!({"error": "too many"})));
                }
                (StatusCode::OK, keep(&key, &set, body))
            })
            .delete(move |Path(key): Path<String>| async move { keep(&key, &unset, Value::Null) }),
        );
    (Server::start(routes), asked)
}

fn with_input(mut command: Command, input: &str) -> (i32, String, String) {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start boxyard");
    child.stdin.take().expect("its input").write_all(input.as_bytes()).expect("write");
    let output = child.wait_with_output().expect("its end");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (output.status.code().expect("a code"), text(output.stdout), text(output.stderr))
}

fn taken(asked: &Asked) -> Vec<(String, Value)> {
    std::mem::take(&mut *asked.lock().expect("not poisoned"))
}

#[test]
fn list_prints_names_only() {
    let (server, _) = server();
    assert_eq!(run(server.boxyard(&["env", "list"])), (0, "A\nB\n".into(), String::new()));
}

#[test]
fn set_takes_values_from_arguments_input_and_files() {
    let (server, asked) = server();
    assert_eq!(run(server.boxyard(&["env", "set", "A=1=2", "B="])).0, 0);
    let expected = [("A".into(), json!({"value": "1=2"})), ("B".into(), json!({"value": ""}))];
    assert_eq!(taken(&asked), expected);

    let (code, out, err) = with_input(server.boxyard(&["env", "set", "TOKEN"]), "line 1\nline 2\n");
    assert_eq!((code, out, err), (0, String::new(), String::new()));
    assert_eq!(taken(&asked), [("TOKEN".into(), json!({"value": "line 1\nline 2"}))]);

    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("env");
    std::fs::write(&file, "# mine\nA=file\nC=3\n").expect("write the file");
    assert_eq!(run(server.boxyard(&["env", "set", "--file", text(&file), "A=argument"])).0, 0);
    let expected = [("A".into(), json!({"value": "argument"})), ("C".into(), json!({"value": "3"}))];
    assert_eq!(taken(&asked), expected);
}

#[test]
fn replace_and_unset_say_what_they_are_told() {
    let (server, asked) = server();
    assert_eq!(with_input(server.boxyard(&["env", "replace", "-"]), "A=1\nB=2\n").0, 0);
    assert_eq!(with_input(server.boxyard(&["env", "replace", "-"]), "").0, 0);
    assert_eq!(run(server.boxyard(&["env", "unset", "A", "B"])).0, 0);
    let replace = |env: Value| ("replace".to_owned(), json!({"env_vars": env}));
    let unset = |name: &str| (name.to_owned(), Value::Null);
    assert_eq!(taken(&asked), [replace(json!({"A": "1", "B": "2"})), replace(json!({})), unset("A"), unset("B")]);
}

#[test]
fn what_is_wrong_is_said_before_anything_is_sent_and_without_values() {
    let (server, asked) = server();
    for (arguments, input, said) in [
        (&["env", "set"][..], "", "required"),
        (&["env", "set", "GOOD=s3cret", "PATH=s3cret"], "", "PATH cannot be set"),
        (&["env", "set", "A B=s3cret"], "", "'A B' is not a variable name"),
        (&["env", "set", "A", "B"], "s3cret", "one value or one file"),
        (&["env", "set", "A", "--file", "-"], "s3cret", "line 1 is not NAME=VALUE"),
        (&["env", "replace", "-"], "A=1\ns3cret\n", "line 2 is not NAME=VALUE"),
        (&["env", "unset", ".."], "", "use letters"),
        (&["env", "unset"], "", "required"),
    ] {
        let (code, out, err) = with_input(server.boxyard(arguments), input);
        assert_eq!((code, out.as_str()), (64, ""), "{arguments:?}: {err}");
        assert!(err.contains(said) && !err.contains("s3cret"), "{arguments:?}: {err}");
    }
    let (code, _, err) = run(server.boxyard(&["env", "replace", "/does/not/exist"]));
    assert_eq!(code, 1);
    assert!(err.contains("cannot read /does/not/exist"), "{err}");
    assert!(taken(&asked).is_empty());
    let (code, _, err) = run(server.boxyard(&["env", "set", "FULL=x"]));
    assert_eq!((code, err.as_str()), (1, "boxyard: FULL: too many\n"));
    assert_eq!(run(boxyard(&["env"])).0, 64);
}
