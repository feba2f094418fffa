"""Runs and logs."""

from upstash_box import Run

from session import call, equal, make_box, session

KEYS = """box_id completed_at compute_cost_usd cost_usd cpu_ns created_at customer_id duration_ms id input_tokens
output_tokens prompt status type""".split()


@session("a finished command is recorded with exactly the keys of the real service")
def _() -> None:
    box = make_box()
    box.exec.command("echo warmup")
    _, body = call("GET", f"/v2/box/{box.id}/runs")
    equal(sorted(body["runs"][0]), KEYS)
    [run] = box.list_runs()
    equal((run.type, run.status, run.prompt, run.box_id), ("shell", "completed", "sh -c echo warmup", box.id))


@session("a running command is in the list and can be cancelled from elsewhere")
def _() -> None:
    box = make_box()
    cancelled = False
    for chunk in box.exec.stream("sleep 4714 & echo started; wait"):
        if chunk.type != "output" or cancelled or "started" not in chunk.data:
            continue
        [running] = [run for run in box.list_runs() if run.status == "running"]
        Run(box, "command", running.id).cancel()
        cancelled = True
    assert cancelled
    equal(box.list_runs()[0].status, "cancelled")
    equal(box.exec.command("pgrep -x sleep").result, "")


@session("a log entry has exactly four keys, and a run finds its own")
def _() -> None:
    box = make_box()
    # A stream, because the SDK dates the run of a command from its end, which may be a second later than its entry.
    run = box.exec.stream("echo logged")
    list(run)
    _, body = call("GET", f"/v2/box/{box.id}/logs")
    for entry in body["logs"]:
        equal(sorted(entry), ["level", "message", "source", "timestamp"])
    assert {"system", "user"} <= {entry.source for entry in box.logs()}
    assert run.logs()
    equal([entry.message for entry in box.logs(offset=1, limit=1)], [box.logs()[1].message])
