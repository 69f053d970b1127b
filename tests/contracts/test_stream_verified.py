"""Nothing is unpacked whose digest was not seen to be right first: a frame can be made to hurt."""

import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agent.errors import AgentError, ChunkCorrupt
from agent.model.template import CHUNK_BYTES, IndexEntry
from agent.store.check import check_template
from agent.store.digests import CHUNK_DIGESTS
from agent.store.pack import Decoder
from agent.store.template import Template, open_template
from agent.stream.restore import restore_volume, volume_bytes
from agent.stream.view import VolumeView
from agent.units import MiB
from tests.contracts.fake_registry import FakeRegistry
from tests.contracts.seeds import SEED, draw, tried
from tests.contracts.stream_builders import BASE, capture, make_client, make_source, make_target
from tests.contracts.stream_world import flipped

CHUNKS = 4
DATA = random.Random(21).randbytes(CHUNKS * CHUNK_BYTES)
"""All its frames are of one length: one can stand in the place of another."""


@dataclass
class Unpacked:
    """What reached the decoder: the digests of what is stored."""

    digest: Callable[[memoryview], str]
    seen: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass
class Shop:
    registry: FakeRegistry
    template: Template
    entries: tuple[IndexEntry, ...]
    target: Path


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    print(f"METALCAST_SEED={SEED}")
    registry, target = FakeRegistry(), make_target(tmp_path, len(DATA))
    with registry.serving() as url:
        client = make_client(url)
        captured = capture(client, make_source(tmp_path, DATA), pack_bytes=64 * MiB)
        template = open_template(client, captured.digest)
        entries = tuple(template.entries("root")[1])
        assert len({entry.stored_bytes for entry in entries}) == 1
        assert len(entries) == CHUNKS
        yield Shop(registry, template, entries, target)
        client.close()


@pytest.fixture
def unpacked(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> Unpacked:
    found = Unpacked(CHUNK_DIGESTS[shop.template.entries("root")[0].content_digest])
    real = Decoder.decode

    def decode(self: Decoder, stored: memoryview, into: memoryview) -> None:
        with found.lock:
            found.seen.append(found.digest(stored))
        real(self, stored, into)

    monkeypatch.setattr(Decoder, "decode", decode)
    return found


def restore(shop: Shop) -> None:
    restore_volume(shop.template, "root", shop.target, BASE, lanes=2)


def read_whole(shop: Shop) -> None:
    volume_bytes(shop.template, "root", len(DATA))


def view(shop: Shop) -> None:
    """Read all, chunk by chunk: what is good behind the damage as well."""
    failed: list[AgentError] = []
    with VolumeView(shop.template, "root") as opened:
        for at in range(0, len(DATA), CHUNK_BYTES):
            try:
                opened.read(at, CHUNK_BYTES)
            except ChunkCorrupt as error:
                failed.append(error)
    if failed:
        raise failed[0]


def check(shop: Shop) -> None:
    found = check_template(shop.template.client, shop.template.digest, deep=True)
    if found.damage:
        raise ChunkCorrupt(found.damage[0])


READERS: dict[str, Callable[[Shop], None]] = {
    "restore": restore,
    "a small volume": read_whole,
    "view": view,
    "verify --deep": check,
}


def a_bit(pack: bytes, entry: IndexEntry) -> bytes:
    """Flip a bit of the frame: of its head as often as of its blocks."""
    dice = draw(entry.number)
    at = dice.choice((dice.randrange(12), dice.randrange(entry.stored_bytes)))
    return flipped(pack, entry.offset + at, dice.randrange(8))


def a_sound_frame(pack: bytes, entry: IndexEntry) -> bytes:
    """Put another chunk's frame there: zstd has nothing against it."""
    start, size = entry.offset, entry.stored_bytes
    other = start - size if start else size
    return pack[:start] + pack[other : other + size] + pack[start + size :]


DAMAGE = {"a flipped bit": a_bit, "another chunk's frame": a_sound_frame}


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("reader", READERS)
def test_what_has_another_digest_is_not_unpacked(
    shop: Shop, unpacked: Unpacked, reader: str, how: str
) -> None:
    (pack,) = shop.template.manifest.packs
    good = shop.registry.blobs[pack.digest]
    for bad in shop.entries:
        shop.registry.blobs[pack.digest] = DAMAGE[how](good, bad)
        shop.target.write_bytes(b"\xa5" * shop.target.stat().st_size)
        unpacked.seen.clear()
        with pytest.raises(ChunkCorrupt, match=rf"^chunk {bad.number} .*does not have the digest"):
            READERS[reader](shop)
        right = [entry.stored_digest for entry in shop.entries if entry is not bad]
        assert set(unpacked.seen) <= set(right)
        assert len(set(unpacked.seen)) == len(unpacked.seen), "each once, where it belongs"
        if reader in ("view", "verify --deep"):
            assert set(unpacked.seen) == set(right), "what is good is looked at all the same"
        tried(1, "wrong digests")


@pytest.mark.parametrize("reader", READERS)
def test_what_is_right_is_unpacked_once(shop: Shop, unpacked: Unpacked, reader: str) -> None:
    """So it is the decoder watched above that each reader has."""
    READERS[reader](shop)
    assert sorted(unpacked.seen) == sorted(entry.stored_digest or "" for entry in shop.entries)
