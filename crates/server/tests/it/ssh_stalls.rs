//! SSH clients that stop in the middle of something: of a key exchange that the server has begun, of a request that a box does not answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use russh::Channel;
use russh::client::{self, Msg};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::support::ssh::{Ssh, rest};
use crate::support::{Client, KEY, PATIENCE, Yard, box_id};

const MB: usize = 1024 * 1024;

/// Between a client and the door: what the server says can be held back while the client goes on talking.
struct Between {
    held: watch::Sender<bool>,
    heard: watch::Receiver<usize>,
}

impl Between {
    /// Connects to the door; the stream is the client's.
    async fn to(address: SocketAddr) -> (Self, DuplexStream) {
        let (mut from_server, mut to_server) = TcpStream::connect(address).await.expect("connect").into_split();
        let (near, far) = tokio::io::duplex(64 * 1024);
        let (mut from_client, mut to_client) = tokio::io::split(far);
        let (held, mut hold) = watch::channel(false);
        let (count, heard) = watch::channel(0);
        let (keep, mut kept) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
            let _ = to_server.shutdown().await;
        });
        // The server never waits for its words to be taken.
        tokio::spawn(async move {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(length @ 1..) = from_server.read(&mut buffer).await {
                count.send_modify(|count| *count += length);
                if keep.send(buffer[..length].to_vec()).is_err() {
                    break;
                }
            }
        });
        tokio::spawn(async move {
            while let Some(words) = kept.recv().await {
                if hold.wait_for(|held| !*held).await.is_err() || to_client.write_all(&words).await.is_err() {
                    break;
                }
            }
            let _ = to_client.shutdown().await;
        });
        (Self { held, heard }, near)
    }

    /// Waits until the server has said so much since a call of this.
    async fn heard(&self, bytes: usize) {
        let mut heard = self.heard.clone();
        let begin = *heard.borrow();
        let enough = heard.wait_for(|heard| *heard >= begin + bytes);
        timeout(PATIENCE, enough).await.expect("the server says something").expect("a connection");
    }
}

/// A client in the middle of a key exchange that the server has begun and that it has not heard of, beside a channel on which more output
/// is to come than there is room for.
struct Rekeying {
    ssh: Arc<Ssh>,
    between: Between,
    noise: Channel<Msg>,
}

impl Rekeying {
    /// Logs in, does what `first` does, and has the server want new keys.
    async fn client<T>(yard: &Yard, id: &str, first: impl AsyncFnOnce(&Ssh) -> T) -> (Self, T) {
        let (between, stream) = Between::to(yard.ssh_address()).await;
        // Windows that do not hold anything up.
        let config = client::Config { window_size: 64 << 20, ..client::Config::default() };
        let ssh = Arc::new(Ssh::login_over(stream, config, id, KEY).await);
        let noise = ssh.session().await;
        let done = first(&ssh).await;
        between.held.send_replace(true);
        noise.exec(false, "yes 20000000").await.expect("a connection");
        between.heard(MB).await;
        (Self { ssh, between, noise }, done)
    }
}

async fn yard(channels: u32) -> Yard {
    Yard::with_door(|config| {
        config.metrics = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
        config.limits.ssh_rekey_bytes = MB as u64;
        config.limits.ssh_channels_per_connection = channels;
    })
    .await
}

/// Waits until no connection is left.
async fn all_gone(yard: &Yard) {
    let figures = Client::new(yard.metrics_address(), None);
    let gone = async {
        while !figures.get("/metrics").await.text().contains("\nboxyard_ssh_connections 0\n") {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, gone).await.expect("the connection ends");
}

async fn messages(client: &Client, id: &str) -> Vec<String> {
    let logs = client.get(&format!("/v2/box/{id}/logs")).await.json();
    let lines = logs["logs"].as_array().cloned().unwrap_or_default();
    lines.iter().filter_map(|line| line["message"].as_str().map(str::to_owned)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_changed_under_load_and_nothing_is_lost() {
    let yard = yard(8).await;
    let id = yard.client().new_box().await;
    let (Rekeying { ssh, between, mut noise }, ()) = Rekeying::client(&yard, &id, async |_| ()).await;
    between.held.send_replace(false);
    let all = rest(&mut noise).await;
    assert_eq!((all.out.len(), all.status), (20_000_000, Some(0)));
    assert_eq!(ssh.run("echo on").await.out(), "on\n");
}

/// russh gives what comes for a channel to the channel's task, and waits for it; the task closed its channel, for which it waited for russh,
/// and heard nothing more; and in a key exchange russh takes nothing from tasks. So it never got as far as the client's answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_that_is_closed_while_keys_change_does_not_hold_up_its_connection() {
    let yard = yard(8).await;
    let id = yard.client().new_box().await;
    let dial =
        async |ssh: &Ssh| ssh.handle.channel_open_direct_tcpip("break", 7, "127.0.0.1", 1).await.expect("a channel");
    let (Rekeying { ssh, between, mut noise }, broken) = Rekeying::client(&yard, &id, dial).await;
    for _ in 0..500 {
        broken.data_bytes("x").await.expect("a connection");
    }
    let draining = tokio::spawn(async move { rest(&mut noise).await });
    between.held.send_replace(false);
    let said = timeout(PATIENCE, ssh.run("echo on")).await.expect("the connection goes on");
    assert_eq!(said.out(), "on\n");
    assert_eq!(draining.await.expect("no panic").out.len(), 20_000_000);
}

/// russh keeps its answers to requests for channels, some 3 KiB each, and sends none before keys are exchanged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_an_exchange_of_keys_open_and_asks_for_channels_is_cut() {
    let yard = yard(1).await;
    let id = yard.client().new_box().await;
    let (Rekeying { ssh, between, noise }, ()) = Rekeying::client(&yard, &id, async |_| ()).await;
    let answers = Arc::new(AtomicUsize::new(0));
    let asking = tokio::spawn({
        let (ssh, answers) = (Arc::clone(&ssh), Arc::clone(&answers));
        async move {
            let ask = async |_| {
                let _ = ssh.handle.channel_open_session().await;
                answers.fetch_add(1, Ordering::Relaxed);
            };
            join_all((0..3000).map(ask)).await;
        }
    });
    all_gone(&yard).await;
    assert_eq!(answers.load(Ordering::Relaxed), 0, "it was told nothing meanwhile");
    between.held.send_replace(false);
    timeout(PATIENCE, asking).await.expect("the client notices").expect("no panic");
    drop(noise);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_an_exchange_of_keys_open_does_not_stay_in_a_box_that_was_deleted() {
    let yard = yard(8).await;
    let client = yard.client();
    let id = client.new_box().await;
    let (stalled, ()) = Rekeying::client(&yard, &id, async |_| ()).await;
    assert_eq!(client.delete(&format!("/v2/box/{id}")).await.status, 200);
    all_gone(&yard).await;
    drop(stalled);
}

/// The callback that answers a request to listen waits for the box, and the connection waits for the callback.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_box_that_does_not_say_whether_it_listens_does_not_keep_a_client_that_has_left() {
    let yard = yard(8).await;
    let client = yard.client();
    let id = client.new_box().await;
    let ssh = Arc::new(yard.enter(&id).await);
    let asking = tokio::spawn({
        let ssh = Arc::clone(&ssh);
        async move { ssh.handle.tcpip_forward("silent", 9000).await }
    });
    timeout(PATIENCE, yard.engine.came_to("silent", 1)).await.expect("the box is asked");
    asking.abort();
    drop(ssh);
    all_gone(&yard).await;
    // Not because the box had its whole time: that would have been a failure to listen, which is written down.
    let about = messages(&client, &id).await;
    assert!(!about.iter().any(|line| line.contains("forward")), "{about:?}");
    // The box is not waited for any longer either.
    client.until(&format!("/v2/box/{id}"), |data: &Value| data["status"] == "idle").await;
    assert!(yard.engine.jobs(&box_id(&id)).is_empty());
}
