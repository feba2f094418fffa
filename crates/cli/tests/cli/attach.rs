use std::collections::HashMap;
use std::io::Read;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::{Path, Query};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};

use super::{Server, run};

const RUN: &str = "run_00000000000000000000000000";
const OUTPUT: &str = "/v2/box/{id}/runs/{run}/output";

fn head(offset: u64, dropped: u64, status: &'static str) -> [(&'static str, String); 3] {
    [
        ("x-output-offset", offset.to_string()),
        ("x-output-dropped", dropped.to_string()),
        ("x-box-run-status", status.to_owned()),
    ]
}

/// A body that says this and then breaks off, or goes on for ever.
fn begun(text: &'static str, breaks_off: bool) -> Body {
    let (mut write, read) = tokio::io::duplex(1024);
    tokio::spawn(async move {
        write.write_all(text.as_bytes()).await.expect("a reader");
        if !breaks_off {
            std::future::pending::<()>().await;
        }
    });
    if breaks_off {
        Body::from_stream(tokio_util::io::ReaderStream::new(read.chain(Broken(false))))
    } else {
        Body::from_stream(tokio_util::io::ReaderStream::new(read))
    }
}

/// A reader that fails when what came before it has been sent.
struct Broken(bool);

impl AsyncRead for Broken {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        if !std::mem::replace(&mut self.0, true) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Err(std::io::Error::other("broken")))
    }
}

#[test]
fn output_is_taken_up_where_the_connection_broke_off_and_the_exit_code_is_the_run_s() {
    let asked = Arc::new(AtomicUsize::new(0));
    let answers = Arc::clone(&asked);
    let output =
        get(move |Path((id, run)): Path<(String, String)>, Query(query): Query<HashMap<String, String>>| async move {
            assert_eq!((id.as_str(), run.as_str()), ("my-box", RUN));
            let offset = query.get("offset").map(String::as_str);
            let answer: Response = match (answers.fetch_add(1, Ordering::SeqCst), offset, query.contains_key("follow"))
            {
                (0, None, true) => (head(0, 0, "running"), begun("one\n", true)).into_response(),
                (1, Some("4"), true) => (head(4, 0, "running"), "two\n").into_response(),
                (2, Some("8"), false) => (head(8, 0, "failed"), [("x-box-exit-code", "7")], "").into_response(),
                other => panic!("{other:?}"),
            };
            answer
        });
    let server = Server::start(Router::new().route(OUTPUT, output).route("/", get(|| async { "here" })));
    assert_eq!(run(server.boxyard(&["attach", "my-box", RUN])), (7, "one\ntwo\n".into(), String::new()));
    assert_eq!(asked.load(Ordering::SeqCst), 3);
}

#[test]
fn what_is_not_kept_any_more_is_said_and_so_is_an_end_without_a_code() {
    let output = get(|Query(query): Query<HashMap<String, String>>| async move {
        match query.contains_key("follow") {
            true => (head(100, 100, "running"), "rest\n").into_response(),
            false => (head(105, 100, "failed"), "").into_response(),
        }
    });
    let show = get(|| async {
        Json(
            json!({"id": RUN, "box_id": "current-wasp-05510", "customer_id": "acc_00000000000000000000000000", "type": "shell",
            "status": "failed", "prompt": "x", "input_tokens": 0, "output_tokens": 0, "cpu_ns": 0, "cost_usd": 0.0,
            "compute_cost_usd": 0.0, "duration_ms": 1, "created_at": 1, "error_message": "lost with its box"}),
        )
    });
    let server = Server::start(Router::new().route(OUTPUT, output).route("/v2/box/{id}/runs/{run}", show));
    let (code, out, err) = run(server.boxyard(&["attach", "my-box", RUN, "--offset", "40"]));
    assert_eq!((code, out.as_str()), (125, "rest\n"));
    assert!(err.contains("60 bytes before this are not kept any more") && err.contains("lost with its box"), "{err}");

    let refuse = get(|| async { (StatusCode::NOT_FOUND, Json(json!({"error": "Run not found"}))) });
    let server = Server::start(Router::new().route(OUTPUT, refuse));
    assert_eq!(
        run(server.boxyard(&["attach", "my-box", RUN])),
        (125, String::new(), "boxyard: Run not found\n".into())
    );
    assert_eq!(run(server.boxyard(&["attach", "my-box", "../x"])).0, 64);
}

#[test]
fn ctrl_c_detaches_and_says_that_the_run_goes_on() {
    let output = get(|| async { (head(0, 0, "running"), begun("ready\n", false)) });
    let server = Server::start(Router::new().route(OUTPUT, output));
    let mut child = server
        .boxyard(&["attach", "my-box", RUN])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("run boxyard");
    let mut ready = [0; 6];
    child.stdout.as_mut().expect("its output").read_exact(&mut ready).expect("the first line");
    kill_process(Pid::from_child(&child), Signal::INT).expect("Ctrl-C");
    let ended = child.wait_with_output().expect("its end");
    assert_eq!(ended.status.code(), Some(130));
    let err = String::from_utf8_lossy(&ended.stderr).into_owned();
    // Its last bytes may be printed and not counted yet: better twice than not at all.
    assert!(err.contains(&format!("the run goes on, see it with: boxyard attach my-box {RUN} --offset ")), "{err}");
}

#[test]
fn a_detached_command_s_run_is_printed() {
    let exec = post(|Json(body): Json<Value>| async move {
        assert_eq!(body["async"], json!(true));
        Json(json!({"run_id": RUN, "status": "running"}))
    });
    let server = Server::start(Router::new().route("/v2/box/{id}/exec", exec));
    let called = run(server.boxyard(&["exec", "my-box", "--detach", "--", "sleep", "1"]));
    assert_eq!(called, (0, format!("{RUN}\n"), String::new()));
}

#[test]
fn logs_are_printed_and_followed_and_do_not_steer_the_terminal() {
    let entry = |message: &str| json!({"timestamp": 0, "level": "warn", "source": "user", "message": message});
    let logs = get(move |Query(query): Query<HashMap<String, String>>| async move {
        let entries = [entry("first"), entry("sec\u{1b}[2Jond"), entry("third")];
        if query.get("follow").map(String::as_str) == Some("1") {
            assert_eq!(query.get("tail").map(String::as_str), Some("2"));
            return entries[1..].iter().map(|entry| format!("{entry}\n")).collect::<String>().into_response();
        }
        Json(json!({"logs": entries})).into_response()
    });
    let server = Server::start(Router::new().route("/v2/box/{id}/logs", logs));
    let line = |text: &str| format!("1970-01-01 00:00:00Z  warn   user    {text}\n");
    let newest = line("sec [2Jond") + &line("third");
    assert_eq!(run(server.boxyard(&["logs", "my-box"])), (0, line("first") + &newest, String::new()));
    assert_eq!(run(server.boxyard(&["logs", "my-box", "--tail", "2"])).1, newest);
    assert_eq!(run(server.boxyard(&["logs", "my-box", "-f", "--tail", "2"])), (0, newest, String::new()));
    let json = run(server.boxyard(&["logs", "my-box", "--json", "--tail", "1"])).1;
    assert_eq!(serde_json::from_str::<Value>(&json).expect("JSON")["message"], "third");
}

#[test]
fn a_followed_log_that_breaks_off_is_taken_up_behind_what_was_printed_last() {
    let entry = |n: u64| {
        let line = json!({"timestamp": 0, "level": "info", "source": "user", "message": format!("entry {n}"), "cursor": format!("{n}-{n}")});
        format!("{line}\n")
    };
    let asked = Arc::new(AtomicUsize::new(0));
    let answers = Arc::clone(&asked);
    let logs = get(move |Query(query): Query<HashMap<String, String>>| async move {
        let asked = (
            answers.fetch_add(1, Ordering::SeqCst),
            query.get("after").map(String::as_str),
            query.get("tail").map(String::as_str),
        );
        let cursor = |cursor: &'static str| [("x-log-cursor", cursor)];
        match asked {
            // Before anything was printed, the head tells where to go on.
            (0, None, Some("7")) => (cursor("4-4"), begun("", true)).into_response(),
            (1, Some("4-4"), None) => {
                let half = entry(5) + &entry(6)[..20];
                let (mut write, read) = tokio::io::duplex(4096);
                write.write_all(half.as_bytes()).await.expect("a reader");
                drop(write);
                (cursor("4-4"), Body::from_stream(tokio_util::io::ReaderStream::new(read.chain(Broken(false)))))
                    .into_response()
            }
            // A proxy in between, while the server is started anew.
            (2, Some("5-5"), None) => StatusCode::BAD_GATEWAY.into_response(),
            (3, Some("5-5"), None) => (cursor("5-5"), entry(6) + &entry(7)).into_response(),
            other => panic!("{other:?}"),
        }
    });
    let server = Server::start(Router::new().route("/v2/box/{id}/logs", logs));
    let (code, out, err) = run(server.boxyard(&["logs", "my-box", "-f", "--tail", "7"]));
    assert_eq!((code, err.as_str()), (0, ""));
    let messages: Vec<&str> = out.lines().filter_map(|line| line.split("  ").last()).collect();
    assert_eq!(messages, ["entry 5", "entry 6", "entry 7"]);
    assert_eq!(asked.load(Ordering::SeqCst), 4);
}

#[test]
fn a_followed_log_is_given_up_when_the_server_refuses_it() {
    let asked = Arc::new(AtomicUsize::new(0));
    let answers = Arc::clone(&asked);
    let logs = get(move || async move {
        match answers.fetch_add(1, Ordering::SeqCst) {
            0 => ([("x-log-cursor", "1-1")], begun("", true)).into_response(),
            _ => (StatusCode::NOT_FOUND, Json(json!({"error": "Box not found"}))).into_response(),
        }
    });
    let server = Server::start(Router::new().route("/v2/box/{id}/logs", logs));
    assert_eq!(run(server.boxyard(&["logs", "my-box", "-f"])), (1, String::new(), "boxyard: Box not found\n".into()));
}
