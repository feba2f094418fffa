//! Ranges of IPv4 addresses.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A range of IPv4 addresses, `198.18.0.0/15` for example.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    first: u32,
    prefix: u8,
}

/// A text that is not a range of addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a range of IPv4 addresses such as 192.0.2.0/24, with no bits set after the prefix")]
pub struct InvalidCidr(String);

impl Cidr {
    /// The range of the addresses whose first `prefix` bits are those of `first`; other bits of `first` are dropped. A prefix above
    /// 32 counts as 32.
    pub const fn new(first: Ipv4Addr, prefix: u8) -> Self {
        let prefix = if prefix > 32 { 32 } else { prefix };
        Self { first: first.to_bits() & mask(prefix), prefix }
    }

    /// How many addresses there are.
    pub const fn len(self) -> u64 {
        1 << (32 - self.prefix)
    }

    /// Never: the smallest range has one address.
    pub const fn is_empty(self) -> bool {
        false
    }

    /// Address number `index`, from 0, if the range reaches so far.
    pub fn address(self, index: u32) -> Option<Ipv4Addr> {
        (u64::from(index) < self.len()).then(|| Ipv4Addr::from_bits(self.first.saturating_add(index)))
    }

    /// Whether `address` is in it.
    pub const fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & mask(self.prefix) == self.first
    }
}

const fn mask(prefix: u8) -> u32 {
    match u32::MAX.checked_shl(32 - prefix as u32) {
        Some(mask) => mask,
        None => 0,
    }
}

impl FromStr for Cidr {
    type Err = InvalidCidr;

    fn from_str(text: &str) -> Result<Self, InvalidCidr> {
        let refused = || InvalidCidr(text.chars().take(80).collect());
        let (first, prefix) = text.split_once('/').unwrap_or((text, "32"));
        let first: Ipv4Addr = first.parse().map_err(|_| refused())?;
        let prefix = prefix.parse().ok().filter(|prefix| *prefix <= 32).ok_or_else(refused)?;
        let range = Self::new(first, prefix);
        if range.first == first.to_bits() { Ok(range) } else { Err(refused()) }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from_bits(self.first), self.prefix)
    }
}

impl fmt::Debug for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for Cidr {
    type Error = InvalidCidr;

    fn try_from(text: String) -> Result<Self, InvalidCidr> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(range: Cidr) -> String {
        range.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_range_parses_back_and_holds_its_own_addresses(first: u32, prefix in 0u8..=32, index: u32) {
            let range = Cidr::new(Ipv4Addr::from_bits(first), prefix);
            prop_assert_eq!(range.to_string().parse(), Ok(range));
            if let Some(address) = range.address(index) {
                prop_assert!(range.contains(address));
            } else {
                prop_assert!(u64::from(index) >= range.len());
            }
        }
    }

    #[test]
    fn texts_that_are_no_ranges_are_refused() {
        for text in ["", "10.0.0.0/33", "10.0.0.1/8", "10.0.0/8", "::/0", "10.0.0.0/-1", "a/8"] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
        assert_eq!("192.0.2.7".parse(), Ok(Cidr::new(Ipv4Addr::new(192, 0, 2, 7), 32)));
    }
}
