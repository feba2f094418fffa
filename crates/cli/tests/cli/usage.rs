use axum::extract::Path;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

use super::{Server, run};

fn usage() -> Value {
    json!({
        "cpu_ns": 3_200_000_000_u64, "memory_bytes": 25_000_000, "pids": 7, "disk_bytes": 0, "network_received": 1500,
        "network_sent": 17, "oom_kills": 1,
        "limits": {"cpu_millis": 2000, "memory_bytes": 4_000_000_000_u64, "pids": 1024, "disk_bytes": 5_000_000_000_u64},
    })
}

fn server() -> Server {
    let row = |id: &str, name: Option<&str>| {
        json!({
            "id": id, "customer_id": format!("acc_{}", "0".repeat(26)), "name": name, "labels": [], "size": "small",
            "runtime": "node", "status": "idle", "keep_alive": false, "enabled_skills": [], "total_input_tokens": 0,
            "total_output_tokens": 0, "total_prompts": 0, "total_cpu_ns": 0, "total_compute_cost_usd": 0.0,
            "total_token_cost_usd": 0.0, "last_activity_at": 0, "created_at": 0, "updated_at": 0,
        })
    };
    let all = json!([row("current-wasp-05510", Some("my-worker")), row("sweet-shark-26021", None)]);
    let one = |Path(id): Path<String>| async move {
        match id.as_str() {
            "gone" => (StatusCode::NOT_FOUND, Json(json!({"error": "Box not found"}))),
            _ => (StatusCode::OK, Json(usage())),
        }
    };
    Server::start(Router::new().route("/v2/box", get(|| async { Json(all) })).route("/v2/box/{id}/usage", get(one)))
}

#[test]
fn a_table_of_all_boxes_or_of_those_that_are_named() {
    let server = server();
    let (code, out, err) = run(server.boxyard(&["usage"]));
    assert_eq!(code, 0, "{err}");
    assert_eq!(
        out,
        "BOX                MEMORY        DISK        PIDS      CPU TIME  RECEIVED  SENT  OOM KILLS\n\
         my-worker          25 MB / 4 GB  0 B / 5 GB  7 / 1024  3.2s      1.5 kB    17 B  1\n\
         sweet-shark-26021  25 MB / 4 GB  0 B / 5 GB  7 / 1024  3.2s      1.5 kB    17 B  1\n"
    );
    let (code, out, err) = run(server.boxyard(&["usage", "gone", "my-worker", "--json"]));
    assert_eq!((code, err.as_str()), (1, "boxyard: gone: Box not found\n"));
    assert_eq!(serde_json::from_str::<Value>(&out).expect("JSON"), json!({"box": "my-worker", "usage": usage()}));
    assert_eq!(run(server.boxyard(&["usage", ".."])).0, 64);
}
