//! The server's SSH door, as the API tells of it.

use std::error::Error;
use std::net::IpAddr;

use boxyard_proto::api::ssh::SshDoor;
use boxyard_server::ssh_keys::{fingerprint, read_public_key};
use reqwest::Method;

use crate::client::{Client, ClientOptions};
use crate::failure::Failure;

/// Port of SSH that needs no mention in `known_hosts`.
const SSH_PORT: u16 = 22;

/// Which server, who asks, and how its SSH door is reached.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct DoorOptions {
    /// Host of the SSH door, where it differs from the URL's [env: BOXYARD_SSH_HOST]
    #[arg(long, value_name = "HOST", env = "BOXYARD_SSH_HOST", hide_env = true, value_parser = host_argument)]
    host: Option<String>,
    #[command(flatten)]
    pub(crate) client: ClientOptions,
}

/// Where the SSH door is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Door {
    /// Name or address, IPv6 without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// The preferred one first; at least one.
    pub(crate) host_keys: Vec<HostKey>,
}

/// The public half of a host key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostKey {
    pub(crate) algorithm: String,
    /// Algorithm and base 64, one line.
    pub(crate) public_key: String,
    pub(crate) fingerprint: String,
}

impl DoorOptions {
    /// Asks the server for its door.
    pub(crate) async fn find(&self, client: &Client) -> Result<Door, Failure> {
        let told: SshDoor = client.call(client.request_beside(Method::GET, &["ssh"])).await?;
        let host = self.host.clone().unwrap_or_else(|| reached_at(client.host(), &told.address));
        let host_keys = told.host_keys.iter().map(|key| host_key(&key.public_key)).collect::<Result<Vec<_>, _>>()?;
        if host_keys.is_empty() {
            return Err(Failure::plain("the server's answer makes no sense: it names no SSH host key"));
        }
        Ok(Door { host, port: told.port, host_keys })
    }
}

/// The door of a server is where its API is, unless the API was asked through this host's loopback and the door has an address of its own.
fn reached_at(host: &str, listens: &str) -> String {
    let on_loopback = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    match listens.parse::<IpAddr>() {
        Ok(address) if on_loopback && !address.is_unspecified() => address.to_string(),
        Ok(_) | Err(_) => host.to_owned(),
    }
}

/// Reads a host key. Whatever else a server might have written there would end in somebody's `known_hosts`.
fn host_key(line: &str) -> Result<HostKey, Failure> {
    let nonsense =
        |error: Box<dyn Error>| Failure::failed("the server's answer makes no sense: an SSH host key", error);
    let mut key = read_public_key(line).map_err(|error| nonsense(error.into()))?;
    key.set_comment("");
    let public_key = key.to_openssh().map_err(|error| nonsense(error.into()))?;
    Ok(HostKey { algorithm: key.algorithm().as_str().to_owned(), public_key, fingerprint: fingerprint(&key) })
}

impl Door {
    /// Lines of `known_hosts`. `name` stands for host and port if it is given.
    pub(crate) fn known_hosts(&self, name: Option<&str>) -> String {
        let name = match name {
            Some(name) => name.to_owned(),
            None if self.port == SSH_PORT => self.host.clone(),
            None => format!("[{}]:{}", self.host, self.port),
        };
        let lines: Vec<String> = self.host_keys.iter().map(|key| format!("{name} {}", key.public_key)).collect();
        lines.join("\n")
    }
}

/// Reads a host from the command line: it must be fit for a line of `~/.ssh/config`.
fn host_argument(text: &str) -> Result<String, String> {
    let text = text.trim_start_matches('[').trim_end_matches(']');
    let right = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':'));
    if text.is_empty() || text.starts_with('-') || !right {
        return Err("it must be the name or the address of a host, without a port".into());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDE6DCdEbe4Qjuz4jBAqjiGFGeJctMVyg1I+sNUWAOaF";

    #[test]
    fn the_door_is_where_the_api_is_unless_it_says_better() {
        for (api, listens, reached) in [
            ("box.example", "0.0.0.0", "box.example"),
            ("box.example", "192.0.2.1", "box.example"),
            ("127.0.0.1", "0.0.0.0", "127.0.0.1"),
            ("localhost", "::", "localhost"),
            ("127.0.0.1", "192.0.2.1", "192.0.2.1"),
            ("::1", "127.0.0.1", "127.0.0.1"),
            ("127.0.0.1", "nonsense", "127.0.0.1"),
        ] {
            assert_eq!(reached_at(api, listens), reached, "{api} {listens}");
        }
    }

    #[test]
    fn known_hosts_name_the_port_unless_it_is_22() {
        let key = host_key(&format!("{LINE} a comment")).expect("a key");
        let door = |host: &str, port| Door { host: host.into(), port, host_keys: vec![key.clone()] };
        assert_eq!(door("a.b", 22).known_hosts(None), format!("a.b {LINE}"));
        assert_eq!(door("::1", 2222).known_hosts(None), format!("[::1]:2222 {LINE}"));
        assert_eq!(door("a.b", 2222).known_hosts(Some("boxyard")), format!("boxyard {LINE}"));
    }

    #[test]
    fn a_server_cannot_write_other_lines() {
        for line in
            ["", "*", &format!("{LINE}\ngithub.com {LINE}"), &format!("@cert-authority * {LINE}"), &format!("x {LINE}")]
        {
            assert!(host_key(line).is_err(), "{line}");
        }
    }

    #[test]
    fn hosts_are_names_and_addresses() {
        for (text, host) in [("a.b-c", "a.b-c"), ("[::1]", "::1"), ("192.0.2.1", "192.0.2.1")] {
            assert_eq!(host_argument(text).as_deref(), Ok(host));
        }
        for text in ["", "-oProxyCommand=x", "a b", "a\nb", "user@host", "%h"] {
            assert!(host_argument(text).is_err(), "{text}");
        }
    }
}
