"""Streams of commands and code."""

from upstash_box import AsyncBox

from session import equal, make_box, session


def drain(run):
    """Reads a stream to its end: all output, and the exit chunk, if one came."""
    output, end = "", None
    for chunk in run:
        if chunk.type == "output":
            output += chunk.data
        else:
            end = chunk
    return output, end


@session("output arrives while the command still runs")
def _() -> None:
    box = make_box()
    box.exec.command("mkfifo go")
    seen, released = "", False
    run = box.exec.stream("echo first; cat go; echo last")
    for chunk in run:
        if chunk.type != "output":
            continue
        seen += chunk.data
        # The command can go on only because this chunk came before its end.
        if not released and "first" in seen:
            released = True
            box.exec.command("echo middle > go")
    equal(seen.rstrip("\n"), "first\nmiddle\nlast")
    equal((run.exit_code, run.status), (0, "completed"))


@session("one hundred short streams all end with their exit chunk")
def _() -> None:
    box = make_box()
    for n in range(100):
        output, end = drain(box.exec.stream(f"echo {n}; exit {n}"))
        assert end is not None, f"stream {n} had no exit chunk; its output was {output!r}"
        equal((output.rstrip("\n"), end.exit_code), (str(n), n))


@session("code streams too")
def _() -> None:
    box = make_box()
    output, end = drain(box.exec.stream_code(code="print('py'); raise SystemExit(4)", lang="python"))
    equal((output.rstrip("\n"), end and end.exit_code), ("py", 4))


@session("the asynchronous client works the same")
def _() -> None:
    import asyncio

    async def go(box_id: str) -> list[str]:
        box = await AsyncBox.get(box_id)
        runs = await asyncio.gather(*(box.exec.command(f"echo {n}") for n in range(10)))
        return [run.result for run in runs]

    equal(asyncio.run(go(make_box().id)), [f"{n}\n" for n in range(10)])
