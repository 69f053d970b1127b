"""The used bytes of an image, by the index of its template: counted, read, compared, changed."""

import mmap
import os
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from blake3 import blake3

from agent.model.template import CHUNK_BYTES, IndexEntry
from agent.units import Extent

_PAGE: Final = mmap.PAGESIZE
_GAP_BYTES: Final = 64 * 1024
"""Reading on over a gap as short as this is quicker than a second request."""


def extents(entries: Iterable[IndexEntry]) -> list[Extent]:
    """Return the used bytes of `entries`, in the order of the volume."""
    return sorted(Extent(offset, size) for entry in entries for offset, size in entry.extents)


def digest_of(path: Path, runs: Sequence[Extent]) -> str:
    """Return the digest of the bytes in `runs`, by way of the page cache."""
    digest = blake3()
    with path.open("rb") as file:
        for run in runs:
            for offset in range(run.offset, run.end, CHUNK_BYTES):
                size = min(CHUNK_BYTES, run.end - offset)
                data = os.pread(file.fileno(), size, offset)
                if len(data) != size:
                    return f"ends at {offset}"
                digest.update(data)
    return digest.hexdigest()


def seconds_to_read(path: Path, runs: Sequence[Extent]) -> float:
    """Read what `runs` cover once from the medium, up to 4 MiB at a time; return the seconds."""
    buffer = mmap.mmap(-1, CHUNK_BYTES)
    view = memoryview(buffer)
    started = time.monotonic()
    file = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        for offset, end in list(spans(runs)):
            if os.preadv(file, [view[: end - offset]], offset) != end - offset:
                raise OSError(f"{path} was not read whole at {offset}")
    finally:
        os.close(file)
    return time.monotonic() - started


def spans(runs: Iterable[Extent]) -> Iterator[tuple[int, int]]:
    """Yield (offset, end) of reads of at most 4 MiB that cover `runs`, short gaps included."""
    at, end = -1, -1
    for run in runs:
        if at >= 0 and run.offset - end > _GAP_BYTES:
            yield from _cut(at, end)
            at = -1
        if at < 0:
            at = run.offset
        end = run.end
    if at >= 0:
        yield from _cut(at, end)


def _cut(at: int, end: int) -> Iterator[tuple[int, int]]:
    for offset in range(at, end, CHUNK_BYTES):
        yield offset, min(end, offset + CHUNK_BYTES)


def draw(entries: Sequence[IndexEntry], percent: int) -> list[IndexEntry]:
    """Return so many percent of the chunks that have bytes stored, the same in each run."""
    stored = [entry for entry in entries if entry.pack >= 0]
    count = max(1, round(len(stored) * percent / 100))
    return random.Random(percent).sample(stored, count)


def change(path: Path, entries: Iterable[IndexEntry], seed: int) -> None:
    """Write one page of random bytes into each chunk of `entries`, and see that it is on disk."""
    noise = random.Random(seed)
    with path.open("r+b") as file:
        for entry in entries:
            offset, size = entry.extents[0]
            file.seek(offset)
            file.write(noise.randbytes(min(size, _PAGE)))
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
