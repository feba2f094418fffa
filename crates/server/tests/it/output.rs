//! What runs have written, for those who come later.

use std::collections::BTreeMap;

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::support::{Answer, Client, Yard, box_id};

impl Client {
    /// What a run has written, by this query.
    async fn output(&self, id: &str, run: &str, query: &str) -> Answer {
        self.get(&format!("/v2/box/{id}/runs/{run}/output{query}")).await
    }

    /// Runs `sh -c script` to its end and gives its run's id.
    async fn ran(&self, id: &str, script: &str) -> String {
        let answer = self.post(&format!("/v2/box/{id}/exec"), json!({"command": ["sh", "-c", script]})).await;
        answer.header("x-box-run-id").expect("a run id").to_owned()
    }
}

fn told(answer: &Answer) -> (u64, u64, u64) {
    let number = |name: &str| answer.header(name).expect("a header").parse().expect("a number");
    (number("x-output-offset"), number("x-output-dropped"), number("x-output-total"))
}

#[tokio::test]
async fn the_output_of_a_run_is_there_when_it_has_ended_whole_or_in_part() {
    let mut yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let run = client.ran(&id, "printf out; stderr err; exit 3").await;
    let long = client.ran(&id, "yes 1000001").await;
    let none = client.ran(&id, "true").await;
    for round in 0..2 {
        let client = yard.client();
        let whole = client.output(&id, &run, "").await;
        assert_eq!((whole.status, whole.text().as_str()), (StatusCode::OK, "outerr\n"), "{round}");
        assert_eq!(told(&whole), (0, 0, 7));
        assert_eq!(whole.header("content-type"), Some("application/octet-stream"));
        assert_eq!((whole.header("x-box-run-status"), whole.header("x-box-exit-code")), (Some("failed"), Some("3")));
        assert_eq!(whole.header("x-box-run-id"), Some(run.as_str()));
        for (query, text) in [
            ("?offset=2", "terr\n"),
            ("?tail=4", "err\n"),
            ("?tail=100&follow=1", "outerr\n"),
            ("?stream=stdout", "out"),
            ("?stream=stderr&offset=1", "err\n"),
            ("?stream=both&follow=true", "outerr\n"),
            ("?offset=7", ""),
            ("?offset=70", ""),
            ("?offset=70&follow=1", ""),
        ] {
            let part = client.output(&id, &run, query).await;
            assert_eq!((part.status, part.text().as_str()), (StatusCode::OK, text), "{query}");
        }
        assert_eq!(told(&client.output(&id, &run, "?tail=4").await), (3, 0, 7));
        let all = client.output(&id, &long, "").await;
        assert!(all.body.len() == 1_000_001 && all.body.chunks(2).all(|line| line[0] == b'y'));
        assert_eq!(client.output(&id, &long, "?offset=1000000").await.text(), "y");
        let nothing = client.output(&id, &none, "?follow=1").await;
        assert_eq!((told(&nothing), nothing.body.len()), ((0, 0, 0), 0));
        assert_eq!(nothing.header("x-box-exit-code"), Some("0"));
        yard.restart().await;
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_question_is_said() {
    let yard = Yard::start().await;
    let (client, stranger) = (yard.client(), yard.stranger().await);
    let (id, other) = (client.new_box().await, client.new_box().await);
    let run = client.ran(&id, "echo secret").await;
    let path = |id: &str, run: &str, query: &str| format!("/v2/box/{id}/runs/{run}/output{query}");
    for query in ["?offset=-1", "?offset=x", "?tail=x", "?offset=1&tail=1", "?follow=2", "?stream=all"] {
        let answer = client.output(&id, &run, query).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{query}: {answer:?}");
    }
    let unknown = "run_00000000000000000000000000";
    for (id, run) in [(other.as_str(), run.as_str()), (&id, unknown), (&id, "x")] {
        client.refused(Method::GET, &path(id, run, ""), json!({}), StatusCode::NOT_FOUND, "Run not found").await;
    }
    for query in ["", "?follow=1"] {
        let theirs = path(&id, &run, query);
        stranger.refused(Method::GET, &theirs, json!({}), StatusCode::NOT_FOUND, "Box not found").await;
    }
    let database = rusqlite::Connection::open(yard.config().database()).expect("open the database");
    database.execute_batch("update runs set output_end = null, output = null, output_held = 0").expect("as before");
    client.refused(Method::GET, &path(&id, &run, ""), json!({}), StatusCode::NOT_FOUND, "older version").await;
}

#[tokio::test]
async fn followers_get_what_comes_and_the_end_and_hold_nothing_up() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let run = client.begin(&id, "echo one; gate two; echo two; gate much; yes 3000000; gate end; exit 5").await;
    yard.engine.came_to("two", 1).await;
    let follow = |query: &str| client.request(Method::GET, &format!("/v2/box/{id}/runs/{run}/output{query}"));
    let mut first = follow("?follow=1").send().await.expect("a head");
    assert_eq!(first.headers()["x-box-run-status"], "running");
    assert_eq!(first.chunk().await.expect("a chunk").expect("bytes"), "one\n");
    // One that reads nothing at all.
    let asleep = follow("?follow=1").send().await.expect("a head");
    let beyond = tokio::spawn(follow("?follow=1&offset=8").send());
    yard.engine.open("two");
    assert_eq!(first.chunk().await.expect("a chunk").expect("bytes"), "two\n", "at once");
    yard.engine.open("much");
    yard.engine.came_to("end", 1).await;
    // The program has written all of it, which the server reads soon.
    let whole = async {
        loop {
            let now = client.output(&id, &run, "").await;
            if now.body.len() == 3_000_008 {
                return now;
            }
            tokio::task::yield_now().await;
        }
    };
    let now = tokio::time::timeout(crate::support::PATIENCE, whole).await.expect("all that was written");
    assert_eq!(now.header("x-box-run-status"), Some("running"), "up to now, and ends");
    yard.engine.open("end");
    let rest = first.bytes().await.expect("the rest");
    assert!(rest.len() == 3_000_000);
    // Who has heard of the end finds it recorded.
    let ended = client.output(&id, &run, "?offset=99999999").await;
    assert_eq!((ended.header("x-box-run-status"), ended.header("x-box-exit-code")), (Some("failed"), Some("5")));
    let beyond = beyond.await.expect("no panic").expect("a head").bytes().await.expect("the rest");
    assert!(beyond == rest);
    assert_eq!(asleep.bytes().await.expect("late").len(), 3_000_008);
}

#[tokio::test]
async fn a_stream_that_broke_off_is_taken_up_where_it_was() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let request = client.request(Method::POST, &format!("/v2/box/{id}/exec-stream"));
    let script = json!({"command": ["sh", "-c", "echo begun; gate go; yes 2000000; echo end"]});
    let mut response = request.json(&script).send().await.expect("a head");
    let run = response.headers()["x-box-run-id"].to_str().expect("text").to_owned();
    assert_eq!(response.chunk().await.expect("a chunk").expect("output"), "begun\n");
    yard.engine.came_to("go", 1).await;
    drop(response);
    yard.engine.open("go");
    let rest = client.output(&id, &run, "?offset=6&follow=1").await;
    assert_eq!(rest.body.len(), 2_000_004);
    assert!(rest.body.ends_with(b"y\nend\n"));
}

#[tokio::test]
async fn nothing_is_lost_or_doubled_over_a_restart_in_the_middle() {
    let mut yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let run =
        client.begin(&id, "echo short; gate a; yes 500000; echo mark; gate b; yes 200000; echo last; exit 4").await;
    yard.engine.came_to("a", 1).await;
    let follower = client.request(Method::GET, &format!("/v2/box/{id}/runs/{run}/output?follow=1"));
    let mut follower = follower.send().await.expect("a head");
    assert_eq!(follower.chunk().await.expect("a chunk").expect("bytes"), "short\n");
    yard.restart().await;
    let cut = follower.chunk().await;
    assert!(cut.is_err(), "it breaks off rather than ends: {cut:?}");
    assert_eq!(yard.client().output(&id, &run, "").await.text(), "short\n", "it was in no file yet");
    yard.engine.open("a");
    yard.engine.came_to("b", 1).await;
    yard.restart().await;
    yard.engine.open("b");
    let all = yard.client().output(&id, &run, "?follow=1").await;
    let expected = ["short\n", &"y\n".repeat(250_000), "mark\n", &"y\n".repeat(100_000), "last\n"].concat();
    assert!(all.body == expected.as_bytes(), "{} bytes of {}", all.body.len(), expected.len());
    let client = yard.client();
    assert_eq!(client.run(&id, &run).await["status"], "failed");
    // The box has forgotten it: the end was recorded, and it was told so.
    yard.engine.idle(&box_id(&id)).await;
    assert_eq!(client.output(&id, &run, "?tail=5").await.text(), "last\n");
}

#[tokio::test]
async fn the_end_of_a_run_is_not_lost_when_it_comes_while_no_server_is_there() {
    let mut yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    let run = client.begin(&id, "echo before; gate g; echo after; exit 7").await;
    yard.engine.came_to("g", 1).await;
    yard.down().await;
    yard.engine.open("g");
    yard.engine.idle(&box_id(&id)).await;
    yard.up().await;
    let all = yard.client().output(&id, &run, "?follow=1").await;
    assert_eq!(all.text(), "before\nafter\n");
    let client = yard.client();
    assert_eq!(client.output(&id, &run, "").await.header("x-box-exit-code"), Some("7"));
}

#[tokio::test]
async fn the_oldest_bytes_go_and_a_reader_is_told() {
    let yard = Yard::with(|config| config.output_keep = 256 * 1024).await;
    let client = yard.client();
    let id = client.new_box().await;
    let run = client.ran(&id, "yes 3000000; echo end").await;
    let all = client.output(&id, &run, "").await;
    let (offset, dropped, total) = told(&all);
    assert!(total == 3_000_004 && offset == dropped && dropped > 2_700_000, "{offset} {dropped} {total}");
    assert_eq!(all.body.len() as u64, total - offset);
    assert!(all.body.ends_with(b"y\nend\n"));
    assert_eq!(told(&client.output(&id, &run, "?tail=4").await), (3_000_000, dropped, total));
}

#[tokio::test]
async fn when_all_outputs_are_too_much_those_of_the_oldest_runs_go() {
    let yard = Yard::with(|config| {
        config.output_keep = 256 * 1024;
        config.output_total = 1 << 20;
    })
    .await;
    let client = yard.client();
    let id = client.new_box().await;
    let short = client.ran(&id, "echo first").await;
    let mut runs = Vec::new();
    for _ in 0..12 {
        runs.push(client.ran(&id, "yes 200000").await);
    }
    let newest = client.output(&id, &runs[11], "").await;
    assert_eq!((newest.body.len(), told(&newest)), (200_000, (0, 0, 200_000)));
    for gone in [&short, &runs[0]] {
        let path = format!("/v2/box/{id}/runs/{gone}/output");
        let asked = async {
            loop {
                let answer = client.get(&path).await;
                if answer.body.is_empty() {
                    return answer;
                }
            }
        };
        let answer = tokio::time::timeout(crate::support::PATIENCE, asked).await.expect("it goes");
        let (offset, dropped, total) = told(&answer);
        assert!(answer.status == StatusCode::OK && offset == total && dropped == total && total > 0, "{answer:?}");
    }
    let mut sizes = 0;
    for entry in std::fs::read_dir(yard.folder().join("spool").join(&id)).expect("the box's folder") {
        sizes += entry.expect("an entry").metadata().expect("its size").len();
    }
    assert!(sizes <= 1 << 20, "{sizes}");
}

#[tokio::test]
async fn outputs_go_with_their_box_and_with_their_runs_record() {
    let mut yard = Yard::start().await;
    let client = yard.client();
    let (kept, deleted) = (client.new_box().await, client.new_box().await);
    let (old, young) = (client.ran(&kept, "yes 100000").await, client.ran(&kept, "yes 100000").await);
    client.ran(&deleted, "yes 100000").await;
    let live = client.begin(&deleted, "yes 200000; gate never").await;
    yard.engine.came_to("never", 1).await;
    client.output(&deleted, &live, "").await;
    let spool = yard.folder().join("spool");
    assert!(spool.join(&deleted).is_dir());
    client.delete(&format!("/v2/box/{deleted}")).await;
    let gone = async {
        while spool.join(&deleted).exists() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(crate::support::PATIENCE, gone).await.expect("its folder goes");
    yard.down().await;
    // What a killed server may have left, and a run that has grown old.
    std::fs::create_dir_all(spool.join(&deleted)).expect("make a folder");
    for (id, run) in [(&deleted, &live), (&kept, &live)] {
        std::fs::write(spool.join(id).join(run), "left").expect("write");
    }
    let database = rusqlite::Connection::open(yard.config().database()).expect("open the database");
    database.execute("update runs set completed_at = 1 where id = ?1", [&old]).expect("age it");
    drop(database);
    yard.up().await;
    let swept = async {
        loop {
            let left: BTreeMap<String, Vec<String>> =
                names(&spool).into_iter().map(|id| (id.clone(), names(&spool.join(id)))).collect();
            if left == BTreeMap::from([(kept.clone(), vec![young.clone()])]) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(crate::support::PATIENCE, swept).await.expect("what nobody knows goes");
    assert_eq!(yard.client().output(&kept, &young, "").await.body.len(), 100_000);
    assert_eq!(yard.client().output(&kept, &old, "").await.status, StatusCode::NOT_FOUND);
}

fn names(folder: &std::path::Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("text")).collect()
}

#[tokio::test]
async fn a_program_whose_input_is_still_being_sent_can_write_much() {
    let yard = Yard::start().await;
    let client = yard.client();
    let id = client.new_box().await;
    // It writes far more than a box holds, and reads nothing of its input meanwhile.
    let code = format!("deaf yes 9000000; exit 0\n{}", "x".repeat(10_000_000));
    let answer = client.post(&format!("/v2/box/{id}/code"), json!({"code": code, "language": "python"})).await;
    assert_eq!((answer.status, &answer.json()["exit_code"]), (StatusCode::OK, &json!(0)));
    assert_eq!(answer.json()["output"].as_str().map(str::len), Some(9_000_000));
}
