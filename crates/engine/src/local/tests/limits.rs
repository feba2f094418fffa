//! A box that eats its limit harms itself only.

use std::sync::Arc;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, connect, listen, socket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::yard::{LIMITS, Yard};
use crate::local::{PATIENT, connect_patiently};
use crate::{Engine, Limits};

#[tokio::test(flavor = "multi_thread")]
async fn memory_ends_the_process_at_fault_and_nothing_else() {
    let yard = Yard::open().await;
    let id = yard.make_limited(Limits { memory_bytes: 64 << 20, ..LIMITS }).await;
    let other = yard.make().await;
    yard.sh(&id, "sleep 1000 > /dev/null 2>&1 &").await;
    let done = yard.sh(&id, "python3 -c 'x = bytearray(200 << 20); print(len(x))'; echo code $?").await;
    assert_eq!(done.out, "code 137\n", "{done:?}");
    assert_eq!(yard.sh(&id, "pgrep -c sleep").await.out, "1\n");
    assert_eq!(yard.sh(&other, "echo fine").await.out, "fine\n");
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_bomb_stays_inside() {
    let yard = Yard::open().await;
    let id = yard.make_limited(Limits { pids: 32, ..LIMITS }).await;
    let count = "import os,sys\nn=0\ntry:\n  while n < 200:\n    if os.fork() == 0:\n      os.read(os.pipe()[0], 1)\n    n += 1\nexcept OSError as error:\n  print(error.errno, n)";
    let done = yard.sh(&id, &format!("exec python3 -c '{count}'")).await;
    let words: Vec<u32> = done.out.split_whitespace().map(|word| word.parse().unwrap()).collect();
    assert!(words[0] == 11 && words[1] < 32, "{done:?}");
    assert!(yard.engine.usage(&id).await.unwrap().pids <= 32);
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cpu_time_is_counted_out() {
    let yard = Yard::open().await;
    let id = yard.make_limited(Limits { cpu_millis: 100, ..LIMITS }).await;
    let before = yard.engine.usage(&id).await.unwrap().cpu_ns;
    let started = std::time::Instant::now();
    // Some 0.2 s of work takes 2 s at a tenth of a CPU.
    yard.sh(&id, "python3 -c 'import time\nwhile time.process_time() < 0.2: pass'").await;
    let (wall, used) = (started.elapsed(), yard.engine.usage(&id).await.unwrap().cpu_ns - before);
    assert!(u128::from(used) < wall.as_nanos() / 5, "{used} ns of {wall:?}");
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_wait_for_a_full_box_do_not_take_all_threads() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("full.sock");
    let address = SocketAddrUnix::new(&path).unwrap();
    let listener = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    bind(&listener, &address).unwrap();
    listen(&listener, 0).unwrap();
    let first = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    connect(&first, &address).unwrap();

    let room = Arc::new(Semaphore::new(PATIENT));
    let mut waiting = JoinSet::new();
    for _ in 0..1000 {
        waiting.spawn(connect_patiently(Arc::clone(&room), path.clone()));
    }
    while room.available_permits() > 0 {
        tokio::task::yield_now().await;
    }
    // Those who stop waiting leave their threads behind for a while, and nobody gets another instead.
    waiting.abort_all();
    assert_eq!(room.available_permits(), 0);
    let elsewhere = tokio::task::spawn_blocking(|| "room for other work");
    assert_eq!(elsewhere.await.unwrap(), "room for other work");
    drop(listener);
}
