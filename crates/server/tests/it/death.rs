//! Boxes whose processes end though nobody has ended them.

use std::net::SocketAddr;

use boxyard_engine::ObservedState;
use boxyard_engine::fake::Call;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::{Client, Yard, box_id};

impl Client {
    async fn deaths_logged(&self, id: &str) -> usize {
        let logs = self.get(&format!("/v2/box/{id}/logs?limit=1000")).await.json();
        let lines = logs["logs"].as_array().expect("a list");
        lines.iter().filter(|line| line["message"].as_str().is_some_and(|text| text.starts_with("Box died"))).count()
    }
}

#[tokio::test]
async fn a_box_that_has_died_is_as_one_that_was_stopped() {
    let yard = Yard::with(|config| config.metrics = Some(SocketAddr::from(([127, 0, 0, 1], 0)))).await;
    let client = yard.client();
    let id = client.new_box().await;
    client.sh(&id, "mkdir /kept").await;
    let run = client.begin(&id, "gate g").await;
    yard.engine.came_to("g", 1).await;
    let waiting = tokio::spawn({
        let (client, path) = (client.clone(), format!("/v2/box/{id}/exec"));
        async move { client.post(&path, json!({"command": ["sh", "-c", "gate h"]})).await }
    });
    yard.engine.came_to("h", 1).await;
    yard.engine.run_out_of_memory(&box_id(&id), 1);
    yard.engine.kill(&box_id(&id));

    let ended = client.until(&format!("/v2/box/{id}/runs/{run}"), |run| run["status"] != "running").await;
    assert_eq!(ended["status"], "failed");
    assert!(ended["error_message"].as_str().is_some_and(|text| text.contains("ended unexpectedly")), "{ended}");
    let waiting = waiting.await.expect("no panic");
    assert_eq!(waiting.status, StatusCode::CONFLICT, "{waiting:?}");
    assert!(waiting.json()["error"].as_str().is_some_and(|text| text.contains("ended unexpectedly")), "{waiting:?}");
    client.until(&format!("/v2/box/{id}"), |data| data["status"] == "paused").await;
    client.until(&format!("/v2/box/{id}/logs?limit=1000"), |logs| logs.to_string().contains("Out of memory: 1")).await;
    assert_eq!((yard.engine.calls(Call::Stop, &box_id(&id)), client.deaths_logged(&id).await), (1, 1));
    assert_eq!(client.sh(&id, "ls /kept").await["exit_code"], 0, "usable, and the disk is kept");
    assert_eq!(client.status(&id).await, "idle");
    let figures = Client::new(yard.metrics_address(), None).get("/metrics").await.text();
    assert!(figures.contains("boxyard_boxes_deaths_total 1\n"), "{figures}");
}

#[tokio::test]
async fn work_that_comes_before_the_news_is_done_all_the_same() {
    let yard = Yard::start().await;
    let client = yard.client();
    for _ in 0..10 {
        let id = client.new_box().await;
        yard.engine.kill(&box_id(&id));
        assert_eq!(client.sh(&id, "echo x").await["output"], "x\n");
    }
    // Also when it has been let in and not begun.
    let id = client.new_box().await;
    yard.engine.hold(Call::Connect, Some("connect"));
    let (working, dying) = tokio::join!(client.sh(&id, "echo y"), async {
        yard.engine.came_to("connect", 1).await;
        yard.engine.kill(&box_id(&id));
        client.until(&format!("/v2/box/{id}"), |data| data["status"] == "paused").await;
        yard.engine.open("connect");
    });
    let ((), ()) = (dying, ());
    assert_eq!(working["output"], "y\n");
}

#[tokio::test]
async fn a_frozen_box_that_dies_is_stopped() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let run = client.begin(&id, "gate g").await;
    yard.engine.came_to("g", 1).await;
    let pause = client.post(&format!("/v2/box/{id}/pause"), json!({})).await;
    assert_eq!(pause.status, StatusCode::OK, "{pause:?}");
    yard.engine.kill(&box_id(&id));
    let ended = client.until(&format!("/v2/box/{id}/runs/{run}"), |run| run["status"] != "running").await;
    assert_eq!((&ended["status"], client.deaths_logged(&id).await), (&json!("failed"), 1));
    assert_eq!(client.status(&id).await, "paused");
    assert_eq!(client.sh(&id, "echo on").await["output"], "on\n");
}

#[tokio::test]
async fn a_box_that_is_kept_alive_is_started_again_by_itself() {
    let mut yard = Yard::start().await;
    let client = yard.client();
    let made = client.post("/v2/box", json!({"keep_alive": true, "init_command": "echo up"})).await.json();
    let id = made["id"].as_str().expect("an id").to_owned();
    let ups = |logs: &Value, count| logs.to_string().matches("init: up").count() == count;
    let logs = format!("/v2/box/{id}/logs?limit=1000");
    client.until(&logs, |logs| ups(logs, 1)).await;
    for times in 2..=3 {
        yard.engine.kill(&box_id(&id));
        client.until(&logs, |logs| ups(logs, times)).await;
        client.until(&format!("/v2/box/{id}"), |data| data["status"] == "idle").await;
    }
    assert_eq!(client.deaths_logged(&id).await, 2);
    client.until(&logs, |logs| logs.to_string().contains("started anew in 1 s")).await;

    // One that cannot be started is tried again, by the next server too.
    yard.engine.hold(Call::Resume, Some("never"));
    yard.engine.kill(&box_id(&id));
    yard.engine.came_to("never", 1).await;
    yard.down().await;
    assert_eq!(yard.engine.state(&box_id(&id)), Some(ObservedState::Stopped));
    yard.engine.hold(Call::Resume, None);
    yard.up().await;
    let client = yard.client();
    client.until(&logs, |logs| ups(logs, 4)).await;
}

#[tokio::test]
async fn a_box_that_has_died_and_cannot_be_cleared_away_is_tried_again() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    yard.engine.fail_next(Call::Stop, boxyard_engine::ErrorKind::Broken);
    yard.engine.kill(&box_id(&id));
    client.until(&format!("/v2/box/{id}/logs"), |logs| logs.to_string().contains("could not be stopped")).await;
    assert_eq!(client.status(&id).await, "paused");
    assert_eq!(client.sh(&id, "echo on").await["output"], "on\n");
    assert_eq!(client.deaths_logged(&id).await, 1);
}

#[tokio::test]
async fn a_box_that_vanishes_with_its_disk_has_failed() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    yard.engine.lose(&box_id(&id));
    client.until(&format!("/v2/box/{id}"), |data| data["status"] == "error").await;
    assert_eq!(client.delete(&format!("/v2/box/{id}")).await.status, StatusCode::OK);
}
