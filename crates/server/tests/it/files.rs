//! Files of a box: read, written, listed, looked at, changed, searched, watched.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{Answer, Client, Yard, box_id};
use crate::uploads::form_part;

impl Client {
    /// Something about files that has an answer without a body: the path after `files/`.
    pub async fn files(&self, id: &str, rest: &str) -> Answer {
        self.get(&format!("/v2/box/{id}/files/{rest}")).await
    }

    pub async fn change_files(&self, id: &str, what: &str, body: Value) -> Answer {
        self.post(&format!("/v2/box/{id}/files/{what}"), body).await
    }

    pub async fn write_file(&self, id: &str, path: &str, content: &str) {
        let answer = self.change_files(id, "write", json!({"path": path, "content": content})).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    }

    /// The text of a file.
    pub async fn read_file(&self, id: &str, path: &str) -> String {
        let answer = self.files(id, &format!("read?path={path}")).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        answer.json()["content"].as_str().expect("a text").to_owned()
    }
}

fn names(answer: &Answer) -> Vec<String> {
    let files = answer.json()["files"].as_array().expect("files").clone();
    files.iter().map(|file| file["path"].as_str().expect("a path").to_owned()).collect()
}

fn error(answer: &Answer) -> String {
    answer.json()["error"].as_str().expect("an error").to_owned()
}

#[tokio::test]
async fn what_is_written_is_read_as_it_was() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    client.write_file(&id, "/workspace/home/data/config.json", "line1\nline2").await;
    assert_eq!(client.read_file(&id, "/workspace/home/data/config.json").await, "line1\nline2");
    assert_eq!(client.read_file(&id, "data/./config.json").await, "line1\nline2", "below the workspace");
    for (content, encoding) in [("aGVsbG8=", "base64"), ("", "base64"), ("", "utf-8"), ("ü€😀\0\"\\\n", "utf-8")] {
        let body = json!({"path": "x", "content": content, "encoding": encoding});
        assert_eq!(client.change_files(&id, "write", body).await.status, StatusCode::OK);
        let answer = client.files(&id, &format!("read?path=x&encoding={encoding}")).await;
        assert_eq!(answer.json(), json!({"content": content}));
        assert_eq!(answer.header("content-type"), Some("application/json"));
    }
    client.change_files(&id, "write", json!({"path": "bytes", "content": "/wBh", "encoding": "base64"})).await;
    assert_eq!(client.read_file(&id, "bytes").await, "\u{fffd}\0a");
    let long = "ü".repeat(1_000_000);
    client.write_file(&id, "long", &long).await;
    assert!(client.read_file(&id, "long").await == long);
    let answer = client.files(&id, "read?path=long&encoding=base64").await;
    assert!(answer.json()["content"].as_str() == Some(&STANDARD.encode(&long)));
    assert_eq!(yard.engine.jobs(&box_id(&id)), Vec::<String>::new(), "nothing is left of it");
}

#[tokio::test]
async fn a_range_is_read_when_length_is_there_even_when_it_is_zero() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    client.write_file(&id, "a", "0123456789").await;
    for (query, content) in [
        ("offset=2&length=3", "234"),
        ("length=4", "0123"),
        ("length=0", ""),
        ("offset=8&length=100", "89"),
        ("offset=10&length=1", ""),
        ("offset=18446744073709551615&length=8388608", ""),
        ("offset=5", "0123456789"),
    ] {
        let answer = client.files(&id, &format!("read?path=a&{query}")).await;
        assert_eq!((answer.status, answer.json()), (StatusCode::OK, json!({"content": content})), "{query}");
    }
    for query in ["length=8388609", "length=-1", "offset=x&length=1", "length=1&encoding=hex", "length="] {
        let answer = client.files(&id, &format!("read?path=a&{query}")).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{query}: {answer:?}");
    }
}

#[tokio::test]
async fn a_file_that_is_too_long_for_json_is_for_downloads() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let put = client.request(Method::PUT, &format!("/v2/box/{id}/files/upload?path=big&mode=0600"));
    let content = vec![b'z'; (64 << 20) + 1];
    assert_eq!(client.send(put.body(content.clone())).await.status, StatusCode::OK);
    let answer = client.files(&id, "read?path=big").await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(error(&answer).contains("files/download"), "{answer:?}");
    let range = client.files(&id, "read?path=big&offset=67108860&length=8388608").await;
    assert_eq!(range.json(), json!({"content": "zzzzz"}));
    let whole = client.files(&id, "download?folder=big").await;
    assert!(whole.body == content);
    assert_eq!(whole.header("content-length"), Some("67108865"));
    assert_eq!(client.files(&id, "stat?path=big").await.json()["mode"], "0600");
}

#[tokio::test]
async fn folders_are_listed_with_absolute_paths_that_download_takes() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    assert_eq!(client.files(&id, "list").await.json(), json!({"files": []}));
    client.write_file(&id, "sub/b.txt", "bb").await;
    client.write_file(&id, ".hidden", "").await;
    client.write_file(&id, "ü ü", "x").await;
    let listed = client.files(&id, "list").await;
    assert_eq!(names(&listed), ["/workspace/home/.hidden", "/workspace/home/sub", "/workspace/home/ü ü"]);
    let file = &listed.json()["files"][1];
    assert_eq!((&file["name"], &file["is_dir"]), (&json!("sub"), &json!(true)));
    for folder in ["sub", "/workspace/home/./sub/", "sub/../sub"] {
        let listed = client.files(&id, &format!("list?folder={folder}")).await;
        let file = listed.json()["files"][0].clone();
        assert_eq!((&file["name"], &file["size"], &file["is_dir"]), (&json!("b.txt"), &json!(2), &json!(false)));
        assert!(file["mod_time"].as_str().is_some_and(|time| time.len() == 20 && time.ends_with('Z')), "{file}");
        let downloaded =
            client.files(&id, &format!("download?folder={}", file["path"].as_str().expect("a path"))).await;
        assert_eq!((downloaded.status, downloaded.text().as_str()), (StatusCode::OK, "bb"));
    }
    assert_eq!(client.files(&id, "list?folder=sub/b.txt").await.json()["files"], json!([]), "of a file nothing");
    let missing = client.files(&id, "list?folder=nowhere").await;
    assert_eq!((missing.status, error(&missing).contains("not found")), (StatusCode::NOT_FOUND, true));
}

#[tokio::test]
async fn a_folder_of_thousands_is_listed_whole_or_in_turns() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let form: String = (0..2_000)
        .map(|n| form_part("paths", &format!("/workspace/home/many/{n:05}")) + &form_part("files", ""))
        .collect();
    let upload = client.request(Method::POST, &format!("/v2/box/{id}/files/upload"));
    let upload = upload.header("content-type", "multipart/form-data; boundary=x").body(form + "--x--\r\n");
    assert_eq!(client.send(upload).await.json()["message"], "2000 files uploaded");
    let all = client.files(&id, "list?folder=many").await;
    assert_eq!(names(&all).len(), 2_000);
    let (mut after, mut found) = (String::new(), Vec::new());
    loop {
        let part = client.files(&id, &format!("list?folder=many&limit=700&after={after}")).await;
        found.extend(names(&part));
        after = part.json()["files"].as_array().and_then(|files| files.last()).expect("a file")["name"]
            .as_str()
            .expect("a name")
            .to_owned();
        if part.json()["truncated"] != json!(true) {
            break;
        }
    }
    assert_eq!(found, names(&all));
}

#[tokio::test]
async fn paths_are_looked_at_and_changed() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    client.write_file(&id, "a", "12345").await;
    let stat = client.files(&id, "stat?path=/workspace/home/a&follow=true").await.json();
    assert_eq!((&stat["type"], &stat["size"], &stat["mode"]), (&json!("file"), &json!(5), &json!("0644")));
    assert!(stat["inode"].is_u64() && stat["mod_time"].is_string());
    assert_eq!(client.files(&id, "stat?path=.").await.json()["type"], "directory");
    client.write_file(&id, "a", "54321").await;
    assert_ne!(client.files(&id, "stat?path=a").await.json()["version"], stat["version"], "another version");
    let change = async |what: &str, body: Value| {
        let answer = client.change_files(&id, what, body).await;
        (answer.status.as_u16(), answer.json())
    };
    assert_eq!(change("mkdir", json!({"path": "d", "parents": false})).await.0, 200);
    assert_eq!(change("mkdir", json!({"path": "d"})).await.0, 409, "it is there");
    assert_eq!(change("mkdir", json!({"path": "x/y/z"})).await.0, 404, "no parents");
    assert_eq!(change("mkdir", json!({"path": "x/y/z", "parents": true})).await.0, 200);
    assert_eq!(change("mkdir", json!({"path": "x/y/z", "parents": true})).await.0, 200);
    assert_eq!(change("rename", json!({"from": "a", "to": "d/b"})).await.0, 200);
    assert_eq!(client.read_file(&id, "d/b").await, "54321");
    let (status, body) = change("rename", json!({"from": "a", "to": "c"})).await;
    assert_eq!((status, body["error"].as_str().is_some_and(|text| text.contains("/a to /"))), (404, true), "{body}");
    assert_eq!(change("remove", json!({"path": "d", "recursive": false})).await.0, 400, "a folder");
    assert_eq!(change("remove", json!({"path": "d", "recursive": true})).await.0, 200);
    assert_eq!(change("remove", json!({"path": "d", "recursive": true})).await.0, 404);
    client.write_file(&id, "run.sh", "#!/bin/sh").await;
    assert_eq!(change("chmod", json!({"path": "run.sh", "mode": "0755"})).await.0, 200);
    client.write_file(&id, "run.sh", "#!/bin/bash").await;
    assert_eq!(client.files(&id, "stat?path=run.sh").await.json()["mode"], "0755", "it keeps its mode");
    assert_eq!(change("write", json!({"path": "run.sh", "content": "", "mode": "600"})).await.0, 200);
    assert_eq!(client.files(&id, "stat?path=run.sh").await.json()["mode"], "0600");
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_said_and_changes_nothing() {
    let yard = Yard::start().await;
    let (client, stranger) = (yard.client(), yard.stranger().await);
    let id = client.new_box().await;
    let long = "x/".repeat(2048);
    let path = |what: &str| format!("/v2/box/{id}/files/{what}");
    for (what, body, text) in [
        ("write", json!({"content": "x"}), "path is required"),
        ("write", json!({"path": "", "content": "x"}), "path is required"),
        ("write", json!({"path": "a"}), "content is required"),
        ("write", json!({"path": "a", "content": null}), "content is required"),
        ("write", json!({"path": "a\0b", "content": ""}), "path contains a NUL byte"),
        ("write", json!({"path": long, "content": ""}), "path is longer than 4095 bytes"),
        ("write", json!({"path": "a", "content": "?", "encoding": "base64"}), "not base64"),
        ("write", json!({"path": "a", "content": "", "encoding": "latin1"}), "encoding must be"),
        ("write", json!({"path": "a", "content": "", "mode": "rwx"}), "mode must be"),
        ("write", json!({"path": 1, "content": ""}), "field 'path'"),
        ("mkdir", json!({}), "path is required"),
        ("mkdir", json!({"path": "a", "parents": "yes"}), "field 'parents'"),
        ("rename", json!({"from": "a"}), "to is required"),
        ("rename", json!({"to": "a"}), "from is required"),
        ("remove", json!({"path_base64": "?"}), "path_base64 is not base64"),
        ("remove", json!({"path_base64": "eA==", "path": "x"}), "either path or path_base64"),
        ("chmod", json!({"path": "a"}), "mode must be"),
        ("chmod", json!({"path": "a", "mode": "99"}), "mode must be"),
        ("upload", json!({}), "multipart/form-data"),
    ] {
        client.refused(Method::POST, &path(what), body, StatusCode::BAD_REQUEST, text).await;
    }
    for query in [
        "read",
        "read?path=",
        "read?path=a%00b",
        "stat",
        "stat?path=a&follow=maybe",
        "download",
        "download?folder=a&format=rar",
        "search?regex=x",
        "watch?recursive=x",
        "list?limit=x",
        "list?folder=a%00",
    ] {
        let answer = client.files(&id, query).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{query}: {answer:?}");
    }
    for query in ["read?path=x", "stat?path=x", "download?folder=x", "list?folder=x", "download?folder=x&format=tar"] {
        let answer = client.files(&id, query).await;
        assert_eq!((answer.status, error(&answer).contains("not found")), (StatusCode::NOT_FOUND, true), "{query}");
    }
    for outside in ["/etc/passwd", "/workspace/x", "/tmp/x", "../../etc/passwd", "/workspace/homes", "/"] {
        for (what, body) in [
            ("write", json!({"path": outside, "content": "x"})),
            ("mkdir", json!({"path": outside})),
            ("remove", json!({"path": outside, "recursive": true})),
            ("rename", json!({"from": outside, "to": "a"})),
        ] {
            client.refused(Method::POST, &path(what), body, StatusCode::FORBIDDEN, "permission denied").await;
        }
        for query in [format!("read?path={outside}"), format!("stat?path={outside}"), format!("list?folder={outside}")]
        {
            let answer = client.files(&id, &query).await;
            assert_eq!((answer.status, error(&answer).contains("permission denied")), (StatusCode::FORBIDDEN, true));
        }
    }
    for what in ["read?path=x", "list", "watch", "search", "download?folder=x"] {
        stranger.refused(Method::GET, &path(what), json!({}), StatusCode::NOT_FOUND, "Box not found").await;
    }
    for what in ["write", "mkdir", "upload"] {
        let body = json!({"path": "a", "content": ""});
        stranger.refused(Method::POST, &path(what), body, StatusCode::NOT_FOUND, "Box not found").await;
    }
    assert_eq!(client.files(&id, "list").await.json()["files"], json!([]));
}

#[tokio::test]
async fn names_that_are_no_text_are_told_and_taken_in_base64() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let name = STANDARD.encode(b"/workspace/home/\xff\xfe");
    let body = json!({"path_base64": name, "content": "odd"});
    assert_eq!(client.change_files(&id, "write", body).await.status, StatusCode::OK);
    let listed = client.files(&id, "list").await.json();
    assert_eq!(
        (&listed["files"][0]["name"], &listed["files"][0]["path_base64"]),
        (&json!("\u{fffd}\u{fffd}"), &json!(name))
    );
    let query = name.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
    assert_eq!(client.files(&id, &format!("read?path_base64={query}")).await.json()["content"], "odd");
    assert_eq!(client.files(&id, &format!("download?path_base64={query}")).await.text(), "odd");
    let body = json!({"from_base64": name, "to": "even"});
    assert_eq!(client.change_files(&id, "rename", body).await.status, StatusCode::OK);
    assert_eq!(client.read_file(&id, "even").await, "odd");
}

#[tokio::test]
async fn a_download_can_be_taken_up_where_it_broke_off() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    client.write_file(&id, "dir/a b.txt", "0123456789").await;
    let path = format!("/v2/box/{id}/files/download?folder=dir/a%20b.txt");
    let ask = async |range: &str, if_range: Option<&str>| {
        let request = client.request(Method::GET, &path).header("range", range);
        client.send(if_range.iter().fold(request, |request, tag| request.header("if-range", *tag))).await
    };
    let whole = client.get(&path).await;
    let tag = whole.header("etag").expect("a tag").to_owned();
    assert_eq!((whole.text().as_str(), whole.header("accept-ranges")), ("0123456789", Some("bytes")));
    assert_eq!(whole.header("content-disposition"), Some("attachment; filename*=UTF-8''a%20b.txt"));
    assert_eq!(whole.header("content-type"), Some("application/octet-stream"));
    let part = ask("bytes=4-", Some(&tag)).await;
    assert_eq!((part.status, part.text().as_str()), (StatusCode::PARTIAL_CONTENT, "456789"));
    assert_eq!((part.header("content-range"), part.header("content-length")), (Some("bytes 4-9/10"), Some("6")));
    assert_eq!(ask("bytes=-3", None).await.text(), "789");
    assert_eq!(ask("bytes=2-4", None).await.text(), "234");
    let beyond = ask("bytes=10-", None).await;
    assert_eq!(
        (beyond.status, beyond.header("content-range")),
        (StatusCode::RANGE_NOT_SATISFIABLE, Some("bytes */10"))
    );
    assert!(error(&beyond).contains("10 bytes"));
    assert_eq!(ask("bytes=1-2,4-5", None).await.status, StatusCode::OK, "what is not understood is ignored");
    client.write_file(&id, "dir/a b.txt", "another one").await;
    let other = ask("bytes=4-", Some(&tag)).await;
    assert_eq!((other.status, other.text().as_str()), (StatusCode::OK, "another one"), "it is another file now");
    let head = client.send(client.request(Method::HEAD, &path)).await;
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (StatusCode::OK, Some("11"), 0));
    let folder = client.files(&id, "download?folder=dir").await;
    assert_eq!(folder.status, StatusCode::BAD_REQUEST, "a folder is for ?format=: {folder:?}");
}

#[tokio::test]
async fn folders_come_and_go_as_archives() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    client.write_file(&id, "src/main.rs", "fn main() {}").await;
    client.write_file(&id, "src/deep/er/x", "x").await;
    for (format, content_type) in [("tar", "application/x-tar"), ("tar.gz", "application/gzip")] {
        let packed = client.files(&id, &format!("download?folder=src&format={format}")).await;
        assert_eq!((packed.status, packed.header("content-type")), (StatusCode::OK, Some(content_type)));
        let put = client.request(Method::PUT, &format!("/v2/box/{id}/files/archive?path=copies/{format}"));
        let answer = client.send(put.body(packed.body)).await;
        assert_eq!((answer.status, &answer.json()["message"]), (StatusCode::OK, &json!("Archive unpacked")));
        assert_eq!(client.read_file(&id, &format!("copies/{format}/main.rs")).await, "fn main() {}");
        assert_eq!(client.read_file(&id, &format!("copies/{format}/deep/er/x")).await, "x");
    }
    assert!(client.files(&id, "download?path=src&format=zip").await.body.starts_with(b"PK"));
    let put = client.request(Method::PUT, &format!("/v2/box/{id}/files/archive?path=x"));
    let answer = client.send(put.body(vec![b'!'; 5_000])).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{answer:?}");
}

#[tokio::test]
async fn a_file_is_written_back_only_where_nobody_else_has_written() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    client.write_file(&id, "a", "one").await;
    let version = client.files(&id, "stat?path=a").await.json()["version"].as_str().expect("a version").to_owned();
    let put = async |content: &str| {
        let path = format!("/v2/box/{id}/files/upload?path=a&if_version={version}");
        client.send(client.request(Method::PUT, &path).body(content.to_owned())).await
    };
    assert_eq!(put("two").await.status, StatusCode::OK);
    let again = put("three").await;
    assert_eq!((again.status, error(&again).contains("changed meanwhile")), (StatusCode::CONFLICT, true), "{again:?}");
    assert_eq!(client.read_file(&id, "a").await, "two");
    client.change_files(&id, "remove", json!({"path": "a"})).await;
    assert!(error(&put("four").await).contains("gone meanwhile"));
}

#[tokio::test]
async fn files_are_found_by_name_and_content() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    client.write_file(&id, "a/x.txt", "one\ntwo\n").await;
    client.write_file(&id, "b/x.txt", "two two\n").await;
    let by_name = client.files(&id, "search?name=x.txt").await.json();
    assert_eq!(by_name["matches"].as_array().expect("matches").len(), 2);
    assert_eq!(by_name["matches"][0], json!({"path": "/workspace/home/a/x.txt", "type": "file"}));
    let by_content = client.files(&id, "search?path=a&content=two").await.json();
    let expected = json!([{"path": "/workspace/home/a/x.txt", "type": "file", "line": 2, "text": "two"}]);
    assert_eq!(by_content, json!({"matches": expected}));
    assert_eq!(client.files(&id, "search?content=two&limit=1").await.json()["truncated"], true);
    let long = client.files(&id, &format!("search?content={}", "x".repeat(5_000))).await;
    assert_eq!(long.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn changes_are_told_as_they_happen_until_the_folder_is_gone() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    client.change_files(&id, "mkdir", json!({"path": "w"})).await;
    let watch = client.request(Method::GET, &format!("/v2/box/{id}/files/watch?path=w&recursive=true"));
    let mut events = watch.send().await.expect("a head");
    assert_eq!(events.headers()["content-type"], "text/event-stream");
    let mut text = String::new();
    let mut until = async |part: &str| {
        while !text.contains(part) {
            let chunk = events.chunk().await.expect("a whole chunk").unwrap_or_else(|| panic!("no {part} in {text}"));
            text.push_str(str::from_utf8(&chunk).expect("text"));
        }
        text.clone()
    };
    assert!(until("event: watching\ndata: {\"truncated\":false}\n\n").await.starts_with("event: watching\n"));
    assert_eq!(client.status(&id).await, "running", "a box that is watched is busy");
    client.write_file(&id, "w/deep/a", "x").await;
    until("event: create\ndata: {\"path\":\"/workspace/home/w/deep/a\",\"is_dir\":false}\n\n").await;
    client.write_file(&id, "w/deep/a", "y").await;
    until("event: modify\n").await;
    client.change_files(&id, "rename", json!({"from": "w/deep/a", "to": "w/b"})).await;
    until("event: rename\ndata: {\"path\":\"/workspace/home/w/b\",\"from\":\"/workspace/home/w/deep/a\",\"is_dir\":false}").await;
    client.change_files(&id, "remove", json!({"path": "w/b"})).await;
    until("event: delete\ndata: {\"path\":\"/workspace/home/w/b\"").await;
    let other = client.request(Method::GET, &format!("/v2/box/{id}/files/watch"));
    let other = other.send().await.expect("a head");
    client.post(&format!("/v2/box/{id}/pause"), json!({})).await;
    until("event: error\ndata: {\"error\":\"box ").await;
    assert!(other.text().await.expect("it ends").contains("was paused"));
}

#[tokio::test]
async fn a_paused_box_is_resumed_and_a_stopping_server_says_goodbye() {
    let mut yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    client.write_file(&id, "a", "kept").await;
    client.post(&format!("/v2/box/{id}/pause"), json!({})).await;
    assert_eq!(client.status(&id).await, "paused");
    assert_eq!(client.read_file(&id, "a").await, "kept");
    assert_eq!(client.status(&id).await, "idle");
    let watch = client.request(Method::GET, &format!("/v2/box/{id}/files/watch")).send().await.expect("an answer");
    yard.down().await;
    assert!(
        watch.text().await.expect("it ends").contains("event: error\ndata: {\"error\":\"the server is shutting down")
    );
    yard.engine.halt(&box_id(&id));
    yard.up().await;
    assert_eq!(yard.client().read_file(&id, "a").await, "kept");
}

#[tokio::test]
async fn every_route_about_files_wakes_a_paused_box() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    client.write_file(&id, "a", "x").await;
    let tar = client.files(&id, "download?path=a&format=tar").await.body;
    let request = |method: Method, rest: &str| client.request(method, &format!("/v2/box/{id}/files/{rest}"));
    let form = reqwest::multipart::Form::new().text("paths", "b").part("files", reqwest::multipart::Part::text("b"));
    for (what, request) in [
        ("read", request(Method::GET, "read?path=a")),
        ("list", request(Method::GET, "list")),
        ("stat", request(Method::GET, "stat?path=a")),
        ("search", request(Method::GET, "search?name=a")),
        ("download", request(Method::GET, "download?path=a")),
        ("a part", request(Method::GET, "download?path=a").header("range", "bytes=0-0")),
        ("download as an archive", request(Method::GET, "download?path=a&format=zip")),
        ("write", request(Method::POST, "write").json(&json!({"path": "w", "content": "x"}))),
        ("mkdir", request(Method::POST, "mkdir").json(&json!({"path": "d"}))),
        ("rename", request(Method::POST, "rename").json(&json!({"from": "w", "to": "v"}))),
        ("remove", request(Method::POST, "remove").json(&json!({"path": "v"}))),
        ("chmod", request(Method::POST, "chmod").json(&json!({"path": "a", "mode": "0600"}))),
        ("upload", request(Method::POST, "upload").multipart(form)),
        ("put", request(Method::PUT, "upload?path=p").body("p")),
        ("unpack", request(Method::PUT, "archive?path=u").body(tar)),
    ] {
        client.post(&format!("/v2/box/{id}/pause"), json!({})).await;
        assert_eq!(client.status(&id).await, "paused", "{what}");
        let answer = client.send(request).await;
        assert!(answer.status.is_success(), "{what}: {answer:?}");
        assert_eq!(client.status(&id).await, "idle", "{what}");
    }
    client.post(&format!("/v2/box/{id}/pause"), json!({})).await;
    let watch = request(Method::GET, "watch").send().await.expect("a head");
    assert_eq!((watch.status(), client.status(&id).await), (StatusCode::OK, json!("running")));
}
