"""The block bitmaps of an ext filesystem, read as they are: flat in the size of the disk.

dumpe2fs and partclone ask libext2fs for each block, one by one: seconds for terabytes of nothing.
A group that was never used has no bitmap to read. Each group's count of free blocks, and the sum of
all, must be those of the descriptors and of the superblock.
"""

import os
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import compress
from operator import sub
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
from agent.units import Extent

_FREE: Final = re.compile("0+")
_ALIKE: Final = re.compile(rb"\x01+|\x00")
"""Neighbouring groups that are free as a whole, or one other group."""


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
    is_free = _chosen(groups, BLOCK_UNINIT)
    for number in (*shape.headed(), *taken, shape.groups - 1):  # the last one may be short
        is_free[number] = 0
    total = 0
    cluster = shape.cluster_blocks
    full = shape.group_blocks // cluster
    bitmaps = disk.read_all(_bitmaps(disk.device, shape, groups))
    size, whole = cluster * shape.block_bytes, shape.blocks * shape.block_bytes
    for alike in _ALIKE.finditer(is_free):
        number, after = alike.span()
        begin = shape.begin(number) * shape.block_bytes
        if is_free[number]:
            claims = groups.free[number:after]
            if claims.count(full) != len(claims):
                bad = next(at for at, claimed in enumerate(claims) if claimed != full)
                raise _disagreement(disk.device, f"group {number + bad} has {claims[bad]}", full)
            total += full * len(claims)
            yield begin, shape.begin(after) * shape.block_bytes
            continue
        count = shape.clusters(number)
        runs: Iterable[tuple[int, int]]
        if groups.flags[number] & BLOCK_UNINIT:
            parts = [(one // cluster, -(-end // cluster)) for one, end in taken.get(number, ())]
            runs = _gaps(parts, -(-shape.head_blocks(number) // cluster), count)
        else:
            runs = _clear_bits(next(bitmaps), count)
        found = 0
        for start, end in runs:
            found += end - start
            yield begin + start * size, min(begin + end * size, whole)
        if found != groups.free[number]:
            claim = f"group {number} has {groups.free[number]}"
            raise _disagreement(disk.device, claim, found)
        total += found
    if total * cluster != shape.free_blocks:
        claim = f"the filesystem has {shape.free_blocks}"
        raise _disagreement(disk.device, claim, total * cluster)


def _bitmaps(device: Path, shape: Shape, groups: Groups) -> Iterator[Extent]:
    """Yield where each block bitmap is, in the order of the groups."""
    for number in compress(range(shape.groups), _chosen(groups, BLOCK_UNINIT, 0)):
        first = groups.bitmap[number]
        if first >= shape.blocks:
            raise SourceUnfit(
                (f"the bitmap of group {number} of {device} is at block {first}, past its end",),
                hint=f"run: e2fsck -f {device}",
            )
        yield Extent(first * shape.block_bytes, -(-shape.clusters(number) // 8))


def _never_written(shape: Shape, groups: Groups) -> Iterator[tuple[int, int]]:
    """Yield (offset, end) of what no program reads as long as the descriptors are as they are."""
    size = shape.block_bytes
    parts = [*_tails(shape, groups, is_zeroed=False)]
    for column, flag in ((groups.bitmap, BLOCK_UNINIT), (groups.inode_bitmap, INODE_UNINIT)):
        for first, end in _joined(compress(column, _chosen(groups, flag)), 1):
            parts.append((first * size, end * size))
    yield from sorted(parts)


def _tails(shape: Shape, groups: Groups, *, is_zeroed: bool) -> Iterator[tuple[int, int]]:
    """Yield (offset, end) of what was never used of tables of inodes; zeros, or whatever was there.

    In order.
    """
    size, whole = shape.block_bytes, shape.table_blocks
    zeroed = INODE_ZEROED if is_zeroed else 0
    unused = _chosen(groups, INODE_UNINIT | INODE_ZEROED, INODE_UNINIT | zeroed)
    parts = [
        (first * size, end * size) for first, end in _joined(compress(groups.table, unused), whole)
    ]
    in_use = _chosen(groups, INODE_UNINIT | INODE_ZEROED, zeroed)
    for table, rest in compress(zip(groups.table, groups.unused_inodes, strict=True), in_use):
        begun = -(-(shape.group_inodes - rest) * shape.inode_bytes // size)
        if 0 <= begun < whole:
            parts.append(((table + begun) * size, (table + whole) * size))
    return iter(sorted(parts))


def _chosen(groups: Groups, mask: int, wanted: int | None = None) -> bytearray:
    """Return a 1 for each group whose flags in `mask` are as `wanted`, or all set; else a 0."""
    wanted = mask if wanted is None else wanted
    return groups.flags.translate(bytes(flags & mask == wanted for flags in range(256)))


def _metadata(shape: Shape, groups: Groups) -> dict[int, list[tuple[int, int]]]:
    """Return which blocks of groups without a bitmap hold bitmaps and inode tables, of any group.

    As (first, end), counted from the group's start.
    """
    taken: dict[int, list[tuple[int, int]]] = {}
    if not any(_chosen(groups, BLOCK_UNINIT)):
        return taken
    for column, size in (
        (groups.bitmap, 1),
        (groups.inode_bitmap, 1),
        (groups.table, shape.table_blocks),
    ):
        for first, end in _joined(column, size):
            while first < end:
                inside = (first - shape.first_block) // shape.group_blocks
                begin = shape.begin(inside)
                stop = min(end, begin + shape.group_blocks)
                if 0 <= inside < shape.groups and groups.flags[inside] & BLOCK_UNINIT:
                    taken.setdefault(inside, []).append((first - begin, stop - begin))
                first = stop
    return taken


def _joined(places: Iterable[int], size: int) -> Iterator[tuple[int, int]]:
    """Yield (first, end) of what has `size` at each of `places`; what follows on another, with it:
    flexible groups put tables side by side."""
    column = array("Q", places)
    steps = enumerate(map(sub, column[1:], column), start=1)
    first = 0
    for number in (*(number for number, step in steps if step != size), len(column)):
        if number:
            yield column[first], column[number - 1] + size
        first = number


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
    mixed = begun.lstrip(b"\xff")
    full = (len(begun) - len(mixed)) * 8
    bits = f"{int.from_bytes(mixed, 'little'):0{len(mixed) * 8}b}"[::-1] if mixed else ""
    tail = bits.rfind("1") + 1
    for found in _FREE.finditer(bits, 0, min(tail, count - full)):
        start, end = found.span()
        yield full + start, full + end
    if full + tail < count:
        yield full + tail, count


def _disagreement(device: Path, claim: str, found: int) -> SourceUnfit:
    return SourceUnfit(
        (f"the bitmaps of {device} are not as described: {claim} free blocks, {found} are free",),
        hint=f"run: e2fsck -f {device}",
    )
