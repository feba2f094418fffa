//! Other clients than OpenSSH's, as second opinions: paramiko, asyncssh, dropbear's; and ssh-audit, which looks for weaknesses.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use boxyard_real_tests::ssh::{Key, reference};
use boxyard_real_tests::{HOST, Server, Settings, Ssh, finish};
use serde_json::{Value, json};

/// The one warning that is lived with: the plain Curve25519 exchange is there for clients that know no hybrid one, Debian 12's OpenSSH
/// among them; those that do know one get it, which the test looks at.
const LIVED_WITH: (&str, &str) = ("curve25519-sha256", "does not provide protection against post-quantum attacks");

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A program of the Python environment that has the clients.
fn python(program: &str) -> Result<PathBuf> {
    let python = std::env::var_os("BOXYARD_TEST_SSH_PYTHON").map(PathBuf::from);
    let python = python.unwrap_or_else(|| repository().join("target/ssh/py/bin/python"));
    ensure!(
        python.is_file(),
        "the SSH clients are not installed: call `cargo xtask test`, which makes {}",
        python.display()
    );
    Ok(python.with_file_name(program))
}

/// Lets a public key in.
fn add_key(server: &Server, ssh: &Ssh, key: &Key) -> Result<()> {
    if reference::wanted() {
        ssh.sh(&format!("echo '{}' | sudo tee /etc/ssh/authorized > /dev/null", key.public))?;
        return Ok(());
    }
    let body = json!({ "public_key": key.public, "label": "clients" });
    server.call("POST", "/v2/ssh-keys", Some(&body))?.ok().map(|_| ())
}

/// Starts a web server in the box and runs one of the sessions of `tests/ssh`.
fn session(script: &str) -> Result<()> {
    let server = Server::with_ssh(Settings::new())?;
    let id = server.create()?;
    let ssh = server.ssh(&id)?;
    server.sh(&id, "mkdir /tmp/www; echo from the box > /tmp/www/index.html")?;
    server.sh(&id, "cd /tmp/www; nohup python3 -m http.server --bind 127.0.0.1 8000 > /dev/null 2>&1 &")?;
    server.sh(&id, "curl -s --retry 50 --retry-delay 1 --retry-connrefused -o /dev/null http://127.0.0.1:8000/")?;
    let key = Key::make(ssh.door().folder(), "clients-key", "ed25519")?;
    add_key(&server, &ssh, &key)?;
    let address = ssh.door().address();
    let host_key = ssh.door().host_keys().iter().find(|key| key.algorithm == "ssh-ed25519");
    let mut command = ssh.program(&python("python")?.to_string_lossy());
    command.arg("-B").arg(repository().join("tests/ssh").join(script));
    command.env("HOST", address.ip().to_string()).env("PORT", address.port().to_string()).env("BOX", &id);
    command.env("PASSWORD", &server.client().key).env("KEY_FILE", &key.file);
    command.env("HOST_KEY", &host_key.context("no Ed25519 host key")?.public_key);
    let done = finish(&mut command)?;
    println!("{}\n{}", done.text(), done.err);
    ensure!(done.code == Some(0) && done.text().ends_with(": good"), "{script} failed");
    Ok(())
}

#[test]
fn paramiko_is_content() -> Result<()> {
    session("paramiko_session.py")
}

#[test]
fn asyncssh_is_content() -> Result<()> {
    session("asyncssh_session.py")
}

#[test]
fn dropbears_client_works() -> Result<()> {
    let server = Server::with_ssh(Settings::new())?;
    let id = server.create()?;
    let ssh = server.ssh(&id)?;
    let address = ssh.door().address();
    let dbclient = |arguments: &[&str]| {
        let mut command = ssh.program("dbclient");
        command.env("DROPBEAR_PASSWORD", &server.client().key);
        command.args(["-y", "-y", "-p", &address.port().to_string(), "-l", &id, &address.ip().to_string()]);
        finish(command.args(arguments))
    };
    let done = dbclient(&["echo out; echo err >&2; exit 7"])?;
    ensure!(done.code == Some(7) && done.text() == "out" && done.err.ends_with("err\n"), "{done:?}");
    let sum = server.sh(&id, "head -c 20M /dev/urandom > random; sha256sum < random")?;
    std::fs::write(ssh.door().folder().join("random"), dbclient(&["cat random"])?.ok()?.out)?;
    let mut here = ssh.program("sha256sum");
    ensure!(finish(here.stdin(std::fs::File::open(ssh.door().folder().join("random"))?))?.text() == sum);
    // By key, in its own format.
    let made = finish(ssh.program("dropbearkey").args(["-t", "ed25519", "-f", "dropbear-key"]))?.ok()?.text();
    let public = made.lines().find(|line| line.starts_with("ssh-ed25519 ")).context("no public key")?.to_owned();
    add_key(&server, &ssh, &Key { file: "dropbear-key".into(), public })?;
    let mut by_key = ssh.program("dbclient");
    by_key.args(["-y", "-y", "-i", "dropbear-key", "-p", &address.port().to_string(), "-l", &id]);
    let done = finish(by_key.args([&address.ip().to_string(), "echo by key"]))?.ok()?;
    ensure!(done.text() == "by key");
    Ok(())
}

#[test]
fn ssh_audit_finds_nothing_worse_than_a_note() -> Result<()> {
    let server = Server::with_ssh(Settings::new())?;
    let ssh = server.ssh(&server.create()?)?;
    let address = ssh.door().address();
    let mut command = Command::new(python("ssh-audit")?);
    command.args(["--json", "--skip-rate-test", "--port", &address.port().to_string(), &address.ip().to_string()]);
    let said = finish(command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::piped()))?.text();
    let audit: Value = serde_json::from_str(&said).with_context(|| format!("ssh-audit said {said}"))?;
    let mut worse = Vec::new();
    for kind in ["kex", "key", "enc", "mac"] {
        let algorithms = audit[kind].as_array().with_context(|| format!("no {kind} in {audit}"))?;
        ensure!(!algorithms.is_empty(), "no {kind} at all");
        for algorithm in algorithms {
            for grade in ["fail", "warn"] {
                let name = algorithm["algorithm"].as_str().unwrap_or_default();
                for note in algorithm["notes"][grade].as_array().into_iter().flatten() {
                    if !(name.starts_with(LIVED_WITH.0) && note == LIVED_WITH.1) {
                        worse.push(format!("{kind} {name}: {grade}: {note}"));
                    }
                }
            }
        }
    }
    ensure!(worse.is_empty(), "{worse:#?}");
    ensure!(audit["cves"].as_array().is_none_or(Vec::is_empty), "{}", audit["cves"]);
    // Terrapin's countermeasure (CVE-2023-48795) is offered as if it were a key exchange.
    let strict = |kex: &Value| kex["algorithm"] == "kex-strict-s-v00@openssh.com";
    ensure!(audit["kex"].as_array().is_some_and(|all| all.iter().any(strict)), "no strict key exchange: {audit}");
    let first = audit["kex"][0]["algorithm"].as_str().unwrap_or_default();
    ensure!(first.starts_with("mlkem768x25519"), "{first} comes before the hybrid key exchange");
    // And a client that knows it uses it.
    let mut verbose = ssh.command("ssh")?;
    let done = finish(verbose.args(["-vvv", HOST, "true"]))?.ok()?;
    ensure!(done.err.contains("will use strict KEX ordering"), "strict key exchange is offered and not done");
    Ok(())
}
