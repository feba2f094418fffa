//! What the tests stand on: a client of the protocol, a server on the host, and real boxes.

pub mod boxes;
pub mod cgroup;
pub mod client;
pub mod files;
pub mod image;
pub mod server;
pub mod sftp;
pub mod sockets;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_boxyard-init");

/// How long anything may take before a test fails. Nothing waits this long unless it is broken.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// A number that no other test running now has, below 8000.
pub fn unique() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    (std::process::id() % 250) * 32 + NEXT.fetch_add(1, Ordering::Relaxed) % 32
}

/// A fresh folder of this test's own, on the disk that the build is on.
pub fn folder(name: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}-{number}", std::process::id()));
    std::fs::create_dir_all(&path).expect("make a folder");
    path
}
