"""Sources that are long lists of chunks and little data: what is measured is the bookkeeping."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from agent.model.template import CHUNK_BYTES
from tests.bench.rounds import fresh_file

BLOCK_BYTES: Final = 4096
_SECOND_AT: Final = CHUNK_BYTES // 2


def scattered_source(source: Path, runs: Path, chunks: int, extents: int) -> None:
    """Make a sparse file whose every chunk is another, and the list of what is used of it.

    A chunk has one block that begins with its number, and zeros behind it; with two `extents`,
    a second block lies in the middle of the chunk and is a hole.
    """
    fresh_file(source, chunks * CHUNK_BYTES)
    with source.open("r+b") as file:
        for number in range(chunks):
            file.seek(number * CHUNK_BYTES)
            file.write(_block(number))
    with runs.open("w") as lines:
        lines.writelines(f"{offset} {BLOCK_BYTES}\n" for offset in _offsets(chunks, extents))


def _block(number: int) -> bytes:
    return (number + 1).to_bytes(8, "big").ljust(BLOCK_BYTES, b"\0")


def _offsets(chunks: int, extents: int) -> Iterator[int]:
    for number in range(chunks):
        yield number * CHUNK_BYTES
        if extents > 1:
            yield number * CHUNK_BYTES + _SECOND_AT
