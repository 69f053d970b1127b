"""`kill -9` of the server, at random moments: a capture and a restore go on when it is back."""

import io
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from agent.errors import ServerError
from agent.store.body import Body
from agent.store.registry import BlobUpload
from agent.store.retry import Retry, Transient
from agent.store.template import open_template
from agent.stream.restore import restore_volume
from agent.units import MiB
from tests.contracts.seeds import SEED, draw, tried
from tests.contracts.stream_builders import BASE, capture, make_client, make_source, make_target

ROOT = Path(__file__).parents[2]
SIZE = 96 * MiB
PATIENT = Retry(attempts=200, first_s=0.05, longest_s=0.3)


def is_answering(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Mortal:
    """A server that can be killed and comes back on the same port with the same folder."""

    folder: Path
    port: int = field(default_factory=free_port)
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        words = [sys.executable, "-m", "tests.contracts.open_registry_child"]
        self.process = subprocess.Popen([*words, self.folder, str(self.port)], cwd=ROOT)
        deadline = time.monotonic() + 60
        while not is_answering(self.port):
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def kill(self) -> None:
        assert self.process
        self.process.kill()
        self.process.wait()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Mortal]:
    print(f"METALCAST_SEED={SEED}")
    mortal = Mortal(tmp_path / "store")
    mortal.start()
    yield mortal
    mortal.kill()


class Siege:
    """Kills the server while bytes are on their way, at places that are drawn. It comes back."""

    def __init__(self, server: Mortal) -> None:
        self.cut = 0
        """How many transfers were cut off by it: some end with what was on the wire already."""
        self._server = server
        self._dice = draw("kills")
        self._coming: threading.Thread | None = None
        self._struck: object = None
        self._wait = 0

    def place(self, what: object, size: int) -> int | None:
        """Return after how many of `size` bytes to kill, None if they are to pass."""
        self._wait -= 1
        if self._wait > 0 or self._struck is what or not size:
            return None
        self._wait = self._dice.randrange(4, 9)
        return self._dice.randrange(size)

    def strike(self, what: object) -> None:
        self.wait()
        self._server.kill()
        self._struck = what
        self._coming = threading.Thread(target=self._server.start)
        self._coming.start()

    def failed(self, what: object) -> None:
        if what is self._struck:
            self.cut += 1
        self._struck = None

    def wait(self) -> None:
        """Return when the server is there again."""
        if self._coming:
            self._coming.join()


class Deadly(io.BytesIO):
    """Bytes to send; `strike` is called when so many of them are on their way."""

    def __init__(self, data: bytes, after: int, strike: Callable[[], None]) -> None:
        super().__init__(data)
        self._size, self._after = len(data), after
        self._strike: Callable[[], None] | None = strike

    def __len__(self) -> int:
        return self._size

    def read(self, size: int | None = -1) -> bytes:
        if self._strike and self.tell() >= self._after:
            self._strike()
            self._strike = None
        return super().read(size)


@pytest.fixture
def siege(server: Mortal, monkeypatch: pytest.MonkeyPatch) -> Iterator[Siege]:
    """What is sent to, and comes from, a server under siege."""
    made = Siege(server)
    patch, fill = BlobUpload.patch, Body.fill

    def besieged_patch(upload: BlobUpload, data: Any, offset: int) -> None:
        after = made.place(upload, len(data))
        if after is not None:
            data = Deadly(b"".join(data), after, lambda: made.strike(upload))
        try:
            patch(upload, data, offset)
        except Transient:
            made.failed(upload)
            raise

    def besieged_fill(body: Body, buffer: memoryview) -> None:
        after = made.place(body, len(buffer))
        try:
            if after is not None:
                fill(body, buffer[:after])
                made.strike(body)
            fill(body, buffer[after or 0 :])
        except Transient:
            made.failed(body)
            raise

    monkeypatch.setattr(BlobUpload, "patch", besieged_patch)
    monkeypatch.setattr(Body, "fill", besieged_fill)
    yield made
    made.wait()


def test_what_was_under_way_goes_on(server: Mortal, siege: Siege, tmp_path: Path) -> None:
    data = random.Random(4).randbytes(SIZE)
    source = make_source(tmp_path, data)
    client = make_client(f"http://127.0.0.1:{server.port}", retry=PATIENT)
    captured = capture(client, source, pack_bytes=40 * MiB)
    assert siege.cut >= 2
    tried(siege.cut, "kills of the server in a capture")
    siege.cut = 0
    template = open_template(client, captured.digest)
    stored = sum(pack.size for pack in template.manifest.packs)
    for _ in range(10):  # of some kills, all that was asked for is on the wire already
        target = make_target(tmp_path, SIZE)
        restored = restore_volume(template, "root", target, BASE, lanes=1)
        assert target.read_bytes()[BASE : BASE + SIZE] == data
        assert restored.bytes_fetched == stored > 0, "all of it, and no chunk twice"
        if siege.cut >= 4:
            break
    assert siege.cut >= 4
    tried(siege.cut, "kills of the server in a restore")
    client.close()


def test_a_capture_that_is_given_up_lists_nothing(server: Mortal, tmp_path: Path) -> None:
    source = make_source(tmp_path, random.Random(4).randbytes(SIZE))
    client = make_client(f"http://127.0.0.1:{server.port}")
    timer = threading.Timer(0.15, server.kill)
    timer.start()
    with pytest.raises(ServerError):
        capture(client, source, pack_bytes=40 * MiB)
    timer.join()
    server.start()
    with pytest.raises(ServerError, match="404"):
        client.manifest("latest")
    client.close()
