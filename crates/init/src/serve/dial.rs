//! Connecting to sockets from inside the box.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use boxyard_proto::wire::{Endpoint, FailedKind, User};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use tokio::net::{TcpSocket, UnixStream};
use tokio::time::{sleep, timeout};

use super::address::{self, Host, invalid};
use super::exec::Refusal;
use super::jobs::Jobs;
use super::names;
use super::rights;
use super::sockets::Sockets;
use super::stream::Stream;

/// How long one address may take to answer.
const CONNECTING: Duration = Duration::from_secs(15);

/// How long all addresses together may take.
const CONNECTING_ALL: Duration = Duration::from_secs(30);

/// Between tries of a Unix socket whose queue is full: the kernel tells nobody when there is room.
const QUEUE_FULL: Duration = Duration::from_millis(20);

/// A socket that was dialled, and what it is connected to.
#[derive(Debug)]
pub struct Dialled {
    /// The socket.
    pub stream: Stream,
    /// An IP address, or a path.
    pub host: String,
    /// 0 for Unix sockets.
    pub port: u16,
}

/// Connects to `to`. Dropping it midway leaves nothing behind.
///
/// # Errors
/// The address is none, cannot be reached, or is not for `user`.
pub async fn dial(to: &Endpoint, user: User, jobs: &Rc<Jobs>, sockets: &Sockets) -> Result<Dialled, Refusal> {
    rights::check(user)?;
    match to {
        Endpoint::Tcp { host, port } => {
            if *port == 0 {
                return Err(invalid("nobody can be reached at port 0"));
            }
            let addresses = match Host::parse(host)? {
                Host::Any => return Err(invalid("a host is needed to connect to")),
                Host::Localhost => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
                Host::Address(address) => vec![address],
                Host::Name(name) => names::look_up(&name, user, jobs, sockets).await?,
            };
            let stream = tcp(&addresses, *port, user).await?;
            let (host, port) = stream.peer();
            Ok(Dialled { stream, host, port })
        }
        Endpoint::Unix { path } => {
            let stream = unix(&address::unix(path)?, user).await?;
            Ok(Dialled { stream, host: path.clone(), port: 0 })
        }
        Endpoint::AgentSocket => Err(invalid("an agent's socket can only be listened on")),
    }
}

/// Connects to the first of `addresses` that answers. The first one's failure is told, as the most likely to be the one that counts.
async fn tcp(addresses: &[IpAddr], port: u16, user: User) -> Result<Stream, Refusal> {
    let mut first = None;
    let each = async {
        for address in addresses {
            let connecting = timeout(CONNECTING, tcp_to(SocketAddr::new(*address, port), user));
            let refusal = match connecting.await {
                Ok(Ok(stream)) => return Some(stream),
                Ok(Err(error)) => address::refusal(&error),
                Err(_) => address::refusal(&Errno::TIMEDOUT.into()),
            };
            first.get_or_insert(refusal);
        }
        None
    };
    let connected = timeout(CONNECTING_ALL, each).await.ok().flatten();
    connected.ok_or_else(|| first.unwrap_or_else(|| address::refusal(&Errno::TIMEDOUT.into())))
}

async fn tcp_to(address: SocketAddr, user: User) -> io::Result<Stream> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    // The user's own, for whoever asks the kernel whose it is.
    let socket = rights::acting_as(user, || new(family))?;
    let stream = TcpSocket::from_std_stream(socket.into()).connect(address).await?;
    Ok(Stream::tcp(stream))
}

async fn unix(address: &SocketAddrUnix, user: User) -> Result<Stream, Refusal> {
    let connected = async {
        loop {
            let connected = rights::acting_as(user, || {
                let socket = new(AddressFamily::UNIX)?;
                connect(&socket, address)?;
                Ok(socket)
            });
            match connected {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(QUEUE_FULL).await,
                connected => return connected.and_then(|socket| UnixStream::from_std(socket.into())),
            }
        }
    };
    match timeout(CONNECTING, connected).await {
        Ok(Ok(stream)) => Ok(Stream::Unix(stream, user)),
        Ok(Err(error)) => Err(address::refusal(&error)),
        Err(_) => Err(Refusal::new(FailedKind::Other, "connection timed out: the listener's queue is full")),
    }
}

fn new(family: AddressFamily) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(family, SocketType::STREAM, flags, None)?)
}
