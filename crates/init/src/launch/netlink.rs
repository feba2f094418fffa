//! Just enough of rtnetlink: several requests in one write, one answer each.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
/// Make a new thing and fail when it is there.
pub const CREATE: u16 = 0x400 | 0x200;
/// Make a thing, in place of the one that is there.
pub const REPLACE: u16 = 0x400 | 0x100;
/// Change a thing that is there.
pub const CHANGE: u16 = 0;

const NESTED: u16 = 0x8000;
const ERROR: u16 = 0x2;
const HEADER: usize = 16;

/// A socket to the kernel's routing tables, in the network namespace of whoever opens it, for good.
#[derive(Debug)]
pub struct Routes(OwnedFd);

impl Routes {
    /// Opens the socket.
    pub fn open() -> io::Result<Self> {
        // Protocol 0 of this family is NETLINK_ROUTE.
        Ok(Self(socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?))
    }

    /// Sends all requests at once and waits for their answers.
    ///
    /// # Errors
    /// The first that failed: its place in the batch and what the kernel said.
    pub fn send(&self, batch: Batch) -> Result<(), (usize, io::Error)> {
        let sent = send(&self.0, &batch.bytes, SendFlags::empty()).map_err(|error| (0, error.into()))?;
        if sent != batch.bytes.len() {
            return Err((0, io::Error::other("the kernel took only a part")));
        }
        let mut failure = None;
        let mut answered = 0;
        while answered < batch.count {
            let mut answer = [0; 8192];
            // The kernel answers before `send` returns, so this never waits.
            let (length, _) =
                recv(&self.0, &mut answer[..], RecvFlags::DONTWAIT).map_err(|error| (answered, error.into()))?;
            let mut rest = &answer[..length];
            while let Some((kind, payload, after)) = next(rest) {
                rest = after;
                let Some(code) = (kind == ERROR).then_some(payload).and_then(|p| p.first_chunk::<4>()) else {
                    continue;
                };
                let code = i32::from_ne_bytes(*code);
                if code != 0 && failure.is_none() {
                    failure = Some((answered, io::Error::from_raw_os_error(-code)));
                }
                answered += 1;
            }
        }
        failure.map_or(Ok(()), Err)
    }

    /// Asks for the number of the interface called `name`.
    pub fn index(&self, name: &str) -> io::Result<u32> {
        let mut batch = Batch::default();
        batch.request(libc::RTM_GETLINK, CHANGE, &interface(0, 0, 0), |request| request.text(libc::IFLA_IFNAME, name));
        send(&self.0, &batch.bytes, SendFlags::empty())?;
        let mut answer = [0; 16_384];
        let mut index = None;
        // The interface, then the acknowledgement.
        for _ in 0..2 {
            let (length, _) = recv(&self.0, &mut answer[..], RecvFlags::DONTWAIT)?;
            let Some((kind, payload, _)) = next(&answer[..length]) else { break };
            if kind == libc::RTM_NEWLINK {
                index = payload.get(4..8).and_then(|bytes| bytes.first_chunk()).map(|bytes| u32::from_ne_bytes(*bytes));
            } else if let Some(code) = payload.first_chunk::<4>().map(|code| i32::from_ne_bytes(*code))
                && code != 0
            {
                return Err(io::Error::from_raw_os_error(-code));
            }
        }
        index.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))
    }
}

/// Cuts the first message off `bytes`: its kind, its payload and what comes after.
fn next(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::try_from(u32::from_ne_bytes(*bytes.first_chunk::<4>()?)).ok()?;
    let kind = u16::from_ne_bytes([*bytes.get(4)?, *bytes.get(5)?]);
    let payload = bytes.get(HEADER..length)?;
    Some((kind, payload, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// Requests that go to the kernel in one write. It works them off in their order.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    count: usize,
}

impl Batch {
    /// Adds a request: its kind (`RTM_…`), [`CREATE`] or [`CHANGE`], its fixed part and its attributes.
    pub fn request(&mut self, kind: u16, flags: u16, fixed: &[u8], attributes: impl FnOnce(&mut Request<'_>)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(REQUEST | ACK | flags).to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 8]);
        let mut request = Request { bytes: &mut self.bytes };
        request.raw(fixed);
        attributes(&mut request);
        let length = u32::try_from(self.bytes.len() - start).unwrap_or(u32::MAX);
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
        self.count += 1;
    }
}

/// One request while it is written.
#[derive(Debug)]
pub struct Request<'a> {
    bytes: &'a mut Vec<u8>,
}

impl Request<'_> {
    /// Adds bytes as they are, padded.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// Adds an attribute.
    pub fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.nest_as(kind, |request| request.raw_unpadded(value));
    }

    /// Adds an attribute that is a number.
    pub fn number(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_ne_bytes());
    }

    /// Adds an attribute that is a text.
    pub fn text(&mut self, kind: u16, value: &str) {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes);
    }

    /// Adds an attribute that holds others.
    pub fn nest(&mut self, kind: u16, inner: impl FnOnce(&mut Request<'_>)) {
        self.nest_as(kind | NESTED, inner);
    }

    fn nest_as(&mut self, kind: u16, inner: impl FnOnce(&mut Request<'_>)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        inner(&mut Request { bytes: self.bytes });
        let length = u16::try_from(self.bytes.len() - start).unwrap_or(u16::MAX);
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn raw_unpadded(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }
}

/// `struct ifinfomsg`: an interface by number (0 when it is meant by name), and its flags where `change` has them set.
pub fn interface(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes[12..16].copy_from_slice(&change.to_ne_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_carries_padded_attributes_and_its_own_length() {
        let mut batch = Batch::default();
        batch.request(libc::RTM_NEWLINK, CREATE, &interface(7, 1, 1), |request| {
            request.text(libc::IFLA_IFNAME, "eth0");
            request.nest(libc::IFLA_LINKINFO, |request| request.number(1, 2));
        });
        let (kind, payload, rest) = next(&batch.bytes).expect("a message");
        assert_eq!((kind, payload.len(), rest.len()), (libc::RTM_NEWLINK, 16 + 12 + 12, 0));
        assert_eq!(&payload[16..28], b"\x09\0\x03\0eth0\0\0\0\0");
        assert_eq!(&payload[28..32], &[12, 0, u8::try_from(libc::IFLA_LINKINFO).unwrap(), 0x80]);
    }

    #[test]
    fn the_loopback_interface_is_number_one() {
        let routes = Routes::open().expect("open a netlink socket");
        assert_eq!(routes.index("lo").expect("ask for lo"), 1);
        assert_eq!(routes.index("no-such-thing").expect_err("unknown").raw_os_error(), Some(libc::ENODEV));
    }

    #[test]
    fn cut_messages_are_no_messages() {
        assert!(next(&[]).is_none());
        assert!(next(&[40, 0, 0, 0, 2, 0]).is_none());
        assert!(next(&[8, 0, 0, 0, 2, 0, 0, 0]).is_none());
    }
}
