//! The measurements of Boxyard itself.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use boxyard_real_tests::init::Third;
use boxyard_real_tests::{Connection, Footprint, Server, until};
use serde_json::{Value, json};

use super::Counts;
use super::report::{Goal, Report, Samples};
use super::{files, life, neighbours, session, ssh};
use crate::shell;

type Measurement = fn(&Server, Counts, &mut Report) -> Result<()>;

/// In the order of the table.
pub const ALL: &[(&str, Measurement)] = &[
    ("create", create),
    ("sdk", sdk),
    ("exec", exec),
    ("parallel", parallel),
    ("session", session::measure),
    ("stream", stream),
    ("files", files::measure),
    ("memory", memory),
    ("life", life::life),
    (SSH, ssh::measure),
    ("neighbours", neighbours::measure),
];

/// The measurement that needs more on the host than others.
pub const SSH: &str = "ssh";

/// How long what was deleted may take to be gone.
const SETTLE: Duration = Duration::from_secs(60);

/// The row that peers are compared with.
pub const EXEC: &str = "exec true, kept-alive HTTP, 1 at a time";

/// Create until the answer says `idle`, and delete until it is answered, on one kept-alive connection.
fn create(server: &Server, counts: Counts, report: &mut Report) -> Result<()> {
    let mut connection = server.client().connect()?;
    let (mut created, mut deleted) = (Samples::default(), Samples::default());
    // The first few warm caches of the kernel that a server in use has warm.
    for n in 0..counts.creates + 5 {
        let (made, took) = timed(|| connection.call("POST", "/v2/box", Some(&json!({}))))?;
        let made = made.ok()?;
        ensure!(made["status"] == "idle", "a new box is {}", made["status"]);
        let path = format!("/v2/box/{}", id(&made)?);
        let (gone, took_deleting) = timed(|| connection.call("DELETE", &path, None))?;
        gone.ok()?;
        if n >= 5 {
            created.push(took);
            deleted.push(took_deleting);
        }
    }
    report.times("create → idle, HTTP", &created, Some(Goal::AtMost(12.0)));
    report.times("delete, HTTP", &deleted, None);
    Ok(())
}

/// Create and first command through the TypeScript SDK: one after the other, and all at once.
fn sdk(server: &Server, counts: Counts, report: &mut Report) -> Result<()> {
    let folder = shell::root().join("tests/sdk/ts");
    let mut node = shell::command("node", &["bench.mjs", &counts.sdk.to_string(), &counts.boxes.to_string()]);
    node.current_dir(folder);
    node.env("UPSTASH_BOX_BASE_URL", server.client().base_url()).env("UPSTASH_BOX_API_KEY", &server.client().key);
    let said: Value = serde_json::from_str(&shell::output(&mut node)?).context("reading what bench.mjs says")?;
    let times = |key: &str| -> Result<Samples> {
        let mut samples = Samples::default();
        for ms in said[key].as_array().context("no times")? {
            samples.push(Duration::from_secs_f64(ms.as_f64().context("a time is no number")? / 1e3));
        }
        Ok(samples)
    };
    report.times("create + first exec, TypeScript SDK, sequential", &times("sequential")?, Some(Goal::AtMost(25.0)));
    let together = format!("create + first exec, TypeScript SDK, {} at once", counts.boxes);
    report.times(&format!("{together}, each"), &times("at_once")?, None);
    let goal = (counts.boxes == 100).then_some(Goal::AtMost(2500.0));
    report.value(&format!("{together}, all done"), "ms", 1, said["wall"].as_f64().context("no wall time")?, goal);
    report.note(format!("the SDK ran on the host's Node.js {}", said["node"].as_str().unwrap_or_default()));
    Ok(())
}

/// `true` in a live box over one kept-alive connection.
fn exec(server: &Server, counts: Counts, report: &mut Report) -> Result<()> {
    let id = server.create()?;
    let mut connection = server.client().connect()?;
    run_true(&mut connection, &id, 20)?;
    let samples = run_true(&mut connection, &id, counts.execs)?;
    report.times(EXEC, &samples, Some(Goal::AtMost(2.5)));
    server.delete(&id)
}

/// `true` in a live box over 16 kept-alive connections.
fn parallel(server: &Server, counts: Counts, report: &mut Report) -> Result<()> {
    const WORKERS: usize = 16;
    let id = server.create()?;
    let began = Instant::now();
    let all = thread::scope(|scope| -> Result<Samples> {
        let workers: Vec<_> = (0..WORKERS)
            .map(|_| scope.spawn(|| run_true(&mut server.client().connect()?, &id, counts.execs / 4)))
            .collect();
        let mut all = Samples::default();
        for worker in workers {
            all.extend(worker.join().map_err(|_| anyhow!("a worker panicked"))??);
        }
        Ok(all)
    })?;
    let seconds = began.elapsed().as_secs_f64();
    let total = WORKERS * (counts.execs / 4);
    report.times("exec true, kept-alive HTTP, 16 at a time", &all, None);
    #[expect(clippy::cast_precision_loss, reason = "a count of a few thousand")]
    report.value("exec true, kept-alive HTTP, 16 at a time", "per second", total, total as f64 / seconds, None);
    server.delete(&id)
}

/// `true` in a live box so many times, one after the other.
pub fn run_true(connection: &mut Connection, id: &str, count: usize) -> Result<Samples> {
    let (path, body) = (format!("/v2/box/{id}/exec"), json!({ "command": ["true"] }));
    let mut samples = Samples::default();
    for _ in 0..count {
        let (answer, took) = timed(|| connection.call("POST", &path, Some(&body)))?;
        ensure!(answer.ok()?["exit_code"] == 0, "true failed: {}", answer.text());
        samples.push(took);
    }
    Ok(samples)
}

/// A gigabyte through `exec-stream`, from the first request byte to the end of the answer.
fn stream(server: &Server, counts: Counts, report: &mut Report) -> Result<()> {
    let id = server.create()?;
    let mut connection = server.client().connect()?;
    let body = json!({ "command": ["head", "-c", counts.stream.to_string(), "/dev/zero"] });
    let mut received = 0_u64;
    let mut end = Vec::new();
    let (answer, took) = timed(|| {
        connection.stream("POST", &format!("/v2/box/{id}/exec-stream"), Some(&body), |part| {
            received += part.len() as u64;
            // Only the last bytes are looked at.
            end = part[part.len().saturating_sub(200)..].to_vec();
            Ok(())
        })
    })?;
    ensure!(answer.status == 200, "status {}", answer.status);
    let end = String::from_utf8_lossy(&end);
    ensure!(
        received > counts.stream && end.contains("event: exit\ndata: {\"exit_code\":0"),
        "{received} bytes came, then {end}"
    );
    #[expect(clippy::cast_precision_loss, reason = "a rate needs no more than 52 bits")]
    let rate = counts.stream as f64 / took.as_secs_f64() / 1e6;
    report.value("exec-stream of zeros, one command", "MB/s", 1, rate, Some(Goal::AtLeast(400.0)));
    server.delete(&id)
}

/// What idle boxes cost: the difference that many boxes make, divided by their number.
fn memory(server: &Server, counts: Counts, report: &mut Report) -> Result<()> {
    // One box first, so that what exists once is not counted as a box's.
    let first = server.create()?;
    let before = Memory::at_rest(server)?;
    let ids: Vec<String> = (0..counts.boxes).map(|_| server.create()).collect::<Result<_>>()?;
    let after = Memory::at_rest(server)?;
    after.tell(&before, ids.len(), "memory per idle box", report);
    report.note(
        "memory per idle box = (PSS of all its processes + growth of the server's PSS + growth of SUnreclaim, KernelStack, PageTables \
         and Percpu of /proc/meminfo) / boxes; the fall of MemAvailable also has caches that the kernel can give back",
    );
    for id in ids.iter().chain([&first]) {
        server.delete(id)?;
    }
    Ok(())
}

/// Memory in KiB.
pub struct Memory {
    boxes: i64,
    server: i64,
    kernel: i64,
    available: i64,
}

impl Memory {
    /// Measures when all that was deleted is gone from the host.
    pub fn at_rest(server: &Server) -> Result<Self> {
        let ids = server.ids()?;
        until("deleted boxes to be gone", SETTLE, || {
            Ok(Footprint::of(server.lane())?.differences(&ids).is_empty().then_some(()))
        })?;
        Self::now(server)
    }

    /// Adds what each of `count` boxes costs that were not there `before`.
    pub fn tell(&self, before: &Self, count: usize, what: &str, report: &mut Report) {
        #[expect(clippy::cast_precision_loss, reason = "kibibytes of one machine")]
        let per_box = |kib: i64| kib as f64 / 1024.0 / count as f64;
        let (boxes, own) = (self.boxes - before.boxes, self.server - before.server);
        let (kernel, available) = (self.kernel - before.kernel, before.available - self.available);
        report.value(what, "MiB", count, per_box(boxes + own + kernel), Some(Goal::AtMost(3.0)));
        report.value("  its processes (PSS)", "MiB", count, per_box(boxes), None);
        report.value("  growth of the server (PSS)", "MiB", count, per_box(own), None);
        report.value("  kernel: what it cannot give back", "MiB", count, per_box(kernel), None);
        report.value("  for comparison: fall of MemAvailable", "MiB", count, per_box(available), None);
    }

    fn now(server: &Server) -> Result<Self> {
        let text = fs::read_to_string("/proc/meminfo")?;
        let field = |name: &str| -> Result<i64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
            Ok(line.trim_start_matches(':').trim().trim_end_matches(" kB").parse()?)
        };
        let mut kernel = 0;
        for name in ["SUnreclaim", "KernelStack", "PageTables", "Percpu"] {
            kernel += field(name)?;
        }
        let pids = Footprint::of(server.lane())?.pids;
        let boxes = pids.iter().map(|pid| pss(&pid.to_string())).sum::<Result<i64>>()?;
        Ok(Self { boxes, server: pss(&server.pid()?.to_string())?, kernel, available: field("MemAvailable")? })
    }
}

/// KiB of a process's memory, with its share of what it shares.
pub fn pss(pid: &str) -> Result<i64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// From the start of `boxyard-init` to its first answer, outside a box.
pub fn init(third: Option<&mut Third>, server: &Server, counts: Counts, report: &mut Report) -> Result<()> {
    let Some(third) = third else {
        report.note(
            "boxyard-init start to ready was not measured: descriptor 3 of this process was taken when it started",
        );
        return Ok(());
    };
    let program = server.programs().join("boxyard-init");
    let mut samples = Samples::default();
    for _ in 0..counts.creates {
        samples.push(third.time_to_ready(&program)?);
    }
    report.times("boxyard-init, start to first answer", &samples, Some(Goal::AtMost(2.0)));
    #[expect(clippy::cast_precision_loss, reason = "a few million bytes")]
    let size = fs::metadata(&program)?.len() as f64 / 1024.0 / 1024.0;
    report.value("boxyard-init, size of the program", "MiB", 1, size, Some(Goal::AtMost(3.0)));
    Ok(())
}

/// Does something and says how long it took.
pub fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, Duration)> {
    let began = Instant::now();
    let value = work()?;
    Ok((value, began.elapsed()))
}

pub fn id(made: &Value) -> Result<&str> {
    made["id"].as_str().context("no id")
}
