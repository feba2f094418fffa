//! Connections: slow, half-open, too many, and what becomes of them when the server stops.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::{KEY, PATIENCE, Yard};

async fn connect(yard: &Yard) -> TcpStream {
    TcpStream::connect(yard.address()).await.expect("connect")
}

/// Reads until the server closes.
async fn rest(stream: &mut TcpStream) -> String {
    let mut all = Vec::new();
    // A reset is an end too.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut all)).await.expect("the server closes the connection");
    String::from_utf8_lossy(&all).into_owned()
}

async fn ask(stream: &mut TcpStream, head: &str) -> String {
    stream.write_all(head.as_bytes()).await.expect("send");
    let mut answer = vec![0; 4096];
    let length = timeout(PATIENCE, stream.read(&mut answer)).await.expect("an answer in time").expect("an answer");
    String::from_utf8_lossy(&answer[..length]).into_owned()
}

#[tokio::test]
async fn slow_and_silent_clients_are_let_go() {
    let yard = Yard::with(|config| config.limits.header_timeout = Duration::from_millis(100)).await;
    let mut silent = connect(&yard).await;
    let mut slow = connect(&yard).await;
    slow.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-slow: ").await.expect("send");
    let mut idle = connect(&yard).await;
    assert!(ask(&mut idle, "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.starts_with("HTTP/1.1 200"));
    for stream in [&mut silent, &mut slow, &mut idle] {
        assert!(!rest(stream).await.contains("200 OK"));
    }
    assert_eq!(yard.client().get("/v2/box").await.status, StatusCode::OK);
}

#[tokio::test]
async fn one_connection_serves_many_requests() {
    let yard = Yard::start().await;
    let mut stream = connect(&yard).await;
    for _ in 0..5 {
        assert!(ask(&mut stream, "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.starts_with("HTTP/1.1 200"));
    }
}

#[tokio::test]
async fn nonsense_is_refused_without_harm() {
    let yard = Yard::start().await;
    for nonsense in [
        "\u{1}\u{2}\u{3}\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        &format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(1_000_000)),
    ] {
        let mut stream = connect(&yard).await;
        // The server may close while we still send.
        let _ = stream.write_all(nonsense.as_bytes()).await;
        let _ = stream.shutdown().await;
        let answer = rest(&mut stream).await;
        assert!(!answer.contains("200 OK"), "{answer}");
    }
    assert_eq!(yard.client().get("/v2/box").await.status, StatusCode::OK);
}

#[tokio::test]
async fn half_open_clients_hold_nothing() {
    let yard = Yard::with(|config| config.limits.connections = 2).await;
    let client = yard.client();
    let id = client.new_box().await;
    drop(client);
    for _ in 0..10 {
        let body = json!({"command": ["gate", "never"]}).to_string();
        let mut stream = connect(&yard).await;
        let head = format!(
            "POST /v2/box/{id}/exec HTTP/1.1\r\nhost: x\r\nx-box-api-key: {KEY}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.expect("send");
        stream.shutdown().await.expect("say that there is no more");
        rest(&mut stream).await;
    }
    assert_eq!(yard.client().get("/v2/box").await.status, StatusCode::OK);
}

#[tokio::test]
async fn connections_over_the_cap_wait_their_turn() {
    let yard = Yard::with(|config| config.limits.connections = 1).await;
    let mut first = connect(&yard).await;
    assert!(ask(&mut first, "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.starts_with("HTTP/1.1 200"));
    let mut second = connect(&yard).await;
    second.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.expect("send");
    drop(first);
    assert!(rest(&mut second).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_stopping_server_finishes_what_is_under_way() {
    let mut yard = Yard::with(|config| config.limits.shutdown_grace = PATIENCE).await;
    let client = yard.client();
    let id = client.new_box().await;
    let under_way = tokio::spawn({
        let (client, id) = (client.clone(), id.clone());
        async move { client.sh(&id, "gate last; echo done").await }
    });
    yard.engine.came_to("last", 1).await;
    yard.begin_stop();
    // Nothing new is accepted: the socket is gone, or not accepted from.
    while TcpStream::connect(yard.address()).await.is_ok() {
        tokio::task::yield_now().await;
    }
    yard.engine.open("last");
    assert_eq!(under_way.await.expect("no panic")["output"], "done\n");
    yard.down().await;
}

#[tokio::test]
async fn requests_have_ids() {
    let yard = Yard::start().await;
    let (a, b) = (yard.client().get("/healthz").await, yard.client().get("/v2/none").await);
    assert_ne!(a.header("x-request-id").expect("an id"), b.header("x-request-id").expect("an id"));
}
