//! Logging in over SSH, with the client that russh brings; and what comes of those who are not let in.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use boxyard_server::config::Config;
use boxyard_server::keys;
use boxyard_server::ssh::host_keys;
use reqwest::StatusCode;
use russh::client::{self, AuthResult, Handle};
use russh::keys::{Algorithm, EcdsaCurve, HashAlg, PrivateKey, PrivateKeyWithHashAlg, PublicKeyOrCertificate};
use russh::{Disconnect, MethodKind, MethodSet};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::support::{Client, KEY, PATIENCE, Yard};

mod credentials;
mod guests;
mod hardware_keys;

/// What a client saw of the server.
#[derive(Default)]
struct Seen {
    host_key: Mutex<Option<String>>,
    /// Why the server said goodbye.
    farewell: Mutex<Option<String>>,
    over: Notify,
}

#[derive(Clone, Default)]
struct Eyes(Arc<Seen>);

impl client::Handler for Eyes {
    type Error = russh::Error;

    async fn check_server_key(&mut self, key: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        *self.0.host_key.lock().expect("whole") = Some(key.public_key().fingerprint(HashAlg::Sha256).to_string());
        Ok(true)
    }

    async fn disconnected(&mut self, reason: client::DisconnectReason<Self::Error>) -> Result<(), Self::Error> {
        if let client::DisconnectReason::ReceivedDisconnect(info) = &reason {
            *self.0.farewell.lock().expect("whole") = Some(info.message.clone());
        }
        self.0.over.notify_one();
        Ok(())
    }
}

/// A connection, and what its client saw.
struct Ssh {
    handle: Handle<Eyes>,
    eyes: Eyes,
}

impl Ssh {
    async fn to(address: SocketAddr) -> Result<Self, russh::Error> {
        let eyes = Eyes::default();
        let handle = client::connect(Arc::new(client::Config::default()), address, eyes.clone()).await?;
        Ok(Self { handle, eyes })
    }

    async fn password(&mut self, user: &str, password: &str) -> AuthResult {
        self.handle.authenticate_password(user, password).await.expect("an answer")
    }

    async fn key(&mut self, user: &str, key: &PrivateKey) -> AuthResult {
        let key = PrivateKeyWithHashAlg::new(Arc::new(key.clone()), None);
        self.handle.authenticate_publickey(user, key).await.expect("an answer")
    }

    /// Waits for the server to end it, and says what it said.
    async fn farewell(&self) -> Option<String> {
        timeout(PATIENCE, self.eyes.0.over.notified()).await.expect("the server ends the connection");
        self.eyes.0.farewell.lock().expect("whole").take()
    }
}

/// A server with an SSH door.
async fn door_with(change: impl FnOnce(&mut Config)) -> Yard {
    Yard::with(|config| {
        config.ssh = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
        change(config);
    })
    .await
}

impl Yard {
    async fn ssh(&self) -> Ssh {
        Ssh::to(self.ssh_address()).await.expect("a connection")
    }

    async fn login(&self, user: &str, password: &str) -> AuthResult {
        self.ssh().await.password(user, password).await
    }
}

/// The one answer to everything that is wrong.
fn refused() -> AuthResult {
    let remaining_methods = MethodSet::from(&[MethodKind::PublicKey, MethodKind::Password][..]);
    AuthResult::Failure { remaining_methods, partial_success: false }
}

/// The messages in a box's log about SSH, once there are so many.
async fn log(client: &Client, id: &str, count: usize) -> Vec<String> {
    let about_ssh = |answer: &Value| {
        let entries = answer["logs"].as_array().or_else(|| answer.as_array()).cloned().unwrap_or_default();
        let messages = entries.iter().filter_map(|entry| entry["message"].as_str()).map(str::to_owned);
        messages.filter(|message| message.starts_with("SSH ")).collect::<Vec<_>>()
    };
    let answer = client.until(&format!("/v2/box/{id}/logs"), |answer| about_ssh(answer).len() >= count).await;
    about_ssh(&answer)
}

async fn figure(yard: &Yard, line: &str) {
    let figures = Client::new(yard.metrics_address(), None);
    let shown = async {
        loop {
            if figures.get("/metrics").await.text().lines().any(|found| found == line) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, shown).await.unwrap_or_else(|_| panic!("no {line}"));
}

/// What a client that is sent away before anything is negotiated reads: our version, and the text of a disconnect.
async fn sent_away(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connect");
    let all = rest(&mut stream).await;
    String::from_utf8_lossy(&all).into_owned()
}

async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    // A reset is an end too.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut all)).await.expect("the server closes the connection");
    all
}

#[tokio::test]
async fn a_key_of_the_account_opens_its_boxes_by_id_and_by_name() {
    let yard = door_with(|config| config.metrics = Some(SocketAddr::from(([127, 0, 0, 1], 0)))).await;
    let client = yard.client();
    let id = client.post("/v2/box", json!({"name": "dev"})).await.json()["id"].as_str().expect("an id").to_owned();
    let (mut by_id, mut by_name) = (yard.ssh().await, yard.ssh().await);
    assert_eq!(by_id.password(&id, KEY).await, AuthResult::Success);
    assert_eq!(by_name.password("dev", KEY).await, AuthResult::Success);
    let (_, other) = keys::create_key(&yard.store().await, "default", None).await.expect("make a key");
    assert_eq!(yard.login(&id, other.expose()).await, AuthResult::Success, "any key of the account");
    assert_eq!(log(&client, &id, 3).await, ["SSH login by password from 127.0.0.1"; 3]);
    figure(&yard, "boxyard_ssh_sessions 2").await;
    figure(&yard, "boxyard_ssh_logins_total{method=\"password\"} 3").await;
    drop((by_id, by_name));
    figure(&yard, "boxyard_ssh_connections 0").await;
    figure(&yard, "boxyard_ssh_sessions 0").await;
}

#[tokio::test]
async fn whatever_is_wrong_the_answer_is_the_same() {
    let yard = door_with(|config| config.limits.ssh_failures_per_minute = 100).await;
    let (client, stranger) = (yard.client(), yard.stranger().await);
    let id = client.post("/v2/box", json!({"name": "mine"})).await.json()["id"].as_str().expect("an id").to_owned();
    let theirs = stranger.post("/v2/box", json!({"name": "theirs"})).await.json();
    let theirs = theirs["id"].as_str().expect("an id").to_owned();
    let deleted = client.new_box().await;
    client.delete(&format!("/v2/box/{deleted}")).await;
    let long = "x".repeat(100_000);
    for (user, password) in [
        (id.as_str(), "box_wrong"),
        (&id, ""),
        (&id, &long),
        ("no-such-00000", KEY),
        ("no-such-00000", "box_wrong"),
        ("nothing", KEY),
        ("", KEY),
        (&long, KEY),
        ("mine\0", KEY),
        (&theirs, KEY),
        ("theirs", KEY),
        (&deleted, KEY),
    ] {
        assert_eq!(yard.login(user, password).await, refused(), "{}", &user[..user.len().min(20)]);
    }
    let key = PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519).expect("a key");
    for user in [id.as_str(), "mine", "nothing", &theirs] {
        assert_eq!(yard.ssh().await.key(user, &key).await, refused());
    }
    let mut without = yard.ssh().await;
    assert_eq!(without.handle.authenticate_none(&*id).await.expect("an answer"), refused());
    assert_eq!(without.password(&id, KEY).await, AuthResult::Success, "until the right key comes");
    let mut told = log(&client, &id, 5).await;
    told.sort_unstable();
    assert_eq!(told[0], "SSH login by password from 127.0.0.1");
    assert_eq!(told[1..4], ["SSH login by password refused from 127.0.0.1"; 3]);
    assert_eq!(told[4], "SSH login by publickey refused from 127.0.0.1");
    let theirs = log(&stranger, &theirs, 2).await;
    assert!(theirs.iter().all(|line| line.contains("refused")), "{theirs:?}");
}

#[tokio::test]
async fn no_secret_reaches_a_log() {
    let yard = door_with(|_| {}).await;
    let client = yard.client();
    let id = client.new_box().await;
    yard.login(&id, "box_secret-of-somebody").await;
    yard.login(&id, KEY).await;
    let told = log(&client, &id, 2).await.join("\n");
    assert!(!told.contains("secret") && !told.contains(KEY), "{told}");
}

#[tokio::test]
async fn a_key_that_was_revoked_opens_nothing() {
    let yard = door_with(|_| {}).await;
    let id = yard.client().new_box().await;
    let store = yard.store().await;
    let (key_id, key) = keys::create_key(&store, "default", None).await.expect("make a key");
    assert_eq!(yard.login(&id, key.expose()).await, AuthResult::Success);
    store.revoke_key(key_id, 1).await.expect("revoke");
    assert_eq!(yard.login(&id, key.expose()).await, refused());
}

#[tokio::test]
async fn after_too_many_refusals_the_connection_ends() {
    let yard = door_with(|config| config.limits.ssh_failures_per_minute = 100).await;
    let id = yard.client().new_box().await;
    let mut ssh = yard.ssh().await;
    for _ in 0..12 {
        assert_eq!(ssh.password(&id, "box_wrong").await, refused());
    }
    let _ = ssh.handle.authenticate_password(&*id, KEY).await;
    assert_eq!(ssh.farewell().await.as_deref(), Some("Too many authentication attempts"));
}

#[tokio::test]
async fn an_address_that_fails_too_often_is_sent_away() {
    let yard = door_with(|config| {
        config.limits.ssh_failures_per_minute = 3;
        config.metrics = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
    })
    .await;
    let id = yard.client().new_box().await;
    let mut ssh = yard.ssh().await;
    for _ in 0..3 {
        assert_eq!(ssh.password(&id, "box_wrong").await, refused());
    }
    assert_eq!(ssh.password(&id, KEY).await, refused(), "not even looked at");
    let said = sent_away(yard.ssh_address()).await;
    assert!(said.starts_with("SSH-2.0-boxyard\r\n"), "{said:?}");
    assert!(said.contains("too many failed logins from your address; try again in 60 s"), "{said:?}");
    figure(&yard, "boxyard_ssh_login_failures_total{reason=\"throttled\"} 1").await;
    figure(&yard, "boxyard_ssh_login_failures_total{reason=\"unknown\"} 3").await;
    figure(&yard, "boxyard_ssh_refused_total{reason=\"throttled\"} 1").await;
}

#[tokio::test]
async fn an_account_that_is_tried_too_often_stays_open_to_addresses_it_knows() {
    let yard = door_with(|config| {
        config.limits.ssh_failures_per_minute = 100;
        config.limits.ssh_account_failures_per_minute = 2;
    })
    .await;
    let client = yard.client();
    let (known, id) = (client.new_box().await, client.new_box().await);
    for _ in 0..2 {
        assert_eq!(yard.login(&id, "box_wrong").await, refused());
    }
    assert_eq!(yard.login(&id, KEY).await, refused(), "nobody has logged in from here before");
    // By name nobody knows whose box is meant until the key is looked up.
    let stranger = yard.stranger().await;
    let theirs = stranger.new_box().await;
    assert_eq!(yard.login(&theirs, KEY).await, refused());
    assert_eq!(log(&stranger, &theirs, 1).await.len(), 1);
    drop(known);

    let yard = door_with(|config| {
        config.limits.ssh_failures_per_minute = 100;
        config.limits.ssh_account_failures_per_minute = 2;
    })
    .await;
    let id = yard.client().new_box().await;
    assert_eq!(yard.login(&id, KEY).await, AuthResult::Success);
    for _ in 0..3 {
        assert_eq!(yard.login(&id, "box_wrong").await, refused());
    }
    assert_eq!(yard.login(&id, KEY).await, AuthResult::Success);
}

#[tokio::test]
async fn an_address_is_sent_away_as_soon_for_a_box_whose_account_is_being_tried_as_for_none() {
    for there in [true, false] {
        let yard = door_with(|config| {
            config.limits.ssh_failures_per_minute = 5;
            config.limits.ssh_account_failures_per_minute = 2;
        })
        .await;
        let mut id = yard.client().new_box().await;
        if !there {
            yard.client().delete(&format!("/v2/box/{id}")).await;
            id = "current-wasp-05510".into();
        }
        for _ in 0..5 {
            assert_eq!(yard.login(&id, "box_wrong").await, refused());
        }
        let said = sent_away(yard.ssh_address()).await;
        assert!(said.contains("too many failed logins from your address"), "{there}: {said:?}");
    }
}

#[tokio::test]
async fn silence_has_its_time() {
    let yard = door_with(|config| config.limits.ssh_login_time = Duration::from_millis(300)).await;
    let id = yard.client().new_box().await;
    // One says nothing, one its version only, one has done all but log in, one has.
    let mut silent = TcpStream::connect(yard.ssh_address()).await.expect("connect");
    let mut half = TcpStream::connect(yard.ssh_address()).await.expect("connect");
    half.write_all(b"SSH-2.0-half\r\n").await.expect("send");
    let idle = yard.ssh().await;
    let mut inside = yard.ssh().await;
    assert_eq!(inside.password(&id, KEY).await, AuthResult::Success);
    assert_eq!(rest(&mut silent).await, b"SSH-2.0-boxyard\r\n");
    assert!(rest(&mut half).await.starts_with(b"SSH-2.0-boxyard\r\n"));
    assert_eq!(idle.farewell().await, None);
    assert!(!inside.handle.is_closed());
    inside.handle.send_ping().await.expect("it is there after the others have gone");
}

#[tokio::test]
async fn nonsense_is_refused_without_harm() {
    let yard = door_with(|_| {}).await;
    let id = yard.client().new_box().await;
    let text = vec![b'x'; 64 * 1024];
    let mut version = b"SSH-2.0-".to_vec();
    version.extend(&text);
    let mut huge = b"SSH-2.0-x\r\n".to_vec();
    huge.extend([0xff; 4096]);
    for nonsense in
        [b"GET / HTTP/1.1\r\n\r\n".as_slice(), b"\0\x01\x02\r\n", b"SSH-1.5-old\r\n", &text, &version, &huge]
    {
        let mut stream = TcpStream::connect(yard.ssh_address()).await.expect("connect");
        // The server may close while we still send.
        let _ = stream.write_all(nonsense).await;
        assert!(rest(&mut stream).await.starts_with(b"SSH-2.0-boxyard\r\n"));
    }
    assert_eq!(yard.login(&id, KEY).await, AuthResult::Success);
}

#[tokio::test]
async fn every_limit_is_told_clearly() {
    let yard = door_with(|config| config.limits.ssh_unauthenticated = 4).await;
    let id = yard.client().new_box().await;
    let (mut first, _second) = (yard.ssh().await, yard.ssh().await);
    assert!(sent_away(yard.ssh_address()).await.contains("too many clients are logging in; try again in a moment"));
    assert_eq!(first.password(&id, KEY).await, AuthResult::Success);
    let _third = yard.ssh().await;

    let yard = door_with(|config| config.limits.ssh_connections_per_address = 1).await;
    let first = yard.ssh().await;
    assert!(sent_away(yard.ssh_address()).await.contains("too many SSH connections from your address"));
    drop(first);
    let again = async {
        while Ssh::to(yard.ssh_address()).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, again).await.expect("the place comes back");

    let yard = door_with(|config| config.limits.ssh_connections = 1).await;
    let _first = yard.ssh().await;
    assert!(sent_away(yard.ssh_address()).await.contains("as many SSH connections as it takes"));

    let yard = door_with(|config| config.limits.ssh_connections_per_box = 1).await;
    let client = yard.client();
    let (id, other) = (client.new_box().await, client.new_box().await);
    let (mut first, mut second, mut third) = (yard.ssh().await, yard.ssh().await, yard.ssh().await);
    assert_eq!(first.password(&id, KEY).await, AuthResult::Success);
    assert_eq!(second.password(&id, KEY).await, AuthResult::Success, "the key is right");
    let said = second.farewell().await;
    assert_eq!(said.as_deref(), Some("too many SSH connections to this box; close some first"));
    assert_eq!(third.password(&other, KEY).await, AuthResult::Success);
}

#[tokio::test]
async fn the_host_key_stays_and_is_what_is_shown() {
    let mut yard = door_with(|_| {}).await;
    let seen = |ssh: Ssh| ssh.eyes.0.host_key.lock().expect("whole").clone().expect("a key");
    let first = seen(yard.ssh().await);
    yard.restart().await;
    assert_eq!(seen(yard.ssh().await), first);
    let shown = host_keys::read(yard.folder()).expect("keys");
    assert_eq!(shown[0].fingerprint, first);
    assert_eq!(shown[0].algorithm, "ssh-ed25519");
    assert!(seen_with(&yard, Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 }).await.is_none());

    let yard = door_with(|config| config.ssh_ecdsa = true).await;
    let shown = host_keys::read(yard.folder()).expect("keys");
    let ecdsa = seen_with(&yard, Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 }).await;
    assert_eq!(ecdsa.as_ref(), Some(&shown[1].fingerprint));
    assert_eq!(seen(yard.ssh().await), shown[0].fingerprint, "Ed25519 goes first");
}

/// The host key that a client sees that knows this algorithm only.
async fn seen_with(yard: &Yard, algorithm: Algorithm) -> Option<String> {
    let eyes = Eyes::default();
    let preferred = russh::Preferred { key: vec![algorithm].into(), ..russh::Preferred::DEFAULT };
    let config = client::Config { preferred, ..client::Config::default() };
    client::connect(Arc::new(config), yard.ssh_address(), eyes.clone()).await.ok()?;
    eyes.0.host_key.lock().expect("whole").take()
}

#[tokio::test]
async fn a_stopping_server_tells_its_clients_and_listens_again_at_once() {
    let mut yard = door_with(|config| config.limits.ssh_shutdown_grace = Duration::from_millis(100)).await;
    let id = yard.client().new_box().await;
    let (mut inside, waiting) = (yard.ssh().await, yard.ssh().await);
    assert_eq!(inside.password(&id, KEY).await, AuthResult::Success);
    let address = yard.ssh_address();
    yard.begin_stop();
    assert_eq!(waiting.farewell().await, None, "who has not logged in is not waited for");
    assert_eq!(inside.farewell().await.as_deref(), Some("the server is shutting down"));
    yard.down().await;
    assert!(TcpStream::connect(address).await.is_err());
    yard.change(|config| config.ssh = Some(address));
    yard.up().await;
    assert_eq!(yard.ssh_address(), address);
    assert_eq!(yard.login(&id, KEY).await, AuthResult::Success);
}

/// A connection to the server whose client can be frozen, as a stopped process is: its socket stays open and nobody reads it.
async fn freezable(yard: &Yard) -> (Ssh, CancellationToken, JoinHandle<TcpStream>) {
    let mut socket = TcpStream::connect(yard.ssh_address()).await.expect("connect");
    let (near, mut far) = tokio::io::duplex(64 * 1024);
    let freeze = CancellationToken::new();
    let frozen = tokio::spawn({
        let freeze = freeze.clone();
        async move {
            freeze.run_until_cancelled(tokio::io::copy_bidirectional(&mut far, &mut socket)).await;
            socket
        }
    });
    let eyes = Eyes::default();
    // More than the kernel's buffers hold, so that the server's writes wait for a frozen client.
    let config = Arc::new(client::Config { window_size: 256 << 20, ..client::Config::default() });
    let handle = client::connect_stream(config, near, eyes.clone()).await.expect("a connection");
    (Ssh { handle, eyes }, freeze, frozen)
}

#[tokio::test]
async fn a_client_that_does_not_take_its_goodbye_is_cut() {
    let mut yard = door_with(|config| config.limits.ssh_shutdown_grace = Duration::ZERO).await;
    let id = yard.client().new_box().await;
    let (mut inside, freeze, frozen) = freezable(&yard).await;
    assert_eq!(inside.password(&id, KEY).await, AuthResult::Success);
    freeze.cancel();
    let mut socket = frozen.await.expect("no panic");
    yard.down().await;
    assert!(!rest(&mut socket).await.is_empty(), "it was told, had it listened");
}

#[tokio::test]
async fn a_client_that_reads_nothing_does_not_stay_in_a_box_that_was_deleted() {
    let yard = door_with(|config| config.metrics = Some(SocketAddr::from(([127, 0, 0, 1], 0)))).await;
    let client = yard.client();
    let id = client.new_box().await;
    let (mut inside, freeze, frozen) = freezable(&yard).await;
    assert_eq!(inside.password(&id, KEY).await, AuthResult::Success);
    let mut channel = inside.handle.channel_open_session().await.expect("a channel");
    channel.exec(false, "yes 200000000").await.expect("a connection");
    while !matches!(channel.wait().await, Some(russh::ChannelMsg::Data { .. })) {}
    freeze.cancel();
    let _socket = frozen.await.expect("no panic");
    assert_eq!(client.delete(&format!("/v2/box/{id}")).await.status, StatusCode::OK);
    figure(&yard, "boxyard_ssh_sessions 0").await;
    figure(&yard, "boxyard_ssh_connections 0").await;
}

#[tokio::test]
async fn a_client_that_leaves_without_a_word_is_not_waited_for() {
    let yard = door_with(|config| config.metrics = Some(SocketAddr::from(([127, 0, 0, 1], 0)))).await;
    let id = yard.client().new_box().await;
    let (mut inside, freeze, frozen) = freezable(&yard).await;
    assert_eq!(inside.password(&id, KEY).await, AuthResult::Success);
    figure(&yard, "boxyard_ssh_sessions 1").await;
    freeze.cancel();
    drop(frozen.await.expect("no panic"));
    figure(&yard, "boxyard_ssh_sessions 0").await;
    figure(&yard, "boxyard_ssh_connections 0").await;
}

#[tokio::test]
async fn without_the_door_there_is_none() {
    let yard = Yard::start().await;
    assert_eq!(yard.client().get("/healthz").await.status, StatusCode::OK);
    assert!(!yard.has_ssh());
}

#[tokio::test]
async fn hundreds_of_connections_leave_nothing_behind() {
    let yard = door_with(|config| {
        config.metrics = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
        config.limits.ssh_connections_per_address = 1000;
    })
    .await;
    let id = yard.client().new_box().await;
    for round in 0..5 {
        let mut open = Vec::new();
        for _ in 0..20 {
            let mut ssh = yard.ssh().await;
            if round % 2 == 0 {
                assert_eq!(ssh.password(&id, KEY).await, AuthResult::Success);
            }
            open.push(ssh);
        }
        if round == 4 {
            for ssh in open {
                ssh.handle.disconnect(Disconnect::ByApplication, "", "").await.expect("say goodbye");
            }
        }
    }
    figure(&yard, "boxyard_ssh_connections 0").await;
    figure(&yard, "boxyard_ssh_sessions 0").await;
}
