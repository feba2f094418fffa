//! The real server, on the engine in memory, in this process.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use boxyard_engine::fake::FakeEngine;
use boxyard_server::App;
use boxyard_server::config::{Config, Flags, Secret};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use super::{boxyard, run};

const KEY: &str = "the-first-key-of-tests";

/// A server with one box, until it is dropped.
pub(super) struct Yard {
    pub(super) engine: Arc<FakeEngine>,
    /// The id of its box.
    pub(super) id: String,
    address: SocketAddr,
    stop: CancellationToken,
    runtime: Option<Runtime>,
    _folder: TempDir,
}

impl Yard {
    pub(super) fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut config = Config::load(&Flags::default(), &BTreeMap::new(), &BTreeMap::new(), Path::new("/bin/boxyard"))
            .expect("the default configuration");
        config.data_dir = folder.path().to_owned();
        config.http = SocketAddr::from(([127, 0, 0, 1], 0));
        config.ssh = None;
        config.bootstrap_key = Some(Secret::new(KEY.into()));
        config.limits.shutdown_grace = Duration::from_millis(200);
        let runtime = Runtime::new().expect("a runtime");
        let engine = FakeEngine::new();
        let app = runtime.block_on(App::build(&config, Arc::clone(&engine) as _)).expect("the server starts");
        let (address, stop) = (app.ready().http, CancellationToken::new());
        runtime.spawn(app.run(stop.clone()));
        let mut yard = Self { engine, id: String::new(), address, stop, runtime: Some(runtime), _folder: folder };
        let (code, id, err) = run(yard.boxyard(&["create"]));
        assert_eq!((code, err.as_str()), (0, ""));
        yard.id = id.trim().to_owned();
        yard
    }

    /// A call of `boxyard` that speaks to this server.
    pub(super) fn boxyard(&self, arguments: &[&str]) -> Command {
        let mut command = boxyard(arguments);
        command.env("BOXYARD_URL", format!("http://{}", self.address)).env("BOXYARD_API_KEY", KEY);
        command
    }

    /// Waits until something has come to a gate of the engine's.
    pub(super) fn came_to(&self, gate: &str) {
        self.runtime.as_ref().expect("it runs").block_on(self.engine.came_to(gate, 1));
    }

    /// Stops the server as SIGTERM does, without waiting for its end.
    pub(super) fn begin_stop(&self) {
        self.stop.cancel();
    }

    /// Ends the server as a power cut does.
    pub(super) fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Yard {
    fn drop(&mut self) {
        self.kill();
    }
}
