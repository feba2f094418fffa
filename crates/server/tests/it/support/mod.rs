//! A server to talk to, and a client that talks to it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use boxyard_engine::fake::FakeEngine;
use boxyard_proto::BoxId;
use boxyard_server::config::{Config, Flags, Secret};
use boxyard_server::store::{Store, StoreOptions};
use boxyard_server::{App, keys};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

mod client;
mod live;
pub mod ssh;

pub use client::{Answer, Client, parts};
pub use live::Live;

/// The key of the first account in every test.
pub const KEY: &str = "the-first-key-of-tests";

/// How long anything that should happen may take. Far more than it does: a test that waits so long has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A data directory, an engine, and a server on both.
pub struct Yard {
    folder: TempDir,
    config: Config,
    pub engine: Arc<FakeEngine>,
    running: Option<Running>,
}

struct Running {
    address: SocketAddr,
    ssh: Option<SocketAddr>,
    metrics: Option<SocketAddr>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Yard {
    /// Starts a server.
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// Starts a server with a changed configuration.
    pub async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut config = Config::load(&Flags::default(), &BTreeMap::new(), &BTreeMap::new(), Path::new("/bin/boxyard"))
            .expect("the default configuration");
        config.data_dir = folder.path().to_owned();
        config.http = SocketAddr::from(([127, 0, 0, 1], 0));
        config.ssh = None;
        config.limits.ssh_shutdown_grace = Duration::from_millis(200);
        config.bootstrap_key = Some(Secret::new(KEY.into()));
        config.limits.shutdown_grace = Duration::from_millis(200);
        change(&mut config);
        let mut yard = Self { folder, config, engine: FakeEngine::new(), running: None };
        yard.up().await;
        yard
    }

    /// Starts the server on what the last one left.
    pub async fn up(&mut self) {
        let app = App::build(&self.config, Arc::clone(&self.engine) as _).await.expect("the server starts");
        let ready = app.ready();
        let stop = CancellationToken::new();
        let task = tokio::spawn(app.run(stop.clone()));
        self.running = Some(Running { address: ready.http, ssh: ready.ssh, metrics: ready.metrics, stop, task });
    }

    /// Stops the server as SIGTERM does.
    pub async fn down(&mut self) {
        let running = self.running.take().expect("a running server");
        running.stop.cancel();
        tokio::time::timeout(PATIENCE, running.task)
            .await
            .expect("the server stops in time")
            .expect("it does not panic");
    }

    /// Stops the server and starts the next.
    pub async fn restart(&mut self) {
        self.down().await;
        self.up().await;
    }

    /// Begins to stop the server without waiting for its end.
    pub fn begin_stop(&self) {
        self.running.as_ref().expect("a running server").stop.cancel();
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn address(&self) -> SocketAddr {
        self.running.as_ref().expect("a running server").address
    }

    pub fn has_ssh(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.ssh.is_some())
    }

    /// Changes the configuration of the next server.
    pub fn change(&mut self, change: impl FnOnce(&mut Config)) {
        change(&mut self.config);
    }

    pub fn ssh_address(&self) -> SocketAddr {
        self.running.as_ref().and_then(|running| running.ssh).expect("the SSH door is open")
    }

    pub fn metrics_address(&self) -> SocketAddr {
        self.running.as_ref().and_then(|running| running.metrics).expect("metrics are on")
    }

    /// A client of the first account.
    pub fn client(&self) -> Client {
        self.client_with(KEY)
    }

    pub fn client_with(&self, key: &str) -> Client {
        Client::new(self.address(), Some(key))
    }

    /// The database, as `boxyard key` opens it beside the server.
    pub async fn store(&self) -> Store {
        Store::open(&self.config.database(), StoreOptions::default()).await.expect("open the database")
    }

    /// A client of another account.
    pub async fn stranger(&self) -> Client {
        let (_, key) = keys::create_key(&self.store().await, "stranger", None).await.expect("make a key");
        self.client_with(key.expose())
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Client {
    /// Makes a ready box and gives its id.
    pub async fn new_box(&self) -> String {
        let answer = self.post("/v2/box", json!({})).await;
        assert_eq!((answer.status, &answer.json()["status"]), (StatusCode::OK, &json!("idle")), "{answer:?}");
        answer.json()["id"].as_str().expect("an id").to_owned()
    }

    /// Runs `sh -c script` and gives what `exec` answers.
    pub async fn sh(&self, id: &str, script: &str) -> Value {
        let answer = self.post(&format!("/v2/box/{id}/exec"), json!({"command": ["sh", "-c", script]})).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        answer.json()
    }

    /// Starts `sh -c script` and gives its run's id at once.
    pub async fn begin(&self, id: &str, script: &str) -> String {
        let body = json!({"command": ["sh", "-c", script], "async": true});
        let answer = self.post(&format!("/v2/box/{id}/exec"), body).await;
        assert_eq!((answer.status, &answer.json()["status"]), (StatusCode::OK, &json!("running")), "{answer:?}");
        answer.json()["run_id"].as_str().expect("a run id").to_owned()
    }

    pub async fn status(&self, id: &str) -> Value {
        self.get(&format!("/v2/box/{id}")).await.json()["status"].clone()
    }

    pub async fn run(&self, id: &str, run: &str) -> Value {
        self.get(&format!("/v2/box/{id}/runs/{run}")).await.json()
    }

    /// Asks until `wanted` says yes. For what the server does behind its answers; each question is an event of its own.
    pub async fn until(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let asked = async {
            loop {
                let answer = self.get(path).await.json();
                if wanted(&answer) {
                    return answer;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| panic!("{path} did not become as wanted"))
    }

    pub async fn refused(&self, method: Method, path: &str, body: Value, status: StatusCode, text: &str) {
        let answer = self.call(method.clone(), path, Some(body.clone())).await;
        let error = answer.json()["error"].as_str().unwrap_or_default().to_owned();
        assert_eq!(answer.status, status, "{method} {path} {body}: {error}");
        assert!(error.contains(text), "{method} {path} {body}: {error}");
    }
}

pub fn box_id(text: &str) -> BoxId {
    text.parse().expect("a box id")
}
