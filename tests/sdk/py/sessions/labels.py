"""Labels of a box."""

import uuid

from upstash_box import Box

from session import equal, make_box, refused, session


@session("labels are added, listed and removed in the order they came")
def _() -> None:
    first, second = (f"t:{uuid.uuid4().hex[:10]}" for _ in range(2))
    box = make_box(labels=[first])
    equal(box.labels.add(second), [first, second])
    equal([record.id for record in Box.list(label=second)], [box.id])
    equal(box.labels.remove(first), [second])
    equal(box.labels.list(), [second])
    equal(refused(lambda: box.labels.add(second)).status_code, 409)
