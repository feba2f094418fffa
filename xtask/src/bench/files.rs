//! The files API: small files one at a time, a large one, and thousands in one request.

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use boxyard_real_tests::Server;
use serde_json::json;

use super::Counts;
use super::measure::timed;
use super::report::{Goal, Report, Samples};

/// Bytes of a small file.
const SMALL: usize = 1024;
/// Small files in one upload.
const MANY: usize = 10_000;
/// The server's growth over a transfer at which memory is not flat any more.
const GROWTH_MIB: f64 = 32.0;

/// Small files, a large one both ways, and many.
pub fn measure(server: &Server, counts: Counts, report: &mut Report) -> Result<()> {
    let id = server.create()?;
    small(server, &id, counts.execs, report)?;
    large(server, &id, counts.stream, "one large file", report)?;
    many(server, &id, report)?;
    server.delete(&id)?;
    // Of a size that no default box has room for, nor a server that held it.
    let made = server.call("POST", "/v2/box", Some(&json!({"size": "medium"})))?.ok()?;
    let id = made["id"].as_str().context("a box without an id")?;
    large(server, id, counts.huge, "a huge file", report)?;
    server.delete(id)
}

fn small(server: &Server, id: &str, count: usize, report: &mut Report) -> Result<()> {
    let mut connection = server.client().connect()?;
    let body = json!({"path": "/workspace/home/small", "content": "x".repeat(SMALL)});
    let (write, read) = (format!("/v2/box/{id}/files/write"), format!("/v2/box/{id}/files/read?path=small"));
    let (mut written, mut been_read) = (Samples::default(), Samples::default());
    for n in 0..count + 20 {
        let (answer, took_writing) = timed(|| connection.call("POST", &write, Some(&body)))?;
        answer.ok()?;
        let (answer, took_reading) = timed(|| connection.call("GET", &read, None))?;
        ensure!(answer.ok()?["content"].as_str().is_some_and(|content| content.len() == SMALL), "another content");
        // The first few warm caches of the kernel that a server in use has warm.
        if n >= 20 {
            written.push(took_writing);
            been_read.push(took_reading);
        }
    }
    report.times("files/write of 1 KB, kept-alive", &written, Some(Goal::AtMost(2.0)));
    report.times("files/read of 1 KB, kept-alive", &been_read, Some(Goal::AtMost(2.0)));
    Ok(())
}

fn large(server: &Server, id: &str, bytes: u64, what: &str, report: &mut Report) -> Result<()> {
    let piece: Vec<u8> = (0..1_u32 << 20).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let before = resident_mib(server)?;
    let mut most = before;
    let path = format!("/v2/box/{id}/files/upload?path=large");
    let mut connection = server.client().connect()?;
    let (answer, up) = timed(|| {
        connection.send_body("PUT", &path, "application/octet-stream", bytes, |stream| {
            let mut left = bytes;
            while left > 0 {
                let part = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
                stream.write_all(&piece[..part])?;
                left -= part as u64;
                if left.is_multiple_of(64 << 20) {
                    most = most.max(resident_mib(server).unwrap_or(f64::MAX));
                }
            }
            Ok(())
        })
    })?;
    answer.ok()?;
    most = most.max(resident_mib(server)?);
    let mut came = 0_u64;
    let (answer, down) = timed(|| {
        connection.stream("GET", &format!("/v2/box/{id}/files/download?folder=large"), None, |part| {
            let before = came;
            came += part.len() as u64;
            if before >> 26 != came >> 26 {
                most = most.max(resident_mib(server)?);
            }
            Ok(())
        })
    })?;
    ensure!(answer.status == 200 && came == bytes, "status {}, {came} of {bytes} bytes", answer.status);
    let rates = [("upload", up), ("download", down)];
    for (way, took) in rates {
        report.value(&format!("files: {way} of {what}"), "MB/s", 1, rate(bytes, took), Some(Goal::AtLeast(500.0)));
    }
    report.value(
        &format!("  growth of the server over both (RSS), {what}"),
        "MiB",
        1,
        most - before,
        Some(Goal::AtMost(GROWTH_MIB)),
    );
    Ok(())
}

fn many(server: &Server, id: &str, report: &mut Report) -> Result<()> {
    let mut body = Vec::new();
    for n in 0..MANY {
        write!(
            body,
            "--x\r\nContent-Disposition: form-data; name=\"paths\"\r\n\r\n/workspace/home/many/{}/{n}\r\n--x\r\n\
             Content-Disposition: form-data; name=\"files\"; filename=\"f\"\r\n\r\n{}\r\n",
            n % 100,
            "x".repeat(SMALL)
        )?;
    }
    body.extend_from_slice(b"--x--\r\n");
    let path = format!("/v2/box/{id}/files/upload");
    let mut connection = server.client().connect()?;
    let (answer, up) = timed(|| {
        let length = body.len() as u64;
        connection.send_body("POST", &path, "multipart/form-data; boundary=x", length, |stream| stream.write_all(&body))
    })?;
    answer.ok()?;
    let packed = format!("/v2/box/{id}/files/download?folder=many&format=tar");
    let (answer, down) = timed(|| connection.call("GET", &packed, None))?;
    ensure!(answer.status == 200 && answer.body.len() > MANY * SMALL, "status {}", answer.status);
    let seconds = |took: Duration| took.as_secs_f64();
    report.value("files: 10,000 files of 1 KB in one upload", "s", MANY, seconds(up), Some(Goal::AtMost(4.0)));
    report.value("files: the same as a tar download", "s", MANY, seconds(down), None);
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "a rate needs no more than 52 bits")]
fn rate(bytes: u64, took: Duration) -> f64 {
    bytes as f64 / took.as_secs_f64() / 1e6
}

/// The server's resident memory.
fn resident_mib(server: &Server) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid()?))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
}
