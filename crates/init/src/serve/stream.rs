//! A stream socket in the box that a connection carries the bytes of.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};

use boxyard_proto::wire::User;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Gid, Uid};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown, UCred, sendmsg};
use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};

/// A connected socket.
#[derive(Debug)]
pub enum Stream {
    /// TCP, without delays for the sake of full packets: who types waits for each letter.
    Tcp(TcpStream),
    /// A Unix socket and who we are on it.
    Unix(UnixStream, User),
}

impl Stream {
    /// Takes over a TCP connection.
    pub fn tcp(stream: TcpStream) -> Self {
        // Slower without, but not wrong.
        let _ = stream.set_nodelay(true);
        Self::Tcp(stream)
    }

    /// Waits for something to read, or the end. An error of the event loop's shows again in the read.
    pub async fn readable(&self) {
        let _ = match self {
            Self::Tcp(stream) => stream.readable().await,
            Self::Unix(stream, _) => stream.readable().await,
        };
    }

    /// Waits for room to write.
    pub async fn writable(&self) {
        let _ = match self {
            Self::Tcp(stream) => stream.writable().await,
            Self::Unix(stream, _) => stream.writable().await,
        };
    }

    /// Waits until the other side has broken the connection off.
    pub async fn broken(&self) {
        let _ = match self {
            Self::Tcp(stream) => stream.ready(Interest::ERROR).await,
            Self::Unix(stream, _) => stream.ready(Interest::ERROR).await,
        };
    }

    /// Reads what is there; nothing at the end.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is there, and what the kernel says.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_read(buffer),
            Self::Unix(stream, _) => stream.try_read(buffer),
        }
    }

    /// Writes what there is room for.
    ///
    /// # Errors
    /// `WouldBlock` when there is none, and what the kernel says.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write(bytes),
            Self::Unix(stream, user) => stream.try_io(Interest::WRITABLE, || send_as(stream, *user, bytes)),
        }
    }

    /// Says that nothing more will be written.
    pub fn end_writing(&self) {
        // Fails only when the connection is gone.
        let _ = match self {
            Self::Tcp(stream) => rustix::net::shutdown(stream, Shutdown::Write),
            Self::Unix(stream, _) => rustix::net::shutdown(stream, Shutdown::Write),
        };
    }

    /// Whether neither side can say anything more. Of a TCP connection this shows only when both have said so.
    pub fn is_over(&self) -> bool {
        let mut wait = [match self {
            Self::Tcp(stream) => PollFd::new(stream, PollFlags::empty()),
            Self::Unix(stream, _) => PollFd::new(stream, PollFlags::empty()),
        }];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut wait, Some(&now)).is_ok() && wait[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
    }

    /// Where the other side is: an address and a port, or nothing for a Unix socket.
    pub fn peer(&self) -> (String, u16) {
        match self {
            Self::Tcp(stream) => stream.peer_addr().map_or_else(|_| (String::new(), 0), shown),
            Self::Unix(..) => (String::new(), 0),
        }
    }
}

/// An address as text. One of IPv4 that came in on a socket of IPv6 is shown as what it is.
pub fn shown(address: SocketAddr) -> (String, u16) {
    let ip: IpAddr = address.ip().to_canonical();
    (ip.to_string(), address.port())
}

/// Writes to a Unix socket as `user`. A reader that asks the kernel who has written (`SO_PASSCRED`) would else be told our real user,
/// the box's root.
fn send_as(stream: &UnixStream, user: User, bytes: &[u8]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmCredentials(UCred {
        pid: rustix::process::getpid(),
        uid: Uid::from_raw(user.uid),
        gid: Gid::from_raw(user.gid),
    }));
    Ok(sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?)
}
