//! Requests that are wrong, and what they are told.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{KEY, Yard};

#[tokio::test]
async fn boxes_are_made_of_checked_parts() {
    let yard = Yard::start().await;
    let client = yard.client();
    let labels = |count: usize| (0..count).map(|n| format!("l{n}")).collect::<Vec<_>>();
    let vars = |count: usize| {
        (0..count).map(|n| (format!("V{n}"), "x".to_owned())).collect::<std::collections::BTreeMap<_, _>>()
    };
    for (body, text) in [
        (json!({"name": ""}), "name must have 1 to 63"),
        (json!({"name": "x".repeat(64)}), "name must have 1 to 63"),
        (json!({"name": "a b"}), "name may contain"),
        (json!({"name": "a/b"}), "name may contain"),
        (json!({"name": "snapshots"}), "reserved"),
        (json!({"name": "sweet-shark-26021"}), "must not have the form of a box id"),
        (json!({"name": 5}), "field 'name'"),
        (json!({"labels": labels(6)}), "at most 5 labels"),
        (json!({"labels": ["x".repeat(21)]}), "1 to 20 characters"),
        (json!({"labels": "a"}), "field 'labels'"),
        (json!({"labels": [1]}), "field 'labels'"),
        (json!({"size": "huge"}), "size must be one of small, medium, large"),
        (json!({"size": 1}), "field 'size'"),
        (json!({"runtime": "cobol"}), "runtime must be one of node, python"),
        (json!({"env_vars": {"PATH": "/x"}}), "PATH cannot be set"),
        (json!({"env_vars": {"LD_PRELOAD": "/x"}}), "LD_PRELOAD cannot be set"),
        (json!({"env_vars": {"A-B": "x"}}), "not a variable name"),
        (json!({"env_vars": {"A": "x\u{0}"}}), "NUL"),
        (json!({"env_vars": {"A": 1}}), "field 'env_vars'"),
        (json!({"env_vars": ["A=1"]}), "field 'env_vars'"),
        (json!({"env_vars": vars(513)}), "at most 512"),
        (json!({"env_vars": {"A": "x".repeat(200_000)}}), "longer than"),
    ] {
        client.refused(Method::POST, "/v2/box", body, StatusCode::BAD_REQUEST, text).await;
    }
    assert_eq!(client.get("/v2/box").await.json(), json!([]));
    assert!(yard.engine.ids().is_empty());
}

#[tokio::test]
async fn commands_are_checked_before_anything_runs() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    for door in ["exec", "exec-stream"] {
        let path = format!("/v2/box/{id}/{door}");
        for (body, text) in [
            (json!({}), "command is required"),
            (json!({"command": null}), "command is required"),
            (json!({"command": []}), "command is required"),
            (json!({"command": [""]}), "must begin with the name of a program"),
            (json!({"command": "true"}), "field 'command'"),
            (json!({"command": ["true", 1]}), "field 'command'"),
            (json!({"command": ["a\u{0}b"]}), "NUL"),
            (json!({"command": ["true", "x".repeat(131_072)]}), "write long data into a file"),
            (json!({"command": vec!["x"; 4097]}), "at most 4096 arguments"),
            (json!({"command": vec!["x".repeat(100_000); 10]}), "write long data into a file"),
            (json!({"command": ["true"], "folder": "a\u{0}b"}), "folder contains a NUL"),
            (json!({"command": ["true"], "folder": "x".repeat(4096)}), "folder is longer"),
            (json!({"command": ["true"], "folder": 1}), "field 'folder'"),
            (json!({"command": ["true"], "async": "yes"}), "field 'async'"),
        ] {
            client.refused(Method::POST, &path, body, StatusCode::BAD_REQUEST, text).await;
        }
        let longest = json!({"command": ["true", "x".repeat(131_071), "x".repeat(90_000)]});
        assert_eq!(client.post(&path, longest).await.status, StatusCode::OK);
    }
    assert_eq!(client.get(&format!("/v2/box/{id}/runs")).await.json()["runs"].as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn bodies_that_are_no_json_objects_are_told_where() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let deep = "[".repeat(100_000);
    for (method, path) in [
        (Method::POST, "/v2/box".to_owned()),
        (Method::DELETE, "/v2/box".to_owned()),
        (Method::POST, format!("/v2/box/{id}/exec")),
        (Method::POST, format!("/v2/box/{id}/config/labels")),
    ] {
        for (body, text) in [
            (&b"{"[..], "line 1 column 1"),
            (b"{\"a\": }", "line 1 column 7"),
            (b"[]", "must be a JSON object"),
            (b"\"text\"", "must be a JSON object"),
            (b"null", "must be a JSON object"),
            (b"{\"name\": \"\xff\"}", "not UTF-8"),
            (b"name=x", "not valid JSON"),
            (deep.as_bytes(), "recursion limit"),
        ] {
            let answer = client.send(client.request(method.clone(), &path).body(body.to_vec())).await;
            let error = answer.json()["error"].as_str().expect("an error").to_owned();
            assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{method} {path}: {error}");
            assert!(error.contains(text), "{method} {path}: {error}");
        }
    }
}

#[tokio::test]
async fn content_types_do_not_matter() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    for content_type in ["application/json", "text/plain", "application/x-www-form-urlencoded", "nonsense"] {
        let request = client.request(Method::POST, &format!("/v2/box/{id}/exec")).header("content-type", content_type);
        let answer = client.send(request.body(r#"{"command":["printf","x"]}"#)).await;
        assert_eq!(answer.json()["output"], "x", "{content_type}");
    }
}

#[tokio::test]
async fn bodies_over_the_cap_are_refused_announced_or_not() {
    let yard = Yard::with(|config| config.limits.body_cap = 10_000).await;
    let client = yard.client();
    let id = client.new_box().await;
    let path = format!("/v2/box/{id}/exec");
    let long = json!({"command": ["true", "x".repeat(20_000)]});
    client.refused(Method::POST, &path, long.clone(), StatusCode::PAYLOAD_TOO_LARGE, "limit of 10000 bytes").await;
    let pieces: Vec<Result<Vec<u8>, std::io::Error>> =
        long.to_string().into_bytes().chunks(3000).map(|piece| Ok(piece.to_vec())).collect();
    let chunked = reqwest::Body::wrap_stream(futures_util::stream::iter(pieces));
    let answer = client.send(client.request(Method::POST, &path).body(chunked)).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    let fits = json!({"command": ["true", "x".repeat(9_000)]});
    assert_eq!(client.post(&path, fits).await.status, StatusCode::OK);
}

#[tokio::test]
async fn strange_paths_are_answered_calmly() {
    let yard = Yard::start().await;
    let client = yard.client();
    for id in ["%00", "..%2f..%2fetc", "x%0d%0ay", &"x".repeat(5000), "%F0%9F%A6%8A", "'; drop table boxes; --"] {
        let answer = client.get(&format!("/v2/box/{id}")).await;
        assert_eq!((answer.status, answer.json()), (StatusCode::NOT_FOUND, json!({"error": "Box not found"})), "{id}");
    }
    let broken = client.get("/v2/box/%ff").await;
    assert_eq!(broken.status, StatusCode::BAD_REQUEST);
    assert!(broken.json()["error"].is_string());
    let answer: Value = client.get("/v2/box?label=%ff&status=active").await.json();
    assert!(answer.is_array() || answer["error"].is_string());
}

#[tokio::test]
async fn clients_that_send_all_of_a_body_before_they_read_see_that_it_was_too_long() {
    let yard = Yard::with(|config| config.limits.body_cap = 10_000).await;
    let body = vec![b'x'; 20_000_000];
    let length = format!("content-length: {}", body.len());
    for framing in [length.as_str(), "transfer-encoding: chunked"] {
        let mut stream = tokio::net::TcpStream::connect(yard.address()).await.expect("connect");
        let head = format!(
            "POST /v2/box HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-box-api-key: {KEY}\r\n{framing}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.expect("send the head");
        if framing.contains("chunked") {
            stream.write_all(format!("{:x}\r\n", body.len()).as_bytes()).await.expect("send a chunk's length");
        }
        stream.write_all(&body).await.expect("the whole body is taken");
        if framing.contains("chunked") {
            stream.write_all(b"\r\n0\r\n\r\n").await.expect("send the end");
        }
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer and an orderly end");
        assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("limit of 10000 bytes"), "{answer}");
    }
}

#[tokio::test]
async fn long_bodies_of_many_connections_do_not_fill_the_memory() {
    let yard = Yard::with(|config| config.limits.body_budget = 4 << 20).await;
    let client = yard.client();
    let id = client.new_box().await;
    let path = format!("/v2/box/{id}/files/write");
    // One that does not go on to its end: it has 1.5 of the 2 MiB that are for its account.
    let mut slow = tokio::net::TcpStream::connect(yard.address()).await.expect("connect");
    let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\nx-box-api-key: {KEY}\r\ncontent-length: 1600000\r\n\r\n");
    let begun = r#"{"path":"slow","content":""#;
    let content = "x".repeat(1_600_000 - begun.len() - 2);
    let (most, rest) = content.split_at(1_500_000);
    for part in [&head, begun, most] {
        slow.write_all(part.as_bytes()).await.expect("sent");
    }
    let long = json!({"path": "long", "content": "x".repeat(1_000_000)});
    // It is read while others are asked.
    let answer = loop {
        let answer = client.post(&path, long.clone()).await;
        if answer.status != StatusCode::OK {
            break answer;
        }
    };
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{}", answer.text());
    assert!(answer.text().contains("limits.body_budget"), "{}", answer.text());
    // Paths of a form that wait for their files are held as well.
    let paths: String = (0..800).map(|_| crate::uploads::form_part("paths", &"p".repeat(4000))).collect();
    let form = client.request(Method::POST, &format!("/v2/box/{id}/files/upload"));
    let form = form.header("content-type", "multipart/form-data; boundary=x").body(paths + "--x--\r\n");
    assert_eq!(client.send(form).await.status, StatusCode::SERVICE_UNAVAILABLE);
    // What is small is answered as ever, and so are others.
    let small = json!({"path": "small", "content": "x".repeat(60_000)});
    assert_eq!(client.post(&path, small).await.status, StatusCode::OK);
    let stranger = yard.stranger().await;
    let theirs = stranger.new_box().await;
    assert_eq!(stranger.post(&format!("/v2/box/{theirs}/files/write"), long.clone()).await.status, StatusCode::OK);
    // And when it has come to its end there is room again.
    slow.write_all(rest.as_bytes()).await.expect("sent");
    slow.write_all(b"\"}").await.expect("sent");
    let mut answer = [0; 12];
    slow.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 200");
    assert_eq!(client.post(&path, long).await.status, StatusCode::OK);
}
