"""The few lines of test runner that the sessions need; the twin of ../ts/session.mjs."""

import json
import os
import sys
import traceback
from typing import Any, Callable

import httpx
from upstash_box import Box, BoxError

_SESSIONS: list[tuple[str, Callable[[], None]]] = []
_MADE: set[str] = set()


def session(name: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Registers the decorated function as a session. Sessions run in the order they were registered."""

    def register(body: Callable[[], None]) -> Callable[[], None]:
        _SESSIONS.append((name, body))
        return body

    return register


def make_box(**config: Any) -> Box:
    """Creates a box that is deleted when the sessions are over, whatever became of them."""
    box = Box.create(**config)
    _MADE.add(box.id)
    return box


def adopt(box: Box) -> Box:
    """Takes a box that came about otherwise, so that it is deleted when the sessions are over."""
    _MADE.add(box.id)
    return box


def refused(body: Callable[[], Any]) -> BoxError:
    """Runs `body`, which must raise a BoxError, and returns that error."""
    try:
        body()
    except BoxError as error:
        return error
    raise AssertionError("nothing was refused")


def equal(got: Any, expected: Any, about: str = "") -> None:
    """Says what differs, which a bare `assert` does not."""
    if got != expected:
        raise AssertionError(f"{about or 'got'}: {got!r}, expected {expected!r}")


def call(method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """Calls the HTTP API directly: for what the SDK has no method for."""
    response = httpx.request(
        method,
        os.environ["UPSTASH_BOX_BASE_URL"].rstrip("/") + path,
        headers={"X-Box-Api-Key": os.environ["UPSTASH_BOX_API_KEY"], "Content-Type": "application/json"},
        content=None if body is None else json.dumps(body),
        timeout=60,
    )
    return response.status_code, response.json() if response.content else None


def main() -> int:
    """Runs what was registered; 0 when every session passed."""
    for name in ("UPSTASH_BOX_BASE_URL", "UPSTASH_BOX_API_KEY"):
        if not os.environ.get(name):
            print(f"set {name}: these sessions need a running Boxyard (cargo xtask up)", file=sys.stderr)
            return 2
    only = sys.argv[1] if len(sys.argv) > 1 else ""
    chosen = [(name, body) for name, body in _SESSIONS if only in name]
    print(f"1..{len(chosen)}", flush=True)
    passed = failed = 0
    for number, (name, body) in enumerate(chosen, start=1):
        try:
            body()
            passed += 1
            print(f"ok {number} - {name}", flush=True)
        except Exception:
            failed += 1
            print(f"not ok {number} - {name}")
            print("\n".join(f"# {line}" for line in traceback.format_exc().splitlines()), flush=True)
    if _MADE:
        try:
            Box.delete_boxes(box_ids=sorted(_MADE))
        except Exception as error:
            failed += 1
            print(f"# deleting the boxes of the sessions failed: {error}")
    print(f"{passed} passed, {failed} failed", flush=True)
    # Nothing to run means a wrong filter, which must not look like a success.
    return 1 if failed or not passed else 0
