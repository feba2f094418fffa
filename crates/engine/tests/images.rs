//! The default image, built for real from the host's mirror, and what users find in it.
//!
//! Needs root and the network. What was built is kept under `target/` and used again as long as the recipe, the host's mirror and its
//! certificates are the same: remove `target/tmp/images` to build from nothing.

#![expect(clippy::unwrap_used, reason = "a test stops at the first thing that is not as it should be")]

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use async_trait::async_trait;
use boxyard_engine::EngineError;
use boxyard_engine::images::{Image, Images, ImagesConfig, LayerRunner};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// The simplest box that a script can run in: namespaces for mounts and processes, an overlay, the host's network.
const BOX: &str = r#"
set -eu
lower=$1 upper=$2 work=$3 user=$4
shift 4
mkdir -p "$work/work" "$work/root"
mount -t overlay overlay -o "userxattr,lowerdir=$lower,upperdir=$upper,workdir=$work/work" "$work/root"
cd "$work/root"
mount -t proc proc proc
mount -t tmpfs -o mode=755 tmpfs dev
for node in null zero full random urandom tty; do touch dev/$node; mount --bind /dev/$node dev/$node; done
ln -s /proc/self/fd dev/fd
mkdir dev/shm && chmod 1777 dev/shm
mount --bind /etc/resolv.conf etc/resolv.conf
case $user in root) home=/root ;; *) home=/home/$user ;; esac
exec env -i HOME=$home USER=$user "$@"
"#;

struct Overlay;

impl Overlay {
    fn command(layers: &[PathBuf], upper: &Path, user: &str, env: &BTreeMap<String, String>) -> Command {
        let lower = layers.iter().map(|layer| layer.to_str().unwrap()).collect::<Vec<_>>().join(":");
        let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned();
        let ids = if user == "root" { "0:0" } else { "1000:1000" };
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation=private", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"]);
        command.args(["bash", "-c", BOX, "box", &lower]).arg(upper).arg(upper.parent().unwrap()).args([user, &path]);
        command.args(env.iter().map(|(name, value)| format!("{name}={value}")));
        command.args(["chroot", &format!("--userspec={ids}"), "--groups=", "."]).kill_on_drop(true);
        command
    }
}

#[async_trait]
impl LayerRunner for Overlay {
    async fn run(
        &self,
        layers: &[PathBuf],
        upper: &Path,
        script: &str,
        log: &mut (dyn Write + Send),
    ) -> Result<(), EngineError> {
        let mut command = Self::command(layers, upper, "root", &BTreeMap::new());
        let script = format!("exec 2>&1\n{script}");
        let output = command.args(["bash", "-c", &script]).stdin(Stdio::null()).output().await.unwrap();
        log.write_all(&output.stdout).unwrap();
        log.write_all(&output.stderr).unwrap();
        if output.status.success() {
            return Ok(());
        }
        Err(EngineError::broken("running the script", output.status.to_string()))
    }
}

/// A box that remembers what was done in it.
struct TestBox {
    image: Image,
    dir: tempfile::TempDir,
}

impl TestBox {
    fn new(image: &Image) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let upper = dir.path().join("upper");
        std::fs::create_dir(&upper).unwrap();
        std::fs::set_permissions(&upper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        Self { image: image.clone(), dir }
    }

    /// Runs `argv` in `/workspace/home` with `stdin`; returns exit code, standard output and standard error without blanks around them.
    async fn run(&self, user: &str, argv: &[&str], stdin: &str) -> (i32, String, String) {
        let mut command = Overlay::command(&self.image.layers, &self.dir.path().join("upper"), user, &self.image.env);
        command.args(["env", "--chdir=/workspace/home"]).args(argv);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        let write = async move {
            // A program that ends early does not read to the end.
            let _ = input.write_all(stdin.as_bytes()).await;
        };
        let ((), output) = tokio::join!(write, child.wait_with_output());
        let output = output.unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
    }

    /// What a line of shell prints as `boxuser`; panics unless it succeeds.
    async fn sh(&self, line: &str) -> String {
        let (code, out, err) = self.run("boxuser", &["bash", "-c", line], "").await;
        assert_eq!(code, 0, "{line}\n{out}\n{err}");
        out
    }
}

async fn image(name: &str) -> Image {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("images");
    let images = Images::open(&dir, ImagesConfig { trust_host_cas: true, ..ImagesConfig::default() }).unwrap();
    let started = std::time::Instant::now();
    let image = images.ensure(name, &Overlay).await.unwrap_or_else(|error| {
        let source = error.source.as_ref().map(ToString::to_string).unwrap_or_default();
        panic!("{error}: {source}");
    });
    println!(
        "{name} after {:?}: {:?}",
        started.elapsed(),
        images.list().unwrap().iter().find(|state| state.name == name)
    );
    image
}

#[tokio::test]
async fn users_find_what_they_expect() {
    let machine = TestBox::new(&image("default").await);
    assert_eq!(machine.sh("id").await, "uid=1000(boxuser) gid=1000(boxuser) groups=1000(boxuser)");
    // The host's name is not in the box's /etc/hosts; sudo must not mind.
    assert_eq!(machine.run("boxuser", &["sudo", "-n", "id", "-u"], "").await, (0, "0".to_owned(), String::new()));
    assert_eq!(machine.sh("getent passwd boxuser").await, "boxuser:x:1000:1000::/home/boxuser:/bin/bash");
    assert_eq!(
        machine.sh("stat -c '%a %U %n' / /workspace /workspace/home ~ /tmp").await,
        "755 root /\n711 root /workspace\n755 boxuser /workspace/home\n700 boxuser /home/boxuser\n1777 root /tmp"
    );
    assert_eq!(machine.sh("git config user.name; git config user.email").await, "Upstash Box\nbox@upstash.com");
    assert_eq!(machine.sh("git init -q r && git -C r symbolic-ref HEAD && rm -rf r").await, "refs/heads/master");
    let tools =
        "bash sudo git curl python3 pip node npm npx corepack ssh ps ip ping less vi jq unzip xz rsync gh wget file";
    machine
        .sh(&format!("for tool in {tools}; do command -v $tool > /dev/null || {{ echo no $tool; exit 1; }}; done"))
        .await;
    assert_eq!(
        machine
            .sh("cat /etc/machine-id /etc/hostname; ls /etc/ssh/ssh_host* /etc/apt/sources.list 2>/dev/null | cat")
            .await,
        ""
    );
    assert_eq!(machine.sh(". /etc/os-release; echo $VERSION_CODENAME").await, "trixie");
    let settings = "cd /etc; ls apt/apt.conf.d apt/sources.list.d dpkg/dpkg.cfg.d | grep -c -E 'mmdebstrap|0000|build' | cat; ls -A /tmp /var/tmp /dev/shm";
    assert_eq!(machine.sh(settings).await, "0\n/dev/shm:\n\n/tmp:\n\n/var/tmp:");
    // Copyright notices stay, as their licences ask; the rest of the documentation does not.
    machine.sh("test -s /usr/share/doc/git/copyright && ! ls /usr/share/doc/git/README* 2> /dev/null").await;
    machine.sh("curl --version | grep -q https && echo 'enum' | LC_ALL=C.UTF-8 python3 -c 'print(\"ünï\")'").await;
}

/// The commands by which the server runs code.
#[tokio::test]
async fn code_runs_from_standard_input() {
    let machine = TestBox::new(&image("default").await);
    machine.sh("echo hi > a.txt").await;
    let js: &[&str] = &["node", "-"];
    let ts: &[&str] = &["node", "--experimental-transform-types", "--disable-warning=ExperimentalWarning", "-"];
    let module = "import type { Stats } from 'fs'; import fs from 'fs'; namespace N { export const q = 1 }
        class K { constructor(readonly a: number) {} }
        console.log(new K(5).a + N.q, await Promise.resolve(fs.existsSync('a.txt')))";
    for (argv, code, said) in [
        (js, "const fs = require('fs'); console.log(fs.readdirSync('.').join())", "a.txt"),
        (js, "import fs from 'fs'; console.log(await Promise.resolve(fs.existsSync('a.txt')))", "true"),
        (
            ts,
            "enum E { A = 3 } const fs = require('fs'); const n: number = E.A; console.log(n, fs.existsSync('a.txt'))",
            "3 true",
        ),
        (ts, module, "6 true"),
        (&["python3", "-u", "-"], "import os; print(os.listdir('.'))", "['a.txt']"),
    ] {
        assert_eq!(machine.run("boxuser", argv, code).await, (0, said.to_owned(), String::new()), "{code}");
    }
    let (code, out, err) = machine.run("boxuser", ts, "throw new Error('boom' as string)").await;
    assert!(code == 1 && out.is_empty() && err.contains("Error: boom"), "{code} {out} {err}");
    assert_eq!(machine.run("boxuser", js, "process.exit(7)").await.0, 7);
}

#[tokio::test]
async fn packages_install_straight_away() {
    let machine = TestBox::new(&image("default").await);
    machine.sh("sudo apt-get install -y tree && tree --version").await;
    // Nothing of it stays behind, so that small disks stay small.
    assert_eq!(machine.sh("sudo find /var/cache/apt -name '*.deb' -o -name '*.bin'").await, "");
    assert_eq!(
        machine.run("boxuser", &["sudo", "apt-get", "-qq", "update"], "").await,
        (0, String::new(), String::new())
    );
    machine.sh("pip install --quiet cowsay && cowsay -t moo | grep -q moo").await;
    assert_eq!(machine.sh("npm install --silent --global semver > /dev/null && semver 1.2.3").await, "1.2.3");
    assert_eq!(
        machine.sh("sudo npm install --silent --global semver > /dev/null && /usr/local/bin/semver 1.2.4").await,
        "1.2.4"
    );
    machine.sh("sudo pip install --quiet six && python3 -m venv v && v/bin/pip install --quiet six").await;
}

#[tokio::test]
async fn every_runtime_runs_its_language() {
    for (name, line, said) in [
        ("python", "python3 -c 'print(6 * 7)'", "42"),
        ("golang", "printf 'package main\nfunc main() { println(42) }' > a.go && go run a.go 2>&1", "42"),
        ("ruby", "bundle --version > /dev/null && gem --version > /dev/null && ruby -e 'puts 6 * 7'", "42"),
        ("rust", "cargo init -q --name a . && sed -i s/Hello.*!/42/ src/main.rs && cargo run -q", "42"),
    ] {
        let machine = TestBox::new(&image(name).await);
        assert_eq!(machine.sh(line).await, said, "{name}");
        assert_eq!(machine.sh("node -p 42").await, "42");
    }
}
