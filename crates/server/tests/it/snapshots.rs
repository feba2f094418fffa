//! Snapshots, boxes made from them, and forks.

use boxyard_engine::fake::Call;
use boxyard_engine::{Engine, ErrorKind};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{Client, Yard, box_id};

/// What the fake engine says of every snapshot.
const BYTES: i64 = 4096;

impl Client {
    /// Makes a snapshot that is ready at once, and gives its id.
    pub async fn new_snapshot(&self, id: &str) -> String {
        let made = self.post(&format!("/v2/box/{id}/snapshots"), json!({"name": "s"})).await;
        assert_eq!((made.status, &made.json()["status"]), (StatusCode::OK, &json!("ready")), "{made:?}");
        made.json()["id"].as_str().expect("an id").to_owned()
    }

    /// Makes a box from a snapshot, and gives its id.
    pub async fn restored(&self, snapshot: &str) -> String {
        let made = self.post("/v2/box/from-snapshot", json!({"snapshot_id": snapshot})).await;
        assert_eq!((made.status, &made.json()["status"]), (StatusCode::OK, &json!("idle")), "{made:?}");
        made.json()["id"].as_str().expect("an id").to_owned()
    }

    /// The ids of the snapshots in a list.
    pub async fn snapshot_ids(&self, path: &str) -> Vec<String> {
        let list = self.get(path).await.json();
        let text = |row: &Value| row["id"].as_str().expect("an id").to_owned();
        list["snapshots"].as_array().expect("a list").iter().map(text).collect()
    }

    /// Whether a box has a folder.
    pub async fn has(&self, id: &str, folder: &str) -> bool {
        let body = json!({"command": ["true"], "folder": folder});
        self.post(&format!("/v2/box/{id}/exec"), body).await.status == StatusCode::OK
    }
}

impl Yard {
    /// The ids of the snapshots that the engine has.
    pub async fn saved(&self) -> Vec<String> {
        self.engine.snapshots().await.expect("a list").iter().map(ToString::to_string).collect()
    }

    /// Waits until the engine has so many snapshots.
    pub async fn until_saved(&self, count: usize) {
        while self.saved().await.len() != count {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn a_snapshot_is_a_box_as_it_was_and_outlives_it() {
    let yard = Yard::start().await;
    let client = yard.client();
    let body = json!({"name": "src", "size": "large", "runtime": "python", "labels": ["l"],
        "env_vars": {"A": "source", "B": "source"}});
    let id = client.post("/v2/box", body).await.json()["id"].as_str().expect("an id").to_owned();
    client.sh(&id, "mkdir /workspace/before").await;
    let made = client.post("/v2/box/src/snapshots", json!({"name": "first"})).await.json();
    let snapshot = made["id"].as_str().expect("an id").to_owned();
    assert_eq!(
        made,
        json!({"id": snapshot, "name": "first", "box_id": id, "size_bytes": BYTES, "status": "ready",
            "created_at": made["created_at"]})
    );
    assert!(made["created_at"].as_i64().is_some_and(|at| at > 1_700_000_000 && at < 100_000_000_000), "{made}");
    client.sh(&id, "mkdir /workspace/after").await;
    for path in [format!("/v2/box/{id}/snapshots"), "/v2/box/src/snapshots".into(), "/v2/box/snapshots".into()] {
        assert_eq!(client.get(&path).await.json(), json!({"snapshots": [made]}), "{path}");
    }
    client.delete(&format!("/v2/box/{id}")).await;
    assert_eq!(client.snapshot_ids(&format!("/v2/box/{id}/snapshots")).await, std::slice::from_ref(&snapshot));

    let body = json!({"snapshot_id": snapshot, "name": "copy", "labels": ["m"], "env_vars": {"B": "given", "C": ""}});
    let copy = client.post("/v2/box/from-snapshot", body).await.json();
    assert_eq!((&copy["status"], &copy["name"], &copy["labels"]), (&json!("idle"), &json!("copy"), &json!(["m"])));
    assert_eq!((&copy["size"], &copy["runtime"]), (&json!("large"), &json!("python")), "those of the source");
    let copied = copy["id"].as_str().expect("an id");
    assert_ne!(copied, id);
    let env = yard.engine.spec(&box_id(copied)).expect("a box").env;
    let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(env, [("A", "source"), ("B", "given"), ("C", "")]);
    assert!(client.has(copied, "/workspace/before").await);
    assert!(!client.has(copied, "/workspace/after").await);

    let body = json!({"snapshot_id": snapshot, "size": "small", "runtime": "node"});
    let small = client.post("/v2/box/from-snapshot", body).await.json();
    assert_eq!((&small["size"], &small["runtime"]), (&json!("small"), &json!("python")));
    assert_eq!((&small["labels"], small.get("name")), (&json!([]), None), "neither is inherited");
}

#[tokio::test]
async fn deleted_snapshots_are_gone_at_once_and_boxes_made_from_them_live_on() {
    let yard = Yard::start().await;
    let client = yard.client();
    let (id, other) = (client.new_box().await, client.new_box().await);
    client.sh(&id, "mkdir /workspace/x").await;
    let mut made = Vec::new();
    for _ in 0..4 {
        made.push(client.new_snapshot(&id).await);
    }
    let of_other = client.new_snapshot(&other).await;
    let copy = client.restored(&made[0]).await;
    let wrong = format!("/v2/box/{other}/snapshots/{}", made[0]);
    client.refused(Method::DELETE, &wrong, json!(null), StatusCode::NOT_FOUND, "Snapshot not found").await;
    let path = format!("/v2/box/{id}/snapshots/{}", made[0]);
    assert_eq!(client.delete(&path).await.json(), json!({"message": "Snapshot deleted"}));
    client.refused(Method::DELETE, &path, json!(null), StatusCode::NOT_FOUND, "Snapshot not found").await;
    assert!(client.has(&copy, "/workspace/x").await);
    let body = json!({"snapshot_id": made[0]});
    client.refused(Method::POST, "/v2/box/from-snapshot", body, StatusCode::NOT_FOUND, "Snapshot not found").await;
    let newest_first: Vec<String> = made[1..].iter().rev().cloned().collect();
    assert_eq!(client.snapshot_ids(&format!("/v2/box/{id}/snapshots")).await, newest_first);

    let all = "/v2/box/snapshots";
    for (body, text) in [
        (json!({"ids": []}), "at least one"),
        (json!({"ids": "x"}), "field 'ids'"),
        (json!({"ids": vec!["x"; 1001]}), "at most 1000"),
    ] {
        client.refused(Method::DELETE, all, body, StatusCode::BAD_REQUEST, text).await;
    }
    assert_eq!(client.delete(all).await.status, StatusCode::BAD_REQUEST, "nothing was said");
    let body = json!({"ids": [made[1], made[1], "x", made[0]]});
    assert_eq!(client.call(Method::DELETE, all, Some(body)).await.json(), json!({"deleted": 1}));
    assert_eq!(client.snapshot_ids(all).await, [of_other, made[3].clone(), made[2].clone()]);
    assert_eq!(client.call(Method::DELETE, all, Some(json!({}))).await.json(), json!({"deleted": 3}));
    assert_eq!(client.get(all).await.json(), json!({"snapshots": []}));
    client.new_snapshot(&id).await;
    assert_eq!(client.delete("/v2/box/snapshots?all=true").await.json(), json!({"deleted": 1}));
    yard.until_saved(0).await;
    assert!(client.has(&copy, "/workspace/x").await);
}

#[tokio::test]
async fn snapshots_of_others_are_as_unknown_as_those_that_never_were() {
    let yard = Yard::start().await;
    let (client, stranger) = (yard.client(), yard.stranger().await);
    let (id, theirs) = (client.new_box().await, stranger.new_box().await);
    let snapshot = client.new_snapshot(&id).await;
    for unknown in [snapshot.as_str(), "snap_00000000000000000000000000", "x"] {
        let body = json!({"snapshot_id": unknown});
        let restore = "/v2/box/from-snapshot";
        stranger.refused(Method::POST, restore, body, StatusCode::NOT_FOUND, "Snapshot not found").await;
        for (of, text) in [(&id, "Box not found"), (&theirs, "Snapshot not found")] {
            let path = format!("/v2/box/{of}/snapshots/{unknown}");
            stranger.refused(Method::DELETE, &path, json!(null), StatusCode::NOT_FOUND, text).await;
        }
        let body = json!({"ids": [unknown]});
        let deleted = stranger.call(Method::DELETE, "/v2/box/snapshots", Some(body)).await;
        assert_eq!(deleted.json(), json!({"deleted": 0}));
    }
    let deleted = stranger.call(Method::DELETE, "/v2/box/snapshots", Some(json!({}))).await;
    assert_eq!(deleted.json(), json!({"deleted": 0}));
    assert_eq!(stranger.get("/v2/box/snapshots").await.json(), json!({"snapshots": []}));
    assert_eq!(client.snapshot_ids("/v2/box/snapshots").await, [snapshot]);
}

#[tokio::test]
async fn what_is_asked_is_checked() {
    let yard = Yard::with(|config| config.snapshots_max = 2).await;
    let client = yard.client();
    let id = client.new_box().await;
    let snapshots = format!("/v2/box/{id}/snapshots");
    for (body, text) in [
        (json!({"name": "x".repeat(201)}), "at most 200 characters"),
        (json!({"name": "a\nb"}), "control characters"),
        (json!({"name": 1}), "field 'name'"),
    ] {
        client.refused(Method::POST, &snapshots, body, StatusCode::BAD_REQUEST, text).await;
    }
    let unnamed = client.call(Method::POST, &snapshots, None).await.json();
    assert_eq!(unnamed["name"], json!(id), "the box's");
    let snapshot = client.new_snapshot(&id).await;
    client.refused(Method::POST, &snapshots, json!({}), StatusCode::TOO_MANY_REQUESTS, "the limit of 2").await;

    let restore = "/v2/box/from-snapshot";
    for (body, status, text) in [
        (json!({}), StatusCode::BAD_REQUEST, "snapshot_id is required"),
        (json!({"snapshot_id": 1}), StatusCode::BAD_REQUEST, "field 'snapshot_id'"),
        (json!({"snapshot_id": snapshot, "size": "huge"}), StatusCode::BAD_REQUEST, "size must be"),
        (json!({"snapshot_id": snapshot, "env_vars": {"PATH": "x"}}), StatusCode::BAD_REQUEST, "PATH cannot be set"),
        (json!({"snapshot_id": snapshot, "name": "a b"}), StatusCode::BAD_REQUEST, "name may contain"),
        (json!({"snapshot_id": snapshot, "git_user_name": "<x>"}), StatusCode::BAD_REQUEST, "git_user_name"),
    ] {
        client.refused(Method::POST, restore, body, status, text).await;
    }
    let body = json!({"snapshot_id": snapshot});
    client.refused(Method::POST, "/v2/box", body, StatusCode::UNPROCESSABLE_ENTITY, "from-snapshot").await;
    assert_eq!(client.get("/v2/box").await.json().as_array().map(Vec::len), Some(1), "nothing was made");
}

#[tokio::test]
async fn two_snapshots_asked_for_at_once_are_both_made() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    yard.engine.hold(Call::Save, Some("saves"));
    let ask = || {
        let (client, id) = (client.clone(), id.clone());
        tokio::spawn(async move { client.new_snapshot(&id).await })
    };
    let asked = [ask(), ask(), ask()];
    yard.engine.came_to("saves", 1).await;
    let listed = client.until(&format!("/v2/box/{id}/snapshots"), |list| list["snapshots"][2].is_object()).await;
    for row in listed["snapshots"].as_array().expect("a list") {
        assert_eq!((&row["status"], &row["size_bytes"]), (&json!("creating"), &json!(0)));
    }
    let body = json!({"snapshot_id": listed["snapshots"][0]["id"]});
    client.refused(Method::POST, "/v2/box/from-snapshot", body, StatusCode::CONFLICT, "creating, not ready").await;
    yard.engine.open("saves");
    for asked in asked {
        asked.await.expect("it is made");
    }
    assert_eq!(yard.saved().await.len(), 3);
}

#[tokio::test]
async fn commands_go_on_and_new_ones_wait_while_a_box_is_saved() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let run = client.begin(&id, "gate work; mkdir /workspace/late").await;
    yard.engine.came_to("work", 1).await;
    yard.engine.hold(Call::Save, Some("save"));
    let saving = tokio::spawn({
        let (client, id) = (client.clone(), id.clone());
        async move { client.new_snapshot(&id).await }
    });
    yard.engine.came_to("save", 1).await;
    assert_eq!(client.status(&id).await, "running");
    let (waiting, beginning) = {
        let (client, id) = (client.clone(), id.clone());
        (tokio::spawn(async move { client.sh(&id, "echo waited").await }), run)
    };
    yard.engine.open("save");
    saving.await.expect("it is made");
    assert_eq!(waiting.await.expect("it is done")["output"], "waited\n");
    yard.engine.open("work");
    client.until(&format!("/v2/box/{id}/runs/{beginning}"), |run| run["status"] == "completed").await;
}

#[tokio::test]
async fn a_box_deleted_while_it_is_saved_leaves_no_snapshot_behind() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    yard.engine.hold(Call::Save, Some("save"));
    let ask = || {
        let (client, path) = (client.clone(), format!("/v2/box/{id}/snapshots"));
        tokio::spawn(async move { client.post(&path, json!({})).await })
    };
    let (first, second) = (ask(), ask());
    yard.engine.came_to("save", 1).await;
    client.until("/v2/box/snapshots", |list| list["snapshots"][1].is_object()).await;
    assert_eq!(client.delete(&format!("/v2/box/{id}")).await.status, StatusCode::OK);
    for asked in [first, second] {
        let answer = asked.await.expect("an answer");
        assert!(answer.status.is_client_error() || answer.status.is_server_error(), "{answer:?}");
    }
    yard.engine.open("save");
    assert_eq!(client.get("/v2/box/snapshots").await.json(), json!({"snapshots": []}));
    assert!(yard.saved().await.is_empty());
}

#[tokio::test]
async fn a_snapshot_deleted_before_it_is_ready_never_comes_back() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    yard.engine.hold(Call::Save, Some("save"));
    let ask = || {
        let (client, path) = (client.clone(), format!("/v2/box/{id}/snapshots"));
        tokio::spawn(async move { client.post(&path, json!({})).await })
    };
    let (first, second) = (ask(), ask());
    yard.engine.came_to("save", 1).await;
    client.until("/v2/box/snapshots", |list| list["snapshots"][1].is_object()).await;
    assert_eq!(client.delete("/v2/box/snapshots?all=true").await.json(), json!({"deleted": 2}));
    assert_eq!(client.get("/v2/box/snapshots").await.json(), json!({"snapshots": []}));
    yard.engine.open("save");
    for asked in [first, second] {
        assert_eq!(asked.await.expect("an answer").status, StatusCode::NOT_FOUND);
    }
    yard.until_saved(0).await;
    assert_eq!(yard.engine.calls(Call::Save, &box_id(&id)), 1, "the one that waited was not begun");
    assert_eq!(client.sh(&id, "echo on").await["output"], "on\n");
}

#[tokio::test]
async fn a_save_that_fails_is_told_and_leaves_the_box_as_it_was() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let path = format!("/v2/box/{id}/snapshots");
    yard.engine.fail_next(Call::Save, ErrorKind::Exhausted);
    client.refused(Method::POST, &path, json!({}), StatusCode::SERVICE_UNAVAILABLE, "could not be made").await;
    yard.engine.fail_next(Call::Save, ErrorKind::Broken);
    client.refused(Method::POST, &path, json!({}), StatusCode::INTERNAL_SERVER_ERROR, "could not be made").await;
    assert_eq!(client.get(&path).await.json(), json!({"snapshots": []}));
    assert_eq!(client.sh(&id, "echo on").await["output"], "on\n");
    client.new_snapshot(&id).await;

    yard.engine.lose(&box_id(&id));
    client.until(&format!("/v2/box/{id}"), |data| data["status"] == "error").await;
    client.refused(Method::POST, &path, json!({}), StatusCode::CONFLICT, "no longer there").await;
}

#[tokio::test]
async fn a_snapshot_is_not_removed_while_a_box_is_being_made_from_it() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    client.sh(&id, "mkdir /workspace/x").await;
    let snapshot = client.new_snapshot(&id).await;
    yard.engine.hold(Call::Create, Some("creation"));
    let restoring = tokio::spawn({
        let (client, snapshot) = (client.clone(), snapshot.clone());
        async move { client.restored(&snapshot).await }
    });
    yard.engine.came_to("creation", 1).await;
    assert_eq!(client.delete("/v2/box/snapshots?all=true").await.json(), json!({"deleted": 1}));
    assert_eq!(yard.saved().await, [snapshot]);
    yard.engine.open("creation");
    let copy = restoring.await.expect("it is made");
    yard.until_saved(0).await;
    assert!(client.has(&copy, "/workspace/x").await);
}

#[tokio::test]
async fn a_fork_is_a_copy_that_leaves_no_snapshot() {
    let yard = Yard::start().await;
    let client = yard.client();
    let body = json!({"name": "src", "runtime": "ruby", "env_vars": {"A": "source", "B": "source"}});
    let id = client.post("/v2/box", body).await.json()["id"].as_str().expect("an id").to_owned();
    client.begin(&id, "mkdir /workspace/x; gate g").await;
    yard.engine.came_to("g", 1).await;
    yard.engine.hold(Call::Save, Some("save"));
    let forking = tokio::spawn({
        let client = client.clone();
        async move { client.post("/v2/box/src/fork", json!({"name": "copy", "env_vars": {"B": "given"}})).await }
    });
    yard.engine.came_to("save", 1).await;
    assert_eq!(client.get("/v2/box/snapshots").await.json(), json!({"snapshots": []}), "it is nobody's");
    assert_eq!(client.delete("/v2/box/snapshots?all=true").await.json(), json!({"deleted": 0}));
    yard.engine.open("save");
    let forked = forking.await.expect("an answer");
    assert_eq!((forked.status, &forked.json()["status"]), (StatusCode::OK, &json!("idle")), "{forked:?}");
    let copy = forked.json()["id"].as_str().expect("an id").to_owned();
    assert!(client.has(&copy, "/workspace/x").await);
    let spec = yard.engine.spec(&box_id(&copy)).expect("a box");
    assert_eq!((spec.image.as_str(), spec.env["A"].as_str(), spec.env["B"].as_str()), ("ruby", "source", "given"));
    yard.until_saved(0).await;
    assert_eq!(client.status("src").await, "running");

    yard.engine.fail_next(Call::Save, ErrorKind::Broken);
    let failed = client.post("/v2/box/src/fork", json!({})).await;
    assert_eq!(failed.status, StatusCode::INTERNAL_SERVER_ERROR, "{failed:?}");
    let taken = json!({"name": "copy"});
    client.refused(Method::POST, "/v2/box/src/fork", taken, StatusCode::CONFLICT, "exists already").await;
    yard.until_saved(0).await;
    assert_eq!(client.get("/v2/box").await.json().as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn how_a_box_from_a_snapshot_lives_is_asked_for_and_never_inherited() {
    let yard = Yard::start().await;
    let client = yard.client();
    let body = json!({"keep_alive": true, "init_command": "echo of the source"});
    let kept = client.post("/v2/box", body).await.json()["id"].as_str().expect("an id").to_owned();
    let brief = client.post("/v2/box", json!({"ephemeral": true, "ttl": 1000})).await.json()["id"].clone();
    let brief = brief.as_str().expect("an id").to_owned();
    let snapshots = [client.new_snapshot(&kept).await, client.new_snapshot(&brief).await];
    let init = async |id: &Value| {
        let path = format!("/v2/box/{}/startup", id.as_str().expect("an id"));
        client.get(&path).await.json()["init_command"].clone()
    };
    for (snapshot, source) in snapshots.iter().zip([&kept, &brief]) {
        let fork = format!("/v2/box/{source}/fork");
        for (path, given) in [("/v2/box/from-snapshot", Some(snapshot)), (fork.as_str(), None)] {
            let make = async |mut body: Value| {
                if let Some(snapshot) = given {
                    body["snapshot_id"] = json!(snapshot);
                }
                client.post(path, body).await
            };
            let plain = make(json!({})).await.json();
            assert_eq!(
                (&plain["keep_alive"], plain.get("ephemeral"), plain.get("expires_at")),
                (&json!(false), None, None)
            );
            assert_eq!(init(&plain["id"]).await, "");
            let alive = make(json!({"keep_alive": true, "init_command": "echo mine", "size": "medium"})).await.json();
            assert_eq!((&alive["keep_alive"], &alive["size"]), (&json!(true), &json!("medium")));
            assert_eq!(init(&alive["id"]).await, "echo mine");
            let ephemeral = make(json!({"ephemeral": true, "ttl": 60, "name": "brief"})).await.json();
            assert_eq!((&ephemeral["ephemeral"], &ephemeral["name"]), (&json!(true), &json!("brief")));
            assert!(ephemeral["expires_at"].as_i64().is_some_and(|at| at > 1_700_000_000), "{ephemeral}");
            client.delete("/v2/box/brief").await;
            let whole = make(json!({"ephemeral": true})).await.json();
            let span = |data: &Value| data["expires_at"].as_i64().zip(data["created_at"].as_i64());
            assert!(span(&whole).is_some_and(|(end, begin)| (259_199..=259_201).contains(&(end - begin))), "{whole}");
            for (wrong, told) in [
                (json!({"ephemeral": true, "keep_alive": true}), "either ephemeral or keep_alive"),
                (json!({"ttl": 60}), "ttl is for ephemeral boxes"),
                (json!({"ephemeral": true, "ttl": 259_201}), "ttl must be 1 to 259200"),
                (json!({"keep_alive": "yes"}), "field 'keep_alive'"),
            ] {
                let refused = make(wrong).await;
                assert_eq!(refused.status, StatusCode::BAD_REQUEST);
                assert!(refused.text().contains(told), "{refused:?}");
            }
        }
    }
}
