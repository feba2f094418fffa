//! What a box's log tells.

use std::collections::BTreeSet;

use boxyard_proto::api::logs::{LogLevel, LogSource};
use boxyard_server::store::LogRow;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::Yard;

#[tokio::test]
async fn entries_have_exactly_four_keys_and_tell_the_story_in_order() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    client.sh(&id, "true").await;
    client.sh(&id, "exit 3").await;
    let logs = client.get(&format!("/v2/box/{id}/logs")).await.json();
    let entries = logs["logs"].as_array().expect("entries");
    for entry in entries {
        let keys: BTreeSet<&str> = entry.as_object().expect("an entry").keys().map(String::as_str).collect();
        assert_eq!(keys, BTreeSet::from(["timestamp", "level", "source", "message"]));
        assert!(entry["timestamp"].as_i64().is_some_and(|seconds| (1_700_000_000..4_000_000_000).contains(&seconds)));
    }
    let story: Vec<String> = entries
        .iter()
        .map(|entry| {
            let message: Vec<&str> =
                entry["message"].as_str().expect("text").split(' ').filter(|word| !word.starts_with("run_")).collect();
            format!(
                "{} {}: {}",
                entry["source"].as_str().expect("a"),
                entry["level"].as_str().expect("b"),
                message.join(" ")
            )
        })
        .collect();
    assert_eq!(
        story,
        [
            "system info: Box created",
            "user info: Run started: sh -c true",
            "user info: Run completed with exit code 0",
            "user info: Run started: sh -c exit 3",
            "user warn: Run failed with exit code 3",
        ]
    );
}

#[tokio::test]
async fn pages_are_cut_by_offset_and_limit() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    for _ in 0..60 {
        client.sh(&id, "true").await;
    }
    let page = async |query: &str| -> Vec<Value> {
        let logs = client.get(&format!("/v2/box/{id}/logs{query}")).await.json();
        logs["logs"].as_array().expect("entries").clone()
    };
    let all = page("?limit=5000").await;
    assert_eq!(all.len(), 121);
    assert_eq!(page("").await, all[..100]);
    assert_eq!(page("?offset=100").await, all[100..]);
    assert_eq!(page("?offset=10&limit=5").await, all[10..15]);
    assert_eq!(page("?offset=500").await, [] as [Value; 0]);
    for query in ["?limit=0", "?limit=-1", "?limit=x", "?offset=-1", "?offset=99999999999999"] {
        let path = format!("/v2/box/{id}/logs{query}");
        client.refused(Method::GET, &path, json!({}), StatusCode::BAD_REQUEST, "").await;
    }
}

#[tokio::test]
async fn a_log_is_followed_as_it_grows_and_ends_with_its_box() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    client.sh(&id, "true").await;
    let other = client.new_box().await;
    let path = format!("/v2/box/{id}/logs");
    let mut response = client.request(Method::GET, &format!("{path}?follow=1&tail=2")).send().await.expect("a head");
    assert_eq!(response.headers()["content-type"], "application/x-ndjson");
    let mut lines: Vec<Value> = Vec::new();
    let mut rest = Vec::new();
    let mut next = async |lines: &mut Vec<Value>, count: usize| {
        while lines.len() < count {
            rest.extend(response.chunk().await.expect("a chunk")?);
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                lines.push(serde_json::from_slice(&line).expect("JSON"));
            }
        }
        Some(())
    };
    next(&mut lines, 2).await.expect("what was there");
    client.sh(&other, "true").await;
    let run = client.begin(&id, "gate g; exit 3").await;
    next(&mut lines, 3).await.expect("the run's start");
    assert!(
        lines[2]["message"].as_str().is_some_and(|text| text.starts_with(&format!("Run {run} started"))),
        "{lines:?}"
    );
    yard.engine.open("g");
    next(&mut lines, 4).await.expect("its end");
    for _ in 0..20 {
        client.sh(&id, "true").await;
    }
    next(&mut lines, 44).await.expect("all of them");
    let cursors: Vec<String> = lines.iter().filter_map(|line| line["cursor"].as_str().map(str::to_owned)).collect();
    assert_eq!(cursors.len(), lines.len());
    lines.iter_mut().for_each(|line| drop(line.as_object_mut().expect("an object").remove("cursor")));
    let stored = client.get(&format!("{path}?limit=1000")).await.json()["logs"].as_array().expect("entries").clone();
    assert_eq!(lines, stored[stored.len() - 44..], "the same, in the same order, each once");
    // Whoever has lost the connection goes on behind what came last.
    let again =
        client.request(Method::GET, &format!("{path}?follow=1&after={}", cursors[9])).send().await.expect("a head");
    assert_eq!(again.headers()["x-log-cursor"], cursors[9]);
    let mut again = Followed::new(again);
    again.read(34).await;
    assert_eq!(again.lines, lines[10..]);
    client.delete(&format!("/v2/box/{id}")).await;
    while next(&mut lines, usize::MAX).await.is_some() {}
    for query in [
        "?follow=1&limit=3",
        "?follow=1&offset=3",
        "?tail=3",
        "?follow=x",
        "?after=1-1",
        "?follow=1&after=x",
        "?follow=1&tail=1&after=1-1",
    ] {
        client
            .refused(Method::GET, &format!("/v2/box/{other}/logs{query}"), json!({}), StatusCode::BAD_REQUEST, "")
            .await;
    }
}

/// A followed log, whose lines are read without their cursors.
struct Followed {
    response: reqwest::Response,
    rest: Vec<u8>,
    lines: Vec<Value>,
}

impl Followed {
    fn new(response: reqwest::Response) -> Self {
        Self { response, rest: Vec::new(), lines: Vec::new() }
    }

    /// Reads until there are so many lines.
    async fn read(&mut self, count: usize) {
        while self.lines.len() < count {
            self.rest.extend(self.response.chunk().await.expect("a chunk").expect("more"));
            while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                let mut line: Value = serde_json::from_slice(&line).expect("JSON");
                line.as_object_mut().expect("an object").remove("cursor");
                self.lines.push(line);
            }
        }
    }
}

#[tokio::test]
async fn a_log_that_was_lost_sight_of_for_long_is_taken_up_without_a_gap() {
    let mut yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let path = format!("/v2/box/{id}/logs");
    let begun = client.request(Method::GET, &format!("{path}?follow=1&tail=0")).send().await.expect("a head");
    let cursor = begun.headers()["x-log-cursor"].to_str().expect("text").to_owned();
    let before = client.get(&path).await.json()["logs"].as_array().expect("entries").len();
    drop(begun);
    // More than one look at the log brings.
    let store = yard.store().await;
    for n in 0..2_300 {
        let message = format!("entry {n}");
        let (level, source) = (LogLevel::Info, LogSource::User);
        store
            .append_log(id.parse().expect("an id"), LogRow { at: now_ms() + n, level, source, message })
            .await
            .expect("added");
    }
    yard.restart().await;
    let client = yard.client();
    let again = client.request(Method::GET, &format!("{path}?follow=1&after={cursor}")).send().await.expect("a head");
    let mut again = Followed::new(again);
    again.read(2_300).await;
    for (n, line) in again.lines.iter().take(2_300).enumerate() {
        assert_eq!(line["message"], json!(format!("entry {n}")));
    }
    let page = client.get(&format!("{path}?offset={before}&limit=1000")).await.json();
    assert_eq!(page["logs"].as_array().expect("entries")[..], again.lines[..1000]);
}

fn now_ms() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    i64::try_from(now.as_millis()).expect("a sane clock")
}
