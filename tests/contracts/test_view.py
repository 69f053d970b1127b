"""A volume read at any place, out of a registry: right bytes, few chunks, real reasons."""

import random
import threading
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agent.errors import AgentError, ChunkCorrupt, DiskError, ServerError
from agent.model.template import CHUNK_BYTES, IndexEntry
from agent.store.template import open_template
from agent.stream.view import CompactIndex, VolumeView
from agent.units import Extent, MiB
from tests.contracts.fake_registry import FakeRegistry
from tests.contracts.stream_builders import capture, make_client, make_source, mixed_bytes
from tests.contracts.stream_world import World, world_of

SIZE = 40 * MiB + 512 * 3


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with world_of(tmp_path, SIZE, seed=31) as made:
        yield made


def test_any_range_reads_as_on_the_source(world: World) -> None:
    draw = random.Random(5)
    places = [(0, SIZE), (SIZE - 1, 1), (SIZE, 0), (CHUNK_BYTES - 512, 1024)]
    places += [(at, draw.randrange(SIZE - at)) for at in draw.sample(range(SIZE), 30)]
    with VolumeView(world.template, "root") as view:
        assert view.size_bytes == SIZE
        for offset, size in places:
            assert view.read(offset, size) == world.data[offset : offset + size], (offset, size)


def test_many_threads_may_read(world: World) -> None:
    places = random.Random(6).sample(range(0, SIZE - 70_000, 512), 200)
    with (
        VolumeView(world.template, "root", cache_bytes=8 * MiB) as view,
        ThreadPoolExecutor(8) as pool,
    ):
        found = list(pool.map(lambda at: view.read(at, 70_000), places))
    assert all(found[n] == world.data[at : at + 70_000] for n, at in enumerate(places))


def test_only_what_is_read_is_fetched(world: World) -> None:
    with VolumeView(world.template, "root") as view:
        assert view.statistics.chunks_fetched == 0
        for at in (5 * CHUNK_BYTES, 5 * CHUNK_BYTES + 4096, 6 * CHUNK_BYTES - 10):
            view.read(at, 10)
        statistics = view.statistics
        assert (statistics.chunks_fetched, statistics.chunks) == (1, 10)  # one is all zeros
        assert 0 < statistics.bytes_fetched < 2 * CHUNK_BYTES


def test_reading_forward_fetches_ahead(world: World) -> None:
    with VolumeView(world.template, "root") as view:
        view.read(0, 10)
        view.read(CHUNK_BYTES, 10)
        view.read(2 * CHUNK_BYTES, 10)
        deadline = time.monotonic() + 10
        while view.statistics.chunks_fetched < 5 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert view.statistics.chunks_fetched == 5


def test_the_cache_is_bounded_and_a_chunk_is_fetched_once_while_it_is_kept(world: World) -> None:
    with VolumeView(world.template, "root", cache_bytes=2 * CHUNK_BYTES, lanes=1) as view:
        for _ in range(3):
            view.read(0, 10)
        assert view.statistics.chunks_fetched == 1
        for number in (2, 4, 6, 8):
            view.read(number * CHUNK_BYTES, 10)
        assert view.read(0, 10) == world.data[:10]
        assert view.statistics.chunks_fetched == 6


def test_what_is_not_used_reads_as_zeros(tmp_path: Path) -> None:
    data = mixed_bytes(12 * MiB, seed=32)
    used = (Extent(512, 1024), Extent(8192, 4096), Extent(8 * MiB - 512, 1024))
    with FakeRegistry().serving() as url:
        client = make_client(url)
        made = capture(client, make_source(tmp_path, data, used=used))
        with VolumeView(open_template(client, made.digest), "root") as view:
            wanted = bytearray(len(data))
            for run in used:
                wanted[run.offset : run.end] = data[run.offset : run.end]
            assert view.read(0, len(data)) == wanted
            for at in range(0, 16384, 500):
                assert view.read(at, 700) == wanted[at : at + 700]
        client.close()


def test_a_damaged_chunk_is_named_with_its_pack_and_server(world: World) -> None:
    first = world.template.manifest.packs[0]
    world.flip(first.digest, 100)
    with VolumeView(world.template, "root") as view:
        with pytest.raises(ChunkCorrupt, match=r"chunk 0 \([0-9a-f]{12}\) in pack sha256:") as info:
            view.read(0, 4096)
        assert world.url in str(info.value)


def test_a_chunk_ahead_that_is_damaged_harms_nobody_who_does_not_read_it(world: World) -> None:
    last = world.template.manifest.packs[-1]
    world.flip(last.digest, last.size - 100)
    with VolumeView(world.template, "root") as view:
        size = 9 * CHUNK_BYTES
        assert view.read(0, size) == world.data[:size]


def test_a_server_that_is_gone_is_an_error_in_the_end(tmp_path: Path) -> None:
    with world_of(tmp_path, SIZE, seed=31) as world:
        template = world.template
        view = VolumeView(template, "root")
    with view, pytest.raises(ServerError):
        view.read(0, 4096)


def test_cancel_ends_a_read_that_waits(world: World) -> None:
    template = world.template
    with VolumeView(template, "root", lanes=0) as view:
        errors: list[AgentError] = []

        def read() -> None:
            try:
                view.read(0, 512)
            except AgentError as error:
                errors.append(error)

        reader = threading.Thread(target=read)
        reader.start()
        view.cancel()
        reader.join(10)
        assert not reader.is_alive()
        assert isinstance(errors[0], DiskError)


def test_beyond_the_end_is_a_mistake_of_the_caller(world: World) -> None:
    with VolumeView(world.template, "root") as view, pytest.raises(ValueError, match="outside"):
        view.read(SIZE - 1, 2)


def test_the_index_of_a_huge_volume_is_small() -> None:
    """Half a million chunks (2 TiB) of three extents each: arrays, no objects."""
    count = 524_288
    gap = CHUNK_BYTES // 4

    def entries() -> Iterator[IndexEntry]:
        for number in range(count):
            start = number * CHUNK_BYTES
            extents = tuple((start + part * gap, 4096) for part in range(3))
            digest = f"{number:064x}"
            is_zeros = number % 8 == 7
            yield IndexEntry(
                number,
                extents,
                -1 if is_zeros else number // 60,
                0 if is_zeros else number % 60 * 5000,
                0 if is_zeros else 5000,
                None if is_zeros else digest,
                digest,
            )

    tracemalloc.start()
    index = CompactIndex(entries())
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 64 * MiB
    assert len(index) == count * 7 // 8
    assert list(index.within(7 * CHUNK_BYTES, 8 * CHUNK_BYTES)) == []
    third = 524_286 * CHUNK_BYTES + 2 * gap
    ((place, at, start, size),) = index.within(third - gap + 4096, third + 512)
    assert (at, start, size) == (2 * 4096, third, 512)
    entry = index.entry(place)
    assert entry.number == 524_286
    assert entry.extents[2] == (third, 4096)
    assert (entry.pack, entry.offset, entry.stored_bytes) == (8738, 6 * 5000, 5000)
    assert entry.stored_digest == f"{524_286:064x}"
