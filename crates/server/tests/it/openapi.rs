//! The description of the API, and what can be checked by walking it.

use std::path::Path;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{Client, Yard};

fn checked_in() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../openapi.json")
}

#[test]
fn the_checked_in_document_is_the_code_s_own() {
    let ours = boxyard_server::http::openapi();
    if std::env::var_os("BOXYARD_OVERWRITE").is_some() {
        std::fs::write(checked_in(), &ours).expect("write openapi.json");
    }
    let found = std::fs::read_to_string(checked_in()).expect("openapi.json at the root of the repository");
    assert!(
        found == ours,
        "openapi.json differs from the code: run `cargo xtask openapi`, or this test with BOXYARD_OVERWRITE=1"
    );
}

#[tokio::test]
async fn the_server_serves_it() {
    let yard = Yard::start().await;
    let served = Client::new(yard.address(), None).get("/openapi.json").await;
    assert_eq!(served.header("content-type"), Some("application/json"));
    assert_eq!(served.text(), boxyard_server::http::openapi());
}

#[tokio::test]
async fn every_described_route_exists_and_refuses_without_a_key() {
    let yard = Yard::start().await;
    let document: Value = serde_json::from_str(&boxyard_server::http::openapi()).expect("JSON");
    assert!(document["security"].as_array().is_some_and(|schemes| schemes.len() == 2), "either header");
    let (known, unknown) =
        (yard.client(), [Client::new(yard.address(), None), yard.client_with("wrong-key-of-16-chars")]);
    let mut walked = 0;
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("operations") {
            let method: Method = method.to_uppercase().parse().expect("a method");
            let place = path
                .replace("{id}", "never-was-00000")
                .replace("{run_id}", "x")
                .replace("{context}", "x")
                .replace("{label}", "x")
                .replace("{key}", "X")
                .replace("{token_id}", "x")
                .replace("{snapshot_id}", "x");
            let body = Some(json!({"command": ["true"], "code": "1", "language": "js", "label": "x", "ids": ["x"]}));
            assert!(operation["summary"].as_str().is_some_and(|text| !text.is_empty()), "{method} {path}");
            if operation["security"] == json!([{}]) || operation["security"] == json!([]) {
                assert!(!path.starts_with("/v2"), "{method} {path}");
                continue;
            }
            for client in &unknown {
                let answer = client.call(method.clone(), &place, body.clone()).await;
                assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{method} {path}");
            }
            let answer = known.call(method.clone(), &place, body).await;
            assert_ne!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
            assert!(!answer.text().contains("nothing at this path"), "{method} {path}");
            walked += 1;
        }
    }
    assert_eq!(walked, 77, "routes were added or lost: look at this test, then at this number");
}

#[test]
fn every_reference_in_the_document_leads_somewhere() {
    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str).map(str::to_owned));
                fields.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let document: Value = serde_json::from_str(&boxyard_server::http::openapi()).expect("JSON");
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(!found.is_empty());
    for reference in found {
        assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference} leads nowhere");
    }
}
