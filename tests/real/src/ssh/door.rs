//! Where the SSH door is, and how clients know that it is the right one.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::client::Ssh;

/// Says the password that the client's environment has.
const ASKPASS: &str = "#!/bin/sh\nprintf '%s\\n' \"$BOXYARD_TEST_PASSWORD\"\n";

/// A public host key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostKey {
    /// Its algorithm, `ssh-ed25519` for example.
    pub algorithm: String,
    /// Algorithm and base 64.
    pub public_key: String,
    /// `SHA256:…`
    pub fingerprint: String,
}

/// An SSH server with a folder for what its clients need.
#[derive(Debug, Clone)]
pub struct Door {
    address: SocketAddr,
    host_keys: Vec<HostKey>,
    folder: PathBuf,
}

impl Door {
    /// The door that the answer to `GET /v2/ssh` tells of.
    ///
    /// # Errors
    /// The answer is not what it should be, or `folder` cannot be written.
    pub fn told_by(answer: &Value, folder: &Path) -> Result<Self> {
        let text = |value: &Value| value.as_str().map(str::to_owned).with_context(|| format!("not a text in {answer}"));
        let port = answer["port"].as_u64().and_then(|port| u16::try_from(port).ok());
        let port = port.with_context(|| format!("no port in {answer}"))?;
        let address = text(&answer["address"])?;
        // With or without the port.
        let address = match address.parse::<SocketAddr>() {
            Ok(address) => address,
            Err(_) => SocketAddr::new(address.parse().with_context(|| format!("no address in {answer}"))?, port),
        };
        let keys = answer["host_keys"].as_array().with_context(|| format!("no host keys in {answer}"))?;
        let keys = keys.iter().map(|key| {
            Ok(HostKey {
                algorithm: text(&key["algorithm"])?,
                public_key: text(&key["public_key"])?,
                fingerprint: text(&key["fingerprint"])?,
            })
        });
        Self::new(address, keys.collect::<Result<_>>()?, folder)
    }

    /// A door with these host keys, which clients will insist on.
    ///
    /// # Errors
    /// `folder` cannot be written.
    pub fn new(address: SocketAddr, host_keys: Vec<HostKey>, folder: &Path) -> Result<Self> {
        ensure!(!host_keys.is_empty(), "an SSH server without a host key");
        fs::create_dir_all(folder)?;
        let door = Self { address, host_keys, folder: folder.to_owned() };
        let place = format!("[{}]:{}", address.ip(), address.port());
        let place = if address.port() == 22 { address.ip().to_string() } else { place };
        let lines: String = door.host_keys.iter().map(|key| format!("{place} {}\n", key.public_key)).collect();
        fs::write(door.known_hosts(), lines)?;
        fs::write(door.askpass(), ASKPASS)?;
        fs::set_permissions(door.askpass(), fs::Permissions::from_mode(0o700))?;
        Ok(door)
    }

    /// A client that wants to be let in as `user`, but has nothing to show yet.
    pub fn user(&self, user: &str) -> Ssh {
        Ssh::new(self.clone(), user)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its host keys.
    pub fn host_keys(&self) -> &[HostKey] {
        &self.host_keys
    }

    /// A folder for files of clients; it goes with the server.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A file that knows the host keys.
    pub fn known_hosts(&self) -> PathBuf {
        self.folder.join("known_hosts")
    }

    pub(super) fn askpass(&self) -> PathBuf {
        self.folder.join("askpass")
    }
}
