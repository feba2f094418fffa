//! What a box reaches by network, and what it does not.
//!
//! Each closed way is tried from the host first, so that an attempt from a box that fails proves the wall and not a dead end.

#![forbid(unsafe_code)]

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use boxyard_real_tests::{Outside, Server, Settings};

const DEADLINE: Duration = Duration::from_secs(5);

/// Whether something in the box can open a TCP connection there.
fn reaches(server: &Server, id: &str, address: &str, port: u16) -> Result<bool> {
    let attempt = format!("timeout 4 bash -c 'exec 3<>/dev/tcp/{address}/{port}'");
    Ok(server.exec(id, &attempt)?.code == 0)
}

#[test]
fn a_box_reaches_the_internet_and_nothing_private() -> Result<()> {
    // The third is a documentation range, which is nobody's private network: it stands for the internet here.
    let (private, link_local, public) = ("10.213.77.2", "169.254.213.2", "198.51.100.2");
    let outside = Outside::new("byouta", &[private, link_local, public])?;
    let server = Server::start()?;
    let id = server.create()?;
    for address in [private, link_local, public] {
        let address: SocketAddr = format!("{address}:8080").parse()?;
        TcpStream::connect_timeout(&address, DEADLINE)
            .with_context(|| format!("the host itself does not reach {address}"))?;
    }
    ensure!(server.sh(&id, &format!("curl -s --max-time 10 http://{public}:8080/"))? == "outside", "no way out");
    ensure!(!reaches(&server, &id, private, 8080)?, "a private address answers");
    ensure!(!reaches(&server, &id, link_local, 8080)?, "a link-local address answers");
    ensure!(!reaches(&server, &id, "169.254.169.254", 80)?, "the metadata address answers");
    drop(outside);
    Ok(())
}

#[test]
fn the_operator_opens_and_closes_addresses() -> Result<()> {
    let (private, public) = ("10.213.78.2", "203.0.113.250");
    let outside = Outside::new("byoutb", &[private, public])?;
    let settings = Settings::from([
        ("BOXYARD_NETWORK_ALLOW", format!("{private}/32")),
        ("BOXYARD_NETWORK_DENY", format!("{public}/32")),
    ]);
    let server = Server::with(settings)?;
    let id = server.create()?;
    ensure!(reaches(&server, &id, private, 8080)?, "network.allow opens nothing");
    ensure!(!reaches(&server, &id, public, 8080)?, "network.deny closes nothing");
    drop(outside);
    Ok(())
}

#[test]
fn the_hosts_own_services_do_not_answer() -> Result<()> {
    let server = Server::start()?;
    let id = server.create()?;
    let service = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let port = service.local_addr()?.port();
    let gateway = server.sh(&id, "ip -4 route show default | awk '{print $3}'")?;
    // The address with which the host itself would go to the internet; no packet is sent for this.
    let towards = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let own = towards.connect("198.51.100.1:9").and_then(|()| towards.local_addr());
    let mut addresses = vec!["127.0.0.1".to_owned(), gateway];
    addresses.extend(own.ok().map(|address| address.ip().to_string()).filter(|address| address != "127.0.0.1"));
    for address in &addresses {
        let target: SocketAddr = format!("{address}:{port}").parse()?;
        TcpStream::connect_timeout(&target, DEADLINE)
            .with_context(|| format!("the host itself does not reach {target}"))?;
        ensure!(!reaches(&server, &id, address, port)?, "a service of the host answers at {address}");
        let api = server.client().address.port();
        ensure!(!reaches(&server, &id, address, api)?, "the API answers at {address}");
    }
    Ok(())
}

#[test]
fn boxes_do_not_reach_each_other() -> Result<()> {
    let server = Server::start()?;
    let (own, other) = (server.create()?, server.create()?);
    server.sh(&other, "nohup python3 -m http.server 8000 > /dev/null 2>&1 &")?;
    server.sh(
        &other,
        "curl -s --retry 50 --retry-delay 1 --retry-connrefused --output /dev/null http://127.0.0.1:8000/",
    )?;
    let address = server.sh(&other, "ip -4 -o address show dev eth0 | awk '{print $4}' | cut -d/ -f1")?;
    ensure!(reaches(&server, &other, &address, 8000)?, "the box does not reach itself at {address}");
    ensure!(!reaches(&server, &own, &address, 8000)?, "another box answers at {address}");
    ensure!(server.exec(&own, &format!("ping -c 1 -W 2 {address}"))?.code != 0, "another box answers a ping");
    // Abstract Unix sockets belong to a network namespace.
    server.sh(&other, "nohup python3 -c 'import socket, signal; s = socket.socket(socket.AF_UNIX); s.bind(chr(0) + \"marker\"); s.listen(); signal.pause()' > /dev/null 2>&1 &")?;
    ensure!(!server.sh(&own, "cat /proc/net/unix")?.contains("@marker"), "another box's abstract socket is seen");
    Ok(())
}

#[test]
fn names_resolve_through_our_forwarder() -> Result<()> {
    let public = "198.51.100.14";
    let outside = Outside::new("byoutc", &[public])?;
    let server = Server::with(Settings::from([("BOXYARD_NETWORK_HOSTS", format!("outside.test={public}"))]))?;
    let id = server.create()?;
    ensure!(server.sh(&id, "getent ahostsv4 outside.test | awk 'NR == 1 {print $1}'")? == public);
    ensure!(server.sh(&id, "curl -s --max-time 10 http://outside.test:8080/")? == "outside");
    ensure!(server.exec(&id, "getent ahostsv4 no-such-name.invalid")?.code == 2, "an unknown name is not refused");
    ensure!(
        server.sh(&id, "getent ahostsv4 $(hostname) | awk 'NR == 1 {print $1}'").is_ok(),
        "a box does not know its own name"
    );
    drop(outside);
    Ok(())
}

#[test]
fn root_of_a_box_cannot_take_another_address() -> Result<()> {
    let server = Server::start()?;
    let id = server.create()?;
    for attempt in [
        "ip address add 198.51.100.9/32 dev eth0",
        "ip link set eth0 down",
        "ip link set eth0 address 02:00:00:00:00:09",
    ] {
        ensure!(server.exec(&id, &format!("sudo {attempt}"))?.code != 0, "root of a box could `{attempt}`");
    }
    // Low ports and ping work without being root.
    server.sh(&id, "python3 -c 'import socket; socket.create_server((\"0.0.0.0\", 80))'")?;
    server.sh(&id, "ping -c 1 -W 5 127.0.0.1")?;
    Ok(())
}
