//! What a host must have: root, and a few Debian packages.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::shell;

/// Something that must be on the host, and the Debian package that brings it.
#[derive(Debug, Clone, Copy)]
pub struct Need {
    package: &'static str,
    why: &'static str,
    there: There,
}

/// How to tell that a need is met.
#[derive(Debug, Clone, Copy)]
enum There {
    /// One of these programs is found.
    Program(&'static [&'static str]),
    /// One of these files exists.
    File(&'static [&'static str]),
    /// Python can import all of these modules.
    Python(&'static str),
}

/// What running boxes needs.
pub const SERVER: &[Need] = &[
    Need { package: "nftables", why: "the boxes' firewall rules", there: There::Program(&["nft"]) },
    Need {
        package: "btrfs-progs",
        why: "limits and snapshots of boxes' disks",
        there: There::Program(&["mkfs.btrfs"]),
    },
    Need { package: "mmdebstrap", why: "building box images", there: There::Program(&["mmdebstrap", "debootstrap"]) },
    Need {
        package: "debian-archive-keyring",
        why: "checking the signatures of Debian packages",
        there: There::File(&[
            "/usr/share/keyrings/debian-archive-keyring.gpg",
            "/usr/share/keyrings/debian-archive-keyring.pgp",
        ]),
    },
];

/// What building needs besides Rust.
pub const BUILD: &[Need] = &[
    Need {
        package: "gcc",
        why: "linking, and compiling SQLite and the TLS library",
        there: There::Program(&["cc", "gcc"]),
    },
    Need {
        package: "libc6-dev",
        why: "linking static programs",
        there: There::File(&["/usr/lib/x86_64-linux-gnu/libc.a", "/usr/lib/aarch64-linux-gnu/libc.a"]),
    },
];

/// What the tests need besides.
pub const TEST: &[Need] = &[
    Need { package: "nodejs", why: "running the TypeScript SDK", there: There::Program(&["node"]) },
    Need { package: "npm", why: "installing the TypeScript SDK", there: There::Program(&["npm"]) },
    Need { package: "python3", why: "running the Python SDK", there: There::Program(&["python3"]) },
    Need { package: "python3-venv", why: "installing the Python SDK", there: There::Python("venv, ensurepip") },
    Need { package: "e2fsprogs", why: "a disk that loses its power", there: There::Program(&["mkfs.ext4"]) },
    Need { package: "iproute2", why: "looking for leftover network interfaces", there: There::Program(&["ip"]) },
    Need { package: "openssh-client", why: "trying the SSH door", there: There::Program(&["ssh"]) },
    Need { package: "sshpass", why: "typing a password to ssh", there: There::Program(&["sshpass"]) },
    Need {
        package: "dropbear-bin",
        why: "trying the SSH door with another client",
        there: There::Program(&["dbclient"]),
    },
    Need { package: "git", why: "trying git over SSH", there: There::Program(&["git"]) },
    Need { package: "rsync", why: "trying rsync over SSH", there: There::Program(&["rsync"]) },
    Need { package: "sshfs", why: "trying to mount a box over SSH", there: There::Program(&["sshfs"]) },
    Need { package: "curl", why: "trying forwards over SSH", there: There::Program(&["curl"]) },
];

/// What measuring needs besides.
pub const BENCH: &[Need] = &[Need {
    package: "openssh-server",
    why: "comparing the SSH door with it; Debian starts it once installed, outside containers",
    there: There::Program(&["sshd"]),
}];

impl Need {
    fn met(&self) -> bool {
        match self.there {
            There::Program(names) => names.iter().any(|name| shell::find(name).is_some()),
            There::File(paths) => paths.iter().any(|path| Path::new(path).exists()),
            There::Python(modules) => {
                let import = format!("import {modules}");
                shell::output(&mut shell::command("python3", &["-c", &import])).is_ok()
            }
        }
    }
}

/// Whether to ask before packages are installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consent {
    /// Ask on the terminal; without one, say how to go on.
    Ask,
    /// It was given on the command line.
    Given,
}

/// Installs what is missing, after saying what and why.
///
/// # Errors
/// It was refused, cannot be asked, or installing failed.
pub fn install(needs: &[Need], consent: Consent) -> Result<()> {
    let missing: Vec<&Need> = needs.iter().filter(|need| !need.met()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("This host lacks:");
    for need in &missing {
        println!("  {:24} {}", need.package, need.why);
    }
    let packages: Vec<&str> = missing.iter().map(|need| need.package).collect();
    let by_hand = format!("apt-get install {}", packages.join(" "));
    ensure!(
        shell::find("apt-get").is_some(),
        "this is not a Debian system: install them your way, then call this again"
    );
    if consent == Consent::Ask {
        ensure!(
            std::io::stdin().is_terminal(),
            "nobody can be asked here: call this again with --yes, or run `{by_hand}` first"
        );
        print!("Install them now by apt-get? [Y/n] ");
        std::io::stdout().flush()?;
        let mut answer = String::new();
        std::io::stdin().lock().read_line(&mut answer)?;
        if !matches!(answer.trim(), "" | "y" | "Y" | "yes") {
            bail!("nothing was installed; run `{by_hand}`, then call this again");
        }
    }
    let mut install = vec!["install", "--yes", "--no-install-recommends"];
    install.extend(&packages);
    // The package lists of a fresh machine are old or absent; of any other, updating them costs seconds.
    shell::run(&mut root_command("apt-get", &["update", "-qq"]))?;
    shell::run(root_command("apt-get", &install).env("DEBIAN_FRONTEND", "noninteractive"))?;
    match missing.iter().find(|need| !need.met()) {
        Some(need) => bail!("{} was installed and still {:?} is not met", need.package, need.there),
        None => Ok(()),
    }
}

/// A command that runs as root: by itself when we are, else through sudo.
fn root_command(program: &str, arguments: &[&str]) -> Command {
    if shell::is_root() {
        return shell::command(program, arguments);
    }
    let mut words = vec!["--preserve-env=DEBIAN_FRONTEND", program];
    words.extend(arguments);
    shell::command("sudo", &words)
}

/// Goes on as root: returns when this process is root already, else replaces it by `sudo` and itself, with the arguments it was called
/// with and `more`.
///
/// # Errors
/// There is no sudo.
pub fn become_root(more: &[&str]) -> Result<()> {
    if shell::is_root() {
        return Ok(());
    }
    ensure!(shell::find("sudo").is_some(), "boxes need root: become root, or install sudo, then call this again");
    eprintln!("Boxes need root; going on through sudo.");
    let own = std::env::current_exe().context("finding this program")?;
    let mut sudo = Command::new("sudo");
    // Given as assignments, because sudo clears the environment and Rust lives in the user's home.
    sudo.arg("env").current_dir(shell::root());
    for (name, value) in std::env::vars() {
        let ours = name.starts_with("BOXYARD_") || name.starts_with("CARGO") || name.starts_with("RUSTUP_");
        if ours || matches!(name.as_str(), "PATH" | "HOME" | "TERM" | "CI" | "NO_COLOR") {
            sudo.arg(format!("{name}={value}"));
        }
    }
    // `more` comes right after the task's name: the end may belong to somebody else.
    let mut arguments = std::env::args_os().skip(1);
    sudo.arg(own).args(arguments.next()).args(more).args(arguments);
    Err(sudo.exec()).context("starting sudo")
}

/// Gives back to the user who called sudo what was built as root on their behalf.
///
/// # Errors
/// Giving it back failed.
pub fn hand_back(folders: &[&Path]) -> Result<()> {
    let (Ok(uid), Ok(gid)) = (std::env::var("SUDO_UID"), std::env::var("SUDO_GID")) else { return Ok(()) };
    if !shell::is_root() {
        return Ok(());
    }
    let owner = format!("{uid}:{gid}");
    for folder in folders.iter().filter(|folder| folder.exists()) {
        let folder = folder.to_string_lossy();
        shell::output(&mut shell::command("chown", &["-R", "--from=root", &owner, &folder]))?;
    }
    Ok(())
}
