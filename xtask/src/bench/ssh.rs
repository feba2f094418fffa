//! The SSH door beside OpenSSH's server: the same client, the same cipher, in turns.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use boxyard_real_tests::ssh::done::finish_within;
use boxyard_real_tests::ssh::reference;
use boxyard_real_tests::{Dialogue, HOST, Server, Ssh, finish};

use super::Counts;
use super::measure::{pss, timed};
use super::report::{Goal, Report, Samples};
use super::sshd::Sshd;

/// The cipher of both: what OpenSSH itself would choose is not the fastest, and not the same everywhere.
const CIPHER: &str = "aes256-gcm@openssh.com";
/// Times that each transfer is made, in turns; the median counts.
const ROUNDS: usize = 3;
/// How long one transfer may take.
const TRANSFER: Duration = Duration::from_secs(300);
/// Logins to one box at once; it takes no more than 64.
const PER_BOX: usize = 50;

/// Makes the command of a transfer of that local file.
type Transfer = fn(&Ssh, &PathBuf) -> Result<Command>;

/// One of the two.
struct Side {
    name: &'static str,
    ssh: Ssh,
}

/// Measures both, or ours alone where OpenSSH's server is not installed.
pub fn measure(server: &Server, counts: Counts, report: &mut Report) -> Result<()> {
    let id = server.create()?;
    let sshd = Sshd::start()?;
    let same = |ssh: Ssh| {
        // A client of 9.5 or newer waits on purpose before it sends a key press.
        let quick = ssh.option("IgnoreUnknown ObscureKeystrokeTiming").option("ObscureKeystrokeTiming no");
        quick.option(&format!("Ciphers {CIPHER}"))
    };
    // In the tests' own proof OpenSSH's server stands in for the door, and the table says so.
    let ours = if reference::wanted() { "sshd in a box" } else { "SSH door" };
    let mut sides = vec![Side { name: ours, ssh: same(server.ssh(&id)?) }];
    match &sshd {
        Some(sshd) => {
            let version = Command::new("ssh").arg("-V").output()?;
            let version = String::from_utf8_lossy(&version.stderr).trim().to_owned();
            report.note(format!(
                "ssh: client {version}; sshd at {} with a user and an /etc of its own; {CIPHER} on both, in turns",
                sshd.address()
            ));
            sides.push(Side { name: "sshd", ssh: same(sshd.ssh()) });
        }
        None => report.note("ssh: OpenSSH's server was not measured: it is not installed (package openssh-server)"),
    }
    logins(&sides, counts, report)?;
    transfers(&sides, server, &id, sshd.as_ref(), counts, report)?;
    keystrokes(&sides, counts, report)?;
    idle(server, &id, sshd.as_ref(), counts, report)?;
    server.delete(&id)
}

/// Connect, log in by password, run `true`, close.
fn logins(sides: &[Side], counts: Counts, report: &mut Report) -> Result<()> {
    let mut samples: Vec<Samples> = sides.iter().map(|_| Samples::default()).collect();
    for round in 0..counts.logins + 2 {
        for (side, samples) in sides.iter().zip(&mut samples) {
            let (done, took) = timed(|| side.ssh.run("true"))?;
            done.ok().with_context(|| side.name)?;
            // The first ones warm up.
            if round >= 2 {
                samples.push(took);
            }
        }
    }
    let what = "ssh connect + password + true + close";
    for (side, samples) in sides.iter().zip(&samples) {
        report.times(&format!("{what}: {}", side.name), samples, None);
    }
    if let [ours, theirs] = samples.as_slice() {
        let ratio = ours.percentile(50) / theirs.percentile(50);
        report.value(&format!("{what}: ratio to sshd"), "×", counts.logins, ratio, Some(Goal::AtMost(1.0)));
    }
    Ok(())
}

/// A gigabyte each way through `cat` and through sftp.
fn transfers(
    sides: &[Side],
    server: &Server,
    id: &str,
    sshd: Option<&Sshd>,
    counts: Counts,
    report: &mut Report,
) -> Result<()> {
    let scratch = server.lane().folder().join("bench");
    fs::create_dir_all(&scratch)?;
    let big = scratch.join("big");
    let length = counts.stream;
    finish(Command::new("sh").args(["-c", &format!("head -c {length} /dev/urandom > big")]).current_dir(&scratch))?
        .ok()?;
    for side in sides {
        // The far files, which are in the page cache from then on.
        let mut send = side.ssh.command("ssh")?;
        finish_within(send.args([HOST, "cat > big"]).stdin(File::open(&big)?), TRANSFER)?.ok()?;
    }
    let works: [(&str, f64, Transfer); 4] = [
        ("ssh cat, download", 0.9, |ssh, _| {
            let mut command = ssh.command("ssh")?;
            command.args([HOST, "cat < big"]).stdout(Stdio::null());
            Ok(command)
        }),
        ("ssh cat, upload", 0.9, |ssh, big| {
            let mut command = ssh.command("ssh")?;
            command.args([HOST, "cat > /dev/null"]).stdin(File::open(big)?);
            Ok(command)
        }),
        ("sftp get", 0.7, |ssh, big| sftp(ssh, &format!("get big {}", big.with_extension("back").display()))),
        ("sftp put", 0.7, |ssh, big| sftp(ssh, &format!("put {} put", big.display()))),
    ];
    for (what, goal, work) in works {
        let mut rates: Vec<Vec<f64>> = sides.iter().map(|_| Vec::new()).collect();
        for _ in 0..ROUNDS {
            for (side, rates) in sides.iter().zip(&mut rates) {
                let mut command = work(&side.ssh, &big)?;
                let (done, took) = timed(|| finish_within(&mut command, TRANSFER))?;
                done.ok().with_context(|| format!("{what}: {}", side.name))?;
                #[expect(clippy::cast_precision_loss, reason = "a rate needs no more than 52 bits")]
                rates.push(length as f64 / took.as_secs_f64() / 1e6);
                // What is written does not wait for what was written before: each begins with the same work to do.
                let removed = big.with_extension("back");
                if removed.exists() {
                    fs::remove_file(removed)?;
                }
                let far = sshd.map(|sshd| sshd.home().join("put"));
                if let Some(far) = far.filter(|far| far.exists()) {
                    fs::remove_file(far)?;
                }
                server.sh(id, "rm -f put")?;
                settle();
            }
        }
        let medians: Vec<f64> = rates.into_iter().map(median).collect();
        let what = format!("{what} of {} MiB", length >> 20);
        for (side, median) in sides.iter().zip(&medians) {
            report.value(&format!("{what}: {}", side.name), "MB/s", ROUNDS, *median, None);
        }
        if let [ours, theirs] = medians[..] {
            let goal = Some(Goal::AtLeast(goal));
            report.value(&format!("{what}: ratio to sshd"), "×", ROUNDS, ours / theirs, goal);
        }
    }
    fs::remove_dir_all(&scratch)?;
    Ok(())
}

/// Lets the disk finish what others have written.
fn settle() {
    // Without it the next transfer only takes longer.
    let _status = Command::new("sync").status();
}

fn sftp(ssh: &Ssh, line: &str) -> Result<Command> {
    let batch = ssh.door().folder().join("batch");
    fs::write(&batch, format!("{line}\n"))?;
    let mut command = ssh.command("sftp")?;
    command.args(["-oBatchMode=no", "-q", "-b"]).arg(batch).arg(HOST);
    Ok(command)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// One byte to `cat` on a terminal, and back.
fn keystrokes(sides: &[Side], counts: Counts, report: &mut Report) -> Result<()> {
    let what = "ssh keystroke echo on a terminal";
    for (number, side) in sides.iter().enumerate() {
        let mut command = side.ssh.command("ssh")?;
        command.args(["-tt", HOST, "stty raw -echo; echo ready; exec cat"]).stdin(Stdio::piped());
        let mut child = command.spawn()?;
        let mut input = child.stdin.take().context("no standard input")?;
        let mut output = child.stdout.take().context("no standard output")?;
        let mut heard = Vec::new();
        let mut byte = [0];
        while !heard.ends_with(b"ready\n") && !heard.ends_with(b"ready\r\n") {
            ensure!(output.read(&mut byte)? == 1, "{} ended early", side.name);
            heard.push(byte[0]);
        }
        let mut samples = Samples::default();
        for sent in 0..counts.keystrokes + 20 {
            let began = Instant::now();
            input.write_all(b"x")?;
            output.read_exact(&mut byte)?;
            ensure!(byte == *b"x", "something else came back");
            if sent >= 20 {
                samples.push(began.elapsed());
            }
        }
        child.kill()?;
        child.wait()?;
        report.times(&format!("{what}: {}", side.name), &samples, None);
        if number == 0 {
            let goal = Some(Goal::AtMost(5.0));
            report.value(&format!("{what}: {}, p99", side.name), "ms", counts.keystrokes, samples.percentile(99), goal);
        }
    }
    Ok(())
}

/// What the server needs for logins that do nothing.
fn idle(server: &Server, id: &str, sshd: Option<&Sshd>, counts: Counts, report: &mut Report) -> Result<()> {
    let what = "ssh memory per idle session (PSS)";
    let mut boxes = vec![id.to_owned()];
    for _ in 1..counts.idle.div_ceil(PER_BOX) {
        boxes.push(server.create()?);
    }
    let clients = boxes.iter().map(|id| server.ssh(id)).collect::<Result<Vec<_>>>()?;
    let own = || -> Result<i64> { pss(&server.pid()?.to_string()) };
    // Two first, so that what exists once is not counted as a session's.
    let _first = log_in(&clients[0], 2)?;
    let before = own()?;
    let mut held = Vec::new();
    for (number, client) in clients.iter().enumerate() {
        let left = counts.idle - held.len();
        let most = if number == 0 { PER_BOX - 2 } else { PER_BOX };
        held.extend(log_in(client, left.min(most))?);
    }
    let sessions = held.len();
    #[expect(clippy::cast_precision_loss, reason = "kibibytes of one machine")]
    let each = |kib: i64, sessions: usize| kib as f64 / 1024.0 / sessions as f64;
    report.value(
        &format!("{what}: SSH door"),
        "MiB",
        sessions,
        each(own()? - before, sessions),
        Some(Goal::AtMost(1.0)),
    );
    drop(held);
    for id in boxes.iter().skip(1) {
        server.delete(id)?;
    }
    if let Some(sshd) = sshd {
        let own = || -> Result<i64> {
            // One that has just ended has no memory.
            Ok(sshd.pids()?.iter().map(|pid| pss(pid).unwrap_or(0)).sum())
        };
        let before = own()?;
        let few = counts.idle.div_ceil(5);
        let held = log_in(&sshd.ssh(), few)?;
        report.value(&format!("{what}: sshd"), "MiB", few, each(own()? - before, few), None);
        drop(held);
    }
    Ok(())
}

/// So many shells that wait for input.
fn log_in(ssh: &Ssh, count: usize) -> Result<Vec<Dialogue>> {
    let mut held = Vec::new();
    for _ in 0..count {
        let mut client = ssh.dialogue(&["-tt", HOST])?;
        client.expect("$ ")?;
        held.push(client);
    }
    Ok(held)
}
