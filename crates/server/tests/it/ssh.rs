//! The SSH door as the API tells of it: its identity, public keys, tokens.

use std::io;
use std::sync::{Arc, Mutex};

use boxyard_engine::fake::FakeEngine;
use boxyard_server::boxes::Boxes;
use boxyard_server::metrics::Metrics;
use boxyard_server::ssh::identity::{HostKey, Identity};
use boxyard_server::store::{Store, StoreOptions};
use boxyard_server::{http, keys, ssh_tokens};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::support::{Client, KEY, Yard};

const LINE: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDE6DCdEbe4Qjuz4jBAqjiGFGeJctMVyg1I+sNUWAOaF";
const FINGERPRINT: &str = "SHA256:zIHgS6lcEn/31oJ8ffy+k0GyTgRBQRk9+XD+KLRa0hw";

/// One of many different keys.
fn another_line(number: u8) -> String {
    use base64::Engine as _;
    let key = [b"\0\0\0\x0bssh-ed25519\0\0\0 ".as_slice(), &[number; 32]].concat();
    format!("ssh-ed25519 {}", base64::engine::general_purpose::STANDARD.encode(key))
}

#[tokio::test]
async fn the_door_is_told_of_when_there_is_one() {
    let yard = Yard::start().await;
    yard.client().refused(Method::GET, "/v2/ssh", json!({}), StatusCode::NOT_FOUND, "SSH door is off").await;

    // The same routes with a door.
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = Store::open(&folder.path().join("test.db"), StoreOptions::default()).await.expect("open a store");
    keys::ensure_first_key(&store, Some(KEY), folder.path()).await.expect("a key");
    let metrics = Arc::new(Metrics::new(store.clone()));
    let boxes = Boxes::new(yard.config(), FakeEngine::new(), store.clone(), Arc::clone(&metrics));
    let host_key = |algorithm: &str| HostKey {
        algorithm: algorithm.into(),
        public_key: format!("{algorithm} AAAA"),
        fingerprint: "SHA256:abc".into(),
    };
    let identity = Identity {
        address: "[::]:2222".parse().expect("an address"),
        host_keys: vec![host_key("ssh-ed25519"), host_key("ecdsa-sha2-nistp256")],
    };
    let routes = http::router(yard.config(), boxes, store, metrics, Some(identity));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
    let address = listener.local_addr().expect("an address");
    let serving = tokio::spawn(async move { axum::serve(listener, routes).await });
    let host_key = |algorithm: &str| json!({"algorithm": algorithm, "public_key": format!("{algorithm} AAAA"), "fingerprint": "SHA256:abc"});
    assert_eq!(
        Client::new(address, Some(KEY)).get("/v2/ssh").await.json(),
        json!({"address": "::", "port": 2222, "host_keys": [host_key("ssh-ed25519"), host_key("ecdsa-sha2-nistp256")]})
    );
    assert_eq!(Client::new(address, None).get("/v2/ssh").await.status, StatusCode::UNAUTHORIZED);
    serving.abort();
}

#[tokio::test]
async fn keys_are_added_listed_and_removed() {
    let mut yard = Yard::start().await;
    let client = yard.client();
    assert_eq!(client.get("/v2/ssh-keys").await.json(), json!({"keys": []}));
    let added = client.post("/v2/ssh-keys", json!({"public_key": format!("{LINE} u@h\n")})).await;
    assert_eq!(added.status, StatusCode::OK, "{added:?}");
    let added = added.json();
    let id = added["id"].as_str().expect("an id").to_owned();
    assert!(id.starts_with("sshkey_"), "{id}");
    let made = added["created_at"].as_i64().expect("a time");
    assert!((1_700_000_000..4_000_000_000).contains(&made));
    let whole = json!({"id": id, "algorithm": "ssh-ed25519", "fingerprint": FINGERPRINT, "public_key": LINE, "label": "u@h", "created_at": made});
    assert_eq!(added, whole);

    let again = client.post("/v2/ssh-keys", json!({"public_key": LINE, "label": "other"})).await;
    assert_eq!((again.status, again.json()), (StatusCode::OK, whole.clone()), "a key that is there stays as it is");
    let second = client.post("/v2/ssh-keys", json!({"public_key": another_line(1)})).await.json();
    assert_eq!(second.get("label"), None);

    yard.restart().await;
    let client = yard.client();
    // In the order of their making, which two of one millisecond have none of.
    let listed = client.get("/v2/ssh-keys").await.json();
    let listed = listed["keys"].as_array().expect("a list");
    assert!(listed.len() == 2 && listed.contains(&whole) && listed.contains(&second), "{listed:?}");
    let fingerprint =
        format!("/v2/ssh-keys/{}", FINGERPRINT.replace('/', "%2F").replace('+', "%2B").replace(':', "%3A"));
    let removed = client.delete(&fingerprint).await;
    assert_eq!((removed.status, removed.json()), (StatusCode::OK, json!({"message": "SSH key removed"})));
    client.refused(Method::DELETE, &fingerprint, json!({}), StatusCode::NOT_FOUND, "SSH key not found").await;
    let by_id = format!("/v2/ssh-keys/{}", second["id"].as_str().expect("an id"));
    assert_eq!(client.delete(&by_id).await.status, StatusCode::OK);
    assert_eq!(client.get("/v2/ssh-keys").await.json(), json!({"keys": []}));
}

#[tokio::test]
async fn texts_that_are_no_keys_are_told_what_to_do_and_never_shown() {
    let yard = Yard::start().await;
    let client = yard.client();
    let long = "x".repeat(201);
    for (body, text) in [
        (json!({}), "public_key is required"),
        (json!({"public_key": null}), "public_key is required"),
        (json!({"public_key": 5}), "field 'public_key'"),
        (json!({"public_key": "s3cret"}), "begins with one of"),
        (json!({"public_key": "-----BEGIN OPENSSH PRIVATE KEY-----\ns3cret"}), "this is a private key"),
        (json!({"public_key": "ssh-ed25519 s3cret"}), "damaged"),
        (json!({"public_key": format!("{LINE} s3cret{long}")}), "the key's comment must have"),
        (json!({"public_key": LINE, "label": ""}), "label must have 1 to 200 characters"),
        (json!({"public_key": LINE, "label": long}), "label must have 1 to 200 characters"),
        (json!({"public_key": LINE, "label": "a\u{1b}b"}), "no control characters"),
    ] {
        client.refused(Method::POST, "/v2/ssh-keys", body.clone(), StatusCode::BAD_REQUEST, text).await;
        let answer = client.post("/v2/ssh-keys", body).await;
        assert!(!answer.text().contains("s3cret"), "{}", answer.text());
    }
    let body = json!({"public_key": format!("{LINE} {long}"), "label": "ü".repeat(200)});
    assert_eq!(client.post("/v2/ssh-keys", body).await.status, StatusCode::OK, "a label stands for a long comment");
    for number in 1..100 {
        let added = client.post("/v2/ssh-keys", json!({"public_key": another_line(number)})).await;
        assert_eq!(added.status, StatusCode::OK, "{number}: {added:?}");
    }
    let one_more = json!({"public_key": another_line(100)});
    client.refused(Method::POST, "/v2/ssh-keys", one_more, StatusCode::TOO_MANY_REQUESTS, "at most 100 SSH keys").await;
}

#[tokio::test]
async fn a_token_is_told_once_listed_and_revoked() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let other = client.new_box().await;
    let path = format!("/v2/box/{id}/ssh-tokens");
    assert_eq!(client.get(&path).await.json(), json!({"tokens": []}));
    let made = client.post(&path, json!({"expires_in": 120, "label": "editor"})).await;
    assert_eq!(made.status, StatusCode::OK, "{made:?}");
    let made = made.json();
    let token = made["token"].as_str().expect("a token");
    let random = token.strip_prefix(ssh_tokens::PREFIX).expect("its prefix");
    assert!(
        random.len() == 43 && random.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'),
        "{token}"
    );
    assert_eq!(made["box_id"], json!(id));

    let store = yard.store().await;
    let found = store.find_ssh_token(ssh_tokens::hash_token(token)).await.expect("find").expect("it is live");
    assert_eq!(found.box_id.as_str(), id);
    assert_eq!(Some(found.expires_at / 1000), made["expires_at"].as_i64());

    let listed = client.get(&path).await;
    assert!(!listed.text().contains(random), "only its owner has it");
    let tokens = listed.json()["tokens"].clone();
    let created = tokens[0]["created_at"].as_i64().expect("a time");
    assert_eq!(made["expires_at"].as_i64(), Some(created + 120));
    let whole =
        json!({"id": made["id"], "box_id": id, "label": "editor", "created_at": created, "expires_at": created + 120});
    assert_eq!(tokens, json!([whole]));

    let token_id = made["id"].as_str().expect("an id");
    let elsewhere = format!("/v2/box/{other}/ssh-tokens/{token_id}");
    client.refused(Method::DELETE, &elsewhere, json!({}), StatusCode::NOT_FOUND, "SSH token not found").await;
    let revoked = client.delete(&format!("{path}/{token_id}")).await;
    assert_eq!((revoked.status, revoked.json()), (StatusCode::OK, json!({"message": "SSH token revoked"})));
    for gone in [token_id, "nonsense", token] {
        let path = format!("{path}/{gone}");
        client.refused(Method::DELETE, &path, json!({}), StatusCode::NOT_FOUND, "SSH token not found").await;
    }
    assert_eq!(client.get(&path).await.json(), json!({"tokens": []}));
    assert_eq!(store.find_ssh_token(ssh_tokens::hash_token(token)).await.expect("find"), None);
    // The server waits for nobody at its end.
    store.close().await;
}

#[tokio::test]
async fn tokens_live_between_a_minute_and_a_month() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.post("/v2/box", json!({"name": "mine"})).await.json()["id"].as_str().expect("an id").to_owned();
    let path = format!("/v2/box/{id}/ssh-tokens");
    for (body, text) in [
        (json!({"expires_in": 0}), "expires_in must be 60 to 2592000 seconds"),
        (json!({"expires_in": 59}), "expires_in must be"),
        (json!({"expires_in": 2_592_001}), "expires_in must be"),
        (json!({"expires_in": u64::MAX}), "expires_in must be"),
        (json!({"expires_in": -1}), "field 'expires_in'"),
        (json!({"expires_in": "1h"}), "field 'expires_in'"),
        (json!({"label": ""}), "label must have"),
        (json!({"label": "x".repeat(201)}), "label must have"),
    ] {
        client.refused(Method::POST, &path, body, StatusCode::BAD_REQUEST, text).await;
    }
    let lives = async |path: &str, body: Value| {
        let made = client.post(path, body).await.json();
        let listed = client.get(path).await.json()["tokens"].clone();
        let row = listed
            .as_array()
            .expect("tokens")
            .iter()
            .find(|row| row["id"] == made["id"])
            .expect("it is listed")
            .clone();
        row["expires_at"].as_i64().expect("a time") - row["created_at"].as_i64().expect("a time")
    };
    assert_eq!(lives(&path, json!({"expires_in": 60})).await, 60);
    assert_eq!(lives(&path, json!({"expires_in": 2_592_000})).await, 2_592_000);
    assert_eq!(
        lives("/v2/box/mine/ssh-tokens", json!({})).await,
        3600,
        "a box's name will do, and an hour is the rule"
    );

    client.delete(&format!("/v2/box/{id}")).await;
    client.refused(Method::POST, &path, json!({}), StatusCode::NOT_FOUND, "Box not found").await;
}

#[tokio::test]
async fn accounts_do_not_see_each_other_s_keys_and_tokens() {
    let yard = Yard::start().await;
    let (client, stranger) = (yard.client(), yard.stranger().await);
    let id = client.new_box().await;
    let key = client.post("/v2/ssh-keys", json!({"public_key": LINE})).await.json();
    let token = client.post(&format!("/v2/box/{id}/ssh-tokens"), json!({})).await.json();
    let (key_id, token_id) = (key["id"].as_str().expect("an id"), token["id"].as_str().expect("an id"));

    assert_eq!(stranger.get("/v2/ssh-keys").await.json(), json!({"keys": []}));
    let own = stranger.post("/v2/ssh-keys", json!({"public_key": LINE, "label": "theirs"})).await.json();
    assert_eq!(own["label"], "theirs", "the same key may be in several accounts");
    assert_ne!(own["id"], key["id"]);
    for (method, path, text) in [
        (Method::DELETE, format!("/v2/ssh-keys/{key_id}"), "SSH key not found"),
        (Method::GET, format!("/v2/box/{id}/ssh-tokens"), "Box not found"),
        (Method::POST, format!("/v2/box/{id}/ssh-tokens"), "Box not found"),
        (Method::DELETE, format!("/v2/box/{id}/ssh-tokens/{token_id}"), "Box not found"),
    ] {
        stranger.refused(method, &path, json!({}), StatusCode::NOT_FOUND, text).await;
    }
    assert_eq!(client.get("/v2/ssh-keys").await.json(), json!({"keys": [key]}));
    let tokens = client.get(&format!("/v2/box/{id}/ssh-tokens")).await.json();
    assert_eq!(tokens["tokens"].as_array().map(Vec::len), Some(1));
}

/// Everything that is logged, at every level.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("not poisoned").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn neither_keys_nor_tokens_reach_the_log() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    // All of the server that has anything to say is on this thread.
    let logging = tracing::subscriber::set_default(subscriber);
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let path = format!("/v2/box/{id}/ssh-tokens");
    client.post("/v2/ssh-keys", json!({"public_key": LINE, "label": "l4bel"})).await;
    client.post("/v2/ssh-keys", json!({"public_key": "-----BEGIN PRIVATE KEY-----s3cret"})).await;
    let made = client.post(&path, json!({"label": "l4bel"})).await.json();
    let token = made["token"].as_str().expect("a token").to_owned();
    client.delete(&format!("{path}/{}", made["id"].as_str().expect("an id"))).await;
    client.get(&format!("/v2/box/{id}/logs")).await;
    drop(logging);
    let log = String::from_utf8(lines.0.lock().expect("not poisoned").clone()).expect("text");
    assert!(log.contains("/v2/ssh-keys") && log.contains("/v2/box/{id}/ssh-tokens/{token_id}"), "{log}");
    let key = LINE.split(' ').nth(1).expect("base 64");
    for secret in [token.as_str(), key, "s3cret", "l4bel", KEY] {
        assert!(!log.contains(secret), "{secret} in {log}");
    }
    let logs = client.get(&format!("/v2/box/{id}/logs")).await.text();
    assert!(!logs.contains(&token), "{logs}");
}
