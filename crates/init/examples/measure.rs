//! Measures `boxyard-init` on this machine, as root:
//!
//! ```text
//! cargo build --release -p boxyard-init
//! cargo run --release -p boxyard-init --example measure -- target/…/release/boxyard-init IMAGE_FOLDER SCRATCH_FOLDER [ROUNDS]
//! ```
//!
//! `IMAGE_FOLDER` is a root file system with `/bin/true` and `/bin/sh`, `SCRATCH_FOLDER` an empty folder on a file system that can be
//! id-mapped. It makes cgroups called `boxyard-measure-…` and interfaces called `bymeasure…`, and removes them.
#![expect(clippy::print_stdout, reason = "a table is what it is for")]

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use boxyard_proto::BoxId;
use boxyard_proto::launch::{Launch, Launched, Network, UIDS_PER_BOX};
use boxyard_proto::wire::{self, Exec, FromInit, HEADER_LEN, Hello, Kind, OnClose, ToInit, User};

/// Output of the throughput run.
const BIG: u64 = 4_000_000_000;

struct Bench {
    program: PathBuf,
    image: PathBuf,
    scratch: PathBuf,
    rounds: u32,
}

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [program, image, scratch, rest @ ..] = arguments.as_slice() else {
        panic!("usage: measure PROGRAM IMAGE_FOLDER SCRATCH_FOLDER [ROUNDS]")
    };
    let rounds = rest.first().map_or(100, |rounds| rounds.parse().expect("a number"));
    let bench = Bench { program: program.into(), image: image.into(), scratch: scratch.into(), rounds };
    println!("size of the program         {:>10} bytes", fs::metadata(&bench.program).expect("the program").len());
    bench.spawning();
    for (network, v1) in [(false, false), (true, false), (true, true)] {
        bench.launching(network, v1);
    }
    bench.serving();
}

impl Bench {
    /// What starting any program costs, and what it costs until `serve` answers.
    fn spawning(&self) {
        let version = self.times(|_| {
            let mut command = Command::new(&self.program);
            timed(|| command.arg("--version").stdout(Stdio::null()).status().expect("run"))
        });
        report("start, print version, end", version);
        let serving = self.times(|round| {
            let socket = self.scratch.join(format!("serve-{round}"));
            let listener = UnixListener::bind(&socket).expect("listen");
            let mut command = Command::new("/bin/sh");
            command.args(["-c", "exec \"$0\" serve 3<&0 </dev/null"]).arg(&self.program).stdin(OwnedFd::from(listener));
            let start = Instant::now();
            let mut server = command.spawn().expect("start");
            let mut stream = connect(&socket);
            // It answers what is no message, without starting anything.
            stream.write_all(&wire::header(Kind::Err, 0)).expect("send");
            stream.read_exact(&mut [0; HEADER_LEN]).expect("an answer");
            let time = start.elapsed();
            server.kill().and_then(|()| server.wait()).expect("end");
            fs::remove_file(&socket).expect("clean up");
            time
        });
        report("start of serve to answer, by way of a shell", serving);
    }

    fn launching(&self, network: bool, v1: bool) {
        let times = self.times(|round| {
            let made = Made::new(self, round, network, v1);
            let (time, _) = made.launch(self);
            time
        });
        report(
            &format!("launch{}{}", if network { " + network" } else { "" }, if v1 { " + v1 cgroups" } else { "" }),
            times,
        );
    }

    fn serving(&self) {
        let made = Made::new(self, 0, false, false);
        let (_, pid) = made.launch(self);
        println!("idle PID 1: {}", memory(pid));
        for (spool, how) in [(false, "exec true in a box"), (true, "the same, its output held until it is taken")] {
            let run = |round| run(&made.plan.socket, &format!("true {round} {spool}"), spool, "/bin/true", &[]);
            report(how, self.times(|round| timed(|| run(round))));
        }
        for round in 0..6 {
            let spool = round % 2 == 1;
            let start = Instant::now();
            let script = format!("head -c {BIG} /dev/zero");
            let bytes = run(&made.plan.socket, &format!("big {round}"), spool, "/bin/sh", &["-c", &script]);
            let seconds = start.elapsed().as_secs_f64();
            #[expect(clippy::cast_precision_loss, reason = "a rate needs no more digits")]
            let rate = bytes as f64 / seconds / 1e6;
            println!("output through a box, held until it is taken: {spool:<5} {rate:>10.0} MB/s");
        }
        println!("PID 1 after that: {}", memory(pid));
    }

    fn times(&self, mut deed: impl FnMut(u32) -> Duration) -> Vec<Duration> {
        (0..self.rounds).map(&mut deed).collect()
    }
}

/// A box that is removed when dropped.
struct Made {
    plan: Launch,
    folder: PathBuf,
}

impl Made {
    fn new(bench: &Bench, number: u32, network: bool, v1: bool) -> Self {
        let folder = bench.scratch.join(format!("box-{number}"));
        for name in ["upper", "work"] {
            fs::create_dir_all(folder.join(name)).expect("make a folder");
        }
        let name = format!("boxyard-measure-{number}");
        let cgroup = |hierarchy: &str| {
            let path = Path::new("/sys/fs/cgroup").join(hierarchy).join(&name);
            fs::create_dir_all(&path).map(|()| path)
        };
        let v2 = if Path::new("/sys/fs/cgroup/unified").exists() { "unified" } else { "" };
        let v1 = if v1 { ["cpu", "cpuacct", "memory", "freezer", "pids"].as_slice() } else { &[] };
        let plan = Launch {
            disk: None,
            id: BoxId::from_entropy(u64::from(number)),
            uid_start: UIDS_PER_BOX * (20_000 + number % 1000),
            layers: vec![bench.image.clone()],
            upper: folder.join("upper"),
            work: folder.join("work"),
            socket: folder.join("s"),
            cgroup: cgroup(v2).expect("make a cgroup"),
            cgroups_v1: v1.iter().map(|controller| cgroup(controller).expect("make a v1 cgroup")).collect(),
            controllers: Vec::new(),
            network: network.then(|| Network {
                interface: format!("bymeasure{number}"),
                address: std::net::Ipv4Addr::from(0xc612_0000 + number),
                gateway: std::net::Ipv4Addr::new(198, 19, 255, 254),
                mtu: 1500,
            }),
            files: Vec::new(),
            env: vec!["PATH=/usr/bin:/bin".into()],
            open_files: 1024,
        };
        Self { plan, folder }
    }

    fn launch(&self, bench: &Bench) -> (Duration, u32) {
        let plan = serde_json::to_vec(&self.plan).expect("write the plan");
        let mut command = Command::new(&bench.program);
        command.arg("launch").stdin(Stdio::piped()).stdout(Stdio::piped());
        let start = Instant::now();
        let mut launcher = command.spawn().expect("start the launcher");
        launcher.stdin.take().expect("its input").write_all(&plan).expect("give it the plan");
        let answer = launcher.wait_with_output().expect("wait for it").stdout;
        let time = start.elapsed();
        match serde_json::from_slice(&answer).expect("an answer") {
            Launched::Ready { pid } => (time, pid),
            Launched::Failed { doing, error, .. } => panic!("{doing}: {error}"),
        }
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        let _ = fs::write(self.plan.cgroup.join("cgroup.kill"), "1");
        while fs::read_to_string(self.plan.cgroup.join("cgroup.events")).is_ok_and(|text| text.contains("populated 1"))
        {
            std::thread::yield_now();
        }
        for entry in fs::read_dir(&self.plan.cgroup).expect("list the cgroup").flatten() {
            let _ = fs::remove_dir(entry.path());
        }
        for path in self.plan.cgroups_v1.iter().chain([&self.plan.cgroup]) {
            let _ = fs::remove_dir(path);
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Runs a program to its end; returns how much it wrote.
fn run(socket: &Path, job: &str, spool: bool, program: &str, arguments: &[&str]) -> u64 {
    let mut stream = connect(socket);
    let argv = [program].iter().chain(arguments).map(|&word| word.to_owned()).collect();
    let on_close = if spool { OnClose::Keep } else { OnClose::End };
    let exec = Exec { spool, on_close, ..Exec::new(job, argv, "/", User::BOXUSER) };
    let mut opening = wire::json_frame(&ToInit::Hello(Hello::ours()));
    opening.extend(wire::json_frame(&ToInit::Exec(exec)));
    stream.write_all(&opening).expect("send");
    let (mut written, mut taken, mut payload) = (0, 0, vec![0; wire::FRAME_MAX]);
    loop {
        let mut header = [0; HEADER_LEN];
        stream.read_exact(&mut header).expect("a frame");
        let (kind, length) = wire::parse_header(header).expect("a header");
        stream.read_exact(&mut payload[..length]).expect("a payload");
        match kind {
            Kind::Json => match serde_json::from_slice(&payload[..length]).expect("a message") {
                FromInit::Exit(exit) if exit.code == 0 => {
                    if spool {
                        let done = wire::json_frame(&ToInit::Taken { upto: written, ended: true });
                        stream.write_all(&done).expect("send");
                    }
                    return written;
                }
                FromInit::Hello(_) | FromInit::Started { .. } => {}
                other @ (FromInit::Exit(_)
                | FromInit::Opened { .. }
                | FromInit::Incoming { .. }
                | FromInit::OutEnd
                | FromInit::Failed { .. }
                | FromInit::Unsupported { .. }) => panic!("{other:?}"),
            },
            Kind::In | Kind::Out | Kind::Err => {
                written += length as u64;
                if spool && written - taken >= wire::TAKEN_EVERY as u64 {
                    taken = written;
                    let safe = wire::json_frame(&ToInit::Taken { upto: written, ended: false });
                    stream.write_all(&safe).expect("send");
                }
            }
        }
    }
}

fn connect(socket: &Path) -> UnixStream {
    UnixStream::connect(socket).expect("connect")
}

fn timed<T>(deed: impl FnOnce() -> T) -> Duration {
    let start = Instant::now();
    deed();
    start.elapsed()
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)].as_secs_f64() * 1e3;
    println!("{what:<45} p50 {:>7.2} ms   p95 {:>7.2} ms   least {:>6.2} ms", at(50), at(95), at(0));
}

fn memory(pid: u32) -> String {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("its memory");
    let line = |name: &str| {
        rollup
            .lines()
            .find(|line| line.starts_with(name))
            .unwrap_or_default()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    };
    format!("{}, {}, {}", line("Pss:"), line("Private_Dirty:"), line("Private_Clean:"))
}
