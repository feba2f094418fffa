//! What a box reaches, and what it does not.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use super::yard::{LIMITS, Yard, spec};
use crate::Engine as _;
use boxyard_proto::BoxId;

/// Answers "open" to whoever connects.
async fn service(address: SocketAddr) -> (SocketAddr, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.write_all(b"open").await;
        }
    });
    (address, AbortOnDropHandle::new(task))
}

impl Yard {
    /// What a connection from the box to `address` brings: what is said there, or the name of the error.
    async fn dial(&self, id: &BoxId, address: &str, port: u16) -> String {
        let script = format!(
            "import socket\ntry:\n  print(socket.create_connection((\"{address}\", {port}), timeout=1).recv(9).decode())\n\
             except OSError as error:\n  print(type(error).__name__)"
        );
        self.sh(id, &format!("python3 -c '{script}'")).await.out.trim().to_owned()
    }

    async fn address(&self, id: &BoxId) -> String {
        self.sh(id, "ip -4 -o addr show eth0 | sed 's/.*inet \\([0-9.]*\\).*/\\1/'").await.out.trim().to_owned()
    }
}

/// The host's own addresses, all of them.
fn host_addresses() -> Vec<Ipv4Addr> {
    let output = std::process::Command::new("ip").args(["-4", "-o", "addr"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let addresses = text.lines().filter_map(|line| line.split_whitespace().nth(3)?.split('/').next()?.parse().ok());
    addresses.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hosts_services_do_not_answer() {
    let yard = Yard::open().await;
    let id = yard.make().await;
    let (service, _task) = service(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))).await;
    let addresses = host_addresses();
    assert!(addresses.len() >= 3, "loopback, an uplink and a gateway: {addresses:?}");
    for address in addresses.iter().filter(|address| !address.is_loopback()) {
        assert_eq!(yard.dial(&id, &address.to_string(), service.port()).await, "TimeoutError", "{address}");
    }
    assert_eq!(yard.dial(&id, "127.0.0.1", service.port()).await, "ConnectionRefusedError", "the box's own loopback");
    let gateway = yard.config.network_range.address(1).unwrap();
    assert_eq!(yard.sh(&id, &format!("ping -c 1 -W 2 {gateway}")).await.code, 0);
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_boxes_do_not_answer_and_the_host_can_reach_them() {
    let yard = Yard::open().await;
    let (one, two) = (yard.make().await, yard.make().await);
    let serve = "import socket\ns = socket.create_server((\"0.0.0.0\", 4000))\nprint(\"ready\", flush=True)\nwhile True:\n  c = s.accept()[0]; c.send(b\"open\"); c.close()";
    yard.sh(&two, &format!("mkfifo /tmp/f; (setsid python3 -c '{serve}' > /tmp/f 2>&1 &); head -1 /tmp/f")).await;
    let address = yard.address(&two).await;
    assert_eq!(yard.dial(&two, &address, 4000).await, "open", "from inside");
    assert_eq!(yard.dial(&one, &address, 4000).await, "TimeoutError", "from the other box");
    let mut stream = tokio::net::TcpStream::connect(format!("{address}:4000")).await.unwrap();
    let mut said = [0; 4];
    tokio::io::AsyncReadExt::read_exact(&mut stream, &mut said).await.unwrap();
    assert_eq!(&said, b"open", "from the host");
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn private_and_special_addresses_do_not_answer() {
    let yard = Yard::open().await;
    let id = yard.make().await;
    for address in ["10.255.255.53", "169.254.169.254", "172.17.0.1", "192.168.1.1", "100.64.0.1", "198.19.255.254"] {
        let said = yard.dial(&id, address, 53).await;
        assert_eq!(said, "TimeoutError", "{address}");
    }
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_box_cannot_pretend_to_be_another() {
    let yard = Yard::open().await;
    let (liar, victim) = (yard.make().await, yard.make().await);
    let gateway = yard.config.network_range.address(1).unwrap();
    let stranger = yard.address(&victim).await;
    // Its root has no say over its interface,
    let change = yard.sh(&liar, &format!("ip addr add {stranger}/32 dev eth0")).await;
    assert_ne!(change.code, 0, "{change:?}");
    // but can write any source address into a packet. The name server would answer to the victim.
    let forge = format!(
        "import socket,struct\n\
         name = b\"\\x09localhost\\x00\"\n\
         query = struct.pack(\"!6H\", 7, 0x100, 1, 0, 0, 0) + name + struct.pack(\"!2H\", 1, 1)\n\
         udp = struct.pack(\"!4H\", 5353, 53, 8 + len(query), 0) + query\n\
         def packet(source): return struct.pack(\"!BBHHHBBH4s4s\", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0, socket.inet_aton(source), socket.inet_aton(\"{gateway}\")) + udp\n\
         raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)\n\
         own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
         own.bind((\"0.0.0.0\", 5353)); own.settimeout(20)\n\
         for _ in range(20): raw.sendto(packet(\"{stranger}\"), (\"{gateway}\", 0))\n\
         raw.sendto(packet(\"{}\"), (\"{gateway}\", 0))\n\
         print(own.recv(2)[1])",
        yard.address(&liar).await
    );
    let received = "cat /sys/class/net/eth0/statistics/rx_packets";
    let before = yard.sh(&victim, received).await.out;
    // The last packet has the right address and is answered, which shows that the others would have been.
    let forged = yard.sh(&liar, &format!("python3 -c '{forge}'")).await;
    assert_eq!(forged.out, "7\n", "{forged:?}");
    assert_eq!(yard.sh(&victim, received).await.out, before);
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_box_has_only_its_share_of_the_hosts_connections() {
    let yard = Yard::open().await;
    let (greedy, other) = (yard.make().await, yard.make().await);
    let send = "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\nfor n in range(9000): s.sendto(b\"x\", (\"203.0.113.99\", 1 + n))";
    yard.sh(&greedy, &format!("python3 -c '{send}'")).await;
    let made = connections(&yard.address(&greedy).await);
    assert!((3000..=4100).contains(&made), "{made}: 4096 and a few of its start");
    // Others notice nothing.
    assert_eq!(yard.sh(&other, "apt-get update -q > /dev/null; echo $?").await.out, "0\n");
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn asking_the_name_server_does_not_fill_the_hosts_table_of_connections() {
    let yard = Yard::open().await;
    let id = yard.make().await;
    let gateway = yard.config.network_range.address(1).unwrap();
    // No questions, so the name server has nothing to do; but each comes from a port of its own.
    let send = format!(
        "import socket\nfor n in range(1025, 10025):\n  s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n  \
         s.bind((\"0.0.0.0\", n)); s.sendto(b\"x\", (\"{gateway}\", 53)); s.close()"
    );
    assert_eq!(yard.sh(&id, &format!("python3 -c '{send}'")).await.code, 0);
    let made = connections(&yard.address(&id).await);
    assert!((3000..=4100).contains(&made), "{made}: 4096 and a few of its start");
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn neighbours_that_a_box_makes_up_are_not_noted_by_the_host() {
    let yard = Yard::open().await;
    let id = yard.make().await;
    let gateway = yard.config.network_range.address(1).unwrap();
    let own = yard.address(&id).await;
    let ask = format!(
        "import socket, struct\n\
         s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); s.bind((\"eth0\", 0x806)); s.settimeout(20)\n\
         mac = s.getsockname()[4]\n\
         def ask(source): s.send(b\"\\xff\" * 6 + mac + struct.pack(\"!HHHBBH\", 0x806, 1, 0x800, 6, 4, 1) + mac + \
         socket.inet_aton(source) + bytes(6) + socket.inet_aton(\"{gateway}\"))\n\
         for n in range(200): ask(\"203.0.113.%d\" % n)\n\
         ask(\"{own}\")\n\
         print(socket.inet_ntoa(s.recv(99)[38:42]))"
    );
    // The last request comes from the box's own address and is answered, and the only one.
    let asked = yard.sh(&id, &format!("python3 -c '{ask}'")).await;
    assert_eq!(asked.out.trim(), own, "{asked:?}");
    let output = std::process::Command::new("ip").args(["-4", "neigh"]).output().unwrap();
    let noted = String::from_utf8_lossy(&output.stdout).into_owned();
    let link = format!("by{}-", yard.tag());
    assert!(!noted.lines().any(|line| line.starts_with("203.0.113.") && line.contains(&link)), "{noted}");
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_resolve_and_packages_install() {
    let hosts = BTreeMap::from([("site.test".to_owned(), Ipv4Addr::new(203, 0, 113, 99))]);
    let yard = Yard::open_with(|config| config.dns_hosts = hosts).await;
    let id = yard.make().await;
    assert_eq!(yard.sh(&id, "getent ahostsv4 site.test | head -1 | cut -d' ' -f1").await.out, "203.0.113.99\n");
    let installed = yard
        .sh(&id, "apt-get update -q && apt-get install -qy --no-install-recommends jq && echo '{\"a\":7}' | jq .a")
        .await;
    assert!(installed.code == 0 && installed.out.ends_with("\n7\n"), "{installed:?}");
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_cannot_share_a_range() {
    let yard = Yard::open().await;
    let range = yard.config.network_range;
    let data = tempfile::tempdir().unwrap();
    let mut config = crate::local::LocalConfig::new(
        data.path().join("data"),
        yard.config.init.clone(),
        crate::images::ImagesConfig::default(),
    );
    config.network_range = range;
    let error = crate::local::LocalEngine::open(config).await.unwrap_err();
    let text = super::yard::explain(error);
    assert!(text.contains("give this one another network range"), "{text}");
    let id = yard.make().await;
    assert_eq!(yard.sh(&id, "echo unharmed").await.out, "unharmed\n");
    yard.close().await;
}

/// Entries of the host's table of connections that have this address at one of their ends.
fn connections(address: &str) -> usize {
    let table = std::fs::read_to_string("/proc/net/nf_conntrack").unwrap();
    let ends = [format!("src={address} "), format!("dst={address} ")];
    table.lines().filter(|line| ends.iter().any(|end| line.contains(end.as_str()))).count()
}

impl Yard {
    /// Makes a box of which the host knows connections of both directions, one of them open.
    async fn make_connected(&self) -> (BoxId, String, tokio::net::TcpStream) {
        let id = self.make().await;
        let address = self.address(&id).await;
        let send = "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\nfor n in range(300): s.sendto(b\"x\", (\"203.0.113.99\", 1 + n))";
        self.sh(&id, &format!("python3 -c '{send}'")).await;
        let serve = "import socket\ns = socket.create_server((\"0.0.0.0\", 4000))\nprint(\"ready\", flush=True)\nc = s.accept()[0]\nc.recv(1)";
        self.sh(&id, &format!("mkfifo /tmp/f; (setsid python3 -c '{serve}' > /tmp/f 2>&1 &); head -1 /tmp/f")).await;
        let stream = tokio::net::TcpStream::connect(format!("{address}:4000")).await.unwrap();
        assert!(connections(&address) > 300, "{}", connections(&address));
        (id, address, stream)
    }
}

impl Yard {
    /// Waits until the host knows no connection of an address. The kernel tells nobody, and the server soon.
    async fn forgotten(&self, address: &str) {
        let forgotten = async {
            while connections(address) > 0 {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(20), forgotten).await.expect("connections are forgotten");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_connections_of_a_box_are_forgotten_when_it_is_removed_or_stopped() {
    let yard = Yard::open().await;
    let (neighbour, others, _open) = yard.make_connected().await;
    let (removed, address, _stream) = yard.make_connected().await;
    yard.engine.remove(&removed).await.unwrap();
    yard.forgotten(&address).await;
    let (stopped, address, _stream) = yard.make_connected().await;
    yard.engine.stop(&stopped).await.unwrap();
    yard.forgotten(&address).await;
    assert!(connections(&others) > 300, "the neighbour's are untouched");
    assert_eq!(yard.sh(&neighbour, "echo on").await.out, "on\n");
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_box_has_no_connections_of_one_that_had_its_address() {
    // Room for one box, so that the next one has the same address.
    let yard = Yard::open_with(|config| config.boxes_max = 1).await;
    let (first, address, mut stream) = yard.make_connected().await;
    yard.engine.remove(&first).await.unwrap();
    // Who is left at the other end makes an entry again, for as long as there is a way to the address.
    let _ = stream.write_all(b"late").await;
    let second = spec(LIMITS);
    let (made, ()) = tokio::join!(yard.engine.create(&second), async {
        let _ = stream.write_all(b"later").await;
    });
    made.unwrap();
    assert_eq!(yard.address(&second.id).await, address);
    let udp = |line: &&str| line.contains(&format!("src={address} ")) && line.contains("dst=203.0.113.99");
    let table = std::fs::read_to_string("/proc/net/nf_conntrack").unwrap();
    assert_eq!(table.lines().filter(udp).count(), 0);
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_server_did_not_forget_the_next_one_does() {
    let yard = Yard::open().await;
    let (neighbour, others, _open) = yard.make_connected().await;
    let (removed, address, _stream) = yard.make_connected().await;
    yard.engine.remove(&removed).await.unwrap();
    // Before it was swept up.
    let yard = yard.reopen().await;
    assert_eq!(connections(&address), 0);
    assert!(connections(&others) > 300, "those of boxes that are there are untouched");
    assert_eq!(yard.sh(&neighbour, "echo on").await.out, "on\n");
    yard.close().await;
}
