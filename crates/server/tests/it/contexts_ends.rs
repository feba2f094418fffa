//! How code and contexts come to their end: by themselves, by order, and with what they live in.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::contexts::events;
use crate::support::{PATIENCE, Yard, box_id};

#[tokio::test]
async fn code_is_interrupted_and_its_variables_stay() {
    let yard = Yard::start().await;
    let client = yard.client();
    let context = client.new_context(&client.new_box().await).await;
    assert_eq!(client.post(&format!("{context}/interrupt"), json!({})).await.json(), json!({"interrupted": false}));
    let code = client.begin_code(&yard, &context, "on", "let x 5\nsleep").await;
    yard.engine.open("on");
    assert_eq!(client.post(&format!("{context}/interrupt"), json!({})).await.json(), json!({"interrupted": true}));
    assert_eq!(code.await.expect("an answer").json()["error"]["name"], "KeyboardInterrupt");
    assert_eq!(client.came_of(&context, "get x").await["results"][0]["text/plain"], "5");
}

#[tokio::test]
async fn code_that_takes_too_long_is_interrupted_and_says_so() {
    let yard = Yard::start().await;
    let client = yard.client();
    let context = client.new_context(&client.new_box().await).await;
    let body = json!({"code": "let x 5\nprint a\nsleep", "timeout": 20});
    let came = client.post(&format!("{context}/code"), body).await.json();
    assert_eq!((&came["error"]["name"], &came["stdout"]), (&json!("Timeout"), &json!("a\n")));
    let message = came["error"]["message"].as_str().expect("a message");
    assert!(message.contains("longer than 20 ms") && message.contains("variables are kept"), "{message}");
    assert_eq!(came["error"]["traceback"], "line 1", "that of the interrupt");
    let again = client.came_of(&context, "get x").await;
    assert_eq!((&again["results"][0]["text/plain"], &again["note"]), (&json!("5"), &Value::Null));
}

#[tokio::test]
async fn code_that_does_not_stop_gets_a_new_interpreter_and_says_so() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let context = client.new_context(&id).await;
    let body = json!({"code": "let x 5\nprint a\nstubborn", "timeout": 20});
    let (_, chunks) = client.stream(&format!("{context}/code-stream"), body).await;
    let found = events(&chunks);
    assert_eq!(found[0], ("stdout".to_owned(), json!({"text": "a\n"})));
    assert_eq!(found[1].1["name"], "Timeout");
    let message = found[1].1["message"].as_str().expect("a message");
    assert!(message.contains("did not stop") && message.contains("variables are gone"), "{message}");
    assert_eq!(client.came_of(&context, "get x").await["error"]["name"], "NameError");
    assert_eq!(yard.engine.jobs(&box_id(&id)).len(), 1, "the old interpreter is gone");
}

#[tokio::test]
async fn a_reader_who_does_not_read_does_not_keep_code_from_its_time() {
    let yard = Yard::start().await;
    let client = yard.client();
    let context = client.new_context(&client.new_box().await).await;
    let request = client.request(Method::POST, &format!("{context}/code-stream"));
    let body = json!({"code": "yes 100000000\nlet x 5", "timeout": 50});
    let unread = request.json(&body).send().await.expect("an answer");
    // It has to wait for the first one, which nobody reads.
    assert_eq!(client.came_of(&context, "get x").await["results"][0]["text/plain"], "5");
    drop(unread);
}

#[tokio::test]
async fn an_interpreter_that_ends_is_started_anew_by_the_next_code() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let context = client.new_context(&id).await;
    let came = client.came_of(&context, "let x 5\nprint last words\nexit 3").await;
    assert_eq!((&came["error"]["name"], &came["stdout"]), (&json!("InterpreterEnded"), &json!("last words\n")));
    let message = came["error"]["message"].as_str().expect("a message");
    assert!(message.contains("exit code 3") && message.contains("the next code starts a new one"), "{message}");
    assert_eq!(client.get(&context).await.json()["status"], "ended");
    let next = client.came_of(&context, "get x").await;
    assert!(
        next["note"].as_str().is_some_and(|note| note.contains("started anew") && note.contains("exit code 3")),
        "{next}"
    );
    assert_eq!((&next["error"]["name"], &next["execution_count"]), (&json!("NameError"), &json!(1)));
    assert_eq!(client.came_of(&context, "print on").await["note"], Value::Null);
    let log = client.get(&format!("/v2/box/{id}/logs")).await.text();
    assert!(log.contains("the interpreter ended: it ended with exit code 3"), "{log}");
}

#[tokio::test]
async fn a_restart_ends_what_runs_and_forgets_what_waits() {
    let yard = Yard::start().await;
    let client = yard.client();
    let context = client.new_context(&client.new_box().await).await;
    client.came_of(&context, "let x 5").await;
    let running = client.begin_code(&yard, &context, "never", "").await;
    let waiting = tokio::spawn({
        let (client, context) = (client.clone(), context.clone());
        async move { client.code(&context, "print never").await }
    });
    // Its request is under way or in the queue; the restart comes after it in either case, or it finds the new interpreter.
    let restarted = client.post(&format!("{context}/restart"), json!({})).await;
    assert_eq!((restarted.status, &restarted.json()["status"]), (StatusCode::OK, &json!("idle")));
    let running = running.await.expect("an answer").json();
    assert_eq!(running["error"]["name"], "Restarted");
    let waited = waiting.await.expect("an answer");
    assert!(waited.status == StatusCode::CONFLICT || waited.json()["stdout"] == "never\n", "{waited:?}");
    assert_eq!(client.came_of(&context, "get x").await["error"]["name"], "NameError");
}

#[tokio::test]
async fn code_goes_on_when_its_client_leaves_and_is_not_begun_when_it_has_left() {
    let yard = Yard::start().await;
    let client = yard.client();
    let context = client.new_context(&client.new_box().await).await;
    let left = client.begin_code(&yard, &context, "on", "let x 5").await;
    let waits = client.request(Method::POST, &format!("{context}/code-stream")).json(&json!({"code": "let x 6"}));
    drop(waits.send().await.expect("its head"));
    left.abort();
    yard.engine.open("on");
    // Whichever of the two the server notices first: the second may have come before its client was gone.
    let value = client.came_of(&context, "get x").await["results"][0]["text/plain"].clone();
    assert!(value == "5" || value == "6", "{value}");
}

#[tokio::test]
async fn a_deleted_context_says_so_to_who_waits_for_it() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let context = client.new_context(&id).await;
    let code = client.begin_code(&yard, &context, "never", "").await;
    assert_eq!(client.delete(&context).await.status, StatusCode::OK);
    let answer = code.await.expect("an answer");
    assert!(answer.status == StatusCode::GONE && answer.text().contains("it was deleted"), "{answer:?}");
    yard.engine.idle(&box_id(&id)).await;
}

#[tokio::test]
async fn a_context_ends_with_its_box() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let context = client.new_context(&id).await;
    let code = client.begin_code(&yard, &context, "never", "").await;
    client.delete(&format!("/v2/box/{id}")).await;
    let answer = code.await.expect("an answer");
    assert!(answer.status == StatusCode::GONE && answer.text().contains("its box was deleted"), "{answer:?}");
    client.refused(Method::GET, &context, Value::Null, StatusCode::NOT_FOUND, "Box not found").await;
}

#[tokio::test]
async fn a_frozen_box_keeps_its_contexts_and_a_stopped_one_has_none() {
    let yard = Yard::with(|config| config.pause_keep_memory_for = Duration::from_hours(1)).await;
    let client = yard.client();
    let id = client.new_box().await;
    let context = client.new_context(&id).await;
    client.came_of(&context, "let x 5").await;
    assert!(client.post(&format!("/v2/box/{id}/pause"), json!({})).await.status.is_success());
    assert_eq!(client.status(&id).await, "paused");
    assert_eq!(client.get(&context).await.json()["status"], "idle", "looking at it wakes nothing");
    assert_eq!(client.status(&id).await, "paused");
    assert_eq!(client.came_of(&context, "get x").await["results"][0]["text/plain"], "5");
    assert_eq!(client.status(&id).await, "idle");
    // Its first process is killed.
    yard.engine.kill(&box_id(&id));
    let list = format!("/v2/box/{id}/contexts");
    client.until(&list, |list| list["contexts"] == json!([])).await;
    let body = json!({"code": "get x"});
    let path = format!("{context}/code");
    client.refused(Method::POST, &path, body, StatusCode::GONE, "it ended with its box").await;
    let new = client.new_context(&id).await;
    assert_eq!(client.came_of(&new, "get x").await["error"]["name"], "NameError");
}

#[tokio::test]
async fn a_context_that_is_paused_away_says_why() {
    let yard = Yard::with(|config| config.pause_keep_memory_for = Duration::ZERO).await;
    let client = yard.client();
    let id = client.new_box().await;
    let context = client.new_context(&id).await;
    assert!(client.post(&format!("/v2/box/{id}/pause"), json!({})).await.status.is_success());
    client.until(&format!("/v2/box/{id}/contexts"), |list| list["contexts"] == json!([])).await;
    let body = json!({"code": "get x"});
    client.refused(Method::POST, &format!("{context}/code"), body, StatusCode::GONE, "paused for longer").await;
    assert_eq!(client.status(&id).await, "paused", "it was not woken for that");
}

#[tokio::test]
async fn a_context_that_is_not_used_ends() {
    let yard = Yard::with(|config| config.contexts.idle = Duration::from_millis(50)).await;
    let client = yard.client();
    let id = client.new_box().await;
    let context = client.new_context(&id).await;
    client.until(&format!("/v2/box/{id}/contexts"), |list| list["contexts"] == json!([])).await;
    client.refused(Method::GET, &context, Value::Null, StatusCode::GONE, "it was not used").await;
    yard.engine.idle(&box_id(&id)).await;
}

#[tokio::test]
async fn a_server_that_stops_ends_its_contexts_and_the_next_one_knows_none() {
    let mut yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let context = client.new_context(&id).await;
    let code = client.begin_code(&yard, &context, "never", "").await;
    yard.down().await;
    let answer = code.await;
    assert!(answer.is_err() || answer.is_ok_and(|answer| answer.status == StatusCode::SERVICE_UNAVAILABLE));
    tokio::time::timeout(PATIENCE, yard.engine.idle(&box_id(&id))).await.expect("the interpreter ends");
    yard.up().await;
    let client = yard.client();
    assert_eq!(client.get(&format!("/v2/box/{id}/contexts")).await.json(), json!({"contexts": []}));
    client.refused(Method::GET, &context, Value::Null, StatusCode::NOT_FOUND, "contexts end with the server").await;
}
