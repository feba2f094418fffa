//! Commands that are answered when they have ended.

use boxyard_engine::ErrorKind;
use boxyard_engine::fake::Call;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{Answer, Client, Yard, box_id};

async fn exec(client: &Client, id: &str, command: Value) -> Answer {
    client.post(&format!("/v2/box/{id}/exec"), json!({"command": command})).await
}

#[tokio::test]
async fn output_is_exact_and_errors_are_separate() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    for (command, expected) in [
        (json!(["printf", "abc"]), json!({"exit_code": 0, "output": "abc"})),
        (json!(["true"]), json!({"exit_code": 0, "output": ""})),
        (json!(["sh", "-c", "exit 7"]), json!({"exit_code": 7, "output": ""})),
        (
            json!(["sh", "-c", "echo out; stderr err; exit 3"]),
            json!({"exit_code": 3, "output": "out\n", "error": "err\n"}),
        ),
        (
            json!(["no-such-program"]),
            json!({"exit_code": 127, "output": "", "error": "no-such-program: command not found\n"}),
        ),
        // Arguments reach the program as they are, without a shell.
        (json!(["echo", "a  b", "$HOME; exit 9", ""]), json!({"exit_code": 0, "output": "a  b $HOME; exit 9 \n"})),
        (json!(["echo", "grüße 🦊"]), json!({"exit_code": 0, "output": "grüße 🦊\n"})),
        (json!(["bytes", "61", "ff", "00", "62"]), json!({"exit_code": 0, "output": "a\u{fffd}\u{0}b"})),
    ] {
        let answer = exec(&client, &id, command.clone()).await;
        assert_eq!((answer.status, answer.json()), (StatusCode::OK, expected), "{command}");
    }
}

#[tokio::test]
async fn folders_and_environment_are_as_asked_for() {
    let yard = Yard::start().await;
    let client = yard.client();
    let made = client.post("/v2/box", json!({"env_vars": {"TOKEN": "t", "EMPTY_VAR": ""}})).await.json();
    let id = made["id"].as_str().expect("an id");
    client.sh(id, "mkdir /workspace/home/sub").await;
    for (folder, expected) in [
        (Value::Null, "/workspace/home\n"),
        (json!(""), "/workspace/home\n"),
        (json!("sub"), "/workspace/home/sub\n"),
        (json!("/tmp"), "/tmp\n"),
    ] {
        let body = json!({"command": ["pwd"], "folder": folder});
        assert_eq!(client.post(&format!("/v2/box/{id}/exec"), body).await.json()["output"], expected);
    }
    // As `cd` of the clients asks whether a folder is there.
    assert_eq!(exec(&client, id, json!(["ls", "/nowhere"])).await.json()["exit_code"], 2);
    let missing = json!({"command": ["pwd"], "folder": "/nowhere"});
    let path = format!("/v2/box/{id}/exec");
    client
        .refused(Method::POST, &path, missing, StatusCode::BAD_REQUEST, "folder '/nowhere' does not exist in the box")
        .await;

    let env = client.sh(id, "env").await["output"].as_str().expect("text").to_owned();
    for line in ["TOKEN=t", "EMPTY_VAR=", "HOME=/home/boxuser", "USER=boxuser", "LOGNAME=boxuser", "SHELL=/bin/bash"] {
        assert!(env.lines().any(|found| found == line), "{line} in {env}");
    }
    let logs = client.get(&format!("/v2/box/{id}/logs")).await.text();
    assert!(!logs.contains("TOKEN"), "values of variables stay out of the log");
}

#[tokio::test]
async fn the_answer_tells_its_run_and_the_box_is_idle_by_then() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let answer = exec(&client, &id, json!(["sh", "-c", "echo warmup"])).await;
    let run = answer.header("x-box-run-id").expect("the run's id").to_owned();
    assert_eq!(client.status(&id).await, "idle");
    assert_eq!(client.run(&id, &run).await["status"], "completed");
    assert_eq!(client.get(&format!("/v2/box/{id}/runs")).await.json()["runs"][0]["id"], json!(run));
}

#[tokio::test]
async fn a_command_that_works_makes_the_box_running() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let run = client.begin(&id, "gate done").await;
    yard.engine.came_to("done", 1).await;
    assert_eq!(client.status(&id).await, "running");
    assert_eq!(client.get(&format!("/v2/box/{id}/status")).await.json(), json!({"status": "running"}));
    yard.engine.open("done");
    client.until(&format!("/v2/box/{id}/runs/{run}"), |run| run["status"] == "completed").await;
    client.until(&format!("/v2/box/{id}"), |data| data["status"] == "idle").await;
}

#[tokio::test]
async fn long_output_is_held_up_to_the_cap_and_the_answer_says_so() {
    let yard = Yard::with(|config| config.limits.output_cap = 1_000_000).await;
    let client = yard.client();
    let id = client.new_box().await;
    let whole = exec(&client, &id, json!(["yes", "1000000"])).await.json();
    assert_eq!((whole["output"].as_str().map(str::len), whole.get("truncated")), (Some(1_000_000), None));
    let cut = exec(&client, &id, json!(["yes", "3000001"])).await.json();
    assert_eq!((cut["output"].as_str().map(str::len), &cut["truncated"]), (Some(1_000_000), &json!(true)));
    assert_eq!(cut["exit_code"], 0, "the command ran to its end");
}

#[tokio::test]
async fn a_command_goes_on_when_its_client_leaves() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let leaving = tokio::spawn({
        let (client, id) = (client.clone(), id.clone());
        async move { client.sh(&id, "echo begun; gate done; yes 500000; exit 4").await }
    });
    yard.engine.came_to("done", 1).await;
    let run = client.get(&format!("/v2/box/{id}/runs")).await.json()["runs"][0].clone();
    assert_eq!(run["status"], "running");
    leaving.abort();
    assert!(leaving.await.is_err());
    yard.engine.open("done");
    let path = format!("/v2/box/{id}/runs/{}", run["id"].as_str().expect("an id"));
    let ended = client.until(&path, |run| run["status"] != "running").await;
    assert_eq!((&ended["status"], &ended["cpu_ns"]), (&json!("failed"), &json!(1_000_000)));
}

#[tokio::test]
async fn many_commands_at_once_do_not_mix() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let calls = (0..50).map(|n| {
        let (client, id) = (&client, &id);
        async move { (n, client.sh(id, &format!("echo {n}; stderr {n}; exit {n}")).await) }
    });
    for (n, result) in futures_util::future::join_all(calls).await {
        let expected = json!({"exit_code": n, "output": format!("{n}\n"), "error": format!("{n}\n")});
        assert_eq!(result, expected);
    }
    assert_eq!(client.get(&format!("/v2/box/{id}/runs")).await.json()["runs"].as_array().map(Vec::len), Some(50));
}

#[tokio::test]
async fn async_commands_answer_at_once() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let answer = client.post(&format!("/v2/box/{id}/exec"), json!({"command": ["gate", "go"], "async": true})).await;
    let run = answer.json()["run_id"].as_str().expect("a run id").to_owned();
    assert_eq!(answer.header("x-box-run-id"), Some(run.as_str()));
    assert_eq!(client.run(&id, &run).await["status"], "running");
    yard.engine.open("go");
    client.until(&format!("/v2/box/{id}/runs/{run}"), |run| run["status"] == "completed").await;
}

#[tokio::test]
async fn a_box_that_does_not_answer_is_a_failed_call_and_a_failed_run() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let path = format!("/v2/box/{id}/exec");
    yard.engine.fail_next(Call::Connect, ErrorKind::Broken);
    let body = json!({"command": ["true"]});
    client
        .refused(Method::POST, &path, body.clone(), StatusCode::INTERNAL_SERVER_ERROR, "Failed to execute command")
        .await;
    let run = client.get(&format!("/v2/box/{id}/runs")).await.json()["runs"][0].clone();
    assert_eq!(run["status"], "failed");
    assert!(run["error_message"].as_str().is_some_and(|text| text.contains("could not be started")), "{run}");
    assert_eq!(client.status(&id).await, "idle", "one failure is not the end of the box");

    yard.engine.lose(&box_id(&id));
    client.until(&format!("/v2/box/{id}"), |data| data["status"] == "error").await;
    client.refused(Method::POST, &path, body, StatusCode::CONFLICT, "no longer there").await;
}

#[tokio::test]
async fn a_command_may_be_sent_to_a_box_that_is_being_made() {
    let yard = Yard::start().await;
    let client = yard.client();
    yard.engine.hold(Call::Create, Some("image"));
    let creating = tokio::spawn({
        let client = client.clone();
        async move { client.post("/v2/box", json!({"name": "n"})).await }
    });
    yard.engine.came_to("image", 1).await;
    let early = tokio::spawn({
        let client = client.clone();
        async move { client.sh("n", "echo early").await }
    });
    client.until("/v2/box/n", |data| data["status"] == "creating").await;
    yard.engine.open("image");
    assert_eq!(early.await.expect("no panic")["output"], "early\n");
    let made = creating.await.expect("no panic").json();
    assert!(made["status"] == "idle" || made["status"] == "running", "{made}");
}

#[tokio::test]
async fn a_box_that_lies_about_itself_harms_nobody() {
    let mut yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    for _ in 0..5 {
        let lied = exec(&client, &id, json!(["lie"])).await;
        assert_eq!((lied.status, &lied.json()["exit_code"]), (StatusCode::OK, &json!(255)));
    }
    yard.restart().await;
    let client = yard.client();
    assert_eq!(exec(&client, &id, json!(["lie"])).await.status, StatusCode::OK);
    let boxes = client.get("/v2/box").await;
    assert!(boxes.json()[0]["total_cpu_ns"].as_i64().is_some_and(|cpu_ns| cpu_ns > 0), "{boxes:?}");
    assert_eq!(client.get(&format!("/v2/box/{id}/runs")).await.json()["runs"].as_array().map(Vec::len), Some(6));
}
