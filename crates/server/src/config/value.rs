//! How single settings are written.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use boxyard_engine::local::StorageChoice;

use super::LogFormat;
use crate::store::Synchronous;

/// A setting that is written as one text.
pub(super) trait Setting: Sized {
    /// What a right value is, with an example: completes "… must be".
    const EXPECTED: &'static str;

    fn read(text: &str) -> Option<Self>;
}

/// A text that must not be seen. Its `Debug` form does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// A range of IPv4 addresses: the addresses that share their first `prefix` bits with `first`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct AddressRange {
    /// The lowest address.
    pub first: Ipv4Addr,
    /// How many leading bits are common to all of them, 0 to 32.
    pub prefix: u8,
}

impl AddressRange {
    /// Where boxes get their addresses by default: set aside for benchmarks by RFC 2544, so that ordinary networks do not use it.
    pub const BOXES: Self = Self { first: Ipv4Addr::new(198, 18, 0, 0), prefix: 15 };
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}

impl fmt::Debug for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Setting for AddressRange {
    const EXPECTED: &'static str = "an IPv4 address or range such as 192.0.2.0/24, without bits set after the prefix";

    fn read(text: &str) -> Option<Self> {
        let (first, prefix) = text.split_once('/').unwrap_or((text, "32"));
        let (first, prefix): (Ipv4Addr, u8) = (first.parse().ok()?, prefix.parse().ok()?);
        let host_bits = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
        (prefix <= 32 && first.to_bits() & host_bits == 0).then_some(Self { first, prefix })
    }
}

/// Bytes: `64MiB`, `4GB`, `1048576`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bytes(pub u64);

impl Setting for Bytes {
    const EXPECTED: &'static str = "a size above 0 such as 64MiB, 4GB or a number of bytes";

    fn read(text: &str) -> Option<Self> {
        let (number, unit) = number_and_unit(text)?;
        let unit = match unit {
            "" | "B" => 1,
            "kB" | "KB" => 1000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            "TB" => 1_000_000_000_000,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            "TiB" => 1 << 40,
            _ => return None,
        };
        number.checked_mul(unit).filter(|bytes| *bytes > 0).map(Self)
    }
}

/// A length of time: `500ms`, `30s`, `5m`, `12h`, `7d`, or a number of seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span(pub Duration);

impl Setting for Span {
    const EXPECTED: &'static str = "a time such as 500ms, 30s, 5m, 12h, 7d or a number of seconds";

    fn read(text: &str) -> Option<Self> {
        let (number, unit) = number_and_unit(text)?;
        let milliseconds = match unit {
            "ms" => 1,
            "" | "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        // A hundred years: more than enough, and far from any overflow of times that this is added to.
        number
            .checked_mul(milliseconds)
            .filter(|span| *span <= 3_200_000_000_000)
            .map(|span| Self(Duration::from_millis(span)))
    }
}

/// A length of time above 0, or none: `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SpanOrOff(pub Option<Duration>);

impl Setting for SpanOrOff {
    const EXPECTED: &'static str = "a time above 0 such as 500ms, 30s, 5m, 12h, 7d or a number of seconds, or off";

    fn read(text: &str) -> Option<Self> {
        if text == "off" {
            return Some(Self(None));
        }
        Span::read(text).filter(|Span(span)| !span.is_zero()).map(|Span(span)| Self(Some(span)))
    }
}

/// Reads a length of time as settings write it: `500ms`, `30s`, `5m`, `12h`, `7d`, or a number of seconds.
///
/// # Errors
/// Says what is expected.
pub fn duration(text: &str) -> Result<Duration, String> {
    Span::read(text).map(|span| span.0).ok_or_else(|| format!("it must be {}", Span::EXPECTED))
}

/// Reads a size as settings write it: `64MiB`, `4GB`, or a number of bytes.
///
/// # Errors
/// Says what is expected.
pub fn bytes(text: &str) -> Result<u64, String> {
    Bytes::read(text).map(|bytes| bytes.0).ok_or_else(|| format!("it must be {}", Bytes::EXPECTED))
}

fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit.trim_start()))
}

/// CPUs in thousandths: `2`, `0.5`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cpus(pub u32);

impl Setting for Cpus {
    const EXPECTED: &'static str = "a number of CPUs from 0.01 to 4096, with at most three decimals, such as 2 or 0.5";

    fn read(text: &str) -> Option<Self> {
        thousandths(text).filter(|millis| (10..=4_096_000).contains(millis)).map(Self)
    }
}

fn thousandths(text: &str) -> Option<u32> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    if part.len() > 3 || !text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return None;
    }
    whole.parse::<u32>().ok()?.checked_mul(1000)?.checked_add(format!("{part:0<3}").parse().ok()?)
}

/// How many times something may be promised: `1.5`, `64`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Factor {
    thousandths: u32,
}

impl Factor {
    /// A whole number of times.
    pub const fn whole(times: u32) -> Self {
        Self { thousandths: times.saturating_mul(1000) }
    }

    /// So many times `amount`, rounded down; the largest number when it is more.
    pub fn times(self, amount: u64) -> u64 {
        let product = u128::from(amount) * u128::from(self.thousandths) / 1000;
        u64::try_from(product).unwrap_or(u64::MAX)
    }
}

impl Setting for Factor {
    const EXPECTED: &'static str = "a number from 0.1 to 100000, with at most three decimals, such as 1.5";

    fn read(text: &str) -> Option<Self> {
        thousandths(text).filter(|number| (100..=100_000_000).contains(number)).map(|thousandths| Self { thousandths })
    }
}

/// A DNS server: an address, with port 53 unless it has another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Resolver(pub SocketAddr);

impl Setting for Resolver {
    const EXPECTED: &'static str = "an address with or without a port, such as 192.0.2.53 or 192.0.2.53:5353";

    fn read(text: &str) -> Option<Self> {
        let bare = || text.parse::<IpAddr>().map(|address| SocketAddr::from((address, 53)));
        text.parse().or_else(|_| bare()).ok().map(Self)
    }
}

/// A name with its address: `registry.example=192.0.2.7`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HostEntry(pub String, pub Ipv4Addr);

impl Setting for HostEntry {
    const EXPECTED: &'static str = "a name and an IPv4 address such as registry.example=192.0.2.7";

    fn read(text: &str) -> Option<Self> {
        let (name, address) = text.split_once('=')?;
        let name = name.trim().trim_end_matches('.').to_ascii_lowercase();
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        };
        (name.len() <= 253 && name.split('.').all(label)).then_some(Self(name, address.trim().parse().ok()?))
    }
}

/// A registry and an address that is asked before it.
pub(super) struct Mirror(pub String, pub String);

impl Setting for Mirror {
    const EXPECTED: &'static str = "a registry and the address of its mirror such as docker.io=https://mirror.example";

    fn read(text: &str) -> Option<Self> {
        let (registry, address) = text.split_once('=')?;
        let RegistryHost(registry) = RegistryHost::read(registry)?;
        let address = address.trim().trim_end_matches('/');
        let rest = address.strip_prefix("https://").or_else(|| address.strip_prefix("http://"))?;
        // Logins belong into a file that only its owner reads.
        let plain = !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_graphic() && !b"@?#\\".contains(&byte));
        plain.then(|| Self(registry, address.to_owned()))
    }
}

/// The host of a registry, with its port where that is not the usual one.
pub(super) struct RegistryHost(pub String);

impl Setting for RegistryHost {
    const EXPECTED: &'static str = "a registry such as docker.io or registry.example:5000";

    fn read(text: &str) -> Option<Self> {
        let text = text.trim().to_ascii_lowercase();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
        (!text.is_empty() && text.len() <= 255 && text.bytes().all(plain)).then_some(Self(text))
    }
}

impl Setting for Synchronous {
    const EXPECTED: &'static str = "normal or full";

    fn read(text: &str) -> Option<Self> {
        match text {
            "normal" => Some(Self::Normal),
            "full" => Some(Self::Full),
            _ => None,
        }
    }
}

impl Setting for StorageChoice {
    const EXPECTED: &'static str = "auto, btrfs or dir";

    fn read(text: &str) -> Option<Self> {
        match text {
            "auto" => Some(Self::Auto),
            "btrfs" => Some(Self::Btrfs),
            "dir" => Some(Self::Dir),
            _ => None,
        }
    }
}

impl Setting for LogFormat {
    const EXPECTED: &'static str = "text or json";

    fn read(text: &str) -> Option<Self> {
        match text {
            "text" => Some(Self::Text),
            "json" => Some(Self::Json),
            _ => None,
        }
    }
}

impl Setting for SocketAddr {
    const EXPECTED: &'static str = "an address with a port such as 127.0.0.1:7070 or [::]:7070";

    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

/// An address, or none: `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OrOff(pub Option<SocketAddr>);

impl Setting for OrOff {
    const EXPECTED: &'static str = "an address with a port such as 127.0.0.1:2222 or [::]:2222, or off";

    fn read(text: &str) -> Option<Self> {
        if text == "off" { Some(Self(None)) } else { SocketAddr::read(text).map(|address| Self(Some(address))) }
    }
}

impl Setting for PathBuf {
    const EXPECTED: &'static str = "an absolute path";

    fn read(text: &str) -> Option<Self> {
        // Relative paths would mean something else after the next start from another folder.
        text.starts_with('/').then(|| Self::from(text))
    }
}

impl Setting for String {
    const EXPECTED: &'static str = "a text that is not empty";

    fn read(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| text.to_owned())
    }
}

impl Setting for bool {
    const EXPECTED: &'static str = "true or false";

    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl Setting for u32 {
    const EXPECTED: &'static str = "a whole number above 0";

    fn read(text: &str) -> Option<Self> {
        Self::from_str(text).ok().filter(|number| *number > 0)
    }
}
