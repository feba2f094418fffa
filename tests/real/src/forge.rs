//! A machine outside that hosts repositories, for git in boxes, and a stand-in for GitHub's API beside them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::Outside;
use crate::server::Settings;

/// What it runs.
const PROGRAM: &str = include_str!("forge.py");

/// The machine, its repositories, and what it was asked. All of it goes when this value is dropped.
#[derive(Debug)]
pub struct Forge {
    _outside: Outside,
    folder: PathBuf,
    address: String,
    elsewhere: String,
}

impl Forge {
    /// The token that opens repositories whose name begins with `private`, and the API.
    pub const TOKEN: &str = "ghp_token+of/the~forge0123456789";

    /// Makes the machine with two addresses, as [`Outside::new`] takes them; at the second one it is another host, which lets nobody in.
    ///
    /// # Errors
    /// The kernel or the lack of python3, iproute2 or git does not allow it.
    pub fn new(name: &str, addresses: [&str; 2]) -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("boxyard-forge-{name}"));
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir(&folder)?;
        let path = folder.to_str().context("the folder for temporary files is no text")?;
        let program = ["python3", "-c", PROGRAM, path, Self::TOKEN, addresses[1]];
        let outside = Outside::running(name, &addresses, &program)?;
        let [address, elsewhere] = addresses.map(|address| format!("{address}:8080"));
        Ok(Self { _outside: outside, folder, address, elsewhere })
    }

    /// What a server must be told so that this is its GitHub.
    pub fn settings(&self) -> Settings {
        let address = &self.address;
        Settings::from([("BOXYARD_GIT_GITHUB_HOSTS", format!("http://{address}=http://{address}/api"))])
    }

    /// The URL of a repository.
    pub fn url(&self, name: &str) -> String {
        format!("http://{}/git/{name}.git", self.address)
    }

    /// Its own URL, without a slash at the end.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The other host.
    pub fn elsewhere(&self) -> &str {
        &self.elsewhere
    }

    /// Makes a repository with these commits, which follow upon each other, on the branch `trunk`: of each a file of this name.
    ///
    /// # Errors
    /// This host's git fails.
    pub fn repository(&self, name: &str, commits: &[&str]) -> Result<PathBuf> {
        let (bare, work) = (self.folder.join(format!("{name}.git")), self.folder.join(format!("{name}-work")));
        git(&self.folder, &["init", "--quiet", "--bare", "--initial-branch=trunk", &format!("{name}.git")])?;
        git(&bare, &["config", "http.receivepack", "true"])?;
        git(&self.folder, &["init", "--quiet", "--initial-branch=trunk", &format!("{name}-work")])?;
        for commit in commits {
            fs::write(work.join(commit), format!("{commit}\n"))?;
            git(&work, &["add", "--all"])?;
            git(
                &work,
                &[
                    "-c",
                    "user.name=forge",
                    "-c",
                    "user.email=forge@example.com",
                    "commit",
                    "--quiet",
                    "--message",
                    commit,
                ],
            )?;
        }
        git(&work, &["push", "--quiet", &bare.display().to_string(), "trunk"])?;
        fs::remove_dir_all(work)?;
        Ok(bare)
    }

    /// What it was asked so far: `at`, `method`, `path`, `login` and `body`.
    ///
    /// # Errors
    /// Nobody knows.
    pub fn asked(&self) -> Result<Vec<Value>> {
        let asked = fs::read_to_string(self.folder.join("asked")).unwrap_or_default();
        asked.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }
}

/// Runs this host's git, without what its users have configured, and returns what it says.
///
/// # Errors
/// It fails.
pub fn git(folder: &Path, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new("git");
    command
        .args(arguments)
        .current_dir(folder)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_SYSTEM", "/dev/null");
    let output = command.output().context("starting git, which these tests need on this host")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "git {arguments:?}: {said}");
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}

impl Drop for Forge {
    fn drop(&mut self) {
        let _removed = fs::remove_dir_all(&self.folder);
    }
}
