//! Keys.

use boxyard_server::keys;
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::support::{Client, KEY, Yard};

#[tokio::test]
async fn a_key_opens_the_api_in_either_header() {
    let yard = Yard::start().await;
    let open = Client::new(yard.address(), None);
    let get = |request: reqwest::RequestBuilder| {
        let open = open.clone();
        async move { open.send(request).await.status }
    };
    let request = || open.request(Method::GET, "/v2/box");
    assert_eq!(get(request().header("X-Box-Api-Key", KEY)).await, StatusCode::OK);
    assert_eq!(get(request().header("Authorization", format!("Bearer {KEY}"))).await, StatusCode::OK);
    assert_eq!(get(request().header("X-Box-Api-Key", KEY).bearer_auth(KEY)).await, StatusCode::OK);
    assert_eq!(get(request().header("X-Box-Api-Key", KEY).bearer_auth("another")).await, StatusCode::UNAUTHORIZED);
    assert_eq!(get(request().header("Authorization", format!("Basic {KEY}"))).await, StatusCode::UNAUTHORIZED);
    // What the published clients send along.
    let telemetry = request().header("X-Box-Api-Key", KEY).header("Upstash-Telemetry-Sdk", "x");
    assert_eq!(get(telemetry).await, StatusCode::OK);
}

#[tokio::test]
async fn nothing_under_v2_answers_without_a_key() {
    let yard = Yard::start().await;
    for key in [None, Some("wrong"), Some(""), Some("the-first-key-of-test")] {
        let client = Client::new(yard.address(), key);
        for path in
            ["/v2/box", "/v2/box/x", "/v2", "/v2/", "/v2/nothing/here", "/v2/box/x/exec", "/v2/box/../../healthz/v2"]
        {
            for method in [Method::GET, Method::POST, Method::PUT, Method::DELETE] {
                let answer = client.call(method.clone(), path, None).await;
                if path.contains("..") {
                    // The client resolves it before it asks.
                    continue;
                }
                assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{method} {path} {key:?}");
                let error = answer.json()["error"].as_str().expect("an error").to_owned();
                assert!(error.contains("unauthorized") && error.contains("API key"), "{error}");
            }
        }
        assert_eq!(client.get("/healthz").await.status, StatusCode::OK);
        assert_eq!(client.get("/openapi.json").await.status, StatusCode::OK);
        assert_eq!(client.get("/nothing").await.status, StatusCode::NOT_FOUND);
    }
}

#[tokio::test]
async fn paths_and_methods_that_do_not_exist_say_so_after_authentication() {
    let yard = Yard::start().await;
    let client = yard.client();
    for path in ["/v2/nothing", "/v2/box/x/nothing", "/v2/box/x/exec/more", "/v2"] {
        client.refused(Method::GET, path, json!({}), StatusCode::NOT_FOUND, "nothing at this path").await;
    }
    for (method, path) in [(Method::PUT, "/v2/box"), (Method::GET, "/v2/box/x/exec"), (Method::POST, "/healthz")] {
        client.refused(method, path, json!({}), StatusCode::METHOD_NOT_ALLOWED, "does not take that method").await;
    }
}

#[tokio::test]
async fn keys_made_and_revoked_beside_the_server_count_soon() {
    let yard = Yard::start().await;
    let store = yard.store().await;
    let (id, key) = keys::create_key(&store, "default", None).await.expect("make a key");
    let client = yard.client_with(key.expose());
    assert_eq!(client.get("/v2/box").await.status, StatusCode::OK, "a new key works at once");
    assert!(store.revoke_key(id, 1).await.expect("revoke"));
    let asked = tokio::time::Instant::now();
    while client.get("/v2/box").await.status != StatusCode::UNAUTHORIZED {
        assert!(asked.elapsed().as_secs() < 10, "a revoked key works for a second at most");
    }
    assert_eq!(yard.client().get("/v2/box").await.status, StatusCode::OK, "others go on");
}
