"""Parts are one piece of bytes to whoever sends them."""

import pytest
import requests

from agent.store.parts import Parts

PARTS = (b"abc", b"", b"defgh", b"i")
WHOLE = b"".join(PARTS)


@pytest.mark.parametrize("size", range(len(WHOLE) + 1))
def test_what_is_left_behind_any_place(size: int) -> None:
    left = Parts(PARTS).behind(size)
    assert b"".join(left) == WHOLE[size:]
    assert len(left) == len(WHOLE) - size


def test_they_can_be_sent_again() -> None:
    parts = Parts(PARTS)
    assert b"".join(parts) == b"".join(parts) == WHOLE
    assert parts
    assert not Parts(())


def test_requests_knows_their_length() -> None:
    """Without one it would send chunks, which not every registry takes."""
    asked = requests.Request("PATCH", "http://192.0.2.1/", data=Parts(PARTS)).prepare()
    assert asked.headers["Content-Length"] == str(len(WHOLE))
    assert "Transfer-Encoding" not in asked.headers
