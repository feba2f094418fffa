//! What keeps a box from being paused, and what does not: every request, on a clock that the test moves.

use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use boxyard_engine::fake::Call;
use boxyard_proto::AccountId;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{Client, PATIENCE, Yard, box_id};

/// After which a box in which nothing works is paused, and a little more than half of it.
const HOUR: Duration = Duration::from_hours(1);
const MOST_OF_IT: Duration = Duration::from_mins(40);

/// Keeps the clock from moving by itself while everybody waits for the network: it does not while a thread of the runtime is busy.
struct Still(Option<mpsc::Sender<()>>);

impl Still {
    fn begin() -> Self {
        tokio::time::pause();
        let (end, ended) = mpsc::channel::<()>();
        tokio::task::spawn_blocking(move || ended.recv());
        Self(Some(end))
    }
}

impl Drop for Still {
    fn drop(&mut self) {
        self.0.take();
    }
}

/// A request about a box: what it is, and whether it is work.
type Row = (Method, &'static str, Value, bool);

fn rows() -> Vec<Row> {
    let (get, post, put, delete) = (Method::GET, Method::POST, Method::PUT, Method::DELETE);
    let command = json!({"command": ["echo", "x"]});
    let code = json!({"code": "echo x", "language": "js"});
    vec![
        (post.clone(), "/exec", command.clone(), true),
        (post.clone(), "/exec", json!({"command": ["echo", "x"], "async": true}), true),
        (post.clone(), "/exec", json!({"command": ["exit", "3"]}), true),
        (post.clone(), "/exec", json!({"command": ["echo", "x"], "folder": "/nowhere"}), true),
        (post.clone(), "/exec-stream", command, true),
        (post.clone(), "/code", code.clone(), true),
        (post.clone(), "/code-stream", code, true),
        // That there is one is no work.
        (post.clone(), "/contexts", json!({"language": "python"}), true),
        (get.clone(), "/contexts", Value::Null, false),
        (get.clone(), "/files/stat?path=.", Value::Null, true),
        (get.clone(), "/files/list", Value::Null, true),
        (get.clone(), "/files/search?name=x", Value::Null, true),
        (get.clone(), "/files/download?path=.&format=tar", Value::Null, true),
        (get.clone(), "/files/read?path=.", Value::Null, true),
        (post.clone(), "/files/write", json!({"path": "a", "content": "x"}), true),
        (post.clone(), "/files/mkdir", json!({"path": "d"}), true),
        (post.clone(), "/files/rename", json!({"from": ".", "to": "x"}), true),
        (post.clone(), "/files/remove", json!({"path": ".", "recursive": true}), true),
        (post.clone(), "/files/chmod", json!({"path": ".", "mode": "755"}), true),
        (put.clone(), "/files/upload?path=a", json!("content"), true),
        (put.clone(), "/files/archive?path=a", json!("no archive"), true),
        // What is refused before it reaches the box is no work.
        (get.clone(), "/files/read", Value::Null, false),
        (post.clone(), "/files/write", json!({"path": "a"}), false),
        (post.clone(), "/files/upload", json!("no form"), false),
        (put.clone(), "/files/upload?path=a&mode=9", json!("x"), false),
        (post.clone(), "/exec", json!({"command": 3}), false),
        (post.clone(), "/code", json!({"code": "x", "language": "cobol"}), false),
        (get.clone(), "", Value::Null, false),
        (get.clone(), "/status", Value::Null, false),
        (get.clone(), "/logs", Value::Null, false),
        (get.clone(), "/runs", Value::Null, false),
        (get.clone(), "/usage", Value::Null, false),
        (get.clone(), "/snapshots", Value::Null, false),
        (get.clone(), "/ssh-tokens", Value::Null, false),
        (post.clone(), "/ssh-tokens", json!({}), false),
        (get.clone(), "/startup", Value::Null, false),
        (put, "/startup", json!({"init_command": "echo up"}), false),
        (delete.clone(), "/startup", Value::Null, false),
        (post.clone(), "/config/labels", json!({"label": "l"}), false),
        (delete, "/config/labels/k", Value::Null, false),
        (post.clone(), "/snapshots", json!({"name": "s"}), false),
        (post, "/resume", json!({}), false),
    ]
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    i64::try_from(since.as_millis()).expect("not that late")
}

impl Client {
    /// When something last worked in the box, in milliseconds, as it is stored.
    async fn last_activity(&self, yard: &Yard, id: &str) -> i64 {
        let account = self.get(&format!("/v2/box/{id}")).await.json()["customer_id"].as_str().map(str::to_owned);
        let account: AccountId = account.expect("an account").parse().expect("an id");
        let store = yard.store().await;
        let row = store.find_box(&account, id).await.expect("read").expect("a row");
        store.close().await;
        row.last_activity_at
    }

    /// Waits until it is stored that something has worked in the box since then; by a clock that the test does not move.
    async fn active_since(&self, yard: &Yard, id: &str, began: i64) {
        let late = Instant::now() + PATIENCE;
        while self.last_activity(yard, id).await < began {
            assert!(Instant::now() < late, "nothing has worked in the box");
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn only_work_puts_off_the_pause_and_is_activity() {
    let yard = Yard::with(|config| config.idle_pause_after = Some(HOUR)).await;
    let client = yard.client();
    for (method, path, body, works) in rows() {
        let still = Still::begin();
        let made = client.post("/v2/box", json!({"labels": ["k"]})).await.json();
        let (id, what) = (made["id"].as_str().expect("an id").to_owned(), format!("{method} {path} {body}"));
        // A millisecond at least after the box was made.
        let made = client.last_activity(&yard, &id).await;
        while now_ms() <= made {
            tokio::task::yield_now().await;
        }
        tokio::time::advance(MOST_OF_IT).await;
        let began = now_ms();
        let body = Some(body).filter(|body| !body.is_null());
        let answer = client.call(method, &format!("/v2/box/{id}{path}"), body).await;
        assert_ne!(answer.status, StatusCode::NOT_FOUND, "{what}: {answer:?}");
        // A command that goes on by itself has ended when its run says so.
        client.until(&format!("/v2/box/{id}/runs"), |runs| !runs.to_string().contains("\"running\"")).await;
        if works {
            client.active_since(&yard, &id, began).await;
        } else {
            assert_eq!(client.last_activity(&yard, &id).await, made, "{what} is no activity");
        }
        tokio::time::advance(MOST_OF_IT).await;
        if works {
            assert_eq!(client.status(&id).await, "idle", "{what} is work");
            assert_eq!(client.status(&id).await, "idle", "{what} is work");
            assert_eq!(yard.engine.calls(Call::Pause, &box_id(&id)), 0, "{what} is work");
            tokio::time::advance(HOUR - MOST_OF_IT + Duration::from_secs(1)).await;
        }
        client.until(&format!("/v2/box/{id}"), |data| data["status"] == "paused").await;
        tokio::time::resume();
        drop(still);
        assert_eq!(client.delete(&format!("/v2/box/{id}")).await.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn a_login_holds_off_the_pause_for_as_long_as_it_lasts() {
    let yard = Yard::with_door(|config| config.idle_pause_after = Some(HOUR)).await;
    let client = yard.client();
    let id = client.new_box().await;
    let began = now_ms();
    let ssh = yard.enter(&id).await;
    client.until(&format!("/v2/box/{id}"), |data| data["status"] == "running").await;
    ssh.handle.disconnect(russh::Disconnect::ByApplication, "", "").await.expect("a connection");
    drop(ssh);
    client.until(&format!("/v2/box/{id}"), |data| data["status"] == "idle").await;
    client.active_since(&yard, &id, began).await;
    let _still = Still::begin();
    tokio::time::advance(HOUR + Duration::from_secs(1)).await;
    client.until(&format!("/v2/box/{id}"), |data| data["status"] == "paused").await;
}
