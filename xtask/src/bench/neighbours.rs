//! What a box notices of a neighbour that takes all it can get.
//!
//! Quiet and noisy rounds take turns, so that what else happens on the machine falls on both.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use boxyard_real_tests::{Server, until};
use serde_json::json;

use super::Counts;
use super::measure::run_true;
use super::report::{Goal, Report, Samples};

/// How long an offender may take to get going.
const START: Duration = Duration::from_secs(60);
/// Quiet and noisy rounds.
const ROUNDS: usize = 4;
/// How many times as long a command may take beside an offender.
const GOAL: f64 = 3.0;

/// An offender: its name, its command, and a command that succeeds once it is at work.
struct Offender {
    name: &'static str,
    command: &'static str,
    at_work: &'static str,
}

const OFFENDERS: [Offender; 4] = [
    Offender {
        name: "a fork bomb",
        command: "bomb() { bomb | bomb & }; bomb 2> /dev/null; exec sleep infinity",
        // There is no room for another process in that box: nobody can look.
        at_work: "",
    },
    Offender {
        name: "a memory hog",
        command: "while :; do python3 -c 'x = []\nwhile True: x.append(b\"x\" * (1 << 20))'; touch hogged; done",
        at_work: "pgrep python3",
    },
    Offender {
        name: "a disk filler",
        command: "while :; do cat /dev/zero > fill; rm fill; done",
        at_work: "[ $(stat -c %s fill) -gt 100000000 ]",
    },
    Offender {
        name: "a CPU burner",
        command: "for n in $(seq 16); do while :; do :; done & done; wait",
        at_work: "[ $(pgrep -c bash) -gt 16 ]",
    },
];

/// `true` in one box, with and without each offender in another.
pub fn measure(server: &Server, counts: Counts, report: &mut Report) -> Result<()> {
    let victim = server.create()?;
    let mut connection = server.client().connect()?;
    run_true(&mut connection, &victim, 20)?;
    for offender in &OFFENDERS {
        let (mut quiet, mut noisy) = (Samples::default(), Samples::default());
        for _ in 0..ROUNDS {
            quiet.extend(run_true(&mut connection, &victim, counts.execs / ROUNDS)?);
            let id = server.create()?;
            offender.begin(server, &id)?;
            noisy.extend(run_true(&mut connection, &victim, counts.execs / ROUNDS)?);
            server.delete(&id)?;
            until("the offender to be gone", START, || Ok((!server.ids()?.contains(&id)).then_some(())))?;
        }
        let ratio = noisy.percentile(50) / quiet.percentile(50);
        report.times(&format!("exec true before {}", offender.name), &quiet, None);
        report.times(&format!("exec true beside {}", offender.name), &noisy, None);
        let n = counts.execs;
        report.value(&format!("  times as long beside {}", offender.name), "×", n, ratio, Some(Goal::AtMost(GOAL)));
    }
    server.delete(&victim)
}

impl Offender {
    /// Starts it and waits until it is at work.
    fn begin(&self, server: &Server, id: &str) -> Result<()> {
        let body = json!({ "command": ["bash", "-c", self.command], "async": true });
        let started = server.call("POST", &format!("/v2/box/{id}/exec"), Some(&body))?;
        ensure!(started.status == 200, "{started:?}");
        if self.at_work.is_empty() {
            return until("the box to be full", START, || {
                let usage = server.call("GET", &format!("/v2/box/{id}/usage"), None)?.ok()?;
                let pids = usage["pids"].as_u64().context("no pids")?;
                Ok((pids > 900).then_some(()))
            });
        }
        until(self.name, START, || Ok((server.exec(id, self.at_work)?.code == 0).then_some(())))
    }
}
