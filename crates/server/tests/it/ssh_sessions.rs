//! Shells, commands and SFTP over SSH, with the client that russh brings.

use std::time::Duration;

use boxyard_engine::fake::Call;
use russh::{ChannelMsg, Pty, Sig};
use serde_json::json;

use crate::support::ssh::{Said, rest, until};
use crate::support::{Yard, box_id};

#[tokio::test]
async fn a_command_has_its_status_and_both_outputs_apart() {
    let yard = Yard::with_door(|_| {}).await;
    let id = yard.client().new_box().await;
    let ssh = yard.enter(&id).await;
    let said = ssh.run("echo out; stderr err; exit 7").await;
    let wanted = Said {
        out: b"out\n".to_vec(),
        err: b"err\n".to_vec(),
        status: Some(7),
        eof: true,
        closed: true,
        ..Said::default()
    };
    assert_eq!(said, wanted);
    assert_eq!(ssh.run("no-such-program").await.status, Some(127));
    assert_eq!(ssh.run("true").await.status, Some(0), "a connection carries many commands");
}

#[tokio::test]
async fn input_goes_to_its_end_and_output_comes_after_it() {
    let yard = Yard::with_door(|_| {}).await;
    let id = yard.client().new_box().await;
    let ssh = yard.enter(&id).await;
    let mut channel = ssh.begin("cat").await;
    channel.data_bytes("to and fro").await.expect("a connection");
    assert_eq!(until(&mut channel, |said| said.out == b"to and fro").await.status, None, "it waits for more");
    channel.data_bytes("!").await.expect("a connection");
    channel.eof().await.expect("a connection");
    let said = rest(&mut channel).await;
    assert_eq!((said.out(), said.status), ("!".into(), Some(0)));
}

#[tokio::test]
async fn requests_that_come_all_at_once_are_answered_one_by_one() {
    let yard = Yard::with_door(|_| {}).await;
    let id = yard.client().new_box().await;
    let ssh = yard.enter(&id).await;
    let mut channel = ssh.session().await;
    channel.set_env(true, "LANG", "de_DE.UTF-8").await.expect("a connection");
    channel.set_env(true, "LD_PRELOAD", "/tmp/x.so").await.expect("a connection");
    channel.request_pty(true, "xterm", 80, 24, 0, 0, &[(Pty::VINTR, 3)]).await.expect("a connection");
    channel.request_pty(true, "xterm", 80, 24, 0, 0, &[]).await.expect("a connection");
    channel.request_x11(true, false, "MIT-MAGIC-COOKIE-1", "00", 0).await.expect("a connection");
    channel.request_subsystem(true, "netconf").await.expect("a connection");
    channel.exec(true, "env").await.expect("a connection");
    channel.exec(true, "env").await.expect("a connection");
    channel.request_shell(true).await.expect("a connection");
    let said = rest(&mut channel).await;
    assert_eq!(said.replies[..7], [true, false, true, false, false, false, true]);
    assert!(said.replies[7..].iter().all(|reply| !reply), "one program a channel: {:?}", said.replies);
    let env = said.out();
    assert!(env.contains("LANG=de_DE.UTF-8\n") && env.contains("TERM=xterm\n") && !env.contains("LD_PRELOAD"), "{env}");
}

#[tokio::test]
async fn a_session_knows_its_box_and_its_client() {
    let yard = Yard::with_door(|_| {}).await;
    let body = json!({"env_vars": {"MINE": "yes", "LANG": "C"}});
    let id = yard.client().post("/v2/box", body).await.json()["id"].as_str().expect("an id").to_owned();
    let ssh = yard.enter(&id).await;
    let env = ssh.run("env").await.out();
    let port = yard.ssh_address().port();
    for line in ["MINE=yes", "LANG=C", "HOME=/home/boxuser", "USER=boxuser", "SHELL=/bin/bash"] {
        assert!(env.lines().any(|found| found == line), "{line} in {env}");
    }
    let connection = env.lines().find_map(|line| line.strip_prefix("SSH_CONNECTION=")).expect("SSH_CONNECTION");
    assert!(
        connection.starts_with("127.0.0.1 ") && connection.ends_with(&format!(" 127.0.0.1 {port}")),
        "{connection}"
    );
    assert!(!env.contains("TERM=") && !env.contains("SSH_AUTH_SOCK"), "{env}");
}

#[tokio::test]
async fn a_shell_on_a_terminal_greets_follows_its_size_and_says_how_it_ended() {
    let yard = Yard::with_door(|_| {}).await;
    let id = yard.client().new_box().await;
    let ssh = yard.enter(&id).await;
    let mut channel = ssh.session().await;
    channel.request_pty(false, "xterm-256color", 80, 24, 0, 0, &[]).await.expect("a connection");
    channel.request_shell(false).await.expect("a connection");
    channel.data_bytes("stty size\r").await.expect("a connection");
    let said = until(&mut channel, |said| said.out().contains("24 80")).await.out();
    assert!(said.starts_with(&format!("Box {id}")) && said.contains("2 CPUs"), "{said}");
    channel.window_change(132, 50, 0, 0).await.expect("a connection");
    loop {
        channel.data_bytes("stty size\r").await.expect("a connection");
        if until(&mut channel, |said| said.out.ends_with(b"\r\n")).await.out().contains("50 132") {
            break;
        }
    }
    channel.data_bytes("exit 3\r").await.expect("a connection");
    assert_eq!(rest(&mut channel).await.status, Some(3));

    let mut plain = ssh.session().await;
    plain.request_shell(false).await.expect("a connection");
    plain.data_bytes("echo hello\n").await.expect("a connection");
    plain.eof().await.expect("a connection");
    assert_eq!(rest(&mut plain).await.out(), "hello\n", "no greeting where a program reads");
}

#[tokio::test]
async fn signals_reach_the_program_and_its_end_is_told_by_name() {
    let yard = Yard::with_door(|_| {}).await;
    let id = yard.client().new_box().await;
    let ssh = yard.enter(&id).await;
    for (signal, name) in [(Sig::INT, "INT"), (Sig::KILL, "KILL"), (Sig::Custom("USR2".into()), "USR2")] {
        let mut channel = ssh.begin("echo up; sleep").await;
        until(&mut channel, |said| said.out == b"up\n").await;
        channel.signal(Sig::Custom("NOSUCH".into())).await.expect("a connection");
        channel.signal(signal).await.expect("a connection");
        let said = rest(&mut channel).await;
        assert_eq!((said.signal.as_deref(), said.status), (Some(name), None));
    }
}

#[tokio::test]
async fn what_cannot_be_run_is_refused_in_words() {
    let yard = Yard::with_door(|_| {}).await;
    let id = yard.client().new_box().await;
    let ssh = yard.enter(&id).await;
    for (line, words) in [(&b"echo \xff"[..], "UTF-8"), (b"echo \0", "NUL"), (&[b'x'; 200_000], "too long")] {
        let mut channel = ssh.session().await;
        channel.exec(true, line).await.expect("a connection");
        let said = rest(&mut channel).await;
        assert!(said.err().contains(words) && said.status == Some(1), "{said:?}");
    }
    yard.engine.fail_next(Call::Connect, boxyard_engine::ErrorKind::Broken);
    let said = ssh.run("true").await;
    assert!(said.status == Some(255) && said.err().contains("connect"), "{said:?}");
}

#[tokio::test]
async fn a_login_waits_for_its_box_to_be_made() {
    let yard = Yard::with_door(|_| {}).await;
    yard.engine.hold(Call::Create, Some("made"));
    let client = yard.client();
    let made = tokio::spawn(async move { client.post("/v2/box", json!({})).await });
    yard.engine.came_to("made", 1).await;
    let list = yard.client().get("/v2/box").await.json();
    let id = list[0]["id"].as_str().expect("an id").to_owned();
    let ssh = yard.enter(&id).await;
    let mut channel = ssh.begin("cat").await;
    channel.data_bytes("early").await.expect("a connection");
    channel.eof().await.expect("a connection");
    yard.engine.open("made");
    assert_eq!(rest(&mut channel).await.out(), "early");
    assert_eq!(made.await.expect("an answer").json()["id"], json!(id));
}

#[tokio::test]
async fn a_box_that_could_not_be_made_says_so_and_lets_go() {
    let yard = Yard::with_door(|_| {}).await;
    yard.engine.hold(Call::Create, Some("made"));
    yard.engine.fail_next(Call::Create, boxyard_engine::ErrorKind::Broken);
    let client = yard.client();
    let made = tokio::spawn(async move { client.post("/v2/box", json!({})).await });
    yard.engine.came_to("made", 1).await;
    let list = yard.client().get("/v2/box").await.json();
    let ssh = yard.enter(list[0]["id"].as_str().expect("an id")).await;
    let mut channel = ssh.begin("true").await;
    yard.engine.open("made");
    let said = rest(&mut channel).await;
    assert!(said.status == Some(255) && said.err().contains("failed"), "{said:?}");
    assert!(ssh.farewell().await.contains("failed"));
    made.await.expect("an answer");
}

#[tokio::test]
async fn a_live_connection_keeps_its_box_running_and_one_that_ends_ends_its_programs() {
    let yard = Yard::with_door(|_| {}).await;
    let client = yard.client();
    let id = client.new_box().await;
    let ssh = yard.enter(&id).await;
    client.until(&format!("/v2/box/{id}"), |data| data["status"] == "running").await;
    let channel = ssh.begin("gate running").await;
    yard.engine.came_to("running", 1).await;
    assert_eq!(yard.engine.jobs(&box_id(&id)).len(), 1);
    channel.close().await.expect("a connection");
    yard.engine.idle(&box_id(&id)).await;

    let left = ssh.begin("gate running").await;
    yard.engine.came_to("running", 2).await;
    drop((channel, left, ssh));
    yard.engine.idle(&box_id(&id)).await;
    client.until(&format!("/v2/box/{id}"), |data| data["status"] == "idle").await;
}

#[tokio::test]
async fn there_are_so_many_channels_and_no_more() {
    let yard = Yard::with_door(|config| config.limits.ssh_channels_per_connection = 3).await;
    let id = yard.client().new_box().await;
    let ssh = yard.enter(&id).await;
    let mut channels = Vec::new();
    for _ in 0..3 {
        channels.push(ssh.begin("cat").await);
    }
    let refused = ssh.handle.channel_open_session().await.expect_err("one too many");
    assert!(refused.to_string().contains("ResourceShortage") || format!("{refused:?}").contains("ResourceShortage"));
    let mut last = channels.pop().expect("a channel");
    last.eof().await.expect("a connection");
    assert_eq!(rest(&mut last).await.status, Some(0));
    // Its place is free when its task has ended, just after its close was sent.
    while let Err(error) = ssh.handle.channel_open_session().await {
        assert!(format!("{error:?}").contains("ResourceShortage"), "{error:?}");
    }
}

#[tokio::test]
async fn a_client_is_told_of_each_channel_that_it_cannot_have_however_many_it_wants() {
    let yard = Yard::with_door(|config| config.limits.ssh_channels_per_connection = 1).await;
    let id = yard.client().new_box().await;
    let ssh = yard.enter(&id).await;
    let mut only = ssh.begin("cat").await;
    let opens = |count| futures_util::future::join_all((0..count).map(|_| ssh.handle.channel_open_session()));
    for opened in opens(5000).await {
        let refused = opened.expect_err("one too many");
        assert!(format!("{refused:?}").contains("ResourceShortage"), "{refused:?}");
    }
    assert!(ssh.handle.channel_open_x11("127.0.0.1", 6000).await.is_err());
    assert!(ssh.handle.channel_open_direct_tcpip("", 80, "127.0.0.1", 1).await.is_err());
    only.data_bytes("still here").await.expect("a connection");
    until(&mut only, |said| said.out == b"still here").await;
}

#[tokio::test]
async fn sessions_of_a_deleted_box_are_told() {
    let yard = Yard::with_door(|_| {}).await;
    let client = yard.client();
    let id = client.new_box().await;
    let ssh = yard.enter(&id).await;
    let mut command = ssh.begin("echo up; sleep").await;
    let mut shell = ssh.session().await;
    shell.request_pty(false, "xterm", 80, 24, 0, 0, &[]).await.expect("a connection");
    shell.request_shell(false).await.expect("a connection");
    until(&mut command, |said| said.out == b"up\n").await;
    until(&mut shell, |said| said.out().contains(&id)).await;
    client.delete(&format!("/v2/box/{id}")).await;
    let text = format!("box {id} was deleted");
    let said = rest(&mut command).await;
    assert_eq!((said.err(), said.status), (format!("{text}\n"), Some(255)));
    assert!(rest(&mut shell).await.out().ends_with(&format!("\r\n{text}\r\n")));
    assert_eq!(ssh.farewell().await, text);
}

#[tokio::test]
async fn sessions_of_a_paused_box_are_told_and_the_next_login_resumes_it() {
    let yard = Yard::with_door(|_| {}).await;
    let client = yard.client();
    let id = client.new_box().await;
    let ssh = yard.enter(&id).await;
    let mut command = ssh.begin("echo up; sleep").await;
    until(&mut command, |said| said.out == b"up\n").await;
    let paused = client.post(&format!("/v2/box/{id}/pause"), json!({})).await;
    assert_eq!(paused.status, 200, "{paused:?}");
    let text = format!("box {id} was paused");
    assert_eq!(rest(&mut command).await.err(), format!("{text}\n"));
    assert_eq!(ssh.farewell().await, text);
    let again = yard.enter(&id).await;
    let mut command = again.begin("echo up again").await;
    assert_eq!(rest(&mut command).await.out(), "up again\n");
}

#[tokio::test]
async fn terminals_are_told_that_the_server_goes_down_and_go_on_for_a_while() {
    let yard = Yard::with_door(|config| config.limits.ssh_shutdown_grace = Duration::from_secs(2)).await;
    let id = yard.client().new_box().await;
    let ssh = yard.enter(&id).await;
    let mut shell = ssh.session().await;
    shell.request_pty(false, "xterm", 80, 24, 0, 0, &[]).await.expect("a connection");
    shell.request_shell(false).await.expect("a connection");
    shell.data_bytes("echo up\r").await.expect("a connection");
    until(&mut shell, |said| said.out().contains("up\n")).await;
    yard.begin_stop();
    until(&mut shell, |said| said.out().contains("\r\nthe server is going down in 2 s\r\n")).await;
    shell.data_bytes("echo still here\r").await.expect("a connection");
    until(&mut shell, |said| said.out().contains("still here\n")).await;
    assert_eq!(ssh.farewell().await, "the server is shutting down");
}

#[tokio::test]
async fn a_client_may_leave_at_any_point() {
    let yard = Yard::with_door(|_| {}).await;
    let id = yard.client().new_box().await;
    let ssh = yard.enter(&id).await;
    drop(ssh.session().await);
    ssh.session().await.close().await.expect("a connection");
    let mut asked = ssh.session().await;
    asked.exec(true, "yes 100000000").await.expect("a connection");
    let first = asked.wait().await;
    assert!(matches!(first, Some(ChannelMsg::Success)), "{first:?}");
    asked.close().await.expect("a connection");
    assert_eq!(ssh.run("echo fine").await.out(), "fine\n");
    drop(yard.enter(&id).await);
    yard.engine.idle(&box_id(&id)).await;
}
