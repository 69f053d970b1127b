"""The runs of a chunk are read as they lie: side by side, near to each other, or scattered."""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from agent.errors import DiskError
from agent.stream.blocks import ChunkReader, DiskFile
from agent.units import Extent, KiB, MiB
from tests.contracts.stream_builders import BASE, mixed_bytes

SIZE = 40 * MiB
DATA = mixed_bytes(SIZE, seed=5)
RUNS = {
    "one": (Extent(3 * MiB, 3 * MiB),),
    "near": tuple(Extent(at * 64 * KiB, 8 * KiB) for at in range(40)),
    "scattered": tuple(Extent(at * MiB, 4 * KiB) for at in range(32)),
    "scattered and odd": tuple(Extent(at * MiB + 512 * at, 512 * (at + 1)) for at in range(32)),
}


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    path.write_bytes(bytes(BASE) + DATA)
    return path


def content_of(runs: Sequence[Extent]) -> bytes:
    return b"".join(DATA[run.offset : run.end] for run in runs)


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("name", RUNS)
def test_the_content_is_that_of_the_runs(name: str, cached: bool, disk: Path) -> None:
    with DiskFile(disk) as file:
        reader = ChunkReader(file, BASE, cached=cached)
        for _ in range(2):
            assert reader.read(RUNS[name]) == content_of(RUNS[name])


def test_of_scattered_runs_the_disk_hears_before_the_first_is_read(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, int]] = []
    advise, read = os.posix_fadvise, os.preadv

    def advised(fd: int, offset: int, size: int, advice: int) -> None:
        calls.append(("advise", offset))
        advise(fd, offset, size, advice)

    def reads(fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        calls.append(("read", offset))
        return read(fd, buffers, offset)

    runs = RUNS["scattered"]
    with DiskFile(disk) as file:
        monkeypatch.setattr(os, "posix_fadvise", advised)
        monkeypatch.setattr(os, "preadv", reads)
        assert ChunkReader(file, BASE, cached=True).read(runs) == content_of(runs)
    places = [BASE + run.offset for run in runs]
    assert calls == [*(("advise", at) for at in places), *(("read", at) for at in places)]


@pytest.mark.parametrize("cached", [True, False])
def test_a_disk_that_ends_too_soon_is_an_error(cached: bool, disk: Path) -> None:
    os.truncate(disk, BASE + 20 * MiB)
    with (
        DiskFile(disk) as file,
        pytest.raises(DiskError, match=f"ends at {BASE + 20 * MiB}, too soon"),
    ):
        ChunkReader(file, BASE, cached=cached).read(RUNS["scattered"])
