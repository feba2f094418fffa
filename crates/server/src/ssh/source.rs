//! Where a connection comes from, as far as limits care.

use std::net::{IpAddr, Ipv6Addr};

/// A source address: an IPv4 address, or an IPv6 network of 64 bits, which is what one customer of a provider has at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Source(IpAddr);

impl Source {
    /// The source that this address belongs to.
    pub(super) fn of(address: IpAddr) -> Self {
        // A socket for both families shows IPv4 clients as mapped addresses.
        Self(match address.to_canonical() {
            IpAddr::V4(address) => IpAddr::V4(address),
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source::of(text.parse().expect("an address"))
    }

    #[test]
    fn neighbours_in_an_ipv6_network_are_one_source() {
        assert_eq!(source("2001:db8:0:1::7"), source("2001:db8:0:1:ffff::9"));
        assert_ne!(source("2001:db8:0:1::7"), source("2001:db8:0:2::7"));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
        assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
    }
}
