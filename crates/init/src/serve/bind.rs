//! Making sockets that listen.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::rc::Rc;

use boxyard_proto::wire::{Endpoint, FailedKind, User};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
use tokio::net::{TcpListener, UnixListener};

use super::address::{self, Host};
use super::exec::Refusal;
use super::jobs::Jobs;
use super::names;
use super::rights;
use super::socket_file::{OwnFolder, SocketFile};
use super::sockets::Sockets;
use super::stream::{Stream, shown};

/// Connections that the kernel keeps for us.
const BACKLOG: i32 = 128;

/// The first port that is not for root only.
const FIRST_FREE_PORT: u16 = 1024;

/// Tries to find a port that is free on both addresses.
const TRIES: usize = 8;

/// Sockets that listen for the same purpose. Dropping it closes them and removes what was made for them.
#[derive(Debug)]
pub struct Bound {
    listeners: Vec<Listener>,
    /// An IP address, or a path.
    pub host: String,
    /// 0 for Unix sockets.
    pub port: u16,
    _file: Option<SocketFile>,
}

#[derive(Debug)]
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, User),
}

impl Bound {
    /// Listens where `at` says. `number` is one that no other has; an agent's socket is called by it.
    ///
    /// # Errors
    /// The address is none, is in use, is not the box's, or is not for `user`.
    pub async fn make(
        at: &Endpoint,
        user: User,
        number: u64,
        jobs: &Rc<Jobs>,
        sockets: &Sockets,
    ) -> Result<Self, Refusal> {
        rights::check(user)?;
        match at {
            Endpoint::Tcp { host, port } => {
                if (1..FIRST_FREE_PORT).contains(port) && user.uid != User::ROOT.uid {
                    return Err(Refusal::new(FailedKind::NotAllowed, "ports below 1024 are for root only"));
                }
                let bound = match Host::parse(host)? {
                    Host::Any => both(Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED, *port, user),
                    Host::Localhost => both(Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST, *port, user),
                    Host::Address(address) => first(&[address], *port, user),
                    Host::Name(name) => first(&names::look_up(&name, user, jobs, sockets).await?, *port, user),
                };
                bound.and_then(Self::tcp).map_err(|error| address::refusal(&error))
            }
            Endpoint::Unix { path } => {
                let to = address::unix(path)?;
                let made = rights::acting_as(user, || {
                    let socket = new(AddressFamily::UNIX)?;
                    let file = SocketFile::bind(&socket, path, &to, user)?;
                    listen(&socket, BACKLOG)?;
                    Ok((socket, file))
                });
                made.and_then(|(socket, file)| Self::unix(socket, path.clone(), file, user))
                    .map_err(|error| address::refusal(&error))
            }
            Endpoint::AgentSocket => {
                let made = rights::acting_as(user, || {
                    let socket = new(AddressFamily::UNIX)?;
                    let folder = OwnFolder::make(user)?;
                    let (file, path) = folder.bind(&socket, &format!("agent.{number}"))?;
                    listen(&socket, BACKLOG)?;
                    Ok((socket, file, path))
                });
                made.and_then(|(socket, file, path)| Self::unix(socket, path, file, user))
                    .map_err(|error| address::refusal(&error))
            }
        }
    }

    fn tcp(sockets: Vec<OwnedFd>) -> io::Result<Self> {
        let listeners = sockets.into_iter().map(|socket| TcpListener::from_std(socket.into()));
        let listeners = listeners.collect::<io::Result<Vec<_>>>()?;
        let address = listeners.first().ok_or(Errno::ADDRNOTAVAIL)?.local_addr()?;
        let (host, port) = shown(address);
        let listeners = listeners.into_iter().map(Listener::Tcp).collect();
        Ok(Self { listeners, host, port, _file: None })
    }

    fn unix(socket: OwnedFd, path: String, file: SocketFile, user: User) -> io::Result<Self> {
        let listeners = vec![Listener::Unix(UnixListener::from_std(socket.into())?, user)];
        Ok(Self { listeners, host: path, port: 0, _file: Some(file) })
    }

    /// Waits for a connection. Cancel safe.
    ///
    /// # Errors
    /// What the kernel says; another try may work.
    pub async fn accept(&self) -> io::Result<Stream> {
        match self.listeners.as_slice() {
            [one, another, ..] => tokio::select! {
                stream = one.accept() => stream,
                stream = another.accept() => stream,
            },
            [one] => one.accept().await,
            [] => std::future::pending().await,
        }
    }
}

impl Listener {
    async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => listener.accept().await.map(|(stream, _)| Stream::tcp(stream)),
            Self::Unix(listener, user) => listener.accept().await.map(|(stream, _)| Stream::Unix(stream, *user)),
        }
    }
}

/// Listens at `port` of the IPv4 address, and of the IPv6 one as well if that can be.
fn both(one: Ipv4Addr, another: Ipv6Addr, port: u16, user: User) -> io::Result<Vec<OwnedFd>> {
    for _ in 0..TRIES {
        let socket = tcp(SocketAddr::new(one.into(), port), user)?;
        let found = match port {
            0 => SocketAddr::try_from(rustix::net::getsockname(&socket)?)?.port(),
            port => port,
        };
        match tcp(SocketAddr::new(another.into(), found), user) {
            Ok(other) => return Ok(vec![socket, other]),
            // Taken by somebody else; another one may not be.
            Err(error) if port == 0 && Errno::from_io_error(&error) == Some(Errno::ADDRINUSE) => {}
            Err(_) => return Ok(vec![socket]),
        }
    }
    Ok(vec![tcp(SocketAddr::new(one.into(), port), user)?])
}

/// Listens at `port` of the first address that is the box's.
fn first(addresses: &[IpAddr], port: u16, user: User) -> io::Result<Vec<OwnedFd>> {
    let mut failed = Errno::ADDRNOTAVAIL.into();
    for address in addresses {
        match tcp(SocketAddr::new(*address, port), user) {
            Ok(socket) => return Ok(vec![socket]),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

fn tcp(address: SocketAddr, user: User) -> io::Result<OwnedFd> {
    rights::acting_as(user, || {
        let socket = new(if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 })?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        if address.is_ipv6() {
            sockopt::set_ipv6_v6only(&socket, true)?;
        }
        bind(&socket, &address)?;
        listen(&socket, BACKLOG)?;
        Ok(socket)
    })
}

fn new(family: AddressFamily) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(family, SocketType::STREAM, flags, None)?)
}
