//! A machine that is no box: a network namespace with addresses of its own, and a web server in it.

use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::until;

/// How long the web server may take to listen.
const DEADLINE: Duration = Duration::from_secs(30);

/// Says `outside` to everyone who connects, on every address.
const SERVER: &str = "
import socket
server = socket.create_server(('0.0.0.0', 8080))
while True:
    peer, _ = server.accept()
    peer.recv(4096)
    peer.sendall(b'HTTP/1.0 200 OK\\r\\nContent-Length: 8\\r\\n\\r\\noutside\\n')
    peer.close()
";

/// A machine beside the host, reached over a link of its own. It goes when this value is dropped.
#[derive(Debug)]
pub struct Outside {
    name: String,
    server: Option<Child>,
}

impl Outside {
    /// Makes the machine with these addresses, each of which is the second of a range of four; the host gets the first. `name` has at
    /// most 10 letters and digits.
    ///
    /// # Errors
    /// The kernel or the lack of python3 or iproute2 does not allow it.
    pub fn new(name: &str, addresses: &[&str]) -> Result<Self> {
        Self::running(name, addresses, &["python3", "-c", SERVER])
    }

    /// The same with another server, which listens on port 8080 of every address.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn running(name: &str, addresses: &[&str], program: &[&str]) -> Result<Self> {
        let mut outside = Self { name: name.to_owned(), server: None };
        outside.remove();
        let (host, inner) = (format!("{name}-h"), format!("{name}-o"));
        ip(&["netns", "add", name])?;
        ip(&["link", "add", &host, "type", "veth", "peer", "name", &inner, "netns", name])?;
        ip(&["link", "set", &host, "up"])?;
        ip(&["-n", name, "link", "set", &inner, "up"])?;
        for address in addresses {
            let (network, last) = address.rsplit_once('.').context("an address has dots")?;
            let first = last.parse::<u8>()?.checked_sub(1).context("the machine has the second address of a range")?;
            ip(&["address", "add", &format!("{network}.{first}/30"), "dev", &host])?;
            ip(&["-n", name, "address", "add", &format!("{address}/30"), "dev", &inner])?;
        }
        let gateway = addresses.first().and_then(|address| address.rsplit_once('.')).context("no address")?;
        let first = gateway.1.parse::<u8>()? - 1;
        ip(&["-n", name, "route", "add", "default", "via", &format!("{}.{first}", gateway.0)])?;
        let mut server = Command::new("ip");
        server.args(["netns", "exec", name]).args(program);
        outside.server =
            Some(server.stdin(Stdio::null()).spawn().context("starting a web server in a network namespace")?);
        for address in addresses {
            let address: SocketAddr = format!("{address}:8080").parse()?;
            until("the web server outside to listen", DEADLINE, || {
                Ok(TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok())
            })?;
        }
        Ok(outside)
    }

    fn remove(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _killed = server.kill();
            let _status = server.wait();
        }
        // Deleting an end of the link deletes the other; both may be gone already.
        let _output = Command::new("ip").args(["link", "delete", &format!("{}-h", self.name)]).output();
        let _output = Command::new("ip").args(["netns", "delete", &self.name]).output();
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        self.remove();
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output().context("starting ip (package iproute2)")?;
    if !output.status.success() {
        bail!("`ip {}` failed: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
