//! What runs write is lost by nobody's leaving: neither the client's nor the server's.

#![forbid(unsafe_code)]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use boxyard_real_tests::{Server, until};
use serde_json::{Value, json};

/// How long anything may take that should happen.
const PATIENCE: Duration = Duration::from_secs(60);

/// Writes numbers for ever, one a line.
const COUNTER: &str = "i=0; while :; do i=$((i+1)); echo $i; done";

fn output(id: &str, run: &str, query: &str) -> String {
    format!("/v2/box/{id}/runs/{run}/output{query}")
}

/// The number in this header of an answer.
fn number(answer: &boxyard_real_tests::Answer, name: &str) -> Result<u64> {
    answer.header(name).with_context(|| format!("no header {name}"))?.parse().context("no number")
}

/// Checks that these are whole lines with the numbers from 1 on, and returns the last number.
fn check_counter(text: &[u8]) -> Result<u64> {
    let mut last = 0;
    for line in std::str::from_utf8(text)?.split_inclusive('\n') {
        if let Some(line) = line.strip_suffix('\n') {
            ensure!(line.parse() == Ok(last + 1), "'{line}' after {last}");
            last += 1;
        }
    }
    Ok(last)
}

#[test]
fn a_counter_has_no_gap_over_three_servers_that_were_killed() -> Result<()> {
    let mut server = Server::start()?;
    let id = server.create()?;
    let run = server.begin(&id, COUNTER)?;
    let mut so_far = 0;
    for _ in 0..3 {
        so_far = until("the counter to go on", PATIENCE, || {
            let answer = server.call("GET", &output(&id, &run, "?tail=0"), None)?;
            Ok(Some(number(&answer, "x-output-total")?).filter(|total| *total > so_far + 100_000))
        })?;
        server.kill()?;
        server.launch()?;
    }
    server.call("POST", &format!("/v2/box/{id}/runs/{run}/cancel"), Some(&json!({})))?.ok()?;
    let all = server.call("GET", &output(&id, &run, "?follow=1"), None)?;
    ensure!(all.status == 200 && number(&all, "x-output-dropped")? == 0, "{}", all.status);
    let last = check_counter(&all.body)?;
    ensure!(all.body.len() as u64 > so_far && last > 50_000, "{} bytes, up to {last}", all.body.len());
    Ok(())
}

#[test]
fn a_run_whose_client_leaves_is_followed_by_two_others_to_its_end() -> Result<()> {
    let server = Server::start()?;
    let id = server.create()?;
    server.sh(&id, "mkfifo go")?;
    let command = json!({"command": ["sh", "-c", "seq 1 100000; cat go > /dev/null; seq 100001 300000; exit 3"]});
    let mut stream = server.client().connect()?;
    stream.send("POST", &format!("/v2/box/{id}/exec-stream"), Some(&command))?;
    let run = until("the run to be recorded", PATIENCE, || {
        let runs = server.call("GET", &format!("/v2/box/{id}/runs"), None)?.ok()?;
        Ok(runs["runs"][0]["prompt"]
            .as_str()
            .is_some_and(|text| text.contains("cat go"))
            .then(|| runs["runs"][0]["id"].clone()))
    })?;
    let run = run.as_str().context("an id")?.to_owned();
    drop(stream);
    let followers: Vec<_> = (0..2)
        .map(|_| {
            let (client, path) = (server.client().clone(), output(&id, &run, "?follow=1"));
            thread::spawn(move || client.call("GET", &path, None))
        })
        .collect();
    server.sh(&id, "echo > go")?;
    for follower in followers {
        let Ok(answer) = follower.join() else { bail!("a follower panicked") };
        ensure!(check_counter(&answer?.body)? == 300_000);
    }
    let ended = server.call("GET", &output(&id, &run, "?stream=stderr"), None)?;
    ensure!(ended.header("x-box-exit-code") == Some("3") && ended.body.is_empty());
    Ok(())
}

#[test]
fn much_output_is_kept_in_part_and_that_is_said() -> Result<()> {
    let server = Server::start()?;
    let id = server.create()?;
    let run = server.begin(&id, "head -c 300000000 /dev/zero; echo end")?;
    let all = server.call("GET", &output(&id, &run, "?follow=1&offset=300000000"), None)?;
    ensure!(all.body == b"end\n", "{} bytes", all.body.len());
    let kept = server.call("GET", &output(&id, &run, ""), None)?;
    let (offset, dropped, total) =
        (number(&kept, "x-output-offset")?, number(&kept, "x-output-dropped")?, number(&kept, "x-output-total")?);
    ensure!(total == 300_000_004 && offset == dropped && dropped > 280_000_000, "{offset} {dropped} {total}");
    ensure!(kept.body.len() as u64 == total - offset && kept.body.ends_with(b"\0end\n"));
    Ok(())
}

/// A request with an idempotency key, and its answer's text.
fn keyed(server: &Server, path: &str, key: &str, body: &Value) -> Result<String> {
    let (client, body) = (server.client(), body.to_string());
    let mut stream = TcpStream::connect(client.address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nhost: boxyard\r\nx-box-api-key: {}\r\nidempotency-key: {key}\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n{body}",
        client.key,
        body.len()
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

#[test]
fn a_command_with_a_key_runs_once_although_the_server_is_killed_and_it_is_asked_for_again() -> Result<()> {
    let mut server = Server::start()?;
    let id = server.create()?;
    server.sh(&id, "mkfifo go")?;
    let path = format!("/v2/box/{id}/exec");
    let order = json!({"command": ["sh", "-c", "echo once >> log; echo begun; cat go > /dev/null; echo done; exit 4"]});
    let detached = json!({"command": order["command"], "async": true});
    let begun = keyed(&server, &path, "deploy-1", &detached)?;
    until("it to run", PATIENCE, || Ok((server.sh(&id, "cat log 2>/dev/null || true")? == "once").then_some(())))?;
    server.kill()?;
    server.launch()?;
    let again = keyed(&server, &path, "deploy-1", &detached)?;
    let run = |text: &str| text.split("run_").nth(1).map(|rest| rest.chars().take(26).collect::<String>());
    ensure!(run(&begun).is_some() && run(&begun) == run(&again), "{begun}\n{again}");
    thread::scope(|scope| -> Result<()> {
        let waiting = scope.spawn(|| keyed(&server, &path, "deploy-1", &order));
        server.sh(&id, "echo > go")?;
        let Ok(answer) = waiting.join() else { bail!("it panicked") };
        let answer = answer?;
        ensure!(answer.contains("idempotent-replayed: true"), "{answer}");
        ensure!(answer.contains(r#"{"exit_code":4,"output":"begun\ndone\n"}"#), "{answer}");
        Ok(())
    })?;
    ensure!(server.sh(&id, "cat log")? == "once");
    let other = keyed(&server, &path, "deploy-1", &json!({"command": ["true"]}))?;
    ensure!(other.starts_with("HTTP/1.1 422"), "{other}");
    Ok(())
}
