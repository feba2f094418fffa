//! Logging in over SSH: by password, key and token; what a refusal tells; what is written down.

#![forbid(unsafe_code)]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use boxyard_real_tests::ssh::{Agent, Key};
use boxyard_real_tests::{HOST, Server, Settings, Ssh, finish};
use serde_json::{Value, json};

/// So many failures that no test is sent away for them.
fn patient() -> Settings {
    let many = || "100000".to_owned();
    Settings::from([
        ("BOXYARD_LIMITS_SSH_FAILURES_PER_MINUTE", many()),
        ("BOXYARD_LIMITS_SSH_ACCOUNT_FAILURES_PER_MINUTE", many()),
    ])
}

fn add_key(server: &Server, line: &str, label: &str) -> Result<Value> {
    server.call("POST", "/v2/ssh-keys", Some(&json!({ "public_key": line, "label": label })))?.ok()
}

fn token(server: &Server, id: &str) -> Result<(String, String)> {
    let made = server.call("POST", &format!("/v2/box/{id}/ssh-tokens"), Some(&json!({ "expires_in": 3600 })))?.ok()?;
    let text = |key: &str| made[key].as_str().map(str::to_owned).with_context(|| format!("no {key} in {made}"));
    Ok((text("id")?, text("token")?))
}

/// What the client says of a refusal, with the box's place left out.
fn refusal(ssh: &Ssh) -> Result<String> {
    let done = ssh.run("echo let in")?;
    ensure!(done.code == Some(255) && done.out.is_empty(), "{} was let in: {done:?}", ssh.user_name());
    Ok(done.err.replace(ssh.user_name(), "BOX"))
}

#[test]
fn a_password_opens_a_box_by_its_id_and_by_its_name() -> Result<()> {
    let server = Server::with_ssh(Settings::new())?;
    let id = server.create_with(&json!({ "name": "workshop" }))?;
    ensure!(server.ssh(&id)?.sh("hostname")? == id);
    let by_name = server.ssh("workshop")?;
    ensure!(by_name.sh("hostname")? == id);
    // As a script would, by a terminal that types.
    let mut sshpass = by_name.program("sshpass");
    sshpass.env_remove("SSH_ASKPASS").env_remove("SSH_ASKPASS_REQUIRE").env("SSHPASS", &server.client().key);
    sshpass.args(["-e", "ssh", "-F"]).arg(by_name.config()?).args([HOST, "echo by sshpass"]);
    ensure!(finish(&mut sshpass)?.ok()?.text() == "by sshpass");
    // As a person would, without any of that.
    let mut typed = by_name.command("ssh")?;
    typed.env_remove("SSH_ASKPASS").env_remove("SSH_ASKPASS_REQUIRE").arg(HOST).arg("echo typ\"\"ed");
    let mut person = boxyard_real_tests::Dialogue::on_terminal(&typed, 80, 24)?;
    person.expect("password:")?;
    person.send(format!("{}\n", server.client().key))?;
    person.expect("typed")?;
    ensure!(person.wait()?.success());
    Ok(())
}

#[test]
fn public_keys_open_the_accounts_boxes_until_they_are_removed() -> Result<()> {
    let server = Server::with_ssh(patient())?;
    let (id, second) = (server.create()?, server.create()?);
    let door = server.door()?;
    for kind in ["ed25519", "ecdsa:256", "ecdsa:521", "rsa:3072"] {
        let key = Key::make(door.folder(), &kind.replace(':', "-"), kind)?;
        let by_key = door.user(&id).key(&key.file);
        refusal(&by_key).with_context(|| format!("an unknown {kind} key"))?;
        let added = add_key(&server, &key.public, kind)?;
        ensure!(added["fingerprint"] == key.fingerprint()?, "{added}");
        ensure!(by_key.sh("hostname")? == id, "{kind}");
        ensure!(by_key.clone().user(&second).sh("hostname")? == second, "{kind}");
        server.call("DELETE", &format!("/v2/ssh-keys/{}", added["id"].as_str().context("no id")?), None)?.ok()?;
        refusal(&by_key).with_context(|| format!("a removed {kind} key"))?;
    }
    // The right one is found among others, and by way of an agent.
    let keys = ["one", "two", "three"].map(|name| Key::make(door.folder(), name, "ed25519"));
    let [one, two, three] = keys;
    let (one, two, three) = (one?, two?, three?);
    add_key(&server, &three.public, "three")?;
    let several = door.user(&id).key(&one.file);
    let several = several.option(&format!("IdentityFile {}", one.file.display()));
    let several = several.option(&format!("IdentityFile {}", two.file.display()));
    let several = several.option(&format!("IdentityFile {}", three.file.display()));
    ensure!(several.sh("hostname")? == id, "the third key of three");
    let agent = Agent::with(&three)?;
    ensure!(door.user(&id).agent(agent.socket()).sh("hostname")? == id);
    // RSA with SHA-1, which is broken, opens nothing.
    let rsa = Key::make(door.folder(), "old-rsa", "rsa:3072")?;
    add_key(&server, &rsa.public, "old")?;
    ensure!(door.user(&id).key(&rsa.file).sh("hostname")? == id);
    let sha1 = door.user(&id).key(&rsa.file).option("PubkeyAcceptedAlgorithms ssh-rsa");
    refusal(&sha1).context("RSA with SHA-1")?;
    Ok(())
}

#[test]
fn a_token_opens_its_box_until_it_is_revoked() -> Result<()> {
    let server = Server::with_ssh(patient())?;
    let (id, other) = (server.create_with(&json!({ "name": "mine" }))?, server.create()?);
    let door = server.door()?;
    let (token_id, secret) = token(&server, &id)?;
    ensure!(secret.starts_with("boxssh_"), "a token looks like {}…", &secret[..4]);
    let by_token = door.user(&id).password(&secret);
    ensure!(by_token.sh("hostname")? == id);
    ensure!(by_token.clone().user("mine").sh("hostname")? == id, "by the box's name");
    refusal(&by_token.clone().user(&other)).context("another box of the account")?;
    // It is a key to the SSH door only.
    let api = server.client().with_key(&secret);
    ensure!(api.call("GET", &format!("/v2/box/{id}"), None)?.status == 401, "an SSH token opens the API");
    server.call("DELETE", &format!("/v2/box/{id}/ssh-tokens/{token_id}"), None)?.ok()?;
    refusal(&by_token).context("a revoked token")?;
    let (_, secret) = token(&server, &id)?;
    ensure!(door.user(&id).password(&secret).sh("hostname")? == id);
    server.delete(&id)?;
    refusal(&door.user(&id).password(&secret)).context("the token of a deleted box")?;
    Ok(())
}

#[test]
fn a_token_opens_its_box_until_it_expires() -> Result<()> {
    let server = Server::with_ssh(patient())?;
    let id = server.create()?;
    let door = server.door()?;
    // As a user makes one, for the shortest time that there is.
    let mut create = door.user(&id).program(&server.programs().join("boxyard").to_string_lossy());
    create.env("UPSTASH_BOX_BASE_URL", server.client().base_url()).env("UPSTASH_BOX_API_KEY", &server.client().key);
    let made = finish(create.args(["ssh-token", "create", "--box", &id, "--expires", "1m"]))?.ok()?;
    let secret = made.text().split_whitespace().find(|word| word.starts_with("boxssh_")).map(str::to_owned);
    let by_token = door.user(&id).password(&secret.with_context(|| format!("no token in {made:?}"))?);
    ensure!(by_token.sh("hostname")? == id);
    let mut open = by_token.dialogue(&[HOST, "echo ready; cat"])?;
    open.expect("ready\n")?;
    let tokens = server.call("GET", &format!("/v2/box/{id}/ssh-tokens"), None)?.ok()?;
    let expires = tokens["tokens"][0]["expires_at"].as_u64().with_context(|| format!("no time in {tokens}"))?;
    // Nothing tells of it.
    boxyard_real_tests::until("the token to expire", Duration::from_secs(90), || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        Ok((now > expires).then_some(()))
    })?;
    let refused = refusal(&by_token).context("an expired token")?;
    ensure!(refused == refusal(&door.user(&id).password("boxssh_wrong"))?, "an expired token is told apart: {refused}");
    // Who is inside stays.
    open.send("still here\n")?;
    open.expect("still here\n")?;
    open.end_input();
    ensure!(open.wait()?.success());
    Ok(())
}

#[test]
fn refusals_are_all_alike() -> Result<()> {
    let server = Server::with_ssh(patient())?;
    let id = server.create_with(&json!({ "name": "mine" }))?;
    let said = server.program(&["key", "create", "--account", "other"])?;
    let others_key = said.split_whitespace().find(|word| word.starts_with("box_")).context("no key")?;
    let door = server.door()?;
    let stranger = Key::make(door.folder(), "stranger", "ed25519")?;
    let wrong = format!("{}0", server.client().key);
    let passwords = [wrong.as_str(), "box_", "boxssh_", "x", others_key];
    let expected = refusal(&door.user("never-wombat-00000").password("wrong"))?;
    ensure!(expected.contains("Permission denied (publickey,password)"), "{expected}");
    for user in [id.as_str(), "mine", "never-wombat-00000", "root", "..", "a user with spaces", &"x".repeat(300)] {
        for password in passwords {
            let said = refusal(&door.user(&format!("\"{user}\"")).password(password))?;
            let said = said.replace(user, "BOX");
            ensure!(said == expected, "{user} with a wrong secret: {said}, not {expected}");
        }
    }
    for user in [id.as_str(), "never-wombat-00000"] {
        let said = refusal(&door.user(user).key(&stranger.file))?;
        ensure!(said == expected, "an unknown key for {user}: {said}");
        refusal(&door.user(user)).context("nothing at all")?;
    }
    // No greeting tells who is asked for before one is let in.
    ensure!(!expected.to_lowercase().contains("boxyard"), "{expected}");
    Ok(())
}

#[test]
fn logins_are_written_down_and_secrets_are_not() -> Result<()> {
    let server = Server::with_ssh(patient())?;
    let id = server.create_with(&json!({ "env_vars": { "HIDDEN": "hidden-value-4771" } }))?;
    let door = server.door()?;
    let key = Key::make(door.folder(), "key", "ed25519")?;
    add_key(&server, &key.public, "key")?;
    let (_, secret) = token(&server, &id)?;
    server.ssh(&id)?.sh("true")?;
    door.user(&id).key(&key.file).sh("true")?;
    door.user(&id).password(&secret).sh("echo secret-word-4772")?;
    refusal(&door.user(&id).password("wrong-secret-4773"))?;
    let forward = finish(server.ssh(&id)?.command("ssh")?.args(["-W", "127.0.0.1:9", HOST]))?;
    ensure!(forward.code == Some(255));
    // Lines are written soon, and nothing tells when.
    let lines = boxyard_real_tests::until("the log to have it all", Duration::from_secs(20), || {
        let lines = server.logs(&id)?;
        let has = |part: &str| lines.iter().any(|line| line.contains(part));
        let all = ["by password from 127.0.0.1", "by publickey", "by token", "refused", "127.0.0.1:9"];
        Ok(all.into_iter().all(has).then_some(lines))
    })
    .with_context(|| format!("{:#?}", server.logs(&id)))?;
    let fingerprint = key.fingerprint()?;
    ensure!(lines.iter().any(|line| line.contains(&fingerprint)), "which key it was is not written down: {lines:#?}");
    let log = fs::read_to_string(server.lane().log())?;
    for secret in [&server.client().key, &secret, "wrong-secret-4773", "hidden-value-4771", "secret-word-4772"] {
        ensure!(!lines.iter().any(|line| line.contains(secret)), "the box's log has a secret");
        ensure!(!log.contains(secret), "the server's log has a secret");
    }
    Ok(())
}

#[test]
fn clients_know_the_server_by_its_host_keys() -> Result<()> {
    let server = Server::with_ssh(Settings::from([("BOXYARD_SSH_ECDSA", "true".to_owned())]))?;
    let id = server.create()?;
    let ssh = server.ssh(&id)?;
    let (address, keys) = (ssh.door().address(), ssh.door().host_keys());
    let algorithms: Vec<&str> = keys.iter().map(|key| key.algorithm.as_str()).collect();
    ensure!(algorithms == ["ssh-ed25519", "ecdsa-sha2-nistp256"], "{algorithms:?}");
    for key in keys {
        // Each is what the server really has, and the client insists on it.
        let only = ssh.clone().option(&format!("HostKeyAlgorithms {}", key.algorithm));
        ensure!(only.sh("hostname")? == id, "{}", key.algorithm);
        let scanned = Command::new("ssh-keyscan")
            .args(["-t", key.algorithm.trim_start_matches("ssh-").split('-').next().unwrap_or_default()])
            .args(["-p", &address.port().to_string(), &address.ip().to_string()])
            .output()?;
        let scanned = String::from_utf8_lossy(&scanned.stdout).into_owned();
        ensure!(scanned.contains(&key.public_key), "ssh-keyscan: {scanned}");
    }
    // Somebody else's key is not taken.
    let stranger = Key::make(ssh.door().folder(), "stranger", "ed25519")?;
    let line = format!("[{}]:{} {}\n", address.ip(), address.port(), stranger.public);
    let file = ssh.door().folder().join("wrong_hosts");
    fs::write(&file, line)?;
    let warned = ssh.clone().option(&format!("UserKnownHostsFile {}", file.display())).run("hostname")?;
    ensure!(warned.code == Some(255) && warned.err.contains("REMOTE HOST IDENTIFICATION HAS CHANGED"), "{warned:?}");
    Ok(())
}

#[test]
fn the_program_logs_in_and_writes_configurations() -> Result<()> {
    let server = Server::with_ssh(Settings::new())?;
    let id = server.create_with(&json!({ "name": "workshop" }))?;
    let ssh = server.ssh(&id)?;
    let boxyard = |arguments: &[&str]| {
        let mut command = ssh.program(&server.programs().join("boxyard").to_string_lossy());
        command
            .env("UPSTASH_BOX_BASE_URL", server.client().base_url())
            .env("UPSTASH_BOX_API_KEY", &server.client().key);
        command.env_remove("SSH_ASKPASS").env_remove("SSH_ASKPASS_REQUIRE");
        finish(command.args(arguments))
    };
    let told = boxyard(&["ssh-fingerprint"])?.ok()?.text();
    for key in ssh.door().host_keys() {
        ensure!(told.contains(&key.fingerprint), "{told}");
    }
    ensure!(boxyard(&["ssh", "workshop", "--", "hostname; exit 7"])?.text() == id);
    ensure!(boxyard(&["ssh", &id, "--", "exit 7"])?.code == Some(7));
    // The block is complete but for the secret.
    let config = ssh.door().folder().join("printed");
    fs::write(&config, boxyard(&["ssh-config", "workshop"])?.ok()?.out)?;
    let known = boxyard(&["ssh-fingerprint", "--known-hosts"])?.ok()?.out;
    fs::write(ssh.door().folder().join("printed-hosts"), known)?;
    let mut command = ssh.program("ssh");
    command.arg("-F").arg(&config).args(["-o", "UserKnownHostsFile printed-hosts", "-o", "StrictHostKeyChecking yes"]);
    ensure!(finish(command.args(["workshop", "hostname"]))?.ok()?.text() == id);
    Ok(())
}

#[test]
fn limits_refuse_with_a_reason() -> Result<()> {
    let settings = Settings::from([
        ("BOXYARD_LIMITS_SSH_CONNECTIONS_PER_ADDRESS", "3".to_owned()),
        ("BOXYARD_LIMITS_SSH_CHANNELS_PER_CONNECTION", "2".to_owned()),
        ("BOXYARD_LIMITS_SSH_LOGIN_TIME", "2s".to_owned()),
    ]);
    let server = Server::with_ssh(settings)?;
    let id = server.create()?;
    let ssh = server.ssh(&id)?;
    let mux = format!("ControlPath {}", ssh.door().folder().join("mux").display());
    let mut held = Vec::new();
    for arguments in
        [&["-M", HOST, "echo ready; cat"] as &[&str], &[HOST, "echo ready; cat"], &[HOST, "echo ready; cat"]]
    {
        let client = if arguments.len() == 3 { ssh.clone().option(&mux) } else { ssh.clone() };
        let mut client = client.dialogue(arguments)?;
        client.expect("ready\n")?;
        held.push(client);
    }
    let refused = ssh.run("true")?;
    ensure!(
        refused.code == Some(255) && refused.err.contains("too many SSH connections from your address"),
        "{refused:?}"
    );
    // A place that is given back is free at once.
    let mut last = held.pop().context("none is held")?;
    last.end_input();
    ensure!(last.wait()?.success());
    boxyard_real_tests::until("a place to be free", Duration::from_secs(20), || {
        Ok((ssh.run("true")?.code == Some(0)).then_some(()))
    })?;
    // Channels of one connection: the second is the last.
    let shared = ssh.clone().option(&mux);
    let mut second = shared.dialogue(&[HOST, "echo ready; cat"])?;
    second.expect("ready\n")?;
    let refused = shared.run("true")?;
    // The client then makes a connection of its own, which there is room for.
    ensure!(refused.err.contains("Session open refused by peer"), "{refused:?}");
    second.end_input();
    ensure!(second.wait()?.success());
    // Who does not log in is sent away: first one who says nothing, then one who says only its version.
    held.clear();
    for said in ["", "SSH-2.0-idler\r\n"] {
        let mut idler = TcpStream::connect(ssh.door().address())?;
        idler.set_read_timeout(Some(Duration::from_secs(60)))?;
        idler.write_all(said.as_bytes())?;
        let mut heard = Vec::new();
        idler.read_to_end(&mut heard).context("one who never logs in is not sent away")?;
    }
    Ok(())
}

#[test]
fn guessing_is_throttled() -> Result<()> {
    let server = Server::with_ssh(Settings::from([("BOXYARD_LIMITS_SSH_FAILURES_PER_MINUTE", "3".to_owned())]))?;
    let id = server.create()?;
    let ssh = server.ssh(&id)?;
    ensure!(ssh.sh("hostname")? == id);
    let wrong = ssh.clone().password("box_wrong");
    let mut sent_away = String::new();
    for _ in 0..12 {
        sent_away = refusal(&wrong)?;
        if !sent_away.contains("Permission denied") {
            break;
        }
    }
    ensure!(!sent_away.contains("Permission denied"), "guessing goes on for ever: {sent_away}");
    // So is the right one: else guessing could go on.
    ensure!(refusal(&ssh)? == sent_away, "{sent_away}");
    Ok(())
}
