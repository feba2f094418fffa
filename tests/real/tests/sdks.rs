//! The published SDKs, unmodified, against a real server: the sessions of `tests/sdk`.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use boxyard_real_tests::Server;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Runs a script of sessions; its own output says what failed.
fn sessions(mut script: Command) -> Result<()> {
    let server = Server::start()?;
    script.env("UPSTASH_BOX_BASE_URL", server.client().base_url()).env("UPSTASH_BOX_API_KEY", &server.client().key);
    let output = script.output().with_context(|| format!("starting {:?}", script.get_program()))?;
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}{}", String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "sessions failed");
    ensure!(said.lines().last().is_some_and(|line| line.ends_with(" passed, 0 failed")), "no count at the end");
    ensure!(server.list()?.is_empty(), "the sessions have left boxes: {:?}", server.list()?);
    Ok(())
}

#[test]
fn the_typescript_sdk_does_its_work() -> Result<()> {
    let folder = repository().join("tests/sdk/ts");
    ensure!(
        folder.join("node_modules/@upstash/box").is_dir(),
        "the TypeScript SDK is not installed: call `cargo xtask test`, or `npm ci` in {}",
        folder.display()
    );
    let mut script = Command::new("node");
    script.arg("all.mjs").current_dir(folder);
    sessions(script)
}

#[test]
fn the_python_sdk_does_its_work() -> Result<()> {
    let python = std::env::var_os("BOXYARD_TEST_PYTHON").map(PathBuf::from);
    let python = python.unwrap_or_else(|| repository().join("target/sdk/py/bin/python"));
    ensure!(
        python.is_file(),
        "the Python SDK is not installed: call `cargo xtask test`, which makes {}",
        python.display()
    );
    let mut script = Command::new(python);
    script.arg("-B").arg("all.py").current_dir(repository().join("tests/sdk/py"));
    sessions(script)
}
