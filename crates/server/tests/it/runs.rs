//! The list of runs, one run, and cancelling it.

use std::collections::BTreeSet;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{Yard, box_id};

#[tokio::test]
async fn a_completed_run_has_exactly_the_documented_keys() {
    let yard = Yard::start().await;
    let client = yard.client();
    let made = client.post("/v2/box", json!({})).await.json();
    let id = made["id"].as_str().expect("an id");
    client.sh(id, "echo warmup").await;
    let runs = client.get(&format!("/v2/box/{id}/runs")).await.json();
    let run = runs["runs"][0].as_object().expect("a run").clone();
    let keys: BTreeSet<&str> = run.keys().map(String::as_str).collect();
    let expected = BTreeSet::from([
        "id",
        "box_id",
        "customer_id",
        "type",
        "status",
        "prompt",
        "input_tokens",
        "output_tokens",
        "cpu_ns",
        "cost_usd",
        "compute_cost_usd",
        "duration_ms",
        "created_at",
        "completed_at",
    ]);
    assert_eq!(keys, expected);
    assert_eq!((&run["type"], &run["status"]), (&json!("shell"), &json!("completed")));
    assert_eq!(run["prompt"], "sh -c echo warmup");
    assert_eq!((&run["box_id"], &run["customer_id"]), (&json!(id), &made["customer_id"]));
    assert_eq!(
        (&run["input_tokens"], &run["output_tokens"], &run["cpu_ns"]),
        (&json!(0), &json!(0), &json!(1_000_000))
    );
    for number in ["cost_usd", "compute_cost_usd", "duration_ms", "created_at", "completed_at"] {
        assert!(run[number].is_number(), "{number}");
    }
    for time in ["created_at", "completed_at"] {
        assert!(run[time].as_i64().is_some_and(|seconds| (1_700_000_000..4_000_000_000).contains(&seconds)), "{time}");
    }
    let id_of_run = run["id"].as_str().expect("an id");
    assert_eq!(client.run(id, id_of_run).await, Value::Object(run.clone()));
}

#[tokio::test]
async fn runs_are_listed_newest_first_while_they_run_too() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    assert_eq!(client.get(&format!("/v2/box/{id}/runs")).await.json(), json!({"runs": []}));
    client.sh(&id, "exit 3").await;
    let second = client.begin(&id, "gate end").await;
    let runs = client.get(&format!("/v2/box/{id}/runs")).await.json();
    assert_eq!(runs["runs"][0]["id"], json!(second));
    assert_eq!(runs["runs"][0]["status"], "running");
    assert!(runs["runs"][0].get("completed_at").is_none());
    assert_eq!(runs["runs"][1]["status"], "failed");
    // Its duration grows.
    let path = format!("/v2/box/{id}/runs/{second}");
    client.until(&path, |run| run["duration_ms"].as_i64() > runs["runs"][0]["duration_ms"].as_i64()).await;
    yard.engine.open("end");
}

#[tokio::test]
async fn cancelling_ends_the_whole_run() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let waiting = tokio::spawn({
        let (client, id) = (client.clone(), id.clone());
        async move { client.sh(&id, "echo begun; gate begun").await }
    });
    yard.engine.came_to("begun", 1).await;
    let run = client.get(&format!("/v2/box/{id}/runs")).await.json()["runs"][0]["id"].as_str().expect("id").to_owned();
    let path = format!("/v2/box/{id}/runs/{run}/cancel");
    let cancelled = client.call(Method::POST, &path, None).await;
    assert_eq!((cancelled.status, cancelled.json()), (StatusCode::OK, json!({"message": "Run cancelled"})));
    let record = client.run(&id, &run).await;
    assert_eq!(record["status"], "cancelled");
    assert!(record["completed_at"].is_i64() && record.get("error_message").is_none(), "{record}");
    // 128 + TERM.
    assert_eq!(waiting.await.expect("no panic"), json!({"exit_code": 143, "output": "begun\n"}));
    assert_eq!(client.call(Method::POST, &path, None).await.status, StatusCode::OK, "again changes nothing");
    assert!(yard.engine.jobs(&box_id(&id)).is_empty());
}

#[tokio::test]
async fn a_run_that_ignores_term_is_killed() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let run = client.begin(&id, "stubborn; gate begun").await;
    yard.engine.came_to("begun", 1).await;
    let cancelled = client.post(&format!("/v2/box/{id}/runs/{run}/cancel"), json!({})).await;
    assert_eq!(cancelled.status, StatusCode::OK);
    assert_eq!(client.run(&id, &run).await["status"], "cancelled");
    assert!(yard.engine.jobs(&box_id(&id)).is_empty());
}

#[tokio::test]
async fn a_run_that_does_not_read_its_input_can_be_cancelled() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    // More than fits into the connection, and nobody takes it out.
    let code = format!("deaf gate begun\n{}", "x".repeat(10_000_000));
    let waiting = tokio::spawn({
        let (client, id) = (client.clone(), id.clone());
        async move { client.post(&format!("/v2/box/{id}/code"), json!({"code": code, "language": "python"})).await }
    });
    let path = format!("/v2/box/{id}/runs");
    yard.engine.came_to("begun", 1).await;
    let runs = client.get(&path).await.json();
    let run = runs["runs"][0]["id"].as_str().expect("an id").to_owned();
    assert_eq!(client.post(&format!("{path}/{run}/cancel"), json!({})).await.status, StatusCode::OK);
    assert_eq!(client.run(&id, &run).await["status"], "cancelled");
    assert_eq!(waiting.await.expect("no panic").status, StatusCode::OK);
}

#[tokio::test]
async fn runs_that_are_unknown_or_over_are_not_cancelled() {
    let yard = Yard::start().await;
    let client = yard.client();
    let (id, other) = (client.new_box().await, client.new_box().await);
    client.sh(&id, "true").await;
    let run = client.get(&format!("/v2/box/{id}/runs")).await.json()["runs"][0]["id"].as_str().expect("id").to_owned();
    for (path, status, text) in [
        (format!("/v2/box/{id}/runs/{run}/cancel"), StatusCode::CONFLICT, "ended already, it is completed"),
        (format!("/v2/box/{other}/runs/{run}/cancel"), StatusCode::NOT_FOUND, "Run not found"),
        // The clients make up an id for commands.
        (
            format!("/v2/box/{id}/runs/7b5cbd1e-5cd9-4e56-bd4b-e6b5a5a0c0de/cancel"),
            StatusCode::NOT_FOUND,
            "Run not found",
        ),
        (format!("/v2/box/{id}/runs/run_00000000000000000000000000/cancel"), StatusCode::NOT_FOUND, "Run not found"),
    ] {
        client.refused(Method::POST, &path, json!({}), status, text).await;
    }
    let path = format!("/v2/box/{other}/runs/{run}");
    client.refused(Method::GET, &path, json!({}), StatusCode::NOT_FOUND, "Run not found").await;
    assert_eq!(client.run(&id, &run).await["status"], "completed");
}

#[tokio::test]
async fn a_run_whose_end_the_database_refused_does_not_stay_running() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let database = rusqlite::Connection::open(yard.config().database()).expect("open the database");
    let refuse = "create trigger full before update on runs begin select raise(abort, 'full'); end";
    database.execute_batch(refuse).expect("make the database refuse");
    let answer = client.post(&format!("/v2/box/{id}/exec"), json!({"command": ["sh", "-c", "echo done"]})).await;
    assert_eq!((answer.status, &answer.json()["output"]), (StatusCode::OK, &json!("done\n")));
    let run = answer.header("x-box-run-id").expect("a run id").to_owned();
    assert_eq!(client.run(&id, &run).await["status"], "running");
    assert_eq!(client.status(&id).await, "idle", "the box is free all the same");
    database.execute_batch("drop trigger full").expect("let the database recover");
    client.until(&format!("/v2/box/{id}/runs/{run}"), |run| run["status"] == "completed").await;
}
