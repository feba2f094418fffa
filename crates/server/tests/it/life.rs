//! Pause, resume, idleness, expiry, init commands.

use std::time::Duration;

use boxyard_engine::fake::Call;
use boxyard_engine::{ErrorKind, ObservedState};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{Client, Yard, box_id};

impl Client {
    async fn pause(&self, id: &str) {
        let answer = self.call(Method::POST, &format!("/v2/box/{id}/pause"), None).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    }

    async fn resume(&self, id: &str) {
        let answer = self.call(Method::POST, &format!("/v2/box/{id}/resume"), None).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    }

    async fn make(&self, body: Value) -> String {
        let made = self.post("/v2/box", body).await;
        assert_eq!((made.status, &made.json()["status"]), (StatusCode::OK, &json!("idle")), "{made:?}");
        made.json()["id"].as_str().expect("an id").to_owned()
    }

    /// Waits until a line of the box's log contains this.
    async fn logged(&self, id: &str, text: &str) {
        self.until(&format!("/v2/box/{id}/logs?limit=1000"), |answer| count(answer, text) > 0).await;
    }

    async fn times_logged(&self, id: &str, text: &str) -> usize {
        count(&self.get(&format!("/v2/box/{id}/logs?limit=1000")).await.json(), text)
    }
}

fn count(logs: &Value, text: &str) -> usize {
    let lines = logs["logs"].as_array().expect("a list");
    lines.iter().filter(|line| line["message"].as_str().is_some_and(|message| message.contains(text))).count()
}

#[tokio::test]
async fn a_paused_box_stands_still_until_it_is_resumed() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    client.pause(&id).await;
    assert_eq!(client.status(&id).await, "paused");
    assert_eq!(yard.engine.state(&box_id(&id)), Some(ObservedState::Frozen));
    client.pause(&id).await;
    assert_eq!(yard.engine.calls(Call::Pause, &box_id(&id)), 1, "it is paused already");
    // Reading does not wake it.
    for path in ["", "/status", "/logs", "/runs", "/startup"] {
        assert_eq!(client.get(&format!("/v2/box/{id}{path}")).await.status, StatusCode::OK, "{path}");
    }
    assert_eq!(client.get("/v2/box?status=paused").await.json().as_array().map(Vec::len), Some(1));
    assert_eq!(client.status(&id).await, "paused");
    client.resume(&id).await;
    assert_eq!(client.status(&id).await, "idle");
    client.resume(&id).await;
    assert_eq!(yard.engine.calls(Call::Resume, &box_id(&id)), 1);
    assert_eq!(client.times_logged(&id, "Box paused").await, 1);
}

#[tokio::test]
async fn work_wakes_a_paused_box_once_for_all_who_come() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    client.pause(&id).await;
    let (a, b, c) = tokio::join!(client.sh(&id, "echo a"), client.sh(&id, "echo b"), client.sh(&id, "echo c"));
    assert_eq!((&a["output"], &b["output"], &c["output"]), (&json!("a\n"), &json!("b\n"), &json!("c\n")));
    assert_eq!(yard.engine.calls(Call::Resume, &box_id(&id)), 1);
    assert_eq!(client.status(&id).await, "idle");
}

#[tokio::test]
async fn a_run_is_frozen_with_its_box_and_goes_on_with_it_even_under_another_server() {
    let mut yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let run = client.begin(&id, "gate g").await;
    yard.engine.came_to("g", 1).await;
    client.pause(&id).await;
    assert_eq!(client.status(&id).await, "paused");
    assert_eq!(client.run(&id, &run).await["status"], "running");
    yard.restart().await;
    let client = yard.client();
    assert_eq!(client.status(&id).await, "paused");
    assert_eq!(client.run(&id, &run).await["status"], "running", "it is waited for");
    client.resume(&id).await;
    assert_eq!(client.status(&id).await, "running");
    yard.engine.open("g");
    let path = format!("/v2/box/{id}/runs/{run}");
    assert_eq!(client.until(&path, |run| run["status"] != "running").await["status"], "completed");
}

#[tokio::test]
async fn memory_is_kept_for_a_while_and_then_given_up() {
    let yard = Yard::with(|config| config.pause_keep_memory_for = Duration::ZERO).await;
    let client = yard.client();
    let id = client.new_box().await;
    client.sh(&id, "mkdir /kept").await;
    let run = client.begin(&id, "gate g").await;
    yard.engine.came_to("g", 1).await;
    client.pause(&id).await;
    let ended = client.until(&format!("/v2/box/{id}/runs/{run}"), |run| run["status"] != "running").await;
    assert_eq!(ended["status"], "failed");
    assert!(ended["error_message"].as_str().is_some_and(|text| text.contains("paused for longer")), "{ended}");
    client.logged(&id, "Box stopped").await;
    assert_eq!(client.status(&id).await, "paused");
    assert_eq!(yard.engine.state(&box_id(&id)), Some(ObservedState::Stopped));
    assert_eq!(client.sh(&id, "ls /kept").await["exit_code"], 0, "the disk is kept");
    client.logged(&id, "started anew").await;
}

#[tokio::test]
async fn what_the_engine_cannot_do_is_told_and_changes_nothing() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let (pause, resume) = (format!("/v2/box/{id}/pause"), format!("/v2/box/{id}/resume"));
    yard.engine.fail_next(Call::Pause, ErrorKind::Broken);
    client.refused(Method::POST, &pause, json!({}), StatusCode::INTERNAL_SERVER_ERROR, "could not be paused").await;
    assert_eq!(client.status(&id).await, "idle");
    client.pause(&id).await;
    yard.engine.fail_next(Call::Resume, ErrorKind::Exhausted);
    client.refused(Method::POST, &resume, json!({}), StatusCode::SERVICE_UNAVAILABLE, "could not be resumed").await;
    assert_eq!(client.status(&id).await, "paused");
    yard.engine.fail_next(Call::Resume, ErrorKind::Exhausted);
    let exec = format!("/v2/box/{id}/exec");
    let body = json!({"command": ["true"]});
    client.refused(Method::POST, &exec, body, StatusCode::SERVICE_UNAVAILABLE, "could not be resumed").await;
    assert_eq!(client.sh(&id, "echo again").await["output"], "again\n");
    let nobody = "/v2/box/current-wasp-05510/pause";
    client.refused(Method::POST, nobody, json!({}), StatusCode::NOT_FOUND, "Box not found").await;
}

#[tokio::test]
async fn a_box_in_which_nothing_works_is_paused_by_itself() {
    let yard = Yard::with(|config| config.idle_pause_after = Some(Duration::from_millis(50))).await;
    let client = yard.client();
    let alive = client.make(json!({"keep_alive": true})).await;
    let id = client.new_box().await;
    let run = client.begin(&id, "gate g").await;
    let other = client.new_box().await;
    client.until(&format!("/v2/box/{other}"), |data| data["status"] == "paused").await;
    yard.engine.came_to("g", 1).await;
    assert_eq!(client.status(&id).await, "running", "work holds it");
    let before = client.get(&format!("/v2/box/{other}")).await.json()["last_activity_at"].clone();
    assert_eq!(client.get(&format!("/v2/box/{other}")).await.json()["last_activity_at"], before);
    yard.engine.open("g");
    client.until(&format!("/v2/box/{id}/runs/{run}"), |run| run["status"] == "completed").await;
    client.until(&format!("/v2/box/{id}"), |data| data["status"] == "paused").await;
    assert_eq!(client.status(&alive).await, "idle");
    assert_eq!(yard.engine.calls(Call::Pause, &box_id(&alive)), 0);
}

#[tokio::test]
async fn a_box_that_is_kept_alive_refuses_to_be_paused() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.make(json!({"keep_alive": true})).await;
    let data = client.get(&format!("/v2/box/{id}")).await.json();
    assert_eq!((&data["keep_alive"], data.get("ephemeral"), data.get("expires_at")), (&json!(true), None, None));
    client.refused(Method::POST, &format!("/v2/box/{id}/pause"), json!({}), StatusCode::CONFLICT, "keep-alive").await;
    assert_eq!(client.status(&id).await, "idle");
}

#[tokio::test]
async fn an_ephemeral_box_is_deleted_by_itself() {
    let mut yard = Yard::start().await;
    let client = yard.client();
    let made = client.post("/v2/box", json!({"ephemeral": true, "ttl": 1, "name": "brief"})).await.json();
    assert_eq!((&made["status"], &made["ephemeral"]), (&json!("idle"), &json!(true)));
    let lives = made["expires_at"].as_i64().expect("seconds") - made["created_at"].as_i64().expect("seconds");
    assert!((1..=2).contains(&lives), "{made}");
    let id = made["id"].as_str().expect("an id").to_owned();
    client.pause(&id).await;
    client.until(&format!("/v2/box/{id}"), |data| data["status"] == "deleted").await;
    client.logged_or_gone(&id).await;

    // The next server finds one that has expired meanwhile.
    let made = client.post("/v2/box", json!({"ephemeral": true, "ttl": 1})).await.json();
    let (id, long) = (made["id"].as_str().expect("an id").to_owned(), client.make(json!({"ephemeral": true})).await);
    yard.down().await;
    yard.up().await;
    let client = yard.client();
    client.until(&format!("/v2/box/{id}"), |data| data["status"] == "deleted").await;
    let long = client.get(&format!("/v2/box/{long}")).await.json();
    let lives = long["expires_at"].as_i64().expect("seconds") - long["created_at"].as_i64().expect("seconds");
    assert!((259_200..=259_201).contains(&lives), "{long}");
}

impl Client {
    /// Everything about a deleted box but its record is gone.
    async fn logged_or_gone(&self, id: &str) {
        assert_eq!(self.get(&format!("/v2/box/{id}/logs")).await.status, StatusCode::NOT_FOUND);
    }
}

#[tokio::test]
async fn what_contradicts_itself_is_refused() {
    let yard = Yard::start().await;
    let client = yard.client();
    for (body, text) in [
        (json!({"ephemeral": true, "keep_alive": true}), "either ephemeral or keep_alive"),
        (json!({"ttl": 60}), "ttl is for ephemeral boxes"),
        (json!({"ephemeral": true, "ttl": 0}), "ttl must be 1 to 259200"),
        (json!({"ephemeral": true, "ttl": 259_201}), "ttl must be 1 to 259200"),
        (json!({"ephemeral": true, "ttl": -1}), "field 'ttl'"),
        (json!({"init_command": "x".repeat(65_537)}), "init_command can be at most 65536 bytes"),
    ] {
        client.refused(Method::POST, "/v2/box", body, StatusCode::BAD_REQUEST, text).await;
    }
    assert!(yard.engine.ids().is_empty());
}

#[tokio::test]
async fn an_init_command_is_run_once_for_each_start() {
    let mut yard = Yard::with(|config| config.pause_keep_memory_for = Duration::ZERO).await;
    let client = yard.client();
    let id = client.make(json!({"init_command": "echo hello; stderr careful; exit 3"})).await;
    client.logged(&id, "Init command ended with exit code 3").await;
    assert_eq!(client.times_logged(&id, "init: hello").await, 1);
    assert_eq!(client.times_logged(&id, "init: careful").await, 1);
    yard.restart().await;
    let client = yard.client();
    assert_eq!(client.sh(&id, "echo on").await["output"], "on\n");
    assert_eq!(client.times_logged(&id, "init: hello").await, 1, "a server's restart is none of the box");
    client.pause(&id).await;
    client.logged(&id, "Box stopped").await;
    client.resume(&id).await;
    let twice = |answer: &Value| count(answer, "Init command ended") == 2;
    client.until(&format!("/v2/box/{id}/logs?limit=1000"), twice).await;
    assert_eq!(client.times_logged(&id, "init: hello").await, 2);
}

#[tokio::test]
async fn an_init_command_can_be_changed_and_waits_for_the_box_to_wake() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let path = format!("/v2/box/{id}/startup");
    assert_eq!(client.get(&path).await.json(), json!({"init_command": ""}));
    client.pause(&id).await;
    let set = client.call(Method::PUT, &path, Some(json!({"init_command": "echo woken"}))).await;
    assert_eq!(set.status, StatusCode::OK, "{set:?}");
    assert_eq!(client.get(&path).await.json(), json!({"init_command": "echo woken"}));
    assert_eq!(client.status(&id).await, "paused", "it is not woken");
    client.resume(&id).await;
    client.logged(&id, "init: woken").await;
    client.logged(&id, "Init command ended with exit code 0").await;
    client.pause(&id).await;
    client.resume(&id).await;
    assert_eq!(client.delete(&path).await.status, StatusCode::OK);
    assert_eq!(client.get(&path).await.json(), json!({"init_command": ""}));
    assert_eq!(client.times_logged(&id, "init: woken").await, 1, "a box that goes on is not started");
    client.refused(Method::PUT, &path, json!({}), StatusCode::BAD_REQUEST, "init_command is required").await;
}

#[tokio::test]
async fn an_init_command_that_runs_on_neither_holds_up_its_box_nor_fills_its_log() {
    let mut yard = Yard::with(|config| config.idle_pause_after = Some(Duration::from_millis(50))).await;
    let client = yard.client();
    let id = client.make(json!({"init_command": "yes 200000; gate g; echo never", "keep_alive": false})).await;
    client.until(&format!("/v2/box/{id}"), |data| data["status"] == "paused").await;
    client.resume(&id).await;
    client.logged(&id, "is not kept").await;
    yard.engine.came_to("g", 1).await;
    yard.restart().await;
    yard.engine.open("g");
    let client = yard.client();
    client.resume(&id).await;
    client.logged(&id, "Init command ended with exit code 0").await;
    assert_eq!(client.times_logged(&id, "Init command started").await, 1);
    let lines = client.times_logged(&id, "init: y").await;
    assert!(lines <= 500, "{lines} lines");
}

#[tokio::test]
async fn a_host_that_was_restarted_starts_what_is_kept_alive_and_leaves_the_rest_paused() {
    let mut yard = Yard::start().await;
    let client = yard.client();
    let alive = client.make(json!({"keep_alive": true, "init_command": "echo up"})).await;
    client.logged(&alive, "Init command ended").await;
    let (plain, frozen, thawed) = (client.new_box().await, client.new_box().await, client.new_box().await);
    client.sh(&plain, "mkdir /kept").await;
    let run = client.begin(&plain, "gate g").await;
    client.pause(&thawed).await;
    yard.down().await;
    yard.engine.halt(&box_id(&alive));
    yard.engine.halt(&box_id(&plain));
    yard.engine.set_frozen(&box_id(&frozen), true);
    yard.engine.set_frozen(&box_id(&thawed), false);
    yard.up().await;
    let client = yard.client();
    client.until(&format!("/v2/box/{alive}"), |data| data["status"] == "idle").await;
    let twice = |answer: &Value| count(answer, "init: up") == 2;
    client.until(&format!("/v2/box/{alive}/logs?limit=1000"), twice).await;
    assert_eq!(client.status(&plain).await, "paused");
    assert_eq!(client.run(&plain, &run).await["status"], "failed");
    assert_eq!(client.sh(&plain, "ls /kept").await["exit_code"], 0);
    client.until(&format!("/v2/box/{frozen}"), |data| data["status"] == "idle").await;
    assert_eq!(client.sh(&frozen, "echo on").await["output"], "on\n");
    client.logged(&thawed, "Box paused").await;
    assert_eq!(client.status(&thawed).await, "paused");
    let again = |engine: &boxyard_engine::fake::FakeEngine| engine.calls(Call::Pause, &box_id(&thawed)) == 2;
    while !again(&yard.engine) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn running_out_of_memory_is_told_in_the_log() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    client.sh(&id, "exit 137").await;
    yard.engine.run_out_of_memory(&box_id(&id), 2);
    client.sh(&id, "exit 1").await;
    assert_eq!(client.times_logged(&id, "Out of memory").await, 0, "nothing was killed");
    client.sh(&id, "exit 137").await;
    client.logged(&id, "Out of memory: 2 of the box's processes").await;
    client.sh(&id, "exit 137").await;
    client.sh(&id, "true").await;
    assert_eq!(client.times_logged(&id, "Out of memory").await, 1);
}
