//! Accounts do not see each other, and a revoked key opens nothing.

#![forbid(unsafe_code)]

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use boxyard_real_tests::{Client, Server, until};
use serde_json::{Value, json};

/// Makes a key by the program, for a new account of that name.
fn key_of(server: &Server, account: &str) -> Result<String> {
    let said = server.program(&["key", "create", "--account", account])?;
    let key = said.split_whitespace().find(|word| word.starts_with("box_")).context("no key was printed")?;
    Ok(key.to_owned())
}

fn statuses(client: &Client, id: &str, run: &str) -> Result<Vec<(u16, Value)>> {
    let exec = json!({ "command": ["true"] });
    let label = json!({ "label": "theirs" });
    let calls = [
        ("GET", format!("/v2/box/{id}"), None),
        ("GET", format!("/v2/box/{id}/status"), None),
        ("POST", format!("/v2/box/{id}/exec"), Some(&exec)),
        ("POST", format!("/v2/box/{id}/exec-stream"), Some(&exec)),
        ("GET", format!("/v2/box/{id}/runs"), None),
        ("GET", format!("/v2/box/{id}/runs/{run}"), None),
        ("POST", format!("/v2/box/{id}/runs/{run}/cancel"), None),
        ("GET", format!("/v2/box/{id}/logs"), None),
        ("POST", format!("/v2/box/{id}/config/labels"), Some(&label)),
        ("DELETE", format!("/v2/box/{id}"), None),
    ];
    calls
        .iter()
        .map(|(method, path, body)| {
            let answer = client.call(method, path, *body)?;
            let json = answer.json()?;
            Ok((answer.status, json))
        })
        .collect()
}

#[test]
fn the_boxes_of_one_account_do_not_exist_for_another() -> Result<()> {
    let server = Server::start()?;
    let other = server.client().with_key(&key_of(&server, "other")?);
    let id = server.create_with(&json!({ "name": "mine", "labels": ["mine"] }))?;
    let run = server.begin(&id, "sleep 4720")?;
    ensure!(other.call("GET", "/v2/box", None)?.ok()? == json!([]));
    ensure!(other.call("GET", "/v2/box?label=mine", None)?.ok()? == json!([]));
    // A box of others is answered as one that never was, to the letter.
    let foreign = statuses(&other, &id, &run)?;
    for (n, (status, body)) in foreign.iter().enumerate() {
        ensure!(*status == 404, "call {n} on a foreign box: {status} {body}");
    }
    let unknown = statuses(&other, "never-wombat-00000", &run)?;
    for ((_, foreign), (_, unknown)) in foreign.iter().zip(&unknown) {
        let (named, never) = (foreign.to_string().replace(&id, "never-wombat-00000"), unknown.to_string());
        ensure!(named == never, "{foreign} tells a foreign box from an unknown one, {unknown}");
    }
    ensure!(other.call("GET", "/v2/box/mine", None)?.status == 404, "the name of a foreign box resolves");
    other.call("DELETE", "/v2/box", Some(&json!({ "ids": [id] })))?;
    ensure!(server.sh(&id, "echo untouched")? == "untouched");
    ensure!(server.run(&id, &run)?["status"] == "running", "another account has ended a run");
    // The same name is free for the other account.
    let theirs = other.call("POST", "/v2/box", Some(&json!({ "name": "mine" })))?.ok()?;
    ensure!(other.call("GET", "/v2/box/mine", None)?.ok()?["id"] == theirs["id"]);
    ensure!(server.call("GET", "/v2/box/mine", None)?.ok()?["id"] == id.as_str());
    other.call("DELETE", &format!("/v2/box/{}", theirs["id"].as_str().context("no id")?), None)?.ok()?;
    Ok(())
}

#[test]
fn a_revoked_key_opens_nothing_from_then_on() -> Result<()> {
    let server = Server::start()?;
    let key = key_of(&server, "other")?;
    let client = server.client().with_key(&key);
    let mut kept = client.connect()?;
    ensure!(kept.call("GET", "/v2/box", None)?.status == 200);
    let listed = server.program(&["key", "list"])?;
    ensure!(!listed.contains(&key), "the list of keys shows a key");
    let line = listed
        .lines()
        .find(|line| line.contains(&key[..8]) || line.contains("other"))
        .context("the key is not listed")?;
    let id = line.split_whitespace().find(|word| word.starts_with("key_")).context("a listed key has no id")?;
    server.program(&["key", "revoke", id])?;
    // A running server notices within a second; there is no event for it.
    until("the key to be refused", Duration::from_secs(10), || {
        Ok((client.call("GET", "/v2/box", None)?.status == 401).then_some(()))
    })?;
    ensure!(
        kept.call("GET", "/v2/box", None)?.status == 401,
        "a revoked key still works on a connection that was open"
    );
    ensure!(server.call("GET", "/v2/box", None)?.status == 200, "the other keys still work");
    Ok(())
}

#[test]
fn no_secret_is_in_the_log_or_in_a_box() -> Result<()> {
    let server = Server::start()?;
    let id = server.create_with(&json!({ "env_vars": { "TOKEN": "hidden-value-4711" } }))?;
    server.sh(&id, "true")?;
    server.call("GET", &format!("/v2/box/{id}"), None)?.ok()?;
    let log = std::fs::read_to_string(server.lane().log())?;
    for secret in [server.client().key.as_str(), "hidden-value-4711"] {
        ensure!(!log.contains(secret), "the server's log has a secret");
    }
    ensure!(
        !server.call("GET", &format!("/v2/box/{id}"), None)?.text().contains("hidden-value-4711"),
        "a record shows env"
    );
    Ok(())
}
