//! Listening in the box for as long as a connection lasts, and telling it who comes.

use std::io;
use std::time::Duration;

use boxyard_proto::wire::{FromInit, ToInit};
use rustix::io::Errno;
use tokio::time::{Instant, sleep, sleep_until};

use super::bind::Bound;
use super::connection::{Connection, Incoming};
use super::sockets::{Place, Queue};
use super::stream::Stream;

/// How long to leave a listener alone that cannot accept, for want of descriptors as a rule.
const EXHAUSTED: Duration = Duration::from_millis(50);

/// Tells `connection` of everybody who connects to `bound`, until it closes. Those whom nobody has accepted by then are dropped.
pub async fn announce(mut connection: Connection, bound: Bound, queue: Queue) {
    connection.say(&FromInit::Opened { host: bound.host.clone(), port: bound.port });
    // However it ended, it is over: the other side has gone or talks nonsense.
    let _ = until_closed(&mut connection, &bound, &queue).await;
}

async fn until_closed(connection: &mut Connection, bound: &Bound, queue: &Queue) -> io::Result<()> {
    heed(connection)?;
    loop {
        connection.flush()?;
        let expiry = queue.expire();
        let pending = connection.is_pending();
        tokio::select! {
            readable = connection.readable() => {
                readable?;
                match connection.fill() {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    filled => {
                        filled?;
                        heed(connection)?;
                    }
                }
            }
            writable = connection.writable(), if pending => writable?,
            // Who cannot be announced stays in the kernel's queue.
            (stream, place) = next(bound, queue), if !pending => {
                let (host, port) = stream.peer();
                connection.say(&FromInit::Incoming { connection: queue.enter(stream, place), host, port });
            }
            () = at(expiry) => {}
        }
    }
}

/// Does what the other side has said, which is nothing as a rule.
fn heed(connection: &mut Connection) -> io::Result<()> {
    while let Some(incoming) = connection.cut()? {
        match incoming {
            Incoming::Message(ToInit::Hello(_)) => {}
            Incoming::Unknown(message) => connection.say(&FromInit::Unsupported { message }),
            Incoming::Message(ToInit::End { .. }) => return Err(io::ErrorKind::ConnectionAborted.into()),
            Incoming::Input(_) | Incoming::Message(_) => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a message that means nothing to a listener"));
            }
        }
    }
    Ok(())
}

/// Waits until `time`, or for ever.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Waits for room for a connection, and then for one. Cancel safe.
async fn next(bound: &Bound, queue: &Queue) -> (Stream, Place) {
    let place = queue.place().await;
    loop {
        match bound.accept().await {
            Ok(stream) => return (stream, place),
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::CONNABORTED | Errno::INTR | Errno::AGAIN) => {}
                // Also what befell a connection before it was accepted. None of it ends the listening.
                Some(_) | None => sleep(EXHAUSTED).await,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::sync::Arc;

    use boxyard_proto::wire::{Endpoint, User};
    use tokio::net::{TcpStream, UnixStream};
    use tokio::runtime::Builder;
    use tokio::sync::Semaphore;

    use super::super::jobs::Jobs;
    use super::super::sockets::Sockets;
    use super::*;

    #[test]
    fn who_is_not_accepted_in_time_is_dropped() {
        let runtime = Builder::new_current_thread().enable_io().enable_time().build().expect("a runtime");
        runtime.block_on(async {
            let jobs = Rc::new(Jobs::on_host(Vec::new(), None, crate::serve::Grace::default()).expect("jobs"));
            let sockets = Rc::new(Sockets::with_patience(Duration::from_millis(20)));
            let queue = sockets.queue().expect("room");
            let at = Endpoint::Tcp { host: "127.0.0.1".into(), port: 0 };
            let bound = Bound::make(&at, User::ROOT, queue.number(), &jobs, &sockets).await.expect("listen");
            let (engine, ours) = UnixStream::pair().expect("a pair");
            let place = Arc::new(Semaphore::new(1)).acquire_owned().await.expect("a place");
            let port = bound.port;
            let late = async {
                for _ in 0..3 {
                    let peer = TcpStream::connect(("127.0.0.1", port)).await.expect("connect");
                    while let Err(error) = peer.try_read(&mut [0; 16]).map(|read| assert_eq!(read, 0)) {
                        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                        peer.readable().await.expect("wait for the end");
                    }
                }
                drop(engine);
            };
            tokio::join!(announce(Connection::new(ours, place, jobs.scratch()), bound, queue), late);
            assert!((0..10).all(|number| sockets.take(number).is_none()));
        });
    }
}
