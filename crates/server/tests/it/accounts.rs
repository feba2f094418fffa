//! Two accounts on one server.

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::support::Yard;

#[tokio::test]
async fn what_belongs_to_others_is_as_unknown_as_what_never_was() {
    let yard = Yard::start().await;
    let (client, stranger) = (yard.client(), yard.stranger().await);
    let id = client.post("/v2/box", json!({"name": "mine"})).await.json()["id"].as_str().expect("an id").to_owned();
    client.sh(&id, "true").await;
    let run = client.get(&format!("/v2/box/{id}/runs")).await.json()["runs"][0]["id"].as_str().expect("id").to_owned();
    assert_eq!(stranger.get("/v2/box").await.json(), json!([]));
    assert_eq!(stranger.get("/v2/box?status=deleted").await.json(), json!([]));

    let never = "never-was-00000";
    for (method, path) in [
        (Method::GET, "/v2/box/{id}"),
        (Method::DELETE, "/v2/box/{id}"),
        (Method::GET, "/v2/box/{id}/status"),
        (Method::POST, "/v2/box/{id}/config/labels"),
        (Method::DELETE, "/v2/box/{id}/config/labels/x"),
        (Method::POST, "/v2/box/{id}/exec"),
        (Method::POST, "/v2/box/{id}/exec-stream"),
        (Method::POST, "/v2/box/{id}/code"),
        (Method::POST, "/v2/box/{id}/code-stream"),
        (Method::GET, "/v2/box/{id}/runs"),
        (Method::GET, "/v2/box/{id}/runs/{run}"),
        (Method::POST, "/v2/box/{id}/runs/{run}/cancel"),
        (Method::GET, "/v2/box/{id}/logs"),
        (Method::GET, "/v2/box/{id}/usage"),
        (Method::POST, "/v2/box/{id}/snapshots"),
        (Method::GET, "/v2/box/{id}/snapshots"),
        (Method::DELETE, "/v2/box/{id}/snapshots/snap_00000000000000000000000000"),
        (Method::POST, "/v2/box/{id}/fork"),
        (Method::GET, "/v2/box/{id}/files/read?path=a"),
        (Method::POST, "/v2/box/{id}/files/write"),
        (Method::GET, "/v2/box/{id}/files/list"),
        (Method::GET, "/v2/box/{id}/files/stat?path=a"),
        (Method::POST, "/v2/box/{id}/files/mkdir"),
        (Method::POST, "/v2/box/{id}/files/rename"),
        (Method::POST, "/v2/box/{id}/files/remove"),
        (Method::POST, "/v2/box/{id}/files/chmod"),
        (Method::POST, "/v2/box/{id}/files/upload"),
        (Method::PUT, "/v2/box/{id}/files/upload?path=a"),
        (Method::PUT, "/v2/box/{id}/files/archive"),
        (Method::GET, "/v2/box/{id}/files/download?path=a"),
        (Method::GET, "/v2/box/{id}/files/search?name=a"),
        (Method::GET, "/v2/box/{id}/files/watch"),
    ] {
        let body = json!({
            "command": ["true"], "code": "1", "language": "js", "label": "x",
            "path": "a", "from": "a", "to": "b", "content": "x", "mode": "0644",
        });
        for foreign in [id.as_str(), "mine"] {
            let asked = async |id: &str| {
                let path = path.replace("{id}", id).replace("{run}", &run);
                stranger.call(method.clone(), &path, Some(body.clone())).await
            };
            let (theirs, nobodys) = (asked(foreign).await, asked(never).await);
            assert_eq!(theirs.status, StatusCode::NOT_FOUND, "{method} {path}");
            assert_eq!((theirs.status, theirs.text()), (nobodys.status, nobodys.text()), "{method} {path}");
        }
    }
    let bulk = stranger.call(Method::DELETE, "/v2/box", Some(json!({"ids": [id, "mine"]}))).await;
    assert_eq!(bulk.json(), json!({"deleted": 0}));
    assert_eq!(client.status(&id).await, "idle");

    client.delete(&format!("/v2/box/{id}")).await;
    assert_eq!(stranger.get(&format!("/v2/box/{id}")).await.status, StatusCode::NOT_FOUND, "deleted ones too");
}

#[tokio::test]
async fn each_account_has_its_own_names() {
    let yard = Yard::start().await;
    let (client, stranger) = (yard.client(), yard.stranger().await);
    let mine = client.post("/v2/box", json!({"name": "n"})).await.json();
    let theirs = stranger.post("/v2/box", json!({"name": "n"})).await.json();
    assert_eq!(theirs["status"], "idle");
    assert_ne!(mine["customer_id"], theirs["customer_id"]);
    assert_eq!(client.get("/v2/box/n").await.json()["id"], mine["id"]);
    assert_eq!(stranger.get("/v2/box/n").await.json()["id"], theirs["id"]);
    stranger.delete("/v2/box/n").await;
    assert_eq!(client.get("/v2/box/n").await.json()["status"], "idle");
}
