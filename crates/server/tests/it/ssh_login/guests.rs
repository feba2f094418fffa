//! Those who are not logged in: what they may take, and how keys are exchanged with them.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use russh::client::{self, AuthResult};
use russh::{Preferred, kex};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::{Eyes, Ssh, door_with, rest};
use crate::support::{KEY, PATIENCE};

/// Connects from another address of the loopback, which has many.
async fn from(last: u8, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::from(([127, 0, 0, last], 0))).expect("an address of the loopback");
    socket.connect(to).await.expect("connect")
}

/// A client that knows only this way to exchange keys.
async fn with_only(kex: kex::Name, address: SocketAddr) -> Result<Ssh, russh::Error> {
    let preferred = Preferred { kex: Cow::Owned(vec![kex]), ..Preferred::DEFAULT };
    let (eyes, config) = (Eyes::default(), client::Config { preferred, ..client::Config::default() });
    let handle = client::connect(Arc::new(config), address, eyes.clone()).await?;
    Ok(Ssh { handle, eyes })
}

#[tokio::test]
async fn silent_addresses_lose_their_places_to_those_who_come_to_log_in() {
    let yard = door_with(|config| {
        config.limits.ssh_unauthenticated = 4;
        config.limits.ssh_login_time = Duration::from_secs(3600);
    })
    .await;
    let id = yard.client().new_box().await;
    // One has gone as far as to the login, and three say nothing.
    let eyes = Eyes::default();
    let stream = from(2, yard.ssh_address()).await;
    let handle = client::connect_stream(Arc::default(), stream, eyes.clone()).await.expect("a connection");
    let (talking, mut silent) = (Ssh { handle, eyes }, Vec::new());
    for last in [3, 3, 2] {
        silent.push(from(last, yard.ssh_address()).await);
    }
    for _ in 0..2 {
        assert_eq!(yard.login(&id, KEY).await, AuthResult::Success);
    }
    let _third = from(4, yard.ssh_address()).await;
    let _fourth = from(4, yard.ssh_address()).await;
    let said = talking.farewell().await;
    assert_eq!(said.as_deref(), Some("too many clients are logging in; try again in a moment"));
    assert_eq!(rest(&mut silent[0]).await, b"SSH-2.0-boxyard\r\n");
    assert_eq!(yard.login(&id, KEY).await, AuthResult::Success);
}

#[tokio::test]
async fn an_address_whose_connections_end_without_a_login_is_sent_away() {
    let yard = door_with(|config| config.limits.ssh_idlers_per_minute = 5).await;
    let id = yard.client().new_box().await;
    for _ in 0..10 {
        assert_eq!(yard.login(&id, KEY).await, AuthResult::Success, "those who log in are welcome");
    }
    let coming = async {
        loop {
            let mut stream = from(2, yard.ssh_address()).await;
            stream.write_all(b"bye\r\n").await.expect("send");
            let said = String::from_utf8_lossy(&rest(&mut stream).await).into_owned();
            if said.contains("try again in") {
                return;
            }
        }
    };
    timeout(PATIENCE, coming).await.expect("it is sent away");
    assert_eq!(yard.login(&id, KEY).await, AuthResult::Success, "others are not");
}

#[tokio::test]
async fn a_client_that_only_ever_begins_is_not_listened_to_for_long() {
    let yard = door_with(|config| config.limits.ssh_login_time = Duration::from_secs(3600)).await;
    let mut stream = TcpStream::connect(yard.ssh_address()).await.expect("connect");
    stream.write_all(b"SSH-2.0-talker\r\n").await.expect("send");
    // SSH_MSG_IGNORE with 1000 bytes: length, padding length, type, length of the string.
    let mut packet = vec![0; 4 + 1 + 1 + 4 + 1000 + 10];
    packet[..10].copy_from_slice(&[0, 0, 3, 0xf8, 10, 2, 0, 0, 3, 0xe8]);
    let talking = async { while stream.write_all(&packet).await.is_ok() {} };
    timeout(PATIENCE, talking).await.expect("the server closes the connection");
}

#[tokio::test]
async fn an_operator_decides_whether_keys_are_exchanged_by_curves_alone() {
    let yard = door_with(|_| {}).await;
    let id = yard.client().new_box().await;
    for kex in [kex::MLKEM768X25519_SHA256, kex::CURVE25519, kex::CURVE25519_PRE_RFC_8731] {
        let mut ssh = with_only(kex, yard.ssh_address()).await.expect("a connection");
        assert_eq!(ssh.password(&id, KEY).await, AuthResult::Success, "{kex:?}");
    }
    let yard = door_with(|config| config.ssh_post_quantum_only = true).await;
    let id = yard.client().new_box().await;
    let mut ssh = with_only(kex::MLKEM768X25519_SHA256, yard.ssh_address()).await.expect("a connection");
    assert_eq!(ssh.password(&id, KEY).await, AuthResult::Success);
    for kex in [kex::CURVE25519, kex::CURVE25519_PRE_RFC_8731] {
        assert!(with_only(kex, yard.ssh_address()).await.is_err(), "{kex:?}");
    }
}
