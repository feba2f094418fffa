//! What the door shows of itself, so that clients can recognise it.

use std::net::SocketAddr;

/// Where the SSH door is and which keys it proves itself with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its public host keys, the preferred one first.
    pub host_keys: Vec<HostKey>,
}

/// The public half of a host key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostKey {
    /// Its algorithm's name in SSH, for example `ssh-ed25519`.
    pub algorithm: String,
    /// The key in OpenSSH's format: algorithm and base 64, without a comment.
    pub public_key: String,
    /// `SHA256:` and the base 64 of its hash, as `ssh-keygen -l` shows it.
    pub fingerprint: String,
}
