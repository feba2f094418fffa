use std::io::Read;
use std::process::Stdio;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::{Server, run};

/// Answers exec-stream with these bytes.
fn streams(bytes: &'static [u8]) -> Server {
    let stream = post(move |Path(id): Path<String>, Json(body): Json<Value>| async move {
        assert_eq!(id, "my-box");
        assert_eq!(body["command"], json!(["sh", "-c", "echo --help"]));
        ([("x-box-run-id", "run_1")], bytes)
    });
    Server::start(Router::new().route("/v2/box/{id}/exec-stream", stream))
}

const CALL: [&str; 6] = ["exec", "my-box", "--", "sh", "-c", "echo --help"];

#[test]
fn output_and_exit_code_pass_through() {
    let server = streams(b"--help\nevent: exit\ndata: {\"exit_code\":7,\"cpu_ns\":1}\n\n");
    assert_eq!(run(server.boxyard(&CALL)), (7, "--help\n".into(), String::new()));
}

#[test]
fn what_keeps_a_command_from_running_exits_125() {
    let server = streams(b"event: error\ndata: {\"error\":\"no such folder\"}\n\n");
    assert_eq!(run(server.boxyard(&CALL)), (125, String::new(), "boxyard: no such folder\n".into()));

    let server = streams(b"half");
    let (code, out, err) = run(server.boxyard(&CALL));
    assert_eq!((code, out.as_str()), (125, "half"));
    assert!(err.contains("the command goes on"), "{err}");

    let refuse = post(|| async { (StatusCode::NOT_FOUND, Json(json!({"error": "Box not found"}))) });
    let server = Server::start(Router::new().route("/v2/box/{id}/exec-stream", refuse));
    assert_eq!(run(server.boxyard(&CALL)), (125, String::new(), "boxyard: Box not found\n".into()));
}

#[test]
fn ctrl_c_cancels_the_run() {
    let cancelled = Arc::new(Notify::new());
    let cancel = Arc::clone(&cancelled);
    let stream = post(move || async move { stream_until(cancelled).await });
    let cancel = post(move |Path((id, run)): Path<(String, String)>| async move {
        assert_eq!((id.as_str(), run.as_str()), ("my-box", "run_1"));
        cancel.notify_one();
        Json(json!({"message": "cancelled"}))
    });
    let routes =
        Router::new().route("/v2/box/{id}/exec-stream", stream).route("/v2/box/{id}/runs/{run}/cancel", cancel);
    let server = Server::start(routes);

    let mut child = server.boxyard(&CALL).stdout(Stdio::piped()).spawn().expect("run boxyard");
    let mut out = child.stdout.take().expect("its output");
    let mut ready = [0; 6];
    out.read_exact(&mut ready).expect("the first line");
    assert_eq!(&ready, b"ready\n");
    kill_process(Pid::from_child(&child), Signal::INT).expect("Ctrl-C");
    let mut rest = String::new();
    out.read_to_string(&mut rest).expect("the rest");
    assert_eq!(rest, "bye\n", "what the command says while it ends is shown");
    assert_eq!(child.wait().expect("its end").code(), Some(130));
}

async fn stream_until(cancelled: Arc<Notify>) -> Response {
    let (mut write, read) = tokio::io::duplex(1024);
    tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        write.write_all(b"ready\n").await.expect("a reader");
        cancelled.notified().await;
        write.write_all(b"bye\nevent: exit\ndata: {\"exit_code\":143,\"cpu_ns\":1}\n\n").await.expect("a reader");
    });
    let body = Body::from_stream(tokio_util::io::ReaderStream::new(read));
    ([("x-box-run-id", "run_1")], body).into_response()
}

#[test]
fn a_reader_that_goes_away_ends_the_call_quietly() {
    let cancelled = Arc::new(Notify::new());
    let go_on = Arc::clone(&cancelled);
    let stream = post(move || async move { stream_until(cancelled).await });
    let server = Server::start(Router::new().route("/v2/box/{id}/exec-stream", stream));
    let mut child = server.boxyard(&CALL).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("run boxyard");
    let mut out = child.stdout.take().expect("its output");
    out.read_exact(&mut [0; 6]).expect("the first line");
    drop(out);
    go_on.notify_one();
    let output = child.wait_with_output().expect("its end");
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(141), &b""[..]));
}
