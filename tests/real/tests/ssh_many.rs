//! Five hundred SSH connections, made and dropped.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use boxyard_real_tests::{Client, HOST, Server, Settings, Ssh, until};

/// Connections that warm everything up that is made once.
const WARM_UP: usize = 60;
const CONNECTIONS: usize = 500;
/// At once.
const WORKERS: usize = 8;
/// Every so many of the clients is killed in the middle.
const ABRUPT: usize = 5;
/// KiB by which the server's memory may be more afterwards: one for each connection, and less than anything that is remembered of one costs.
/// Some 300 bytes of it are the lines in the box's log, which the database keeps in its cache until that has its 2 MB.
const MARGIN: u64 = 512;
/// How long a thread of a pool may wait for work, and other things may take that nothing tells of.
const SETTLE: Duration = Duration::from_secs(60);
/// How often one looks for what the server holds at rest.
const LOOKS: usize = 20;

/// What a server holds, by name: descriptors, threads, processes in the box, and what it counts itself.
type Held = BTreeMap<String, usize>;

/// Figures of the server: its tasks, and what there is of SSH.
const FIGURES: [&str; 6] = [
    "boxyard_tasks",
    "boxyard_ssh_connections",
    "boxyard_ssh_sessions",
    "boxyard_ssh_channels{",
    "boxyard_ssh_backlog_bytes",
    "boxyard_execs_running",
];

fn held(server: &Server, metrics: &Client, id: &str) -> Result<Held> {
    let proc = format!("/proc/{}", server.pid()?);
    let text = metrics.call("GET", "/metrics", None)?.text();
    let figures = text.lines().filter(|line| FIGURES.iter().any(|name| line.starts_with(name)));
    let figures = figures.filter_map(|line| line.rsplit_once(' '));
    let mut held: Held = figures.map(|(name, value)| Ok((name.to_owned(), value.parse()?))).collect::<Result<_>>()?;
    held.insert("descriptors".to_owned(), fs::read_dir(format!("{proc}/fd"))?.count());
    held.insert("threads".to_owned(), fs::read_dir(format!("{proc}/task"))?.count());
    held.insert("processes".to_owned(), server.sh(id, "set -- /proc/[0-9]*; echo $#")?.parse()?);
    Ok(held)
}

/// KiB of memory that a server has to itself.
fn resident(server: &Server) -> Result<u64> {
    let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", server.pid()?))?;
    let resident = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:")).context("no count")?;
    Ok(resident.trim().trim_end_matches(" kB").parse()?)
}

/// Makes so many connections, some of which are dropped without a word: before the login, in a command, on a terminal.
fn connect(ssh: &Ssh, count: usize) -> Result<()> {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        let worker = || -> Result<()> {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return Ok(());
                }
                match (number % ABRUPT, number / ABRUPT % 3) {
                    (0, 0) => {
                        let mut client = ssh.dialogue(&["-v", HOST, "true"])?;
                        client.expect_err("Authenticating to")?;
                        client.kill()?;
                    }
                    (0, 1) => {
                        let mut client = ssh.dialogue(&[HOST, "echo ready; exec cat /dev/zero"])?;
                        client.expect("ready\n")?;
                        client.kill()?;
                    }
                    (0, _) => {
                        let mut client = ssh.terminal(&[HOST])?;
                        client.expect("$ ")?;
                        client.kill()?;
                    }
                    _ => {
                        let done = ssh.run("true")?;
                        ensure!(done.code == Some(0), "connection {number}: {done:?}");
                    }
                }
            }
        };
        let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| anyhow!("a worker panicked"))?)
    })
}

/// The least that the server holds of each sort: what asks comes and goes itself.
fn at_rest(server: &Server, metrics: &Client, id: &str) -> Result<Held> {
    let mut least = held(server, metrics, id)?;
    for _ in 0..LOOKS {
        for (name, count) in held(server, metrics, id)? {
            least.entry(name).and_modify(|least| *least = count.min(*least)).or_insert(count);
        }
    }
    Ok(least)
}

/// Waits until the server holds nothing that it did not hold before: no descriptor, no thread, no task, no process in the box.
fn back_to(before: &Held, server: &Server, metrics: &Client, id: &str) -> Result<()> {
    let mut more = Held::new();
    let settled = until("all of the connections to be gone", SETTLE, || {
        more = held(server, metrics, id)?;
        more.retain(|name, count| before.get(name).is_none_or(|before| *count > *before));
        Ok(more.is_empty().then_some(()))
    });
    settled.with_context(|| format!("before there were {before:?}, at last {more:?}"))
}

#[test]
fn five_hundred_connections_leave_nothing_behind() -> Result<()> {
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    let server = Server::with_ssh(Settings::from([
        ("BOXYARD_LIMITS_SSH_CONNECTIONS_PER_ADDRESS", "1000".to_owned()),
        ("BOXYARD_LIMITS_SSH_CONNECTIONS_PER_BOX", "1000".to_owned()),
        ("BOXYARD_METRICS", address.to_string()),
        // What is free goes back to the kernel at once. Otherwise it stays with each arena of glibc's allocator, up to megabytes, and what a
        // connection leaves behind could hide in it.
        ("MALLOC_ARENA_MAX", "1".to_owned()),
        ("MALLOC_TRIM_THRESHOLD_", "4096".to_owned()),
        ("MALLOC_TOP_PAD_", "0".to_owned()),
        ("MALLOC_MMAP_THRESHOLD_", "4096".to_owned()),
        ("MALLOC_MMAP_MAX_", "1000000".to_owned()),
    ]))?;
    let metrics = Client { address, key: String::new() };
    let id = server.create()?;
    let ssh = server.ssh(&id)?;
    // All that is made once: threads, buffers, labels of figures.
    connect(&ssh, WARM_UP)?;
    until("the first connections to be gone", SETTLE, || {
        Ok((held(&server, &metrics, &id)?.get("boxyard_ssh_connections") == Some(&0)).then_some(()))
    })?;
    let (before, memory) = (at_rest(&server, &metrics, &id)?, resident(&server)?);
    connect(&ssh, CONNECTIONS)?;
    back_to(&before, &server, &metrics, &id)?;
    let after = resident(&server)?;
    println!("{before:?}; {memory} KiB before, {after} KiB after");
    ensure!(after <= memory + MARGIN, "memory grew from {memory} KiB to {after} KiB");
    let status = server.call("GET", &format!("/v2/box/{id}/status"), None)?.ok()?;
    ensure!(status["status"] == "idle", "a connection is still counted: {status}");
    Ok(())
}
