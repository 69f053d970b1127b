"""Chunks that lie one behind the other are one write, and whatever the kernel takes of it, all is
written."""

import os
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from agent.model.template import CHUNK_BYTES
from agent.stream.blocks import ChunkWriter, DiskFile
from agent.stream.fetch import batch_bytes
from agent.system import block
from agent.units import Extent, KiB, MiB
from tests.contracts.stream_builders import BASE
from tests.contracts.stream_world import world_of

SIZE = 16 * MiB
Run = tuple[Extent, memoryview]


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[Extent]:
    """What the kernel was asked to write."""
    asked: list[Extent] = []
    plain = os.pwritev

    def write(fd: int, pieces: Sequence[memoryview], offset: int) -> int:
        asked.append(Extent(offset, sum(map(len, pieces))))
        return plain(fd, pieces, offset)

    monkeypatch.setattr(os, "pwritev", write)
    return asked


def make_disk(folder: Path) -> Path:
    path = folder / "disk"
    path.write_bytes(bytes(SIZE))
    return path


def make_chunks(*chunks: Sequence[tuple[int, int]]) -> list[list[Run]]:
    """Return chunks of runs (offset, size) of random bytes."""
    draw = random.Random(7)
    made = []
    for runs in chunks:
        pieces = []
        for offset, size in runs:
            data = memoryview(block.aligned_buffer(size))
            data[:] = draw.randbytes(size)
            pieces.append((Extent(offset, size), data))
        made.append(pieces)
    return made


def expect_written(disk: Path, chunks: Sequence[Sequence[Run]]) -> None:
    wanted = bytearray(SIZE)
    for run, data in (one for runs in chunks for one in runs):
        wanted[BASE + run.offset : BASE + run.end] = data
    assert disk.read_bytes() == wanted


def test_neighbours_are_one_write(tmp_path: Path, writes: list[Extent]) -> None:
    chunks = make_chunks(
        [(0, 4 * MiB)],
        [(4 * MiB, 64 * KiB), (4 * MiB + 64 * KiB, 4 * KiB), (5 * MiB, 4 * KiB)],
        [(8 * MiB, MiB)],
        [(9 * MiB, MiB)],
    )
    with DiskFile(make_disk(tmp_path), writable=True) as disk:
        ChunkWriter(disk, BASE).write(chunks)
    assert writes == [
        Extent(BASE, 4 * MiB + 68 * KiB),
        Extent(BASE + 5 * MiB, 4 * KiB),
        Extent(BASE + 8 * MiB, 2 * MiB),
    ]
    expect_written(tmp_path / "disk", chunks)


def test_an_odd_chunk_does_not_spoil_its_neighbours(tmp_path: Path, writes: list[Extent]) -> None:
    many = [(4 * MiB + n * 8 * KiB, 4 * KiB) for n in range(20)]
    chunks = make_chunks([(0, 4 * MiB)], many, [(8 * MiB, 777)], [(12 * MiB, 4 * KiB)])
    with DiskFile(make_disk(tmp_path), writable=True) as disk:
        ChunkWriter(disk, BASE).write(chunks)
    assert len(writes) == 23
    expect_written(tmp_path / "disk", chunks)


@pytest.mark.parametrize("most", [512, 4 * KiB, 20 * KiB, MiB])
def test_a_short_write_is_gone_on_with(
    most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, asked = os.pwritev, []

    def write(fd: int, pieces: Sequence[memoryview], offset: int) -> int:
        asked.append(offset)
        return plain(fd, [memoryview(b"".join(pieces))[:most]], offset)

    monkeypatch.setattr(os, "pwritev", write)
    monkeypatch.setattr(block, "open_direct", lambda path, flags: os.open(path, flags))
    chunks = make_chunks([(0, 12 * KiB), (12 * KiB, 4 * KiB)], [(16 * KiB, 16 * KiB)])
    with DiskFile(make_disk(tmp_path), writable=True) as disk:
        ChunkWriter(disk, BASE).write(chunks)
    assert len(asked) == -(-32 * KiB // most)
    expect_written(tmp_path / "disk", chunks)


@pytest.mark.parametrize("lanes", [1, 5, 30])
def test_a_restore_writes_in_batches(lanes: int, tmp_path: Path, writes: list[Extent]) -> None:
    with world_of(tmp_path, 64 * MiB, seed=11, pack_bytes=64 * MiB) as world:
        world.blank_target()
        done = world.restore(lanes=lanes)
        assert world.target_is_right()
    longest = max(run.size for run in writes)
    assert longest <= batch_bytes(lanes)
    assert (longest > CHUNK_BYTES) == (lanes < 30)
    assert sum(run.size for run in writes) <= done.bytes_written


def test_the_buffers_of_all_lanes_are_bounded() -> None:
    for lanes in range(1, 13):
        assert batch_bytes(lanes) % CHUNK_BYTES == 0
        assert 4 * MiB <= batch_bytes(lanes) <= 16 * MiB
        assert lanes * batch_bytes(lanes) <= 72 * MiB
