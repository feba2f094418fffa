//! The published SDKs, installed for tests and measurements.

use std::path::PathBuf;

use anyhow::Result;

use crate::shell;

/// Where the Python SDK is installed.
fn python_folder() -> PathBuf {
    shell::target().join("sdk/py")
}

/// The Python that has the SDK.
pub fn python() -> PathBuf {
    python_folder().join("bin/python")
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
    let requirements = shell::root().join("tests/sdk/py/requirements.txt");
    let done = python_folder().join("installed");
    if newer(&done, &requirements) && python().is_file() {
        return Ok(());
    }
    let folder = python_folder();
    shell::run(&mut shell::command("python3", &["-m", "venv", "--clear", &folder.to_string_lossy()]))?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"];
    shell::run(shell::command(python(), &pip).arg(&requirements))?;
    std::fs::write(done, "")?;
    Ok(())
}

fn newer(file: &std::path::Path, than: &std::path::Path) -> bool {
    let changed = |path: &std::path::Path| path.metadata().and_then(|metadata| metadata.modified());
    matches!((changed(file), changed(than)), (Ok(file), Ok(than)) if file >= than)
}
