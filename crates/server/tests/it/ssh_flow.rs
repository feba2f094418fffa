//! A lot of bytes over SSH: both ways at once, and to programs that do not read.

use std::net::SocketAddr;
use std::sync::Arc;

use russh::{Channel, Sig};
use tokio::time::timeout;

use crate::support::ssh::{rest, until};
use crate::support::{Client, PATIENCE, Yard};

const MB: usize = 1024 * 1024;

async fn yard() -> Yard {
    Yard::with_door(|config| config.metrics = Some(SocketAddr::from(([127, 0, 0, 1], 0)))).await
}

/// Bytes that wait for boxes.
async fn backlog(yard: &Yard) -> usize {
    let figures = Client::new(yard.metrics_address(), None).get("/metrics").await.text();
    let line = figures.lines().find_map(|line| line.strip_prefix("boxyard_ssh_backlog_bytes "));
    line.expect("the figure").parse().expect("a number")
}

async fn send(channel: &Channel<russh::client::Msg>, block: &bytes::Bytes, count: usize) {
    for _ in 0..count {
        channel.data_bytes(block.clone()).await.expect("a connection");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn much_goes_both_ways_at_once_and_little_of_it_waits() {
    let yard = yard().await;
    let id = yard.client().new_box().await;
    let ssh = yard.enter(&id).await;
    let (mut read, write) = ssh.begin("cat").await.split();
    let block = bytes::Bytes::from((0..=250).cycle().take(MB).collect::<Vec<u8>>());
    let expected = block.clone();
    let sending = tokio::spawn(async move {
        for _ in 0..200 {
            write.data_bytes(block.clone()).await.expect("a connection");
        }
        write.eof().await.expect("a connection");
    });
    let (mut came, mut most) = (0, 0);
    let receiving = async {
        while let Some(message) = read.wait().await {
            let russh::ChannelMsg::Data { data } = message else { continue };
            let at = came % MB;
            let first = data.len().min(MB - at);
            assert_eq!(data[..first], expected[at..at + first]);
            assert_eq!(data[first..], expected[..data.len() - first]);
            if came / (20 * MB) != (came + data.len()) / (20 * MB) {
                most = most.max(backlog(&yard).await);
            }
            came += data.len();
        }
    };
    timeout(PATIENCE * 6, receiving).await.expect("all of it, in time");
    sending.await.expect("sent");
    assert_eq!(came, 200 * MB);
    assert!(most < 32 * MB, "{most} bytes waited");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_does_not_read_holds_up_nobody_else_and_can_be_ended() {
    let yard = yard().await;
    let id = yard.client().new_box().await;
    let ssh = yard.enter(&id).await;
    let deaf = ssh.begin("echo up; sleep").await;
    let (mut heard, write) = deaf.split();
    let (write, stuffing) = (Arc::new(write), bytes::Bytes::from(vec![0; MB]));
    let writer = Arc::clone(&write);
    let sending = tokio::spawn(async move { while writer.data_bytes(stuffing.clone()).await.is_ok() {} });
    let full = async {
        while backlog(&yard).await < 4 * MB {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, full).await.expect("it fills up");

    let mut other = ssh.begin("cat").await;
    for n in 0..50 {
        let typed = format!("{n}\n");
        other.data_bytes(typed.clone()).await.expect("a connection");
        until(&mut other, |said| said.out == typed.as_bytes()).await;
    }
    let said = ssh.run("yes 5000000").await;
    assert_eq!((said.out.len(), said.status), (5_000_000, Some(0)));
    let waiting = backlog(&yard).await;
    assert!(waiting < 24 * MB, "{waiting} bytes wait");
    assert!(!sending.is_finished());

    write.signal(Sig::KILL).await.expect("a connection");
    let ended = async {
        let mut signal = None;
        while let Some(message) = heard.wait().await {
            if let russh::ChannelMsg::ExitSignal { signal_name, .. } = message {
                signal = Some(signal_name);
            }
        }
        signal
    };
    let signal = timeout(PATIENCE, ended).await.expect("it ends");
    assert!(matches!(signal, Some(Sig::KILL)), "{signal:?}");
    sending.abort();

    let block = bytes::Bytes::from(vec![7; MB]);
    let (mut read, write) = other.split();
    let upload = tokio::spawn(async move {
        for _ in 0..30 {
            write.data_bytes(block.clone()).await.expect("a connection");
        }
        write.eof().await.expect("a connection");
    });
    let mut came = 0;
    let receiving = async {
        while let Some(message) = read.wait().await {
            if let russh::ChannelMsg::Data { data } = message {
                came += data.len();
            }
        }
    };
    timeout(PATIENCE, receiving).await.expect("the others flow again");
    upload.await.expect("sent");
    assert_eq!(came, 30 * MB);
    assert_eq!(backlog(&yard).await, 0);
}

#[tokio::test]
async fn input_that_nobody_reads_does_not_keep_a_program_from_ending() {
    let yard = yard().await;
    let id = yard.client().new_box().await;
    let ssh = yard.enter(&id).await;
    let mut channel = ssh.begin("gate enough").await;
    let block = bytes::Bytes::from(vec![0; MB]);
    send(&channel, &block, 8).await;
    yard.engine.open("enough");
    assert_eq!(rest(&mut channel).await.status, Some(0));
    assert_eq!(backlog(&yard).await, 0);
}
