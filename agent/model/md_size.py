"""How much an md array holds: of the data areas of its members, and of bare members."""

import re
from collections.abc import Sequence
from typing import Final

from agent.model.nodes import Array, MdLevel, MdMetadata
from agent.units import KiB, MiB, TiB, align_down, align_up

DEFAULT_CHUNK_BYTES: Final = 512 * KiB
"""What mdadm takes where none is asked for."""
_SECTOR: Final = 512
_IMSM_LEVELS: Final = (MdLevel.RAID0, MdLevel.RAID1, MdLevel.RAID5, MdLevel.RAID10)
_IMSM_NAME: Final = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]{0,15})?")
_IMSM_BEHIND: Final = 10402 * 512
"""What is behind a volume: MPB_SECTOR_CNT and IMSM_RESERVED_SECTORS of mdadm's super-intel.c."""
_IN_FRONT: Final = (MdMetadata.V1_1, MdMetadata.V1_2)
_LEAST_FRONT: Final = 256 * KiB
"""Superblock, list of bad blocks and a bitmap; mdadm 3.1 left no more."""
_MIRROR_STEP: Final = 64 * KiB
_V090_STEP: Final = 64 * KiB
_V090_MOST: Final = 2 * TiB
"""Kernels before 3.1 take no more of a member; mdadm lets newer ones have twice that."""
_COPIES: Final = re.compile(r"(near|far|offset)=(\d{1,2})")


def why_not(array: Array) -> str | None:
    """Return why no such array can be started or made here, None if it can."""
    if array.level is MdLevel.RAID0 and array.metadata is MdMetadata.V0_90:
        return "mdadm (4.4) makes no RAID 0 with metadata 0.90"
    if array.level is MdLevel.LINEAR and array.table is not None:
        return "a linear array has no table here: device-mapper, which shows it, shows none"
    return _not_of_intel(array) if array.metadata is MdMetadata.IMSM else None


def _not_of_intel(array: Array) -> str | None:
    if array.level not in _IMSM_LEVELS:
        return "Intel's RAID has levels 0, 1, 5 and 10"
    if not _IMSM_NAME.fullmatch(array.name):
        return f"Intel's RAID gives no volume the name {array.name!r}"
    if array.spares:
        return "spares of Intel's RAID are not made: mdadm --add it when the system runs"
    if None in array.members:
        return (
            "Intel's RAID cannot be made with a member missing: rebuild it on the source; if it is "
            "left from an earlier use of the disk, mdadm --zero-superblock"
        )
    return None


def is_redundant(level: MdLevel) -> bool:
    """Return whether the array bears the loss of a member."""
    return level not in (MdLevel.LINEAR, MdLevel.RAID0)


def copies(layout: str) -> tuple[int, int]:
    """Return the near and the far copies of a RAID10's `layout`; mdadm's default is two near."""
    near, far = 1, 1
    for kind, count in _COPIES.findall(layout):
        if kind == "near":
            near = max(int(count), 1)
        else:
            far = max(int(count), 1)
    return (2, 1) if near == far == 1 else (near, far)


def lost_members(level: MdLevel, slots: int, layout: str = "") -> int:
    """Return how many members may be missing, whichever they are, so that it still runs."""
    match level:
        case MdLevel.LINEAR | MdLevel.RAID0:
            return 0
        case MdLevel.RAID1:
            return slots - 1
        case MdLevel.RAID4 | MdLevel.RAID5:
            return 1
        case MdLevel.RAID6:
            return 2
        case MdLevel.RAID10:
            near, far = copies(layout)
            return near * far - 1


def held_bytes(
    level: MdLevel, layout: str, chunk_bytes: int, slots: int, areas: Sequence[int]
) -> int:
    """Return the size of an array of `slots` members whose data areas are `areas`, in bytes.

    Of a redundant level the smallest counts, so the areas of missing members may be left out.
    """
    if not areas:
        return 0
    step = chunk_bytes if level is not MdLevel.RAID1 and chunk_bytes else _SECTOR
    whole = [align_down(max(area, 0), step) for area in areas]
    least = min(whole)
    match level:
        case MdLevel.LINEAR | MdLevel.RAID0:
            return sum(whole)
        case MdLevel.RAID1:
            return least
        case MdLevel.RAID4 | MdLevel.RAID5:
            return least * (slots - 1)
        case MdLevel.RAID6:
            return least * (slots - 2)
        case MdLevel.RAID10:
            near, far = copies(layout)
            return least // step // far * slots // near * step


def usable_bytes(array: Array, member_sizes: Sequence[int]) -> int:
    """Return what `array`, made anew on members of these sizes in bytes, has at the least.

    Spares are not among the sizes. 0: they are too small.
    """
    chunk = array.chunk_bytes or DEFAULT_CHUNK_BYTES
    front = max((_data_offset(size, chunk) for size in member_sizes), default=0)
    areas = [_area(array.metadata, size, front) for size in member_sizes]
    if array.level is MdLevel.RAID1:
        areas = [align_down(area, _MIRROR_STEP) for area in areas]
    elif array.level is MdLevel.LINEAR:
        areas = [align_down(area, max(array.chunk_bytes, 4 * KiB)) for area in areas]
    return _held(array, areas)


def earlier_offset(
    array: Array, member_sizes: Sequence[int], offset: int, missing: int
) -> int | None:
    """Return where the data must begin so that `array` holds `missing` bytes more.

    All in bytes; they begin at `offset` now. None: nowhere is early enough, or the superblock is
    not in front of them.
    """
    if array.metadata not in _IN_FRONT:
        return None

    def held(at: int) -> int:
        return _held(array, [size - at for size in member_sizes])

    enough = held(offset) + missing
    places = (*range(align_down(offset, MiB), 0, -MiB), _LEAST_FRONT)
    return next((at for at in places if at < offset and held(at) >= enough), None)


def _held(array: Array, areas: Sequence[int]) -> int:
    chunk = array.chunk_bytes or DEFAULT_CHUNK_BYTES
    return held_bytes(array.level, array.layout, chunk, len(array.members), areas)


def _area(metadata: MdMetadata, size: int, front: int) -> int:
    """Return how much of a member is left for data, as mdadm reckons."""
    match metadata:
        case MdMetadata.V0_90:
            return min(v090_bytes(size), _V090_MOST)
        case MdMetadata.V1_0:
            # The superblock and its place, the list of bad blocks, the bitmap.
            return max(align_down(size, 4 * KiB) - 12 * KiB - _bitmap_room(size), 0)
        case MdMetadata.V1_1 | MdMetadata.V1_2:
            return max(align_down(size, _SECTOR) - front, 0)
        case MdMetadata.IMSM:
            return max(align_down(size - _IMSM_BEHIND, MiB), 0)


def v090_bytes(size: int) -> int:
    """Return what metadata 0.90, in a member's last whole 64 KiB, leaves in front of it."""
    return max(align_down(size, _V090_STEP) - _V090_STEP, 0)


def _data_offset(size: int, chunk: int) -> int:
    """Return where mdadm lets the data begin behind a superblock in front.

    It leaves a thousandth for a later reshape, 128 MiB at most; not less than two chunks.
    """
    headroom = 128 * MiB
    while headroom * 1024 > size and headroom // 2 >= 2 * chunk:
        headroom //= 2
    return align_up(12 * KiB + _bitmap_room(size) + headroom, MiB)


def _bitmap_room(size: int) -> int:
    if size < 64 * KiB:
        return 0
    if size - 64 * KiB >= 200 * 1024 * MiB:
        return 128 * KiB
    return 64 * KiB if size - 4 * KiB > 8 * 1024 * MiB else 4 * KiB
