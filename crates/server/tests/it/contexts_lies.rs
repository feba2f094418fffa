//! Interpreters that lie: code in a box can say anything in its interpreter's name. It spoils its own answers and nothing else.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::contexts::events;
use crate::support::{Yard, box_id};

#[tokio::test]
async fn an_interpreter_that_breaks_the_protocol_is_ended_and_says_how() {
    let yard = Yard::with(|config| config.contexts.results_cap = 100_000).await;
    let client = yard.client();
    let id = client.new_box().await;
    let context = client.new_context(&id).await;
    for (code, text) in [
        ("garbage", "a message of an unknown kind"),
        ("endless", "a message that is too long"),
        ("early", "a message out of turn"),
        ("word S{\"version\":\"1\"}", "a message out of turn"),
        ("word Rno head", "a result without a head"),
        ("word R[]", "a result without a head"),
        ("word E[1]", "not as it must be"),
        ("word E{\"name\":1}", "not as it must be"),
        ("word D{\"n\":-1}", "not as it must be"),
        ("half", "only one of its two outputs"),
    ] {
        let came = client.came_of(&context, &format!("print before\n{code}")).await;
        assert_eq!(
            (&came["error"]["name"], &came["stdout"]),
            (&json!("InterpreterEnded"), &json!("before\n")),
            "{code}"
        );
        let message = came["error"]["message"].as_str().expect("a message");
        assert!(message.contains("broke the protocol") && message.contains(text), "{code}: {message}");
        assert!(client.get(&context).await.json()["status"] == "ended", "{code}");
        assert_eq!(yard.engine.jobs(&box_id(&id)), Vec::<String>::new(), "{code}: nothing of it is left");
        let next = client.came_of(&context, "print on").await;
        assert!(next["stdout"] == "on\n" && next["note"].is_string(), "{code}: {next}");
    }
    let (_, chunks) = client.stream(&format!("{context}/code-stream"), json!({"code": "garbage"})).await;
    let found = events(&chunks);
    assert_eq!((found[0].0.as_str(), &found[0].1["name"]), ("error", &json!("InterpreterEnded")));
    assert_eq!(found[1].0, "done");
}

#[tokio::test]
async fn an_interpreter_that_does_not_begin_as_it_must_is_refused() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    for (fake, text) in [("die", "it ended with exit code 127: no such thing"), ("garbage", "broke the protocol")] {
        let body = json!({"language": "python", "env": {"FAKE": fake}});
        let path = format!("/v2/box/{id}/contexts");
        client.refused(Method::POST, &path, body, StatusCode::UNPROCESSABLE_ENTITY, text).await;
    }
    assert_eq!(client.get(&format!("/v2/box/{id}/contexts")).await.json(), json!({"contexts": []}));
    yard.engine.idle(&box_id(&id)).await;
    assert_eq!(client.status(&id).await, "idle");
}

#[tokio::test]
async fn a_client_that_leaves_while_its_context_is_made_leaves_nothing_behind() {
    let yard = Yard::with(|config| config.contexts.per_box = 1).await;
    let client = yard.client();
    let id = client.new_box().await;
    let path = format!("/v2/box/{id}/contexts");
    let body = json!({"language": "python", "env": {"FAKE": "mute"}});
    let making = tokio::spawn({
        let (client, path) = (client.clone(), path.clone());
        async move { client.post(&path, body).await }
    });
    client.until(&format!("/v2/box/{id}"), |data| data["status"] == "running").await;
    making.abort();
    client.until(&format!("/v2/box/{id}"), |data| data["status"] == "idle").await;
    yard.engine.idle(&box_id(&id)).await;
    client.new_context(&id).await;
}

#[tokio::test]
async fn an_interpreter_that_never_comes_to_an_end_is_the_business_of_a_timeout() {
    let yard = Yard::start().await;
    let client = yard.client();
    let context = client.new_context(&client.new_box().await).await;
    let body = json!({"code": "print a\nmute", "timeout": 20});
    let came = client.post(&format!("{context}/code"), body).await.json();
    assert_eq!((&came["error"]["name"], &came["stdout"]), (&json!("Timeout"), &json!("a\n")));
    assert_eq!(client.came_of(&context, "print on").await["note"], Value::Null);
}

#[tokio::test]
async fn a_result_with_line_breaks_in_its_json_is_no_second_event() {
    let yard = Yard::start().await;
    let client = yard.client();
    let context = client.new_context(&client.new_box().await).await;
    let code = "word R{\"main\":false,\"parts\":[[\"application/json\",3]]}\nprint x";
    let came = client.came_of(&context, code).await;
    assert_eq!(came["error"]["name"], "InterpreterEnded", "the line is cut: {came}");
}
