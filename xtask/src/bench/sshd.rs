//! OpenSSH's own server, to measure ours beside.
//!
//! It needs a user with a password, and none is made on this host: the server runs in a mount namespace of its own, in which `/etc` is a
//! copy that has one more user, and `/run` is empty. With the server all of it is gone.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use boxyard_real_tests::ssh::{HostKey, Key};
use boxyard_real_tests::{Door, Ssh, until};

use crate::shell;

/// The user in the copy of `/etc`.
const USER: &str = "boxyard-bench";
/// How long the server may take to listen.
const DEADLINE: Duration = Duration::from_secs(20);

/// Makes the namespace what it should be, and becomes the server. `$1` is the scratch folder, `$2` the server; the password is in the
/// environment.
const START: &str = r#"
set -eu
cp -a /etc "$1/etc"
mount --bind "$1/etc" /etc
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/sshd
useradd --no-create-home --home-dir "$1/home" --shell /bin/bash boxyard-bench
echo "boxyard-bench:$PASSWORD" | chpasswd
unset PASSWORD
chown boxyard-bench "$1/home"
exec "$2" -D -e -f "$1/sshd_config"
"#;

/// A running server. It ends when this value is dropped.
#[derive(Debug)]
pub struct Sshd {
    child: Child,
    scratch: PathBuf,
    door: Door,
    password: String,
}

impl Sshd {
    /// Starts it on a free port of the loopback, or gives nothing where it is not installed.
    ///
    /// # Errors
    /// It does not start.
    pub fn start() -> Result<Option<Self>> {
        let Some(program) = shell::find("sshd") else { return Ok(None) };
        // Not below the repository, which the user may not be able to enter.
        let scratch = PathBuf::from(format!("/var/tmp/boxyard-bench-sshd-{}", std::process::id()));
        fs::create_dir_all(scratch.join("home"))?;
        fs::set_permissions(&scratch, fs::Permissions::from_mode(0o755))?;
        let started = Self::start_in(&program, &scratch);
        if started.is_err() {
            fs::remove_dir_all(&scratch)?;
        }
        started.map(Some)
    }

    fn start_in(program: &Path, scratch: &Path) -> Result<Self> {
        let host_key = Key::make(scratch, "host_key", "ed25519")?;
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let sftp = ["/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server"];
        let sftp = sftp.into_iter().find(|path| Path::new(path).exists()).unwrap_or("internal-sftp");
        let config = [
            format!("ListenAddress {address}"),
            format!("HostKey {}", host_key.file.display()),
            format!("Subsystem sftp {sftp}"),
            // Of PAM it is unknown what the host has made of it.
            "UsePAM no\nPasswordAuthentication yes\nKbdInteractiveAuthentication no\nPidFile none\nPrintMotd no".into(),
            "MaxStartups 1000\nLogLevel ERROR\n".into(),
        ];
        fs::write(scratch.join("sshd_config"), config.join("\n"))?;
        let random = fs::read_to_string("/proc/sys/kernel/random/uuid")?;
        let password = random.trim().to_owned();
        let log = File::create(scratch.join("log"))?;
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", START, "sh"]).arg(scratch).arg(program);
        command.env("PASSWORD", &password).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let public = host_key.public.splitn(3, ' ').take(2).collect::<Vec<_>>().join(" ");
        let key = HostKey { algorithm: "ssh-ed25519".into(), public_key: public, fingerprint: host_key.fingerprint()? };
        let door = Door::new(address, vec![key], &scratch.join("clients"))?;
        let child = command.spawn().context("starting sshd in a namespace")?;
        let mut sshd = Self { child, scratch: scratch.to_owned(), door, password };
        until("sshd to listen", DEADLINE, || {
            if let Some(status) = sshd.child.try_wait()? {
                let log = fs::read_to_string(sshd.scratch.join("log")).unwrap_or_default();
                anyhow::bail!("sshd ended ({status}): {log}");
            }
            Ok(TcpStream::connect_timeout(&address, DEADLINE).ok())
        })?;
        Ok(sshd)
    }

    /// A client that logs in by password.
    pub fn ssh(&self) -> Ssh {
        self.door.user(USER).password(&self.password)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.door.address()
    }

    /// The user's home, where its files are.
    pub fn home(&self) -> PathBuf {
        self.scratch.join("home")
    }

    /// Its processes: the one that listens, and those of its connections, without what runs in them.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub fn pids(&self) -> Result<Vec<String>> {
        let mut all = vec![self.child.id().to_string()];
        let mut seen = 0;
        while seen < all.len() {
            let pid = all[seen].clone();
            seen += 1;
            // One that has ended has no children.
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            for child in children.split_whitespace() {
                let name = fs::read_to_string(format!("/proc/{child}/comm")).unwrap_or_default();
                if name.starts_with("sshd") {
                    all.push(child.to_owned());
                }
            }
        }
        Ok(all)
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        // Its own child, so the pid is its; what is connected ends with its clients.
        let _killed = self.child.kill();
        let _status = self.child.wait();
        let _removed = fs::remove_dir_all(&self.scratch);
    }
}
