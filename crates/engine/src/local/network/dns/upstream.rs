//! Whom to ask, and asking.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::message::Question;
use super::{Transport, tcp};

/// How long one server may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// How often the servers are gone through.
const ROUNDS: usize = 2;

/// Servers that are asked at most, as in the C library.
const SERVERS_MAX: usize = 3;

/// How long the host's configuration is taken to be unchanged.
const FRESH: Duration = Duration::from_secs(2);

const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The servers that know.
#[derive(Debug)]
pub(super) struct Upstreams {
    ourselves: SocketAddr,
    fixed: Vec<SocketAddr>,
    host: Mutex<Host>,
}

/// What the host's configuration said, and when.
#[derive(Debug, Default)]
struct Host {
    servers: Vec<SocketAddr>,
    changed: Option<SystemTime>,
    looked: Option<Instant>,
}

impl Upstreams {
    /// The servers `fixed`, or the host's own where that is empty; never `ourselves`.
    pub(super) fn new(mut fixed: Vec<SocketAddr>, ourselves: SocketAddr) -> Self {
        fixed.truncate(SERVERS_MAX);
        Self { ourselves, fixed, host: Mutex::default() }
    }

    /// The first answer that a server gives, however it may read.
    pub(super) async fn ask(&self, question: &Question, via: Transport) -> Option<Vec<u8>> {
        let servers = self.servers();
        for _ in 0..ROUNDS {
            for server in &servers {
                let asked = match via {
                    Transport::Udp => timeout(PATIENCE, ask_udp(*server, question)).await,
                    Transport::Tcp => timeout(PATIENCE, ask_tcp(*server, question)).await,
                };
                if let Ok(Ok(answer)) = asked {
                    return Some(answer);
                }
            }
        }
        tracing::debug!(?servers, "no name server answers");
        None
    }

    fn servers(&self) -> Vec<SocketAddr> {
        if !self.fixed.is_empty() {
            return self.fixed.clone();
        }
        let mut host = self.host.lock().unwrap_or_else(PoisonError::into_inner);
        if host.looked.is_none_or(|looked| looked.elapsed() > FRESH) {
            host.looked = Some(Instant::now());
            let changed = fs::metadata(RESOLV_CONF).and_then(|metadata| metadata.modified()).ok();
            if changed.is_none() || changed != host.changed {
                host.changed = changed;
                host.servers = resolv_conf(&fs::read_to_string(RESOLV_CONF).unwrap_or_default());
                host.servers.retain(|server| server.ip() != self.ourselves.ip());
            }
        }
        host.servers.clone()
    }
}

/// The servers that a `resolv.conf` names; as in the C library, a local one where it names none.
fn resolv_conf(text: &str) -> Vec<SocketAddr> {
    let named = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let address = words.next().filter(|word| *word == "nameserver").and_then(|_| words.next())?;
        Some(SocketAddr::new(address.parse::<IpAddr>().ok()?, 53))
    });
    let servers: Vec<_> = named.take(SERVERS_MAX).collect();
    if servers.is_empty() { vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 53))] } else { servers }
}

async fn ask_udp(server: SocketAddr, question: &Question) -> io::Result<Vec<u8>> {
    // A socket of its own has a random port of its own, and being connected it hears nobody else.
    let any = if server.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    let id = rand::random();
    socket.send(&question.with_id(id)).await?;
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if let Some(answer) = question.accept(id, buffer[..length].to_vec()) {
            return Ok(answer);
        }
    }
}

async fn ask_tcp(server: SocketAddr, question: &Question) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let id = rand::random();
    tcp::send(&mut stream, &question.with_id(id)).await?;
    let answer = tcp::receive(&mut stream, usize::from(u16::MAX)).await?;
    answer.and_then(|answer| question.accept(id, answer)).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_servers_are_read_as_the_c_library_does() {
        let text = "# nameserver 1.1.1.1\nsearch lan\nnameserver 10.0.0.1\noptions edns0\nnameserver fe80::1%eth0\n\
                    nameserver ::1 trailing\nnameserver 10.0.0.2\nnameserver 10.0.0.3\n";
        let expected: Vec<SocketAddr> =
            ["10.0.0.1:53", "[::1]:53", "10.0.0.2:53"].into_iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(resolv_conf(text), expected);
        assert_eq!(resolv_conf("search lan\n"), [SocketAddr::from((Ipv4Addr::LOCALHOST, 53))]);
    }
}
