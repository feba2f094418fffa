//! Contexts: interpreters whose variables live between calls.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{Answer, Client, Yard, box_id};

impl Client {
    /// Makes a context and gives the path of it.
    pub async fn new_context(&self, id: &str) -> String {
        self.new_context_with(id, json!({"language": "python"})).await
    }

    pub async fn new_context_with(&self, id: &str, body: Value) -> String {
        let answer = self.post(&format!("/v2/box/{id}/contexts"), body).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
        format!("/v2/box/{id}/contexts/{}", answer.json()["id"].as_str().expect("an id"))
    }

    pub async fn code(&self, context: &str, code: &str) -> Answer {
        self.post(&format!("{context}/code"), json!({"code": code})).await
    }

    /// What came of code that was run.
    pub async fn came_of(&self, context: &str, code: &str) -> Value {
        let answer = self.code(context, code).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        answer.json()
    }

    /// Starts code in a task of its own, and returns when it has come to the gate that it waits at.
    pub async fn begin_code(
        &self,
        yard: &Yard,
        context: &str,
        gate: &str,
        rest: &str,
    ) -> tokio::task::JoinHandle<Answer> {
        let (client, context, code) = (self.clone(), context.to_owned(), format!("gate {gate}\n{rest}"));
        let task = tokio::spawn(async move { client.code(&context, &code).await });
        yard.engine.came_to(gate, 1).await;
        task
    }
}

/// The events of a stream: their names and data.
pub fn events(chunks: &[Vec<u8>]) -> Vec<(String, Value)> {
    let all = String::from_utf8(chunks.concat()).expect("text");
    let event = |text: &str| {
        let (name, data) = text.strip_prefix("event: ").and_then(|text| text.split_once("\ndata: ")).expect("an event");
        (name.to_owned(), serde_json::from_str(data).expect("JSON on one line"))
    };
    all.split_terminator("\n\n").filter(|text| !text.starts_with(':')).map(event).collect()
}

#[tokio::test]
async fn variables_live_between_calls_and_contexts_do_not_share_them() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let (one, two) = (client.new_context(&id).await, client.new_context_with(&id, json!({"language": "js"})).await);
    let set = client.came_of(&one, "let x 5\nprint set").await;
    let expected = json!({"execution_count": 1, "stdout": "set\n", "stderr": "", "results": [], "error": null});
    assert_eq!(set, expected);
    client.came_of(&two, "let x 7").await;
    assert_eq!(client.came_of(&one, "get x").await["results"], json!([{"is_main": true, "text/plain": "5"}]));
    assert_eq!(client.came_of(&two, "get x").await["results"], json!([{"is_main": true, "text/plain": "7"}]));
    let shown = client.get(&one).await.json();
    assert_eq!((&shown["language"], &shown["status"]), (&json!("python"), &json!("idle")));
    assert_eq!((&shown["execution_count"], &shown["folder"]), (&json!(2), &json!("/workspace/home")));
    let list = client.get(&format!("/v2/box/{id}/contexts")).await.json();
    let languages: Vec<_> = list["contexts"].as_array().expect("a list").iter().map(|each| &each["language"]).collect();
    assert_eq!(languages, ["python", "js"], "the oldest first");
    assert_eq!(client.delete(&one).await.status, StatusCode::OK);
    assert_eq!(yard.engine.jobs(&box_id(&id)).len(), 1, "its interpreter is gone when the answer comes");
    client.refused(Method::GET, &one, Value::Null, StatusCode::GONE, "it was deleted").await;
    client
        .refused(Method::POST, &format!("{one}/code"), json!({"code": "get x"}), StatusCode::GONE, "make a new one")
        .await;
    client.refused(Method::DELETE, &one, Value::Null, StatusCode::GONE, "it was deleted").await;
    assert_eq!(client.came_of(&two, "get x").await["execution_count"], 3);
}

#[tokio::test]
async fn an_error_of_the_code_is_a_success_of_the_call() {
    let yard = Yard::start().await;
    let client = yard.client();
    let context = client.new_context(&client.new_box().await).await;
    let came = client.came_of(&context, "print a\nerr b\nhtml <b>\nraise Oops\nprint never").await;
    assert_eq!((&came["stdout"], &came["stderr"]), (&json!("a\n"), &json!("b\n")));
    assert_eq!(came["results"], json!([{"is_main": false, "text/html": "<b>"}]));
    assert_eq!(came["error"], json!({"name": "Oops", "message": "raised", "traceback": "line 1"}));
    assert_eq!(client.came_of(&context, "print on").await["stdout"], "on\n");
}

#[tokio::test]
async fn what_comes_of_code_is_streamed_as_it_comes() {
    let yard = Yard::start().await;
    let client = yard.client();
    let context = client.new_context(&client.new_box().await).await;
    let request = client.request(Method::POST, &format!("{context}/code-stream"));
    let code = "print one\ngate on\nhtml <b>\nerr two\nlet x 5\nget x\nraise Oops";
    let mut response = request.json(&json!({"code": code})).send().await.expect("an answer");
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let first = response.chunk().await.expect("a body").expect("a chunk").to_vec();
    assert_eq!(events(&[first]), [("stdout".to_owned(), json!({"text": "one\n"}))]);
    yard.engine.open("on");
    let mut chunks = Vec::new();
    while let Some(chunk) = response.chunk().await.expect("a body") {
        chunks.push(chunk.to_vec());
    }
    let mut found = events(&chunks);
    assert_eq!(found.pop(), Some(("done".to_owned(), json!({"execution_count": 1}))));
    let error = json!({"name": "Oops", "message": "raised", "traceback": "line 1"});
    assert_eq!(found.pop(), Some(("error".to_owned(), error)));
    // The order of standard error and the rest is nobody's promise.
    found.sort_by_key(|(name, _)| name == "stderr");
    let expected = [
        ("result".to_owned(), json!({"is_main": false, "text/html": "<b>"})),
        ("result".to_owned(), json!({"is_main": true, "text/plain": "5"})),
        ("stderr".to_owned(), json!({"text": "two\n"})),
    ];
    assert_eq!(found, expected);
}

#[tokio::test]
async fn a_long_stream_comes_whole_and_an_answer_is_cut_where_it_must_be() {
    let yard = Yard::with(|config| config.contexts.output_cap = 1_000_000).await;
    let client = yard.client();
    let context = client.new_context(&client.new_box().await).await;
    let (_, chunks) = client.stream(&format!("{context}/code-stream"), json!({"code": "yes 5000000"})).await;
    let texts: usize = events(&chunks).iter().filter_map(|(_, data)| data["text"].as_str()).map(str::len).sum();
    assert_eq!(texts, 5_000_000);
    let cut = client.came_of(&context, "yes 5000000").await;
    assert_eq!((cut["stdout"].as_str().map(str::len), &cut["truncated"]), (Some(1_000_000), &json!(true)));
    let whole = client.came_of(&context, "yes 1000000").await;
    assert_eq!((whole["stdout"].as_str().map(str::len), &whole["truncated"]), (Some(1_000_000), &Value::Null));
    let many = client.came_of(&context, "results 1000").await;
    assert_eq!((many["results"].as_array().map(Vec::len), &many["truncated"]), (Some(256), &json!(true)));
}

#[tokio::test]
async fn code_runs_one_after_the_other_and_so_much_of_it_waits() {
    let yard = Yard::start().await;
    let client = yard.client();
    let context = client.new_context(&client.new_box().await).await;
    let first = client.begin_code(&yard, &context, "first", "print first").await;
    assert_eq!(client.get(&context).await.json()["status"], "busy");
    let mut others = tokio::task::JoinSet::new();
    for number in 0..17 {
        let (client, context) = (client.clone(), context.clone());
        others.spawn(async move { client.code(&context, &format!("print {number}")).await });
    }
    let refused = others.join_next().await.expect("an answer").expect("no panic");
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(refused.text().contains("16 pieces of code wait"), "{refused:?}");
    yard.engine.open("first");
    assert_eq!(first.await.expect("an answer").json()["execution_count"], 1);
    while let Some(answer) = others.join_next().await {
        let answer = answer.expect("no panic");
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    }
    assert_eq!(client.get(&context).await.json()["execution_count"], 17);
}

#[tokio::test]
async fn a_context_of_others_is_none_and_nonsense_is_refused() {
    let yard = Yard::with(|config| config.contexts.per_box = 2).await;
    let client = yard.client();
    let (id, other) = (client.new_box().await, client.new_box().await);
    let context = client.new_context(&id).await;
    let elsewhere = context.replace(&id, &other);
    let stranger = yard.stranger().await;
    for (method, path) in [
        (Method::GET, ""),
        (Method::DELETE, ""),
        (Method::POST, "/restart"),
        (Method::POST, "/interrupt"),
        (Method::POST, "/code"),
        (Method::POST, "/code-stream"),
    ] {
        let body = json!({"code": "get x"});
        let at = |context: &str| format!("{context}{path}");
        stranger.refused(method.clone(), &at(&context), body.clone(), StatusCode::NOT_FOUND, "Box not found").await;
        client.refused(method.clone(), &at(&elsewhere), body.clone(), StatusCode::NOT_FOUND, "Context not found").await;
        let unknown = format!("/v2/box/{id}/contexts/x");
        client.refused(method, &at(&unknown), body, StatusCode::NOT_FOUND, "Context not found").await;
    }
    let all = format!("/v2/box/{id}/contexts");
    stranger.refused(Method::GET, &all, Value::Null, StatusCode::NOT_FOUND, "Box not found").await;
    let (bad, post) = (StatusCode::BAD_REQUEST, Method::POST);
    for (body, text) in [
        (json!({}), "language is required"),
        (json!({"language": "ts"}), "language must be python or js"),
        (json!({"language": "python", "folder": "/nowhere"}), "folder '/nowhere' does not exist"),
        (json!({"language": "python", "folder": "a\0b"}), "NUL"),
        (json!({"language": "python", "env": {"A B": "x"}}), "A B"),
        (json!({"language": 3}), "field 'language'"),
    ] {
        client.refused(post.clone(), &all, body, bad, text).await;
    }
    for (body, text) in [
        (json!({}), "code is required"),
        (json!({"code": "x".repeat(16 * 1024 * 1024 + 1)}), "longer than"),
        (json!({"code": "x", "timeout": u64::MAX}), "timeout can be at most"),
    ] {
        client.refused(post.clone(), &format!("{context}/code"), body, bad, text).await;
    }
    client.new_context(&id).await;
    client.refused(post, &all, json!({"language": "js"}), StatusCode::TOO_MANY_REQUESTS, "limit of 2 contexts").await;
    client.delete(&context).await;
    client.new_context(&id).await;
}

#[tokio::test]
async fn a_context_has_its_folder_and_variables() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let body = json!({"language": "python", "folder": "/tmp", "env": {"FAKE": "", "PATH": "/blocked"}});
    let context = client.new_context_with(&id, body).await;
    assert_eq!(client.get(&context).await.json()["folder"], "/tmp");
}

#[tokio::test]
async fn contexts_are_counted() {
    let yard = Yard::with(|config| config.metrics = Some(([127, 0, 0, 1], 0).into())).await;
    let client = yard.client();
    let id = client.new_box().await;
    let (one, _two) = (client.new_context(&id).await, client.new_context(&id).await);
    client.came_of(&one, "print x").await;
    let figures = Client::new(yard.metrics_address(), None);
    let text = figures.get("/metrics").await.text();
    for line in ["boxyard_contexts 2", "boxyard_execs_total{door=\"context\"} 1"] {
        assert!(text.lines().any(|found| found == line), "no {line} in {text}");
    }
    client.delete(&one).await;
    assert!(figures.get("/metrics").await.text().lines().any(|found| found == "boxyard_contexts 1"));
}
