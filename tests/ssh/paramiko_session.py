"""What programs do that use paramiko: commands, a shell, SFTP, a forward, a key. Says `paramiko: good` when all of it worked.

HOST, PORT, BOX, PASSWORD, KEY_FILE, HOST_KEY are in the environment. The port 8000 of the box's loopback has a web server.
"""

import hashlib
import io
import os
import stat
import threading

import paramiko

HOST, PORT, BOX = os.environ["HOST"], int(os.environ["PORT"]), os.environ["BOX"]


def connect(**how):
    client = paramiko.SSHClient()
    algorithm, key = os.environ["HOST_KEY"].split(" ")
    client.get_host_keys().add(f"[{HOST}]:{PORT}", algorithm, paramiko.Ed25519Key(data=__import__("base64").b64decode(key)))
    client.set_missing_host_key_policy(paramiko.RejectPolicy())
    client.connect(HOST, PORT, BOX, look_for_keys=False, allow_agent=False, timeout=30, banner_timeout=30, **how)
    return client


def commands(client):
    _, out, err = client.exec_command("echo out; echo err >&2; exit 7")
    assert (out.read(), err.read(), out.channel.recv_exit_status()) == (b"out\n", b"err\n", 7)
    stdin, out, _ = client.exec_command("sha256sum")
    data = os.urandom(3_000_000)
    stdin.write(data)
    stdin.channel.shutdown_write()
    assert out.read().split()[0].decode() == hashlib.sha256(data).hexdigest()
    # A bad request for a channel is refused and the connection goes on.
    channel = client.get_transport().open_session()
    try:
        channel.invoke_subsystem("no-such-subsystem")
        raise AssertionError("an unknown subsystem was started")
    except paramiko.SSHException:
        pass
    # Signals and environment on a channel of one's own.
    channel = client.get_transport().open_session()
    channel.set_environment_variable("LANG", "de_DE.UTF-8")
    channel.exec_command("echo $LANG; cat; echo the end")
    channel.shutdown_write()
    assert channel.makefile().read() == b"de_DE.UTF-8\nthe end\n"
    assert channel.recv_exit_status() == 0


def shell(client):
    channel = client.invoke_shell(term="vt100", width=100, height=30)
    channel.settimeout(30)
    heard = b""
    channel.send("stty size; echo $TER\"\"M-te\"\"rm-$TERM\n")
    while b"-term-vt100" not in heard:
        part = channel.recv(4096)
        assert part, heard
        heard += part
    assert b"30 100" in heard, heard
    channel.resize_pty(width=50, height=20)
    # The size may have changed a moment later than the shell reads this, so it asks until it has.
    channel.send("until [ \"$(stty size)\" = '20 50' ]; do :; done; exit 3\n")
    while channel.recv(4096):
        pass
    assert channel.recv_exit_status() == 3


def sftp(client):
    with client.open_sftp() as files:
        data = os.urandom(5_000_001)
        files.putfo(io.BytesIO(data), "random", len(data))
        back = io.BytesIO()
        files.getfo("random", back)
        assert back.getvalue() == data
        assert files.stat("random").st_size == len(data)
        files.chmod("random", 0o640)
        assert stat.S_IMODE(files.stat("random").st_mode) == 0o640
        files.mkdir("folder")
        files.rename("random", "folder/moved")
        files.symlink("moved", "folder/link")
        assert files.readlink("folder/link") == "moved"
        assert sorted(files.listdir("folder")) == ["link", "moved"]
        with files.open("folder/link", "r+") as handle:
            handle.seek(1_000_000)
            handle.write(b"here")
            handle.seek(999_999)
            assert handle.read(6) == data[999_999:1_000_000] + b"here" + data[1_000_004:1_000_005]
            handle.truncate(10)
        assert files.stat("folder/moved").st_size == 10
        for name in ["link", "moved"]:
            files.remove(f"folder/{name}")
        files.rmdir("folder")
        try:
            files.stat("folder")
            raise AssertionError("a removed folder is there")
        except FileNotFoundError:
            pass
        try:
            files.open("/etc/shadow")
            raise AssertionError("boxuser reads /etc/shadow")
        except PermissionError:
            pass


def forwards(client):
    transport = client.get_transport()
    channel = transport.open_channel("direct-tcpip", ("127.0.0.1", 8000), ("127.0.0.1", 1), timeout=30)
    channel.sendall(b"GET / HTTP/1.0\r\n\r\n")
    assert channel.makefile().read().endswith(b"from the box\n")
    try:
        transport.open_channel("direct-tcpip", ("127.0.0.1", 9), ("127.0.0.1", 1), timeout=30)
        raise AssertionError("a closed port is open")
    except paramiko.ChannelException:
        pass
    port = transport.request_port_forward("127.0.0.1", 0)
    served = threading.Thread(target=lambda: transport.accept(30).sendall(b"from the user\n"))
    served.start()
    _, out, _ = client.exec_command(f"exec 3<>/dev/tcp/127.0.0.1/{port}; head -n 1 <&3")
    assert out.read() == b"from the user\n"
    served.join()
    transport.cancel_port_forward("127.0.0.1", port)


def many(client):
    """As many channels at once as a busy editor has, each with its own output."""
    opened = [client.exec_command(f"read line; echo {number} $line") for number in range(30)]
    for stdin, _, _ in reversed(opened):
        stdin.write("asked\n")
        stdin.flush()
    for number, (_, out, _) in enumerate(opened):
        assert out.read() == f"{number} asked\n".encode()


with connect(password=os.environ["PASSWORD"]) as client:
    client.get_transport().set_keepalive(1)
    for part in [commands, shell, sftp, forwards, many]:
        part(client)
        print(f"paramiko: {part.__name__}", flush=True)
# New keys in the middle of a connection; of a quiet one, since paramiko locks itself up when a channel is closed meanwhile.
with connect(password=os.environ["PASSWORD"]) as client:
    client.get_transport().renegotiate_keys()
    commands(client)
with connect(key_filename=os.environ["KEY_FILE"]) as client:
    commands(client)
try:
    connect(password="box_wrong")
    raise AssertionError("a wrong password opens")
except paramiko.AuthenticationException:
    pass
print("paramiko: good")
