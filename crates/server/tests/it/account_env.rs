//! Variables of an account.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{Yard, box_id};

const PATH: &str = "/v2/box/settings/env";

async fn set(client: &crate::support::Client, name: &str, value: &str) {
    let answer = client.call(Method::PUT, &format!("{PATH}/{name}"), Some(json!({"value": value}))).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
}

#[tokio::test]
async fn variables_are_set_listed_without_values_and_removed() {
    let mut yard = Yard::start().await;
    let client = yard.client();
    assert_eq!(client.get(PATH).await.json(), json!({"env_vars": {}}));
    set(&client, "TOKEN", "s3cret").await;
    set(&client, "EMPTY", "").await;
    set(&client, "TOKEN", "n3wer").await;
    yard.restart().await;
    let client = yard.client();
    let listed = client.get(PATH).await;
    assert_eq!(listed.json(), json!({"env_vars": {"EMPTY": "***", "TOKEN": "***"}}));

    let replaced = client.call(Method::PUT, PATH, Some(json!({"env_vars": {"A": "1", "B": "2"}}))).await;
    assert_eq!(replaced.status, StatusCode::OK);
    assert_eq!(client.get(PATH).await.json(), json!({"env_vars": {"A": "***", "B": "***"}}));
    for _ in 0..2 {
        assert_eq!(client.delete(&format!("{PATH}/A")).await.status, StatusCode::OK, "gone is gone");
    }
    assert_eq!(client.get(PATH).await.json(), json!({"env_vars": {"B": "***"}}));
    client.call(Method::PUT, PATH, Some(json!({"env_vars": {}}))).await;
    assert_eq!(client.get(PATH).await.json(), json!({"env_vars": {}}));
}

#[tokio::test]
async fn boxes_made_afterwards_have_them_under_their_own() {
    let yard = Yard::start().await;
    let client = yard.client();
    let before = client.new_box().await;
    set(&client, "SHARED", "of the account").await;
    set(&client, "OTHER", "of the account").await;
    let made = client.post("/v2/box", json!({"env_vars": {"SHARED": "of the box", "OWN": "1"}})).await.json();
    let id = made["id"].as_str().expect("an id");
    let said = client.sh(id, "env").await["output"].as_str().expect("text").to_owned();
    for line in ["SHARED=of the box", "OTHER=of the account", "OWN=1"] {
        assert!(said.lines().any(|found| found == line), "no {line} in {said}");
    }
    client.call(Method::PUT, PATH, Some(json!({"env_vars": {}}))).await;
    assert_eq!(yard.engine.spec(&box_id(id)).expect("its spec").env["OTHER"], "of the account", "boxes keep theirs");
    assert!(yard.engine.spec(&box_id(&before)).expect("its spec").env.is_empty());
    assert!(!made.to_string().contains("of the"), "{made}");
}

#[tokio::test]
async fn each_account_has_its_own() {
    let yard = Yard::start().await;
    let (client, stranger) = (yard.client(), yard.stranger().await);
    set(&client, "MINE", "x").await;
    set(&stranger, "THEIRS", "x").await;
    assert_eq!(stranger.get(PATH).await.json(), json!({"env_vars": {"THEIRS": "***"}}));
    stranger.delete(&format!("{PATH}/MINE")).await;
    stranger.call(Method::PUT, PATH, Some(json!({"env_vars": {}}))).await;
    assert_eq!(client.get(PATH).await.json(), json!({"env_vars": {"MINE": "***"}}));
    let theirs = stranger.new_box().await;
    assert!(yard.engine.spec(&box_id(&theirs)).expect("its spec").env.is_empty());
}

#[tokio::test]
async fn what_is_wrong_is_refused_without_showing_a_value() {
    let yard = Yard::start().await;
    let client = yard.client();
    set(&client, "KEPT", "x").await;
    let long = "x".repeat(128 * 1024);
    for (path, body, text) in [
        ("/PATH", json!({"value": "s3cret"}), "PATH cannot be set"),
        ("/LD_PRELOAD", json!({"value": "s3cret"}), "LD_PRELOAD cannot be set"),
        ("/1A", json!({"value": "s3cret"}), "'1A' is not a variable name"),
        ("/A%3DB", json!({"value": "s3cret"}), "'A=B' is not a variable name"),
        ("/A", json!({"value": "s3cret\0"}), "contains a NUL byte"),
        ("/A", json!({"value": long}), "longer than 131071 bytes"),
        ("/A", json!({}), "value is required"),
        ("/A", json!({"value": null}), "value is required"),
        ("/A", json!({"value": {"s3cret": 1}}), "field 'value': it must be a text"),
        ("", json!({}), "env_vars is required"),
        ("", json!({"env_vars": null}), "env_vars is required"),
        ("", json!({"env_vars": "s3cret"}), "it must be an object of texts"),
        ("", json!({"env_vars": {"A": ["s3cret"]}}), "the value of 'A' must be a text"),
        ("", json!({"env_vars": {"A": "s3cret", "HOME": "s3cret"}}), "HOME cannot be set"),
    ] {
        let answer = client.call(Method::PUT, &format!("{PATH}{path}"), Some(body)).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{path}: {answer:?}");
        assert!(answer.text().contains(text) && !answer.text().contains("s3cret"), "{path}: {answer:?}");
    }
    assert_eq!(client.get(PATH).await.json(), json!({"env_vars": {"KEPT": "***"}}), "nothing has changed");
    // The path's place among those of boxes belongs to the settings.
    client.refused(Method::POST, "/v2/box", json!({"name": "settings"}), StatusCode::BAD_REQUEST, "reserved").await;
}

#[tokio::test]
async fn an_account_has_as_many_as_a_box_could_have() {
    let yard = Yard::start().await;
    let client = yard.client();
    let many: serde_json::Map<String, Value> = (0..512).map(|n| (format!("V{n}"), json!(""))).collect();
    let answer = client.call(Method::PUT, PATH, Some(json!({"env_vars": many}))).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    let one_more = json!({"value": "s3cret"});
    client.refused(Method::PUT, &format!("{PATH}/MORE"), one_more, StatusCode::BAD_REQUEST, "at most 512").await;
    set(&client, "V0", "another value is fine").await;
    let own = json!({"env_vars": {"OWN": "1"}});
    client.refused(Method::POST, "/v2/box", own, StatusCode::BAD_REQUEST, "those of the account included").await;
    client.new_box().await;
}

#[tokio::test]
async fn variables_set_at_once_never_are_too_many() {
    let yard = Yard::start().await;
    let client = yard.client();
    let many: serde_json::Map<String, Value> = (0..508).map(|n| (format!("V{n}"), json!(""))).collect();
    client.call(Method::PUT, PATH, Some(json!({"env_vars": many}))).await;
    let setting = (0..12).map(|n| {
        let client = &client;
        async move { client.call(Method::PUT, &format!("{PATH}/W{n}"), Some(json!({"value": "x"}))).await.status }
    });
    let set = futures_util::future::join_all(setting).await;
    assert_eq!(set.iter().filter(|status| **status == StatusCode::OK).count(), 4, "{set:?}");
    assert_eq!(client.get(PATH).await.json()["env_vars"].as_object().map(serde_json::Map::len), Some(512));
}
