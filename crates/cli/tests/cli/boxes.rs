use std::sync::{Arc, Mutex};

use axum::extract::{Path, RawQuery};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use serde_json::{Value, json};

use super::{Server, boxyard, run, text};

const ID: &str = "current-wasp-05510";

fn row(status: &str) -> Value {
    json!({
        "id": ID, "customer_id": format!("acc_{}", "0".repeat(26)), "name": "my-worker", "labels": ["prod", "eu"], "size": "small",
        "runtime": "node", "status": status, "keep_alive": false, "enabled_skills": [], "total_input_tokens": 0,
        "total_output_tokens": 0, "total_prompts": 0, "total_cpu_ns": 0, "total_compute_cost_usd": 0.0,
        "total_token_cost_usd": 0.0, "last_activity_at": 0, "created_at": 1_700_000_000, "updated_at": 0,
    })
}

#[test]
fn create_sends_what_was_asked_for_and_waits_for_the_image() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    let create = post(move |headers: HeaderMap, Json(body): Json<Value>| async move {
        let key = headers["x-box-api-key"].to_str().expect("a key").to_owned();
        seen.lock().expect("not poisoned").push((key, body));
        Json(row("creating"))
    });
    let server = Server::start(Router::new().route("/v2/box", create).route(
        "/v2/box/{id}",
        get(|Path(id): Path<String>| async move {
            assert_eq!(id, ID);
            Json(row("idle"))
        }),
    ));
    let arguments =
        ["create", "--runtime", "node", "--name", "my-worker", "--label", "a", "--label", "b", "--env", "A=1=2"];
    let (code, out, err) = run(server.boxyard(&arguments));
    assert_eq!((code, out.as_str()), (0, "current-wasp-05510\n"), "{err}");
    assert!(err.contains("may have to be built first"), "{err}");
    let asked = asked.lock().expect("not poisoned").clone();
    let body = json!({
        "name": "my-worker", "labels": ["a", "b"], "size": null, "runtime": "node", "env_vars": {"A": "1=2"},
    });
    assert_eq!(asked, [("box_test".to_owned(), body)]);
}

#[test]
fn list_prints_a_table_or_json() {
    let list = get(|RawQuery(query): RawQuery| async move {
        assert_eq!(query.as_deref(), Some("label=a%3Ab&status=idle"));
        Json(json!([row("idle")]))
    });
    let server = Server::start(Router::new().route("/v2/box", list));
    let (code, out, err) = run(server.boxyard(&["list", "--label", "a:b", "--status", "idle"]));
    assert_eq!(code, 0, "{err}");
    assert_eq!(
        out,
        "ID                  NAME       STATUS  SIZE   RUNTIME  MADE                  LABELS\n\
         current-wasp-05510  my-worker  idle    small  node     2023-11-14 22:13:20Z  prod eu\n"
    );
    let (_, out, _) = run(server.boxyard(&["list", "--label", "a:b", "--status", "idle", "--json"]));
    assert_eq!(serde_json::from_str::<Value>(&out).expect("JSON"), json!([row("idle")]));
}

#[test]
fn delete_goes_on_after_one_that_fails() {
    let delete = delete(|Path(id): Path<String>| async move {
        if id == "gone" {
            (StatusCode::NOT_FOUND, Json(json!({"error": "Box not found"})))
        } else {
            (StatusCode::OK, Json(json!({"message": "deleted"})))
        }
    });
    let server = Server::start(Router::new().route("/v2/box/{id}", delete));
    let (code, _, err) = run(server.boxyard(&["delete", "gone", ID]));
    assert_eq!((code, err.as_str()), (1, "boxyard: gone: Box not found\n"));
    assert_eq!(run(server.boxyard(&["delete", ID])), (0, String::new(), String::new()));
}

#[test]
fn the_server_and_the_key_are_found_where_they_are() {
    let list = get(|headers: HeaderMap| async move {
        assert!(headers["x-box-api-key"] == "box_upstash" || headers["x-box-api-key"].len() == 47);
        Json(json!([]))
    });
    let server = Server::start(Router::new().route("/v2/box", list));
    let mut call = boxyard(&["list"]);
    call.env("UPSTASH_BOX_BASE_URL", format!("{}/", server.url)).env("UPSTASH_BOX_API_KEY", "box_upstash");
    let (code, _, err) = run(call);
    assert_eq!(code, 0, "{err}");

    let folder = tempfile::tempdir().expect("a temporary folder");
    let address = server.url.trim_start_matches("http://");
    std::fs::write(folder.path().join("boxyard.toml"), format!("http = '{address}'\n")).expect("write the file");
    let (code, _, err) = run(boxyard(&["list", "--data-dir", text(folder.path())]));
    assert_eq!(code, 64);
    assert!(err.contains("no API key: set BOXYARD_API_KEY"), "{err}");
    std::fs::write(folder.path().join("first-key"), format!("box_{}\n", "x".repeat(43))).expect("write the key");
    let (code, _, err) = run(boxyard(&["list", "--data-dir", text(folder.path())]));
    assert_eq!(code, 0, "{err}");
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let mut call = boxyard(&["list", "--key", "box_test"]);
    call.env("BOXYARD_URL", "http://127.0.0.1:1");
    let (code, _, err) = run(call);
    assert_eq!(code, 1);
    assert!(err.starts_with("boxyard: cannot reach the server at http://127.0.0.1:1/: "), "{err}");
}

#[test]
fn snapshots_are_made_listed_deleted_and_boxes_made_from_them() {
    let snapshot = format!("snap_{}", "0".repeat(26));
    let record = |status: &str| {
        json!({"id": format!("snap_{}", "0".repeat(26)), "name": "mine", "box_id": ID, "size_bytes": 4096, "status": status,
            "created_at": 1_700_000_000})
    };
    let asked = Arc::new(Mutex::new(Vec::new()));
    let keep = |word: &'static str| {
        let seen = Arc::clone(&asked);
        move |body: Value| seen.lock().expect("not poisoned").push((word, body))
    };
    let (made, restored, deleted) = (keep("made"), keep("restored"), keep("deleted"));
    let of_box = get(move || async move { Json(json!({"snapshots": [record("ready")]})) }).post(
        move |Json(body): Json<Value>| async move {
            made(body);
            Json(record("creating"))
        },
    );
    let all = get(move || async move { Json(json!({"snapshots": [record("ready")]})) }).delete(
        move |Json(body): Json<Value>| async move {
            deleted(body);
            Json(json!({"deleted": 0}))
        },
    );
    let restore = post(move |Json(body): Json<Value>| async move {
        restored(body);
        Json(row("idle"))
    });
    let server = Server::start(
        Router::new()
            .route("/v2/box/{id}/snapshots", of_box)
            .route("/v2/box/snapshots", all)
            .route("/v2/box/from-snapshot", restore)
            .route("/v2/box/{id}/fork", post(|| async { Json(row("idle")) })),
    );
    let (code, out, err) = run(server.boxyard(&["snapshot", "create", ID, "--name", "mine"]));
    assert_eq!((code, out.as_str()), (0, format!("{snapshot}\n").as_str()), "{err}");
    let (code, out, _) = run(server.boxyard(&["snapshot", "list"]));
    assert!(code == 0 && out.contains(&snapshot) && out.contains("mine") && out.contains("4096"), "{out}");
    let (code, _, err) = run(server.boxyard(&["snapshot", "delete", &snapshot]));
    assert!(code == 1 && err.contains("Snapshot not found"), "{code}: {err}");
    assert_eq!(run(server.boxyard(&["snapshot", "delete"])).0, 64, "nothing is not everything");
    let (code, out, err) = run(server.boxyard(&["create", "--from", &snapshot, "--env", "A=1"]));
    assert_eq!((code, out.as_str()), (0, format!("{ID}\n").as_str()), "{err}");
    assert_eq!(run(server.boxyard(&["create", "--from", &snapshot, "--runtime", "node"])).0, 64);
    let (code, out, err) = run(server.boxyard(&["fork", ID, "--name", "copy"]));
    assert_eq!((code, out.as_str()), (0, format!("{ID}\n").as_str()), "{err}");
    assert_eq!(
        *asked.lock().expect("not poisoned"),
        [
            ("made", json!({"name": "mine"})),
            ("deleted", json!({"ids": [snapshot]})),
            ("restored", json!({"snapshot_id": snapshot, "env_vars": {"A": "1"}})),
        ]
    );
}

#[test]
fn create_says_how_a_box_is_to_live() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    let create = post(move |Json(body): Json<Value>| async move {
        seen.lock().expect("not poisoned").push(body);
        Json(row("idle"))
    });
    let server = Server::start(Router::new().route("/v2/box", create));
    let (code, _, err) = run(server.boxyard(&["create", "--ephemeral", "--ttl", "1h"]));
    assert_eq!(code, 0, "{err}");
    let (code, _, err) = run(server.boxyard(&["create", "--keep-alive", "--init-command", "npm start"]));
    assert_eq!(code, 0, "{err}");
    let asked = asked.lock().expect("not poisoned").clone();
    assert_eq!((&asked[0]["ephemeral"], &asked[0]["ttl"]), (&json!(true), &json!(3600)));
    assert_eq!((&asked[1]["keep_alive"], &asked[1]["init_command"]), (&json!(true), &json!("npm start")));
    for wrong in [
        &["create", "--ttl", "1h"][..],
        &["create", "--ephemeral", "--ttl", "500ms"],
        &["create", "--ephemeral", "--keep-alive"],
    ] {
        assert_eq!(run(server.boxyard(wrong)).0, 64, "{wrong:?}");
    }
}

#[test]
fn pause_and_resume_tell_of_each_box_that_refuses() {
    let answer = |verb: &'static str| {
        post(move |Path(id): Path<String>| async move {
            if id == "alive" {
                (StatusCode::CONFLICT, Json(json!({"error": format!("a keep-alive box is never {verb}d")})))
            } else {
                (StatusCode::OK, Json(json!({"message": format!("Box {verb}d")})))
            }
        })
    };
    let server = Server::start(
        Router::new().route("/v2/box/{id}/pause", answer("pause")).route("/v2/box/{id}/resume", answer("resume")),
    );
    for verb in ["pause", "resume"] {
        assert_eq!(run(server.boxyard(&[verb, ID, "my-worker"])).0, 0);
        let (code, out, err) = run(server.boxyard(&[verb, "alive", ID]));
        assert_eq!((code, out.as_str()), (1, ""), "{err}");
        assert!(err.contains("alive") && err.contains("never"), "{err}");
    }
    assert_eq!(run(server.boxyard(&["pause"])).0, 64);
}
