//! Git over HTTP: shapes, refusals, and who gets to see a token.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::routing::any;
use axum::{Json, Router};
use boxyard_server::config::{Config, GitHubHost};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{Answer, Client, Yard};

const TOKEN: &str = "ghp_secret_of_the_box";

impl Client {
    async fn git(&self, id: &str, what: &str, body: Value) -> Answer {
        self.post(&format!("/v2/box/{id}/git/{what}"), body).await
    }

    /// A box with a clone of this repository in the folder `work`.
    async fn with_clone(&self, body: Value, repo: &str) -> String {
        let made = self.post("/v2/box", body).await;
        assert_eq!(made.status, StatusCode::OK, "{made:?}");
        let id = made.json()["id"].as_str().expect("an id").to_owned();
        let cloned = self.git(&id, "clone", json!({"repo": repo, "folder": "work"})).await;
        assert_eq!(cloned.status, StatusCode::OK, "{cloned:?}");
        id
    }
}

fn refusal(answer: &Answer) -> String {
    answer.json()["error"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_repository_is_cloned_changed_committed_and_pushed() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let cloned = client.git(&id, "clone", json!({"repo": "github.com/octocat/Hello-World"})).await;
    let told = json!({"message": "Repository cloned", "folder": "/workspace/home/Hello-World"});
    assert_eq!((cloned.status, cloned.json()), (StatusCode::OK, told));
    let (folder, path) = (json!("Hello-World"), format!("/v2/box/{id}/git"));
    assert_eq!(client.get(&format!("{path}/status?folder=Hello-World")).await.json(), json!({"status": "?? a.txt\n"}));
    let diff = client.get(&format!("{path}/diff?folder=/workspace/home/Hello-World")).await;
    assert_eq!(diff.json(), json!({"diff": "diff --git a/a.txt b/a.txt\n"}));
    let commit = json!({"message": "A change", "author_name": "Ada", "author_email": null, "folder": folder});
    let made = client.git(&id, "commit", commit).await.json();
    assert_eq!(made, json!({"sha": "0123456789abcdef0123456789abcdef01234567", "message": "Ada: A change"}));
    let checked_out = client.git(&id, "checkout", json!({"branch": "feature/it", "folder": folder})).await;
    assert_eq!(checked_out.json(), json!({"message": "Branch created and checked out"}));
    let pushed = client.git(&id, "push", json!({"branch": null, "folder": folder})).await;
    assert_eq!(pushed.json(), json!({"message": "Pushed feature/it to origin"}));
    let said = client.git(&id, "exec", json!({"args": ["--version"], "folder": folder})).await;
    assert_eq!(said.json(), json!({"output": "git version 2.47.3\n", "exit_code": 0}));
    // None of this is a run.
    assert_eq!(client.get(&format!("/v2/box/{id}/runs")).await.json(), json!({"runs": []}));
}

#[tokio::test]
async fn outside_of_a_repository_there_is_nothing_to_see_and_the_rest_is_refused() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    assert_eq!(client.get(&format!("/v2/box/{id}/git/status")).await.json(), json!({"status": ""}));
    assert_eq!(client.get(&format!("/v2/box/{id}/git/diff")).await.json(), json!({"diff": ""}));
    for (what, body) in [
        ("commit", json!({"message": "x"})),
        ("push", json!({})),
        ("push", json!({"branch": "main"})),
        ("checkout", json!({"branch": "main"})),
        ("create-pr", json!({"title": "x", "github_token": TOKEN})),
        ("create-issue", json!({"title": "x", "github_token": TOKEN})),
    ] {
        let path = format!("/v2/box/{id}/git/{what}");
        client.refused(Method::POST, &path, body, StatusCode::BAD_REQUEST, "not a git repository").await;
    }
    let said = client.git(&id, "exec", json!({"args": ["status"]})).await;
    let text = "fatal: not a git repository (or any of the parent directories): .git\n";
    assert_eq!((said.status, said.json()), (StatusCode::OK, json!({"output": text, "exit_code": 128})));
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_before_anything_runs() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let long = "x".repeat(70_000);
    for (method, what, body, text) in [
        (Method::POST, "git/clone", json!({}), "repo is required"),
        (Method::POST, "git/clone", json!({"repo": "-x"}), "repo must be"),
        (Method::POST, "git/clone", json!({"repo": "ext::sh -c evil"}), "repo must be"),
        (Method::POST, "git/clone", json!({"repo": "https://u:p@x.test/a"}), "must not have a password"),
        (Method::POST, "git/clone", json!({"repo": "x.test/a", "branch": "--bare"}), "not the name of a branch"),
        (Method::POST, "git/clone", json!({"repo": "x.test/a", "depth": 0}), "depth must be"),
        (Method::POST, "git/clone", json!({"repo": "x.test/a", "depth": -1}), "field 'depth'"),
        (Method::POST, "git/clone", json!({"repo": "x.test/a", "folder": "a\0b"}), "NUL"),
        (Method::POST, "git/clone", json!({"repo": "x.test/a", "github_token": "a b c d"}), "github_token must"),
        (Method::POST, "git/commit", json!({}), "message is required"),
        (Method::POST, "git/commit", json!({"message": " \n"}), "message is required"),
        (Method::POST, "git/commit", json!({"message": long}), "at most 65536 bytes"),
        (Method::POST, "git/commit", json!({"message": "x", "author_name": "a <b>"}), "author_name must"),
        (Method::POST, "git/push", json!({"branch": "-f"}), "not the name of a branch"),
        (Method::POST, "git/push", json!({"branch": "a:b"}), "not the name of a branch"),
        (Method::POST, "git/checkout", json!({}), "branch is required"),
        (Method::POST, "git/checkout", json!({"branch": "--detach"}), "not the name of a branch"),
        (Method::POST, "git/checkout", json!({"branch": "."}), "not the name of a branch"),
        (Method::POST, "git/exec", json!({}), "args is required"),
        (Method::POST, "git/exec", json!({"args": []}), "args is required"),
        (Method::POST, "git/exec", json!({"args": "status"}), "field 'args'"),
        (Method::POST, "git/exec", json!({"args": ["a\0"]}), "NUL"),
        (Method::POST, "git/exec", json!({"args": ["status"], "folder": "nowhere"}), "does not exist"),
        (Method::POST, "git/create-pr", json!({}), "title is required"),
        (Method::POST, "git/create-pr", json!({"title": "x", "base": "-b"}), "base: "),
        (Method::POST, "git/create-pr", json!({"title": "x".repeat(257)}), "title must"),
        (Method::POST, "git/create-issue", json!({"title": "x", "attach": vec!["a"; 21]}), "at most 20 files"),
        (Method::POST, "git/create-issue", json!({"title": "x", "body": long}), "body must"),
        (Method::PUT, "config/git", json!({}), "at least one"),
        (Method::PUT, "git-config", json!({"git_user_name": "", "git_user_email": null}), "at least one"),
        (Method::PUT, "config/git", json!({"git_user_name": "--add"}), "git_user_name must"),
        (Method::PUT, "config/git", json!({"git_user_email": "a b@c"}), "git_user_email must"),
    ] {
        client.refused(method, &format!("/v2/box/{id}/{what}"), body, StatusCode::BAD_REQUEST, text).await;
    }
    for folder in ["status?folder=nowhere", "diff?folder=/no/where"] {
        let answer = client.get(&format!("/v2/box/{id}/git/{folder}")).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{answer:?}");
    }
    for (field, value) in [("github_token", "a b"), ("git_user_name", "\n"), ("git_user_email", "<>")] {
        client.refused(Method::POST, "/v2/box", json!({ field: value }), StatusCode::BAD_REQUEST, field).await;
    }
    assert_eq!(client.get("/v2/box").await.json().as_array().map(Vec::len), Some(1), "nothing was made");
}

#[tokio::test]
async fn git_s_refusals_have_its_words_and_a_status_that_fits() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.with_clone(json!({}), "https://git.test/a/b").await;
    for (what, body, status, text) in [
        ("clone", json!({"repo": "https://git.test/a/missing"}), StatusCode::NOT_FOUND, "Repository not found"),
        ("clone", json!({"repo": "git.test/a/c", "branch": "gone"}), StatusCode::NOT_FOUND, "Remote branch gone"),
        ("clone", json!({"repo": "https://git.test/a/private"}), StatusCode::FORBIDDEN, "could not read Username"),
        ("commit", json!({"message": "nothing", "folder": "work"}), StatusCode::CONFLICT, "nothing to commit"),
        ("checkout", json!({"branch": "wip", "folder": "work"}), StatusCode::CONFLICT, "would be overwritten"),
    ] {
        client.refused(Method::POST, &format!("/v2/box/{id}/git/{what}"), body, status, text).await;
    }
    let bare = client.post("/v2/box", json!({"env_vars": {"FAKE_NO_GIT": "1"}})).await.json();
    let bare = bare["id"].as_str().expect("an id");
    let path = format!("/v2/box/{bare}/git/status");
    client.refused(Method::GET, &path, json!({}), StatusCode::UNPROCESSABLE_ENTITY, "this box has no git").await;
    assert_eq!(client.git(bare, "exec", json!({"args": ["status"]})).await.json()["exit_code"], 127);
}

#[tokio::test]
async fn a_folder_that_is_not_empty_gets_the_clone_in_one_of_its_own() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.with_clone(json!({}), "https://git.test/a/b").await;
    let again = json!({"repo": "https://git.test/a/b", "folder": "work"});
    assert_eq!(client.git(&id, "clone", again.clone()).await.json()["folder"], "/workspace/home/work/b");
    let path = format!("/v2/box/{id}/git/clone");
    client.refused(Method::POST, &path, again, StatusCode::CONFLICT, "already exists").await;
    let plain = json!({"repo": "https://git.test/a/b"});
    assert_eq!(client.git(&id, "clone", plain.clone()).await.json()["folder"], "/workspace/home/b");
    client.refused(Method::POST, &path, plain, StatusCode::CONFLICT, "already exists").await;
}

#[tokio::test]
async fn a_token_of_one_call_is_for_the_repository_s_host_and_nobody_hears_of_it() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let clone =
        async |repo: &str, token: &str| client.git(&id, "clone", json!({"repo": repo, "github_token": token})).await;
    assert_eq!(clone("https://git.test/a/private", "once-and-never-again").await.status, StatusCode::OK);
    let wrong = clone("https://git.test/a/private2", "wrong-and-shown").await;
    assert_eq!(wrong.status, StatusCode::FORBIDDEN);
    assert!(refusal(&wrong).contains("*** is wrong") && !wrong.text().contains("wrong-and-shown"), "{wrong:?}");
    let clear = clone("http://git.test/a/private3", "once-and-never-again").await;
    assert_eq!(clear.status, StatusCode::FORBIDDEN);
    assert!(refusal(&clear).contains("the token was not sent"), "{clear:?}");
    // The next call is without.
    let push = client.git(&id, "push", json!({"folder": "private"})).await;
    assert_eq!((push.status, refusal(&push).contains("could not read Username")), (StatusCode::FORBIDDEN, true));
    let said = client.git(&id, "exec", json!({"args": ["fetch", "env"], "folder": "private"})).await;
    assert!(!said.text().contains("BOXYARD_GIT_TOKEN"), "{said:?}");
    assert!(!client.get(&format!("/v2/box/{id}/logs?limit=1000")).await.text().contains("once-and"));
}

fn hosts(host: &str, insecure: bool, api: SocketAddr) -> impl FnOnce(&mut Config) {
    let host = GitHubHost { host: host.into(), insecure, api: format!("http://{api}/api") };
    move |config| config.git.github_hosts = vec![host]
}

#[tokio::test]
async fn a_box_s_own_token_is_for_github_and_for_commands_that_speak_with_it() {
    let yard = Yard::with(hosts("hub.test", false, SocketAddr::from(([127, 0, 0, 1], 1)))).await;
    let client = yard.client();
    let id = client.with_clone(json!({"github_token": TOKEN}), "https://hub.test/a/private").await;
    assert_eq!(client.git(&id, "push", json!({"folder": "work"})).await.status, StatusCode::OK);
    // Clients send it with every clone: other hosts do not get it for that.
    for body in [
        json!({"repo": "https://evil.test/a/private"}),
        json!({"repo": "https://evil.test/a/private", "github_token": TOKEN}),
    ] {
        assert_eq!(client.git(&id, "clone", body).await.status, StatusCode::FORBIDDEN);
    }
    let env = async |args: Value| client.git(&id, "exec", json!({"args": args, "folder": "work"})).await.text();
    assert!(env(json!(["fetch", "env"])).await.contains("BOXYARD_GIT_TOKEN=***"));
    assert!(!env(json!(["gc", "env"])).await.contains("BOXYARD_GIT_TOKEN"));
    assert!(!client.sh(&id, "env").await.to_string().contains(TOKEN));
    for path in [format!("/v2/box/{id}"), "/v2/box".into(), format!("/v2/box/{id}/logs?limit=1000")] {
        assert!(!client.get(&path).await.text().contains(TOKEN), "{path}");
    }
}

#[tokio::test]
async fn a_box_s_own_token_outlives_the_server_and_not_the_box_and_is_never_inherited() {
    let mut yard = Yard::with(hosts("hub.test", false, SocketAddr::from(([127, 0, 0, 1], 1)))).await;
    let client = yard.client();
    let id = client.with_clone(json!({"github_token": TOKEN}), "https://hub.test/a/private").await;
    yard.restart().await;
    let client = yard.client();
    let push = async |id: &str| client.git(id, "push", json!({"folder": "work"})).await.status;
    assert_eq!(push(&id).await, StatusCode::OK);
    let forked = client.post(&format!("/v2/box/{id}/fork"), json!({})).await.json();
    assert_eq!(push(forked["id"].as_str().expect("an id")).await, StatusCode::FORBIDDEN);
    let saved = client.post(&format!("/v2/box/{id}/snapshots"), json!({})).await.json();
    let restore = async |body: Value| client.post("/v2/box/from-snapshot", body).await.json();
    let without = restore(json!({"snapshot_id": saved["id"]})).await;
    assert_eq!(push(without["id"].as_str().expect("an id")).await, StatusCode::FORBIDDEN);
    let with = restore(json!({"snapshot_id": saved["id"], "github_token": TOKEN})).await;
    assert_eq!(push(with["id"].as_str().expect("an id")).await, StatusCode::OK);

    let config = format!("/v2/box/{id}/config/git");
    let changed = client.call(Method::PUT, &config, Some(json!({"github_token": ""}))).await;
    assert_eq!((changed.status, changed.text().contains("token")), (StatusCode::OK, false));
    assert_eq!(push(&id).await, StatusCode::FORBIDDEN);
    client.call(Method::PUT, &config, Some(json!({"github_token": TOKEN}))).await;
    assert_eq!(push(&id).await, StatusCode::OK);
    client.delete(&format!("/v2/box/{id}")).await;
    let parsed = id.parse().expect("a box id");
    assert_eq!(yard.store().await.git_token(&parsed).await.expect("a look"), None);
    client.refused(Method::PUT, &config, json!({"github_token": TOKEN}), StatusCode::NOT_FOUND, "Box not found").await;
}

#[tokio::test]
async fn who_commits_is_told_at_the_creation_and_changed_by_either_path() {
    let yard = Yard::start().await;
    let client = yard.client();
    let made =
        client.post("/v2/box", json!({"git_user_name": "Ada", "git_user_email": "ada@example.com"})).await.json();
    let id = made["id"].as_str().expect("an id").to_owned();
    let name = async |id: &str| client.git(id, "exec", json!({"args": ["config", "--get", "user.name"]})).await.json();
    assert_eq!(name(&id).await, json!({"output": "Ada\n", "exit_code": 0}));
    let put =
        async |path: &str, body: Value| client.call(Method::PUT, &format!("/v2/box/{id}/{path}"), Some(body)).await;
    let changed = put("config/git", json!({"git_user_name": "Grace", "git_user_email": null})).await;
    assert_eq!(changed.json(), json!({"git_user_name": "Grace", "git_user_email": "ada@example.com"}));
    let changed = put("git-config", json!({"git_user_email": "grace@example.com"})).await;
    assert_eq!(changed.json(), json!({"git_user_name": "Grace", "git_user_email": "grace@example.com"}));
    let saved = client.post(&format!("/v2/box/{id}/snapshots"), json!({})).await.json();
    let body = json!({"snapshot_id": saved["id"], "git_user_name": "Edsger"});
    let restored = client.post("/v2/box/from-snapshot", body).await.json();
    assert_eq!(name(restored["id"].as_str().expect("an id")).await["output"], "Edsger\n");
    // A box without git is a box all the same, and its log says what is missing.
    let bare = json!({"git_user_name": "Ada", "env_vars": {"FAKE_NO_GIT": "1"}});
    let bare = client.post("/v2/box", bare).await.json();
    assert_eq!(bare["status"], "idle");
    let logs = format!("/v2/box/{}/logs", bare["id"].as_str().expect("an id"));
    client.until(&logs, |logs| logs.to_string().contains("Git could not be told who commits")).await;
}

#[tokio::test]
async fn a_call_that_takes_too_long_is_ended() {
    let yard = Yard::with(|config| config.git.timeout = Duration::from_millis(50)).await;
    let client = yard.client();
    let id = client.new_box().await;
    let path = format!("/v2/box/{id}/git/clone");
    let body = json!({"repo": "https://git.test/a/hang"});
    client.refused(Method::POST, &path, body, StatusCode::GATEWAY_TIMEOUT, "git.timeout").await;
    client.until(&format!("/v2/box/{id}"), |data| data["status"] == "idle").await;
}

#[tokio::test]
async fn a_call_ends_with_its_client_and_with_its_box() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let body = json!({"repo": "https://git.test/a/hang"});
    let hanging = {
        let (client, id, body) = (client.clone(), id.clone(), body.clone());
        tokio::spawn(async move { client.git(&id, "clone", body).await })
    };
    client.until(&format!("/v2/box/{id}"), |data| data["status"] == "running").await;
    hanging.abort();
    client.until(&format!("/v2/box/{id}"), |data| data["status"] == "idle").await;

    let hanging = {
        let (client, id) = (client.clone(), id.clone());
        tokio::spawn(async move { client.git(&id, "clone", body).await })
    };
    client.until(&format!("/v2/box/{id}"), |data| data["status"] == "running").await;
    assert_eq!(client.delete(&format!("/v2/box/{id}")).await.status, StatusCode::OK);
    let answer = hanging.await.expect("an answer");
    assert!(refusal(&answer).contains("was deleted"), "{answer:?}");
    assert!(answer.status.is_client_error(), "{answer:?}");
}

#[tokio::test]
async fn a_paused_box_is_resumed_for_git() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.with_clone(json!({}), "https://git.test/a/b").await;
    assert_eq!(client.call(Method::POST, &format!("/v2/box/{id}/pause"), None).await.status, StatusCode::OK);
    let status = client.get(&format!("/v2/box/{id}/git/status?folder=work")).await;
    assert_eq!(status.json(), json!({"status": "?? a.txt\n"}));
    assert_eq!(client.status(&id).await, "idle");
}

#[tokio::test]
async fn a_huge_diff_is_cut_and_says_so() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    client.git(&id, "clone", json!({"repo": "https://git.test/a/huge"})).await;
    let diff = client.get(&format!("/v2/box/{id}/git/diff?folder=huge")).await.json();
    assert_eq!((diff["diff"].as_str().map(str::len), &diff["truncated"]), (Some(16 * 1024 * 1024), &json!(true)));
}

#[tokio::test]
async fn another_account_sees_no_repository() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.with_clone(json!({"github_token": TOKEN}), "https://git.test/a/b").await;
    let stranger = yard.stranger().await;
    for (what, body) in [
        ("clone", json!({"repo": "git.test/a/c"})),
        ("commit", json!({"message": "x"})),
        ("push", json!({})),
        ("checkout", json!({"branch": "x"})),
        ("exec", json!({"args": ["status"]})),
        ("create-pr", json!({"title": "x"})),
        ("create-issue", json!({"title": "x"})),
    ] {
        let path = format!("/v2/box/{id}/git/{what}");
        stranger.refused(Method::POST, &path, body, StatusCode::NOT_FOUND, "Box not found").await;
    }
    for what in ["git/status", "git/diff"] {
        assert_eq!(stranger.get(&format!("/v2/box/{id}/{what}")).await.status, StatusCode::NOT_FOUND);
    }
    for what in ["config/git", "git-config"] {
        let body = json!({"git_user_name": "x"});
        stranger
            .refused(Method::PUT, &format!("/v2/box/{id}/{what}"), body, StatusCode::NOT_FOUND, "Box not found")
            .await;
    }
}

/// Requests that a stand-in for GitHub has seen: method, path with query, token, body.
type Seen = Arc<Mutex<Vec<(String, String, String, Value)>>>;

async fn stand_in(
    State(seen): State<Seen>,
    request: Request,
) -> (StatusCode, [(&'static str, String); 1], Json<Value>) {
    let (method, uri) = (request.method().to_string(), request.uri().to_string());
    let token = request.headers()["authorization"].to_str().expect("text").to_owned();
    let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.expect("a body");
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let title = body["title"].as_str().unwrap_or_default().to_owned();
    seen.lock().expect("seen").push((method.clone(), uri.clone(), token.clone(), body.clone()));
    let made = |number: u32, kind: &str| json!({"html_url": format!("https://hub.test/{kind}/{number}"), "number": number, "title": title, "base": {"ref": body["base"]}});
    let plain = |status, body| (status, [("x-none", String::new())], Json(body));
    match (method.as_str(), uri.as_str(), title.as_str()) {
        (_, _, "denied") => plain(StatusCode::UNAUTHORIZED, json!({"message": format!("Bad credentials: {token}")})),
        (_, _, "forbidden") => {
            plain(StatusCode::FORBIDDEN, json!({"message": "Resource not accessible by integration"}))
        }
        (_, _, "unpushed") => plain(
            StatusCode::UNPROCESSABLE_ENTITY,
            json!({"message": "Validation Failed", "errors": [{"field": "head", "code": "invalid"}]}),
        ),
        (_, _, "down") => plain(StatusCode::SERVICE_UNAVAILABLE, json!({})),
        (_, _, "nonsense") => plain(StatusCode::OK, json!([1, 2])),
        ("POST", "/api/repos/a/b/pulls", "open") => {
            let errors = json!([{"message": "A pull request already exists for a:main."}]);
            plain(StatusCode::UNPROCESSABLE_ENTITY, json!({"message": "Validation Failed", "errors": errors}))
        }
        (_, _, "moved") if !uri.ends_with("/new") => {
            (StatusCode::TEMPORARY_REDIRECT, [("location", format!("{uri}/new"))], Json(Value::Null))
        }
        (_, _, "away") => {
            (StatusCode::TEMPORARY_REDIRECT, [("location", "http://127.0.0.2:1/x".into())], Json(Value::Null))
        }
        ("GET", "/api/repos/a/b", _) => plain(StatusCode::OK, json!({"default_branch": "trunk"})),
        ("GET", uri, _) if uri.starts_with("/api/repos/a/b/pulls?") => {
            let open = json!([{"html_url": "https://hub.test/pull/3", "number": 3, "title": "older", "base": {"ref": "trunk"}}]);
            plain(StatusCode::OK, open)
        }
        ("POST", uri, _) if uri.contains("/pulls") => plain(StatusCode::CREATED, made(7, "pull")),
        ("POST", uri, _) if uri.contains("/issues") => plain(StatusCode::CREATED, made(8, "issues")),
        _ => plain(StatusCode::NOT_FOUND, json!({"message": "Not Found"})),
    }
}

/// A server whose GitHub is a stand-in, and what that sees.
async fn with_github() -> (Yard, Seen) {
    let seen = Seen::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let router = Router::new().fallback(any(stand_in)).with_state(Arc::clone(&seen));
    // Ends with the test's runtime.
    tokio::spawn(async move { axum::serve(listener, router).await });
    (Yard::with(hosts("hub.test", false, address)).await, seen)
}

#[tokio::test]
async fn pull_requests_and_issues_are_made_by_the_server_with_the_box_s_token_or_the_request_s() {
    let (yard, seen) = with_github().await;
    let client = yard.client();
    let id = client.with_clone(json!({"github_token": TOKEN}), "https://hub.test/a/b.git").await;
    let made = client.git(&id, "create-pr", json!({"title": "A change", "body": "Because.", "folder": "work"})).await;
    let told = json!({"url": "https://hub.test/pull/7", "number": 7, "title": "A change", "base": "trunk"});
    assert_eq!((made.status, made.json()), (StatusCode::OK, told));
    let body = json!({"title": "B", "base": "next", "folder": "work", "github_token": "another-token"});
    assert_eq!(client.git(&id, "create-pr", body).await.json()["base"], "next");
    let body = json!({"title": "Broken", "body": "", "attach": [], "folder": "work"});
    let told = json!({"url": "https://hub.test/issues/8", "number": 8, "title": "Broken"});
    assert_eq!(client.git(&id, "create-issue", body).await.json(), told);
    let seen = seen.lock().expect("seen").clone();
    let bearer = |token: &str| format!("Bearer {token}");
    let wanted = [
        ("GET".to_owned(), "/api/repos/a/b".to_owned(), bearer(TOKEN), Value::Null),
        (
            "POST".into(),
            "/api/repos/a/b/pulls".into(),
            bearer(TOKEN),
            json!({"title": "A change", "head": "main", "base": "trunk", "body": "Because."}),
        ),
        (
            "POST".into(),
            "/api/repos/a/b/pulls".into(),
            bearer("another-token"),
            json!({"title": "B", "head": "main", "base": "next", "body": ""}),
        ),
        ("POST".into(), "/api/repos/a/b/issues".into(), bearer(TOKEN), json!({"title": "Broken", "body": ""})),
    ];
    assert_eq!(seen, wanted);
}

#[tokio::test]
async fn files_that_are_text_go_into_the_text_and_the_others_are_named() {
    let (yard, seen) = with_github().await;
    let client = yard.client();
    let id = client.with_clone(json!({"github_token": TOKEN}), "https://hub.test/a/b").await;
    let attach = json!(["notes.txt", "shot.png", "missing.txt", "/var/long.txt"]);
    let made = client
        .git(&id, "create-issue", json!({"title": "x", "body": "See:", "attach": attach, "folder": "work"}))
        .await;
    let warning = "not attached: shot.png (not a text; push it with the repository and link to it), missing.txt (there is no \
         such file), /var/long.txt (longer than 32768 bytes)";
    assert_eq!(made.json()["warning"], warning);
    let text = "See:\n\n<details><summary>notes.txt</summary>\n\n```\ncontent of ./notes.txt\n```\n\n</details>\n";
    assert_eq!(seen.lock().expect("seen")[0].3["body"], text);
}

#[tokio::test]
async fn what_github_says_is_passed_on_and_its_token_is_not() {
    let (yard, seen) = with_github().await;
    let client = yard.client();
    let id = client.with_clone(json!({"github_token": TOKEN}), "git@hub.test:a/b.git").await;
    let path = format!("/v2/box/{id}/git/create-pr");
    for (title, status, text) in [
        ("denied", StatusCode::FORBIDDEN, "GitHub: Bad credentials: Bearer ***"),
        ("forbidden", StatusCode::FORBIDDEN, "GitHub: Resource not accessible by integration"),
        ("unpushed", StatusCode::UNPROCESSABLE_ENTITY, "head is invalid; push main first"),
        ("down", StatusCode::BAD_GATEWAY, "GitHub: it answered with status 503"),
        ("nonsense", StatusCode::BAD_GATEWAY, "makes no sense"),
        ("away", StatusCode::BAD_GATEWAY, "leads to another host"),
    ] {
        let body = json!({"title": title, "base": "trunk", "folder": "work"});
        client.refused(Method::POST, &path, body, status, text).await;
    }
    let moved = client.git(&id, "create-pr", json!({"title": "moved", "base": "trunk", "folder": "work"})).await;
    assert_eq!(moved.json()["number"], 7, "a repository that was renamed is found on the same host: {moved:?}");
    let open = client.git(&id, "create-pr", json!({"title": "open", "base": "trunk", "folder": "work"})).await.json();
    assert_eq!((&open["number"], &open["title"]), (&json!(3), &json!("older")));
    assert!(open["warning"].as_str().is_some_and(|text| text.contains("open already")), "{open}");
    let asked = seen.lock().expect("seen").last().map(|(_, uri, ..)| uri.clone());
    assert_eq!(asked.as_deref(), Some("/api/repos/a/b/pulls?head=a%3Amain&state=open&per_page=1"));
}

#[tokio::test]
async fn without_a_token_or_a_repository_of_github_nobody_is_asked() {
    let (yard, seen) = with_github().await;
    let client = yard.client();
    let id = client.with_clone(json!({}), "https://hub.test/a/b").await;
    let path = format!("/v2/box/{id}/git/create-issue");
    let status = StatusCode::UNPROCESSABLE_ENTITY;
    client.refused(Method::POST, &path, json!({"title": "x", "folder": "work"}), status, "no token for GitHub").await;
    for repo in ["https://evil.test/a/b", "http://hub.test/a/b", "https://hub.test/a/b/../../../user"] {
        let id = client.with_clone(json!({"github_token": TOKEN}), repo).await;
        let path = format!("/v2/box/{id}/git/create-issue");
        let body = json!({"title": "x", "folder": "work"});
        client.refused(Method::POST, &path, body, status, "origin is not on hub.test").await;
    }
    assert!(seen.lock().expect("seen").is_empty());
}
