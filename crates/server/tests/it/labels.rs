//! Labels.

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::support::Yard;

#[tokio::test]
async fn labels_come_and_go_in_order() {
    let mut yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let path = format!("/v2/box/{id}/config/labels");
    let added = client.post(&path, json!({"label": "env:prod"})).await;
    assert_eq!(
        (added.status, added.json()),
        (StatusCode::OK, json!({"message": "Label added", "labels": ["env:prod"]}))
    );
    client.post(&path, json!({"label": "a.b"})).await;
    client.refused(Method::POST, &path, json!({"label": "a.b"}), StatusCode::CONFLICT, "Label already added").await;
    assert_eq!(client.get(&format!("/v2/box/{id}")).await.json()["labels"], json!(["env:prod", "a.b"]));
    assert_eq!(client.get("/v2/box?label=a.b").await.json().as_array().map(Vec::len), Some(1));

    yard.restart().await;
    let client = yard.client();
    let removed = client.delete(&format!("{path}/env%3Aprod")).await;
    assert_eq!(removed.json(), json!({"message": "Label removed", "labels": ["a.b"]}));
    client
        .refused(Method::DELETE, &format!("{path}/env%3Aprod"), json!({}), StatusCode::NOT_FOUND, "Label not found")
        .await;
    assert_eq!(client.get("/v2/box?label=env%3Aprod").await.json(), json!([]));
}

#[tokio::test]
async fn labels_are_few_and_short() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let path = format!("/v2/box/{id}/config/labels");
    for (body, text) in [
        (json!({}), "label is required"),
        (json!({"label": ""}), "1 to 20 characters"),
        (json!({"label": "x".repeat(21)}), "1 to 20 characters"),
        (json!({"label": "with space"}), "letters, digits"),
        (json!({"label": 5}), "field 'label'"),
    ] {
        client.refused(Method::POST, &path, body, StatusCode::BAD_REQUEST, text).await;
    }
    for n in 0..5 {
        assert_eq!(client.post(&path, json!({"label": format!("l{n}")})).await.status, StatusCode::OK);
    }
    client
        .refused(Method::POST, &path, json!({"label": "one-more"}), StatusCode::BAD_REQUEST, "at most 5 labels")
        .await;
}

#[tokio::test]
async fn labels_added_at_once_are_all_kept() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let adding = (0..5).map(|n| {
        let (client, path) = (&client, format!("/v2/box/{id}/config/labels"));
        async move { client.post(&path, json!({"label": format!("l{n}")})).await.status }
    });
    assert_eq!(futures_util::future::join_all(adding).await, [StatusCode::OK; 5]);
    let labels = client.get(&format!("/v2/box/{id}")).await.json()["labels"].clone();
    assert_eq!(labels.as_array().map(Vec::len), Some(5), "{labels}");
}
