use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use axum::body::{Body, Bytes};
use axum::extract::RawQuery;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse as _;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};

use super::{Server, run};

fn id() -> String {
    boxyard_proto::SnapshotId::from_entropy(7).to_string()
}

fn exporting() -> Server {
    let export = get(|RawQuery(query): RawQuery| async move {
        match query.as_deref() {
            // Less than was promised.
            Some("image=false") => {
                let body = Body::from_stream(broken());
                ([(header::CONTENT_LENGTH, "100")], body).into_response()
            }
            _ => "an archive".into_response(),
        }
    });
    Server::start(Router::new().route("/v2/box/snapshots/{id}/export", export))
}

/// One piece, and when that is sent the connection breaks.
fn broken() -> impl futures_util::Stream<Item = std::io::Result<Bytes>> {
    futures_util::stream::unfold(0, async |step| {
        if step == 0 {
            return Some((Ok(Bytes::from_static(b"half of")), 1));
        }
        // The server sends what it has when there is nothing more for the moment.
        tokio::task::yield_now().await;
        Some((Err(std::io::Error::other("the test breaks off")), 1))
    })
}

#[test]
fn an_export_has_its_name_when_it_is_whole_and_not_before() {
    let (server, id) = (exporting(), id());
    let dir = tempfile::tempdir().expect("a folder");
    let names = || {
        let mut names: Vec<_> = std::fs::read_dir(dir.path())
            .expect("a folder")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("text"))
            .collect();
        names.sort();
        names
    };
    let in_dir = |arguments: &[&str]| {
        let mut command = server.boxyard(arguments);
        command.current_dir(dir.path());
        run(command)
    };
    let (code, out, err) = in_dir(&["snapshot", "export", &id]);
    assert_eq!((code, out.as_str()), (0, ""), "{err}");
    let file = format!("{id}.tar");
    assert_eq!(names(), std::slice::from_ref(&file));
    let path = dir.path().join(&file);
    assert_eq!(std::fs::read(&path).expect("a file"), b"an archive");
    assert_eq!(path.metadata().expect("a file").permissions().mode() & 0o777, 0o600);

    let (code, _, err) = in_dir(&["snapshot", "export", &id, "-o", &file, "--without-image"]);
    assert_eq!(code, 1);
    assert!(err.contains("the archive broke off"), "{err}");
    assert_eq!(names(), std::slice::from_ref(&file), "nothing of it is left");
    assert_eq!(std::fs::read(&path).expect("a file"), b"an archive", "what was there stays");

    let (code, out, err) = in_dir(&["snapshot", "export", &id, "--output", "-"]);
    assert_eq!((code, out.as_str()), (0, "an archive"), "{err}");
    let (code, _, err) = in_dir(&["snapshot", "export", &id, "-o", "no/such/folder"]);
    assert!(code == 1 && err.contains("cannot write to no/such/folder"), "{err}");
    let (code, _, _) = in_dir(&["snapshot", "export", "../x"]);
    assert_eq!(code, 64);
}

#[test]
fn an_import_sends_a_file_or_what_comes_in() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    let made = id();
    let answer = json!({"id": made, "name": "s", "box_id": "wise-otter-12345", "size_bytes": 5, "status": "ready", "created_at": 1});
    let import = post(move |RawQuery(query): RawQuery, headers: HeaderMap, body: Bytes| async move {
        let length = headers.get(header::CONTENT_LENGTH).map(|length| length.to_str().expect("text").to_owned());
        seen.lock().expect("not poisoned").push((query, length, body.to_vec()));
        if body.is_empty() {
            return (StatusCode::BAD_REQUEST, Json(json!({"error": "no archive"}))).into_response();
        }
        Json(answer).into_response()
    });
    let server = Server::start(Router::new().route("/v2/box/snapshots/import", import));
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("a file");
    std::fs::write(&file, "an archive").expect("written");
    let path = file.to_str().expect("text");
    let (code, out, err) = run(server.boxyard(&["snapshot", "import", path, "--name", "my own"]));
    assert_eq!((code, out.trim()), (0, made.as_str()), "{err}");

    let mut command = server.boxyard(&["snapshot", "import", "-"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("started");
    child.stdin.take().expect("a pipe").write_all(b"piped").expect("written");
    let output = child.wait_with_output().expect("ended");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), made);

    std::fs::write(&file, "").expect("written");
    let (code, _, err) = run(server.boxyard(&["snapshot", "import", path]));
    assert!(code == 1 && err.contains("no archive"), "{err}");
    for wrong in ["/no/such/file", "/"] {
        let (code, _, err) = run(server.boxyard(&["snapshot", "import", wrong]));
        assert!(code == 1 && err.contains("cannot read"), "{err}");
    }
    let asked = asked.lock().expect("not poisoned").clone();
    assert_eq!(
        asked,
        [
            (Some("name=my+own".into()), Some("10".into()), b"an archive".to_vec()),
            (None, None, b"piped".to_vec()),
            (None, Some("0".into()), Vec::new()),
        ]
    );
}

#[test]
fn a_box_from_a_snapshot_is_asked_to_live_as_it_was_told() {
    let asked = Arc::new(Mutex::new(None));
    let seen = Arc::clone(&asked);
    let restore = post(move |Json(body): Json<Value>| async move {
        *seen.lock().expect("not poisoned") = Some(body);
        (StatusCode::BAD_REQUEST, Json(json!({"error": "seen"})))
    });
    let server = Server::start(Router::new().route("/v2/box/from-snapshot", restore));
    let id = id();
    let sent = |arguments: &[&str]| {
        let (code, _, err) = run(server.boxyard(&[&["create", "--snapshot", &id], arguments].concat()));
        assert!(code == 1 && err.contains("seen"), "{err}");
        asked.lock().expect("not poisoned").take().expect("a request")
    };
    assert_eq!(sent(&[]), json!({"snapshot_id": id}));
    let kept = sent(&["--keep-alive", "--init-command", "serve", "--size", "large"]);
    assert_eq!(kept, json!({"snapshot_id": id, "keep_alive": true, "init_command": "serve", "size": "large"}));
    let brief = sent(&["--ephemeral", "--ttl", "1h"]);
    assert_eq!(brief, json!({"snapshot_id": id, "ephemeral": true, "ttl": 3600}));
}
