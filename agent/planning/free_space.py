"""Geometry of a GPT disk, as functions. Bytes in, bytes out."""

from collections.abc import Iterable
from itertools import pairwise
from typing import Final

from agent.units import Extent, MiB, align_down, align_up

ALIGNMENT: Final = MiB
_ENTRY_ARRAY_BYTES: Final = 128 * 128


def entry_array_bytes(sector_bytes: int) -> int:
    """Return the room that 128 partition entries take, in whole sectors."""
    return align_up(_ENTRY_ARRAY_BYTES, sector_bytes)


def usable(disk_bytes: int, sector_bytes: int) -> Extent:
    """Return the run between the two GPT copies. Raises ValueError if there is none.

    In front lie the protective MBR, the header and the entries; behind, entries and header.
    """
    head = 2 * sector_bytes + entry_array_bytes(sector_bytes)
    tail = sector_bytes + entry_array_bytes(sector_bytes)
    end = align_down(disk_bytes, sector_bytes) - tail
    return Extent(head, end - head)


def free_extents(disk_bytes: int, sector_bytes: int, used: Iterable[Extent]) -> list[Extent]:
    """Return the unused runs in disk order, on 1 MiB boundaries.

    The first MiB and the backup GPT are never free. A run shorter than 1 MiB is left out.
    """
    room = usable(disk_bytes, sector_bytes)
    at = ALIGNMENT
    free = []
    for extent in [*sorted(used), Extent(room.end, 1)]:
        start, end = align_up(at, ALIGNMENT), align_down(min(extent.offset, room.end), ALIGNMENT)
        if end > start:
            free.append(Extent(start, end - start))
        at = max(at, extent.end)
    return free


def grown_end(disk_bytes: int, sector_bytes: int, behind: int = 0) -> int:
    """Return where a partition ends that takes the rest of the disk but `behind` bytes.

    The end is on a 1 MiB boundary, and so is what lies behind it.
    """
    room = usable(disk_bytes, sector_bytes)
    return align_down(room.end - align_up(behind, ALIGNMENT), ALIGNMENT)


def overlaps(extents: Iterable[Extent]) -> list[tuple[Extent, Extent]]:
    """Return each pair of neighbours, in disk order, that share bytes."""
    ordered = sorted(extents)
    return [(one, other) for one, other in pairwise(ordered) if other.offset < one.end]


def both_ends(extent: Extent, edge_bytes: int) -> tuple[Extent, ...]:
    """Return the first and the last `edge_bytes` of `extent`: one run if they meet."""
    if extent.size <= 2 * edge_bytes:
        return (extent,)
    return (
        Extent(extent.offset, edge_bytes),
        Extent(extent.end - edge_bytes, edge_bytes),
    )
