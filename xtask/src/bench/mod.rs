//! `cargo xtask bench`: how fast and how small, measured on release programs through the doors that users use.
//!
//! Loopback only, every count and every wait bounded. A figure without its conditions is worth nothing, so the report says what was
//! run on what; peers are measured in the same run where they are installed.

mod crowd;
mod files;
mod life;
mod measure;
mod neighbours;
mod peers;
mod report;
mod session;
mod ssh;
mod sshd;

use anyhow::{Result, ensure};
use boxyard_real_tests::Server;
use boxyard_real_tests::init::Third;

use crate::build::{self, Profile};
use crate::host::{self, Consent};
use crate::{sdk, shell};
use report::Report;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Measure docker, podman and bubblewrap too, those that are installed
    #[arg(long)]
    peers: bool,
    /// A tenth of the repetitions: to see whether it works
    #[arg(long)]
    quick: bool,
    /// Only measurements whose name contains this
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// The programs are built already; set when going on through sudo
    #[arg(long, hide = true)]
    built: bool,
}

impl Arguments {
    fn wants(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|only| name.contains(only.as_str()))
    }
}

/// How often things are repeated.
#[derive(Debug, Clone, Copy)]
struct Counts {
    creates: usize,
    sdk: usize,
    execs: usize,
    boxes: usize,
    sessions: usize,
    stream: u64,
    huge: u64,
    peers: usize,
    logins: usize,
    keystrokes: usize,
    idle: usize,
    saves: usize,
    rewrites: usize,
    pauses: usize,
    crowd: usize,
    restarts: usize,
}

const FULL: Counts = Counts {
    creates: 200,
    sdk: 50,
    execs: 500,
    boxes: 100,
    sessions: 300,
    stream: 1 << 30,
    huge: 5 << 30,
    peers: 30,
    logins: 30,
    keystrokes: 1000,
    idle: 98,
    saves: 20,
    rewrites: 5,
    pauses: 50,
    crowd: 300,
    restarts: 7,
};
const QUICK: Counts = Counts {
    creates: 20,
    sdk: 5,
    execs: 50,
    boxes: 10,
    sessions: 30,
    stream: 100 << 20,
    huge: 200 << 20,
    peers: 3,
    logins: 5,
    keystrokes: 100,
    idle: 10,
    saves: 3,
    rewrites: 1,
    pauses: 5,
    crowd: 30,
    restarts: 1,
};

/// Measures, prints the table, writes `target/bench.json`.
///
/// # Errors
/// Something cannot be measured.
pub fn run(arguments: &Arguments) -> Result<()> {
    if !arguments.built {
        let mut needs = [host::BUILD, host::SERVER, host::TEST].concat();
        if arguments.wants(measure::SSH) {
            needs.extend(host::BENCH);
        }
        host::install(&needs, Consent::Ask)?;
        build::programs(Profile::Release)?;
        if arguments.wants("sdk") {
            sdk::install_typescript()?;
        }
    }
    host::become_root(&["--built"])?;
    let measured = measure_all(arguments);
    host::hand_back(&[&shell::target()])?;
    measured
}

fn measure_all(arguments: &Arguments) -> Result<()> {
    // Before any file is opened.
    let mut third = Third::reserve()?;
    let counts = if arguments.quick { QUICK } else { FULL };
    let programs = Profile::Release.programs();
    let mut report = Report::begin(arguments.quick)?;
    let server = Server::from_programs(&programs)?;
    for (name, measurement) in measure::ALL {
        if arguments.wants(name) {
            eprintln!("measuring {name} …");
            measurement(&server, counts, &mut report)?;
        }
    }
    if arguments.wants("init") {
        eprintln!("measuring init …");
        measure::init(third.as_mut(), &server, counts, &mut report)?;
    }
    if arguments.peers {
        peers::measure(counts.peers, &server, &mut report)?;
    }
    drop(server);
    if arguments.wants(crowd::NAME) {
        eprintln!("measuring {} …", crowd::NAME);
        crowd::measure(&programs, counts, &mut report)?;
    }
    report.finish()?;
    ensure!(!report.is_empty(), "nothing was measured");
    Ok(())
}
