"""Commands and code."""

from session import equal, make_box, refused, session


@session("output is exact to the byte, standard error apart, exit codes come through")
def _() -> None:
    box = make_box()
    run = box.exec.command("printf abc")
    equal((run.result, run.stdout, run.stderr, run.exit_code, run.status), ("abc", "abc", "", 0, "completed"))
    run = box.exec.command("echo out; echo err >&2; exit 7")
    equal((run.result, run.stdout, run.stderr, run.exit_code, run.status), ("err\n", "out\n", "err\n", 7, "failed"))
    equal(box.exec.command("kill -9 $$").exit_code, 137)


@session("cd changes the folder of what follows")
def _() -> None:
    box = make_box()
    box.exec.command("mkdir -p project/src")
    box.cd("project/src")
    equal(box.exec.command("pwd").result, "/workspace/home/project/src\n")
    box.cd("/usr/share")
    equal(box.exec.command("pwd").result, "/usr/share\n")
    assert "No such file" in str(refused(lambda: box.cd("/no/such/folder")))


@session("a server left in the background does not hold the call and goes on")
def _() -> None:
    box = make_box()
    pid = box.exec.command("nohup sleep 4711 > /dev/null 2>&1 & echo $!").result.strip()
    equal(box.exec.command(f"kill -0 {pid}").exit_code, 0)


@session("JavaScript, TypeScript and Python run; an uncaught error fails the run")
def _() -> None:
    box = make_box()
    equal(box.exec.code(code="console.log(6 * 7)", lang="js").result, "42\n")
    equal(box.exec.code(code="const n: number = 42; console.log(n)", lang="ts").result, "42\n")
    equal(box.exec.code(code="print(6 * 7)", lang="python").result, "42\n")
    run = box.exec.code(code="raise ValueError('went wrong')", lang="python")
    equal(run.exit_code, 1)
    assert "went wrong" in run.stderr, run.stderr


@session("code longer than its timeout ends with 124 and says why")
def _() -> None:
    box = make_box()
    run = box.exec.code(code="while True: pass", lang="python", timeout=2000)
    equal(run.exit_code, 124)
    assert "time" in run.stderr.lower(), run.stderr
