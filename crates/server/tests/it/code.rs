//! Code, as commands that read it from their standard input.

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::support::{Yard, parts};

#[tokio::test]
async fn code_runs_in_each_language_and_folder() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let path = format!("/v2/box/{id}/code");
    for language in ["js", "ts", "python"] {
        let body = json!({"code": "echo hi\npwd\nstderr trace\nexit 1", "language": language, "folder": "/tmp"});
        let answer = client.post(&path, body).await;
        let expected = json!({"exit_code": 1, "output": "hi\n/tmp\n", "error": "trace\n"});
        assert_eq!((answer.status, answer.json()), (StatusCode::OK, expected));
        assert!(answer.header("x-box-run-id").is_some());
    }
    assert_eq!(client.post(&path, json!({"code": "", "language": "js"})).await.json()["exit_code"], 0);
    let run = client.get(&format!("/v2/box/{id}/runs")).await.json()["runs"][1].clone();
    assert_eq!((&run["prompt"], &run["type"]), (&json!("echo hi\npwd\nstderr trace\nexit 1"), &json!("shell")));
}

#[tokio::test]
async fn large_code_arrives_whole() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let code = format!("true {}\necho end", "x".repeat(8 * 1024 * 1024));
    let answer = client.post(&format!("/v2/box/{id}/code"), json!({"code": code, "language": "js"})).await;
    assert_eq!(answer.json(), json!({"exit_code": 0, "output": "end\n"}));
}

#[tokio::test]
async fn code_that_takes_too_long_is_ended_with_124_and_a_reason() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let body = json!({"code": "echo begun; stderr oops; sleep", "language": "python", "timeout": 50});
    let answer = client.post(&format!("/v2/box/{id}/code"), body.clone()).await;
    let expected = json!({"exit_code": 124, "output": "begun\n", "error": "oops\ncode timed out after 50 ms"});
    assert_eq!((answer.status, answer.json()), (StatusCode::OK, expected));
    let run = client.run(&id, answer.header("x-box-run-id").expect("the run's id")).await;
    assert_eq!((&run["status"], &run["error_message"]), (&json!("failed"), &json!("code timed out after 50 ms")));

    let (_, chunks) = client.stream(&format!("/v2/box/{id}/code-stream"), body).await;
    let parts = parts(&chunks);
    assert_eq!((parts.event, &parts.data["exit_code"]), ("exit", &json!(124)));
    assert_eq!(parts.output, b"begun\noops\ncode timed out after 50 ms\n");
    assert_eq!(client.status(&id).await, "idle");

    let patient = json!({"code": "echo done", "language": "js", "timeout": 0});
    assert_eq!(client.post(&format!("/v2/box/{id}/code"), patient).await.json()["output"], "done\n");
}

#[tokio::test]
async fn wrong_requests_say_what_is_missing() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    for door in ["code", "code-stream"] {
        let path = format!("/v2/box/{id}/{door}");
        for (body, text) in [
            (json!({}), "code is required"),
            (json!({"code": "1"}), "language is required"),
            (json!({"code": "1", "language": "rust"}), "language must be js, ts or python"),
            (json!({"code": 1, "language": "js"}), "field 'code'"),
            (json!({"code": "1", "language": "js", "timeout": "1s"}), "field 'timeout'"),
            (json!({"code": "1", "language": "js", "timeout": -1}), "field 'timeout'"),
            (json!({"code": "1", "language": "js", "timeout": u64::MAX}), "timeout can be at most"),
            (json!({"code": "x".repeat(16 * 1024 * 1024 + 1), "language": "js"}), "code is longer than"),
            (json!({"code": "1", "language": "js", "folder": "a\u{0}"}), "NUL"),
        ] {
            client.refused(Method::POST, &path, body, StatusCode::BAD_REQUEST, text).await;
        }
    }
}
