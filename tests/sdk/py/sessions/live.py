"""Live sessions: programs with live input and output over a WebSocket."""

import contextlib
import threading
from typing import Any, Iterator

from session import equal, make_box, refused, session


class Heard:
    """What a session has said so far, and a way to wait for more of it."""

    def __init__(self) -> None:
        self.bytes = b""
        self._more = threading.Condition()

    def __call__(self, data: bytes) -> None:
        with self._more:
            self.bytes += data
            self._more.notify_all()

    def wait_for(self, text: bytes) -> bytes:
        with self._more:
            if not self._more.wait_for(lambda: text in self.bytes, timeout=30):
                raise AssertionError(f"{text!r} has not come; there was {self.bytes!r}")
            return self.bytes


@contextlib.contextmanager
def live(box: Any, **how: Any) -> Iterator[Any]:
    """A session whose output is heard: `handle.out` and `handle.err`."""
    out, err = Heard(), Heard()
    handle = box.exec.session(on_stdout=out, on_stderr=err, **how)
    handle.out, handle.err = out, err
    try:
        yield handle
    finally:
        handle.close()


def gone(box: Any, pid: int) -> None:
    """Waits in the box until a process is gone."""
    run = box.exec.command(f"timeout 20 sh -c 'while [ -d /proc/{pid} ]; do sleep 0.05; done'")
    equal(run.exit_code, 0, f"process {pid} is still there")


@session("a session keeps its outputs apart and tells the exact exit code")
def _() -> None:
    box = make_box()
    with live(box, cmd="echo out; echo err >&2; exit 42") as handle:
        equal(handle.wait(), 42)
        equal((handle.out.bytes, handle.err.bytes), (b"out\n", b"err\n"))
        assert handle.pid > 0 and handle.exec_id


@session("argv is not expanded, and cmd is read by a login shell")
def _() -> None:
    box = make_box()
    with live(box, argv=["printf", "%s", "$HOME; rm -rf /"]) as handle:
        equal((handle.wait(), handle.out.bytes), (0, b"$HOME; rm -rf /"))
    with live(box, cmd="shopt -q login_shell && echo $HOME") as handle:
        equal((handle.wait(), handle.out.bytes), (0, b"/home/boxuser\n"))


@session("input goes in piece by piece until it is closed")
def _() -> None:
    box = make_box()
    with live(box, argv=["sort"]) as handle:
        for line in (b"b\n", "c\n", b"a\n"):
            handle.write(line)
        handle.end_stdin()
        equal((handle.wait(), handle.out.bytes), (0, b"a\nb\nc\n"))
    with live(box, argv=["sha256sum"]) as handle:
        for _ in range(64):
            handle.write(b"\0" * (1 << 20))
        handle.end_stdin()
        equal(handle.wait(), 0)
        expected = b"3b6a07d0d404fab4e23b6d34bc6696a6a312dd92821332385e5af7c01c421351"
        equal(handle.out.bytes.split()[0], expected, "sum of 64 MiB of zeros")


@session("a terminal is one, of the right size from the first look, and can be resized")
def _() -> None:
    box = make_box()
    with live(box, cmd="tty; stty size; read line; echo got $line; stty size", tty=True, rows=24, cols=80) as handle:
        handle.out.wait_for(b"24 80")
        assert b"/dev/pts/" in handle.out.bytes
        handle.resize(50, 132)
        handle.write("hello\n")
        equal(handle.wait(), 0)
        assert b"got hello" in handle.out.bytes and b"50 132" in handle.out.bytes, handle.out.bytes
        equal(handle.err.bytes, b"")
    with live(box, argv=["cat"], tty=True) as handle:
        handle.write("x\n")
        handle.out.wait_for(b"x\r\nx")
        handle.end_stdin()
        equal(handle.wait(), 0)


@session("a signal reaches the whole process tree")
def _() -> None:
    box = make_box()
    with live(box, cmd="sleep 4711 & sleep 4712 & echo ready; wait") as handle:
        handle.out.wait_for(b"ready")
        handle.kill("TERM")
        assert handle.wait() != 0
    equal(box.exec.command("timeout 20 sh -c 'while pgrep -f \"^sleep 471\" > /dev/null; do sleep 0.05; done'").exit_code, 0)
    with live(box, cmd="trap 'echo hup; exit 5' HUP; echo ready; while :; do sleep 0.05; done") as handle:
        handle.out.wait_for(b"ready")
        handle.kill("HUP")
        equal((handle.wait(), handle.out.bytes), (5, b"ready\nhup\n"))


@session("terminate ends what does not want to, even when it is stuck in its input")
def _() -> None:
    box = make_box()
    with live(box, argv=["sleep", "300"]) as handle:
        handle.terminate(1000)
        equal(handle.wait(), 143)
    with live(box, cmd="trap '' TERM; echo ready; while :; do sleep 0.05; done") as handle:
        handle.out.wait_for(b"ready")
        handle.terminate(200)
        equal(handle.wait(), 137)
    with live(box, cmd="echo ready; exec sleep 300") as handle:
        handle.out.wait_for(b"ready")
        handle.write(b"x" * (600 * 1024))
        handle.terminate(1000)
        equal(handle.wait(), 143)


@session("closing a session ends its processes, whatever they ignore and wherever they are")
def _() -> None:
    box = make_box()
    handle = box.exec.session(argv=["sleep", "300"])
    handle.close()
    gone(box, handle.pid)
    out = Heard()
    handle = box.exec.session(cmd="trap '' TERM HUP; setsid sleep 4713 & echo $! ready; wait", on_stdout=out)
    child = int(out.wait_for(b"ready").split()[0])
    handle.close()
    gone(box, handle.pid)
    gone(box, child)


@session("a session that is closed while its program reads nothing ends too")
def _() -> None:
    box = make_box()
    out = Heard()
    handle = box.exec.session(cmd="echo ready; exec sleep 300", on_stdout=out)
    out.wait_for(b"ready")
    # More than the server and the box hold: the rest stays in the connection.
    sending = threading.Thread(target=_flood, args=(handle,), daemon=True)
    sending.start()
    equal(box.exec.command("true").exit_code, 0)
    handle._conn.socket.shutdown(2)
    gone(box, handle.pid)
    sending.join(timeout=30)
    assert not sending.is_alive()


def _flood(handle: Any) -> None:
    with contextlib.suppress(Exception):
        for _ in range(64):
            handle.write(b"x" * (1 << 20))


@session("several sessions at once do not mix, and leave nothing to each other")
def _() -> None:
    box = make_box()
    with contextlib.ExitStack() as stack:
        handles = [
            stack.enter_context(live(box, cmd="read line; echo $line $MINE", env=[f"MINE={n}"])) for n in range(4)
        ]
        for n, handle in enumerate(handles):
            handle.write(f"to-{n}\n")
        for n, handle in enumerate(handles):
            equal((handle.wait(), handle.out.bytes), (0, f"to-{n} {n}\n".encode()))
    with live(box, cmd='echo "<$MINE>"') as handle:
        equal((handle.wait(), handle.out.bytes), (0, b"<>\n"))


@session("a session has the box's variables under its own, without the blocked ones")
def _() -> None:
    box = make_box(env={"FROM_BOX": "box", "BOTH": "box"})
    env = ["BOTH=session", "LD_PRELOAD=/nowhere.so", "EMPTY="]
    with live(box, argv=["sh", "-c", "echo $FROM_BOX $BOTH ${LD_PRELOAD-none} ${EMPTY-unset}."], env=env) as handle:
        equal((handle.wait(), handle.out.bytes), (0, b"box session none .\n"))


@session("a session works where the client is")
def _() -> None:
    box = make_box()
    box.exec.command("mkdir -p deep/er")
    box.cd("deep")
    with live(box, cmd="pwd; echo text > er/file") as handle:
        equal((handle.wait(), handle.out.bytes), (0, b"/workspace/home/deep\n"))
    equal(box.exec.command("cat er/file").result.strip(), "text")
    with live(box, cmd="pwd", cwd="er") as handle:
        equal((handle.wait(), handle.out.bytes), (0, b"/workspace/home/deep/er\n"))


@session("what cannot be started is said to be so")
def _() -> None:
    box = make_box()
    error = refused(lambda: box.exec.session(cmd="true", cwd="/nowhere"))
    assert "/nowhere" in str(error), error
    error = refused(lambda: box.exec.session(argv=["a\0b"]))
    assert "NUL" in str(error), error


@session("much output comes whole and in order")
def _() -> None:
    box = make_box()
    with live(box, cmd="seq 1 300000; echo last >&2") as handle:
        equal(handle.wait(), 0)
        equal(handle.out.bytes, b"".join(b"%d\n" % n for n in range(1, 300001)))
        equal(handle.err.bytes, b"last\n")


@session("an open session holds the box, and a paused box closes it with a word")
def _() -> None:
    box = make_box()
    with live(box, argv=["cat"]) as handle:
        equal(box.get_status()["status"], "running")
        box.pause()
        equal(handle.wait(), -1)
    with live(box, cmd="echo again") as handle:
        equal((handle.wait(), handle.out.bytes), (0, b"again\n"))
