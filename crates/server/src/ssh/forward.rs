//! Channels that carry the bytes of a socket in the box. The box opens or accepts the socket itself, in its own network and with its
//! user's rights, so nothing of the host can be reached through it.

use std::sync::Arc;
use std::time::Duration;

use boxyard_proto::wire::Endpoint;
use russh::server::{ChannelOpenHandle, Msg};
use russh::{Channel, ChannelOpenFailure, ChannelReadHalf};
use tokio::time::timeout;

use super::connection::{Common, Slot, Target};
use super::input::Input;
use super::output::Output;
use super::session::{Heard, take_in};
use crate::boxes::SessionSocket;

/// Bytes of a host's name.
const HOST_MAX: usize = 255;
/// Bytes of a Unix socket's path, without its NUL (`sockaddr_un`).
const PATH_MAX: usize = 107;
/// How long a client may take to close a channel on which both sides have said all. If it does it first, `russh` forgets the channel.
const CLOSE_FIRST: Duration = Duration::from_secs(1);
/// How long a socket may take to read what was sent before its channel was closed.
const DRAIN: Duration = Duration::from_secs(10);

impl Target {
    /// Where this is in the box.
    ///
    /// # Errors
    /// There can be no such place; says why.
    pub(super) fn endpoint(&self) -> Result<Endpoint, &'static str> {
        match self {
            Self::Tcp(host, _) if host.is_empty() || !is_text(host, HOST_MAX) => Err("this is no host"),
            Self::Tcp(host, port) => match u16::try_from(*port) {
                Ok(port) if port > 0 => Ok(Endpoint::Tcp { host: host.clone(), port }),
                Ok(_) | Err(_) => Err("this is no port"),
            },
            Self::Unix(path) => unix(path),
        }
    }
}

/// A Unix socket in the box.
///
/// # Errors
/// There can be none of this path; says why.
pub(super) fn unix(path: &str) -> Result<Endpoint, &'static str> {
    if path.starts_with('/') && is_text(path, PATH_MAX) {
        Ok(Endpoint::Unix { path: path.to_owned() })
    } else {
        Err("this is no absolute path of a socket")
    }
}

/// Whether a client's text is short enough and safe to show.
pub(super) fn is_text(text: &str, max: usize) -> bool {
    text.len() <= max && !text.chars().any(char::is_control)
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(host, port) => show(f, host, *port),
            Self::Unix(path) => f.write_str(path),
        }
    }
}

/// Writes host and port in the usual way.
pub(super) fn show(f: &mut std::fmt::Formatter<'_>, host: &str, port: u32) -> std::fmt::Result {
    if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
}

/// Serves a channel to a socket that the client wants to reach: `ssh -L`, `-D` and `-W`.
pub(super) async fn direct(
    common: Arc<Common>,
    channel: Channel<Msg>,
    target: Target,
    reply: ChannelOpenHandle,
    _slot: Slot,
) {
    let to = match target.endpoint() {
        Ok(to) => to,
        Err(why) => return refuse(&common, &channel, reply, why).await,
    };
    let dialled = tokio::select! {
        biased;
        text = common.over() => return refuse(&common, &channel, reply, &text).await,
        dialled = common.shared.boxes.dial(&common.kept, to) => dialled,
    };
    match dialled {
        Ok(socket) => {
            common.log_forward(format_args!("SSH forward to {target}"));
            reply.accept().await;
            carry(&common, channel, socket).await;
        }
        Err(error) => {
            common.log_forward(format_args!("SSH forward to {target} failed"));
            refuse(&common, &channel, reply, &error.to_string()).await;
        }
    }
}

async fn refuse(common: &Common, channel: &Channel<Msg>, reply: ChannelOpenHandle, why: &str) {
    // `SSH_OPEN_CONNECT_FAILED`, RFC 4254, section 5.1, with a text that clients show.
    let code = ChannelOpenFailure::ConnectFailed.code();
    let why = ChannelOpenFailure::Other { code, reason: why.to_owned() };
    common.refuse(channel.id(), reply, why).await;
}

/// Serves a channel to a socket in the box until both have ended.
pub(super) async fn carry(common: &Common, channel: Channel<Msg>, socket: SessionSocket) {
    let _counted = common.count("forward");
    let SessionSocket { mut socket, lease: _lease } = socket;
    let (mut read, write) = channel.split();
    let input = Input::new(&common.flow);
    let out = Output::new(write, common.handle.clone());
    let control = socket.control();
    let outward = async {
        loop {
            match socket.next().await {
                Ok(Some(bytes)) => {
                    if out.data(bytes).await.is_err() {
                        return false;
                    }
                }
                Ok(None) => {
                    out.eof().await;
                    return true;
                }
                // Broken: whatever the client still sends has nowhere to go.
                Err(_) => return false,
            }
        }
    };
    let mut hearing = Box::pin(hear(&mut read, &input));
    let (mut inward, mut outward) = (std::pin::pin!(input.feed(&control)), std::pin::pin!(outward));
    let (mut sending, mut receiving) = (true, true);
    let whole = loop {
        tokio::select! {
            biased;
            heard = &mut hearing => match heard {
                Heard::Closed => {
                    // What it had sent before still arrives.
                    input.end();
                    if sending {
                        let _ = timeout(DRAIN, inward).await;
                    }
                    return;
                }
                Heard::Overrun => break false,
            },
            _ = common.over() => break false,
            () = &mut inward, if sending => sending = false,
            whole = &mut outward, if receiving => {
                receiving = false;
                if !whole {
                    break false;
                }
            }
        }
        if !sending && !receiving {
            break true;
        }
    };
    if whole && matches!(timeout(CLOSE_FIRST, &mut hearing).await, Ok(Heard::Closed)) {
        return;
    }
    // `russh` must not wait for us to hear more while we wait for it to close.
    drop(hearing);
    drop(read);
    common.closes_first();
    out.close().await;
}

async fn hear(read: &mut ChannelReadHalf, input: &Input) -> Heard {
    while let Some(message) = read.wait().await {
        if let Some(heard) = take_in(message, input) {
            return heard;
        }
    }
    Heard::Closed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_that_cannot_be_are_refused_before_the_box_is_asked() {
        let tcp = |host: &str, port| Target::Tcp(host.to_owned(), port).endpoint();
        assert_eq!(tcp("db", 5432), Ok(Endpoint::Tcp { host: "db".into(), port: 5432 }));
        assert_eq!(tcp("::1", 65535), Ok(Endpoint::Tcp { host: "::1".into(), port: 65535 }));
        for (host, port) in [("db", 0), ("db", 65536), ("db", u32::MAX), ("", 80), ("a\nb", 80), (&"x".repeat(256), 80)]
        {
            assert!(tcp(host, port).is_err(), "{host:?} {port}");
        }
        assert!(unix("/run/x.sock").is_ok());
        for path in ["", "x.sock", "/a\0b", &format!("/{}", "x".repeat(107))] {
            assert!(unix(path).is_err(), "{path:?}");
        }
        assert_eq!(Target::Tcp("::1".into(), 80).to_string(), "[::1]:80");
        assert_eq!(Target::Tcp("db".into(), 80).to_string(), "db:80");
    }
}
