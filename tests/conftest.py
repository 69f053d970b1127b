"""What holds for every test."""

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

# tests/guest is for the inside of a guest, which has this disk; see tests/harness/guest.py.
collect_ignore = [] if Path("/dev/disk/by-id/virtio-RESULTS").exists() else ["guest"]
_UNIT = Path(__file__).parent / "unit"


def cannot_run(why: str) -> NoReturn:
    """Skip this test at home, fail it in CI: there, all that it needs is there."""
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)


@pytest.fixture(autouse=True)
def _values_only(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let a unit test that runs a program or opens a connection fail."""
    if _UNIT not in request.path.parents:
        yield
        return

    def refuse(*_: object, **__: object) -> NoReturn:
        raise AssertionError("a unit test has values only: no programs, no connections")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "Popen", refuse)
        patch.setattr(socket.socket, "connect", refuse)
        yield
