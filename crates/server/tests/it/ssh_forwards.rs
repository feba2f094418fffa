//! Sockets in a box over SSH: those that clients reach, those that clients are reached by, and the client's own SSH agent.

use boxyard_proto::BoxId;
use russh::Channel;
use russh::client::Msg;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::timeout;

use crate::support::ssh::{rest, until};
use crate::support::{PATIENCE, Yard, box_id};

/// Connects to something that listens in the box, once it does.
async fn connect_in(yard: &Yard, id: &BoxId, at: &str) -> DuplexStream {
    yard.engine.connect_in(id, at).await.unwrap_or_else(|| panic!("nothing listens at {at}"))
}

/// Sends through one end and reads at the other, both ways, with a half-closed time between.
async fn talk(mut channel: Channel<Msg>, mut program: DuplexStream) {
    program.write_all(b"from the box").await.expect("sent");
    until(&mut channel, |said| said.out == b"from the box").await;
    channel.data_bytes("from the client").await.expect("a connection");
    channel.eof().await.expect("a connection");
    let mut heard = Vec::new();
    timeout(PATIENCE, program.read_to_end(&mut heard)).await.expect("an end").expect("no error");
    assert_eq!(heard, b"from the client");
    program.write_all(b", and more").await.expect("half-closed is not closed");
    drop(program);
    let said = rest(&mut channel).await;
    assert_eq!((said.out(), said.eof), (", and more".into(), true));
}

#[tokio::test]
async fn a_client_reaches_sockets_in_the_box() {
    let yard = Yard::with_door(|_| {}).await;
    let client = yard.client();
    let id = client.new_box().await;
    let ssh = yard.enter(&id).await;
    for mut channel in [
        ssh.handle.channel_open_direct_tcpip("echo", 7, "127.0.0.1", 1).await.expect("a channel"),
        ssh.handle.channel_open_direct_streamlocal("/echo.sock").await.expect("a channel"),
    ] {
        channel.data_bytes("there").await.expect("a connection");
        until(&mut channel, |said| said.out == b"there").await;
        channel.data_bytes(vec![b'x'; 300_000]).await.expect("a connection");
        channel.eof().await.expect("a connection");
        let said = until(&mut channel, |said| said.eof).await;
        assert_eq!(said.out, vec![b'x'; 300_000]);
        channel.close().await.expect("a connection");
    }
    for (host, port) in [("nobody", 80), ("echo", 0), ("echo", 65_536), ("", 80), ("a\nb", 80)] {
        let refused = ssh.handle.channel_open_direct_tcpip(host, port, "127.0.0.1", 1).await.expect_err("refused");
        let told = format!("{refused:?}");
        assert!(told.contains("ConnectFailed"), "{host:?} {port}: {told}");
    }
    assert!(ssh.handle.channel_open_direct_streamlocal("relative.sock").await.is_err());
    let has = |answer: &Value, text: &str| answer.to_string().contains(text);
    client
        .until(&format!("/v2/box/{id}/logs"), |answer| {
            has(answer, "SSH forward to echo:7 from 127.0.0.1")
                && has(answer, "SSH forward to /echo.sock from 127.0.0.1")
                && has(answer, "SSH forward to nobody:80 failed from 127.0.0.1")
        })
        .await;
}

#[tokio::test]
async fn what_connects_in_the_box_reaches_the_client() {
    let yard = Yard::with_door(|_| {}).await;
    let id = yard.client().new_box().await;
    let (ssh, id) = (yard.enter(&id).await, box_id(&id));
    assert_eq!(ssh.handle.tcpip_forward("localhost", 8080).await.expect("listens"), 0, "only port 0 is told");
    let any = ssh.handle.tcpip_forward("", 0).await.expect("listens");
    assert_eq!(any, 40_001);
    ssh.handle.streamlocal_forward("/tmp/in.sock").await.expect("listens");
    for (at, what) in [
        ("8080", "tcp localhost:8080 from 127.0.0.1:50000"),
        ("40001", "tcp :40001 from 127.0.0.1:50000"),
        ("/tmp/in.sock", "unix /tmp/in.sock"),
    ] {
        let program = connect_in(&yard, &id, at).await;
        let opened = ssh.opened().await;
        assert_eq!(opened.what, what);
        talk(opened.channel, program).await;
    }
    assert!(ssh.handle.tcpip_forward("localhost", 8080).await.is_err(), "it is taken");
    assert!(ssh.handle.tcpip_forward("localhost", 65_536).await.is_err());
    assert!(ssh.handle.streamlocal_forward("in.sock").await.is_err());
    ssh.handle.cancel_tcpip_forward("localhost", 8080).await.expect("cancelled");
    ssh.handle.cancel_streamlocal_forward("/tmp/in.sock").await.expect("cancelled");
    assert!(ssh.handle.cancel_tcpip_forward("localhost", 8080).await.is_err(), "there is none any more");
    let gone = async {
        while yard.engine.connect_in(&id, "8080").await.is_some() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, gone).await.expect("nothing listens there any more");
}

#[tokio::test]
async fn there_are_so_many_listeners_and_no_more() {
    let yard = Yard::with_door(|_| {}).await;
    let id = yard.client().new_box().await;
    let ssh = yard.enter(&id).await;
    for port in 0..32 {
        ssh.handle.tcpip_forward("localhost", 9000 + port).await.expect("listens");
    }
    assert!(ssh.handle.tcpip_forward("localhost", 9100).await.is_err());
    ssh.handle.cancel_tcpip_forward("localhost", 9000).await.expect("cancelled");
    ssh.handle.tcpip_forward("localhost", 9100).await.expect("there is room again");
}

#[tokio::test]
async fn sessions_of_one_connection_share_the_clients_agent() {
    let yard = Yard::with_door(|_| {}).await;
    let id = yard.client().new_box().await;
    let (ssh, id) = (yard.enter(&id).await, box_id(&id));
    let mut paths = Vec::new();
    for _ in 0..2 {
        let mut channel = ssh.session().await;
        channel.agent_forward(true).await.expect("a connection");
        channel.exec(true, "env").await.expect("a connection");
        let said = rest(&mut channel).await;
        assert_eq!(said.replies, [true, true]);
        let path = said.out().lines().find_map(|line| line.strip_prefix("SSH_AUTH_SOCK=").map(str::to_owned));
        paths.push(path.expect("SSH_AUTH_SOCK"));
    }
    assert_eq!(paths[0], paths[1]);
    let program = connect_in(&yard, &id, &paths[0]).await;
    let opened = ssh.opened().await;
    assert_eq!(opened.what, "agent");
    talk(opened.channel, program).await;
}

#[tokio::test]
async fn a_box_cannot_take_all_channels_of_its_client() {
    let yard = Yard::with_door(|config| config.limits.ssh_channels_per_connection = 8).await;
    let id = yard.client().new_box().await;
    let (ssh, name) = (yard.enter(&id).await, box_id(&id));
    ssh.handle.tcpip_forward("localhost", 8080).await.expect("listens");
    let mut programs = Vec::new();
    let mut channels = Vec::new();
    for _ in 0..6 {
        programs.push(connect_in(&yard, &name, "8080").await);
        channels.push(ssh.opened().await);
    }
    programs.push(connect_in(&yard, &name, "8080").await);
    assert_eq!(ssh.run("echo room").await.out(), "room\n");
}

#[tokio::test]
async fn forwards_end_with_their_box_and_with_their_client() {
    let yard = Yard::with_door(|_| {}).await;
    let client = yard.client();
    let id = client.new_box().await;
    let ssh = yard.enter(&id).await;
    ssh.handle.tcpip_forward("localhost", 8080).await.expect("listens");
    let channel = ssh.handle.channel_open_direct_tcpip("echo", 7, "127.0.0.1", 1).await.expect("a channel");
    drop((ssh, channel));
    let gone = async {
        while yard.engine.connect_in(&box_id(&id), "8080").await.is_some() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, gone).await.expect("nothing listens there any more");
    client.until(&format!("/v2/box/{id}"), |data| data["status"] == "idle").await;

    let ssh = yard.enter(&id).await;
    let mut channel = ssh.handle.channel_open_direct_tcpip("echo", 7, "127.0.0.1", 1).await.expect("a channel");
    client.delete(&format!("/v2/box/{id}")).await;
    assert!(rest(&mut channel).await.closed);
    assert_eq!(ssh.farewell().await, format!("box {id} was deleted"));
}
