"""What the fault tests of the stream share: a template in a registry that lies, and a target."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from agent.model.template import CHUNK_BYTES
from agent.store.registry import RegistryClient
from agent.store.template import Template, open_template
from agent.stream.capture import Captured
from agent.stream.chunks import VolumeSource
from agent.stream.restore import Restored, restore_volume
from agent.units import MiB
from tests.contracts.fake_registry import FakeRegistry
from tests.contracts.stream_builders import (
    BASE,
    capture,
    make_client,
    make_source,
    make_target,
    mixed_bytes,
)

OLD = b"\xa5"


@dataclass
class World:
    """A template of one volume, and a target full of old bytes. `template` is opened anew."""

    registry: FakeRegistry
    url: str
    client: RegistryClient
    source: VolumeSource
    captured: Captured
    target: Path
    data: bytes

    @property
    def template(self) -> Template:
        return open_template(self.client, self.captured.digest)

    def restore(self, *, lanes: int = 2) -> Restored:
        return restore_volume(
            self.template, "root", self.target, BASE, serial="TARGET-1", lanes=lanes
        )

    def blank_target(self) -> None:
        """Fill the target with old bytes: a chunk that is there already is not fetched."""
        self.target.write_bytes(OLD * (len(self.data) + 2 * BASE))

    def target_is_right(self) -> bool:
        found, edge = self.target.read_bytes(), OLD * BASE
        size = len(self.data)
        return (
            found[BASE : BASE + size] == self.data and found[:BASE] == found[BASE + size :] == edge
        )

    def is_untouched(self) -> bool:
        return self.target.read_bytes() == OLD * (len(self.data) + 2 * BASE)

    def wrong_chunks(self) -> list[int]:
        """Return the chunks of the target that are neither old nor right."""
        return wrong_chunks(self.target, self.data)

    def flip(self, digest: str, at: int, bit: int = 6) -> bytes:
        """Damage one blob; return what it was."""
        good = self.registry.blobs[digest]
        self.registry.blobs[digest] = flipped(good, at, bit)
        return good


@contextmanager
def world_of(folder: Path, size: int, *, seed: int, pack_bytes: int = 4 * MiB) -> Iterator[World]:
    data, made, captured = _captured(size, seed, pack_bytes)
    registry = FakeRegistry(blobs=dict(made.blobs), manifests=dict(made.manifests))
    with registry.serving() as url:
        client = make_client(url)
        source, target = make_source(folder, data), make_target(folder, size)
        yield World(registry, url, client, source, captured, target, data)
        client.close()


@cache
def _captured(size: int, seed: int, pack_bytes: int) -> tuple[bytes, FakeRegistry, Captured]:
    """Return a volume's data and a registry that holds its template: made once for all tests."""
    data, registry = mixed_bytes(size, seed=seed), FakeRegistry()
    with registry.serving() as url, TemporaryDirectory() as folder:
        client = make_client(url)
        captured = capture(client, make_source(Path(folder), data), pack_bytes=pack_bytes)
        client.close()
    return data, registry, captured


def flipped(data: bytes, at: int, bit: int) -> bytes:
    bad = bytearray(data)
    bad[at] ^= 1 << bit
    return bytes(bad)


def wrong_chunks(target: Path, data: bytes) -> list[int]:
    """Return the chunks of a volume on `target` that are neither old nor `data`."""
    found = target.read_bytes()[BASE : BASE + len(data)]
    wrong = []
    for number in range(-(-len(data) // CHUNK_BYTES)):
        place = slice(number * CHUNK_BYTES, (number + 1) * CHUNK_BYTES)
        if found[place] != data[place] and found[place] != OLD * len(found[place]):
            wrong.append(number)
    return wrong
