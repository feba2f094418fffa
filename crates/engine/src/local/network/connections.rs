//! The host's table of connections (conntrack), over ctnetlink: just enough to forget those of one address.
//!
//! An entry outlives what it was made for, an idle TCP connection by five days. So a box's entries would fill the host's table after the
//! box is gone, and what an old peer still sends would be let through to the next box with the address.
//!
//! Entries are listed and deleted one by one. Newer kernels delete by a filter; older ones would take the same request for one to delete
//! everything.

use std::collections::BTreeSet;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with};

use crate::local::cidr::Cidr;

const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP: u16 = 0x300;
const NESTED: u16 = 0x8000;
/// Without the bits that say how the value is to be read.
const KIND: u16 = 0x3fff;

const ERROR: u16 = 0x2;
const DONE: u16 = 0x3;
/// Subsystem 1 of netfilter's, and what is asked of it.
const LIST: u16 = 0x100 | 1;
const DELETE: u16 = 0x100 | 2;

// Attributes of an entry, of a tuple, of addresses and of a filter.
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
const FILTER: u16 = 25;
const TUPLE_ADDRESSES: u16 = 1;
const SOURCE: u16 = 1;
const DESTINATION: u16 = 2;
const BY_SOURCE: u32 = 1;

/// Bytes of `struct nlmsghdr` and of `struct nfgenmsg`.
const HEADER: usize = 16;
const GENERAL: usize = 4;

/// Entries that are deleted at most. One box has 4096 of its own, and whoever talks to it from the host has others.
const ENTRIES_MAX: usize = 65_536;
/// Addresses that are asked for one by one. Each question takes the kernel once through its table, twice an address; more than so many are
/// found faster in all there is.
const FILTERED_MAX: usize = 4;
/// Requests in one write.
const BATCH: usize = 64;
/// Bytes that the kernel writes at once at most.
const ANSWER_MAX: usize = 32 * 1024;

/// Whose connections are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::local) enum Whose {
    /// Those of these addresses.
    These(BTreeSet<Ipv4Addr>),
    /// Those of all addresses of a range but these.
    OfRangeBut(Cidr, BTreeSet<Ipv4Addr>),
}

impl Whose {
    fn is(&self, address: Ipv4Addr) -> bool {
        match self {
            Self::These(addresses) => addresses.contains(&address),
            Self::OfRangeBut(range, others) => range.contains(address) && !others.contains(&address),
        }
    }

    /// What the kernel is asked to list: by a source each, or everything.
    fn questions(&self) -> Vec<Option<(u16, Ipv4Addr)>> {
        match self {
            // What a box began, and what began elsewhere and led to it: a translation changes the other end only.
            Self::These(addresses) if addresses.len() <= FILTERED_MAX => {
                let both = |address: &Ipv4Addr| [TUPLE_ORIGINAL, TUPLE_REPLY].map(|tuple| Some((tuple, *address)));
                addresses.iter().flat_map(both).collect()
            }
            Self::These(_) | Self::OfRangeBut(..) => vec![None],
        }
    }
}

/// Forgets every connection from and to the addresses that are meant; says how many. On a kernel that keeps no table, or tells nobody of
/// it, there are none.
///
/// # Errors
/// The kernel refuses.
pub(super) fn forget(whose: &Whose) -> io::Result<usize> {
    let table = match Table::open() {
        Err(error) if is_missing(&error) => return Ok(0),
        table => table?,
    };
    let mut entries = Vec::new();
    for question in whose.questions() {
        match table.list(question, whose, &mut entries) {
            Err(error) if is_missing(&error) => return Ok(0),
            listed => listed?,
        }
    }
    table.delete(&entries)?;
    Ok(entries.len())
}

/// Whether an error says that this kernel lacks what was asked for.
fn is_missing(error: &io::Error) -> bool {
    [Errno::PROTONOSUPPORT, Errno::AFNOSUPPORT, Errno::OPNOTSUPP, Errno::INVAL, Errno::NOENT]
        .contains(&Errno::from_io_error(error).unwrap_or(Errno::IO))
}

/// A socket to the kernel's table, in the network namespace of whoever opens it. The kernel works a request off while it is sent, and
/// lists while it is read, so nothing here waits for anybody.
struct Table(OwnedFd);

impl Table {
    fn open() -> io::Result<Self> {
        let protocol = Some(netlink::NETFILTER);
        Ok(Self(socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?))
    }

    /// Adds what a request to delete must say of each entry that is meant, of those in which a tuple has the source that is asked for.
    fn list(&self, of: Option<(u16, Ipv4Addr)>, whose: &Whose, entries: &mut Vec<Vec<u8>>) -> io::Result<()> {
        let mut request = Vec::new();
        message(&mut request, LIST, DUMP, |request| {
            let Some((tuple, address)) = of else { return };
            attribute(request, tuple | NESTED, |tuple| {
                attribute(tuple, TUPLE_ADDRESSES | NESTED, |addresses| {
                    attribute(addresses, SOURCE, |value| value.extend(address.octets()));
                });
            });
            // Kernels before Linux 5.8 do not know it and list everything.
            attribute(request, FILTER | NESTED, |filter| {
                attribute(filter, tuple, |value| value.extend(BY_SOURCE.to_ne_bytes()));
            });
        });
        self.send(&request)?;
        let mut answer = vec![0; ANSWER_MAX];
        loop {
            let (length, _) = recv(&self.0, &mut answer[..], RecvFlags::DONTWAIT)?;
            for (kind, payload) in messages(&answer[..length]) {
                match kind {
                    DONE => return Ok(()),
                    ERROR => code(payload)?,
                    _ => {
                        let entry = payload.get(GENERAL..).unwrap_or_default();
                        if entries.len() < ENTRIES_MAX && concerns(entry, whose) {
                            entries.push(named(entry));
                        }
                    }
                }
            }
        }
    }

    /// Deletes entries; those that are gone are deleted already.
    fn delete(&self, entries: &[Vec<u8>]) -> io::Result<()> {
        for batch in entries.chunks(BATCH) {
            let mut request = Vec::new();
            for entry in batch {
                message(&mut request, DELETE, ACK, |request| request.extend(entry));
            }
            self.send(&request)?;
            let mut answered = 0;
            let mut answer = vec![0; ANSWER_MAX];
            while answered < batch.len() {
                let (length, _) = recv(&self.0, &mut answer[..], RecvFlags::DONTWAIT)?;
                for (kind, payload) in messages(&answer[..length]) {
                    if kind == ERROR {
                        answered += 1;
                        match code(payload) {
                            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                            _ => {}
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn send(&self, request: &[u8]) -> io::Result<()> {
        let sent = send(&self.0, request, SendFlags::empty())?;
        if sent == request.len() { Ok(()) } else { Err(io::Error::other("the kernel took only a part")) }
    }
}

/// What the kernel says of a request: 0, or an error's number below it.
fn code(payload: &[u8]) -> io::Result<()> {
    match payload.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes)) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(-code)),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Whether an entry has an address that is meant at any of its four ends.
fn concerns(entry: &[u8], whose: &Whose) -> bool {
    let within = |kind: u16, bytes| find(bytes, kind).unwrap_or_default();
    [TUPLE_ORIGINAL, TUPLE_REPLY].into_iter().any(|tuple| {
        let addresses = within(TUPLE_ADDRESSES, within(tuple, entry));
        let ends =
            [SOURCE, DESTINATION].into_iter().filter_map(|end| find(addresses, end)?.first_chunk::<4>().copied());
        ends.map(Ipv4Addr::from).any(|address| whose.is(address))
    })
}

/// What names an entry among all: its first tuple, its zone and its id, so that one that was made anew meanwhile is not meant.
fn named(entry: &[u8]) -> Vec<u8> {
    let mut name = Vec::new();
    for kind in [TUPLE_ORIGINAL, ZONE, ID] {
        if let Some(value) = find(entry, kind) {
            let nested = if kind == TUPLE_ORIGINAL { NESTED } else { 0 };
            attribute(&mut name, kind | nested, |bytes| bytes.extend(value));
        }
    }
    name
}

/// The value of the first attribute of that kind.
fn find(mut bytes: &[u8], kind: u16) -> Option<&[u8]> {
    while let Some([a, b, c, d]) = bytes.first_chunk() {
        let length = usize::from(u16::from_ne_bytes([*a, *b]));
        let value = bytes.get(4..length)?;
        if u16::from_ne_bytes([*c, *d]) & KIND == kind {
            return Some(value);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
    None
}

/// The messages in what was read, each with its kind.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32::from_ne_bytes(*bytes.first_chunk()?)).ok()?;
        let kind = u16::from_ne_bytes([*bytes.get(4)?, *bytes.get(5)?]);
        let payload = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, payload))
    })
}

/// Adds a request about IPv4.
fn message(to: &mut Vec<u8>, kind: u16, flags: u16, attributes: impl FnOnce(&mut Vec<u8>)) {
    let start = to.len();
    to.extend([0; 4]);
    to.extend(kind.to_ne_bytes());
    to.extend((REQUEST | flags).to_ne_bytes());
    to.extend([0; 8]);
    to.extend([u8::try_from(AddressFamily::INET.as_raw()).unwrap_or(2), 0, 0, 0]);
    attributes(to);
    let length = u32::try_from(to.len() - start).unwrap_or(u32::MAX);
    to[start..start + 4].copy_from_slice(&length.to_ne_bytes());
}

/// Adds an attribute, padded.
fn attribute(to: &mut Vec<u8>, kind: u16, value: impl FnOnce(&mut Vec<u8>)) {
    let start = to.len();
    to.extend([0; 2]);
    to.extend(kind.to_ne_bytes());
    value(to);
    let length = u16::try_from(to.len() - start).unwrap_or(u16::MAX);
    to[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    to.resize(to.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn these(addresses: &[Ipv4Addr]) -> Whose {
        Whose::These(addresses.iter().copied().collect())
    }

    const BOX: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
    const PEER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);

    fn tuple(to: &mut Vec<u8>, kind: u16, source: Ipv4Addr, destination: Ipv4Addr) {
        attribute(to, kind | NESTED, |tuple| {
            attribute(tuple, TUPLE_ADDRESSES | NESTED, |addresses| {
                attribute(addresses, SOURCE, |value| value.extend(source.octets()));
                attribute(addresses, DESTINATION, |value| value.extend(destination.octets()));
            });
        });
    }

    #[test]
    fn an_entry_concerns_an_address_at_any_of_its_ends_and_no_other() {
        let other = Ipv4Addr::new(198, 18, 0, 3);
        for (original, reply, expected) in [
            ((BOX, PEER), (PEER, other), true),
            ((PEER, BOX), (BOX, PEER), true),
            ((PEER, other), (BOX, PEER), true),
            ((other, PEER), (PEER, other), false),
        ] {
            let mut entry = Vec::new();
            tuple(&mut entry, TUPLE_ORIGINAL, original.0, original.1);
            tuple(&mut entry, TUPLE_REPLY, reply.0, reply.1);
            attribute(&mut entry, ID, |value| value.extend([1, 2, 3, 4]));
            let range = Cidr::new(Ipv4Addr::new(198, 18, 0, 0), 30);
            let strangers = Whose::OfRangeBut(range, [other].into());
            assert_eq!(concerns(&entry, &strangers), expected);
            assert_eq!(concerns(&entry, &these(&[BOX])), expected, "{original:?} {reply:?}");
            let name = named(&entry);
            assert_eq!(find(&name, ID), Some(&[1, 2, 3, 4][..]));
            assert_eq!((find(&name, TUPLE_ORIGINAL), find(&name, TUPLE_REPLY)), (find(&entry, TUPLE_ORIGINAL), None));
        }
    }

    #[test]
    fn what_is_cut_short_is_nothing() {
        let mut entry = Vec::new();
        tuple(&mut entry, TUPLE_ORIGINAL, BOX, PEER);
        for length in 0..entry.len() {
            assert!(!concerns(&entry[..length], &these(&[BOX])), "{length}");
        }
        assert_eq!(messages(&[40, 0, 0, 0, 2, 0]).count(), 0);
        assert!(code(&[]).is_err());
    }

    #[test]
    fn an_address_that_nobody_has_has_no_connections() {
        let nobody: Vec<Ipv4Addr> = (0..=5).map(|n| Ipv4Addr::new(192, 0, 2, 70 + n)).collect();
        for count in [1, 6] {
            assert_eq!(forget(&these(&nobody[..count])).expect("run as root"), 0);
        }
    }
}
