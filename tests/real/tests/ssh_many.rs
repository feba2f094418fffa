//! Five hundred SSH connections, made and dropped.

#![forbid(unsafe_code)]

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use boxyard_real_tests::{HOST, Server, Settings, Ssh, until};

/// Connections that warm everything up that is made once.
const WARM_UP: usize = 60;
const CONNECTIONS: usize = 500;
/// At once.
const WORKERS: usize = 8;
/// Every so many of the clients is killed in the middle.
const ABRUPT: usize = 5;
/// KiB by which the server's memory may differ: what an allocator keeps, not what 500 connections would leave behind.
const MARGIN: u64 = 16 * 1024;
/// Descriptors and threads by which it may differ: connections of the API and threads of a pool come and go. Of each sort of dropped
/// connection there are twice as many.
const FEW: usize = 16;
const SETTLE: Duration = Duration::from_secs(60);

/// What a server holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    descriptors: usize,
    threads: usize,
    /// KiB of memory.
    resident: u64,
    /// Processes in the box.
    processes: usize,
}

impl Held {
    fn by(server: &Server, id: &str) -> Result<Self> {
        let proc = format!("/proc/{}", server.pid()?);
        let status = fs::read_to_string(format!("{proc}/status"))?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(Self {
            descriptors: fs::read_dir(format!("{proc}/fd"))?.count(),
            threads: fs::read_dir(format!("{proc}/task"))?.count(),
            resident: resident.trim().trim_end_matches(" kB").parse()?,
            processes: server.sh(id, "ls -d /proc/[0-9]* | wc -l")?.parse()?,
        })
    }
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

/// Waits until nothing of the connections is left, as far as it can be counted.
fn at_rest(server: &Server, id: &str, than: Option<Held>) -> Result<Held> {
    let mut last = Held::by(server, id)?;
    let settled = until("the connections to be gone", SETTLE, || {
        let now = Held::by(server, id)?;
        let still = (now.descriptors, now.threads, now.processes) == (last.descriptors, last.threads, last.processes);
        last = now;
        let less = than.is_none_or(|than| {
            now.descriptors <= than.descriptors + FEW
                && now.threads <= than.threads + FEW
                && now.processes <= than.processes
        });
        Ok((still && less).then_some(now))
    });
    settled.with_context(|| format!("before {than:?}, at last {last:?}"))
}

#[test]
fn five_hundred_connections_leave_nothing_behind() -> Result<()> {
    let server = Server::with_ssh(Settings::from([
        ("BOXYARD_LIMITS_SSH_CONNECTIONS_PER_ADDRESS", "1000".to_owned()),
        ("BOXYARD_LIMITS_SSH_CONNECTIONS_PER_BOX", "1000".to_owned()),
    ]))?;
    let id = server.create()?;
    let ssh = server.ssh(&id)?;
    connect(&ssh, WARM_UP)?;
    let before = at_rest(&server, &id, None)?;
    connect(&ssh, CONNECTIONS)?;
    let after = at_rest(&server, &id, Some(before))?;
    println!("before {before:?}, after {after:?}");
    ensure!(after.resident <= before.resident + MARGIN, "memory grew: before {before:?}, after {after:?}");
    let status = server.call("GET", &format!("/v2/box/{id}/status"), None)?.ok()?;
    ensure!(status["status"] == "idle", "a connection is still counted: {status}");
    Ok(())
}
