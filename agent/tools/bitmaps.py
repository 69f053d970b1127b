"""Bitmaps of what is used: runs of clear bits, in order, in little memory."""

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from agent.errors import DiskError

PIECE_BYTES: Final = 64 * 1024
_FREE: Final = re.compile("0+")
_MIRRORED: Final = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def mirrored(bitmap: bytes) -> bytes:
    """Return `bitmap` with the bits of each byte in the other order."""
    return bitmap.translate(_MIRRORED)


def clear_runs(pieces: Iterable[bytes], count: int) -> Iterator[tuple[int, int]]:
    """Yield (first, end) of each run of zeros among the first `count` bits of all `pieces`.

    The lowest bit of each byte is the first. Raises ValueError if there are fewer bits.
    """
    at, begin, end = 0, 0, 0
    for piece in pieces:
        if at >= count:
            break
        here = min(len(piece) * 8, count - at)
        for first, last in _clear(piece, here):
            if at + first != end or end == begin:
                if end > begin:
                    yield begin, end
                begin = at + first
            end = at + last
        at += here
    if at < count:
        raise ValueError(f"a bitmap of {at} bits where {count} are needed")
    if end > begin:
        yield begin, end


def _clear(piece: bytes, count: int) -> Iterator[tuple[int, int]]:
    if not any(piece):
        yield 0, count
        return
    if piece.count(0xFF) == len(piece):
        return
    bits = f"{int.from_bytes(piece, 'little'):0{len(piece) * 8}b}"[::-1]
    for found in _FREE.finditer(bits, 0, count):
        yield found.span()


def read_at(fd: int, offset: int, size: int, device: Path) -> bytes:
    """Return exactly `size` bytes of `device`. Raises DiskError if it has fewer."""
    try:
        data = os.pread(fd, size, offset)
    except OSError as error:
        raise DiskError(f"cannot read {device} at {offset}: {error.strerror}") from error
    if len(data) != size:
        raise DiskError(f"{device} ends at {offset + len(data)}, too soon")
    return data
