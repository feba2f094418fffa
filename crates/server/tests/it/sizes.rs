//! Sizes of the operator's own, and what becomes of boxes whose size there is not any more.

use boxyard_engine::fake::Call;
use boxyard_engine::{Engine, Limits};
use boxyard_proto::BoxId;
use boxyard_proto::names::Size;
use boxyard_server::config::Config;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{Client, Yard};

const TINY: Limits = Limits { cpu_millis: 250, memory_bytes: 256 << 20, pids: 64, disk_bytes: 1 << 30 };

fn tiny(config: &mut Config) {
    config.sizes.others.insert(Size::parse("tiny").expect("a name"), TINY);
}

fn id(data: &Value) -> BoxId {
    data["id"].as_str().and_then(|id| id.parse().ok()).expect("an id")
}

async fn limits(client: &Client, id: &BoxId) -> Value {
    client.get(&format!("/v2/box/{id}/usage")).await.json()["limits"].clone()
}

#[tokio::test]
async fn a_box_of_a_size_of_ones_own_shows_it_and_gets_its_limits() {
    let yard = Yard::with(tiny).await;
    let client = yard.client();
    let made = client.post("/v2/box", json!({"size": "tiny"})).await.json();
    assert_eq!(made["size"], "tiny");
    assert_eq!(client.get("/v2/box").await.json()[0]["size"], "tiny");
    let expected = json!({"cpu_millis": 250, "memory_bytes": 256 << 20, "pids": 64, "disk_bytes": 1 << 30});
    assert_eq!(limits(&client, &id(&made)).await, expected);

    let copy = client.post(&format!("/v2/box/{}/fork", id(&made)), json!({})).await.json();
    assert_eq!((&copy["size"], limits(&client, &id(&copy)).await), (&json!("tiny"), expected));
    let copy = client.post(&format!("/v2/box/{}/fork", id(&made)), json!({"size": "medium"})).await.json();
    assert_eq!(copy["size"], "medium");
}

#[tokio::test]
async fn a_size_that_is_not_there_is_refused_with_those_that_are() {
    let yard = Yard::with(tiny).await;
    let client = yard.client();
    let made = client.post("/v2/box", json!({"name": "source"})).await.json();
    let snapshot = client.post("/v2/box/source/snapshots", json!({})).await.json()["id"].clone();
    for size in ["huge", "", "Tiny", "../tiny", "a\u{0}", &"x".repeat(10_000)] {
        for (path, body) in [
            ("/v2/box", json!({"size": size})),
            ("/v2/box/from-snapshot", json!({"snapshot_id": snapshot, "size": size})),
            ("/v2/box/source/fork", json!({"size": size})),
        ] {
            let text = "size must be one of small, medium, large, tiny";
            client.refused(Method::POST, path, body, StatusCode::BAD_REQUEST, text).await;
        }
    }
    assert_eq!(client.get("/v2/box").await.json().as_array().map(Vec::len), Some(1));
    assert_eq!(yard.engine.calls(Call::Save, &id(&made)), 1, "nothing was saved for a fork that is refused");
}

#[tokio::test]
async fn boxes_outlive_their_size_with_the_limits_they_were_made_with() {
    let mut yard = Yard::with(tiny).await;
    let client = yard.client();
    let awake = client.post("/v2/box", json!({"size": "tiny", "name": "awake"})).await.json();
    let asleep = client.post("/v2/box", json!({"size": "tiny", "name": "asleep"})).await.json();
    let snapshot = client.post("/v2/box/awake/snapshots", json!({})).await.json()["id"].clone();
    yard.down().await;
    yard.engine.stop(&id(&asleep)).await.expect("stop the box");
    yard.change(|config| config.sizes.others.clear());
    yard.up().await;

    let client = yard.client();
    for made in [&awake, &asleep] {
        assert_eq!(client.get(&format!("/v2/box/{}", id(made))).await.json()["size"], "tiny");
        assert_eq!(client.sh(&id(made).to_string(), "echo x").await["output"], "x\n");
        assert_eq!(limits(&client, &id(made)).await["pids"], 64);
    }
    assert_eq!(client.get("/v2/box").await.json().as_array().map(Vec::len), Some(2));
    let text = "size must be one of small, medium, large";
    let from = json!({"snapshot_id": snapshot});
    client.refused(Method::POST, "/v2/box/from-snapshot", from, StatusCode::BAD_REQUEST, text).await;
    client.refused(Method::POST, "/v2/box/awake/fork", json!({}), StatusCode::BAD_REQUEST, text).await;
    let from = json!({"snapshot_id": snapshot, "size": "small"});
    assert_eq!(client.post("/v2/box/from-snapshot", from).await.json()["size"], "small");
    assert_eq!(client.post("/v2/box/awake/fork", json!({"size": "large"})).await.json()["size"], "large");
    for made in [&awake, &asleep] {
        assert_eq!(client.delete(&format!("/v2/box/{}", id(made))).await.status, StatusCode::OK);
    }
    let deleted = client.get("/v2/box?status=deleted").await.json();
    assert!(deleted.as_array().is_some_and(|boxes| boxes.iter().filter(|data| data["size"] == "tiny").count() == 2));
}

#[tokio::test]
async fn a_box_that_is_there_keeps_its_limits_when_its_size_changes() {
    let mut yard = Yard::with(tiny).await;
    let made = yard.client().post("/v2/box", json!({"size": "tiny"})).await.json();
    yard.change(|config| {
        config.sizes.others.values_mut().for_each(|limits| limits.pids = 65);
    });
    yard.restart().await;
    let client = yard.client();
    assert_eq!(limits(&client, &id(&made)).await["pids"], 64);
    let next = client.post("/v2/box", json!({"size": "tiny"})).await.json();
    assert_eq!(limits(&client, &id(&next)).await["pids"], 65);
}
