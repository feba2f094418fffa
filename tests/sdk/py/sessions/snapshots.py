"""Snapshots: save, list, delete, and boxes made from them."""

from upstash_box import Box

from session import adopt, call, equal, make_box, refused, session


@session("a snapshot outlives its box, and boxes made from it do not see each other")
def _() -> None:
    box = make_box(env={"KEPT": "source", "CHANGED": "source"})
    box.exec.command("echo kept > note")
    snapshot = box.snapshot(name="first")
    equal((snapshot.status, snapshot.name, snapshot.box_id), ("ready", "first", box.id))
    assert snapshot.size_bytes > 0, snapshot
    equal([row.id for row in box.list_snapshots()], [snapshot.id])
    box.exec.command("echo later > note")
    box.delete()

    first = adopt(Box.from_snapshot(snapshot.id, env={"CHANGED": "given"}))
    second = adopt(Box.from_snapshot(snapshot.id))
    equal(first.exec.command('cat note; echo "$KEPT $CHANGED"').result, "kept\nsource given\n")
    first.exec.command("echo first > note")
    equal(second.exec.command('cat note; echo "$KEPT $CHANGED"').result, "kept\nsource source\n")
    equal(Box.delete_snapshots(snapshot_ids=snapshot.id), {"deleted": 1})
    equal(second.exec.command("cat note").result, "kept\n")
    equal(refused(lambda: Box.from_snapshot(snapshot.id)).status_code, 404)


@session("snapshots are deleted one, some and all")
def _() -> None:
    box = make_box()
    made = [box.snapshot(name=name) for name in "abcd"]
    box.delete_snapshot(made[0].id)
    equal(sorted(row.id for row in box.list_snapshots()), sorted(row.id for row in made[1:]))
    equal(Box.delete_snapshots(snapshot_ids=[made[1].id, made[2].id]), {"deleted": 2})
    assert Box.delete_snapshots()["deleted"] >= 1
    equal(box.list_snapshots(), [])
    equal(call("GET", "/v2/box/snapshots"), (200, {"snapshots": []}))
