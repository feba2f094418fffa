//! Keys, tokens, host keys, and what `~/.ssh/config` needs to know.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use axum::extract::Path;
use axum::http::StatusCode;
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use serde_json::{Value, json};

use super::{Server, run, text};

pub const ID: &str = "current-wasp-05510";
const LINE: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDE6DCdEbe4Qjuz4jBAqjiGFGeJctMVyg1I+sNUWAOaF";
const FINGERPRINT: &str = "SHA256:zIHgS6lcEn/31oJ8ffy+k0GyTgRBQRk9+XD+KLRa0hw";
const KEY_ID: &str = "sshkey_00000000000000000000000001";
const TOKEN_ID: &str = "sshtok_00000000000000000000000001";

fn key() -> Value {
    json!({"id": KEY_ID, "algorithm": "ssh-ed25519", "fingerprint": FINGERPRINT, "public_key": LINE, "label": "u@h", "created_at": 1_700_000_000})
}

fn door() -> Value {
    json!({"address": "0.0.0.0", "port": 2222, "host_keys": [
        {"algorithm": "ssh-ed25519", "public_key": LINE, "fingerprint": "told by the server, made anew by the client"},
    ]})
}

fn with_door() -> Router {
    Router::new().route("/v2/ssh", get(async || Json(door())))
}

fn row(id: &str, name: Option<&str>, status: &str) -> Value {
    json!({
        "id": id, "customer_id": format!("acc_{}", "0".repeat(26)), "name": name, "labels": [], "size": "small",
        "runtime": "node", "status": status, "keep_alive": false, "enabled_skills": [], "total_input_tokens": 0,
        "total_output_tokens": 0, "total_prompts": 0, "total_cpu_ns": 0, "total_compute_cost_usd": 0.0,
        "total_token_cost_usd": 0.0, "last_activity_at": 0, "created_at": 1_700_000_000, "updated_at": 0,
    })
}

#[test]
fn a_key_is_added_from_a_file_a_pipe_or_as_it_is() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    let add = post(async move |Json(body): Json<Value>| {
        seen.lock()
            .expect("not poisoned")
            .push((body["public_key"].as_str().expect("a key").trim().to_owned(), body["label"].clone()));
        Json(key())
    });
    let server = Server::start(Router::new().route("/v2/ssh-keys", add));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("id.pub");
    let line = format!("{LINE} u@h");
    std::fs::write(&file, format!("{line}\n")).expect("write the key");

    let said = (0, format!("{KEY_ID}\n"), format!("{FINGERPRINT} u@h\n"));
    assert_eq!(run(server.boxyard(&["ssh-key", "add", text(&file)])), said);
    assert_eq!(run(server.boxyard(&["ssh-key", "add", &line, "--label", "mine"])), said);
    let words: Vec<&str> = line.split(' ').collect();
    assert_eq!(run(server.boxyard(&[&["ssh-key", "add"], words.as_slice()].concat())), said);
    let mut call = server.boxyard(&["ssh-key", "add", "-"]);
    let mut child =
        call.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("run boxyard");
    child.stdin.take().expect("its input").write_all(line.as_bytes()).expect("send the key");
    assert_eq!(child.wait().expect("its end").code(), Some(0));

    let asked = asked.lock().expect("not poisoned").clone();
    let labels: Vec<_> = asked.iter().map(|(_, label)| label.clone()).collect();
    assert_eq!(labels, [Value::Null, json!("mine"), Value::Null, Value::Null]);
    assert!(asked.iter().all(|(key, _)| *key == line), "{asked:?}");
}

#[test]
fn a_private_key_does_not_leave_this_host() {
    let asked = Arc::new(Mutex::new(0));
    let count = Arc::clone(&asked);
    let server = Server::start(Router::new().fallback(async move || *count.lock().expect("not poisoned") += 1));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("id");
    std::fs::write(&file, "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAAs3cret\n")
        .expect("write the key");
    let add = || run(server.boxyard(&["ssh-key", "add", text(&file)]));
    let (code, out, err) = add();
    assert_eq!((code, out.as_str()), (64, ""));
    assert!(err.contains("this is a private key") && !err.contains("s3cret") && !err.contains("(here"), "{err}");
    std::fs::write(folder.path().join("id.pub"), LINE).expect("write the public key");
    assert!(add().2.contains(&format!("(here {}.pub)", text(&file))));

    for (arguments, part) in [
        (&["ssh-key", "add", "/does/not/exist"][..], "cannot open /does/not/exist"),
        (&["ssh-key", "add", "one", "two"], "name one file"),
        (&["ssh-key", "add", "/dev/zero"], "at most 16384 bytes"),
        (&["ssh-key", "add", "ssh-ed25519 AAAA"], "damaged"),
        (&["ssh-key", "add"], "--help"),
        (&["ssh-key", "remove", ".."], "it must be a key's id"),
        (&["ssh-token", "create", "--box", ID, "--expires", "soon"], "it must be a time"),
        (&["ssh-token", "create"], "--box"),
        (&["ssh-token", "revoke", "--box", ID, "nonsense"], "not an SSH token's id"),
        (&["ssh", "../x"], "neither a box id nor a box name"),
        (&["ssh-config", "--host=-oProxyCommand=x"], "the name or the address of a host"),
    ] {
        let (code, out, err) = run(server.boxyard(arguments));
        assert!(code == 64 || code == 1 && part.starts_with("cannot open"), "{arguments:?}: {code} {err}");
        assert!(out.is_empty() && err.contains(part), "{arguments:?}: {err}");
    }
    assert_eq!(*asked.lock().expect("not poisoned"), 0, "the server was not asked at all");
}

#[test]
fn keys_are_listed_and_removed() {
    let remove = delete(async |Path(id): Path<String>| {
        if id == KEY_ID || id == FINGERPRINT {
            (StatusCode::OK, Json(json!({"message": "SSH key removed"})))
        } else {
            (StatusCode::NOT_FOUND, Json(json!({"error": "SSH key not found"})))
        }
    });
    let list = get(async || Json(json!({"keys": [key()]})));
    let server = Server::start(Router::new().route("/v2/ssh-keys", list).route("/v2/ssh-keys/{id}", remove));
    let (code, out, err) = run(server.boxyard(&["ssh-key", "list"]));
    assert_eq!(code, 0, "{err}");
    assert_eq!(
        out,
        format!(
            "ID                                 FINGERPRINT                                         ALGORITHM    ADDED                 LABEL\n\
             {KEY_ID}  {FINGERPRINT}  ssh-ed25519  2023-11-14 22:13:20Z  u@h\n"
        )
    );
    assert_eq!(run(server.boxyard(&["ssh-key", "remove", KEY_ID, FINGERPRINT])), (0, String::new(), String::new()));
    let (code, _, err) = run(server.boxyard(&["ssh-key", "remove", "SHA256:gone", KEY_ID]));
    assert_eq!((code, err.as_str()), (1, "boxyard: SHA256:gone: SSH key not found\n"));
}

#[test]
fn a_token_is_made_listed_and_revoked() {
    let make = post(async |Path(id): Path<String>, Json(body): Json<Value>| {
        assert_eq!((id.as_str(), &body), ("my-box", &json!({"expires_in": 5400, "label": "ci"})));
        Json(json!({"id": TOKEN_ID, "token": "boxssh_x", "box_id": ID, "expires_at": 1_700_000_000}))
    });
    let list = async || {
        let row = json!({"id": TOKEN_ID, "box_id": ID, "label": "ci", "created_at": 1_700_000_000, "expires_at": 1_700_000_060});
        Json(json!({"tokens": [row]}))
    };
    let revoke = delete(async |Path((_, id)): Path<(String, String)>| {
        if id == TOKEN_ID {
            (StatusCode::OK, Json(json!({"message": "SSH token revoked"})))
        } else {
            (StatusCode::NOT_FOUND, Json(json!({"error": "SSH token not found"})))
        }
    });
    let routes =
        Router::new().route("/v2/box/{id}/ssh-tokens", make.get(list)).route("/v2/box/{id}/ssh-tokens/{token}", revoke);
    let server = Server::start(routes);
    let create = ["ssh-token", "create", "--box", "my-box", "--expires", "90m", "--label", "ci"];
    assert_eq!(
        run(server.boxyard(&create)),
        (
            0,
            "boxssh_x\n".into(),
            format!("{TOKEN_ID} opens box {ID} until 2023-11-14 22:13:20Z. It is shown this once:\n")
        )
    );
    let (_, out, _) = run(server.boxyard(&["ssh-token", "list", "--box", "my-box"]));
    assert_eq!(
        out,
        format!(
            "ID                                 MADE                  EXPIRES               LABEL\n\
             {TOKEN_ID}  2023-11-14 22:13:20Z  2023-11-14 22:14:20Z  ci\n"
        )
    );
    let revoke = |id: &str| run(server.boxyard(&["ssh-token", "revoke", "--box", "my-box", id]));
    assert_eq!(revoke(TOKEN_ID), (0, String::new(), String::new()));
    let gone = TOKEN_ID.replace('1', "2");
    assert_eq!(revoke(&gone), (1, String::new(), format!("boxyard: {gone}: SSH token not found\n")));
}

#[test]
fn host_keys_are_shown_as_fingerprints_or_for_known_hosts() {
    let server = Server::start(with_door());
    assert_eq!(run(server.boxyard(&["ssh-fingerprint"])), (0, format!("{FINGERPRINT} ssh-ed25519\n"), String::new()));
    let (_, out, _) = run(server.boxyard(&["ssh-fingerprint", "--known-hosts"]));
    assert_eq!(out, format!("[127.0.0.1]:2222 {LINE}\n"));
    let (_, out, _) = run(server.boxyard(&["ssh-fingerprint", "--known-hosts", "--host", "box.example"]));
    assert_eq!(out, format!("[box.example]:2222 {LINE}\n"));

    // ssh-keygen finds the host in them.
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("known_hosts");
    std::fs::write(&file, out).expect("write known_hosts");
    let found = Command::new("ssh-keygen").args(["-F", "[box.example]:2222", "-f", text(&file)]).output();
    let found = found.expect("this test needs ssh-keygen");
    assert!(String::from_utf8_lossy(&found.stdout).contains(LINE), "{found:?}");
}

#[test]
fn a_server_without_a_door_or_with_nonsense_is_told() {
    let off = get(async || (StatusCode::NOT_FOUND, Json(json!({"error": "this server's SSH door is off"}))));
    let server = Server::start(Router::new().route("/v2/ssh", off));
    for (arguments, expected) in [(&["ssh-fingerprint"][..], 1), (&["ssh-config"], 1), (&["ssh", "my-box"], 255)] {
        let said = (expected, String::new(), "boxyard: this server's SSH door is off\n".to_owned());
        assert_eq!(run(server.boxyard(arguments)), said, "{arguments:?}");
    }
    for keys in
        [json!([]), json!([{"algorithm": "x", "public_key": format!("{LINE}\ngithub.com {LINE}"), "fingerprint": "x"}])]
    {
        let told = json!({"address": "::", "port": 1, "host_keys": keys});
        let server = Server::start(Router::new().route("/v2/ssh", get(async move || Json(told))));
        let (code, out, err) = run(server.boxyard(&["ssh-fingerprint", "--known-hosts"]));
        assert_eq!((code, out.as_str()), (1, ""));
        assert!(err.contains("makes no sense"), "{err}");
    }
}

/// What `ssh -G` makes of a configuration for this destination.
fn resolved(config: &str, destination: &str) -> Vec<String> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("config");
    std::fs::write(&file, config).expect("write the configuration");
    let output = Command::new("ssh").args(["-G", "-F", text(&file), destination]).output();
    let output = output.expect("this test needs OpenSSH's client");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text").lines().map(str::to_owned).collect()
}

#[test]
fn the_configuration_is_one_that_ssh_reads() {
    let boxes = || {
        json!([
            row(ID, Some("my-worker"), "idle"),
            row("sweet-shark-26021", None, "running"),
            row("right-flamingo-14486", Some("github.com"), "idle"),
            row("quiet-orca-00001", Some("x\n  ProxyCommand evil"), "idle"),
        ])
    };
    let one = get(async |Path(id): Path<String>| match id.as_str() {
        "my-worker" => (StatusCode::OK, Json(row(ID, Some("my-worker"), "idle"))),
        "sweet-shark-26021" => (StatusCode::OK, Json(row("sweet-shark-26021", None, "deleted"))),
        _ => (StatusCode::NOT_FOUND, Json(json!({"error": "Box not found"}))),
    });
    let routes = with_door().route("/v2/box", get(async move || Json(boxes()))).route("/v2/box/{id}", one);
    let server = Server::start(routes);
    let (code, all, err) = run(server.boxyard(&["ssh-config"]));
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(all.contains(FINGERPRINT) && !all.contains("evil"), "{all}");
    for (destination, id) in [
        ("my-worker", ID),
        (ID, ID),
        ("sweet-shark-26021", "sweet-shark-26021"),
        ("quiet-orca-00001", "quiet-orca-00001"),
    ] {
        let lines = resolved(&all, destination);
        for line in [format!("user {id}"), "hostname 127.0.0.1".into(), "port 2222".into()] {
            assert!(lines.contains(&line), "{destination}: {line} in {lines:?}");
        }
    }
    assert!(resolved(&all, "github.com").contains(&"hostname github.com".into()), "a box does not take a host's name");
    assert!(resolved(&all, "right-flamingo-14486").contains(&"port 2222".into()));

    let (code, few, _) = run(server.boxyard(&["ssh-config", "my-worker", "--host", "::1"]));
    assert_eq!(code, 0);
    assert!(
        few.ends_with(&format!("\nHost my-worker {ID}\n    HostName ::1\n    Port 2222\n    User {ID}\n")),
        "{few}"
    );
    assert!(resolved(&few, "my-worker").contains(&"hostname ::1".into()));
    for (id, text) in [("sweet-shark-26021", "the box is deleted"), ("unknown", "Box not found")] {
        let (code, out, err) = run(server.boxyard(&["ssh-config", "my-worker", id]));
        assert_eq!((code, out.as_str(), err), (1, "", format!("boxyard: {id}: {text}\n")));
    }
}
