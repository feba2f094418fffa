//! Requests with an `Idempotency-Key`: carried out at most once.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{Answer, Client, Yard, parts};

impl Client {
    async fn keyed(&self, path: &str, key: &str, body: Value) -> Answer {
        self.send(self.request(Method::POST, path).header("Idempotency-Key", key).json(&body)).await
    }
}

fn sh(script: &str) -> Value {
    json!({"command": ["sh", "-c", script]})
}

async fn runs(client: &Client, id: &str) -> usize {
    client.get(&format!("/v2/box/{id}/runs")).await.json()["runs"].as_array().map_or(0, Vec::len)
}

#[tokio::test]
async fn the_same_request_again_gets_the_same_answer_and_runs_nothing_also_after_a_restart() {
    let mut yard = Yard::start().await;
    let id = yard.client().new_box().await;
    let path = |door: &str| format!("/v2/box/{id}/{door}");
    let order = sh("printf out; stderr err; exit 3");
    let first = yard.client().keyed(&path("exec"), "k", order.clone()).await;
    assert_eq!((first.status, first.header("idempotent-replayed")), (StatusCode::OK, None));
    for _ in 0..2 {
        let client = yard.client();
        let again = client.keyed(&path("exec"), "k", order.clone()).await;
        assert_eq!((again.status, again.json()), (StatusCode::OK, first.json()));
        assert_eq!(again.header("x-box-run-id"), first.header("x-box-run-id"));
        assert_eq!(again.header("idempotent-replayed"), Some("true"));
        let stream = client.keyed(&path("exec-stream"), "k", order.clone()).await;
        assert_eq!(stream.header("idempotent-replayed"), Some("true"));
        let found = parts(&[stream.body]);
        assert_eq!(
            (found.output.as_slice(), &found.data),
            (&b"outerr\n"[..], &json!({"exit_code": 3, "cpu_ns": 1_000_000}))
        );
        assert_eq!(runs(&client, &id).await, 1);
        yard.restart().await;
    }
    let client = yard.client();
    let code = json!({"code": "echo hi", "language": "python"});
    let first = client.keyed(&path("code"), "c", code.clone()).await;
    let again = client.keyed(&path("code"), "c", code).await;
    assert_eq!((again.json(), again.header("x-box-run-id")), (first.json(), first.header("x-box-run-id")));
    // Another box, or no key, is another matter.
    let other = client.new_box().await;
    let there = client.keyed(&format!("/v2/box/{other}/exec"), "k", order).await;
    assert_eq!(there.header("idempotent-replayed"), None);
}

#[tokio::test]
async fn who_asks_again_meanwhile_waits_for_the_same_end() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let call = |door: &str, key: &str| {
        let (client, path, key) = (client.clone(), format!("/v2/box/{id}/{door}"), key.to_owned());
        tokio::spawn(async move { client.keyed(&path, &key, sh("echo begun; gate g; echo done")).await })
    };
    let detached =
        client.keyed(&format!("/v2/box/{id}/exec"), "d", json!({"command": ["gate", "d"], "async": true})).await;
    let again =
        client.keyed(&format!("/v2/box/{id}/exec"), "d", json!({"command": ["gate", "d"], "async": true})).await;
    assert_eq!(detached.json(), again.json());
    let all: Vec<_> = (0..8).map(|n| call(if n % 2 == 0 { "exec" } else { "exec-stream" }, "k")).collect();
    yard.engine.came_to("g", 1).await;
    yard.engine.open("g");
    let mut ids = Vec::new();
    for (n, answer) in all.into_iter().enumerate() {
        let answer = answer.await.expect("no panic");
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        ids.push(answer.header("x-box-run-id").expect("an id").to_owned());
        if n % 2 == 0 {
            assert_eq!(answer.json(), json!({"exit_code": 0, "output": "begun\ndone\n"}));
        } else {
            assert_eq!(parts(&[answer.body]).output, b"begun\ndone\n");
        }
    }
    ids.dedup();
    assert_eq!((ids.len(), runs(&client, &id).await), (1, 2), "{ids:?}");
}

#[tokio::test]
async fn another_request_under_the_same_key_is_refused_and_keys_have_a_shape() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let path = format!("/v2/box/{id}/exec");
    client.keyed(&path, "k", sh("true")).await;
    for other in
        [sh("false"), json!({"command": ["sh", "-c", "true"], "folder": "/tmp"}), json!({"command": ["sh", "-ctrue"]})]
    {
        for door in ["exec", "exec-stream"] {
            let answer = client.keyed(&format!("/v2/box/{id}/{door}"), "k", other.clone()).await;
            assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{answer:?}");
            assert!(answer.text().contains("another request"), "{answer:?}");
        }
    }
    for key in ["", " ", "a b", "ü", &"x".repeat(256)] {
        assert_eq!(client.keyed(&path, key, sh("true")).await.status, StatusCode::BAD_REQUEST, "{key:?}");
    }
    let twice = client.request(Method::POST, &path).header("Idempotency-Key", "a").header("Idempotency-Key", "b");
    assert_eq!(client.send(twice.json(&sh("true"))).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(client.keyed(&path, &"x".repeat(255), sh("true")).await.status, StatusCode::OK);
    assert_eq!(runs(&client, &id).await, 2);
    // A request that is wrong in itself takes no key.
    assert_eq!(client.keyed(&path, "wrong", json!({"command": []})).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(client.keyed(&path, "wrong", sh("true")).await.status, StatusCode::OK);
}

#[tokio::test]
async fn keys_of_one_account_say_nothing_to_another() {
    let yard = Yard::start().await;
    let (client, stranger) = (yard.client(), yard.stranger().await);
    let id = client.new_box().await;
    let path = format!("/v2/box/{id}/exec");
    client.keyed(&path, "k", sh("echo secret")).await;
    for order in [sh("echo secret"), sh("other")] {
        let answer = stranger.keyed(&path, "k", order).await;
        assert_eq!((answer.status, answer.json()), (StatusCode::NOT_FOUND, json!({"error": "Box not found"})));
    }
    let own = stranger.new_box().await;
    let answer = stranger.keyed(&format!("/v2/box/{own}/exec"), "k", sh("echo mine")).await;
    assert_eq!(answer.json()["output"], "mine\n");
}

#[tokio::test]
async fn what_was_recorded_and_never_started_is_not_started_later_either() {
    let mut yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let path = format!("/v2/box/{id}/exec");
    let folder = json!({"command": ["true"], "folder": "nowhere"});
    assert_eq!(client.keyed(&path, "refused", folder.clone()).await.status, StatusCode::BAD_REQUEST);
    let again = client.keyed(&path, "refused", folder).await;
    assert_eq!((again.status, again.header("idempotent-replayed")), (StatusCode::CONFLICT, Some("true")));
    assert!(again.text().contains("does not exist") && again.text().contains("not run again"), "{again:?}");
    // As a server leaves it that is killed between the record and the start.
    client.keyed(&path, "k", sh("echo never")).await;
    yard.down().await;
    let database = rusqlite::Connection::open(yard.config().database()).expect("open the database");
    let unstarted = "update runs set status = 'running', exit_code = null, completed_at = null, output_end = null,
                     output_held = 0, output = null where prompt = 'sh -c echo never'";
    assert_eq!(database.execute(unstarted, ()).expect("change it"), 1);
    drop(database);
    yard.up().await;
    let answer = yard.client().keyed(&path, "k", sh("echo never")).await;
    assert_eq!(answer.status, StatusCode::CONFLICT, "{answer:?}");
    assert!(answer.text().contains("lost when the server was restarted"), "{answer:?}");
    let stream = yard.client().keyed(&format!("/v2/box/{id}/exec-stream"), "k", sh("echo never")).await;
    assert_eq!(parts(&[stream.body]).event, "error");
    assert_eq!(runs(&yard.client(), &id).await, 2);
}

#[tokio::test]
async fn keys_are_forgotten_after_their_time() {
    let mut yard = Yard::start().await;
    let id = yard.client().new_box().await;
    let path = format!("/v2/box/{id}/exec");
    let first = yard.client().keyed(&path, "k", sh("true")).await;
    yard.down().await;
    let database = rusqlite::Connection::open(yard.config().database()).expect("open the database");
    database.execute("update claims set created_at = created_at - 86400000", ()).expect("age it");
    drop(database);
    yard.up().await;
    let client = yard.client();
    let asked = async {
        loop {
            let answer = client.keyed(&path, "k", sh("true")).await;
            if answer.header("x-box-run-id") != first.header("x-box-run-id") {
                return;
            }
        }
    };
    tokio::time::timeout(crate::support::PATIENCE, asked).await.expect("it is forgotten");
}
