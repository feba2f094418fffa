//! The published SDKs, unmodified, against a real server: the sessions of `tests/sdk`, and LangChain's own suite.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use boxyard_real_tests::{Forge, Server};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Runs a script of sessions; its own output says what failed.
fn sessions(mut script: Command, name: &str, addresses: [&str; 2]) -> Result<()> {
    let forge = Forge::new(name, addresses)?;
    // A repository for each of the SDKs.
    for of in ["private-ts", "private-py"] {
        forge.repository(of, &["one"])?;
    }
    script.env("BOXYARD_TEST_FORGE", forge.base_url()).env("BOXYARD_TEST_FORGE_TOKEN", Forge::TOKEN);
    let said = run_on(&Server::with(forge.settings())?, script)?;
    ensure!(said.lines().last().is_some_and(|line| line.ends_with(" passed, 0 failed")), "no count at the end");
    Ok(())
}

/// Runs a script against a server, and returns what it said. It must succeed and leave no box.
fn run_on(server: &Server, mut script: Command) -> Result<String> {
    script.env("UPSTASH_BOX_BASE_URL", server.client().base_url()).env("UPSTASH_BOX_API_KEY", &server.client().key);
    let output = script.output().with_context(|| format!("starting {:?}", script.get_program()))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("{said}{}", String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "sessions failed");
    ensure!(server.list()?.is_empty(), "the sessions have left boxes: {:?}", server.list()?);
    Ok(said)
}

/// The Python of an environment that `cargo xtask test` has made, which it names in a variable.
fn python(variable: &str, environment: &str) -> Result<PathBuf> {
    let python = std::env::var_os(variable).map(PathBuf::from);
    let python = python.unwrap_or_else(|| repository().join("target").join(environment).join("bin/python"));
    ensure!(python.is_file(), "not installed: call `cargo xtask test`, which makes {}", python.display());
    Ok(python)
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
    sessions(script, "bysdkt", ["198.51.100.150", "203.0.113.150"])
}

#[test]
fn the_python_sdk_does_its_work() -> Result<()> {
    let mut script = Command::new(python("BOXYARD_TEST_PYTHON", "sdk/py")?);
    script.arg("-B").arg("all.py").current_dir(repository().join("tests/sdk/py"));
    sessions(script, "bysdkp", ["198.51.100.154", "203.0.113.154"])
}

#[test]
fn langchains_own_suite_for_sandboxes_passes_whole() -> Result<()> {
    let mut script = Command::new(python("BOXYARD_TEST_LANGCHAIN_PYTHON", "sdk/langchain")?);
    script.args(["-B", "-m", "pytest", "-p", "no:cacheprovider", "--color=no", "-o", "asyncio_mode=auto"]);
    script.current_dir(repository().join("tests/sdk/langchain"));
    let said = run_on(&Server::start()?, script)?;
    let count = said.lines().last().unwrap_or_default();
    ensure!(count.contains(" passed"), "no count at the end: {count}");
    // What the suite itself sets aside for other sandboxes than ours would be seen here.
    ensure!(!count.contains("failed") && !count.contains("skipped") && !count.contains("error"), "not whole: {count}");
    Ok(())
}
