//! The same work by others, where they are installed, in the same run and on the same tree of files.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use boxyard_real_tests::{Server, until};

use super::measure::{EXEC, timed};
use super::report::{Report, Samples};
use crate::shell;

/// How long a peer may take to get ready.
const DEADLINE: Duration = Duration::from_secs(60);

/// Measures all peers that are installed, and says of the others that they are not.
pub fn measure(count: usize, server: &Server, report: &mut Report) -> Result<()> {
    let scratch = shell::target().join("bench-peers");
    if scratch.exists() {
        std::fs::remove_dir_all(&scratch)?;
    }
    std::fs::create_dir_all(&scratch)?;
    let tree = tree(server, &scratch)?;
    let measured = bubblewrap(count, &tree, report)
        .and_then(|()| docker(count, &tree, &scratch, report))
        .and_then(|()| podman(count, &tree, &scratch, report));
    std::fs::remove_dir_all(&scratch)?;
    measured
}

/// A copy of what a fresh box sees, for peers to start from: read out of a box by tar.
fn tree(server: &Server, scratch: &Path) -> Result<PathBuf> {
    let id = server.create()?;
    let (tree, archive) = (scratch.join("tree"), scratch.join("tree.tar"));
    std::fs::create_dir_all(&tree)?;
    let body = serde_json::json!({ "command": ["sudo", "tar", "--one-file-system", "-C", "/", "-cf", "-", "bin", "lib", "lib64", "usr", "etc"] });
    let mut file = File::create(&archive)?;
    let answer =
        server.client().connect()?.stream("POST", &format!("/v2/box/{id}/exec-stream"), Some(&body), |part| {
            std::io::Write::write_all(&mut file, part)?;
            Ok(())
        })?;
    ensure!(answer.status == 200, "reading a tree out of a box: status {}", answer.status);
    server.delete(&id)?;
    // tar stops at the end of the archive and does not mind the stream's own last block behind it.
    shell::run(shell::command("tar", &["-xf"]).arg(&archive).arg("-C").arg(&tree))?;
    for folder in ["proc", "dev", "tmp", "sys", "run"] {
        std::fs::create_dir_all(tree.join(folder))?;
    }
    Ok(tree)
}

fn bubblewrap(count: usize, tree: &Path, report: &mut Report) -> Result<()> {
    let Some(program) = shell::find("bwrap") else { return absent("bubblewrap", report) };
    let tree = tree.to_string_lossy();
    let arguments = ["--unshare-all", "--ro-bind", &tree, "/", "--proc", "/proc", "--dev", "/dev", "true"];
    repeat("bubblewrap: bwrap --unshare-all … true", count, &program, &arguments, report)
}

fn docker(count: usize, tree: &Path, scratch: &Path, report: &mut Report) -> Result<()> {
    let (Some(program), Some(daemon)) = (shell::find("docker"), shell::find("dockerd")) else {
        return absent("docker", report);
    };
    let socket = format!("unix://{}/docker.sock", scratch.display());
    let _daemon = Daemon::start(&daemon, scratch, &socket, &program)?;
    let image = import(&program, &["--host", &socket, "import", "-"], tree)?;
    repeat("docker run --rm … true", count, &program, &["--host", &socket, "run", "--rm", &image, "true"], report)?;
    let started = ["--host", &socket, "run", "--detach", "--rm", &image, "sleep", "3600"];
    let container = shell::output(&mut shell::command(&program, &started))?;
    let exec = "docker exec … true";
    repeat(exec, count, &program, &["--host", &socket, "exec", &container, "true"], report)?;
    shell::output(&mut shell::command(&program, &["--host", &socket, "kill", &container]))?;
    if let (Some(ours), Some(theirs)) = (report.median(EXEC), report.median(exec)) {
        report.value(
            "exec true: times faster than docker exec",
            "×",
            1,
            theirs / ours,
            Some(super::report::Goal::AtLeast(25.0)),
        );
    }
    Ok(())
}

fn podman(count: usize, tree: &Path, scratch: &Path, report: &mut Report) -> Result<()> {
    let Some(program) = shell::find("podman") else { return absent("podman", report) };
    let (root, run) = (scratch.join("podman"), scratch.join("podman-run"));
    let own = ["--root", &root.to_string_lossy(), "--runroot", &run.to_string_lossy()].map(str::to_owned);
    let own: Vec<&str> = own.iter().map(String::as_str).collect();
    let image = import(&program, &[own.as_slice(), &["import", "-"]].concat(), tree)?;
    let run = [own.as_slice(), &["run", "--rm", "--network", "none", &image, "true"]].concat();
    repeat("podman run --rm --network none … true", count, &program, &run, report)
}

/// Pipes the tree into a program's `import`, which says the image's id.
fn import(program: &Path, arguments: &[&str], tree: &Path) -> Result<String> {
    let mut tar = Command::new("tar").arg("-C").arg(tree).args(["-cf", "-", "."]).stdout(Stdio::piped()).spawn()?;
    let archive = tar.stdout.take().context("tar has no standard output")?;
    let output = Command::new(program).args(arguments).stdin(archive).output()?;
    tar.wait()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{} import failed: {said}", program.display());
    let id = String::from_utf8_lossy(&output.stdout);
    Ok(id.lines().last().unwrap_or_default().trim().to_owned())
}

fn repeat(what: &str, count: usize, program: &Path, arguments: &[&str], report: &mut Report) -> Result<()> {
    let mut samples = Samples::default();
    for n in 0..=count {
        let ((), took) = timed(|| shell::output(&mut shell::command(program, arguments)).map(|_| ()))?;
        // The first one warms up.
        if n > 0 {
            samples.push(took);
        }
    }
    report.times(what, &samples, None);
    Ok(())
}

fn absent(peer: &str, report: &mut Report) -> Result<()> {
    report.note(format!("{peer} was not measured: it is not installed"));
    Ok(())
}

/// The cgroup in every v1 hierarchy, and in the v2 tree, below which dockerd makes its containers'.
const CGROUP: &str = "boxyard-bench";

/// A dockerd in a network namespace of its own, with all it has in the scratch folder.
struct Daemon(Child);

impl Daemon {
    fn start(daemon: &Path, scratch: &Path, socket: &str, client: &Path) -> Result<Self> {
        let log = File::create(scratch.join("dockerd.log"))?;
        let mut command = Command::new("unshare");
        // Its own network, so that it changes no rule of this host's firewall, and a /run of its own.
        let prepare = "ip link set lo up; mount -t tmpfs tmpfs /run; exec \"$@\"";
        command.args(["--net", "--mount", "sh", "-c", prepare, "sh"]).arg(daemon);
        command.args(["--host", socket, "--cgroup-parent", &format!("/{CGROUP}")]);
        for (flag, folder) in [("--data-root", "docker"), ("--exec-root", "docker-run")] {
            command.arg(flag).arg(scratch.join(folder));
        }
        command.arg("--pidfile").arg(scratch.join("docker.pid")).args(["--iptables=false", "--ip6tables=false"]);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let started = Self(command.spawn().context("starting dockerd")?);
        until("dockerd to answer", DEADLINE, || {
            Ok(shell::output(&mut shell::command(client, &["--host", socket, "version"])).ok())
        })?;
        Ok(started)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // TERM, so that it ends its containers and unmounts; it is our own child, so the pid is its.
        let _asked = Command::new("kill").arg(self.0.id().to_string()).status();
        let _status = self.0.wait();
        // What is not empty stays: something still runs in it.
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let _removed = std::fs::remove_dir(hierarchy.path().join(CGROUP));
        }
        let _removed = std::fs::remove_dir(Path::new("/sys/fs/cgroup").join(CGROUP));
    }
}
