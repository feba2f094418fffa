//! Live sessions over a WebSocket.

use std::time::Instant;

use anyhow::{Result, ensure};
use boxyard_real_tests::{Live, Server};
use serde_json::json;

use super::Counts;
use super::report::{Goal, Report, Samples};

/// Connect, start, and the first byte of output; each on a connection of its own.
pub fn measure(server: &Server, counts: Counts, report: &mut Report) -> Result<()> {
    let id = server.create()?;
    for (with, tty) in [("pipes", false), ("a terminal", true)] {
        let (mut whole, mut started) = (Samples::default(), Samples::default());
        // The first ones warm up.
        for number in 0..counts.sessions + 5 {
            let began = Instant::now();
            let mut live = Live::open(server.client(), &id)?;
            live.say(&json!({"type": "start", "argv": ["cat", "/etc/hostname"], "tty": tty}))?;
            let first = live.hear()?;
            let start = began.elapsed();
            ensure!(first["type"] == "started", "{first}");
            let output = live.hear()?;
            let took = began.elapsed();
            ensure!(output["type"] == "stdout", "{output}");
            let last = live.hear()?;
            ensure!(last["type"] == "exit" && last["code"] == 0, "{last}");
            if number >= 5 {
                whole.push(took);
                started.push(start);
            }
        }
        report.times(&format!("session start → first byte, {with}"), &whole, Some(Goal::AtMost(5.0)));
        report.times("  of which until it has started", &started, None);
    }
    server.delete(&id)
}
