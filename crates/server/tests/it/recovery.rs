//! What a new server makes of what the last one left.

use boxyard_engine::fake::Call;
use boxyard_engine::{BoxSpec, Limits};
use boxyard_proto::api::runs::{RunStatus, RunType};
use boxyard_proto::{BoxId, RunId};
use boxyard_server::store::RunRow;
use boxyard_server::{App, BuildError};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{Yard, box_id, parts};

#[tokio::test]
async fn boxes_and_their_records_outlive_the_server() {
    let mut yard = Yard::start().await;
    let client = yard.client();
    let body = json!({"name": "n", "labels": ["l"], "size": "large", "runtime": "python"});
    let made = client.post("/v2/box", body).await.json();
    let id = made["id"].as_str().expect("an id");
    client.sh(id, "echo before").await;
    let runs = client.get("/v2/box/n/runs").await.json();
    let gone = client.new_box().await;
    client.delete(&format!("/v2/box/{gone}")).await;
    let before = client.get("/v2/box/n").await.json();
    yard.restart().await;
    let client = yard.client();
    assert_eq!(client.get("/v2/box").await.json(), json!([before]));
    assert_eq!(client.get("/v2/box/n/runs").await.json(), runs);
    assert_eq!(client.status(&gone).await, "deleted");
    assert_eq!(client.sh("n", "echo after").await["output"], "after\n");
    assert_eq!(yard.engine.calls(Call::Create, &box_id(id)), 1, "a box that is there is not made again");
}

#[tokio::test]
async fn commands_go_on_over_a_restart_and_their_end_is_recorded() {
    let mut yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let (good, bad, early) = (
        client.begin(&id, "gate good; echo fine").await,
        client.begin(&id, "gate bad; exit 9").await,
        client.begin(&id, "gate early; exit 5").await,
    );
    for gate in ["good", "bad", "early"] {
        yard.engine.came_to(gate, 1).await;
    }
    yard.down().await;
    // One ends while no server is there.
    yard.engine.open("early");
    while yard.engine.jobs(&box_id(&id)).len() > 2 {
        tokio::task::yield_now().await;
    }
    yard.up().await;
    let client = yard.client();
    assert_eq!(client.status(&id).await, "running");
    assert_eq!(client.run(&id, &good).await["status"], "running");
    yard.engine.open("good");
    yard.engine.open("bad");
    for (run, status, code) in [(good, "completed", 0), (bad, "failed", 9), (early, "failed", 5)] {
        let ended = client.until(&format!("/v2/box/{id}/runs/{run}"), |run| run["status"] != "running").await;
        assert_eq!((&ended["status"], &ended["cpu_ns"]), (&json!(status), &json!(1_000_000)));
        let log = client.get(&format!("/v2/box/{id}/logs")).await.text();
        assert!(log.contains(&format!("{run} {status} with exit code {code}")), "{log}");
    }
    client.until(&format!("/v2/box/{id}"), |data| data["status"] == "idle").await;
}

#[tokio::test]
async fn a_command_that_was_taken_over_can_be_cancelled() {
    let mut yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let run = client.begin(&id, "gate g").await;
    yard.engine.came_to("g", 1).await;
    yard.restart().await;
    let client = yard.client();
    let cancelled = client.post(&format!("/v2/box/{id}/runs/{run}/cancel"), json!({})).await;
    assert_eq!(cancelled.status, StatusCode::OK, "{cancelled:?}");
    assert_eq!(client.run(&id, &run).await["status"], "cancelled");
    assert!(yard.engine.jobs(&box_id(&id)).is_empty());
}

#[tokio::test]
async fn a_timeout_of_code_outlives_the_server() {
    let mut yard = Yard::start().await;
    let id = yard.client().new_box().await;
    let call = tokio::spawn({
        let (client, path) = (yard.client(), format!("/v2/box/{id}/code"));
        async move { client.post(&path, json!({"code": "gate g", "language": "js", "timeout": 1500})).await }
    });
    yard.engine.came_to("g", 1).await;
    yard.restart().await;
    let _answered = call.await;
    let client = yard.client();
    let run = client.get(&format!("/v2/box/{id}/runs")).await.json()["runs"][0]["id"].clone();
    let path = format!("/v2/box/{id}/runs/{}", run.as_str().expect("an id"));
    let ended = client.until(&path, |run| run["status"] != "running").await;
    assert_eq!((&ended["status"], &ended["error_message"]), (&json!("failed"), &json!("code timed out after 1500 ms")));
    assert!(yard.engine.jobs(&box_id(&id)).is_empty());
}

#[tokio::test]
async fn clients_of_a_leaving_server_are_told_and_the_command_goes_on() {
    let mut yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let call = |door: &str| {
        let body = json!({"command": ["sh", "-c", "echo begun; gate g"]});
        let (client, path) = (client.clone(), format!("/v2/box/{id}/{door}"));
        tokio::spawn(async move { client.post(&path, body).await })
    };
    let (exec, stream) = (call("exec"), call("exec-stream"));
    yard.engine.came_to("g", 2).await;
    yard.down().await;
    let exec = exec.await.expect("no panic");
    assert_eq!(exec.status, StatusCode::SERVICE_UNAVAILABLE, "{exec:?}");
    let found = parts(&[stream.await.expect("no panic").body]);
    assert_eq!((found.event, found.output.as_slice()), ("error", &b"begun\n"[..]));
    assert_eq!(found.data, json!({"error": "the server is shutting down"}));
    assert_eq!(yard.engine.jobs(&box_id(&id)).len(), 2);
    yard.up().await;
    assert_eq!(yard.client().get(&format!("/v2/box/{id}/runs")).await.json()["runs"][0]["status"], "running");
}

#[tokio::test]
async fn boxes_that_are_gone_fail_and_boxes_without_a_record_are_removed() {
    let mut yard = Yard::start().await;
    let client = yard.client();
    let (kept, lost) = (client.new_box().await, client.new_box().await);
    let run = client.begin(&lost, "gate g").await;
    yard.engine.came_to("g", 1).await;
    yard.down().await;
    yard.engine.lose(&box_id(&lost));
    let stray = BoxId::from_entropy(7);
    let limits = Limits { cpu_millis: 1, memory_bytes: 1, pids: 1, disk_bytes: 1 };
    yard.engine.plant(BoxSpec { id: stray.clone(), image: "node".into(), limits, env: Default::default(), from: None });
    yard.up().await;
    assert_eq!(yard.engine.ids(), [box_id(&kept)]);
    let client = yard.client();
    assert_eq!(client.status(&kept).await, "idle");
    assert_eq!(client.status(&lost).await, "error");
    let record = client.run(&lost, &run).await;
    assert_eq!(record["status"], "failed");
    assert!(record["error_message"].as_str().is_some_and(|text| text.contains("lost")), "{record}");
    let exec = format!("/v2/box/{lost}/exec");
    client.refused(Method::POST, &exec, json!({"command": ["true"]}), StatusCode::CONFLICT, "did not outlive").await;
    assert_eq!(client.delete(&format!("/v2/box/{lost}")).await.status, StatusCode::OK);
}

#[tokio::test]
async fn deeds_that_were_begun_are_finished() {
    let mut yard = Yard::start().await;
    let client = yard.client();
    let deleted = client.new_box().await;
    yard.engine.hold(Call::Remove, Some("removal"));
    client.delete(&format!("/v2/box/{deleted}")).await;
    yard.engine.hold(Call::Create, Some("creation"));
    let creating = tokio::spawn({
        let client = client.clone();
        async move { client.request(Method::POST, "/v2/box").json(&json!({"name": "n"})).send().await.is_ok() }
    });
    yard.engine.came_to("creation", 1).await;
    yard.engine.came_to("removal", 1).await;
    yard.down().await;
    let _ = creating.await;
    assert_eq!(yard.engine.ids(), [box_id(&deleted)], "neither was done");
    yard.up().await;
    let client = yard.client();
    assert_eq!(client.status("n").await, "creating");
    assert_eq!(client.status(&deleted).await, "deleted");
    assert_eq!(client.get("/v2/box").await.json().as_array().map(Vec::len), Some(1));
    yard.engine.open("creation");
    yard.engine.open("removal");
    client.until("/v2/box/n", |data| data["status"] == "idle").await;
    while yard.engine.ids().len() > 1 {
        tokio::task::yield_now().await;
    }
    assert_eq!(client.sh("n", "echo made").await["output"], "made\n");
}

#[tokio::test]
async fn a_run_that_was_recorded_and_never_started_is_lost() {
    let mut yard = Yard::start().await;
    let client = yard.client();
    let made = client.post("/v2/box", json!({})).await.json();
    let id = made["id"].as_str().expect("an id");
    yard.down().await;
    let run = RunId::from_entropy(1);
    let row = RunRow {
        id: run.clone(),
        box_id: box_id(id),
        account: made["customer_id"].as_str().expect("an account").parse().expect("an account"),
        kind: RunType::Shell,
        status: RunStatus::Running,
        prompt: "true".into(),
        exit_code: None,
        cpu_ns: 0,
        memory_peak: 0,
        created_at: 1_700_000_000_000,
        completed_at: None,
        error: None,
        timeout_ms: None,
    };
    let store = yard.store().await;
    store.insert_run(row).await.expect("insert");
    store.close().await;
    yard.up().await;
    let client = yard.client();
    let ended = client.until(&format!("/v2/box/{id}/runs/{run}"), |run| run["status"] != "running").await;
    assert_eq!(
        (&ended["status"], &ended["error_message"]),
        (&json!("failed"), &json!("lost when the server was restarted"))
    );
    client.until(&format!("/v2/box/{id}"), |data| data["status"] == "idle").await;
}

#[tokio::test]
async fn one_data_directory_has_one_server() {
    let yard = Yard::start().await;
    let second = App::build(yard.config(), yard.engine.clone()).await;
    assert!(matches!(second, Err(BuildError::InUse(path)) if path == yard.folder()));
    assert_eq!(yard.client().get("/v2/box").await.status, StatusCode::OK);
}

#[tokio::test]
async fn streams_work_again_after_a_restart() {
    let mut yard = Yard::start().await;
    let id = yard.client().new_box().await;
    yard.restart().await;
    let body = json!({"command": ["printf", "x"]});
    let (_, chunks) = yard.client().stream(&format!("/v2/box/{id}/exec-stream"), body).await;
    assert_eq!(parts(&chunks).output, b"x\n");
}

#[tokio::test]
async fn an_init_command_was_never_run_when_the_server_died_between_the_start_and_its_note() {
    let mut yard = Yard::start().await;
    let client = yard.client();
    let made = client.post("/v2/box", json!({"init_command": "echo hello"})).await.json();
    let id = made["id"].as_str().expect("an id").to_owned();
    let ran = |times| move |logs: &Value| logs.to_string().matches("init: hello").count() == times;
    client.until(&format!("/v2/box/{id}/logs"), ran(1)).await;
    yard.down().await;
    // The box was stopped, and this is what a server leaves that was killed when it had just been started.
    let store = yard.store().await;
    store.set_phase(box_id(&id), "resuming from stopped".into(), None, 1).await.expect("note the phase");
    store.close().await;
    yard.up().await;
    let client = yard.client();
    client.until(&format!("/v2/box/{id}"), |data| data["status"] == "idle").await;
    client.until(&format!("/v2/box/{id}/logs"), ran(2)).await;
}
