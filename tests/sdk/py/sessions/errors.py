"""What the server refuses, and how."""

from upstash_box import Box

from session import equal, make_box, refused, session


@session("a wrong key is a 401, an unknown box a 404, a wrong size a 400, all with a text")
def _() -> None:
    equal(refused(lambda: Box.list(api_key="box_not_a_key")).status_code, 401)
    equal(refused(lambda: Box.get("never-wombat-00000")).status_code, 404)
    error = refused(lambda: make_box(size="enormous"))
    equal(error.status_code, 400)
    assert not str(error).startswith("Request failed"), error
