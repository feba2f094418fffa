//! The figures.

use std::net::SocketAddr;

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::support::{Client, Yard};

#[tokio::test]
async fn figures_are_on_a_listener_of_their_own() {
    let yard = Yard::with(|config| config.metrics = Some(SocketAddr::from(([127, 0, 0, 1], 0)))).await;
    let client = yard.client();
    let id = client.new_box().await;
    client.sh(&id, "true").await;
    client.sh(&id, "yes 1000000").await;
    client.post(&format!("/v2/box/{id}/exec"), json!({"command": []})).await;
    for _ in 0..2 {
        client.new_snapshot(&id).await;
    }
    client.call(Method::DELETE, &format!("/v2/box/{id}/snapshots/{}", client.new_snapshot(&id).await), None).await;
    let figures = Client::new(yard.metrics_address(), None).get("/metrics").await;
    assert_eq!(figures.status, StatusCode::OK);
    let text = figures.text();
    for line in [
        "boxyard_boxes{phase=\"ready\"} 1",
        "boxyard_creates_total{outcome=\"ok\"} 1",
        "boxyard_execs_total{door=\"exec\"} 2",
        "boxyard_execs_running 0",
        "boxyard_snapshots 2",
        "boxyard_snapshot_seconds_count 3",
        "boxyard_http_requests_total{method=\"POST\",route=\"/v2/box/{id}/exec\",status=\"200\"} 2",
        "boxyard_http_requests_total{method=\"POST\",route=\"/v2/box/{id}/exec\",status=\"400\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
    }
    let outputs = text.lines().find_map(|line| line.strip_prefix("boxyard_outputs_bytes ")).map(str::parse::<u64>);
    assert!(matches!(outputs, Some(Ok(1_000_000..1_500_000))), "{outputs:?}");
    let tasks = text.lines().find_map(|line| line.strip_prefix("boxyard_tasks ")).map(str::parse::<u32>);
    assert!(matches!(tasks, Some(Ok(1..))), "{tasks:?}");
    assert!(!text.contains(&id));
    assert_eq!(client.get("/metrics").await.status, StatusCode::NOT_FOUND, "not among the API");
}
