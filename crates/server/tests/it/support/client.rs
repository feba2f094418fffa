//! A client that hides nothing of what came over the wire.

use std::net::SocketAddr;

use reqwest::header::HeaderMap;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::Value;

/// Speaks HTTP with one key.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    key: Option<String>,
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("a readable header"))
    }
}

impl Client {
    pub fn new(address: SocketAddr, key: Option<&str>) -> Self {
        let http = reqwest::Client::builder().build().expect("a client");
        Self { http, base: format!("http://{address}"), key: key.map(str::to_owned) }
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        match &self.key {
            Some(key) => request.header("X-Box-Api-Key", key),
            None => request,
        }
    }

    pub async fn send(&self, request: RequestBuilder) -> Answer {
        let response = request.send().await.expect("an answer");
        let (status, headers) = (response.status(), response.headers().clone());
        let body = response.bytes().await.expect("a whole body").to_vec();
        Answer { status, headers, body }
    }

    pub async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        let request = self.request(method, path);
        self.send(match body {
            Some(body) => request.json(&body),
            None => request,
        })
        .await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, None).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.call(Method::POST, path, Some(body)).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.call(Method::DELETE, path, None).await
    }

    /// The chunks of a streamed answer, as they came.
    pub async fn stream(&self, path: &str, body: Value) -> (HeaderMap, Vec<Vec<u8>>) {
        let mut response = self.request(Method::POST, path).json(&body).send().await.expect("an answer");
        assert_eq!(response.status(), StatusCode::OK);
        let headers = response.headers().clone();
        let mut chunks = Vec::new();
        while let Some(chunk) = response.chunk().await.expect("a whole body") {
            chunks.push(chunk.to_vec());
        }
        (headers, chunks)
    }
}

/// A streamed answer as the published clients take it apart: what comes before the marker, and the data after it.
#[derive(Debug, PartialEq)]
pub struct Parts {
    pub output: Vec<u8>,
    pub event: &'static str,
    pub data: Value,
}

pub fn parts(chunks: &[Vec<u8>]) -> Parts {
    let all = chunks.concat();
    for event in ["exit", "error"] {
        let marker = format!("event: {event}\ndata: ");
        let Some(at) = all.windows(marker.len()).rposition(|window| window == marker.as_bytes()) else { continue };
        let data = str::from_utf8(&all[at + marker.len()..]).expect("text");
        let data = data.strip_suffix("\n\n").expect("an empty line at the end");
        assert!(!data.contains('\n'), "JSON on one line: {data}");
        return Parts { output: all[..at].to_vec(), event, data: serde_json::from_str(data).expect("JSON") };
    }
    panic!("no last block in {:?}", String::from_utf8_lossy(&all));
}
