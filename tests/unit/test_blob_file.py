"""Blobs that are written past the page cache hold just what was written, wherever they are."""

import errno
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.store.blob_file import BlobFile
from agent.units import MiB


@pytest.fixture(params=["disk", "memory"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A place on a disk's filesystem, and one in memory, whose O_DIRECT differs by kernel."""
    if request.param == "disk":
        yield tmp_path / "blob"
        return
    there = Path("/dev/shm") / f"metalcast-blob-{os.getpid()}"
    yield there
    there.unlink(missing_ok=True)


@pytest.mark.parametrize(
    "sizes",
    [
        (),
        (0, 1, 0),
        (4 * MiB,),
        (4 * MiB - 1, 2, 4 * MiB),
        (13 * MiB + 511,),
        (1000,) * 9000,
    ],
)
def test_pieces_of_any_size_come_out_as_one(path: Path, sizes: tuple[int, ...]) -> None:
    pieces = [random.Random(number).randbytes(size) for number, size in enumerate(sizes)]
    file = BlobFile(path)
    for piece in pieces:
        file.write(piece)
    file.sync()
    file.close()
    assert path.read_bytes() == b"".join(pieces)


def test_what_was_there_is_gone(path: Path) -> None:
    path.write_bytes(b"old" * 100)
    file = BlobFile(path)
    file.write(b"new")
    file.sync()
    file.close()
    file.close()
    assert path.read_bytes() == b"new"


def test_a_filesystem_that_refuses_only_the_write_is_written_through_the_cache(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As some do; and a write that ends inside a sector is gone on with from there."""
    real, turns = os.write, iter(["refused", "short"])

    def write(fd: int, data: memoryview) -> int:
        turn = next(turns, "whole")
        if turn == "refused":
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(fd, data[:777] if turn == "short" else data)

    monkeypatch.setattr(os, "write", write)
    data = random.Random(7).randbytes(9 * MiB)
    file = BlobFile(path)
    file.write(data)
    file.sync()
    file.close()
    assert path.read_bytes() == data


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EINVAL])
def test_a_failure_that_stays_is_that_of_the_write(
    path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """EINVAL is asked once more through the cache, not for ever."""

    def write(fd: int, data: memoryview) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "write", write)
    file = BlobFile(path)
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        file.write(bytes(4 * MiB))
    assert caught.value.errno == number
    file.close()


def test_a_file_that_takes_nothing_is_an_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "write", lambda _fd, _data: 0)
    file = BlobFile(path)
    with pytest.raises(OSError, match="takes no bytes"):
        file.write(bytes(4 * MiB))
    file.close()
