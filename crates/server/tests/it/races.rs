//! Things that happen to a box at the same time.

use boxyard_engine::fake::Call;
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::support::{Yard, box_id, parts};

#[tokio::test]
async fn a_box_that_is_being_made_can_be_deleted() {
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
        async move { client.post("/v2/box/n/exec", json!({"command": ["true"]})).await }
    });
    let id = client.until("/v2/box/n", |data| data["id"].is_string()).await["id"].as_str().expect("id").to_owned();
    assert_eq!(client.delete("/v2/box/n").await.status, StatusCode::OK);
    assert_eq!(early.await.expect("no panic").status, StatusCode::NOT_FOUND);
    assert_eq!(creating.await.expect("no panic").json()["status"], "deleted");
    // The creation was given up, and the removal came after it.
    while yard.engine.calls(Call::Remove, &box_id(&id)) == 0 {
        tokio::task::yield_now().await;
    }
    yard.engine.open("image");
    assert_eq!(client.status(&id).await, "deleted");
    assert!(yard.engine.ids().is_empty());
}

#[tokio::test]
async fn work_under_way_ends_with_its_box_and_says_so() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let call = |door: &str, gate: &str| {
        let body = json!({"command": ["gate", gate]});
        let (client, path) = (client.clone(), format!("/v2/box/{id}/{door}"));
        tokio::spawn(async move { client.post(&path, body).await })
    };
    let (exec, stream) = (call("exec", "a"), call("exec-stream", "b"));
    yard.engine.came_to("a", 1).await;
    yard.engine.came_to("b", 1).await;
    yard.engine.hold(Call::Remove, Some("removal"));
    assert_eq!(client.delete(&format!("/v2/box/{id}")).await.status, StatusCode::OK);
    let exec = exec.await.expect("no panic");
    assert_eq!(exec.status, StatusCode::NOT_FOUND);
    assert!(exec.text().contains("deleted or lost while the command ran"), "{exec:?}");
    let found = parts(&[stream.await.expect("no panic").body]);
    assert_eq!(found.event, "error");
    yard.engine.open("removal");
    while !yard.engine.ids().is_empty() {
        tokio::task::yield_now().await;
    }
    let store = yard.store().await;
    assert!(store.running_runs().await.expect("read").is_empty(), "both runs have an end");
}

#[tokio::test]
async fn deleting_and_executing_at_once_is_one_or_the_other() {
    let yard = Yard::start().await;
    let client = yard.client();
    for _ in 0..20 {
        let id = client.new_box().await;
        let executions = futures_util::future::join_all((0..8).map(|_| {
            let (client, path) = (&client, format!("/v2/box/{id}/exec"));
            async move { client.post(&path, json!({"command": ["echo", "x"]})).await }
        }));
        let path = format!("/v2/box/{id}");
        let (answers, deleted) = tokio::join!(executions, client.delete(&path));
        assert_eq!(deleted.status, StatusCode::OK);
        for answer in answers {
            match answer.status {
                StatusCode::OK => assert_eq!(answer.json()["output"], "x\n"),
                status => assert_eq!(status, StatusCode::NOT_FOUND, "{answer:?}"),
            }
        }
        assert_eq!(client.status(&id).await, "deleted");
    }
    let store = yard.store().await;
    assert!(store.running_runs().await.expect("read").is_empty());
    assert_eq!(client.get("/v2/box").await.json(), json!([]));
}

#[tokio::test]
async fn of_two_deletions_both_are_content_or_one_comes_late() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let path = format!("/v2/box/{id}");
    let deletions = futures_util::future::join_all((0..5).map(|_| client.delete(&path))).await;
    assert!(deletions.iter().any(|answer| answer.status == StatusCode::OK));
    assert!(deletions.iter().all(|answer| [StatusCode::OK, StatusCode::NOT_FOUND].contains(&answer.status)));
}

#[tokio::test]
async fn of_many_boxes_with_one_name_one_is_made() {
    let yard = Yard::start().await;
    let client = yard.client();
    let made = futures_util::future::join_all((0..10).map(|_| client.post("/v2/box", json!({"name": "n"})))).await;
    assert_eq!(made.iter().filter(|answer| answer.status == StatusCode::OK).count(), 1);
    assert_eq!(made.iter().filter(|answer| answer.status == StatusCode::CONFLICT).count(), 9);
    assert_eq!(client.get("/v2/box").await.json().as_array().map(Vec::len), Some(1));
    // A refused box gives its place back.
    client.refused(Method::POST, "/v2/box", json!({"name": "n"}), StatusCode::CONFLICT, "exists already").await;
}

#[tokio::test]
async fn a_hundred_boxes_at_once_all_work() {
    let yard = Yard::start().await;
    let client = yard.client();
    let sessions = (0..100).map(|n| {
        let client = &client;
        async move {
            let id = client.new_box().await;
            assert_eq!(client.sh(&id, &format!("echo {n}")).await["output"], format!("{n}\n"));
            assert_eq!(client.delete(&format!("/v2/box/{id}")).await.status, StatusCode::OK);
        }
    });
    futures_util::future::join_all(sessions).await;
    assert_eq!(client.get("/v2/box").await.json(), json!([]));
}
