//! Editors over SSH, as they use OpenSSH's client: VS Code's Remote-SSH, and JetBrains' Gateway.

#![forbid(unsafe_code)]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::Command;
use std::thread;

use anyhow::{Context as _, Result, anyhow, ensure};
use boxyard_real_tests::ssh::{Agent, Key};
use boxyard_real_tests::{Dialogue, HOST, Server, Settings, Ssh, finish};
use serde_json::json;

/// What VS Code's extension sends to `ssh -T -D PORT HOST sh`, cut down to its bones: it prints marks with a number that tells them from what a
/// shell's profile says, takes a lock, starts the server detached unless it runs, waits for the file in which it tells its port, and then
/// keeps the connection open. The server here is one of Node's: it answers HTTP, and what is sent to `/stream` as it comes.
const INSTALL: &str = r#"
echo "2c6f: running"
DIR=$HOME/.vscode-server
mkdir -p "$DIR"
umask 077
exec 9> "$DIR/lock"
flock 9
if [ -f "$DIR/pid" ] && kill -0 "$(cat "$DIR/pid")" 2> /dev/null; then
  echo "2c6f: found running server"
else
  rm -f "$DIR/port"
  cat > "$DIR/server.js" <<'END'
const http = require('http'), fs = require('fs'), dir = __dirname
const server = http.createServer((request, answer) => {
  if (request.url === '/version') return answer.end(`server ${process.pid}\n`)
  if (request.url === '/large') return answer.end(Buffer.alloc(3_000_001, 'x'))
  request.pipe(answer)
})
server.on('upgrade', (request, socket) => {
  socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n')
  socket.on('data', data => socket.write(data))
  socket.on('error', () => {})
  socket.on('end', () => socket.end())
})
server.listen(0, '127.0.0.1', () => {
  fs.writeFileSync(`${dir}/port.new`, `${server.address().port}`)
  fs.renameSync(`${dir}/port.new`, `${dir}/port`)
})
END
  nohup node "$DIR/server.js" > "$DIR/log" 2>&1 < /dev/null 9>&- &
  echo $! > "$DIR/pid"
  echo "2c6f: started"
  timeout 30 sh -c 'until [ -f "$0/port" ]; do sleep 0.05; done' "$DIR" || { echo "2c6f: failed"; cat "$DIR/log"; exit 1; }
fi
flock -u 9
echo "2c6f: listeningOn==$(cat "$DIR/port")=="
echo "2c6f: osReleaseId==$(. /etc/os-release; echo "$ID")== arch==$(uname -m)=="
echo "2c6f: end"
"#;

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// A window of the editor: its connection, the SOCKS port of that, and the port of the server in the box.
struct Window {
    ssh: Dialogue,
    socks: u16,
    port: u16,
    began: String,
}

impl Window {
    fn open(ssh: &Ssh) -> Result<Self> {
        let socks = free_port()?;
        // These are the extension's own arguments.
        let forward = socks.to_string();
        let arguments = ["-vvv", "-T", "-D", &forward, "-o", "ConnectTimeout=15", HOST, "sh"];
        let mut ssh = ssh.dialogue(&arguments)?;
        ssh.send(INSTALL)?;
        ssh.expect("2c6f: running\n")?;
        let began = ssh.expect("2c6f: listeningOn==")?;
        let port = ssh.expect("==\n")?.parse()?;
        ensure!(ssh.expect("2c6f: end\n")?.contains("osReleaseId=="), "the box does not tell what it is");
        Ok(Self { ssh, socks, port, began })
    }

    /// A connection through SOCKS to the server in the box; like the extension, by version 5, without a login, to a name.
    fn connect(&self) -> Result<TcpStream> {
        let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, self.socks))?;
        socket.write_all(&[5, 1, 0])?;
        let mut chosen = [0; 2];
        socket.read_exact(&mut chosen)?;
        ensure!(chosen == [5, 0], "no SOCKS without a login: {chosen:?}");
        let (name, [high, low]) = (b"localhost", self.port.to_be_bytes());
        let ask = [&[5, 1, 0, 3, 9], name.as_slice(), &[high, low]].concat();
        socket.write_all(&ask)?;
        let mut answer = [0; 10];
        socket.read_exact(&mut answer)?;
        ensure!(answer[1] == 0, "SOCKS refuses: {answer:?}");
        Ok(socket)
    }

    fn get(&self, path: &str) -> Result<Vec<u8>> {
        let mut socket = self.connect()?;
        write!(socket, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer)?;
        let head = answer.windows(4).position(|part| part == b"\r\n\r\n").context("no head")?;
        ensure!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer[..head]));
        // What comes in chunks is only counted.
        Ok(answer.split_off(head + 4))
    }

    /// One of the long connections by which the window speaks to the server: after its head, what is sent comes back.
    fn channel(&self) -> Result<BufReader<TcpStream>> {
        let mut socket = self.connect()?;
        write!(socket, "GET /stream HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")?;
        let mut reader = BufReader::new(socket);
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            ensure!(reader.read_line(&mut line)? > 0, "the server closes");
        }
        Ok(reader)
    }
}

/// Sends a line and hears it again.
fn echoes(channel: &mut BufReader<TcpStream>, text: &str) -> Result<()> {
    channel.get_mut().write_all(format!("{text}\n").as_bytes())?;
    let mut line = String::new();
    channel.read_line(&mut line)?;
    ensure!(line.trim_end() == text, "{line:?} comes back for {text:?}");
    Ok(())
}

#[test]
fn vs_code_installs_its_server_works_through_it_and_finds_it_again() -> Result<()> {
    let server = Server::with_ssh(Settings::new())?;
    let id = server.create()?;
    let ssh = server.ssh(&id)?.option("ServerAliveInterval 1").option("ServerAliveCountMax 2");
    let mut window = Window::open(&ssh)?;
    ensure!(window.began.contains("2c6f: started"), "{}", window.began);
    let version = window.get("/version")?;
    ensure!(version.starts_with(b"server "));
    // A window has several long connections, and many short ones beside them.
    let mut channels: Vec<_> = (0..12).map(|_| window.channel()).collect::<Result<_>>()?;
    thread::scope(|scope| {
        let large = || -> Result<()> {
            for _ in 0..3 {
                ensure!(window.get("/large")?.len() >= 3_000_001, "an answer is cut");
            }
            Ok(())
        };
        let workers: Vec<_> = (0..8).map(|_| scope.spawn(large)).collect();
        for round in 0..20 {
            for (number, channel) in channels.iter_mut().enumerate() {
                echoes(channel, &format!("{round} {number}"))?;
            }
        }
        workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| anyhow!("a worker panicked"))?)
    })?;
    // Nobody types for a while: only the client asks whether the server is there.
    for _ in 0..5 {
        window.ssh.expect_err("receive packet: type 82")?;
    }
    for (number, channel) in channels.iter_mut().enumerate() {
        echoes(channel, &format!("after a rest {number}"))?;
    }
    // The laptop is closed. The server in the box was detached, and the next window finds it.
    window.ssh.kill()?;
    drop(channels);
    let mut again = Window::open(&ssh)?;
    ensure!(again.began.contains("2c6f: found running server"), "{}", again.began);
    ensure!(again.port == window.port && again.get("/version")? == version, "it is another server");
    // A second window beside the first, and the first closed as one should.
    let second = Window::open(&ssh)?;
    again.ssh.end_input();
    ensure!(again.ssh.wait()?.success(), "closing a window is an error");
    ensure!(second.get("/version")? == version);
    Ok(())
}

#[test]
fn vs_code_finds_its_server_after_the_box_was_paused() -> Result<()> {
    let server = Server::with_ssh(Settings::new())?;
    let id = server.create()?;
    let ssh = server.ssh(&id)?;
    let mut window = Window::open(&ssh)?;
    let version = window.get("/version")?;
    server.call("POST", &format!("/v2/box/{id}/pause"), None)?.ok()?;
    ensure!(window.ssh.wait()?.code() == Some(255), "the window does not notice that its box is paused");
    let again = Window::open(&ssh)?;
    ensure!(again.began.contains("2c6f: found running server"), "{}", again.began);
    ensure!(again.get("/version")? == version);
    Ok(())
}

/// Gateway opens one connection, looks around by commands, brings its backend by SFTP, starts it in a session of its own, and forwards a port of its
/// choice; then the thin client lives on that forward. With OpenSSH's configuration the connection is shared.
#[test]
fn gateway_brings_a_backend_by_sftp_starts_it_and_forwards_its_port() -> Result<()> {
    let server = Server::with_ssh(Settings::new())?;
    let id = server.create()?;
    let door = server.door()?;
    let key = Key::make(door.folder(), "key", "ed25519")?;
    server.call("POST", "/v2/ssh-keys", Some(&json!({ "public_key": key.public })))?.ok()?;
    let agent = Agent::with(&key)?;
    let control = format!("ControlPath {}", door.folder().join("mux").display());
    let shared = door.user(&id).agent(agent.socket()).option(&control).option("ServerAliveInterval 2");
    let mut master = shared.dialogue(&["-M", HOST, "echo ready; cat"])?;
    master.expect("ready\n")?;
    // All that follows has no way but through the master.
    let shared = shared.option("ControlMaster no").option("ProxyCommand false");
    ensure!(shared.sh("uname -sm; echo $HOME; df -P $HOME | tail -n 1 | wc -l")?.starts_with("Linux "));
    // The backend, in pieces and with folders, as fast as SFTP carries it.
    let folder = door.folder().join("backend");
    fs::create_dir_all(folder.join("bin"))?;
    fs::create_dir_all(folder.join("lib"))?;
    finish(door.user(&id).program("sh").args(["-c", "head -c 60M /dev/urandom > backend/lib/product.jar"]))?.ok()?;
    let backend = "import http.server, socketserver
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        text = open('lib/product.jar', 'rb').read(1_000_000)
        self.send_response(200); self.send_header('Content-Length', str(len(text))); self.end_headers(); self.wfile.write(text)
    def log_message(self, *_): pass
class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 64
server = Server(('127.0.0.1', 0), Answer)
print('join link: tcp://127.0.0.1:%d' % server.server_port, flush=True)
server.serve_forever()
";
    fs::write(folder.join("bin/remote-dev-server.py"), backend)?;
    shared.sh("mkdir -p .cache")?;
    let mut sftp = shared.command("sftp")?;
    sftp.args(["-r", HOST]).stdin(batch(&door.folder().join("batch"), "put -r backend .cache/backend\n")?);
    finish(&mut sftp)?.ok()?;
    let sum = |command: &mut Command| -> Result<String> { Ok(finish(command)?.ok()?.text()) };
    let ours = sum(door.user(&id).program("sh").args(["-c", "sha256sum < backend/lib/product.jar"]))?;
    ensure!(shared.sh("sha256sum < .cache/backend/lib/product.jar")? == ours, "the backend arrived changed");
    // Started detached; its output is read by a command that follows the log.
    shared.sh("cd .cache/backend; setsid nohup python3 bin/remote-dev-server.py > log 2>&1 < /dev/null &")?;
    let mut log = shared.dialogue(&[HOST, "tail -n +1 -F .cache/backend/log"])?;
    log.expect("join link: tcp://127.0.0.1:")?;
    let port = log.expect("\n")?;
    // The forward is asked of the running connection, and taken back.
    let local = free_port()?;
    let forward = format!("127.0.0.1:{local}:127.0.0.1:{port}");
    let control = |what: &str| finish(shared.command("ssh")?.args(["-O", what, "-L", &forward, HOST]))?.ok();
    control("forward")?;
    let client = boxyard_real_tests::Client { address: (Ipv4Addr::LOCALHOST, local).into(), key: String::new() };
    thread::scope(|scope| {
        let work = || -> Result<()> {
            for _ in 0..5 {
                let answer = client.call("GET", "/", None)?;
                ensure!(answer.status == 200 && answer.body.len() == 1_000_000, "{} bytes came", answer.body.len());
            }
            Ok(())
        };
        let workers: Vec<_> = (0..16).map(|_| scope.spawn(work)).collect();
        // Commands and files beside it, on the same connection.
        for number in 0..10 {
            ensure!(shared.sh(&format!("echo {number}"))? == number.to_string());
        }
        workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| anyhow!("a worker panicked"))?)
    })?;
    control("cancel")?;
    ensure!(TcpStream::connect((Ipv4Addr::LOCALHOST, local)).is_err(), "the forward is still there");
    // The connection ends; the backend does not, and a new one reaches it.
    log.kill()?;
    master.end_input();
    ensure!(master.wait()?.success());
    let later = door.user(&id).agent(agent.socket());
    let mut through = later.dialogue(&["-W", &format!("127.0.0.1:{port}"), HOST])?;
    through.send("GET / HTTP/1.0\r\n\r\n")?;
    through.expect("200 OK")?;
    Ok(())
}

/// A file as standard input.
fn batch(file: &std::path::Path, text: &str) -> Result<fs::File> {
    fs::write(file, text)?;
    Ok(fs::File::open(file)?)
}
