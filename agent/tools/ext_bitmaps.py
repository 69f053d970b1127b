"""The block bitmaps of an ext filesystem, read as they are: flat in the size of the disk.

dumpe2fs and partclone ask libext2fs for each block, one by one: seconds for terabytes of nothing.
A group that was never used has no bitmap to read. Each group's count of free blocks, and the sum of
all, must be those of the descriptors and of the superblock.
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.errors import SourceUnfit
from agent.model.extents import Extents
from agent.system import block
from agent.tools.ext_groups import (
    BLOCK_UNINIT,
    INODE_UNINIT,
    INODE_ZEROED,
    Groups,
    Reader,
    Shape,
    read_groups,
    read_shape,
)

_FREE: Final = re.compile("0+")


@dataclass(frozen=True, slots=True)
class ExtMap:
    """What an ext filesystem uses, as three sets of bytes."""

    used: Extents
    """What its bitmaps say, or would say where a group has none."""
    kept: Extents
    """The same without what was never written, and is never read: bitmaps that a group does not
    have, and parts of the tables of inodes. mke2fs leaves there what the disk held before."""
    zeros: Extents
    """The parts of `kept` that are zeros by the descriptors: tables of inodes, never used."""


def ext_map(device: Path) -> ExtMap:
    """Return what is used of the ext filesystem on `device`, opened for reading only.

    Blocks before the first group, where boot code lies, are used. Raises SourceUnfit where bitmaps,
    group descriptors and superblock disagree.
    """
    with block.opened(device, os.O_RDONLY) as fd:
        disk = Reader(fd, device)
        shape = read_shape(disk)
        groups = read_groups(disk, shape)
        size = shape.blocks * shape.block_bytes
        used = Extents.between(_free_bounds(disk, shape, groups), size)
        if not any(groups.flags):
            return ExtMap(used, used, Extents())
        try:
            never = Extents.of_bounds(_never_written(shape, groups))
            zeros = Extents.of_bounds(_tails(shape, groups, is_zeroed=True))
        except ValueError as error:
            raise SourceUnfit(
                (f"two groups of {device} claim the same blocks for themselves",),
                hint=f"run: e2fsck -f {device}",
            ) from error
        return ExtMap(used, used.without(never), zeros)


def _free_bounds(disk: Reader, shape: Shape, groups: Groups) -> Iterator[tuple[int, int]]:
    """Yield the free runs as (offset, end) in bytes, in order; check every count.

    Runs of a group are counted in clusters from its start, as bitmaps and descriptors do.
    """
    taken = _metadata(shape, groups)
    total = 0
    first = shape.first_block
    cluster = shape.cluster_blocks
    size, whole = cluster * shape.block_bytes, shape.blocks * shape.block_bytes
    for number, (claimed, flags) in enumerate(zip(groups.free, groups.flags, strict=True)):
        count = -(-min(shape.group_blocks, shape.blocks - first) // cluster)
        begin = first * shape.block_bytes
        runs: Iterable[tuple[int, int]]
        if flags & BLOCK_UNINIT:
            parts = [(one // cluster, -(-end // cluster)) for one, end in taken.get(number, ())]
            runs = _without(parts, -(-shape.head_blocks(number) // cluster), count)
        else:
            at = groups.bitmap[number] * shape.block_bytes
            runs = _clear_bits(disk.read(at, -(-count // 8)), count)
        found = 0
        for start, end in runs:
            found += end - start
            yield begin + start * size, min(begin + end * size, whole)
        if found != claimed:
            raise _disagreement(disk.device, f"group {number} has {claimed}", found)
        total += found
        first += shape.group_blocks
    if total * cluster != shape.free_blocks:
        claim = f"the filesystem has {shape.free_blocks}"
        raise _disagreement(disk.device, claim, total * cluster)


def _never_written(shape: Shape, groups: Groups) -> Iterator[tuple[int, int]]:
    """Yield (offset, end) of what no program reads as long as the descriptors are as they are."""

    def bitmaps(column: Sequence[int], flag: int) -> Iterator[tuple[int, int]]:
        for place, flags in zip(column, groups.flags, strict=True):
            if flags & flag:
                yield place * shape.block_bytes, (place + 1) * shape.block_bytes

    parts = [
        *_joined(bitmaps(groups.bitmap, BLOCK_UNINIT)),
        *_joined(bitmaps(groups.inode_bitmap, INODE_UNINIT)),
        *_tails(shape, groups, is_zeroed=False),
    ]
    yield from sorted(parts)


def _tails(shape: Shape, groups: Groups, *, is_zeroed: bool) -> Iterator[tuple[int, int]]:
    """Yield (offset, end) of what was never used of tables of inodes; zeros, or whatever was there.

    In order, those that touch as one.
    """

    def tails() -> Iterator[tuple[int, int]]:
        size, whole = shape.block_bytes, shape.table_blocks
        columns = zip(groups.table, groups.flags, groups.unused_inodes, strict=True)
        for table, flags, unused in columns:
            if bool(flags & INODE_ZEROED) != is_zeroed:
                continue
            in_use = shape.group_inodes - unused
            begun = 0 if flags & INODE_UNINIT else -(-in_use * shape.inode_bytes // size)
            if 0 <= begun < whole:
                yield (table + begun) * size, (table + whole) * size

    return iter(sorted(_joined(tails())))


def _metadata(shape: Shape, groups: Groups) -> dict[int, list[tuple[int, int]]]:
    """Return which blocks of groups without a bitmap hold bitmaps and inode tables, of any group.

    As (first, end), counted from the group's start.
    """
    taken: dict[int, list[tuple[int, int]]] = {}
    if not any(flags & BLOCK_UNINIT for flags in groups.flags):
        return taken
    for column, size in (
        (groups.bitmap, 1),
        (groups.inode_bitmap, 1),
        (groups.table, shape.table_blocks),
    ):
        for first, end in _joined((first, first + size) for first in column):
            while first < end:
                inside = (first - shape.first_block) // shape.group_blocks
                begin = shape.begin(inside)
                stop = min(end, begin + shape.group_blocks)
                if 0 <= inside < shape.groups and groups.flags[inside] & BLOCK_UNINIT:
                    taken.setdefault(inside, []).append((first - begin, stop - begin))
                first = stop
    return taken


def _joined(runs: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield `runs` with neighbours that touch as one: flexible groups put tables side by side."""
    first = end = -1
    for begin, stop in runs:
        if begin != end:
            if first >= 0:
                yield first, end
            first = begin
        end = stop
    if first >= 0:
        yield first, end


def _without(taken: Sequence[tuple[int, int]], head: int, count: int) -> Iterable[tuple[int, int]]:
    if not taken and head < count:
        return ((head, count),)
    return _gaps(taken, head, count)


def _gaps(taken: Sequence[tuple[int, int]], head: int, count: int) -> Iterator[tuple[int, int]]:
    at = head
    for first, end in sorted(taken):
        if first > at:
            yield at, first
        at = max(at, end)
    if at < count:
        yield at, count


def _clear_bits(bitmap: bytes, count: int) -> Iterator[tuple[int, int]]:
    """Yield the runs of zeros among the first `count` bits, the lowest of each byte first."""
    begun = bitmap.rstrip(b"\0")
    bits = f"{int.from_bytes(begun, 'little'):0{len(begun) * 8}b}"[::-1] if begun else ""
    tail = bits.rfind("1") + 1
    for found in _FREE.finditer(bits, 0, min(tail, count)):
        yield found.span()
    if tail < count:
        yield tail, count


def _disagreement(device: Path, claim: str, found: int) -> SourceUnfit:
    return SourceUnfit(
        (f"the bitmaps of {device} are not as described: {claim} free blocks, {found} are free",),
        hint=f"run: e2fsck -f {device}",
    )
