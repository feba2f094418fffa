//! Figures for Prometheus. Names begin with `boxyard_`; no label holds an id, so that their number stays small.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::store::Store;

/// Content type of [`Metrics::encode`]'s text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All figures of a server. Fields are cheap to clone and share their values.
pub struct Metrics {
    /// Boxes by the phase of their life.
    pub boxes: Family<Phase, Gauge>,
    /// Bytes of memory that all boxes use together; this and the next ones as of the last look (`boxes/usage.rs`).
    pub boxes_memory: Gauge,
    /// Bytes on the disks of all boxes beyond their images.
    pub boxes_disk: Gauge,
    /// Processes and threads of all boxes.
    pub boxes_pids: Gauge,
    /// Seconds of CPU time that boxes have used.
    pub boxes_cpu_seconds: Counter<f64, AtomicU64>,
    /// Bytes that boxes have received and sent over their network, as they see it.
    pub boxes_network: Family<Direction, Counter>,
    /// Processes that were ended because their box was out of memory.
    pub boxes_oom_kills: Counter,
    /// Boxes whose first process ended unexpectedly.
    pub deaths: Counter,
    /// Paused boxes that were stopped because the host was short of memory.
    pub relieved: Counter,
    /// Boxes made, by outcome.
    pub creates: Family<Outcome, Counter>,
    /// Seconds from a request for a box to its being ready.
    pub create_seconds: Histogram,
    /// Boxes removed, by outcome.
    pub deletes: Family<Outcome, Counter>,
    /// Seconds that removing a box takes.
    pub delete_seconds: Histogram,
    /// Snapshots, those that are being made included.
    pub snapshots: Gauge,
    /// Seconds from a request for a snapshot to its being ready.
    pub snapshot_seconds: Histogram,
    /// Bytes that what is kept of commands' outputs takes, in files and in the database.
    pub outputs: OutputBytes,
    /// Commands begun, by the door they came through.
    pub execs: Family<Door, Counter>,
    /// Commands that execute now.
    pub execs_running: Gauge,
    /// Interpreters that go on in boxes.
    pub contexts: Gauge,
    /// Seconds that commands take, however long they work.
    pub exec_seconds: Histogram,
    /// Requests answered.
    pub http_requests: Family<Request, Counter>,
    /// Seconds from a request's headers to its answer's, by route.
    pub http_seconds: Family<Route, Histogram, fn() -> Histogram>,
    /// Open HTTP connections.
    pub http_connections: Gauge,
    /// Open SSH channels that do something, by what.
    pub ssh_channels: Family<SshChannel, Gauge>,
    /// Bytes that SSH clients have sent and boxes have not taken yet.
    pub ssh_backlog: Gauge,
    /// Open SSH connections, logged in or not.
    pub ssh_connections: Gauge,
    /// SSH connections that are logged in.
    pub ssh_sessions: Gauge,
    /// SSH logins that were let in.
    pub ssh_logins: Family<Login, Counter>,
    /// SSH logins that were refused.
    pub ssh_login_failures: Family<Reason, Counter>,
    /// SSH connections that were sent away before or after their login, for a limit.
    pub ssh_refused: Family<Reason, Counter>,
    /// Bytes of SSH connections, as they are on the wire.
    pub ssh_bytes: Family<Direction, Counter>,
    registry: Registry,
}

/// A number of bytes that is also reckoned with.
pub type OutputBytes = Gauge<u64, AtomicU64>;

/// Label of [`Metrics::boxes`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Phase {
    /// The phase's name as it is stored.
    pub phase: String,
}

/// Label of counters of deeds: `ok`, or a short word for what went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Outcome {
    /// The word.
    pub outcome: &'static str,
}

impl Outcome {
    /// All went well.
    pub const OK: Self = Self { outcome: "ok" };
    /// It failed.
    pub const FAILED: Self = Self { outcome: "failed" };
    /// There was no place for it.
    pub const REFUSED: Self = Self { outcome: "refused" };
}

/// Label of [`Metrics::execs`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Door {
    /// `exec`, `exec-stream`, `code`, `code-stream`, `ssh`, …
    pub door: &'static str,
}

/// Labels of [`Metrics::http_requests`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Request {
    /// The method, `other` for unknown ones.
    pub method: &'static str,
    /// The route's pattern, never the path itself; `other` for requests that match none.
    pub route: String,
    /// The answer's status.
    pub status: u16,
}

/// Label of [`Metrics::http_seconds`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Route {
    /// The route's pattern, as in [`Request::route`].
    pub route: String,
}

/// Label of [`Metrics::ssh_channels`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SshChannel {
    /// `shell`, `exec`, `sftp` or `forward`.
    pub kind: &'static str,
}

/// Label of [`Metrics::ssh_logins`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Login {
    /// `password`, `token` or `publickey`.
    pub method: &'static str,
}

/// Label of counters of refusals: one of few words.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Reason {
    /// The word.
    pub reason: &'static str,
}

/// Label of [`Metrics::ssh_bytes`] and [`Metrics::boxes_network`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Direction {
    /// `received` or `sent`, as the server or the box sees it.
    pub direction: &'static str,
}

impl Direction {
    /// From clients.
    pub const RECEIVED: Self = Self { direction: "received" };
    /// To clients.
    pub const SENT: Self = Self { direction: "sent" };
}

impl Metrics {
    /// All figures at zero, and those of `store` as they are when they are asked for.
    pub fn new(store: Store) -> Self {
        let mut registry = Registry::with_prefix("boxyard");
        let metrics = Self {
            boxes: Family::default(),
            boxes_memory: Gauge::default(),
            boxes_disk: Gauge::default(),
            boxes_pids: Gauge::default(),
            boxes_cpu_seconds: Counter::default(),
            boxes_network: Family::default(),
            boxes_oom_kills: Counter::default(),
            deaths: Counter::default(),
            relieved: Counter::default(),
            creates: Family::default(),
            create_seconds: histogram(),
            deletes: Family::default(),
            delete_seconds: histogram(),
            snapshots: Gauge::default(),
            snapshot_seconds: histogram(),
            outputs: OutputBytes::default(),
            execs: Family::default(),
            execs_running: Gauge::default(),
            contexts: Gauge::default(),
            exec_seconds: histogram(),
            http_requests: Family::default(),
            http_seconds: Family::new_with_constructor(histogram),
            http_connections: Gauge::default(),
            ssh_channels: Family::default(),
            ssh_backlog: Gauge::default(),
            ssh_connections: Gauge::default(),
            ssh_sessions: Gauge::default(),
            ssh_logins: Family::default(),
            ssh_login_failures: Family::default(),
            ssh_refused: Family::default(),
            ssh_bytes: Family::default(),
            registry: Registry::default(),
        };
        registry.register("boxes", "Boxes by the phase of their life", metrics.boxes.clone());
        registry.register("boxes_memory_bytes", "Memory in use by all boxes", metrics.boxes_memory.clone());
        registry.register("boxes_disk_bytes", "On the disks of all boxes beyond images", metrics.boxes_disk.clone());
        registry.register("boxes_pids", "Processes and threads of all boxes", metrics.boxes_pids.clone());
        registry.register("boxes_cpu_seconds", "CPU time used by boxes", metrics.boxes_cpu_seconds.clone());
        registry.register("boxes_network_bytes", "Network traffic of boxes", metrics.boxes_network.clone());
        let help = "Processes ended because their box was out of memory";
        registry.register("boxes_oom_kills", help, metrics.boxes_oom_kills.clone());
        let help = "Boxes whose first process ended unexpectedly";
        registry.register("boxes_deaths", help, metrics.deaths.clone());
        let help = "Paused boxes stopped because the host was short of memory";
        registry.register("boxes_relieved", help, metrics.relieved.clone());
        registry.register("creates", "Boxes made", metrics.creates.clone());
        registry.register(
            "create_seconds",
            "From a request for a box to its being ready",
            metrics.create_seconds.clone(),
        );
        registry.register("deletes", "Boxes removed", metrics.deletes.clone());
        registry.register("delete_seconds", "How long removing a box takes", metrics.delete_seconds.clone());
        registry.register("snapshots", "Snapshots", metrics.snapshots.clone());
        registry.register("snapshot_seconds", "How long making a snapshot takes", metrics.snapshot_seconds.clone());
        let help = "What is kept of the outputs of commands";
        registry.register("outputs_bytes", help, metrics.outputs.clone());
        registry.register("execs", "Commands begun", metrics.execs.clone());
        registry.register("execs_running", "Commands that execute now", metrics.execs_running.clone());
        registry.register("contexts", "Interpreters that go on in boxes", metrics.contexts.clone());
        registry.register("exec_seconds", "How long commands take", metrics.exec_seconds.clone());
        registry.register("http_requests", "Requests answered", metrics.http_requests.clone());
        registry.register("http_seconds", "From a request's headers to its answer's", metrics.http_seconds.clone());
        registry.register("http_connections", "Open HTTP connections", metrics.http_connections.clone());
        registry.register("ssh_channels", "Open SSH channels that do something", metrics.ssh_channels.clone());
        registry.register("ssh_backlog_bytes", "Sent by SSH clients, not taken by boxes", metrics.ssh_backlog.clone());
        registry.register("ssh_connections", "Open SSH connections", metrics.ssh_connections.clone());
        registry.register("ssh_sessions", "SSH connections that are logged in", metrics.ssh_sessions.clone());
        registry.register("ssh_logins", "SSH logins that were let in", metrics.ssh_logins.clone());
        registry.register("ssh_login_failures", "SSH logins that were refused", metrics.ssh_login_failures.clone());
        registry.register("ssh_refused", "SSH connections sent away for a limit", metrics.ssh_refused.clone());
        registry.register("ssh_bytes", "Bytes of SSH connections", metrics.ssh_bytes.clone());
        registry.register_collector(Box::new(StoreFigures(store)));
        registry.register_collector(Box::new(RuntimeFigures));
        Self { registry, ..metrics }
    }

    /// Counts an answered request.
    pub fn request(&self, method: &http::Method, route: Option<&str>, status: http::StatusCode, took: Duration) {
        let route = route.unwrap_or("other").to_owned();
        self.http_seconds.get_or_create(&Route { route: route.clone() }).observe(took.as_secs_f64());
        let labels = Request { method: method_name(method), route, status: status.as_u16() };
        self.http_requests.get_or_create(&labels).inc();
    }

    /// All figures as text of type [`CONTENT_TYPE`].
    ///
    /// # Errors
    /// Never in practice: only writing to the text could fail.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::with_capacity(16 * 1024);
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// From 0.25 ms, less than a command takes, to 70 minutes.
fn histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.000_25, 4.0, 13))
}

/// A method that clients make up must not become a label.
fn method_name(method: &http::Method) -> &'static str {
    ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
        .into_iter()
        .find(|name| *name == method.as_str())
        .unwrap_or("other")
}

#[derive(Debug)]
struct StoreFigures(Store);

impl Collector for StoreFigures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let queued = ConstGauge::new(i64::try_from(self.0.queue_depth()).unwrap_or(i64::MAX));
        queued.encode(encoder.encode_descriptor("store_queue", "Writes that wait", None, queued.metric_type())?)?;
        let dropped = ConstCounter::new(self.0.logs_dropped());
        let help = "Log entries of boxes that were dropped";
        dropped.encode(encoder.encode_descriptor("store_logs_dropped", help, None, dropped.metric_type())?)
    }
}

/// What can be told of the runtime that is asked in.
#[derive(Debug)]
struct RuntimeFigures;

impl Collector for RuntimeFigures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return Ok(()) };
        let tasks = ConstGauge::new(i64::try_from(runtime.metrics().num_alive_tasks()).unwrap_or(i64::MAX));
        tasks.encode(encoder.encode_descriptor("tasks", "Tasks of the server", None, tasks.metric_type())?)
    }
}

#[cfg(test)]
mod tests {
    use http::{Method, StatusCode};

    use super::*;
    use crate::store::StoreOptions;

    #[tokio::test]
    async fn figures_read_as_prometheus_expects_them() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = Store::open(&folder.path().join("test.db"), StoreOptions::default()).await.expect("open a store");
        let metrics = Metrics::new(store);
        metrics.boxes.get_or_create(&Phase { phase: "ready".into() }).set(3);
        metrics.creates.get_or_create(&Outcome::OK).inc();
        metrics.create_seconds.observe(0.004);
        let made_up = Method::from_bytes(b"BREW").expect("a method");
        let took = Duration::from_millis(2);
        metrics.request(&Method::POST, Some("/v2/box/{id}/exec"), StatusCode::OK, took);
        metrics.request(&made_up, None, StatusCode::NOT_FOUND, took);

        let text = metrics.encode().expect("text");
        for line in [
            "boxyard_boxes{phase=\"ready\"} 3",
            "boxyard_creates_total{outcome=\"ok\"} 1",
            "boxyard_create_seconds_bucket{le=\"0.004\"} 1",
            "boxyard_create_seconds_count 1",
            "boxyard_http_requests_total{method=\"POST\",route=\"/v2/box/{id}/exec\",status=\"200\"} 1",
            "boxyard_http_requests_total{method=\"other\",route=\"other\",status=\"404\"} 1",
            "boxyard_http_seconds_count{route=\"/v2/box/{id}/exec\"} 1",
            "boxyard_store_queue 0",
            "boxyard_store_logs_dropped_total 0",
            "# EOF",
        ] {
            assert!(text.lines().any(|found| found == line), "no line {line} in\n{text}");
        }
    }
}
