//! Checking the addresses that are asked for, and saying what was wrong with them.

use std::io;
use std::net::IpAddr;

use boxyard_proto::wire::FailedKind;
use rustix::io::Errno;
use rustix::net::SocketAddrUnix;

use super::exec::Refusal;

/// Bytes of a Unix socket's path at most, which leaves room for the NUL that programs expect after it.
const PATH_MAX: usize = 107;

/// Bytes of a name at most.
const NAME_MAX: usize = 253;

/// What a host's text means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// No host at all, or `*`: every address.
    Any,
    /// This box itself.
    Localhost,
    /// An address.
    Address(IpAddr),
    /// A name to look up, which is fit to be an argument of a program.
    Name(String),
}

impl Host {
    /// Reads what a client has sent.
    ///
    /// # Errors
    /// It can be neither an address nor a name.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        if text.is_empty() || text == "*" {
            return Ok(Self::Any);
        }
        if text.eq_ignore_ascii_case("localhost") {
            return Ok(Self::Localhost);
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let is_name = text.len() <= NAME_MAX
            && !text.starts_with('-')
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
        if is_name { Ok(Self::Name(text.to_owned())) } else { Err(invalid("that is no host")) }
    }
}

/// The address of the Unix socket at `path`.
///
/// # Errors
/// No socket can have this path, or it depends on the working folder.
pub fn unix(path: &str) -> Result<SocketAddrUnix, Refusal> {
    if !path.starts_with('/') || path.contains('\0') {
        return Err(invalid("the path of a socket is absolute"));
    }
    if path.len() > PATH_MAX {
        return Err(invalid(&format!("the path of a socket has at most {PATH_MAX} bytes")));
    }
    SocketAddrUnix::new(path).map_err(|_| invalid("no socket can have this path"))
}

/// A request that is wrong in itself.
pub fn invalid(message: &str) -> Refusal {
    Refusal::new(FailedKind::Invalid, message)
}

/// What the kernel has against an address, in words for users.
pub fn refusal(error: &io::Error) -> Refusal {
    let errno = Errno::from_io_error(error);
    let (kind, message) = match errno {
        Some(Errno::CONNREFUSED) => (FailedKind::NotFound, "connection refused"),
        Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => (FailedKind::NotFound, "no such file or directory"),
        Some(Errno::ACCESS | Errno::PERM) => (FailedKind::NotAllowed, "permission denied"),
        Some(Errno::TIMEDOUT) => (FailedKind::Other, "connection timed out"),
        Some(Errno::HOSTUNREACH | Errno::HOSTDOWN) => (FailedKind::Other, "no route to host"),
        Some(Errno::NETUNREACH | Errno::NETDOWN) => (FailedKind::Other, "network is unreachable"),
        Some(Errno::CONNRESET) => (FailedKind::Other, "connection reset by peer"),
        Some(Errno::ADDRINUSE) => (FailedKind::Other, "address already in use"),
        Some(Errno::ADDRNOTAVAIL) => (FailedKind::Other, "address not available in the box"),
        Some(Errno::AFNOSUPPORT) => (FailedKind::Other, "address family not supported"),
        Some(Errno::PROTOTYPE) => (FailedKind::Other, "not a stream socket"),
        Some(Errno::ROFS) => (FailedKind::NotAllowed, "read-only file system"),
        Some(Errno::NOSPC | Errno::DQUOT) => (FailedKind::Exhausted, "no space left on device"),
        Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS) => {
            (FailedKind::Exhausted, "the box is out of open files or memory")
        }
        Some(Errno::AGAIN) => (FailedKind::Exhausted, "resource temporarily unavailable"),
        Some(errno) => return Refusal::of_kernel("opening the socket", errno),
        None => return Refusal::new(FailedKind::Other, format!("opening the socket: {error}")),
    };
    Refusal::new(kind, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_addresses_or_names_and_never_options() {
        assert_eq!(Host::parse("").ok(), Some(Host::Any));
        assert_eq!(Host::parse("*").ok(), Some(Host::Any));
        assert_eq!(Host::parse("LocalHost").ok(), Some(Host::Localhost));
        assert_eq!(Host::parse("::1").ok(), "::1".parse().ok().map(Host::Address));
        assert_eq!(Host::parse("1.2.3.4").ok(), "1.2.3.4".parse().ok().map(Host::Address));
        assert_eq!(Host::parse("db_1.example-x.").ok(), Some(Host::Name("db_1.example-x.".into())));
        assert!(Host::parse(&"a".repeat(253)).is_ok());
        let too_long = "a".repeat(254);
        for wrong in ["-s", "--service=x", "a b", "a\0b", "a/b", "a;b", "ü.example", "[::1]", "fe80::1%eth0", &too_long]
        {
            assert_eq!(Host::parse(wrong).expect_err("refused").kind, FailedKind::Invalid, "{wrong}");
        }
    }

    #[test]
    fn paths_are_absolute_and_short_enough() {
        assert!(unix(&format!("/{}", "a".repeat(106))).is_ok());
        for wrong in ["", "a", "./a", "\0abstract", "/a\0b", &format!("/{}", "a".repeat(107))] {
            assert_eq!(unix(wrong).expect_err("refused").kind, FailedKind::Invalid, "{wrong}");
        }
    }
}
