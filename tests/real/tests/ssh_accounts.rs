//! Two accounts at the SSH door: neither ever reaches the other's boxes.

#![forbid(unsafe_code)]

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use boxyard_real_tests::ssh::Key;
use boxyard_real_tests::{Client, Server, Settings, Ssh, until};
use serde_json::json;

/// Makes a key by the program, for the account of that name; its id comes with it.
fn key_of(server: &Server, account: &str) -> Result<String> {
    let said = server.program(&["key", "create", "--account", account])?;
    let key = said.split_whitespace().find(|word| word.starts_with("box_")).context("no key was printed")?;
    Ok(key.to_owned())
}

fn create(client: &Client, name: &str) -> Result<String> {
    let made = client.call("POST", "/v2/box", Some(&json!({ "name": name })))?.ok()?;
    Ok(made["id"].as_str().context("no id")?.to_owned())
}

fn refused(ssh: &Ssh) -> Result<()> {
    let done = ssh.run("hostname")?;
    ensure!(done.code == Some(255) && done.out.is_empty(), "{} was let in: {done:?}", ssh.user_name());
    ensure!(done.err.contains("Permission denied"), "{done:?}");
    Ok(())
}

fn patient() -> Settings {
    Settings::from([
        ("BOXYARD_LIMITS_SSH_FAILURES_PER_MINUTE", "100000".to_owned()),
        ("BOXYARD_LIMITS_SSH_ACCOUNT_FAILURES_PER_MINUTE", "100000".to_owned()),
    ])
}

#[test]
fn the_boxes_of_one_account_open_to_nothing_of_another() -> Result<()> {
    let server = Server::with_ssh(patient())?;
    let ours = server.client().clone();
    let theirs = ours.with_key(&key_of(&server, "other")?);
    // Both have a box of the same name.
    let (our_box, their_box) = (create(&ours, "mine")?, create(&theirs, "mine")?);
    let door = server.door()?;
    for (client, own, foreign) in [(&ours, &our_box, &their_box), (&theirs, &their_box, &our_box)] {
        let key = Key::make(door.folder(), own, "ed25519")?;
        client.call("POST", "/v2/ssh-keys", Some(&json!({ "public_key": key.public })))?.ok()?;
        let token =
            client.call("POST", &format!("/v2/box/{own}/ssh-tokens"), Some(&json!({ "expires_in": 600 })))?.ok()?;
        let token = token["token"].as_str().context("no token")?;
        let ways = [door.user("").password(&client.key), door.user("").key(&key.file), door.user("").password(token)];
        for way in ways {
            ensure!(way.clone().user(own).sh("hostname")? == *own);
            ensure!(way.clone().user("mine").sh("hostname")? == *own, "a name means a box of one's own");
            refused(&way.user(foreign))?;
        }
        // Nor can one be made for another's box.
        let made = client.call("POST", &format!("/v2/box/{foreign}/ssh-tokens"), Some(&json!({})))?;
        ensure!(made.status == 404, "a token for a foreign box: {}", made.text());
    }
    // Keys are listed to their own account only.
    let listed = |client: &Client| -> Result<usize> {
        Ok(client.call("GET", "/v2/ssh-keys", None)?.ok()?["keys"].as_array().context("no keys")?.len())
    };
    ensure!(listed(&ours)? == 1 && listed(&theirs)? == 1);
    theirs.call("DELETE", &format!("/v2/box/{their_box}"), None)?.ok().map(|_| ())
}

#[test]
fn a_revoked_api_key_opens_no_box() -> Result<()> {
    let server = Server::with_ssh(patient())?;
    let theirs = server.client().with_key(&key_of(&server, "other")?);
    let id = create(&theirs, "mine")?;
    let ssh = server.door()?.user(&id).password(&theirs.key);
    ensure!(ssh.sh("hostname")? == id);
    let listed = server.program(&["key", "list"])?;
    let line = listed.lines().find(|line| line.contains("other")).context("the key is not listed")?;
    let key_id = line.split_whitespace().find(|word| word.starts_with("key_")).context("a listed key has no id")?;
    // The box would be nobody's to delete.
    let second = server.client().with_key(&key_of(&server, "other")?);
    server.program(&["key", "revoke", key_id])?;
    // A running server notices within a second; there is no event for it.
    until("the key to be refused", Duration::from_secs(20), || {
        Ok((ssh.run("hostname")?.code == Some(255)).then_some(()))
    })?;
    refused(&ssh)?;
    second.call("DELETE", &format!("/v2/box/{id}"), None)?.ok().map(|_| ())
}
