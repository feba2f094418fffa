"""What programs do that use asyncssh, which tells more than others: exit signals, breaks, many things at once.

HOST, PORT, BOX, PASSWORD, KEY_FILE, HOST_KEY are in the environment. The port 8000 of the box's loopback has a web server.
"""

import asyncio
import os

import asyncssh

HOST, PORT, BOX = os.environ["HOST"], int(os.environ["PORT"]), os.environ["BOX"]
KNOWN = asyncssh.import_known_hosts(f"[{HOST}]:{PORT} {os.environ['HOST_KEY']}\n")


def connect(**how):
    if "password" in how:
        how["client_keys"] = None
    return asyncssh.connect(
        HOST, PORT, username=BOX, known_hosts=KNOWN, agent_path=None, config=None, connect_timeout=30, **how
    )


async def ends(connection):
    result = await connection.run("exit 42")
    assert (result.exit_status, result.exit_signal) == (42, None)
    for signal in ["TERM", "KILL", "SEGV", "ABRT"]:
        result = await connection.run(f"ulimit -c 0; kill -{signal} $$; exit 3")
        assert result.exit_signal and result.exit_signal[0] == signal, (signal, result.exit_signal, result.exit_status)


async def signals(connection):
    """Signals go to the command that runs, also when it is not the shell itself and when there is no terminal."""
    for signal in ["INT", "USR1", "HUP"]:
        process = await connection.create_process(f"trap 'echo caught; exit 9' {signal}; echo ready; while :; do sleep 0.05; done")
        assert await process.stdout.readline() == "ready\n"
        process.send_signal(signal)
        assert await process.stdout.readline() == "caught\n", signal
        await process.wait()
        assert process.exit_status == 9, (signal, process.exit_status)
    process = await connection.create_process("echo ready; exec sleep 4761")
    assert await process.stdout.readline() == "ready\n"
    process.terminate()
    await process.wait()
    assert process.exit_signal[0] == "TERM", process.exit_signal
    # Input that nobody reads must not keep a signal away.
    process = await connection.create_process("echo ready; exec sleep 4762", encoding=None)
    assert await process.stdout.readline() == b"ready\n"
    process.stdin.write(bytes(20_000_000))
    process.kill()
    await process.wait()
    assert process.exit_signal[0] == "KILL", process.exit_signal


async def terminal(connection):
    process = await connection.create_process(term_type="vt100", term_size=(100, 30), encoding="utf-8")
    process.stdin.write("stty -echo; echo \"size $(stty size) $TERM\"\n")
    heard = ""
    while "size 30 100 vt100" not in heard:
        part = await process.stdout.read(4096)
        assert part, heard
        heard += part
    process.change_terminal_size(50, 20)
    process.stdin.write("until [ \"$(stty size)\" = '20 50' ]; do :; done; exit 5\n")
    await process.wait()
    assert process.exit_status == 5


async def files(connection):
    async with connection.start_sftp_client() as sftp:
        data = os.urandom(8_000_003)
        async with sftp.open("random", "wb") as handle:
            await handle.write(data)
        async with sftp.open("random", "rb") as handle:
            assert await handle.read() == data
        await sftp.posix_rename("random", "other")
        await sftp.link("other", "hard")
        assert (await sftp.stat("hard")).nlink in (None, 2)
        space = await sftp.statvfs(".")
        assert space.bsize > 0 and space.blocks > 0
        assert await sftp.realpath(".") == "/workspace/home"
        await sftp.setstat("other", asyncssh.SFTPAttrs(permissions=0o600, atime=1_000_000_000, mtime=1_000_000_001))
        attributes = await sftp.stat("other")
        assert attributes.mtime == 1_000_000_001 and attributes.permissions & 0o777 == 0o600
        # Thousands of names in one folder.
        await connection.run("mkdir many; cd many; seq 3000 | xargs touch", check=True)
        assert len(await sftp.listdir("many")) == 3002
        await sftp.rmtree("many")
        for name in ["other", "hard"]:
            await sftp.remove(name)
        try:
            await sftp.remove("other")
            raise AssertionError("a removed file is there")
        except asyncssh.SFTPNoSuchFile:
            pass


async def sockets(connection):
    reader, writer = await connection.open_connection("localhost", 8000)
    writer.write(b"GET / HTTP/1.0\r\n\r\n")
    writer.write_eof()
    assert (await reader.read()).endswith(b"from the box\n")

    async def serve(reader, writer):
        writer.write(b"hello " + await reader.readline())
        writer.close()

    async def accepted(host, port):
        return serve

    listener = await connection.start_server(lambda host, port: serve, "127.0.0.1", 0, encoding=None)
    result = await connection.run(f"exec 3<>/dev/tcp/127.0.0.1/{listener.get_port()}; echo you >&3; cat <&3", check=True)
    assert result.stdout == "hello you\n", result.stdout
    listener.close()
    await listener.wait_closed()
    listener = await connection.start_unix_server(lambda: serve, "/tmp/asyncssh.sock", encoding=None)
    script = "import socket; s = socket.socket(socket.AF_UNIX); s.connect('/tmp/asyncssh.sock'); s.sendall(b'you\\n'); print(s.recv(99).decode(), end='')"
    result = await connection.run(f'python3 -c "{script}"', check=True)
    assert result.stdout == "hello you\n", result.stdout
    listener.close()
    await listener.wait_closed()


async def at_once(connection):
    """Many channels, some of which carry much in both directions."""
    data = os.urandom(1_000_000)

    async def echo(number):
        result = await connection.run("cat", input=data, encoding=None)
        assert result.stdout == data, number

    await asyncio.gather(*[echo(number) for number in range(20)])


async def main():
    async with connect(password=os.environ["PASSWORD"], keepalive_interval=1) as connection:
        for part in [ends, signals, terminal, files, sockets, at_once]:
            await asyncio.wait_for(part(connection), 60)
            print(f"asyncssh: {part.__name__}", flush=True)
    # New keys after every megabyte.
    async with connect(password=os.environ["PASSWORD"], rekey_bytes=1_000_000) as connection:
        await asyncio.wait_for(at_once(connection), 60)
    # Whatever both know, one by one.
    for cipher in ["aes256-gcm@openssh.com", "aes128-gcm@openssh.com", "chacha20-poly1305@openssh.com", "aes128-ctr"]:
        async with connect(password=os.environ["PASSWORD"], encryption_algs=[cipher]) as connection:
            assert connection.get_extra_info("send_cipher") == cipher
            assert (await connection.run("echo works")).stdout == "works\n"
    async with connect(client_keys=[os.environ["KEY_FILE"]]) as connection:
        assert (await connection.run("echo works")).stdout == "works\n"
    try:
        async with connect(password="box_wrong"):
            raise AssertionError("a wrong password opens")
    except asyncssh.PermissionDenied:
        pass
    print("asyncssh: good")


asyncio.run(main())
