//! Other clients than OpenSSH's, as second opinions: paramiko, asyncssh, dropbear's; and ssh-audit, which looks for weaknesses.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use boxyard_real_tests::ssh::{Key, reference};
use boxyard_real_tests::{HOST, Server, Settings, Ssh, finish};
use serde_json::{Value, json};

/// What ssh-audit has against the plain Curve25519 exchange. It is there by default for clients that know no hybrid one, Debian 12's OpenSSH among
/// them; those that do know one get it.
const NO_QUANTUM: &str = "does not provide protection against post-quantum attacks";

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

/// What ssh-audit says of a server with these settings.
fn audit(server: &Server, options: &[&str]) -> Result<Value> {
    let address = server.door()?.address();
    let mut command = Command::new(python("ssh-audit")?);
    command.arg("--json").args(options).args(["--port", &address.port().to_string(), &address.ip().to_string()]);
    let said = finish(command.stdin(Stdio::null()).stdout(Stdio::piped()))?.text();
    serde_json::from_str(&said).with_context(|| format!("ssh-audit said {said}"))
}

/// All that is worse than a note, as `kind algorithm: what`.
fn worse_than_a_note(audit: &Value) -> Result<Vec<String>> {
    let mut worse = Vec::new();
    for kind in ["kex", "key", "enc", "mac"] {
        let algorithms = audit[kind].as_array().with_context(|| format!("no {kind} in {audit}"))?;
        ensure!(!algorithms.is_empty(), "no {kind} at all");
        for algorithm in algorithms {
            let name = algorithm["algorithm"].as_str().unwrap_or_default();
            for grade in ["fail", "warn"] {
                let notes = algorithm["notes"][grade].as_array().into_iter().flatten();
                worse.extend(notes.map(|note| format!("{kind} {name}: {}", note.as_str().unwrap_or_default())));
            }
        }
    }
    worse.extend(audit["cves"].as_array().into_iter().flatten().map(Value::to_string));
    Ok(worse)
}

/// Terrapin's countermeasure (CVE-2023-48795) is offered as if it were a key exchange, and the hybrid exchange comes first.
fn is_strict_and_hybrid_first(audit: &Value) -> Result<()> {
    let strict = |kex: &Value| kex["algorithm"] == "kex-strict-s-v00@openssh.com";
    ensure!(audit["kex"].as_array().is_some_and(|all| all.iter().any(strict)), "no strict key exchange: {audit}");
    let first = audit["kex"][0]["algorithm"].as_str().unwrap_or_default();
    ensure!(first.starts_with("mlkem768x25519"), "{first} comes before the hybrid key exchange");
    Ok(())
}

#[test]
fn ssh_audit_finds_nothing_but_the_exchange_that_old_clients_need() -> Result<()> {
    let server = Server::with_ssh(Settings::new())?;
    let ssh = server.ssh(&server.create()?)?;
    // The rate that it measures matters to servers that compute with the large groups of Diffie and Hellman, which ours has not.
    let audit = audit(&server, &["--skip-rate-test"])?;
    let known = ["curve25519-sha256", "curve25519-sha256@libssh.org"].map(|name| format!("kex {name}: {NO_QUANTUM}"));
    let worse = worse_than_a_note(&audit)?;
    ensure!(worse == known, "{worse:#?}");
    is_strict_and_hybrid_first(&audit)?;
    // And a client that knows strict key exchange uses it.
    let mut verbose = ssh.command("ssh")?;
    let done = finish(verbose.args(["-vvv", HOST, "true"]))?.ok()?;
    ensure!(done.err.contains("will use strict KEX ordering"), "strict key exchange is offered and not done");
    Ok(())
}

#[test]
fn ssh_audit_finds_nothing_at_all_where_the_operator_wants_it_so() -> Result<()> {
    let server = Server::with_ssh(Settings::from([("BOXYARD_SSH_POST_QUANTUM_ONLY", "true".to_owned())]))?;
    let id = server.create()?;
    let audit = audit(&server, &[])?;
    let worse = worse_than_a_note(&audit)?;
    ensure!(worse.is_empty(), "{worse:#?}");
    is_strict_and_hybrid_first(&audit)?;
    // A client that does not know it is told why.
    let old = server.ssh(&id)?.option("KexAlgorithms curve25519-sha256").run("true")?;
    ensure!(old.code == Some(255) && old.err.contains("no matching key exchange method"), "{old:?}");
    Ok(())
}

/// `ssh_ecdsa` is for clients that know nothing newer, and ssh-audit does not like the curve: no other algorithm becomes worse by it.
#[test]
fn ssh_audit_has_nothing_but_its_curve_against_the_ecdsa_host_key() -> Result<()> {
    let server = Server::with_ssh(Settings::from([
        ("BOXYARD_SSH_ECDSA", "true".to_owned()),
        ("BOXYARD_SSH_POST_QUANTUM_ONLY", "true".to_owned()),
    ]))?;
    let worse = worse_than_a_note(&audit(&server, &[])?)?;
    ensure!(!worse.is_empty() && worse.iter().all(|what| what.starts_with("key ecdsa-sha2-nistp256: ")), "{worse:#?}");
    Ok(())
}
