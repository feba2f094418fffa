//! `boxyard ssh`, with this host's OpenSSH client and a server that takes one password.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::{Arc, Mutex};

use axum::extract::Path;
use axum::routing::{get, post};
use axum::{Json, Router};
use russh::keys::{Algorithm, PrivateKey};
use russh::server::{Auth, ChannelOpenHandle, Handler, Msg, Session};
use russh::{Channel, ChannelId};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::ssh_access::ID;
use super::{Server, run, text};

const TOKEN: &str = "boxssh_of-this-test";

/// One login: lets in with the token, and answers a command with what it is and exit code 7.
#[derive(Clone)]
struct Visitor {
    /// The user names and passwords that were tried.
    tried: Arc<Mutex<Vec<(String, String)>>>,
}

impl Handler for Visitor {
    type Error = russh::Error;

    async fn auth_password(&mut self, user: &str, password: &str) -> Result<Auth, Self::Error> {
        self.tried.lock().expect("not poisoned").push((user.into(), password.into()));
        Ok(if password == TOKEN { Auth::Accept } else { Auth::reject() })
    }

    async fn channel_open_session(
        &mut self,
        _: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        reply.accept().await;
        Ok(())
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        data: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_success(channel)?;
        session.data(channel, format!("ran: {}\n", String::from_utf8_lossy(data)))?;
        session.exit_status_request(channel, 7)?;
        session.close(channel)
    }
}

/// The API and an SSH door, and what the door was asked.
struct Yard {
    api: Server,
    tried: Arc<Mutex<Vec<(String, String)>>>,
    /// A home folder with nothing in it, and a place for files.
    home: tempfile::TempDir,
}

impl Yard {
    /// A yard whose API tells of its door's own host key, or of another one.
    fn start(honest: bool) -> Self {
        let tried = Arc::new(Mutex::new(Vec::new()));
        let key = || PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519).expect("a host key");
        let (own, other) = (key(), key());
        let told = if honest { &own } else { &other }.public_key().to_openssh().expect("a line");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("listen");
        listener.set_nonblocking(true).expect("for tokio");
        let address = listener.local_addr().expect("an address");
        let api = Server::start(routes(address, told));
        let config = Arc::new(russh::server::Config {
            keys: vec![own],
            auth_rejection_time_initial: Some(std::time::Duration::ZERO),
            auth_rejection_time: std::time::Duration::ZERO,
            ..Default::default()
        });
        let visitor = Visitor { tried: Arc::clone(&tried) };
        api._runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).expect("a listener");
            while let Ok((stream, _)) = listener.accept().await {
                let (config, visitor) = (Arc::clone(&config), visitor.clone());
                tokio::spawn(async move {
                    if let Ok(session) = russh::server::run_stream(config, stream, visitor).await {
                        let _ = session.await;
                    }
                });
            }
        });
        Self { api, tried, home: tempfile::tempdir().expect("a temporary folder") }
    }

    fn ssh(&self, arguments: &[&str]) -> Command {
        let mut command = self.api.boxyard(&[&["ssh"], arguments].concat());
        command.env("PATH", "/usr/local/bin:/usr/bin:/bin").env("HOME", self.home.path());
        command
    }

    fn tried(&self) -> Vec<(String, String)> {
        self.tried.lock().expect("not poisoned").clone()
    }
}

fn routes(address: SocketAddr, host_key: String) -> Router {
    let port = address.port();
    let door = json!({"address": "0.0.0.0", "port": port, "host_keys": [
        {"algorithm": "ssh-ed25519", "public_key": host_key, "fingerprint": "x"},
    ]});
    let token = post(async |Path(id): Path<String>, Json(body): Json<Value>| {
        assert_eq!((id.as_str(), &body["expires_in"]), ("my-box", &json!(300)));
        let id = format!("sshtok_{}", "0".repeat(26));
        Json(json!({"id": id, "token": TOKEN, "box_id": ID, "expires_at": 1_700_000_000}))
    });
    Router::new().route("/v2/ssh", get(async move || Json(door))).route("/v2/box/{id}/ssh-tokens", token)
}

#[test]
fn a_command_runs_without_a_question_and_its_exit_code_is_ours() {
    let yard = Yard::start(true);
    for (arguments, said) in [
        (&["my-box", "--", "echo", "-n", "a  b"][..], "ran: echo -n a  b\n"),
        (&["my-box", "-T", "-o", "LogLevel=ERROR", "--", "true"], "ran: true\n"),
        // As ssh has it.
        (&["my-box", "ls", "-la"], "ran: ls -la\n"),
        (&["my-box", "--", "--help"], "ran: --help\n"),
    ] {
        let (code, out, err) = run(yard.ssh(arguments));
        assert_eq!((code, out.as_str(), err.as_str()), (7, said, ""), "{arguments:?}");
    }
    assert_eq!(yard.tried(), vec![(ID.to_owned(), TOKEN.to_owned()); 4]);
    assert!(!yard.home.path().join(".ssh").exists(), "nothing is noted in the user's own files");
}

#[test]
fn a_host_that_the_api_does_not_know_gets_no_password() {
    let yard = Yard::start(false);
    let (code, out, err) = run(yard.ssh(&["my-box", "-o", "StrictHostKeyChecking=no", "--", "true"]));
    assert_eq!((code, out.as_str()), (255, ""));
    assert!(err.contains("Host key verification failed"), "{err}");
    assert_eq!(yard.tried(), []);
}

/// Instead of ssh: says what it was called with, and what it may ask.
const SPY: &str = r#"#!/bin/sh
printf '%s\n' "$@"
echo "force $SSH_ASKPASS_REQUIRE"
echo "password $("$SSH_ASKPASS" "someone@boxyard's password: ")"
echo "elsewhere $("$SSH_ASKPASS" "someone@jump.example's password: ")"
echo "anything $("$SSH_ASKPASS" "Are you sure you want to continue connecting (yes/no)? ")"
echo "keys $("$SSH_ASKPASS" ssh-known-hosts)"
"#;

#[test]
fn the_token_is_for_ssh_s_own_question_only_and_not_in_its_arguments() {
    let yard = Yard::start(true);
    let spy = yard.home.path().join("ssh");
    std::fs::write(&spy, SPY).expect("write the spy");
    std::fs::set_permissions(&spy, std::fs::Permissions::from_mode(0o700)).expect("make it a program");
    let mut call = yard.ssh(&["my-box", "-L", "80:localhost:80"]);
    call.env("PATH", format!("{}:/usr/bin:/bin", text(yard.home.path())));
    let (code, out, err) = run(call);
    assert_eq!((code, err.as_str()), (0, ""));
    let lines: Vec<&str> = out.lines().collect();
    let (arguments, answers) = lines.split_at(lines.len() - 5);
    assert!(!arguments.iter().any(|argument| argument.contains(TOKEN)), "{arguments:?}");
    assert_eq!(arguments[arguments.len() - 5..], ["-l", ID, "my-box", "-L", "80:localhost:80"]);
    for option in ["StrictHostKeyChecking=yes", "PreferredAuthentications=password", "HostName=127.0.0.1"] {
        assert!(arguments.contains(&option), "{arguments:?}");
    }
    assert_eq!(answers[..4], ["force force", &format!("password {TOKEN}"), "elsewhere ", "anything "]);
    assert!(answers[4].starts_with("keys boxyard ssh-ed25519 AAAA"), "{answers:?}");
}

#[test]
fn a_host_without_ssh_is_told_what_to_install() {
    let yard = Yard::start(true);
    let mut call = yard.ssh(&["my-box"]);
    call.env("PATH", yard.home.path());
    let (code, out, err) = run(call);
    assert_eq!((code, out.as_str()), (255, ""));
    assert!(err.starts_with("boxyard: this host has no ssh; install"), "{err}");
}
