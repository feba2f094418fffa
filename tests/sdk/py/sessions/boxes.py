"""Boxes: create, get, list, delete."""

import re
import time
import uuid

from upstash_box import Box

from session import call, equal, make_box, refused, session


@session("a box is usable as soon as create returns")
def _() -> None:
    box = make_box()
    assert re.fullmatch(r"[a-z]+-[a-z]+-[0-9]{5}", box.id), box.id
    equal(box.get_status()["status"], "idle")
    equal(box.exec.command("echo hello").result, "hello\n")


@session("a named box is found by its name, and its record is the same")
def _() -> None:
    name = f"worker-{uuid.uuid4().hex[:8]}"
    box = make_box(name=name, size="medium")
    equal(Box.get_by_name(name).id, box.id)
    [record] = [record for record in Box.list() if record.id == box.id]
    equal((record.name, record.size, record.status), (name, "medium", "idle"))
    assert abs(record.created_at - time.time()) < 3600, record.created_at


@session("every variable given at create reaches shell and code, the empty one too")
def _() -> None:
    box = make_box(env={"GREETING": "good morning", "EMPTY_VAR": ""})
    equal(box.exec.command('printf %s "$GREETING"').result, "good morning")
    equal(box.exec.command('printf %s "${EMPTY_VAR-unset}/${EMPTY_VAR+set}"').result, "/set")
    code = "import os; print(os.environ['GREETING'], repr(os.environ['EMPTY_VAR']))"
    equal(box.exec.code(code=code, lang="python").result, "good morning ''\n")


@session("a deleted box is gone from the list, resolves as deleted, and does nothing more")
def _() -> None:
    box = make_box()
    box.delete()
    assert all(record.id != box.id for record in Box.list())
    equal(call("GET", f"/v2/box/{box.id}")[1]["status"], "deleted")
    again = Box.get(box.id)
    equal(refused(lambda: again.exec.command("true")).status_code, 404)


@session("several boxes are deleted by one call, within the client's five seconds")
def _() -> None:
    ids = [make_box().id for _ in range(5)]
    Box.delete_boxes(box_ids=ids)
    left = {record.id for record in Box.list()}
    equal([box for box in ids if box in left], [])
