//! Snapshots, and servers that end in the middle of them.

use boxyard_engine::Engine;
use boxyard_engine::fake::Call;
use boxyard_proto::SnapshotId;
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::support::{Client, Yard, box_id};

/// Sends a request whose answer may never come.
fn ask(client: &Client, path: &str) -> tokio::task::JoinHandle<()> {
    let request = client.request(Method::POST, path).json(&json!({"name": "asked"}));
    tokio::spawn(async move {
        let _ = request.send().await;
    })
}

#[tokio::test]
async fn a_save_that_was_broken_off_is_made_again_and_what_waited_for_its_turn_fails() {
    let mut yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let path = format!("/v2/box/{id}/snapshots");
    let run = client.begin(&id, "gate work").await;
    yard.engine.came_to("work", 1).await;
    yard.engine.hold(Call::Save, Some("save"));
    ask(&client, &path);
    yard.engine.came_to("save", 1).await;
    ask(&client, &path);
    client.until(&path, |list| list["snapshots"][1].is_object()).await;
    yard.down().await;
    assert!(yard.saved().await.is_empty());
    yard.up().await;
    let client = yard.client();
    yard.engine.came_to("save", 2).await;
    let list = client.get(&path).await.json();
    let statuses = [&list["snapshots"][0]["status"], &list["snapshots"][1]["status"]];
    assert_eq!(statuses, [&json!("error"), &json!("creating")], "the newest first");
    yard.engine.open("save");
    let list = client.until(&path, |list| list["snapshots"][1]["status"] == "ready").await;
    let made = list["snapshots"][1]["id"].as_str().expect("an id").to_owned();
    assert_eq!(yard.saved().await, std::slice::from_ref(&made));
    client.restored(&made).await;
    // The command that ran through it all is known still.
    yard.engine.open("work");
    client.until(&format!("/v2/box/{id}/runs/{run}"), |run| run["status"] == "completed").await;
    client.until(&format!("/v2/box/{id}"), |data| data["status"] == "idle").await;
    assert_eq!(client.call(Method::DELETE, "/v2/box/snapshots", Some(json!({}))).await.json(), json!({"deleted": 2}));
    yard.until_saved(0).await;
}

#[tokio::test]
async fn a_box_that_is_lost_while_no_server_is_there_takes_its_save_with_it() {
    let mut yard = Yard::start().await;
    let client = yard.client();
    let (lost, stopped) = (client.new_box().await, client.new_box().await);
    yard.engine.hold(Call::Save, Some("save"));
    for id in [&lost, &stopped] {
        ask(&client, &format!("/v2/box/{id}/snapshots"));
    }
    yard.engine.came_to("save", 2).await;
    yard.down().await;
    yard.engine.lose(&box_id(&lost));
    yard.engine.stop(&box_id(&stopped)).await.expect("stop");
    yard.up().await;
    let client = yard.client();
    for id in [&lost, &stopped] {
        let list = client.get(&format!("/v2/box/{id}/snapshots")).await.json();
        assert_eq!(list["snapshots"][0]["status"], "error", "{id}");
    }
    assert_eq!(client.status(&lost).await, "error");
    assert_eq!(yard.engine.calls(Call::Save, &box_id(&stopped)), 1, "it is not saved as if it ran");
}

#[tokio::test]
async fn what_was_deleted_during_a_save_stays_deleted() {
    let mut yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    yard.engine.hold(Call::Save, Some("save"));
    ask(&client, &format!("/v2/box/{id}/snapshots"));
    yard.engine.came_to("save", 1).await;
    assert_eq!(client.delete("/v2/box/snapshots?all=true").await.json(), json!({"deleted": 1}));
    yard.restart().await;
    let client = yard.client();
    yard.engine.open("save");
    assert_eq!(client.sh(&id, "echo on").await["output"], "on\n");
    assert_eq!(client.get("/v2/box/snapshots").await.json(), json!({"snapshots": []}));
    yard.until_saved(0).await;
    client.new_snapshot(&id).await;
}

#[tokio::test]
async fn snapshots_without_a_record_go_and_records_without_a_snapshot_say_so() {
    let mut yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let (kept, lost) = (client.new_snapshot(&id).await, client.new_snapshot(&id).await);
    yard.down().await;
    let stray = SnapshotId::from_entropy(7);
    yard.engine.save(&box_id(&id), &stray).await.expect("save");
    yard.engine.drop_snapshot(&lost.parse().expect("an id")).await.expect("drop");
    yard.up().await;
    let client = yard.client();
    yard.until_saved(1).await;
    let list = client.get("/v2/box/snapshots").await.json();
    assert_eq!((&list["snapshots"][0]["id"], &list["snapshots"][0]["status"]), (&json!(lost), &json!("error")));
    assert_eq!((&list["snapshots"][1]["id"], &list["snapshots"][1]["status"]), (&json!(kept), &json!("ready")));
    let body = json!({"snapshot_id": lost});
    client.refused(Method::POST, "/v2/box/from-snapshot", body, StatusCode::CONFLICT, "error, not ready").await;
    client.restored(&kept).await;
}

#[tokio::test]
async fn a_restore_that_was_begun_is_finished_although_its_snapshot_was_deleted() {
    let mut yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    client.sh(&id, "mkdir /workspace/x").await;
    let snapshot = client.new_snapshot(&id).await;
    yard.engine.hold(Call::Create, Some("creation"));
    let request = client.request(Method::POST, "/v2/box/from-snapshot");
    let request = request.json(&json!({"snapshot_id": snapshot, "name": "copy"}));
    tokio::spawn(async move { request.send().await.is_ok() });
    yard.engine.came_to("creation", 1).await;
    client.delete("/v2/box/snapshots?all=true").await;
    yard.restart().await;
    let client = yard.client();
    yard.engine.came_to("creation", 2).await;
    assert_eq!(yard.saved().await, [snapshot], "it is needed still");
    yard.engine.open("creation");
    client.until("/v2/box/copy", |data| data["status"] == "idle").await;
    assert!(client.has("copy", "/workspace/x").await);
    yard.until_saved(0).await;
}

#[tokio::test]
async fn a_fork_that_was_broken_off_leaves_nothing() {
    let mut yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    yard.engine.hold(Call::Save, Some("save"));
    ask(&client, &format!("/v2/box/{id}/fork"));
    yard.engine.came_to("save", 1).await;
    yard.restart().await;
    yard.engine.open("save");
    let client = yard.client();
    assert_eq!(client.sh(&id, "echo on").await["output"], "on\n");
    yard.until_saved(0).await;
    assert_eq!(client.get("/v2/box").await.json().as_array().map(Vec::len), Some(1));
    // Its place is free again.
    assert_eq!(client.post(&format!("/v2/box/{id}/fork"), json!({})).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_fork_whose_box_was_begun_is_finished() {
    let mut yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    client.sh(&id, "mkdir /workspace/x").await;
    yard.engine.hold(Call::Create, Some("creation"));
    ask(&client, &format!("/v2/box/{id}/fork"));
    yard.engine.came_to("creation", 1).await;
    yard.restart().await;
    let client = yard.client();
    yard.engine.came_to("creation", 2).await;
    assert_eq!(yard.saved().await.len(), 1);
    yard.engine.open("creation");
    client.until("/v2/box/asked", |data| data["status"] == "idle").await;
    assert!(client.has("asked", "/workspace/x").await);
    yard.until_saved(0).await;
}
