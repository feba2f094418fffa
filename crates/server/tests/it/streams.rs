//! `exec-stream`: raw bytes, then one block.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{KEY, PATIENCE, Yard, parts};

fn body(script: &str) -> Value {
    json!({"command": ["sh", "-c", script]})
}

#[tokio::test]
async fn output_ends_with_a_newline_and_the_block_is_one_chunk() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let path = format!("/v2/box/{id}/exec-stream");
    for (script, output, code) in [
        ("printf abc", "abc\n", 0),
        ("echo abc", "abc\n", 0),
        ("true", "", 0),
        ("exit 7", "", 7),
        ("echo a; stderr b; echo c; exit 2", "a\nb\nc\n", 2),
    ] {
        let (headers, chunks) = client.stream(&path, body(script)).await;
        assert_eq!(headers["content-type"], "text/event-stream");
        assert!(headers.contains_key("x-box-run-id"));
        let found = parts(&chunks);
        assert_eq!(found.output, output.as_bytes(), "{script}");
        assert_eq!((found.event, found.data), ("exit", json!({"exit_code": code, "cpu_ns": 1_000_000})), "{script}");
    }
}

/// Reads an answer's chunks as they were sent, whatever the network did with them.
async fn raw_chunks(yard: &Yard, path: &str, body: &str) -> (String, Vec<Vec<u8>>) {
    let mut stream = TcpStream::connect(yard.address()).await.expect("connect");
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\nx-box-api-key: {KEY}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.expect("send");
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.expect("read");
    let head = all.windows(4).position(|window| window == b"\r\n\r\n").expect("a head");
    let (head, mut rest) = (String::from_utf8_lossy(&all[..head]).into_owned(), &all[head + 4..]);
    let mut chunks = Vec::new();
    loop {
        let end = rest.windows(2).position(|window| window == b"\r\n").expect("a chunk's length");
        let length = usize::from_str_radix(str::from_utf8(&rest[..end]).expect("text"), 16).expect("a number");
        if length == 0 {
            return (head, chunks);
        }
        chunks.push(rest[end + 2..end + 2 + length].to_vec());
        rest = &rest[end + 2 + length + 2..];
    }
}

#[tokio::test]
async fn the_block_is_never_split_over_chunks() {
    let yard = Yard::start().await;
    let id = yard.client().new_box().await;
    for script in ["printf abc", "yes 3000001", "true"] {
        let path = format!("/v2/box/{id}/exec-stream");
        let (head, chunks) = raw_chunks(&yard, &path, &body(script).to_string()).await;
        assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
        let last = String::from_utf8_lossy(chunks.last().expect("a chunk")).into_owned();
        let block = last.trim_start_matches('\n');
        assert!(block.starts_with("event: exit\ndata: {") && block.ends_with("}\n\n"), "{script}: {last:?}");
    }
}

#[tokio::test]
async fn the_head_and_each_piece_come_at_once() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let request = client.request(Method::POST, &format!("/v2/box/{id}/exec-stream"));
    let script = "gate first; echo one; gate second; echo two; gate third";
    let mut response = request.json(&body(script)).send().await.expect("the head comes before any output");
    let run = response.headers()["x-box-run-id"].to_str().expect("text").to_owned();
    for (gate, output) in [("first", &b"one\n"[..]), ("second", b"two\n")] {
        yard.engine.came_to(gate, 1).await;
        yard.engine.open(gate);
        let chunk = response.chunk().await.expect("a chunk").expect("more output");
        assert_eq!(chunk, output, "no heartbeats, nothing held back");
    }
    assert_eq!(client.run(&id, &run).await["status"], "running");
    yard.engine.open("third");
    let last = response.chunk().await.expect("a chunk").expect("the last block");
    assert!(last.starts_with(b"event: exit\n"), "{last:?}");
}

#[tokio::test]
async fn any_amount_of_any_bytes_comes_through() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let path = format!("/v2/box/{id}/exec-stream");
    let (_, chunks) = client.stream(&path, json!({"command": ["yes", "50000000"]})).await;
    let found = parts(&chunks);
    assert_eq!(found.output.len(), 50_000_000);
    assert!(found.output.chunks(2).all(|line| line == b"y\n"));
    let (_, chunks) = client.stream(&path, json!({"command": ["bytes", "00", "ff", "c3", "28", "0a"]})).await;
    assert_eq!(parts(&chunks).output, [0, 0xff, 0xc3, 0x28, 0x0a]);
}

#[tokio::test]
async fn what_cannot_start_is_an_error_block() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let missing = json!({"command": ["true"], "folder": "nowhere"});
    let (_, chunks) = client.stream(&format!("/v2/box/{id}/exec-stream"), missing).await;
    let found = parts(&chunks);
    assert_eq!((found.event, found.output.len()), ("error", 0));
    assert_eq!(found.data, json!({"error": "folder '/workspace/home/nowhere' does not exist in the box"}));
    let empty = json!({"command": []});
    client.refused(Method::POST, &format!("/v2/box/{id}/exec-stream"), empty, StatusCode::BAD_REQUEST, "command").await;
}

#[tokio::test]
async fn a_program_goes_on_when_the_reader_leaves() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let request = client.request(Method::POST, &format!("/v2/box/{id}/exec-stream"));
    let response = request.json(&body("echo begun; gate go; yes 30000000; exit 5")).send().await.expect("a head");
    let run = response.headers()["x-box-run-id"].to_str().expect("text").to_owned();
    yard.engine.came_to("go", 1).await;
    drop(response);
    yard.engine.open("go");
    let ended = client.until(&format!("/v2/box/{id}/runs/{run}"), |run| run["status"] != "running").await;
    assert_eq!(ended["status"], "failed");
}

#[tokio::test]
async fn a_slow_reader_slows_the_program_and_can_cancel_it() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let request = client.request(Method::POST, &format!("/v2/box/{id}/exec-stream"));
    let command = json!({"command": ["sh", "-c", "yes 500000000; gate written"]});
    let mut response = request.json(&command).send().await.expect("a head");
    let run = response.headers()["x-box-run-id"].to_str().expect("text").to_owned();
    response.chunk().await.expect("a chunk").expect("output");
    // Nobody reads on: half a gigabyte cannot have gone anywhere.
    assert_eq!(client.run(&id, &run).await["status"], "running");
    let cancel = client.post(&format!("/v2/box/{id}/runs/{run}/cancel"), json!({})).await;
    assert_eq!(cancel.status, StatusCode::OK, "{cancel:?}");
    assert_eq!(client.run(&id, &run).await["status"], "cancelled");
    let read = async { while response.chunk().await.is_ok_and(|chunk| chunk.is_some()) {} };
    tokio::time::timeout(PATIENCE, read).await.expect("the stream ends");
    assert!(yard.engine.jobs(&crate::support::box_id(&id)).is_empty());
}
