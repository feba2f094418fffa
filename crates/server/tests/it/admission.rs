//! Who still gets a box.

use std::net::SocketAddr;

use boxyard_engine::fake::Call;
use boxyard_engine::{DiskRoom, Engine, ErrorKind, ObservedState};
use boxyard_server::config::Factor;
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::support::{Client, PATIENCE, Yard, box_id};

/// Bytes of memory of this machine.
fn memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").expect("the kernel's table");
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:")).expect("the total");
    line.trim().trim_end_matches("kB").trim().parse::<u64>().expect("a number") * 1024
}

/// A server whose host promises memory for four boxes.
async fn for_four() -> Yard {
    Yard::with(|config| {
        config.metrics = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
        config.overcommit.memory = Factor::whole(1);
        config.overcommit.memory_floor = 1;
        config.sizes.small.memory_bytes = memory() / 4;
    })
    .await
}

/// Asks for so many boxes at once; says how many were made, and why the others were not.
async fn creates(client: &Client, count: usize) -> (usize, Vec<(StatusCode, String)>) {
    let made = futures_util::future::join_all((0..count).map(|_| client.post("/v2/box", json!({})))).await;
    let (made, refused): (Vec<_>, Vec<_>) = made.into_iter().partition(|answer| answer.status == StatusCode::OK);
    (made.len(), refused.into_iter().map(|answer| (answer.status, answer.text())).collect())
}

async fn delete_all(client: &Client) {
    let boxes = client.get("/v2/box").await.json();
    let ids: Vec<_> = boxes.as_array().expect("a list").iter().map(|data| data["id"].clone()).collect();
    assert_eq!(client.call(Method::DELETE, "/v2/box", Some(json!({"ids": ids}))).await.status, StatusCode::OK);
}

/// Asks until a place that is being given back is there: a deleted box has it until it is removed.
async fn made_at_last(client: &Client) -> String {
    let made = async {
        loop {
            let answer = client.post("/v2/box", json!({})).await;
            if answer.status == StatusCode::OK {
                return answer.json()["id"].as_str().expect("an id").to_owned();
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, made).await.expect("a place comes back")
}

async fn refused(client: &Client, status: StatusCode, text: &str) {
    client.refused(Method::POST, "/v2/box", json!({}), status, text).await;
}

#[tokio::test]
async fn many_creates_at_once_never_take_more_memory_than_is_promised() {
    let yard = for_four().await;
    let client = yard.client();
    let (made, others) = creates(&client, 24).await;
    assert_eq!((made, others.len()), (4, 20));
    for (status, text) in others {
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{text}");
        assert!(text.contains("promised all its memory"), "{text}");
    }
    let figures = Client::new(yard.metrics_address(), None).get("/metrics").await.text();
    assert!(figures.contains("boxyard_creates_total{outcome=\"refused\"} 20\n"), "{figures}");
    for _ in 0..3 {
        delete_all(&client).await;
        for _ in 0..4 {
            made_at_last(&client).await;
        }
        refused(&client, StatusCode::SERVICE_UNAVAILABLE, "promised all its memory").await;
    }
}

#[tokio::test]
async fn a_creation_that_fails_gives_its_place_back() {
    let yard = for_four().await;
    let client = yard.client();
    for _ in 0..5 {
        yard.engine.fail_next(Call::Create, ErrorKind::Broken);
        let failed = client.post("/v2/box", json!({})).await;
        assert_eq!(failed.status, StatusCode::INTERNAL_SERVER_ERROR, "{failed:?}");
    }
    for _ in 0..4 {
        made_at_last(&client).await;
    }
    refused(&client, StatusCode::SERVICE_UNAVAILABLE, "promised all its memory").await;
}

async fn delete(client: &Client, id: &str) {
    assert_eq!(client.delete(&format!("/v2/box/{id}")).await.status, StatusCode::OK);
}

#[tokio::test]
async fn each_account_has_its_quota() {
    let yard = Yard::with(|config| config.boxes_max_per_account = Some(2)).await;
    let (client, stranger) = (yard.client(), yard.stranger().await);
    let (made, others) = creates(&client, 10).await;
    assert_eq!((made, others.len()), (2, 8));
    for (status, text) in others {
        assert_eq!(status, StatusCode::TOO_MANY_REQUESTS, "{text}");
        assert!(text.contains("quota of 2 boxes"), "{text}");
    }
    assert_eq!(creates(&stranger, 3).await.0, 2);
    delete_all(&client).await;
    made_at_last(&client).await;
}

#[tokio::test]
async fn a_host_that_is_full_is_not_filled_further() {
    let mut yard = Yard::with(|config| config.overcommit.disk_floor = u64::MAX).await;
    refused(&yard.client(), StatusCode::SERVICE_UNAVAILABLE, "short of disk space").await;
    yard.change(|config| (config.overcommit.disk_floor, config.overcommit.memory_floor) = (1, u64::MAX));
    yard.restart().await;
    refused(&yard.client(), StatusCode::SERVICE_UNAVAILABLE, "short of memory").await;
    yard.change(|config| (config.overcommit.memory_floor, config.sizes.large.disk_bytes) = (1, u64::MAX));
    yard.restart().await;
    let large = json!({"size": "large"});
    let client = yard.client();
    client.refused(Method::POST, "/v2/box", large, StatusCode::SERVICE_UNAVAILABLE, "promised all its disk").await;
    client.new_box().await;
}

#[tokio::test]
async fn disks_are_given_of_what_the_engine_has_for_them() {
    let yard = Yard::with(|config| {
        config.overcommit.disk = Factor::whole(2);
        config.overcommit.disk_floor = 1_000_000_000;
    })
    .await;
    let client = yard.client();
    // Two times 5 GB of disk, of which a small box may have all 5.
    yard.engine.set_disk_room(DiskRoom { bytes: 5_000_000_000, left: 1_000_000_000 });
    let (first, second) = (client.new_box().await, client.new_box().await);
    refused(&client, StatusCode::SERVICE_UNAVAILABLE, "promised all its disk").await;
    delete(&client, &first).await;
    yard.engine.set_disk_room(DiskRoom { bytes: 5_000_000_000, left: 999_999_999 });
    let text = "short of disk space";
    let full = async {
        // Its place comes back when it is removed.
        while client.post("/v2/box", json!({})).await.text().contains("promised") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, full).await.expect("a place comes back");
    refused(&client, StatusCode::SERVICE_UNAVAILABLE, text).await;
    // With each snapshot a box could write its limit once more, until nothing was left for anybody.
    let saving = format!("/v2/box/{second}/snapshots");
    client.refused(Method::POST, &saving, json!({}), StatusCode::SERVICE_UNAVAILABLE, text).await;
    yard.engine.set_disk_room(DiskRoom { bytes: 5_000_000_000, left: 1_000_000_000 });
    assert_eq!(client.post(&saving, json!({})).await.status, StatusCode::OK);
    client.new_box().await;
}

#[tokio::test]
async fn a_chain_of_copies_never_gets_past_twice_the_limit_of_a_disk() {
    let yard = Yard::with(|config| config.sizes.small.disk_bytes = 1).await;
    let client = yard.client();
    let (id, text) = (client.new_box().await, "start with 2 bytes at most");
    client.refused(Method::POST, &format!("/v2/box/{id}/fork"), json!({}), StatusCode::BAD_REQUEST, text).await;
    let snapshot = client.post(&format!("/v2/box/{id}/snapshots"), json!({})).await.json()["id"].clone();
    let restore = json!({"snapshot_id": snapshot});
    client.refused(Method::POST, "/v2/box/from-snapshot", restore, StatusCode::BAD_REQUEST, text).await;
    let restore = json!({"snapshot_id": snapshot, "size": "medium"});
    assert_eq!(client.post("/v2/box/from-snapshot", restore).await.status, StatusCode::OK);
    // Nothing is left of the fork.
    let snapshots = client.get("/v2/box/snapshots").await.json();
    assert_eq!(snapshots["snapshots"].as_array().map(Vec::len), Some(1), "{snapshots}");
}

#[tokio::test]
async fn boxes_that_are_there_stay_when_a_limit_is_lowered_and_count() {
    let mut yard = for_four().await;
    assert_eq!(creates(&yard.client(), 4).await.0, 4);
    yard.change(|config| config.sizes.small.memory_bytes = memory() / 2);
    yard.restart().await;
    let client = yard.client();
    let boxes = client.get("/v2/box").await.json();
    let ids: Vec<_> = boxes.as_array().expect("a list").iter().filter_map(|data| data["id"].as_str()).collect();
    assert_eq!(ids.len(), 4);
    for id in &ids {
        refused(&client, StatusCode::SERVICE_UNAVAILABLE, "promised all its memory").await;
        assert_eq!(client.sh(id, "echo x").await["output"], "x\n");
    }
    // They have a quarter each, as they were made; the next ones half.
    delete(&client, ids[0]).await;
    refused(&client, StatusCode::SERVICE_UNAVAILABLE, "promised all its memory").await;
    delete(&client, ids[1]).await;
    made_at_last(&client).await;
    refused(&client, StatusCode::SERVICE_UNAVAILABLE, "promised all its memory").await;
}

#[tokio::test]
async fn a_stopped_box_leaves_its_memory_to_others_and_waits_for_it() {
    let mut yard = for_four().await;
    let client = yard.client();
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(client.new_box().await);
    }
    // As a host's restart leaves a paused box.
    yard.down().await;
    let store = yard.store().await;
    store.set_phase(box_id(&ids[0]), "paused".into(), None, 1).await.expect("note the phase");
    store.close().await;
    yard.engine.stop(&box_id(&ids[0])).await.expect("stop the box");
    yard.up().await;

    let client = yard.client();
    let fifth = client.new_box().await;
    refused(&client, StatusCode::SERVICE_UNAVAILABLE, "promised all its memory").await;
    let (path, body) = (format!("/v2/box/{}/exec", ids[0]), json!({"command": ["echo", "x"]}));
    let text = "promised all its memory";
    client.refused(Method::POST, &path, body.clone(), StatusCode::SERVICE_UNAVAILABLE, text).await;
    assert_eq!(client.status(&ids[0]).await, "paused");
    assert_eq!(yard.engine.calls(Call::Resume, &box_id(&ids[0])), 0);

    delete(&client, &fifth).await;
    let worked = async {
        while client.post(&path, body.clone()).await.status != StatusCode::OK {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, worked).await.expect("it gets its memory back");
    refused(&client, StatusCode::SERVICE_UNAVAILABLE, "promised all its memory").await;
}

impl Client {
    async fn freeze(&self, id: &str) {
        let answer = self.post(&format!("/v2/box/{id}/pause"), json!({})).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    }
}

#[tokio::test]
async fn a_box_that_would_be_refused_for_memory_gets_that_of_the_box_paused_longest() {
    let yard = for_four().await;
    let client = yard.client();
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(client.new_box().await);
    }
    client.freeze(&ids[1]).await;
    client.freeze(&ids[0]).await;
    // No box loses its processes for one that does not fit in any case.
    let large = json!({"size": "large"});
    client.refused(Method::POST, "/v2/box", large, StatusCode::SERVICE_UNAVAILABLE, "promised all its memory").await;
    let state = |n: usize| yard.engine.state(&box_id(&ids[n])).expect("it is there");
    assert_eq!([state(0), state(1)], [ObservedState::Frozen; 2]);

    client.new_box().await;
    assert_eq!([state(0), state(1)], [ObservedState::Frozen, ObservedState::Stopped]);
    // Work in the stopped one needs memory as a new one does.
    assert_eq!(client.sh(&ids[1], "echo on").await["output"], "on\n");
    assert_eq!([state(0), state(1)], [ObservedState::Stopped, ObservedState::Running]);
    for id in &ids[..2] {
        let log = client.get(&format!("/v2/box/{id}/logs")).await.text();
        assert!(log.contains("stopped: the host was short of memory"), "{log}");
    }
    refused(&client, StatusCode::SERVICE_UNAVAILABLE, "promised all its memory").await;
}

#[tokio::test]
async fn many_creates_at_once_take_the_memory_of_as_many_paused_boxes() {
    let yard = for_four().await;
    let client = yard.client();
    for _ in 0..4 {
        let id = client.new_box().await;
        client.freeze(&id).await;
    }
    let (made, others) = creates(&client, 10).await;
    assert_eq!((made, others.len()), (4, 6), "{others:?}");
}
