//! Several hundred boxes that do nothing: what they cost, what it is to use one of them, and how long their server takes to be back.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use boxyard_real_tests::{Server, Settings};
use serde_json::json;

use super::Counts;
use super::life::stops;
use super::measure::{Memory, id, run_true, timed};
use super::report::{Goal, Report, Samples};

/// Besides `life`, of which it is the other half.
pub const NAME: &str = "life of a crowd";
/// Boxes that are made at once.
const MAKERS: usize = 16;
/// How long nothing is done, to see what that costs.
const REST: Duration = Duration::from_secs(10);

/// Measures on a server of its own, that has room for so many and stops what is paused at once.
pub fn measure(programs: &Path, counts: Counts, report: &mut Report) -> Result<()> {
    let settings = Settings::from([("BOXYARD_PAUSE_KEEP_MEMORY_FOR", "0s".to_owned())]);
    let mut server = Server::with_room(programs, settings)?;
    stops(&server, counts, report)?;

    // One box first, so that what exists once is not counted as a box's.
    let first = server.create()?;
    let before = Memory::at_rest(&server)?;
    let (boxes, took) = timed(|| create(&server, counts.crowd))?;
    let count = boxes.len();
    let full = count == 300;
    let goal = |limit| full.then_some(Goal::AtMost(limit));
    report.value(&format!("{count} boxes, {MAKERS} at once, all made"), "ms", 1, took.as_secs_f64() * 1e3, None);
    let after = Memory::at_rest(&server)?;
    after.tell(&before, count, &format!("memory of each of {count} idle boxes"), report);
    let (own, theirs) = rest(&server)?;
    report.value(&format!("CPU of the server beside {count} idle boxes"), "ms a second", 1, own, None);
    report.value(&format!("CPU of {count} idle boxes themselves"), "ms a second", 1, theirs, None);

    let mut samples = Samples::default();
    let mut connection = server.client().connect()?;
    for _ in 0..2 {
        // Each of them in turn, none of which is warm.
        for id in &boxes {
            samples.extend(run_true(&mut connection, id, 1)?);
        }
    }
    drop(connection);
    let what = format!("exec true in each of {count} boxes, HTTP");
    report.times(&what, &samples, goal(5.0));

    let (mut killed, mut stopped, mut stops) = (Samples::default(), Samples::default(), Samples::default());
    for _ in 0..counts.restarts {
        server.kill()?;
        killed.push(timed(|| server.launch())?.1);
        all_there(&server, count + 1)?;
        stops.push(timed(|| server.stop())?.1);
        stopped.push(timed(|| server.launch())?.1);
        all_there(&server, count + 1)?;
    }
    report.times(&format!("kill -9 with {count} boxes: start → ready"), &killed, goal(1500.0));
    report.times(&format!("SIGTERM with {count} boxes: start → ready"), &stopped, goal(1500.0));
    report.times(&format!("SIGTERM with {count} boxes → it has ended"), &stops, None);
    let mut connection = server.client().connect()?;
    let mut samples = Samples::default();
    for id in &boxes {
        samples.extend(run_true(&mut connection, id, 1)?);
    }
    report.times("  exec true in each of them after that, HTTP", &samples, goal(5.0));

    let ids: Vec<&String> = boxes.iter().chain([&first]).collect();
    let (gone, took) = timed(|| server.call("DELETE", "/v2/box", Some(&json!({ "ids": ids }))))?;
    gone.ok()?;
    report.value(&format!("{count} boxes deleted by one call"), "ms", 1, took.as_secs_f64() * 1e3, None);
    Ok(())
}

/// Makes boxes, some at once.
fn create(server: &Server, count: usize) -> Result<Vec<String>> {
    let begun = AtomicUsize::new(0);
    let made = thread::scope(|scope| {
        let make = || -> Result<Vec<String>> {
            let mut connection = server.client().connect()?;
            let mut ids = Vec::new();
            while begun.fetch_add(1, Ordering::Relaxed) < count {
                let made = connection.call("POST", "/v2/box", Some(&json!({})))?.ok()?;
                ensure!(made["status"] == "idle", "a new box is {}", made["status"]);
                ids.push(id(&made)?.to_owned());
            }
            Ok(ids)
        };
        let makers: Vec<_> = (0..MAKERS).map(|_| scope.spawn(make)).collect();
        let made: Vec<Result<Vec<String>>> =
            makers.into_iter().map(|maker| maker.join().unwrap_or_else(|_| Err(anyhow!("a maker panicked")))).collect();
        made.into_iter().collect::<Result<Vec<_>>>()
    })?;
    Ok(made.into_iter().flatten().collect())
}

/// A server that is back and has lost a box is not back.
fn all_there(server: &Server, count: usize) -> Result<()> {
    let boxes = server.list()?;
    let idle = boxes.values().filter(|status| *status == "idle").count();
    ensure!(boxes.len() == count && idle == count, "{} boxes, {idle} of them idle, of {count}", boxes.len());
    Ok(())
}

/// Does nothing for a while and returns the CPU time that the server took meanwhile, and all boxes together, in milliseconds a second.
fn rest(server: &Server) -> Result<(f64, f64)> {
    let boxes = boxyard_real_tests::Footprint::of(server.lane())?.pids;
    let server = [i32::try_from(server.pid()?)?];
    let (own, theirs, begun) = (cpu(&server)?, cpu(&boxes)?, Instant::now());
    #[expect(clippy::disallowed_methods, reason = "to see what is done while nothing is to be done")]
    thread::sleep(REST);
    let per_second = |before: &Times, pids: &[i32]| -> Result<f64> {
        // Threads that have ended meanwhile took little: the server ends those that have nothing to do.
        let took = cpu(pids)?.into_iter().map(|(thread, ns)| ns - before.get(&thread).copied().unwrap_or(0));
        let took = Duration::from_nanos(took.sum());
        Ok(took.as_secs_f64() * 1e3 / begun.elapsed().as_secs_f64())
    };
    Ok((per_second(&own, &server)?, per_second(&theirs, &boxes)?))
}

/// Nanoseconds on a CPU, by thread.
type Times = BTreeMap<i32, u64>;

/// The CPU time that the threads of these processes have had.
fn cpu(pids: &[i32]) -> Result<Times> {
    let mut times = Times::new();
    for pid in pids {
        for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
            let thread = thread?;
            // `stat` has hundredths of a second, which is too coarse for this.
            let Ok(text) = fs::read_to_string(thread.path().join("schedstat")) else { continue };
            let ns = text.split(' ').next().and_then(|ns| ns.parse().ok()).context("no time")?;
            times.insert(thread.file_name().to_string_lossy().parse()?, ns);
        }
    }
    Ok(times)
}
