"""Pausing and resuming, init commands, ephemeral boxes."""

import time

from upstash_box import BoxError, EphemeralBox

from session import equal, make_box, refused, session


@session("a paused box says so, and goes on when it is resumed")
def _() -> None:
    box = make_box()
    box.exec.command("echo kept > file")
    box.pause()
    equal(box.get_status()["status"], "paused")
    box.resume()
    equal(box.get_status()["status"], "idle")
    equal(box.exec.command("cat file").result, "kept\n")


@session("the next command resumes a paused box")
def _() -> None:
    box = make_box()
    box.pause()
    equal(box.exec.command("echo awake").result, "awake\n")


@session("an init command can be given without keep_alive, read, changed and deleted")
def _() -> None:
    box = make_box(init_command="echo started > started")
    equal(box.get_init_command(), "echo started > started")
    box.set_init_command("true")
    equal(box.get_init_command(), "true")
    box.delete_init_command()
    equal(box.get_init_command(), "")
    waited = box.exec.command("until [ -e started ]; do sleep 0.05; done; cat started")
    equal(waited.result, "started\n")


@session("a keep-alive box is not paused")
def _() -> None:
    box = make_box(keep_alive=True)
    assert box.keep_alive
    refused(box.pause)
    equal(box.get_status()["status"], "idle")


@session("an ephemeral box is ready at once and knows when it ends")
def _() -> None:
    before = time.time()
    box = EphemeralBox.create(ttl=60)
    try:
        left = box.expires_at / (1000 if box.expires_at > 1e11 else 1) - before
        assert 50 < left < 80, left
        equal(box.exec.command("echo hello").result, "hello\n")
    finally:
        box.delete()
    try:
        EphemeralBox.create(ttl=259201)
    except (BoxError, ValueError):
        return
    raise AssertionError("a ttl of more than three days was taken")
