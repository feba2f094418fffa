//! The name server of the boxes: a forwarder on the gateway's address.
//!
//! A question goes on to the host's own resolvers as it came, under a new random id and from a new port, and the answer comes back as
//! it came. Nothing is cached: the host's resolver does that. Names may resolve to addresses that boxes cannot reach; the firewall
//! sees to those, so there is nothing to filter here.
//!
//! Boxes are hostile clients: what they may have under way is bounded, for each and in total, and only their addresses are answered.
//! That the address is the sender's own is the firewall's work.

mod message;
mod room;
mod tcp;
mod upstream;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use self::message::Question;
use self::room::Room;
use self::upstream::Upstreams;
use crate::local::cidr::Cidr;

/// Bytes of a question at most. Real ones have less than 512.
const QUESTION_MAX: usize = 4096;

/// Questions over UDP under way: in all, and of one box.
const UDP_ROOM: (usize, usize) = (512, 64);

/// Connections over TCP: in all, and of one box.
const TCP_ROOM: (usize, usize) = (256, 16);

/// How the forwarder answers.
#[derive(Debug, Clone, Default)]
pub(in crate::local) struct DnsConfig {
    /// Who is asked; empty means whom the host's `/etc/resolv.conf` names at the time.
    pub(in crate::local) upstreams: Vec<SocketAddr>,
    /// Names with an address of their own, in lower case and without a dot at the end.
    pub(in crate::local) hosts: BTreeMap<String, Ipv4Addr>,
}

/// The running forwarder. Dropping it ends it and all that it has under way.
#[derive(Debug)]
pub(in crate::local) struct Forwarder {
    _udp: AbortOnDropHandle<()>,
    _tcp: AbortOnDropHandle<()>,
}

impl Forwarder {
    /// Starts to answer clients of the range `clients` on `address`.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub(in crate::local) async fn start(address: SocketAddr, clients: Cidr, config: DnsConfig) -> io::Result<Self> {
        let answerer = Arc::new(Answerer::new(address, config));
        let udp = UdpSocket::bind(address).await?;
        let tcp = TcpListener::bind(address).await?;
        let udp = tokio::spawn(serve_udp(udp, clients, Arc::clone(&answerer)));
        let tcp = tokio::spawn(tcp::serve(tcp, clients, answerer));
        Ok(Self { _udp: AbortOnDropHandle::new(udp), _tcp: AbortOnDropHandle::new(tcp) })
    }
}

async fn serve_udp(socket: UdpSocket, clients: Cidr, answerer: Arc<Answerer>) {
    let socket = Arc::new(socket);
    let room = Arc::new(Room::new(UDP_ROOM));
    let mut tasks = JoinSet::new();
    let mut buffer = [0; QUESTION_MAX];
    loop {
        let received = tokio::select! {
            received = socket.recv_from(&mut buffer) => received,
            Some(_) = tasks.join_next() => continue,
        };
        // Errors here are of earlier answers that could not be delivered.
        let Ok((length, client)) = received else { continue };
        // A client over its share asks again by itself.
        let Some(ticket) = admit(client, clients, &room) else { continue };
        let (bytes, socket, answerer) = (buffer[..length].to_vec(), Arc::clone(&socket), Arc::clone(&answerer));
        tasks.spawn(async move {
            if let Some(answer) = answerer.answer(&bytes, Transport::Udp).await {
                // The client is gone or its queue is full; it asks again.
                let _ = socket.send_to(&answer, client).await;
            }
            drop(ticket);
        });
    }
}

fn admit(client: SocketAddr, clients: Cidr, room: &Arc<Room>) -> Option<room::Ticket> {
    match client.ip() {
        IpAddr::V4(address) if clients.contains(address) => room.enter(address),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

/// How a question came, and so how it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    Udp,
    Tcp,
}

#[derive(Debug)]
struct Answerer {
    upstreams: Upstreams,
    hosts: BTreeMap<String, Ipv4Addr>,
}

impl Answerer {
    fn new(ourselves: SocketAddr, config: DnsConfig) -> Self {
        Self { upstreams: Upstreams::new(config.upstreams, ourselves), hosts: config.hosts }
    }

    /// The answer to the question in `bytes`; `None` for what deserves none.
    async fn answer(&self, bytes: &[u8], via: Transport) -> Option<Vec<u8>> {
        let question = match Question::read(bytes) {
            Ok(question) => question,
            Err(refusal) => return refusal,
        };
        if let Some(address) = self.hosts.get(&question.host_name()) {
            return Some(question.local_answer(*address));
        }
        let answer = self.upstreams.ask(&question, via).await;
        Some(match (answer, via) {
            (Some(answer), Transport::Udp) => question.fit(answer),
            (Some(answer), Transport::Tcp) => answer,
            (None, _) => question.failure(),
        })
    }
}

#[cfg(test)]
mod tests;
