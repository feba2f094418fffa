//! The lowest layer: a Debian release straight from the mirror, by mmdebstrap or debootstrap.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::process::Command;
use tokio::time::timeout;

use super::sources::{KEYRING, Mirror, without_credentials};
use super::store::make_folder;
use crate::EngineError;

const GUARD: &str = include_str!("guard.sh");
const DEBOOTSTRAP: &str = include_str!("debootstrap.sh");

/// How long `apt-config` may take to print the host's settings.
const SETTINGS_DEADLINE: Duration = Duration::from_secs(20);
const SETTINGS_MAX: usize = 200;

/// Apt's settings for images and boxes: what is downloaded is small on disk and kept only as long as it is needed.
const APT: &str = r#"Acquire::Languages "none";
Acquire::GzipIndexes "true";
APT::Keep-Downloaded-Packages "false";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
"#;

/// Dpkg's settings for images and boxes. A box is as durable as its disk; an fsync for each file only makes installing slow.
const DPKG: [&str; 6] = [
    "force-unsafe-io",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/locale/*",
    "path-include=/usr/share/locale/locale.alias",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
];

/// Where the administrator has given apt names and passwords for mirrors. Read by the host's apt while it builds, never copied.
const LOGIN: [&str; 2] =
    [r#"Dir::Etc::netrc "/etc/apt/auth.conf";"#, r#"Dir::Etc::netrcparts "/etc/apt/auth.conf.d";"#];

/// Settings of the host's apt that reach its mirror; everything else of it is the host's own business.
const HOST_SETTINGS: [&str; 9] = [
    "Acquire::http::",
    "Acquire::https::",
    "Acquire::socks::",
    "Acquire::Check-Valid-Until",
    "Acquire::Check-Date",
    "Acquire::Max-FutureTime",
    "Acquire::Retries",
    "Acquire::ForceIPv4",
    "Acquire::ForceIPv6",
];

/// Those of them that boxes get too: no addresses, no paths, no credentials.
const BOX_SETTINGS: [&str; 6] = [
    "Acquire::Check-Valid-Until",
    "Acquire::Check-Date",
    "Acquire::Max-FutureTime",
    "Acquire::Retries",
    "Acquire::ForceIPv4",
    "Acquire::ForceIPv6",
];

/// Variables of the server that builders see. Not more: maintainers' scripts are not to find the server's secrets.
const PASSED_ON: [&str; 10] = [
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "CURL_CA_BUNDLE",
    "TMPDIR",
];

/// Makes base layers.
#[derive(Debug, Clone)]
pub(super) struct Bootstrap {
    /// Where programs are looked for.
    pub path: Vec<PathBuf>,
}

impl Bootstrap {
    /// Installs `suite` with `packages` into the empty folder `target`.
    pub async fn run(
        &self,
        suite: &str,
        packages: &[String],
        mirror: &Mirror,
        target: &Path,
        log: &mut (dyn Write + Send),
    ) -> Result<(), EngineError> {
        let settings = self.host_settings().await?;
        let mut builder = self.builder(suite, packages, mirror, target, &settings)?;
        let status = follow(&mut builder, log)
            .await
            .map_err(|error| EngineError::broken("running the installer of Debian", error))?;
        if !status.success() {
            return Err(EngineError::broken(
                format!("installing Debian {suite}"),
                format!("the installer ended with {status}"),
            ));
        }
        let (target, sources) = (target.to_owned(), mirror.deb822(suite));
        let dress = move || dress(&target, &sources, &settings);
        let dressed = tokio::task::spawn_blocking(dress).await.map_err(io::Error::other).and_then(|done| done);
        dressed.map_err(|error| EngineError::broken("preparing the fresh Debian", error))
    }

    fn find(&self, program: &str) -> Option<PathBuf> {
        self.path.iter().map(|folder| folder.join(program)).find(|path| path.is_file())
    }

    fn builder(
        &self,
        suite: &str,
        packages: &[String],
        mirror: &Mirror,
        target: &Path,
        settings: &[String],
    ) -> Result<Command, EngineError> {
        let mut command = self.guarded();
        let include = packages.join(",");
        // In files beside the target and not as arguments, which everybody on the host can read: both may hold passwords.
        let folder = target.parent().unwrap_or(target);
        let (conf, list) = (folder.join("apt.conf"), folder.join("sources.list"));
        let settings = settings.iter().map(String::as_str).chain(LOGIN).chain(APT.lines().take(2));
        let written = fs::write(&conf, settings.map(|line| format!("{line}\n")).collect::<String>());
        let written = written.and_then(|()| fs::write(&list, mirror.lines(suite).join("\n") + "\n"));
        written.map_err(|error| EngineError::broken("writing the settings of the installer of Debian", error))?;
        if let Some(mmdebstrap) = self.find("mmdebstrap") {
            command.arg(mmdebstrap).args(["--verbose", "--mode=root", "--variant=minbase", "--format=directory"]);
            // The lists stay, so that `apt-get install` works in a box straight away.
            command.args(["--skip=cleanup/apt/lists", "--aptopt"]).arg(conf);
            command.args(DPKG.map(|option| format!("--dpkgopt={option}")));
            if !include.is_empty() {
                command.arg(format!("--include={include}"));
            }
            command.arg(suite).arg(target).arg(list);
        } else if self.find("debootstrap").is_some() {
            let bash = self.find("bash").unwrap_or_else(|| "/bin/bash".into());
            command.arg(bash).args(["-c", DEBOOTSTRAP, "debootstrap"]).arg(target);
            command.args([KEYRING, suite, &without_credentials(&mirror.main), &include]).arg(conf).arg(list);
        } else {
            let why = "neither mmdebstrap nor debootstrap is installed on this host; install one";
            return Err(EngineError::broken("looking for a program that installs Debian", why));
        }
        Ok(command)
    }

    /// The start of a command that runs in mount and PID namespaces of its own, so that its mounts and processes end with it.
    fn guarded(&self) -> Command {
        let mut command = Command::new(self.find("unshare").unwrap_or_else(|| "/usr/bin/unshare".into()));
        command.args([
            "--mount",
            "--propagation=private",
            "--pid",
            "--fork",
            "--kill-child=KILL",
            "--mount-proc",
            // Nobody waits for an image as for a command; and the server has more than its share.
            "nice",
            "-n",
            "10",
            "bash",
            "-c",
        ]);
        command.args([GUARD, "guard"]);
        command
            .env_clear()
            .env("PATH", self.search_path())
            .env("LC_ALL", "C.UTF-8")
            .env("DEBIAN_FRONTEND", "noninteractive");
        command.envs(PASSED_ON.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        command.current_dir("/").kill_on_drop(true);
        command
    }

    fn search_path(&self) -> std::ffi::OsString {
        std::env::join_paths(&self.path).unwrap_or_else(|_| "/usr/sbin:/usr/bin:/sbin:/bin".into())
    }

    /// The host's own apt settings as lines of a configuration file.
    async fn host_settings(&self) -> Result<Vec<String>, EngineError> {
        let doing = "reading the host's apt settings";
        let Some(program) = self.find("apt-config") else { return Ok(Vec::new()) };
        let mut command = Command::new(program);
        command.args(["dump", "--format", "%f %v%n"]).kill_on_drop(true).stdin(Stdio::null());
        let output = timeout(SETTINGS_DEADLINE, command.output()).await;
        let output = output.map_err(|_| EngineError::broken(doing, "apt-config did not answer"))?;
        let output = output.map_err(|error| EngineError::broken(doing, error))?;
        Ok(pick_settings(&String::from_utf8_lossy(&output.stdout)))
    }
}

fn pick_settings(dump: &str) -> Vec<String> {
    let pick = |line: &str| {
        let (name, value) = line.split_once(' ')?;
        let wanted = HOST_SETTINGS.iter().any(|start| name.starts_with(start));
        // The one is a list's head, the other would end the quotes.
        let plain = !value.is_empty()
            && !value.contains('"')
            && name.bytes().all(|b| b.is_ascii_graphic() && !b"\"{};".contains(&b));
        (wanted && plain).then(|| format!("{name} \"{value}\";"))
    };
    dump.lines().filter_map(pick).take(SETTINGS_MAX).collect()
}

/// Runs a guarded command and hands on all that it says, until every process of it has ended.
async fn follow(command: &mut Command, log: &mut (dyn Write + Send)) -> io::Result<std::process::ExitStatus> {
    let (mut read, mut child) = {
        let (read, write) = io::pipe()?;
        let read = pipe::Receiver::from_owned_fd(read.into())?;
        command.stdin(Stdio::piped()).stdout(write.try_clone()?).stderr(write);
        let child = command.spawn()?;
        // The command keeps its own copies of the pipe's end, without which the pipe would never end.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        (read, child)
    };
    let alive = child.stdin.take();
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let count = read.read(&mut buffer).await?;
        if count == 0 {
            break;
        }
        log.write_all(&buffer[..count])?;
    }
    let status = child.wait().await;
    drop(alive);
    status
}

/// Makes a fresh tree one that boxes can start from: nothing of the host in it, no leftovers of the installer. No box has touched it yet.
fn dress(root: &Path, sources: &str, settings: &[String]) -> io::Result<()> {
    let etc = root.join("etc");
    for leftover in
        ["apt/sources.list", "apt/apt.conf.d/99mmdebstrap", "apt/apt.conf.d/99build", "dpkg/dpkg.cfg.d/99mmdebstrap"]
    {
        remove_file(&etc.join(leftover))?;
    }
    empty(&etc.join("apt/sources.list.d"))?;
    let for_boxes = settings.iter().filter(|setting| BOX_SETTINGS.iter().any(|name| setting.starts_with(name)));
    let apt: String = APT.lines().chain(for_boxes.map(String::as_str)).map(|line| format!("{line}\n")).collect();
    let files: [(&str, &str); 7] = [
        ("apt/sources.list.d/debian.sources", sources),
        ("apt/apt.conf.d/50boxyard", &apt),
        ("dpkg/dpkg.cfg.d/50boxyard", &format!("{}\n", DPKG.join("\n"))),
        ("hosts", "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"),
        ("hostname", ""),
        ("resolv.conf", ""),
        ("machine-id", ""),
    ];
    for (name, text) in files {
        let path = etc.join(name);
        remove_file(&path)?;
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(&path, text)?;
    }
    // Boxes have a /dev of their own. Logs and caches tell of this build only.
    for folder in ["dev", "run", "tmp", "var/tmp", "var/cache/apt", "var/log/apt"] {
        empty(&root.join(folder))?;
    }
    // Without its folders, packages that link their manuals by update-alternatives fail.
    for section in 1..=8 {
        fs::create_dir_all(root.join(format!("usr/share/man/man{section}")))?;
    }
    make_folder(&root.join("var/cache/apt/archives"))?;
    for log in ["alternatives.log", "bootstrap.log", "dpkg.log"] {
        remove_file(&root.join("var/log").join(log))?;
    }
    Ok(())
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn empty(folder: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return fs::create_dir_all(folder),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() { fs::remove_dir_all(entry.path())? } else { fs::remove_file(entry.path())? }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_settings_that_reach_the_mirror_are_taken() {
        let dump = "Acquire \nAcquire::http \nAcquire::http::Proxy http://u:p@cache.test:3142\nAPT::Periodic::Enable 1\n\
                    Acquire::Check-Date false\nAcquire::https::CAInfo /etc/a\"b\nDPkg::Post-Invoke:: rm -rf /\n";
        let picked = pick_settings(dump);
        assert_eq!(picked, ["Acquire::http::Proxy \"http://u:p@cache.test:3142\";", "Acquire::Check-Date \"false\";"]);
    }

    #[test]
    fn a_dressed_tree_has_nothing_of_the_host() {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in [
            ("etc/resolv.conf", "nameserver 10.0.0.1"),
            ("etc/hostname", "secret-host"),
            ("etc/apt/sources.list", "deb http://u:p@m.test x main"),
            ("etc/apt/sources.list.d/0000sources.list", "deb http://u:p@m.test x main"),
            ("etc/apt/apt.conf.d/99mmdebstrap", "Acquire::http::Proxy \"http://u:p@cache.test\";"),
            ("dev/null", ""),
        ] {
            fs::create_dir_all(root.path().join(path).parent().unwrap()).unwrap();
            fs::write(root.path().join(path), text).unwrap();
        }
        let settings =
            ["Acquire::http::Proxy \"http://u:p@cache.test\";".to_owned(), "Acquire::Check-Date \"false\";".to_owned()];
        dress(root.path(), "Types: deb\n", &settings).unwrap();
        let read = |path: &str| fs::read_to_string(root.path().join(path)).unwrap();
        assert_eq!((read("etc/resolv.conf"), read("etc/hostname"), read("etc/machine-id")), Default::default());
        assert_eq!(read("etc/apt/sources.list.d/debian.sources"), "Types: deb\n");
        let apt = read("etc/apt/apt.conf.d/50boxyard");
        assert!(apt.contains("Check-Date") && !apt.contains("Proxy"), "{apt}");
        assert_eq!(fs::read_dir(root.path().join("etc/apt/sources.list.d")).unwrap().count(), 1);
        assert!(!root.path().join("etc/apt/sources.list").exists() && !root.path().join("dev/null").exists());
    }

    #[tokio::test]
    async fn a_builder_ends_with_its_server() {
        let bootstrap = Bootstrap { path: super::super::search_path() };
        let (mut read, write) = io::pipe().unwrap();
        let mut command = bootstrap.guarded();
        // As a killed server leaves it: nobody waits and the pipe to its standard input closes.
        command.args(["bash", "-c", "echo up; exec sleep infinity"]).kill_on_drop(false);
        command.stdin(Stdio::piped()).stdout(write).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        command.stdout(Stdio::null());
        let mut said = [0; 3];
        io::Read::read_exact(&mut read, &mut said).unwrap();
        drop(child.stdin.take());
        let status = timeout(Duration::from_secs(20), child.wait()).await.expect("the guard ends its command").unwrap();
        assert!(!status.success());
        // The end of the pipe: no process of it is left.
        assert_eq!(io::Read::read(&mut read, &mut said).unwrap(), 0);
    }
}
