//! What boxes use.

use std::net::SocketAddr;

use boxyard_engine::fake::Call;
use boxyard_engine::{Engine, ErrorKind, Usage};
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::support::{Client, Yard, box_id};

const USAGE: Usage = Usage {
    cpu_ns: 3_000_000_000,
    memory_bytes: 5_000_000,
    pids: 7,
    disk_bytes: 11_000,
    network_received: 13,
    network_sent: 17,
    oom_kills: 1,
};

#[tokio::test]
async fn a_box_tells_what_it_uses_and_what_it_may() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.post("/v2/box", json!({"name": "n", "size": "medium"})).await.json()["id"].clone();
    yard.engine.use_up(&box_id(id.as_str().expect("an id")), USAGE);
    let before = client.get("/v2/box/n").await.json();
    let usage = client.get("/v2/box/n/usage").await;
    assert_eq!(
        (usage.status, usage.json()),
        (
            StatusCode::OK,
            json!({
                "cpu_ns": 3_000_000_000_u64, "memory_bytes": 5_000_000, "pids": 7, "disk_bytes": 11_000,
                "network_received": 13, "network_sent": 17, "oom_kills": 1,
                "limits": {
                    "cpu_millis": 4000, "memory_bytes": 8_000_000_000_u64, "pids": 2048, "disk_bytes": 10_000_000_000_u64,
                },
            })
        )
    );
    assert_eq!(client.get("/v2/box/n").await.json(), before, "asking is no work");
}

#[tokio::test]
async fn a_paused_box_and_a_stopped_one_tell_without_waking() {
    let mut yard = Yard::start().await;
    let ids = [yard.client().new_box().await, yard.client().new_box().await];
    yard.down().await;
    let store = yard.store().await;
    for id in &ids {
        store.set_phase(box_id(id), "paused".into(), None, 1).await.expect("note the phase");
        yard.engine.use_up(&box_id(id), USAGE);
    }
    store.close().await;
    yard.engine.pause(&box_id(&ids[0])).await.expect("pause");
    yard.engine.stop(&box_id(&ids[1])).await.expect("stop");
    yard.up().await;
    let client = yard.client();
    for id in &ids {
        assert_eq!(client.get(&format!("/v2/box/{id}/usage")).await.json()["disk_bytes"], 11_000);
        assert_eq!(client.status(id).await, "paused");
        assert_eq!(yard.engine.calls(Call::Resume, &box_id(id)), 0);
    }
}

#[tokio::test]
async fn a_box_that_is_not_there_yet_or_any_more_says_so() {
    let yard = Yard::start().await;
    let client = yard.client();
    client.refused(Method::GET, "/v2/box/nobody/usage", json!({}), StatusCode::NOT_FOUND, "Box not found").await;

    yard.engine.hold(Call::Create, Some("image"));
    let creating = tokio::spawn({
        let client = client.clone();
        async move { client.post("/v2/box", json!({"name": "n"})).await }
    });
    yard.engine.came_to("image", 1).await;
    assert_eq!(client.get("/v2/box/n/usage").await.json()["memory_bytes"], 0, "it is being made");
    yard.engine.hold(Call::Create, None);
    yard.engine.open("image");
    assert_eq!(creating.await.expect("no panic").status, StatusCode::OK);

    let usage = "/v2/box/n/usage";
    yard.engine.fail_next(Call::Usage, ErrorKind::Broken);
    let text = "could not be found out";
    client.refused(Method::GET, usage, json!({}), StatusCode::INTERNAL_SERVER_ERROR, text).await;
    yard.engine.fail_next(Call::Usage, ErrorKind::NotFound);
    client.refused(Method::GET, usage, json!({}), StatusCode::SERVICE_UNAVAILABLE, "busy").await;
    assert_eq!(client.get(usage).await.status, StatusCode::OK);

    // A box that is deleted while the engine counts.
    let id = client.get("/v2/box/n").await.json()["id"].as_str().expect("an id").to_owned();
    yard.engine.hold(Call::Usage, Some("count"));
    let asked = tokio::spawn({
        let (client, path) = (client.clone(), format!("/v2/box/{id}/usage"));
        async move { client.get(&path).await.status }
    });
    yard.engine.came_to("count", 1).await;
    client.delete(&format!("/v2/box/{id}")).await;
    client.until(&format!("/v2/box/{id}"), |data| data["status"] == "deleted").await;
    while !yard.engine.ids().is_empty() {
        tokio::task::yield_now().await;
    }
    yard.engine.open("count");
    assert_eq!(asked.await.expect("no panic"), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn few_boxes_are_asked_at_once() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    yard.engine.hold(Call::Usage, Some("count"));
    let path = format!("/v2/box/{id}/usage");
    let asking: Vec<_> = (0..30)
        .map(|_| {
            let (client, path) = (client.clone(), path.clone());
            tokio::spawn(async move { client.get(&path).await.status })
        })
        .collect();
    yard.engine.came_to("count", 8).await;
    // What is asked meanwhile is answered, and by then the others have had their chance to come to the gate.
    for _ in 0..30 {
        client.sh(&id, "true").await;
    }
    assert_eq!(yard.engine.calls(Call::Usage, &box_id(&id)), 8);
    yard.engine.open("count");
    for asked in asking {
        assert_eq!(asked.await.expect("no panic"), StatusCode::OK);
    }
}

#[tokio::test]
async fn the_figures_have_all_boxes_together_and_are_not_asked_for_at_every_scrape() {
    let yard = Yard::with(|config| config.metrics = Some(SocketAddr::from(([127, 0, 0, 1], 0)))).await;
    let client = yard.client();
    let ids = [client.new_box().await, client.new_box().await];
    for id in &ids {
        yard.engine.use_up(&box_id(id), USAGE);
    }
    let scraper = Client::new(yard.metrics_address(), None);
    let text = scraper.get("/metrics").await.text();
    for line in [
        "boxyard_boxes_memory_bytes 10000000",
        "boxyard_boxes_disk_bytes 22000",
        "boxyard_boxes_pids 14",
        "boxyard_boxes_cpu_seconds_total 0.0",
        "boxyard_boxes_network_bytes_total{direction=\"received\"} 0",
        "boxyard_boxes_oom_kills_total 0",
    ] {
        assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
    }
    assert!(ids.iter().all(|id| !text.contains(id)));
    let scrapes = futures_util::future::join_all((0..8).map(|_| scraper.get("/metrics"))).await;
    assert!(scrapes.iter().all(|answer| answer.status == StatusCode::OK));
    for id in &ids {
        assert_eq!(yard.engine.calls(Call::Usage, &box_id(id)), 1, "the figures are young");
    }
}
