//! The box's network: a pair of Ethernet interfaces, one end on the host and the other born inside the box.
//!
//! The host's end has no address. The gateway's address lies elsewhere on the host, which answers for it on every interface; a route
//! of 32 bits leads back. So boxes need no subnets and cannot see each other.

use std::io;
use std::net::Ipv4Addr;

use boxyard_proto::launch::Network;

use super::kernel::Kernel;
use super::netlink::{Batch, CHANGE, CREATE, REPLACE, Routes, interface};
use crate::sys::Child;
use crate::trouble::{Doing, Trouble};

/// The box's own end.
const INSIDE: &str = "eth0";

const VETH_PEER: u16 = 1;
const ADDRESS_GENERATION_MODE: u16 = 8;
const NO_ADDRESSES: u8 = 1;
/// `IFLA_INET_CONF`, and the setting in it that is called `arp_filter` elsewhere.
const IPV4_SETTINGS: u16 = 1;
const ARP_FILTER: u16 = 13;
const UP: u32 = 1;

/// Makes both ends, brings the host's up and routes the box's address to it.
pub fn make(network: &Network, child: &Child) -> Result<(), Trouble> {
    let name = &network.interface;
    if name.is_empty() || name.len() > 15 || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    {
        return Err(Trouble::new("reading the plan", "the interface's name must have 1 to 15 plain characters"));
    }
    let routes = Routes::open().doing("opening a netlink socket")?;
    let made = match make_pair(&routes, network, child) {
        // Of an earlier life of the box, whose network namespace the kernel has not yet taken apart.
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
            delete(&routes, name).and_then(|()| make_pair(&routes, network, child))
        }
        made => made,
    };
    made.doing_with(|| format!("making the interface {name}"))?;
    bring_up(&routes, network)
}

/// Removes the host's end, and with it the other. The kernel would do it some time after the box's network namespace is gone.
pub fn remove(network: &Network) {
    // One that was never made, or is gone already, is as good.
    let _ = Routes::open().and_then(|routes| delete(&routes, &network.interface));
}

fn delete(routes: &Routes, name: &str) -> io::Result<()> {
    let index = routes.index(name)?;
    let mut batch = Batch::default();
    batch.request(libc::RTM_DELLINK, CHANGE, &interface(index, 0, 0), |_| {});
    match routes.send(batch) {
        // The kernel was faster.
        Err((_, error)) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
        result => result.map_err(|(_, error)| error),
    }
}

fn make_pair(routes: &Routes, network: &Network, child: &Child) -> io::Result<()> {
    let mut batch = Batch::default();
    batch.request(libc::RTM_NEWLINK, CREATE, &interface(0, 0, 0), |link| {
        link.text(libc::IFLA_IFNAME, &network.interface);
        link.number(libc::IFLA_MTU, network.mtu);
        link.nest(libc::IFLA_LINKINFO, |info| {
            info.text(libc::IFLA_INFO_KIND, "veth");
            info.nest(libc::IFLA_INFO_DATA, |data| {
                data.nest(VETH_PEER, |peer| {
                    peer.raw(&interface(0, 0, 0));
                    peer.text(libc::IFLA_IFNAME, INSIDE);
                    peer.number(libc::IFLA_MTU, network.mtu);
                    // The child is ours and not waited for, so the number is still its own.
                    peer.number(libc::IFLA_NET_NS_PID, child.pid.as_raw_nonzero().get().cast_unsigned());
                });
            });
        });
    });
    routes.send(batch).map_err(|(_, error)| error)
}

fn bring_up(routes: &Routes, network: &Network) -> Result<(), Trouble> {
    let name = &network.interface;
    let index = routes.index(name).doing_with(|| format!("looking for the interface {name}"))?;
    let mut batch = Batch::default();
    // Before it is up, or the kernel gives it an IPv6 address.
    batch.request(libc::RTM_NEWLINK, CHANGE, &interface(index, 0, 0), |link| {
        link.nest(libc::IFLA_AF_SPEC, |families| {
            families.nest(u16::try_from(libc::AF_INET6).unwrap_or_default(), |ipv6| {
                ipv6.attribute(ADDRESS_GENERATION_MODE, &[NO_ADDRESSES]);
            });
        });
    });
    // The host must not note neighbours that a box makes up: the table is small and there is one for all interfaces. So it listens to
    // those only whom it would reach by this interface, which is the box's own address.
    batch.request(libc::RTM_NEWLINK, CHANGE, &interface(index, 0, 0), |link| {
        link.nest(libc::IFLA_AF_SPEC, |families| {
            families.nest(u16::try_from(libc::AF_INET).unwrap_or_default(), |ipv4| {
                ipv4.nest(IPV4_SETTINGS, |settings| settings.number(ARP_FILTER, 1));
            });
        });
    });
    batch.request(libc::RTM_NEWLINK, CHANGE, &interface(index, UP, UP), |_| {});
    route(&mut batch, index, network.address, 32, None);
    match routes.send(batch) {
        // A kernel without IPv6 has no addresses to leave out.
        Ok(()) | Err((0, _)) => Ok(()),
        Err((1, error)) => Err(error).doing_with(|| format!("choosing the neighbours of {name}")),
        Err((2, error)) => Err(error).doing_with(|| format!("bringing up {name}")),
        Err((_, error)) => Err(error).doing_with(|| format!("routing {} to {name}", network.address)),
    }
}

/// Configures the box's side from inside: loopback, and `eth0` where there is one.
pub fn configure(network: Option<&Network>, kernel: &Kernel) -> Result<(), Trouble> {
    let routes = Routes::open().doing("opening a netlink socket in the box")?;
    let mut batch = Batch::default();
    batch.request(libc::RTM_NEWLINK, CHANGE, &interface(1, UP, UP), |_| {});
    if let Some(network) = network {
        let index = routes.index(INSIDE).doing("looking for eth0 in the box")?;
        // IPv4 only on the outside; on loopback IPv6 stays, many programs listen on ::1.
        kernel.set_if_there("sys/net/ipv6/conf/eth0/disable_ipv6", "1")?;
        let mut fixed = [0; 8];
        fixed[..4].copy_from_slice(&[u8::try_from(libc::AF_INET).unwrap_or_default(), 32, 0, 0]);
        fixed[4..].copy_from_slice(&index.to_ne_bytes());
        batch.request(libc::RTM_NEWADDR, CREATE, &fixed, |address| {
            address.attribute(libc::IFA_LOCAL, &network.address.octets());
            address.attribute(libc::IFA_ADDRESS, &network.address.octets());
        });
        batch.request(libc::RTM_NEWLINK, CHANGE, &interface(index, UP, UP), |_| {});
        route(&mut batch, index, network.gateway, 32, None);
        route(&mut batch, index, Ipv4Addr::UNSPECIFIED, 0, Some(network.gateway));
    }
    routes.send(batch).map_err(|(_, error)| error).doing("configuring the box's network")
}

/// Adds a route to `to` over the interface `index`, by way of `gateway` or else directly.
fn route(batch: &mut Batch, index: u32, to: Ipv4Addr, bits: u8, gateway: Option<Ipv4Addr>) {
    let scope = if gateway.is_some() { libc::RT_SCOPE_UNIVERSE } else { libc::RT_SCOPE_LINK };
    let family = u8::try_from(libc::AF_INET).unwrap_or_default();
    let protocol = libc::RTPROT_STATIC;
    let fixed = [family, bits, 0, 0, libc::RT_TABLE_MAIN, protocol, scope, libc::RTN_UNICAST, 0, 0, 0, 0];
    batch.request(libc::RTM_NEWROUTE, REPLACE, &fixed, |route| {
        if bits > 0 {
            route.attribute(libc::RTA_DST, &to.octets());
        }
        if let Some(gateway) = gateway {
            route.attribute(libc::RTA_GATEWAY, &gateway.octets());
        }
        route.number(libc::RTA_OIF, index);
    });
}
