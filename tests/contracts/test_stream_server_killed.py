"""`kill -9` of the server, at random moments: a capture and a restore go on when it is back."""

import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agent.errors import ServerError
from agent.store.retry import Retry
from agent.store.template import open_template
from agent.stream.restore import restore_volume
from agent.units import MiB
from tests.contracts.seeds import SEED
from tests.contracts.stream_builders import BASE, capture, make_client, make_source, make_target

ROOT = Path(__file__).parents[2]
SIZE = 96 * MiB
PATIENT = Retry(attempts=60, first_s=0.05, longest_s=0.3)


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
        deadline = time.monotonic() + 20
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


def kill_until(done: threading.Event, server: Mortal, times: int, kills: list[float]) -> None:
    draw = random.Random(SEED)
    while len(kills) < times and not done.wait(draw.uniform(0.02, 0.2)):
        server.kill()
        kills.append(time.monotonic())
        server.start()


def test_what_was_under_way_goes_on(server: Mortal, tmp_path: Path) -> None:
    data = random.Random(4).randbytes(SIZE)
    source = make_source(tmp_path, data)
    target = make_target(tmp_path, SIZE)
    client = make_client(f"http://127.0.0.1:{server.port}", retry=PATIENT)
    kills: dict[str, list[float]] = {"capture": [], "restore": []}

    def besieged(what: str) -> tuple[threading.Event, threading.Thread]:
        done = threading.Event()
        thread = threading.Thread(target=kill_until, args=(done, server, 4, kills[what]))
        thread.start()
        return done, thread

    done, thread = besieged("capture")
    try:
        captured = capture(client, source, pack_bytes=40 * MiB)
    finally:
        done.set()
        thread.join()
    template = open_template(client, captured.digest)
    done, thread = besieged("restore")
    try:
        while len(kills["restore"]) < 2:  # one is over so soon that a kill may miss it
            restore_volume(template, "root", target, BASE, lanes=1)
    finally:
        done.set()
        thread.join()
    print({what: len(times) for what, times in kills.items()})
    assert kills["capture"]
    assert target.read_bytes()[BASE : BASE + SIZE] == data
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
