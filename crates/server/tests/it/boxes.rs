//! Create, get, list, delete.

use boxyard_engine::ErrorKind;
use boxyard_engine::fake::Call;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{Yard, box_id};

#[tokio::test]
async fn a_new_box_is_idle_at_once_and_carries_what_was_asked_for() {
    let yard = Yard::start().await;
    let client = yard.client();
    let body = json!({
        "name": "my-worker", "labels": ["a", "b", "a"], "size": "medium", "runtime": "python",
        "env_vars": {"TOKEN": "s3cret", "EMPTY_VAR": ""}, "unknown_field": [1, 2],
    });
    let made = client.post("/v2/box", body).await.json();
    assert_eq!(made["status"], "idle");
    assert_eq!((&made["name"], &made["labels"]), (&json!("my-worker"), &json!(["a", "b"])));
    assert_eq!((&made["size"], &made["runtime"]), (&json!("medium"), &json!("python")));
    assert_eq!((&made["keep_alive"], &made["enabled_skills"]), (&json!(false), &json!([])));
    for time in ["created_at", "updated_at", "last_activity_at"] {
        let seconds = made[time].as_i64().expect("an integer");
        assert!((1_700_000_000..4_000_000_000).contains(&seconds), "{time} in seconds: {seconds}");
    }
    for absent in ["agent", "model", "network_policy", "env_vars", "error"] {
        assert!(made.get(absent).is_none(), "{absent}");
    }
    assert!(!made.to_string().contains("s3cret"));

    let id = made["id"].as_str().expect("an id");
    assert_eq!(client.get(&format!("/v2/box/{id}")).await.json(), made);
    assert_eq!(client.get("/v2/box/my-worker").await.json(), made);
    assert_eq!(client.get(&format!("/v2/box/{id}/status")).await.json(), json!({"status": "idle"}));
    assert_eq!(client.get("/v2/box").await.json(), json!([made]));

    let spec = yard.engine.spec(&box_id(id)).expect("the engine made it");
    assert_eq!((spec.image.as_str(), spec.limits.cpu_millis), ("python", 4000));
    assert_eq!(spec.env["TOKEN"], "s3cret");
}

#[tokio::test]
async fn the_python_client_sends_null_for_everything_it_leaves_out() {
    let yard = Yard::start().await;
    let mut body: Value =
        json!({"keep_alive": false, "agent": "", "skills": [], "mcp_servers": [], "attach_headers": {}});
    for field in
        ["name", "labels", "size", "runtime", "env_vars", "init_command", "model", "network_policy", "ttl", "ephemeral"]
    {
        body[field] = Value::Null;
    }
    let made = yard.client().post("/v2/box", body).await;
    assert_eq!(made.status, StatusCode::OK, "{made:?}");
    assert_eq!((&made.json()["size"], &made.json()["runtime"]), (&json!("small"), &json!("node")));
    let policy = json!({"network_policy": {"mode": "allow-all", "allowed_domains": null}});
    assert_eq!(yard.client().post("/v2/box", policy).await.status, StatusCode::OK);
    assert_eq!(yard.client().call(Method::POST, "/v2/box", None).await.status, StatusCode::OK, "no body at all");
}

#[tokio::test]
async fn features_that_are_not_there_yet_are_refused_by_name() {
    let yard = Yard::start().await;
    for (field, value) in [
        ("agent", json!("claude-code")),
        ("model", json!("anthropic/claude-sonnet-5")),
        ("network_policy", json!({"mode": "deny-all"})),
        ("attach_headers", json!({"a.example": {"X": "y"}})),
        ("skills", json!(["a/b/c"])),
        ("mcp_servers", json!([{"name": "x"}])),
        ("browser", json!(true)),
        ("clone_repo", json!("github.com/a/b")),
        ("custom_runner", json!({"command": "x"})),
        ("agent_api_key", json!("k")),
    ] {
        let client = yard.client();
        client.refused(Method::POST, "/v2/box", json!({field: value}), StatusCode::UNPROCESSABLE_ENTITY, field).await;
    }
    assert!(yard.engine.ids().is_empty());
}

#[tokio::test]
async fn lists_are_bare_arrays_newest_first_and_filtered() {
    let yard = Yard::start().await;
    let client = yard.client();
    assert_eq!(client.get("/v2/box").await.json(), json!([]));
    let mut ids = Vec::new();
    for labels in [json!(["x"]), json!(["x", "y"]), json!([])] {
        let made = client.post("/v2/box", json!({"labels": labels})).await.json();
        ids.push(made["id"].as_str().expect("an id").to_owned());
    }
    let listed = async |query: &str| -> Vec<String> {
        let boxes = client.get(&format!("/v2/box{query}")).await.json();
        boxes.as_array().expect("an array").iter().map(|data| data["id"].as_str().expect("an id").to_owned()).collect()
    };
    let [a, b, c] = &ids[..] else { panic!("three boxes") };
    assert_eq!(listed("").await, [c.clone(), b.clone(), a.clone()]);
    assert_eq!(listed("?label=x").await, [b.clone(), a.clone()]);
    assert_eq!(listed("?label=y&status=active").await, [b.as_str()]);
    assert_eq!(listed("?label=none").await, [] as [String; 0]);
    assert_eq!(listed("?status=running").await, [] as [String; 0]);
    client.delete(&format!("/v2/box/{b}")).await;
    assert_eq!(listed("").await, [c.clone(), a.clone()]);
    assert_eq!(listed("?status=deleted").await, [b.as_str()]);
    assert_eq!(listed("?status=deleted&label=y").await, [b.as_str()]);
    client.refused(Method::GET, "/v2/box?status=gone", json!({}), StatusCode::BAD_REQUEST, "status must be").await;
}

#[tokio::test]
async fn a_deleted_box_is_still_shown_by_id_and_nothing_else_of_it_is() {
    let yard = Yard::start().await;
    let client = yard.client();
    let made = client.post("/v2/box", json!({"name": "n", "labels": ["l"]})).await.json();
    let id = made["id"].as_str().expect("an id");
    let run = client.sh(id, "true").await;
    assert_eq!(run["exit_code"], 0);
    assert_eq!(client.delete(&format!("/v2/box/{id}")).await.json(), json!({"message": "Box deleted"}));

    let shown = client.get(&format!("/v2/box/{id}")).await;
    assert_eq!((shown.status, &shown.json()["status"]), (StatusCode::OK, &json!("deleted")));
    assert_eq!(shown.json()["name"], "n");
    for (method, path) in [
        (Method::GET, format!("/v2/box/{id}/status")),
        (Method::POST, format!("/v2/box/{id}/config/labels")),
        (Method::DELETE, format!("/v2/box/{id}/config/labels/l")),
        (Method::POST, format!("/v2/box/{id}/exec")),
        (Method::POST, format!("/v2/box/{id}/exec-stream")),
        (Method::GET, format!("/v2/box/{id}/runs")),
        (Method::GET, format!("/v2/box/{id}/runs/x")),
        (Method::POST, format!("/v2/box/{id}/runs/x/cancel")),
        (Method::GET, format!("/v2/box/{id}/logs")),
        (Method::DELETE, format!("/v2/box/{id}")),
        (Method::GET, "/v2/box/n".into()),
    ] {
        let body = json!({"command": ["true"], "label": "x"});
        client.refused(method, &path, body, StatusCode::NOT_FOUND, "Box not found").await;
    }
    // The name is free again at once.
    let again = client.post("/v2/box", json!({"name": "n"})).await;
    assert_eq!(again.status, StatusCode::OK, "{again:?}");
    assert_eq!(client.get("/v2/box/n").await.json()["id"], again.json()["id"]);
}

#[tokio::test]
async fn deletion_answers_before_the_engine_is_done_and_is_retried() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    yard.engine.hold(Call::Remove, Some("removal"));
    assert_eq!(client.delete(&format!("/v2/box/{id}")).await.status, StatusCode::OK);
    yard.engine.came_to("removal", 1).await;
    assert_eq!(client.get("/v2/box").await.json(), json!([]));
    assert_eq!(client.status(&id).await, "deleted");
    assert_eq!(client.get("/v2/box?status=deleted").await.json()[0]["id"], json!(id));
    assert_eq!(yard.engine.ids().len(), 1);
    yard.engine.fail_next(Call::Remove, ErrorKind::Broken);
    yard.engine.open("removal");
    // The first call was asked before the failure was ordered; the engine may see one or two.
    while !yard.engine.ids().is_empty() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn bulk_deletion_skips_what_is_unknown() {
    let yard = Yard::start().await;
    let client = yard.client();
    let (a, b) = (client.new_box().await, client.new_box().await);
    let named = client.post("/v2/box", json!({"name": "named"})).await.json()["id"].clone();
    let ids = json!({"ids": [a, "named", named, "no-such-00000", "nothing", a]});
    let answer = client.call(Method::DELETE, "/v2/box", Some(ids)).await;
    assert_eq!((answer.status, answer.json()), (StatusCode::OK, json!({"deleted": 2})));
    let left = client.get("/v2/box").await.json();
    assert_eq!(left.as_array().map(Vec::len), Some(1));
    assert_eq!(left[0]["id"], json!(b));
    for body in [json!({}), json!({"ids": []}), json!({"ids": null})] {
        client.refused(Method::DELETE, "/v2/box", body, StatusCode::BAD_REQUEST, "ids is required").await;
    }
    let many: Vec<String> = (0..1001).map(|n| n.to_string()).collect();
    client.refused(Method::DELETE, "/v2/box", json!({"ids": many}), StatusCode::BAD_REQUEST, "at most 1000").await;
    assert_eq!(client.status(&b).await, "idle");
}

#[tokio::test]
async fn names_are_unique_among_live_boxes() {
    let yard = Yard::start().await;
    let client = yard.client();
    client.post("/v2/box", json!({"name": "n"})).await;
    client.refused(Method::POST, "/v2/box", json!({"name": "n"}), StatusCode::CONFLICT, "'n' exists already").await;
    assert_eq!(client.get("/v2/box").await.json().as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn there_are_at_most_as_many_boxes_as_allowed() {
    let yard = Yard::with(|config| config.boxes_max = 2).await;
    let client = yard.client();
    let first = client.new_box().await;
    client.new_box().await;
    client.refused(Method::POST, "/v2/box", json!({}), StatusCode::TOO_MANY_REQUESTS, "limit of 2 boxes").await;
    client.delete(&format!("/v2/box/{first}")).await;
    while yard.engine.ids().len() > 1 {
        tokio::task::yield_now().await;
    }
    // The place is free when the engine is done and the keeper has noted it.
    while client.post("/v2/box", json!({})).await.status != StatusCode::OK {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_box_that_cannot_be_made_is_an_error_and_leaves_nothing() {
    let yard = Yard::start().await;
    let client = yard.client();
    for (kind, status) in [
        (ErrorKind::Exhausted, StatusCode::SERVICE_UNAVAILABLE),
        (ErrorKind::Unsupported, StatusCode::UNPROCESSABLE_ENTITY),
        (ErrorKind::Broken, StatusCode::INTERNAL_SERVER_ERROR),
    ] {
        yard.engine.fail_next(Call::Create, kind);
        let expected = "Box creation failed: pretending to create failed";
        client.refused(Method::POST, "/v2/box", json!({"name": "n"}), status, expected).await;
        assert_eq!(client.get("/v2/box").await.json(), json!([]));
    }
    assert_eq!(client.post("/v2/box", json!({"name": "n"})).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_box_that_takes_long_is_creating_and_clients_ask_again() {
    let yard = Yard::start().await;
    let client = yard.client();
    yard.engine.hold(Call::Create, Some("image"));
    let (good, bad) = tokio::join!(client.post("/v2/box", json!({})), client.post("/v2/box", json!({})));
    let [good, bad] = [good, bad].map(|answer| {
        assert_eq!((answer.status, &answer.json()["status"]), (StatusCode::OK, &json!("creating")));
        answer.json()["id"].as_str().expect("an id").to_owned()
    });
    assert_eq!(client.get("/v2/box?status=creating").await.json().as_array().map(Vec::len), Some(2));
    client.delete(&format!("/v2/box/{bad}")).await;
    yard.engine.open("image");
    client.until(&format!("/v2/box/{good}"), |data| data["status"] == "idle").await;
}

#[tokio::test]
async fn a_box_that_fails_late_is_in_error_and_can_only_be_deleted() {
    let yard = Yard::start().await;
    let client = yard.client();
    yard.engine.hold(Call::Create, Some("image"));
    yard.engine.fail_next(Call::Create, ErrorKind::Broken);
    let made = client.post("/v2/box", json!({})).await.json();
    let id = made["id"].as_str().expect("an id");
    assert_eq!(made["status"], "creating");
    yard.engine.open("image");
    client.until(&format!("/v2/box/{id}"), |data| data["status"] == "error").await;
    let exec = format!("/v2/box/{id}/exec");
    let failed = "the box failed and can only be deleted";
    client.refused(Method::POST, &exec, json!({"command": ["true"]}), StatusCode::CONFLICT, failed).await;
    assert_eq!(client.delete(&format!("/v2/box/{id}")).await.status, StatusCode::OK);
    assert_eq!(client.get("/v2/box").await.json(), json!([]));
}

#[tokio::test]
async fn activity_is_kept() {
    let mut yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    client.sh(&id, "true").await;
    client.sh(&id, "true").await;
    let path = format!("/v2/box/{id}");
    let before = client.get(&path).await.json();
    assert_eq!(before["total_cpu_ns"], 2_000_000);
    yard.restart().await;
    assert_eq!(yard.client().get(&path).await.json(), before);
}
