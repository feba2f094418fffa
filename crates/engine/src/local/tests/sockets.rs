//! Sockets in boxes through the client that the server uses.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use boxyard_proto::wire::{Endpoint, FailedKind, User};

use super::yard::Yard;
use crate::agent::{self, AgentError, Socket};

fn tcp(host: &str, port: u16) -> Endpoint {
    Endpoint::Tcp { host: host.into(), port }
}

async fn rest(socket: &mut Socket) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(piece) = socket.next().await.unwrap() {
        bytes.extend_from_slice(&piece);
    }
    bytes
}

fn refusal<T>(result: Result<T, AgentError>) -> (FailedKind, String) {
    match result {
        Err(AgentError::Refused { kind, message }) => (kind, message),
        Err(other) => panic!("{other:?} instead of a refusal"),
        Ok(_) => panic!("a socket instead of a refusal"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_are_dialled_listened_on_and_accepted() {
    let hosts = BTreeMap::from([("loop.test".to_owned(), Ipv4Addr::LOCALHOST)]);
    let yard = Yard::open_with(|config| config.dns_hosts = hosts).await;
    let id = yard.make().await;
    let engine = &yard.engine;
    let mut listener = agent::listen(engine, &id, tcp("*", 0), User::BOXUSER).await.unwrap();
    assert_eq!(listener.host(), "0.0.0.0");
    // By its address, by its own name, which the box's files know, and by one that only the name server knows.
    for host in ["127.0.0.1", "localhost", id.as_str(), "loop.test"] {
        let mut dialled = agent::dial(engine, &id, tcp(host, listener.port()), User::BOXUSER).await.unwrap();
        let incoming = listener.next().await.unwrap();
        let mut accepted = agent::accept(engine, &id, incoming.connection).await.unwrap();
        let sent = host.repeat(100_000).into_bytes();
        let (there, back) = (dialled.control(), accepted.control());
        let ((), seen) = tokio::join!(
            async {
                there.input(&sent).await.unwrap();
                there.end_input().await.unwrap();
            },
            rest(&mut accepted)
        );
        assert!(seen == sent, "{host}");
        back.input(b"thanks").await.unwrap();
        back.end_input().await.unwrap();
        assert_eq!(rest(&mut dialled).await, b"thanks");
        dialled.closed().await;
        accepted.closed().await;
        let again = agent::accept(engine, &id, incoming.connection).await;
        assert_eq!(refusal(again).0, FailedKind::NotFound);
    }
    let port = listener.port();
    drop(listener);
    let unknown = agent::dial(engine, &id, tcp("nobody.invalid", 80), User::BOXUSER).await;
    assert_eq!(refusal(unknown), (FailedKind::NotFound, "nobody.invalid: name or service not known".into()));
    // The listener goes in the box a moment after its connection.
    loop {
        match agent::dial(engine, &id, tcp("127.0.0.1", port), User::BOXUSER).await {
            Ok(_) => {}
            refused => {
                assert_eq!(refusal(refused), (FailedKind::NotFound, "connection refused".into()));
                break;
            }
        }
    }
    let agent = agent::listen(engine, &id, Endpoint::AgentSocket, User::BOXUSER).await.unwrap();
    let seen = yard.sh(&id, &format!("stat -c '%u %a' $(dirname {0}) {0}", agent.host())).await;
    assert_eq!(seen.out, "1000 700\n1000 600\n", "{seen:?}");
    drop(agent);
    yard.close().await;
}
