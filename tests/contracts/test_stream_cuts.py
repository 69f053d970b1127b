"""Connections cut anywhere in a whole restore and a whole capture: what was there stays there.

A hundred places for FIN, a hundred for RST, over two volumes in many packs. Each byte that the
server sends is counted: no chunk that arrived is asked for again.
"""

import io
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path

import pytest

from agent.errors import AgentError, ServerError
from agent.store.retry import Retry
from agent.store.template import Template, open_template
from agent.stream.chunks import VolumeSource
from agent.stream.restore import Restored, restore_volume
from agent.units import Extent, MiB
from tests.contracts.fake_registry import FakeRegistry, Handler, sha256
from tests.contracts.seeds import draw, tried
from tests.contracts.stream_builders import (
    BASE,
    capture,
    make_client,
    make_target,
    make_volume,
    mixed_bytes,
)

CUTS = 100
SIZES = {"root": 21 * MiB, "home": 14 * MiB}
DATA = {name: mixed_bytes(size, seed=size) for name, size in SIZES.items()}
PATIENT = Retry(attempts=3 * CUTS, first_s=0.001, longest_s=0.005)


@dataclass
class World:
    registry: FakeRegistry
    url: str
    folder: Path
    sources: tuple[VolumeSource, ...]
    digest: str

    @property
    def stored(self) -> int:
        """The bytes of all packs."""
        client = make_client(self.url)
        template = open_template(client, self.digest)
        client.close()
        return sum(pack.size for pack in template.manifest.packs)

    def restore(self, digest: str | None = None) -> tuple[Template, tuple[Restored, ...]]:
        """Restore both volumes, each on a disk of its own; return what was done."""
        client = make_client(self.url, retry=PATIENT)
        try:
            template = open_template(client, digest or self.digest)
            return template, tuple(
                restore_volume(template, name, self.target(name), BASE, lanes=3) for name in SIZES
            )
        finally:
            client.close()

    def target(self, name: str) -> Path:
        found = self.folder / f"{name}.target"
        return found if found.exists() else make_target(self.folder, SIZES[name], name=found.name)

    def check_targets(self) -> None:
        for name, data in DATA.items():
            assert self.target(name).read_bytes()[BASE : BASE + len(data)] == data, name


def make_sources(folder: Path, data: dict[str, bytes]) -> tuple[VolumeSource, ...]:
    sources = []
    for name, content in data.items():
        disk = folder / f"{name}.source"
        disk.write_bytes(bytes(BASE) + content)
        volume = make_volume(len(content), name)
        sources.append(VolumeSource(volume, disk, BASE, (Extent(0, len(content)),), serial="S"))
    return tuple(sources)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[FakeRegistry, tuple[VolumeSource, ...]]:
    """A template of two volumes, captured once, and where it came from."""
    folder = tmp_path_factory.mktemp("shop")
    registry = FakeRegistry()
    sources = make_sources(folder, DATA)
    with registry.serving() as url:
        client = make_client(url)
        capture(client, *sources, pack_bytes=5 * MiB)
        client.close()
    return registry, sources


@pytest.fixture
def world(shop: tuple[FakeRegistry, tuple[VolumeSource, ...]], tmp_path: Path) -> Iterator[World]:
    kept, sources = shop
    registry = FakeRegistry(blobs=dict(kept.blobs), manifests=dict(kept.manifests))
    with registry.serving() as url:
        yield World(registry, url, tmp_path, sources, sha256(kept.manifests["latest"]))


@dataclass
class Cutter:
    """Hangs up whenever so many bytes of bodies, over all connections, were sent."""

    places: list[int]
    reset: bool
    sent: list[tuple[str, int, int]] = field(default_factory=list)
    """Of each ranged answer: blob, first byte, and the end of what was sent."""
    at: int = 0
    made: list[int] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, handler: Handler) -> bool:
        blob = handler.path.rpartition("/")[2]
        if handler.command != "GET" or blob not in handler.registry.blobs:
            return False
        if "Range" in handler.headers:
            data, first, last = handler.ranged()
        else:
            data = handler.registry.blobs[blob]
            first, last = 0, len(data) - 1
        size = last + 1 - first
        with self.lock:
            after = self.places[0] - self.at if self.places else size
            if is_cut := after < size:
                self.made.append(self.places.pop(0))
            end = first + min(after, size)
            self.at += end - first
            self.sent.append((blob, first, end))
        if not is_cut:
            return False
        if "Range" in handler.headers:
            handler.cut(after, reset=self.reset)
        else:
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(data)))
            handler.end_headers()
            handler.wfile.write(data[:after])
            handler.wfile.flush()
            handler.hang_up(reset=self.reset)
        return True


@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
def test_a_restore_that_is_cut_anywhere_fetches_no_chunk_twice(world: World, reset: bool) -> None:
    dice = draw("restore", reset)
    stored = world.stored
    places = sorted(dice.sample(range(stored), CUTS))
    cutter = Cutter(list(places), reset)
    world.registry.lie = cutter
    try:
        template, restored = world.restore()
    except AgentError as error:
        pytest.fail(f"after the cut at {cutter.made[-1]}: {error}")
    assert cutter.made == places, "every cut was made"
    world.check_targets()
    assert sum(one.bytes_fetched for one in restored) == stored, "no chunk was taken twice"
    if not reset:  # what was sent before a FIN has arrived; of a RST nobody knows
        for name in SIZES:
            packs = template.blobs[name].packs
            for entry in template.entries(name)[1]:
                if entry.pack >= 0:
                    begin, end = entry.offset, entry.offset + entry.stored_bytes
                    blob = packs[entry.pack].digest
                    whole = [
                        1
                        for sent, first, last in cutter.sent
                        if sent == blob and first <= begin and end <= last
                    ]
                    assert len(whole) == 1, f"chunk {entry.number} of {name} was sent again"
    print(f"{cutter.at} bytes sent for {stored}")
    tried(CUTS, f"cuts of a restore by {'RST' if reset else 'FIN'}")


@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
@pytest.mark.parametrize("keeps", [True, False], ids=["kept", "lost"])
def test_a_capture_that_is_cut_anywhere_is_whole(world: World, reset: bool, keeps: bool) -> None:
    """The server keeps, or loses, the part of a piece that came before the cut."""
    dice = draw("capture", reset, keeps)
    places = sorted(dice.sample(range(world.stored), CUTS // 2))
    left, made = list(places), [0]
    lock = threading.Lock()

    def lie(handler: Handler) -> bool:
        if handler.command != "PATCH":
            return False
        size = int(handler.headers["Content-Length"])
        held = handler.registry.uploads[handler.path.rpartition("/")[2]]
        with lock:
            after = left[0] - made[0] if left else size
            made[0] += min(after, size)
            if after >= size:
                return False
            left.pop(0)
        assert int(handler.headers["Content-Range"].split("-")[0]) == len(held), "a gap, or again"
        part = handler.rfile.read(after)
        if keeps:
            held += part
        handler.hang_up(reset=reset)
        return True

    world.registry.blobs.clear()
    world.registry.manifests.clear()
    world.registry.lie = lie
    client = make_client(world.url, retry=PATIENT)
    try:
        captured = capture(client, *world.sources, pack_bytes=5 * MiB)
    except AgentError as error:
        pytest.fail(f"after the cut at {made[0]}: {error}")
    client.close()
    world.registry.lie = None
    assert left == [], "every cut was made"
    world.restore(captured.digest)
    world.check_targets()
    print(f"{made[0]} bytes received")
    tried(CUTS // 2, f"cuts of a capture by {'RST' if reset else 'FIN'}")


@pytest.mark.parametrize("gone", [False, True], ids=["kept", "removed"])
@pytest.mark.parametrize("after", range(3))
def test_a_template_that_is_replaced_in_between_is_never_mixed(
    world: World, gone: bool, after: int
) -> None:
    """The tag gets another template, after some reads; the old blobs stay, or go."""
    other = {name: mixed_bytes(size, seed=size + 1) for name, size in SIZES.items()}
    folder = world.folder / "other"
    folder.mkdir()
    before = dict(world.registry.blobs)
    client = make_client(world.url)
    newer = capture(client, *make_sources(folder, other), pack_bytes=5 * MiB).digest
    client.close()
    later = {digest: data for digest, data in world.registry.blobs.items() if digest not in before}
    world.registry.manifests["latest"] = world.registry.manifests[world.digest]
    reads: list[str] = []

    def lie(handler: Handler) -> bool:
        if "Range" in handler.headers:
            reads.append(handler.path)
            if len(reads) == after + 1:
                world.registry.manifests["latest"] = world.registry.manifests[newer]
                if gone:
                    world.registry.blobs = dict(later)
        return False

    world.registry.lie = lie
    if gone:
        with pytest.raises(ServerError, match="404"):
            world.restore("latest")
    else:
        world.restore("latest")
        world.check_targets()
    for name, data in DATA.items():
        there = io.BytesIO(world.target(name).read_bytes()[BASE : BASE + len(data)])
        for at in range(0, len(data), 4096):
            piece = there.read(4096)
            assert piece in (data[at : at + 4096], b"\xa5" * len(piece)), f"{name}: {at}"


def busy(header: Callable[[], str], times: int = 1) -> Callable[[Handler], bool]:
    left = [times]

    def lie(handler: Handler) -> bool:
        if "Range" not in handler.headers or not left[0]:
            return False
        left[0] -= 1
        handler.answer(503, b"later", {"Retry-After": header()})
        return True

    return lie


def test_retry_after_may_be_a_date(world: World) -> None:
    world.registry.lie = busy(lambda: formatdate(time.time() + 2.5, usegmt=True))
    began = time.monotonic()
    world.restore()
    assert time.monotonic() - began > 1.2, "dates have whole seconds"
    world.check_targets()


@pytest.mark.parametrize("said", ["soon", "-5", "Thu, 01 Jan 1970 00:00:00 GMT", "9" * 30, ""])
def test_a_retry_after_that_says_nothing_is_not_waited_for(world: World, said: str) -> None:
    world.registry.lie = busy(lambda: said)
    began = time.monotonic()
    world.restore()
    assert time.monotonic() - began < 5
    world.check_targets()


def test_a_server_that_is_away_for_hours_is_an_error_at_once(world: World) -> None:
    world.registry.lie = busy(lambda: formatdate(time.time() + 7200, usegmt=True), times=10**6)
    began = time.monotonic()
    with pytest.raises(AgentError, match="503"):
        world.restore()
    assert time.monotonic() - began < 5
