//! Forwards over SSH: sockets of the box for the user, and the user's for the box. And what must stay out of reach.

#![forbid(unsafe_code)]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Stdio;
use std::thread;

use anyhow::{Context as _, Result, anyhow, ensure};
use boxyard_real_tests::ssh::{Agent, Key};
use boxyard_real_tests::{Client, Dialogue, HOST, Server, Settings, Ssh, finish};

/// Starts a web server on the loopback of the box, which serves `www`.
fn web(server: &Server, id: &str) -> Result<()> {
    server.sh(id, "mkdir -p www; echo from the box > www/index.html; head -c 1000003 /dev/urandom > www/large")?;
    server.sh(id, "cd www; nohup python3 -m http.server --bind 127.0.0.1 8000 > /dev/null 2>&1 &")?;
    server
        .sh(id, "curl -s --retry 50 --retry-delay 1 --retry-connrefused --output /dev/null http://127.0.0.1:8000/")
        .map(|_| ())
}

/// A port that was free a moment ago.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Opens a connection with forwards, and waits until they are there.
fn forwarding(ssh: &Ssh, forwards: &[&str]) -> Result<Dialogue> {
    let mut arguments = vec!["-o", "ExitOnForwardFailure yes"];
    arguments.extend(forwards);
    // Forwards are asked for before the command is.
    arguments.extend([HOST, "echo ready; cat"]);
    let mut client = ssh.dialogue(&arguments)?;
    client.expect("ready\n")?;
    Ok(client)
}

/// The body that a web server at that address has for `path`.
fn get(address: SocketAddr, path: &str) -> Result<Vec<u8>> {
    let answer = Client { address, key: String::new() }.call("GET", path, None)?;
    ensure!(answer.status == 200, "status {}", answer.status);
    Ok(answer.body)
}

#[test]
fn sockets_of_the_box_are_reached() -> Result<()> {
    let server = Server::with_ssh(Settings::new())?;
    let id = server.create()?;
    let ssh = server.ssh(&id)?;
    web(&server, &id)?;
    let (local, socks) = (SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?)), free_port()?);
    let (forward, dynamic) = (format!("{local}:localhost:8000"), format!("127.0.0.1:{socks}"));
    let unix = ssh.door().folder().join("box.sock");
    let unix_forward = format!("{}:/tmp/echo.sock", unix.display());
    let _client = forwarding(&ssh, &["-L", &forward, "-D", &dynamic, "-L", &unix_forward])?;

    // -L
    ensure!(get(local, "/")? == b"from the box\n");
    // -D, where the name is looked up in the box.
    for host in ["localhost", "127.0.0.1", &id] {
        let url = format!("http://{host}:8000/");
        let mut curl = ssh.program("curl");
        curl.args(["-sS", "--max-time", "20", "--socks5-hostname", &dynamic, &url]);
        let done = finish(&mut curl)?;
        // Only the loopback has the server.
        ensure!(host == id || done.clone().ok()?.text() == "from the box", "by way of {host}: {done:?}");
    }
    // -W
    let mut through = ssh.dialogue(&["-W", "127.0.0.1:8000", HOST])?;
    through.send("GET / HTTP/1.0\r\n\r\n")?;
    through.expect("from the box\n")?;
    ensure!(through.wait()?.success());
    // A Unix socket, both directions, and the end of one of them.
    let echo = "import socket
s = socket.socket(socket.AF_UNIX); s.bind('/tmp/echo.sock'); s.listen()
while True:
    peer, _ = s.accept()
    whole = b''.join(iter(lambda: peer.recv(65536), b''))
    peer.sendall(b'heard ' + whole); peer.close()
";
    let script = ssh.door().folder().join("echo.py");
    fs::write(&script, echo)?;
    finish(ssh.command("ssh")?.args([HOST, "cat > echo.py"]).stdin(fs::File::open(&script)?))?.ok()?;
    server.sh(
        &id,
        "nohup python3 echo.py > /dev/null 2>&1 & timeout 20 sh -c 'until [ -S /tmp/echo.sock ]; do :; done'",
    )?;
    let mut socket = UnixStream::connect(&unix)?;
    socket.write_all(b"something")?;
    socket.shutdown(std::net::Shutdown::Write)?;
    let mut said = String::new();
    socket.read_to_string(&mut said)?;
    ensure!(said == "heard something", "through a Unix socket came {said:?}");
    // Nobody listens there: the client is told, the connection goes on.
    let refused = finish(ssh.command("ssh")?.args(["-W", "127.0.0.1:9", HOST]))?;
    ensure!(refused.code == Some(255) && refused.err.contains("open failed"), "{refused:?}");
    ensure!(get(local, "/")? == b"from the box\n");
    Ok(())
}

#[test]
fn many_forwarded_connections_at_once() -> Result<()> {
    let server = Server::with_ssh(Settings::new())?;
    let id = server.create()?;
    let ssh = server.ssh(&id)?;
    web(&server, &id)?;
    let local = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
    let _client = forwarding(&ssh, &["-L", &format!("{local}:127.0.0.1:8000")])?;
    let expected = get(local, "/large")?;
    ensure!(expected.len() == 1_000_003);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..40).map(|_| scope.spawn(|| get(local, "/large"))).collect();
        for worker in workers {
            let body = worker.join().map_err(|_| anyhow!("a worker panicked"))??;
            ensure!(body == expected, "{} bytes came, or others", body.len());
        }
        Ok(())
    })?;
    // One after the other, more of them than a connection may have channels.
    for _ in 0..150 {
        ensure!(get(local, "/")? == b"from the box\n");
    }
    Ok(())
}

#[test]
fn sockets_of_the_user_are_reached_from_the_box() -> Result<()> {
    let server = Server::with_ssh(Settings::new())?;
    let id = server.create()?;
    let ssh = server.ssh(&id)?;
    let (tcp, unix_path) = (TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?, ssh.door().folder().join("user.sock"));
    let unix = UnixListener::bind(&unix_path)?;
    // Each answers one connection at a time: a greeting with the line it was sent.
    let port = tcp.local_addr()?.port();
    thread::spawn(move || answer(tcp.incoming().map_while(std::io::Result::ok)));
    thread::spawn(move || answer(unix.incoming().map_while(std::io::Result::ok)));

    let (any, fixed) = (format!("0:127.0.0.1:{port}"), format!("8123:127.0.0.1:{port}"));
    let unix_forward = format!("/tmp/user.sock:{}", unix_path.display());
    let mut client = forwarding(&ssh, &["-R", &any, "-R", &fixed, "-R", &unix_forward])?;
    client.expect_err("Allocated port ")?;
    let allocated = client.expect_err(" for remote forward")?;
    for port in [allocated.as_str(), "8123"] {
        let ask = format!("exec 3<>/dev/tcp/127.0.0.1/{port}; echo from $(hostname) >&3; cat <&3");
        ensure!(server.sh(&id, &ask)? == format!("hello from {id}"), "by port {port} of the box");
    }
    let ask = "import socket; s = socket.socket(socket.AF_UNIX); s.connect('/tmp/user.sock'); s.sendall(b'a box\\n'); print(s.recv(99).decode(), end='')";
    ensure!(server.sh(&id, &format!("python3 -c \"{ask}\""))? == "hello a box");
    // The ports are the box's, not the host's.
    ensure!(TcpStream::connect((Ipv4Addr::LOCALHOST, 8123)).is_err(), "the host listens for the box");
    // A port that is taken is refused.
    let taken = finish(ssh.command("ssh")?.args(["-o", "ExitOnForwardFailure yes", "-N", "-R", &fixed, HOST]))?;
    ensure!(taken.code == Some(255) && taken.err.contains("remote port forwarding failed"), "{taken:?}");
    // With the connection the listening ends, and the port is free again.
    client.kill()?;
    server.sh(&id, "timeout 20 sh -c 'while ss -Htln sport = :8123 | grep -q .; do :; done'")?;
    server.sh(&id, "rm -f /tmp/user.sock")?;
    let mut again = forwarding(&ssh, &["-R", &fixed, "-R", &unix_forward])?;
    again.end_input();
    ensure!(again.wait()?.success());
    Ok(())
}

/// Sends each connection's first line back with `hello` before it.
fn answer<S: std::io::Read + std::io::Write>(connections: impl Iterator<Item = S>) {
    for connection in connections {
        let mut reader = BufReader::new(connection);
        let mut line = String::new();
        // Whoever leaves early has failed on the other side.
        let _heard = reader.read_line(&mut line);
        let _said = reader.get_mut().write_all(format!("hello {line}").as_bytes());
    }
}

#[test]
fn the_users_agent_comes_along_when_asked_to() -> Result<()> {
    let server = Server::with_ssh(Settings::new())?;
    let id = server.create()?;
    let ssh = server.ssh(&id)?;
    let key = Key::make(ssh.door().folder(), "agents-key", "ed25519")?;
    let agent = Agent::with(&key)?;
    let socket = agent.socket().to_string_lossy().into_owned();
    let with = ssh.clone().env("SSH_AUTH_SOCK", &socket).option("ForwardAgent yes");
    let listed = with.sh("ssh-add -l; stat -c '%a %U' $(dirname $SSH_AUTH_SOCK); echo $SSH_AUTH_SOCK")?;
    let lines: Vec<&str> = listed.lines().collect();
    ensure!(lines.len() == 3 && lines[0].contains(&key.fingerprint()?) && lines[1] == "700 boxuser", "{listed}");
    // With the session the socket goes.
    server.sh(&id, &format!("timeout 20 sh -c 'while [ -e {} ]; do :; done'", lines[2]))?;
    ensure!(ssh.clone().env("SSH_AUTH_SOCK", &socket).sh("echo ${SSH_AUTH_SOCK-none}")? == "none");
    // It signs, too: the box proves to somebody else who the user is.
    let signed = with
        .sh("ssh-add -L > key.pub; echo text | ssh-keygen -q -Y sign -f key.pub -n test - 2> /dev/null | head -n 1")?;
    ensure!(signed == "-----BEGIN SSH SIGNATURE-----", "{signed}");
    Ok(())
}

#[test]
fn forwards_do_not_leave_the_boxs_network() -> Result<()> {
    let server = Server::with_ssh(Settings::new())?;
    let (id, other) = (server.create()?, server.create()?);
    let ssh = server.ssh(&id)?;
    server.sh(&other, "nohup python3 -m http.server 8000 > /dev/null 2>&1 &")?;
    server.sh(&other, "curl -s --retry 50 --retry-delay 1 --retry-connrefused -o /dev/null http://127.0.0.1:8000/")?;
    let theirs = server.sh(&other, "ip -4 -o address show dev eth0 | awk '{print $4}' | cut -d/ -f1")?;
    let service = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    service.set_nonblocking(true)?;
    let port = service.local_addr()?.port();
    let gateway = server.sh(&id, "ip -4 route show default | awk '{print $3}'")?;
    let towards = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let own =
        towards.connect("198.51.100.1:9").and_then(|()| towards.local_addr()).map(|address| address.ip().to_string());
    let (http, door) = (server.client().address.port(), ssh.door().address().port());
    let mut targets = vec![
        format!("127.0.0.1:{port}"),
        format!("localhost:{port}"),
        format!("[::1]:{port}"),
        format!("0.0.0.0:{port}"),
        format!("{gateway}:{port}"),
        format!("127.0.0.1:{http}"),
        format!("{gateway}:{http}"),
        format!("127.0.0.1:{door}"),
        format!("{theirs}:8000"),
        "169.254.169.254:80".to_owned(),
        "10.0.0.1:22".to_owned(),
    ];
    targets.extend(own.ok().map(|address| format!("{address}:{port}")));
    thread::scope(|scope| {
        let tries: Vec<_> = targets
            .iter()
            .map(|target| {
                let ssh = &ssh;
                scope.spawn(move || -> Result<()> {
                    let done = finish(ssh.command("ssh")?.args(["-W", target, HOST]).stdin(Stdio::null()))?;
                    ensure!(done.code == Some(255) && done.out.is_empty(), "{target} was reached: {done:?}");
                    ensure!(done.err.contains("open failed"), "{target}: {done:?}");
                    Ok(())
                })
            })
            .collect();
        tries.into_iter().try_for_each(|each| each.join().map_err(|_| anyhow!("a worker panicked"))?)
    })?;
    ensure!(service.accept().is_err(), "a forward has reached the host");
    // Nor do Unix sockets of the host.
    let path = ssh.door().folder().join("host.sock");
    let host = UnixListener::bind(&path)?;
    host.set_nonblocking(true)?;
    let local = ssh.door().folder().join("local.sock");
    let _client = forwarding(&ssh, &["-L", &format!("{}:{}", local.display(), path.display())])?;
    let mut socket = UnixStream::connect(&local)?;
    let mut said = Vec::new();
    // Closed without a byte, however the client tells it.
    let _end = socket.read_to_end(&mut said);
    ensure!(said.is_empty() && host.accept().is_err(), "a forward has reached a socket of the host");
    Ok(())
}

#[test]
fn x11_and_tunnels_are_refused() -> Result<()> {
    let server = Server::with_ssh(Settings::new())?;
    let ssh = server.ssh(&server.create()?)?;
    let display = ssh.clone().env("DISPLAY", ":99").option("ForwardX11 yes").option("ForwardX11Trusted yes");
    ensure!(display.sh("echo ${DISPLAY-none}")? == "none", "X11 is forwarded");
    let tunnel = finish(ssh.command("ssh")?.args(["-o", "ExitOnForwardFailure yes", "-w", "any:any", HOST, "true"]))?;
    ensure!(tunnel.code == Some(255), "a tunnel device was opened: {:?}", tunnel.code.context("no exit status"));
    Ok(())
}
