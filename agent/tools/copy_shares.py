"""Copies that share blocks as their sources do: reflinked files are one on the medium again.

FIEMAP says which runs of the source are shared, FIDEDUPERANGE of <linux/fs.h> lets the copies
share: the kernel compares them first, so nothing but their place can change.
"""

import ctypes
import fcntl
import os
import stat
import struct
import sys
import threading
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.errors import AgentError
from agent.system.fiemap import shared_runs
from agent.tools.copy_flags import opened, shown
from agent.tools.copy_walk import below, walk
from agent.units import Extent, MiB

_SHARING: Final = frozenset({0x58465342, 0x9123683E})
"""xfs and btrfs, by <linux/magic.h>. ext4 and the others share nothing."""
_STATFS_BYTES: Final = 256
"""More than the structure has on any machine; the magic number is its first word."""
_MOST: Final = 100_000
"""Runs that are kept in mind; what is beyond stays two copies."""
_FIDEDUPERANGE: Final = 0xC0189436
_RANGE: Final = struct.Struct("=QQHHIqQQiI")
"""The header, and one info."""
_PIECE: Final = 16 * MiB
"""btrfs takes no more in one call."""


@dataclass(frozen=True, slots=True)
class _Known:
    """A run of the source's volume, and where the first file that has it has it."""

    end: int
    path: bytes
    offset: int


def share_again(source: Path, target: Path, stop: threading.Event) -> int:
    """Let the copies in `target` share what the files in `source` do; return the bytes saved.

    Both are mounted, and stay on the one filesystem. What the target does not take, or cannot be
    read again, stays as it was copied. `stop` ends it.
    """
    if not all(_kind(one) in _SHARING for one in (source, target)):
        return 0
    top = os.fsencode(target)
    starts: list[int] = []
    known: dict[int, _Known] = {}
    saved = 0
    for path, offset, extent in _shared_in(os.fsencode(source)):
        if stop.is_set():
            break
        at = extent.offset
        while at < extent.end:
            number = bisect_right(starts, at)
            before = known[starts[number - 1]] if number else None
            place = offset + at - extent.offset
            if before is not None and at < before.end:
                size = min(extent.end, before.end) - at
                there = before.offset + at - starts[number - 1]
                saved += _share(below(top, before.path), there, below(top, path), place, size)
            else:
                following = starts[number] if number < len(starts) else extent.end
                size = min(extent.end, following) - at
                if len(starts) < _MOST:
                    starts.insert(number, at)
                    known[at] = _Known(at + size, path, place)
            at += size
    return saved


def _kind(where: Path) -> int:
    """Return the magic number of the filesystem at `where`, by statfs(2); 0 if it has none."""
    buffer = ctypes.create_string_buffer(_STATFS_BYTES)
    if ctypes.CDLL(None).statfs(os.fsencode(where), buffer):
        return 0
    return int.from_bytes(buffer.raw[: ctypes.sizeof(ctypes.c_long)], sys.byteorder)


def _shared_in(top: bytes) -> Iterator[tuple[bytes, int, Extent]]:
    """Yield (path from `top` on, offset in the file, run of the volume)."""
    with suppress(AgentError):
        for path, found in walk(top):
            if stat.S_ISREG(found.st_mode) and found.st_blocks:
                with suppress(AgentError), opened(below(top, path)) as fd:
                    for offset, extent in shared_runs(fd, shown(path)):
                        yield path, offset, extent


def _share(one: bytes, at: int, other: bytes, place: int, size: int) -> int:
    """Let `other` have the blocks of `one`; return how many bytes of it now do."""
    done = 0
    with suppress(AgentError), opened(one) as source, opened(other) as target:
        size = min(size, os.fstat(source).st_size - at, os.fstat(target).st_size - place)
        while done < size:
            piece = min(_PIECE, size - done)
            asked = _RANGE.pack(at + done, piece, 1, 0, 0, target, place + done, 0, 0, 0)
            try:
                answer = _RANGE.unpack(fcntl.ioctl(source, _FIDEDUPERANGE, asked))
            except OSError:
                return done
            taken, status = answer[7], answer[8]
            if status != 0 or not taken:
                return done
            done += taken
    return done
