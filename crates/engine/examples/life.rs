//! Measures what can happen to a box between its making and its end, on real boxes and as root:
//!
//! ```text
//! cargo run -p boxyard-engine --example life -- DATA INIT RANGE KIND
//! ```
//!
//! DATA is a data folder with the image `node` in it and no boxes, INIT a release build of `boxyard-init`, RANGE a network range of its
//! own, and KIND `pool` or `dir`; `quick` behind it measures making and removing only. The figures are medians in milliseconds.
#![expect(clippy::unwrap_used, reason = "whoever measures looks at it")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use boxyard_engine::agent::{self, Event};
use boxyard_engine::images::ImagesConfig;
use boxyard_engine::local::{LocalConfig, LocalEngine, StorageChoice};
use boxyard_engine::{BoxSpec, Engine, Limits};
use boxyard_proto::wire::{Exec, User};
use boxyard_proto::{BoxId, SnapshotId};

const LIMITS: Limits = Limits { cpu_millis: 2000, memory_bytes: 4 << 30, pids: 1024, disk_bytes: 5 << 30 };

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [data, init, range, kind, quick @ ..] = &arguments[..] else { panic!("DATA INIT RANGE KIND [quick]") };
    let images = ImagesConfig { trust_host_cas: true, ..ImagesConfig::default() };
    let mut config = LocalConfig::new(PathBuf::from(data), PathBuf::from(init), images);
    config.network_range = range.parse().unwrap();
    config.storage = if kind == "pool" { StorageChoice::Btrfs } else { StorageChoice::Dir };
    config.pool_size = Some(16 << 30);
    let begun = Instant::now();
    let engine = LocalEngine::open(config).await.unwrap();
    println!("{kind}: opened in {:?}", begun.elapsed());
    make_and_remove(&engine).await;
    if quick.is_empty() {
        measure(&engine, kind == "pool").await;
    }
    engine.close().await.unwrap();
}

async fn make_and_remove(engine: &LocalEngine) {
    let (mut creates, mut execs, mut removes) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..50 {
        let spec = spec();
        creates.push(timed(engine.create(&spec)).await);
        execs.push(timed(run(engine, &spec.id, "true")).await);
        removes.push(timed(engine.remove(&spec.id)).await);
    }
    say("create", creates);
    say("first exec of sh", execs);
    say("remove", removes);
}

async fn measure(engine: &LocalEngine, pool: bool) {
    let spec = spec();
    engine.create(&spec).await.unwrap();
    let id = &spec.id;
    let (mut pauses, mut resumes) = (Vec::new(), Vec::new());
    for _ in 0..50 {
        pauses.push(timed(engine.pause(id)).await);
        resumes.push(timed(engine.resume(id)).await);
    }
    say("pause (freeze)", pauses);
    say("resume from frozen", resumes);
    let (mut stops, mut starts) = (Vec::new(), Vec::new());
    for _ in 0..30 {
        stops.push(timed(engine.stop(id)).await);
        starts.push(
            timed(async {
                engine.resume(id).await?;
                run(engine, id, "true").await
            })
            .await,
        );
    }
    say("stop", stops);
    say("resume from stopped to the end of a first exec", starts);

    let (megabytes, times) = if pool { (1024, 10) } else { (1024, 2) };
    let write = format!("dd if=/dev/urandom of=/root/big bs=1M count={megabytes} 2>/dev/null");
    run(engine, id, &write).await.unwrap();
    say(&format!("save of {megabytes} MB just written"), vec![save(engine, id).await.0]);
    run(
        engine,
        id,
        "i=0; while [ $i -lt 50 ]; do mkdir /root/d$i; (cd /root/d$i; seq 1000 | xargs touch); i=$((i+1)); done",
    )
    .await
    .unwrap();
    say("save after 50,000 files more", vec![save(engine, id).await.0]);
    let mut saves = Vec::new();
    let mut last = None;
    for number in 0..times {
        run(engine, id, &format!("dd if=/dev/urandom of=/root/more{number} bs=1M count=1 2>/dev/null")).await.unwrap();
        let (time, snapshot) = save(engine, id).await;
        saves.push(time);
        last = Some(snapshot);
    }
    say("save with 1 MB changed", saves);
    let (mut restores, mut removes) = (Vec::new(), Vec::new());
    for _ in 0..times {
        let copy = BoxSpec { from: last.clone(), ..self::spec() };
        restores.push(timed(engine.create(&copy)).await);
        removes.push(timed(engine.remove(&copy.id)).await);
    }
    say("restore", restores);
    say("remove of what was restored", removes);
    let mut drops = Vec::new();
    for snapshot in engine.snapshots().await.unwrap() {
        drops.push(timed(engine.drop_snapshot(&snapshot)).await);
    }
    say("drop of a snapshot", drops);
    let mut usages = Vec::new();
    for _ in 0..5 {
        usages.push(timed(engine.usage(id)).await);
    }
    say("usage", usages);
    engine.remove(id).await.unwrap();
}

async fn save(engine: &LocalEngine, id: &BoxId) -> (Duration, SnapshotId) {
    let snapshot = SnapshotId::from_entropy(rand::random());
    (timed(engine.save(id, &snapshot)).await, snapshot)
}

async fn timed<T, E: std::fmt::Debug>(what: impl Future<Output = Result<T, E>>) -> Duration {
    let begun = Instant::now();
    what.await.unwrap();
    begun.elapsed()
}

fn say(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)].as_secs_f64() * 1e3;
    println!("{what:48} {:8.2}   (to {:.2})", at(50), at(95));
}

fn spec() -> BoxSpec {
    let id = BoxId::from_entropy(rand::random());
    BoxSpec { id, image: "node".into(), limits: LIMITS, env: Default::default(), from: None }
}

async fn run(engine: &LocalEngine, id: &BoxId, script: &str) -> Result<(), agent::AgentError> {
    let argv = vec!["/bin/sh".into(), "-c".into(), script.into()];
    let exec = Exec::new(format!("{:032x}", rand::random::<u128>()), argv, "/", User::ROOT);
    let mut job = agent::exec(engine, id, exec).await?;
    loop {
        if let Event::Exit(exit) = job.next().await? {
            assert_eq!(exit.code, 0, "{script}");
            return Ok(());
        }
    }
}
