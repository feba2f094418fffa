//! The published SDKs and Python programs that speak SSH, installed for tests and measurements.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::shell;

/// The Python that has the SDK.
pub fn python() -> PathBuf {
    shell::target().join("sdk/py/bin/python")
}

/// The Python that has LangChain's sandbox and its conformance suite.
pub fn langchain_python() -> PathBuf {
    shell::target().join("sdk/langchain/bin/python")
}

/// The Python that has SSH clients.
pub fn ssh_python() -> PathBuf {
    shell::target().join("ssh/py/bin/python")
}

/// Installs the TypeScript SDK beside its sessions, as pinned by the lock file there.
///
/// # Errors
/// npm fails.
pub fn install_typescript() -> Result<()> {
    let folder = shell::root().join("tests/sdk/ts");
    // npm writes this copy of the lock file when it has installed everything.
    let done = std::fs::read(folder.join("node_modules/.package-lock.json")).is_ok();
    if done && newer(&folder.join("node_modules/.package-lock.json"), &folder.join("package-lock.json")) {
        return Ok(());
    }
    shell::run(shell::command("npm", &["ci", "--no-audit", "--no-fund"]).current_dir(folder))
}

/// Installs the Python SDK into an environment of its own below `target`.
///
/// # Errors
/// Python or pip fails.
pub fn install_python() -> Result<()> {
    install(&shell::target().join("sdk/py"), &shell::root().join("tests/sdk/py/requirements.txt"))
}

/// Installs LangChain's sandbox and its conformance suite into an environment of their own below `target`.
///
/// # Errors
/// Python or pip fails.
pub fn install_langchain() -> Result<()> {
    install(&shell::target().join("sdk/langchain"), &shell::root().join("tests/sdk/langchain/requirements.txt"))
}

/// Installs the SSH clients that are written in Python, and ssh-audit, into an environment of their own below `target`.
///
/// # Errors
/// Python or pip fails.
pub fn install_ssh_clients() -> Result<()> {
    install(&shell::target().join("ssh/py"), &shell::root().join("tests/ssh/requirements.txt"))
}

/// Makes a Python environment with these packages, if it is not there as they say.
fn install(folder: &Path, requirements: &Path) -> Result<()> {
    let (done, python) = (folder.join("installed"), folder.join("bin/python"));
    if newer(&done, requirements) && python.is_file() {
        return Ok(());
    }
    shell::run(&mut shell::command("python3", &["-m", "venv", "--clear", &folder.to_string_lossy()]))?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"];
    shell::run(shell::command(python, &pip).arg(requirements))?;
    std::fs::write(done, "")?;
    Ok(())
}

fn newer(file: &Path, than: &Path) -> bool {
    let changed = |path: &Path| path.metadata().and_then(|metadata| metadata.modified());
    matches!((changed(file), changed(than)), (Ok(file), Ok(than)) if file >= than)
}
