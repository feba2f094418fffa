//! Many files in one request.

use reqwest::multipart::{Form, Part};
use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Answer, Client, KEY, Yard, box_id};

impl Client {
    async fn upload(&self, id: &str, form: Form) -> Answer {
        self.send(self.request(Method::POST, &format!("/v2/box/{id}/files/upload")).multipart(form)).await
    }
}

/// A part of a form whose boundary is `x`. The client's own forms take time that grows with the square of their parts.
pub fn form_part(name: &str, content: &str) -> String {
    let file = if name == "files" { "; filename=\"f\"\r\nContent-Type: application/octet-stream" } else { "" };
    format!("--x\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n{content}\r\n")
}

fn file(content: impl Into<Vec<u8>>) -> Part {
    Part::bytes(content.into()).file_name("src/ignored.txt").mime_str("application/octet-stream").expect("a type")
}

#[tokio::test]
async fn paths_and_files_belong_together_by_their_order_whatever_stands_between() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let as_typescript = Form::new().text("paths", "/workspace/home/a").part("files", file("A"));
    let as_typescript =
        as_typescript.text("paths", "/workspace/home/deep/er/b").part("files", file(vec![0xff, 0, b'\r', b'\n']));
    let as_python =
        Form::new().text("paths", "c").text("paths", "ü ü").part("files", file("C")).part("files", file(""));
    let files_first = Form::new().part("files", file("D")).part("files", file("E")).text("other", "x");
    let files_first = files_first.text("paths", "d").text("paths", "e");
    for (form, count) in [(as_typescript, 2), (as_python, 2), (files_first, 2)] {
        let answer = client.upload(&id, form).await;
        assert_eq!(
            (answer.status, answer.json()),
            (StatusCode::OK, json!({"message": format!("{count} files uploaded")}))
        );
    }
    for (path, content) in [("a", "A"), ("c", "C"), ("ü ü", ""), ("d", "D"), ("e", "E")] {
        assert_eq!(client.read_file(&id, path).await, content, "{path}");
    }
    assert_eq!(client.files(&id, "download?folder=deep/er/b").await.body, [0xff, 0, b'\r', b'\n']);
}

#[tokio::test]
async fn long_files_with_anything_in_them_arrive_as_they_are() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    // Beginnings of what could be a boundary, everywhere.
    let form = Form::new();
    let boundary = form.boundary().to_owned();
    let tricky = format!("\r\n--{}\r\n\r\n--\r\r\n-", &boundary[..boundary.len() - 1]).repeat(40_000).into_bytes();
    let random: Vec<u8> = (0..9_000_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let form = form.text("paths", "tricky").part("files", file(tricky.clone()));
    let form = form.text("paths", "random").part("files", file(random.clone()));
    assert_eq!(client.upload(&id, form).await.status, StatusCode::OK);
    assert!(client.files(&id, "download?folder=tricky").await.body == tricky);
    assert!(client.files(&id, "download?folder=random").await.body == random);
}

#[tokio::test]
async fn ten_thousand_files_come_in_one_request() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let mut form: String = (0..10_000).map(|n| form_part("paths", &format!("/workspace/home/n/{n}"))).collect();
    form.extend((0..10_000).map(|n| form_part("files", &n.to_string())));
    let upload = client.request(Method::POST, &format!("/v2/box/{id}/files/upload"));
    let upload = upload.header("content-type", "multipart/form-data; boundary=x").body(form + "--x--\r\n");
    assert_eq!(client.send(upload).await.json()["message"], "10000 files uploaded");
    assert_eq!(client.read_file(&id, "n/9999").await, "9999");
}

#[tokio::test]
async fn what_is_wrong_with_a_form_is_said() {
    let yard = Yard::with(|config| config.limits.upload_cap = 3_000_000).await;
    let client = yard.client();
    let id = client.new_box().await;
    let mib = vec![b'x'; 1 << 20];
    for (form, status, text) in [
        (Form::new().text("paths", "a"), 400, "1 more paths than files"),
        (Form::new().part("files", file("a")), 400, "1 more files than paths"),
        (Form::new().text("paths", "").part("files", file("a")), 400, "paths is required"),
        (Form::new().text("paths", "a\0").part("files", file("a")), 400, "NUL"),
        (Form::new().text("paths", "x".repeat(5000)).part("files", file("a")), 400, "longer than 4095"),
        (Form::new().text("paths", "/etc/x").part("files", file("a")), 403, "permission denied: /etc/x"),
        (Form::new().text("paths", ".").part("files", file("a")), 400, "this is a folder"),
        (
            Form::new().part("files", file(mib.clone())).part("files", file("x")).text("paths", "a"),
            400,
            "each path before",
        ),
        (
            Form::new().text("paths", "a").part("files", file(vec![0; 3_000_000])),
            413,
            "over the limit of 3000000 bytes",
        ),
    ] {
        let answer = client.upload(&id, form).await;
        let error = answer.json()["error"].as_str().unwrap_or_default().to_owned();
        assert_eq!((answer.status.as_u16(), error.contains(text)), (status, true), "{error}");
    }
    let nothing = client.request(Method::POST, &format!("/v2/box/{id}/files/upload"));
    let nothing =
        client.send(nothing.header("content-type", "multipart/form-data; boundary=x").body("--x--\r\n")).await;
    assert_eq!(nothing.json()["message"], "0 files uploaded");
    // What came before what failed is there.
    let form = Form::new().text("paths", "good").part("files", file("g")).text("paths", "/x").part("files", file("x"));
    assert_eq!(client.upload(&id, form).await.status, StatusCode::FORBIDDEN);
    assert_eq!(client.read_file(&id, "good").await, "g");
    for (content_type, body) in [
        ("multipart/form-data", "x"),
        ("multipart/form-data; boundary=x", ""),
        ("multipart/form-data; boundary=x", "--x\r\n"),
        ("multipart/form-data; boundary=x", "--x\r\nContent-Disposition: form-data; name=\"paths\"\r\n\r\na"),
        ("multipart/form-data; boundary=x", "--x\r\n\0\0\0\r\n\r\n\r\n--x--\r\n"),
        ("text/plain", "x"),
    ] {
        let request = client.request(Method::POST, &format!("/v2/box/{id}/files/upload"));
        let answer = client.send(request.header("content-type", content_type).body(body)).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{content_type} {body:?}: {answer:?}");
    }
    yard.engine.idle(&box_id(&id)).await;
}

/// The beginning of a request that uploads a form.
async fn begin(yard: &Yard, id: &str, length: usize) -> TcpStream {
    let mut stream = TcpStream::connect(yard.address()).await.expect("a connection");
    let head = format!(
        "POST /v2/box/{id}/files/upload HTTP/1.1\r\nhost: x\r\nx-box-api-key: {KEY}\r\ncontent-length: {length}\r\n\
         content-type: multipart/form-data; boundary=x\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    stream
}

#[tokio::test]
async fn a_head_of_a_part_that_never_ends_is_refused_before_it_takes_memory() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    for start in ["--x\r\nContent-Disposition: form-data; name=\"", "no boundary at all "] {
        let mut stream = begin(&yard, &id, 50_000_000).await;
        stream.write_all(start.as_bytes()).await.expect("sent");
        let filler = vec![b'a'; 1 << 20];
        let mut answer = vec![0; 12];
        let (mut read, mut write) = stream.split();
        tokio::select! {
            read = read.read_exact(&mut answer) => drop(read.expect("an answer")),
            // What is left of a refused body is dropped.
            () = async { for _ in 0..60 { if write.write_all(&filler).await.is_err() { break } } std::future::pending().await } => {}
        }
        assert_eq!(answer, b"HTTP/1.1 400");
    }
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_leaves_the_old_file() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    client.write_file(&id, "a", "old").await;
    let mut stream = begin(&yard, &id, 1_000_000).await;
    let part = "--x\r\nContent-Disposition: form-data; name=\"paths\"\r\n\r\na\r\n--x\r\nContent-Disposition: form-data; name=\"files\"; \
                filename=\"a\"\r\n\r\nhalf of the new one";
    stream.write_all(part.as_bytes()).await.expect("sent");
    client.until(&format!("/v2/box/{id}"), |data| data["status"] == "running").await;
    drop(stream);
    client.until(&format!("/v2/box/{id}"), |data| data["status"] == "idle").await;
    yard.engine.idle(&box_id(&id)).await;
    assert_eq!(client.read_file(&id, "a").await, "old");
}

#[tokio::test]
async fn a_body_over_the_cap_of_other_bodies_is_taken_and_passes_through() {
    let yard = Yard::with(|config| config.limits.body_cap = 1000).await;
    let client = yard.client();
    let id = client.new_box().await;
    let content = vec![7; 5_000_000];
    let form = Form::new().text("paths", "a").part("files", file(content.clone()));
    assert_eq!(client.upload(&id, form).await.status, StatusCode::OK);
    let put = client.request(Method::PUT, &format!("/v2/box/{id}/files/upload?path=b"));
    assert_eq!(client.send(put.body(content.clone())).await.status, StatusCode::OK);
    assert!(client.files(&id, "download?folder=b").await.body == content);
    let write = json!({"path": "c", "content": "x".repeat(2000)});
    assert_eq!(client.change_files(&id, "write", write).await.status, StatusCode::PAYLOAD_TOO_LARGE);
}
