"""Files: written and read whole and in part, listed, looked at, changed, sent both ways."""

import contextlib
import os
import re
import tempfile
from typing import Any, Iterator

from session import call, equal, make_box, refused, session

_SHARED: list[Any] = []


def box() -> Any:
    if not _SHARED:
        _SHARED.append(make_box())
    return _SHARED[0]


@contextlib.contextmanager
def elsewhere() -> Iterator[str]:
    """A folder of this host that is the current one: the SDK downloads into that."""
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield folder
        finally:
            os.chdir(before)


@session("what is written is read, in folders that were not there")
def _() -> None:
    here = box()
    here.files.write(path="data/config.json", content="line1\nline2")
    equal(here.files.read("data/config.json"), "line1\nline2")
    equal(here.files.read("/workspace/home/./data/config.json"), "line1\nline2")
    here.files.write(path="hello", content="aGVsbG8=", encoding="base64")
    equal(here.files.read("hello"), "hello")
    equal(here.files.read("hello", encoding="base64"), "aGVsbG8=")
    here.files.write(path="empty", content="")
    equal(here.files.read("empty"), "")
    here.files.write(path="ünï 😀/ä b.txt", content="ü€😀\0\"\\")
    equal(here.files.read("ünï 😀/ä b.txt"), "ü€😀\0\"\\")
    long = "0123456789abcdef" * 500_000
    here.files.write(path="long", content=long)
    assert here.files.read("long") == long


@session("files and commands see the same")
def _() -> None:
    here = box()
    here.files.write(path="from-api", content="by the API")
    run = here.exec.command("cat from-api; stat -c ' %U %a' from-api")
    equal(run.result, "by the API boxuser 644\n")
    here.exec.command("printf 'by a command' > from-exec; chmod 750 from-exec")
    equal(here.files.read("from-exec"), "by a command")
    here.files.write(path="from-exec", content="again")
    equal(here.exec.command("stat -c %a from-exec").result, "750\n", "it keeps its mode")


@session("a range is read when a length is given, even 0")
def _() -> None:
    here = box()
    here.files.write(path="digits", content="0123456789")
    equal(here.files.read("digits", offset=2, length=3), "234")
    equal(here.files.read("digits", length=4), "0123")
    equal(here.files.read("digits", length=0), "")
    equal(here.files.read("digits", offset=8, length=100), "89")
    equal(here.files.read("digits", offset=100, length=1), "")
    equal(here.files.read("digits", offset=8, length=2, encoding="base64"), "ODk=")
    equal(refused(lambda: here.files.read("digits", length=8 * 1024 * 1024 + 1)).status_code, 400)
    here.exec.command("head -c 9000000 /dev/zero > zeros")
    equal(here.files.read("zeros", offset=1, length=8 * 1024 * 1024), "\0" * (8 * 1024 * 1024))


@session("folders are listed, without what is below them, and a file has no entries")
def _() -> None:
    here = make_box()
    here.files.write(path="sub/inner/x", content="x")
    here.files.write(path="sub/b.txt", content="bb")
    here.exec.command("ln -s b.txt sub/link; ln -s inner sub/to-folder; ln -s nowhere sub/broken; touch sub/.hidden")
    files = {file.name: file for file in here.files.list("sub")}
    equal(sorted(files), [".hidden", "b.txt", "broken", "inner", "link", "to-folder"])
    equal((files["b.txt"].size, files["b.txt"].is_dir, files["b.txt"].path), (2, False, "/workspace/home/sub/b.txt"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", files["b.txt"].mod_time), files["b.txt"].mod_time
    equal((files["link"].size, files["to-folder"].is_dir, files["broken"].is_dir), (2, True, False))
    equal(here.files.list("sub/b.txt"), [])
    here.exec.command("mkdir none")
    equal(here.files.list("none"), [])
    assert "sub" in [file.name for file in here.files.list()]
    here.cd("sub")
    equal([file.name for file in here.files.list("inner")], ["x"])
    assert "b.txt" in [file.name for file in here.files.list()]
    equal(refused(lambda: here.files.list("nowhere")).status_code, 404)


@session("paths are looked at, links as links or as what they lead to")
def _() -> None:
    here = make_box()
    here.files.write(path="a", content="12345")
    here.exec.command("ln -s a link; mkfifo pipe; mkdir d; ln -s nowhere broken")
    stat = here.files.stat("a")
    equal((stat.type, stat.size), ("file", 5))
    equal(stat.inode, int(here.exec.command("stat -c %i a").result))
    equal(here.files.stat("link").type, "symlink")
    equal(here.files.stat("link", follow=True).version, stat.version)
    equal((here.files.stat("d").type, here.files.stat("pipe").type), ("directory", "other"))
    equal(here.files.stat("broken").type, "symlink")
    equal(refused(lambda: here.files.stat("broken", follow=True)).status_code, 404)
    here.files.write(path="a", content="54321")
    assert here.files.stat("a").version != stat.version
    assert here.files.stat("a").version == here.files.stat("a").version


@session("folders are made, things renamed and removed")
def _() -> None:
    here = make_box()
    here.files.mkdir("d")
    equal(refused(lambda: here.files.mkdir("d")).status_code, 409)
    equal(refused(lambda: here.files.mkdir("x/y/z")).status_code, 404)
    here.files.mkdir("x/y/z", parents=True)
    here.files.mkdir("x/y/z", parents=True)
    here.files.write(path="a", content="A")
    here.files.rename("a", "d/b")
    equal(here.files.read("d/b"), "A")
    here.files.write(path="c", content="C")
    here.files.rename("c", "d/b")
    equal(here.files.read("d/b"), "C")
    equal(refused(lambda: here.files.rename("a", "e")).status_code, 404)
    equal(refused(lambda: here.files.rename("d", "d/inside")).status_code, 400)
    equal(refused(lambda: here.files.remove("d")).status_code, 400, "a folder without recursive")
    here.files.remove("d", recursive=True)
    equal(refused(lambda: here.files.remove("d", recursive=True)).status_code, 404)
    here.exec.command("ln -s x link")
    here.files.remove("link")
    equal(here.files.stat("x").type, "directory", "the link went, not what it leads to")


@session("what is not there is 404, what may not be touched says permission denied")
def _() -> None:
    here = box()
    for body in (lambda: here.files.read("nowhere"), lambda: here.files.stat("nowhere"), lambda: here.files.remove("nowhere")):
        equal(refused(body).status_code, 404)
    here.exec.command("ln -s /etc outside; ln -s /etc/passwd passwd; mkdir locked; sudo chown root locked; sudo chmod 700 locked")
    for path in ("/workspace/x", "/etc/x", "/tmp/x", "../x", "outside/x", "passwd", "locked/x"):
        error = refused(lambda path=path: here.files.write(path=path, content="x"))
        assert error.status_code == 403 and "permission denied" in str(error), f"{path}: {error}"
    for path in ("/etc/passwd", "../../etc/passwd", "passwd", "outside/passwd"):
        equal(refused(lambda path=path: here.files.read(path)).status_code, 403, path)
    here.files.write(path="/home/boxuser/mine", content="also a place for files")
    equal(here.exec.command("cat ~/mine").result, "also a place for files")
    here.exec.command("mkfifo fifo")
    equal(refused(lambda: here.files.read("fifo")).status_code, 400)
    equal(refused(lambda: here.files.read("locked/x")).status_code, 403)
    equal(refused(lambda: here.files.read(".")).status_code, 400)


@session("files go up and down as they are, many at once")
def _() -> None:
    here = make_box()
    with elsewhere():
        contents = {"a.bin": bytes(range(256)) * 4000, "ä ö.txt": "ü".encode(), "none": b"", "n.csv": b"\r\n--\r\n"}
        for name, content in contents.items():
            with open(name, "wb") as file:
                file.write(content)
        here.files.upload([{"path": name, "destination": f"up/deep/{name}"} for name in contents])
        equal(here.exec.command("cd up/deep && sha256sum * | wc -l").result, "4\n")
        here.exec.command("mkdir up/deep/folder")
        here.files.download(folder="up/deep")
        for name, content in contents.items():
            with open(f"deep/{name}", "rb") as file:
                assert file.read() == content, name
        equal(sorted(os.listdir("deep")), sorted(contents))
        error = refused(lambda: here.files.upload([{"path": "none", "destination": "/etc/x"}]))
        assert error.status_code == 403 and "permission denied" in str(error), error


@session("beyond the SDK: chmod, search, archives of folders")
def _() -> None:
    here = make_box()
    here.files.write(path="src/main.py", content="import os\nprint('needle')\n")
    equal(call("POST", f"/v2/box/{here.id}/files/chmod", {"path": "src/main.py", "mode": "0755"})[0], 200)
    equal(here.exec.command("stat -c %a src/main.py").result, "755\n")
    status, found = call("GET", f"/v2/box/{here.id}/files/search?content=needle&name=*.py")
    expected = [{"path": "/workspace/home/src/main.py", "type": "file", "line": 2, "text": "print('needle')"}]
    equal((status, found["matches"]), (200, expected))
    status, found = call("GET", f"/v2/box/{here.id}/files/search?content=need.e%24&regex=1&path=src")
    equal((status, found["matches"]), (200, []))


@session("a paused box is resumed for its files")
def _() -> None:
    here = make_box()
    here.files.write(path="a", content="kept")
    here.pause()
    equal(here.files.read("a"), "kept")
