//! The boxes' network, on the host's side.
//!
//! Every box has a point-to-point link to the host and an address that follows from its slot. All share one gateway: an address on
//! the host's loopback interface, where our name server listens and nothing else is to be reached. What is the same for all boxes (the
//! gateway, the firewall, forwarding) is made once, when the engine is opened, and stays while there are boxes, whether the server
//! runs or not. The links themselves are made by the launcher.

mod connections;
pub(super) mod dns;
pub(super) mod link;
mod rules;

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use boxyard_proto::launch;

pub(super) use self::connections::Whose;
use self::dns::{DnsConfig, Forwarder};
use self::link::Links;
use self::rules::Rules;
pub(super) use self::rules::{program as nft_program, unload};
use super::cidr::Cidr;

/// The switch for IPv4 forwarding.
pub(super) const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";

/// Largest packet in bytes where the host's way out does not ask for less.
const MTU: u32 = 1500;

/// What the network is made from.
#[derive(Debug, Clone)]
pub(super) struct NetworkConfig {
    /// The boxes' addresses; the first that can be used is the gateway's.
    pub(super) range: Cidr,
    /// Closed to boxes besides what is closed always.
    pub(super) deny: Vec<Cidr>,
    /// Open to boxes though it is private.
    pub(super) allow: Vec<Cidr>,
    /// How names are resolved.
    pub(super) dns: DnsConfig,
}

/// The network of one instance.
#[derive(Debug)]
pub(super) struct Network {
    tag: String,
    range: Cidr,
    gateway: Ipv4Addr,
    mtu: u32,
    _forwarder: Forwarder,
}

impl Network {
    /// Makes or mends what all boxes share, and starts the name server.
    ///
    /// # Errors
    /// `nft` is missing or refuses, or the range is used by somebody else.
    pub(super) async fn open(tag: &str, config: NetworkConfig, links: &Links) -> io::Result<Self> {
        let NetworkConfig { range, deny, allow, dns } = config;
        let Some(gateway) = range.address(1) else { return Err(io::Error::other(format!("{range} has no room"))) };
        let rules = Rules { tag, range, gateway, deny: &deny, allow: &allow };
        // The firewall first: there must be no moment in which boxes have a way and no rules.
        rules.load().await?;
        forward()?;
        if !links.add_address(gateway, &label(tag)).await? {
            let text = format!(
                "{gateway} is another Boxyard's or the host's own: give this one another network range (network.range)"
            );
            return Err(io::Error::new(io::ErrorKind::AddrInUse, text));
        }
        let forwarder = Forwarder::start(SocketAddr::from((gateway, 53)), range, dns).await.map_err(|error| {
            io::Error::new(error.kind(), format!("binding the boxes' name server to {gateway}:53: {error}"))
        })?;
        Ok(Self { tag: tag.to_owned(), range, gateway, mtu: uplink_mtu(), _forwarder: forwarder })
    }

    /// The network of the box with `slot`; `None` when the range ends before.
    pub(super) fn of(&self, slot: u32) -> Option<launch::Network> {
        let address = address(self.range, slot)?;
        Some(launch::Network { interface: interface(&self.tag, slot), address, gateway: self.gateway, mtu: self.mtu })
    }

    /// Removes what all boxes share. Forwarding stays on: others may have come to need it.
    ///
    /// # Errors
    /// The kernel or `nft` refuses.
    pub(super) async fn remove(&self, links: &Links) -> io::Result<()> {
        links.remove_address(self.gateway).await?;
        unload(&self.tag).await
    }
}

/// The firewall's table as a script for `nft`, for a check without loading it.
pub(super) fn rules_script(tag: &str, range: Cidr, deny: &[Cidr], allow: &[Cidr]) -> String {
    let gateway = range.address(1).unwrap_or(Ipv4Addr::UNSPECIFIED);
    Rules { tag, range, gateway, deny, allow }.script()
}

/// The name of the host's end of a link, at most 15 bytes.
pub(super) fn interface(tag: &str, slot: u32) -> String {
    format!("by{tag}-{slot:x}")
}

/// The address that belongs to a slot; `None` when the range ends before.
pub(super) fn address(range: Cidr, slot: u32) -> Option<Ipv4Addr> {
    range.address(slot.checked_add(2)?)
}

/// Forgets connections, on a thread of its own: there may be many thousands. That they cannot be forgotten is no reason to keep a box from
/// being made or removed; then they end by their own timeouts.
pub(super) async fn forget_connections(whose: Whose) {
    let shown = format!("{whose:?}");
    match tokio::task::spawn_blocking(move || connections::forget(&whose)).await {
        Ok(Ok(count)) => tracing::debug!(whose = shown, count, "connections forgotten"),
        Ok(Err(error)) => {
            tracing::warn!(whose = shown, %error, "connections of boxes that are gone cannot be forgotten")
        }
        Err(error) => tracing::error!(whose = shown, %error, "forgetting connections"),
    }
}

/// How many boxes fit into a range: its own address, the gateway and the last address are not for boxes.
pub(super) fn room(range: Cidr) -> u32 {
    u32::try_from(range.len().saturating_sub(3)).unwrap_or(u32::MAX)
}

fn label(tag: &str) -> String {
    format!("lo:by{tag}")
}

fn forward() -> io::Result<()> {
    if fs::read_to_string(FORWARDING)?.trim() != "0" {
        return Ok(());
    }
    tracing::info!("switching on IPv4 forwarding ({FORWARDING}), which boxes need to reach the network");
    fs::write(FORWARDING, "1")
}

/// What fits through the interface of the host's default route.
fn uplink_mtu() -> u32 {
    let routes = fs::read_to_string("/proc/net/route").unwrap_or_default();
    let uplink = default_interface(&routes);
    let mtu = uplink.and_then(|name| fs::read_to_string(format!("/sys/class/net/{name}/mtu")).ok());
    mtu.and_then(|text| text.trim().parse().ok()).unwrap_or(MTU).clamp(576, MTU)
}

/// The interface of the default route in the text of `/proc/net/route`.
fn default_interface(routes: &str) -> Option<&str> {
    routes.lines().skip(1).find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        (*fields.get(1)? == "00000000" && *fields.get(7)? == "00000000").then_some(fields[0])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_names_fit_whatever_the_slot() {
        assert_eq!(interface("ab12", 4093), "byab12-ffd");
        assert!(interface("ab12", u32::MAX).len() <= 15);
    }

    #[test]
    fn the_default_route_is_found() {
        let routes = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
                      br0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
                      eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n";
        assert_eq!(default_interface(routes), Some("eth0"));
        assert_eq!(default_interface(""), None);
    }

    #[test]
    fn a_small_range_has_room_for_fewer_boxes() {
        assert_eq!(room(Cidr::new(Ipv4Addr::new(198, 18, 0, 0), 24)), 253);
        assert_eq!(room(Cidr::new(Ipv4Addr::new(198, 18, 0, 0), 31)), 0);
    }
}
