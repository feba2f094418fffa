//! `boxyard serve`: the server.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use boxyard_engine::local::LocalEngine;
use boxyard_server::app::{App, BuildError};
use boxyard_server::config::{Config, Flags};
use boxyard_server::keys::FirstKey;
use boxyard_server::telemetry;
use clap::Args;
use rustix::process::{Resource, Rlimit, getrlimit, setpriority_process, setrlimit};
use tokio_util::sync::CancellationToken;

use crate::data::{DataOptions, load};
use crate::failure::{FAILED, Failure};
use crate::host::{close, local, not_opened};
use crate::output::print;
use crate::signals::Signals;

/// How long what is still running in threads may take at the end.
const LEAVE: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
pub(crate) struct Serve {
    #[command(flatten)]
    data: DataOptions,
    /// Address of the API [env: BOXYARD_HTTP] [default: 127.0.0.1:7070]
    #[arg(long, value_name = "ADDR")]
    http: Option<String>,
    /// Address of the SSH door, or off [env: BOXYARD_SSH] [default: 127.0.0.1:2222]
    #[arg(long, value_name = "ADDR")]
    ssh: Option<String>,
    /// Address of the metrics [env: BOXYARD_METRICS]
    #[arg(long, value_name = "ADDR")]
    metrics: Option<String>,
    /// How much is logged [env: BOXYARD_LOG_LEVEL] [default: info]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Form of the log, text or json [env: BOXYARD_LOG_FORMAT] [default: text]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
}

impl Serve {
    /// Runs the server until it is told to stop.
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        let config = load(&self.flags()?)?;
        telemetry::begin(&config.log).map_err(|error| Failure::usage(error.to_string()))?;
        raise_open_files();
        go_first();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::failed("cannot start", error))?;
        let outcome = runtime.block_on(serve(&config));
        runtime.shutdown_timeout(LEAVE);
        outcome
    }

    fn flags(self) -> Result<Flags, Failure> {
        let mut flags = self.data.flags()?;
        let given = [
            ("http", self.http),
            ("ssh", self.ssh),
            ("metrics", self.metrics),
            ("log.level", self.log_level),
            ("log.format", self.log_format),
        ];
        flags.settings.extend(given.into_iter().filter_map(|(key, value)| Some((key, value?))));
        Ok(flags)
    }
}

/// Takes all open files that we may have. Shells give 1024 to begin with, for old programs, and let whoever wants more have it; clients
/// within their limits would use those up, and nobody else could connect any more. Boxes have limits of their own.
fn raise_open_files() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
}

/// What the server weighs beside other programs: as much as nine that have not asked for more. It works for all boxes, little at a time, and
/// must not wait until each of them has had its turn. Boxes themselves weigh as usual.
const NICENESS: i32 = -10;

/// Lets the server run before what takes all CPU time that it can get. To be called while there is one thread: others inherit it.
fn go_first() {
    if let Err(error) = setpriority_process(None, NICENESS) {
        tracing::info!(%error, "the server has the priority of any program");
    }
}

async fn serve(config: &Config) -> Result<ExitCode, Failure> {
    let mut signals = Signals::watch()?;
    let engine = Arc::new(LocalEngine::open(local(config)).await.map_err(not_opened)?);
    let served = serve_from(config, &engine, &mut signals).await;
    close(&engine).await;
    served
}

async fn serve_from(config: &Config, engine: &Arc<LocalEngine>, signals: &mut Signals) -> Result<ExitCode, Failure> {
    let app = tokio::select! {
        app = build(config, Arc::clone(engine)) => app?,
        () = signals.next() => return Ok(ExitCode::SUCCESS),
    };
    // Whoever started the server may not care to read the line.
    print(&app.ready().to_string())?;
    let stop = CancellationToken::new();
    let mut running = std::pin::pin!(app.run(stop.clone()));
    tokio::select! {
        () = &mut running => return Ok(ExitCode::SUCCESS),
        () = signals.next() => {}
    }
    let grace = config.limits.shutdown_grace;
    tracing::info!(?grace, "told to stop: accepting nothing new, waiting for requests under way; boxes go on");
    stop.cancel();
    tokio::select! {
        () = running => Ok(ExitCode::SUCCESS),
        () = signals.next() => {
            tracing::warn!("told to stop again: leaving at once");
            Ok(ExitCode::from(FAILED))
        }
    }
}

async fn build(config: &Config, engine: Arc<LocalEngine>) -> Result<App, Failure> {
    let app = App::build(config, engine).await.map_err(build_failure)?;
    match app.first_key() {
        FirstKey::Made(path) => tracing::info!(path = %path.display(), "made the first API key; it is in this file"),
        FirstKey::Revoked => tracing::warn!("the key of BOXYARD_BOOTSTRAP_KEY was revoked and opens nothing"),
        FirstKey::Chosen | FirstKey::Known => {}
    }
    if let Some(door) = app.identity() {
        let fingerprints = door.host_keys.iter().map(|key| key.fingerprint.as_str()).collect::<Vec<_>>().join(" ");
        tracing::info!(address = %door.address, %fingerprints, "the SSH door is open");
    }
    Ok(app)
}

fn build_failure(error: BuildError) -> Failure {
    match error {
        BuildError::Key(error) => error.into(),
        error @ (BuildError::DataDir { .. }
        | BuildError::InUse(_)
        | BuildError::Bind { .. }
        | BuildError::HostKey(_)
        | BuildError::Ssh(_)
        | BuildError::Store(_)
        | BuildError::Recovery(_)) => Failure::failed("cannot start the server", error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_cannot_use_up_the_few_files_that_a_shell_gives() {
        let maximum = getrlimit(Resource::Nofile).maximum;
        let few = Rlimit { current: Some(maximum.map_or(1024, |most| most.min(1024))), maximum };
        setrlimit(Resource::Nofile, few).expect("a lower limit");
        raise_open_files();
        assert_eq!(getrlimit(Resource::Nofile), Rlimit { current: maximum, maximum });
    }
}
