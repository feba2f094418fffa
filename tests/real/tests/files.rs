//! Files of real boxes over HTTP: what hostile boxes try, and what is large or many.

#![forbid(unsafe_code)]

use std::fs;
use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use boxyard_real_tests::{Answer, Server, until};
use serde_json::{Value, json};

/// How long what nothing announces may take.
const SETTLE: Duration = Duration::from_secs(60);
/// A large file: larger than what anything here could hold by mistake without being found out.
const LARGE: u64 = 1 << 30;
/// What the server may grow by while it passes on a large file.
const GROWTH_MAX_KIB: i64 = 48 * 1024;

fn get(server: &Server, id: &str, rest: &str) -> Result<Answer> {
    server.call("GET", &format!("/v2/box/{id}/files/{rest}"), None)
}

fn post(server: &Server, id: &str, what: &str, body: &Value) -> Result<Answer> {
    server.call("POST", &format!("/v2/box/{id}/files/{what}"), Some(body))
}

fn error(answer: &Answer) -> Result<String> {
    Ok(answer.json()?["error"].as_str().unwrap_or_default().to_owned())
}

/// The server's resident memory.
fn resident_kib(server: &Server) -> Result<i64> {
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid()?))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

fn part(name: &str, content: &[u8]) -> Vec<u8> {
    let file = if name == "files" { "; filename=\"f\"" } else { "" };
    let head = format!("--x\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n");
    [head.as_bytes(), content, b"\r\n"].concat()
}

fn upload(server: &Server, id: &str, form: &[u8]) -> Result<Answer> {
    let body = [form, b"--x--\r\n"].concat();
    let path = format!("/v2/box/{id}/files/upload");
    let length = body.len() as u64;
    let mut connection = server.client().connect()?;
    connection.send_body("POST", &path, "multipart/form-data; boundary=x", length, |stream| stream.write_all(&body))
}

#[test]
fn links_that_are_swapped_under_reads_and_writes_never_lead_out() -> Result<()> {
    let server = Server::start()?;
    let id = server.create()?;
    server.sh(
        &id,
        "mkdir -p real other && echo inside > real/f && ln -s /etc other-target && sudo cp /etc/hostname /etc/f",
    )?;
    let swap = "ln -sfn /workspace/home/real a; ln -sfn /etc b; \
                while [ ! -e stop ]; do mv -T b c; mv -T a b; mv -T c a; ln -sfn /etc/f real/g; ln -sfn f real/g; done";
    let run = server.begin(&id, swap)?;
    until("the swapping to begin", SETTLE, || {
        Ok((server.sh(&id, "test -e b && echo yes || true")? == "yes").then_some(()))
    })?;
    let (mut read, mut refused) = (0, 0);
    for n in 0..300 {
        for path in ["a/f", "b/f", "real/g"] {
            let answer = get(&server, &id, &format!("read?path={path}"))?;
            match answer.status {
                200 => {
                    ensure!(answer.json()?["content"] == "inside\n", "{path} led out: {}", answer.text());
                    read += 1;
                }
                403 | 404 => refused += 1,
                status => anyhow::bail!("{path}: {status} {}", answer.text()),
            }
        }
        let answer = post(&server, &id, "write", &json!({"path": format!("a/new-{n}"), "content": "mine"}))?;
        ensure!([200, 403, 404].contains(&answer.status), "{} {}", answer.status, answer.text());
        let answer = post(&server, &id, "remove", &json!({"path": "b/hostname"}))?;
        ensure!([403, 404].contains(&answer.status), "{} {}", answer.status, answer.text());
    }
    server.sh(&id, "touch stop")?;
    ensure!(read > 0 && refused > 0, "the swapping was never met: {read} read, {refused} refused");
    until("the swapping to end", SETTLE, || Ok((server.run(&id, &run)?["status"] != "running").then_some(())))?;
    ensure!(server.sh(&id, "ls /etc/new-* 2>/dev/null | wc -l")? == "0", "something was written outside");
    ensure!(server.sh(&id, "test -e /etc/hostname && echo there")? == "there");
    // The box is its own world in any case: the host's files were never in reach.
    ensure!(!std::path::Path::new("/etc/new-0").exists());
    Ok(())
}

/// The processes that work on files in a box call themselves so. They are the box's user's own, so that anything there may end them or
/// hold them, but nothing there may look into them.
const WORKERS: &str =
    "for p in /proc/[0-9]*; do [ \"$(cat $p/comm 2>/dev/null)\" = files ] && echo ${p#/proc/}; done; true";

#[test]
fn a_box_that_kills_the_work_on_its_files_gets_answers_and_harms_nobody_else() -> Result<()> {
    let server = Server::start()?;
    let (id, other) = (server.create()?, server.create()?);
    server.sh(&id, "truncate -s 3G sparse; echo kept > kept; mkdir many; touch many/$(seq -s ' many/' 3000)")?;
    server.sh(&other, "echo other > kept")?;
    // In the middle of an answer: what has come is not taken for all of it.
    let mut came = 0_u64;
    let mut connection = server.client().connect()?;
    let cut = connection.stream("GET", &format!("/v2/box/{id}/files/download?folder=sparse"), None, |part| {
        if came == 0 {
            let killed = server.sh(&id, &format!("for p in $({WORKERS}); do kill -9 $p && echo killed; done"))?;
            ensure!(killed.contains("killed"), "there was nothing to kill: {killed}");
        }
        came += part.len() as u64;
        Ok(())
    });
    ensure!(cut.is_err() && came < 3 << 30, "{came} bytes came, and an end");
    let killing =
        server.begin(&id, &format!("touch begun; while [ ! -e stop ]; do kill -9 $({WORKERS}) 2>/dev/null; done"))?;
    until("the killing to begin", SETTLE, || {
        Ok((server.sh(&id, "test -e begun && echo yes || true")? == "yes").then_some(()))
    })?;
    let mut killed = 0;
    for _ in 0..40 {
        for query in ["read?path=kept", "list?folder=many", "download?path=many&format=tar", "search?name=none"] {
            // An answer that breaks off is one too.
            match get(&server, &id, query) {
                Ok(answer) if answer.status == 200 => {}
                Ok(answer) => {
                    ensure!(answer.status == 502, "{query}: {} {}", answer.status, answer.text());
                    killed += 1;
                }
                Err(_) => killed += 1,
            }
        }
        let answer = post(&server, &id, "write", &json!({"path": "kept", "content": "whole\n"}))?;
        ensure!([200, 502].contains(&answer.status), "{} {}", answer.status, answer.text());
        ensure!(get(&server, &other, "read?path=kept")?.ok()?["content"] == "other\n");
    }
    ensure!(killed > 0, "nothing was ever killed");
    server.sh(&id, "touch stop")?;
    until("the killing to end", SETTLE, || Ok((server.run(&id, &killing)?["status"] != "running").then_some(())))?;
    // What was written is the old or the new, never a part.
    let content = get(&server, &id, "read?path=kept")?.ok()?["content"].clone();
    ensure!(content == "kept\n" || content == "whole\n", "{content}");
    Ok(())
}

#[test]
fn a_box_that_holds_the_work_on_its_files_holds_nobody_who_leaves_and_nothing_that_deletes_it() -> Result<()> {
    let server = Server::start()?;
    let id = server.create()?;
    server.sh(&id, "truncate -s 3G sparse; echo kept > kept")?;
    let hold = format!("for p in $({WORKERS}); do kill -STOP $p && echo held; done");
    let mut connection = server.client().connect()?;
    let (mut came, mut others) = (0_u64, String::new());
    let left = connection.stream("GET", &format!("/v2/box/{id}/files/download?folder=sparse"), None, |part| {
        if came == 0 {
            ensure!(server.sh(&id, &hold)?.contains("held"), "there was nothing to hold");
            // Others have workers of their own.
            others = get(&server, &id, "read?path=kept")?.ok()?["content"].to_string();
        }
        came += part.len() as u64;
        // All that was on its way when it was held.
        ensure!(came < 1 << 20, "enough");
        Ok(())
    });
    ensure!(left.is_err() && others.contains("kept"), "{others}");
    drop(connection);
    until("the box to be idle", SETTLE, || {
        Ok((server.call("GET", &format!("/v2/box/{id}"), None)?.ok()?["status"] == "idle").then_some(()))
    })?;
    ensure!(server.sh(&id, WORKERS)?.is_empty(), "a worker that was held is left");
    // Neither looks anybody in the box into a worker, nor does its root into the first process, nor end it, nor hold it.
    let mut watching = server.client().connect()?;
    watching.send("GET", &format!("/v2/box/{id}/files/watch?path=."), None)?;
    until("the watch to be set", SETTLE, || Ok((!server.sh(&id, WORKERS)?.is_empty()).then_some(())))?;
    let tried = format!(
        "for p in $({WORKERS}) 1; do for what in mem fd environ; do \
           ls -A /proc/$p/$what/ 2>/dev/null; head -c 1 /proc/$p/$what 2>/dev/null; sudo head -c 1 /proc/$p/$what 2>/dev/null; \
         done; echo junk 2>/dev/null > /proc/$p/fd/1; sudo sh -c \"echo junk 2>/dev/null > /proc/$p/fd/1\"; done 2>/dev/null; \
         sudo kill -9 1; sudo kill -STOP 1; echo alive"
    );
    ensure!(server.sh(&id, &tried)? == "alive");
    server.sh(&id, &hold)?;
    server.call("DELETE", &format!("/v2/box/{id}"), None)?.ok()?;
    Ok(())
}

#[test]
fn what_is_no_file_and_what_leads_out_is_refused_and_holds_nobody_up() -> Result<()> {
    let server = Server::start()?;
    let id = server.create()?;
    server.sh(
        &id,
        "mkfifo fifo; ln -s fifo to-fifo; ln -s loop loop; ln -s nowhere broken; ln -s /proc/1/environ env; ln -s / root; \
         python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"sock\")'; \
         mkdir -p deep; printf x > plain",
    )?;
    for (path, status) in [
        ("fifo", 400),
        ("to-fifo", 400),
        ("sock", 400),
        ("loop", 400),
        ("broken", 404),
        ("env", 403),
        ("root/etc/passwd", 403),
        ("../../etc/passwd", 403),
        ("/proc/self/environ", 403),
        ("deep", 400),
        ("plain/x", 400),
        ("plain/", 400),
    ] {
        for query in [format!("read?path={path}"), format!("download?folder={path}")] {
            let answer = get(&server, &id, &query)?;
            ensure!(answer.status == status, "{query}: {} {}", answer.status, answer.text());
        }
    }
    for (path, status) in [("fifo", 400), ("root/tmp/x", 403), ("env", 403), ("deep", 400), ("plain/x", 400)] {
        let answer = post(&server, &id, "write", &json!({"path": path, "content": "x"}))?;
        ensure!(answer.status == status, "{path}: {} {}", answer.status, answer.text());
        let answer = upload(&server, &id, &[part("paths", path.as_bytes()), part("files", b"x")].concat())?;
        ensure!(answer.status == status, "{path}: {} {}", answer.status, answer.text());
    }
    ensure!(error(&get(&server, &id, "read?path=env")?)?.contains("permission denied"));
    // A link to nothing is written through, as a shell would.
    post(&server, &id, "write", &json!({"path": "broken", "content": "now"}))?.ok()?;
    ensure!(server.sh(&id, "cat nowhere")? == "now");
    // All of it can be listed and packed, and whatever cannot be is left out.
    let listed = get(&server, &id, "list")?.ok()?;
    ensure!(listed["files"].as_array().is_some_and(|files| files.len() >= 10), "{listed}");
    ensure!(get(&server, &id, "download?path=.&format=zip")?.status == 200);
    Ok(())
}

#[test]
fn a_file_that_changes_while_it_is_read_is_told_as_it_was_or_not_as_a_whole_one() -> Result<()> {
    const LONG: u64 = 256 << 20;
    let server = Server::start()?;
    let id = server.create()?;
    for (change, whole) in [
        ("truncate -s 1M file", false),
        ("head -c 1M /dev/zero >> file", true),
        ("echo other > new && mv new file", true),
        ("rm file", true),
    ] {
        server.sh(&id, &format!("rm -f file; truncate -s {LONG} file"))?;
        let mut came = 0_u64;
        let mut connection = server.client().connect()?;
        let answer = connection.stream("GET", &format!("/v2/box/{id}/files/download?folder=file"), None, |part| {
            if came == 0 {
                server.sh(&id, change)?;
            }
            came += part.len() as u64;
            Ok(())
        });
        if whole {
            ensure!(answer?.status == 200 && came == LONG, "{change}: {came} bytes came");
        } else {
            ensure!(answer.is_err() && came < LONG, "{change}: {came} bytes were taken for all of them");
        }
    }
    Ok(())
}

#[test]
fn odd_names_and_holes_arrive_as_they_are() -> Result<()> {
    let server = Server::start()?;
    let id = server.create()?;
    server.sh(
        &id,
        "mkdir odd; cd odd; printf x > \"$(printf '\\377\\376')\"; printf y > \"$(printf 'a\\nb')\"; printf z > ' -rf'; \
         truncate -s 8G hole; printf end | dd of=hole bs=1 seek=8589934592 conv=notrunc 2>/dev/null",
    )?;
    let listed = get(&server, &id, "list?folder=odd")?.ok()?;
    let files = listed["files"].as_array().context("no files")?;
    let of = |name: &str| files.iter().find(|file| file["name"] == name).with_context(|| format!("no {name:?}"));
    let (bytes, lines) = (of("\u{fffd}\u{fffd}")?, of("a\nb")?);
    let path = bytes["path_base64"].as_str().context("no bytes")?.replace('+', "%2B").replace('/', "%2F");
    ensure!(get(&server, &id, &format!("read?path_base64={path}"))?.ok()?["content"] == "x");
    ensure!(lines.get("path_base64").is_none());
    ensure!(get(&server, &id, "read?path=odd/a%0Ab")?.ok()?["content"] == "y");
    ensure!(get(&server, &id, "read?path=odd/%20-rf")?.ok()?["content"] == "z");
    // A hole is read as zeros, at whatever place, and takes no room.
    ensure!(of("hole")?["size"] == (8_u64 << 30) + 3);
    ensure!(get(&server, &id, "read?path=odd/hole&offset=8589934590&length=100")?.ok()?["content"] == "\0\0end");
    let too_long = get(&server, &id, "read?path=odd/hole")?;
    ensure!(too_long.status == 413, "{} {}", too_long.status, too_long.text());
    let moved = post(&server, &id, "rename", &json!({"from_base64": bytes["path_base64"], "to": "even"}))?;
    moved.ok()?;
    ensure!(server.sh(&id, "cat even; ls odd | wc -l")? == "x4");
    Ok(())
}

#[test]
fn ten_thousand_small_files_go_up_and_down() -> Result<()> {
    let server = Server::start()?;
    let id = server.create()?;
    let mut form = Vec::new();
    for n in 0..10_000 {
        form.extend(part("paths", format!("/workspace/home/many/{}/{n}", n % 100).as_bytes()));
        form.extend(part("files", format!("file {n}\n").repeat(20).as_bytes()));
    }
    ensure!(upload(&server, &id, &form)?.ok()?["message"] == "10000 files uploaded");
    ensure!(server.sh(&id, "find many -type f | wc -l; cat many/42/9942 | sort -u")? == "10000\nfile 9942");
    let packed = get(&server, &id, "download?folder=many&format=tar.gz")?;
    ensure!(packed.status == 200, "{}", packed.text());
    let length = packed.body.len() as u64;
    let mut connection = server.client().connect()?;
    let path = format!("/v2/box/{id}/files/archive?path=copy");
    let answer =
        connection.send_body("PUT", &path, "application/gzip", length, |stream| stream.write_all(&packed.body))?;
    answer.ok()?;
    server.sh(&id, "diff -r many copy")?;
    let listed = get(&server, &id, "list?folder=many/7")?.ok()?;
    ensure!(listed["files"].as_array().is_some_and(|files| files.len() == 100));
    post(&server, &id, "remove", &json!({"path": "many", "recursive": true}))?.ok()?;
    ensure!(get(&server, &id, "stat?path=many")?.status == 404);
    Ok(())
}

#[test]
fn a_large_file_goes_up_and_down_and_the_server_does_not_grow() -> Result<()> {
    let server = Server::start()?;
    let id = server.create()?;
    let piece: Vec<u8> = (0..1_u32 << 20).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let sum = {
        server.sh(&id, "true")?;
        let before = resident_kib(&server)?;
        let mut most = before;
        let mut connection = server.client().connect()?;
        let path = format!("/v2/box/{id}/files/upload?path=large&mode=0600");
        let answer = connection.send_body("PUT", &path, "application/octet-stream", LARGE, |stream| {
            for n in 0..LARGE >> 20 {
                stream.write_all(&piece)?;
                if n % 64 == 0 {
                    most = most.max(resident_kib(&server).unwrap_or(i64::MAX));
                }
            }
            Ok(())
        })?;
        answer.ok()?;
        ensure!(server.sh(&id, "stat -c '%s %a' large")? == format!("{LARGE} 600"));
        let mut came = 0;
        let answer = connection.stream("GET", &format!("/v2/box/{id}/files/download?folder=large"), None, |part| {
            for (n, byte) in part.iter().enumerate().step_by(4093) {
                ensure!(*byte == piece[(came + n) % piece.len()], "another byte at {}", came + n);
            }
            if (came + part.len()) >> 26 != came >> 26 {
                most = most.max(resident_kib(&server)?);
            }
            came += part.len();
            Ok(())
        })?;
        ensure!(answer.status == 200 && came as u64 == LARGE, "{} {came}", answer.status);
        ensure!(most - before < GROWTH_MAX_KIB, "the server grew from {before} KiB to {most} KiB");
        server.sh(&id, "sha256sum < large")?
    };
    // And as a form, which is taken apart on its way.
    let head = [part("paths", b"form"), part("files", b"")].concat();
    let head = &head[..head.len() - 2];
    let before = resident_kib(&server)?;
    let mut most = before;
    let mut connection = server.client().connect()?;
    let length = head.len() as u64 + LARGE + 9;
    let path = format!("/v2/box/{id}/files/upload");
    let answer = connection.send_body("POST", &path, "multipart/form-data; boundary=x", length, |stream| {
        stream.write_all(head)?;
        for n in 0..LARGE >> 20 {
            stream.write_all(&piece)?;
            if n % 64 == 0 {
                most = most.max(resident_kib(&server).unwrap_or(i64::MAX));
            }
        }
        stream.write_all(b"\r\n--x--\r\n")
    })?;
    answer.ok()?;
    ensure!(most - before < GROWTH_MAX_KIB, "the server grew from {before} KiB to {most} KiB");
    ensure!(server.sh(&id, "sha256sum < form")? == sum);
    Ok(())
}

#[test]
fn a_reader_that_does_not_read_takes_no_memory_and_an_upload_that_stops_leaves_nothing() -> Result<()> {
    let server = Server::start()?;
    let id = server.create()?;
    server.sh(&id, "truncate -s 3G sparse; echo old > kept")?;
    let before = resident_kib(&server)?;
    let mut asleep = Vec::new();
    for _ in 0..8 {
        let mut connection = server.client().connect()?;
        connection.send("GET", &format!("/v2/box/{id}/files/download?folder=sparse"), None)?;
        asleep.push(connection);
    }
    // Others go on beside them.
    for _ in 0..20 {
        ensure!(get(&server, &id, "read?path=kept")?.ok()?["content"] == "old\n");
    }
    let grown = resident_kib(&server)? - before;
    ensure!(grown < GROWTH_MAX_KIB, "eight readers that do not read take {grown} KiB");
    drop(asleep);
    let mut connection = server.client().connect()?;
    let path = format!("/v2/box/{id}/files/upload?path=kept");
    let broken = connection.send_body("PUT", &path, "application/octet-stream", 1_000_000, |stream| {
        stream.write_all(&[b'n'; 500_000])?;
        stream.shutdown(std::net::Shutdown::Write)
    });
    ensure!(broken.is_err() || broken.is_ok_and(|answer| answer.status == 400), "half a file was taken");
    until("the box to be idle", SETTLE, || {
        Ok((server.call("GET", &format!("/v2/box/{id}"), None)?.ok()?["status"] == "idle").then_some(()))
    })?;
    ensure!(server.sh(&id, "cat kept; ls -A | sort | grep -c boxyard || true")? == "old\n0");
    Ok(())
}

#[test]
fn a_server_that_is_killed_loses_no_file_and_leaves_no_half_of_one() -> Result<()> {
    let mut server = Server::start()?;
    let id = server.create()?;
    post(&server, &id, "write", &json!({"path": "kept", "content": "old"}))?.ok()?;
    let mut connection = server.client().connect()?;
    let path = format!("/v2/box/{id}/files/upload?path=kept");
    let pid = rustix::process::Pid::from_raw(i32::try_from(server.pid()?)?).context("no pid")?;
    let broken = connection.send_body("PUT", &path, "application/octet-stream", 64 << 20, |stream| {
        stream.write_all(&vec![b'n'; 32 << 20])?;
        // The last of what is acknowledged, while the other is under way.
        let answer = post(&server, &id, "write", &json!({"path": "last", "content": "whole"}));
        answer.and_then(|answer| answer.ok()).map_err(std::io::Error::other)?;
        Ok(rustix::process::kill_process(pid, rustix::process::Signal::KILL)?)
    });
    ensure!(broken.is_err(), "half a file was taken");
    until("the server to end", SETTLE, || Ok(server.has_ended()?.then_some(())))?;
    server.launch()?;
    ensure!(get(&server, &id, "read?path=last")?.ok()?["content"] == "whole");
    ensure!(get(&server, &id, "read?path=kept")?.ok()?["content"] == "old");
    until("the half to be gone", SETTLE, || {
        Ok((server.sh(&id, &format!("{WORKERS}; ls -A"))? == "kept\nlast").then_some(()))
    })?;
    Ok(())
}

#[test]
fn a_full_disk_is_said_and_leaves_the_old_file() -> Result<()> {
    let server = Server::start()?;
    let id = server.create()?;
    server.sh(&id, "echo old > kept")?;
    let length = 6_u64 << 30;
    let mut connection = server.client().connect()?;
    let path = format!("/v2/box/{id}/files/upload?path=kept");
    let zeros = vec![0; 1 << 20];
    let answer = connection.send_body("PUT", &path, "application/octet-stream", length, |stream| {
        for _ in 0..length >> 20 {
            stream.write_all(&zeros)?;
        }
        Ok(())
    })?;
    ensure!(answer.status == 507, "{} {}", answer.status, answer.text());
    ensure!(error(&answer)?.contains("no space left"), "{}", answer.text());
    ensure!(get(&server, &id, "read?path=kept")?.ok()?["content"] == "old\n");
    Ok(())
}

#[test]
fn a_paused_box_and_a_stopped_one_are_resumed_and_others_see_nothing() -> Result<()> {
    let server = Server::start()?;
    let id = server.create()?;
    post(&server, &id, "write", &json!({"path": "a", "content": "kept"}))?.ok()?;
    server.call("POST", &format!("/v2/box/{id}/pause"), None)?.ok()?;
    ensure!(get(&server, &id, "read?path=a")?.ok()?["content"] == "kept");
    let key = server.program(&["key", "create", "--account", "other"])?;
    let key =
        key.lines().find_map(|line| line.split_whitespace().find(|word| word.starts_with("box_"))).context("a key")?;
    let stranger = server.client().with_key(key);
    for what in ["read?path=a", "list", "download?folder=a", "watch", "search"] {
        let answer = stranger.call("GET", &format!("/v2/box/{id}/files/{what}"), None)?;
        ensure!(answer.status == 404 && error(&answer)?.contains("Box not found"), "{what}: {}", answer.text());
    }
    let answer =
        stranger.call("POST", &format!("/v2/box/{id}/files/write"), Some(&json!({"path": "a", "content": "x"})))?;
    ensure!(answer.status == 404);
    ensure!(get(&server, &id, "read?path=a")?.ok()?["content"] == "kept");
    Ok(())
}

#[test]
fn what_changes_in_a_box_is_told_while_it_happens() -> Result<()> {
    let server = Server::start()?;
    let id = server.create()?;
    server.sh(&id, "mkdir -p w/deep")?;
    let mut connection = server.client().connect()?;
    let mut text = String::new();
    let steps = [
        ("event: watching", "echo x > w/deep/new"),
        ("event: create\ndata: {\"path\":\"/workspace/home/w/deep/new\"", "mv w/deep/new w/moved"),
        (
            "event: rename\ndata: {\"path\":\"/workspace/home/w/moved\",\"from\":\"/workspace/home/w/deep/new\"",
            "rm w/moved",
        ),
        ("event: delete\ndata: {\"path\":\"/workspace/home/w/moved\"", "rm -r w"),
        ("event: gone", "true"),
    ];
    let mut next = steps.iter();
    let mut step = next.next();
    let path = format!("/v2/box/{id}/files/watch?path=w&recursive=1");
    let answer = connection.stream("GET", &path, None, |part| {
        text.push_str(&String::from_utf8_lossy(part));
        while let Some((wanted, then)) = step
            && text.contains(wanted)
        {
            server.sh(&id, then)?;
            step = next.next();
        }
        Ok(())
    })?;
    ensure!(answer.status == 200 && step.is_none(), "{step:?} never came: {text}");
    Ok(())
}
