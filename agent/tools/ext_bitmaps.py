"""The block bitmaps of an ext filesystem, read as they are: flat in the size of the disk.

dumpe2fs and partclone ask libext2fs for each block, one by one: seconds for terabytes of nothing.
A group that was never used has no bitmap to read. Each group's count of free blocks, and the sum of
all, must be those of the descriptors and of the superblock.
"""

import os
import re
import struct
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.errors import DiskError, SourceUnfit
from agent.model.extents import Extents
from agent.system import block

_SUPER_AT: Final = 1024
_MAGIC: Final = 0xEF53
_SPARSE_SUPER2: Final = 0x200  # compatible
_META_BG: Final = 0x10  # incompatible, as is the next
_64BIT: Final = 0x80
_SPARSE_SUPER: Final = 0x1  # read-only compatible, as are the next two
_GDT_CSUM: Final = 0x10
_METADATA_CSUM: Final = 0x400
_BLOCK_UNINIT: Final = 0x2
_MAX_BLOCK_BYTES: Final = 65536
_WINDOW_BYTES: Final = 64 * 1024
"""Bitmaps of neighbouring groups mostly lie side by side."""
_FREE: Final = re.compile("0+")
_POWERS: Final = frozenset(base**power for base in (3, 5, 7) for power in range(1, 21))
"""Groups with a copy of the superblock where copies are sparse."""
_NARROW: Final = "<IIIH4xH12x"
"""Block bitmap, inode bitmap, inode table, free blocks, flags; `_WIDE` has their upper halves."""
_WIDE: Final = "IIIH18x"


@dataclass(frozen=True, slots=True)
class _Shape:
    """The numbers of a superblock that say where things are. In blocks, if nothing else."""

    block_bytes: int
    blocks: int
    free_blocks: int
    first_block: int
    group_blocks: int
    table_blocks: int
    """Of each group's inodes."""
    descriptor_bytes: int
    reserved: int
    first_meta_group: int | None
    """None: all descriptors lie together, and copies of them in several groups."""
    backups: tuple[int, int] | None
    is_sparse: bool
    may_be_uninit: bool

    @property
    def groups(self) -> int:
        return -(-(self.blocks - self.first_block) // self.group_blocks)

    @property
    def per_block(self) -> int:
        """Descriptors in one block."""
        return self.block_bytes // self.descriptor_bytes

    def begin(self, group: int) -> int:
        return self.first_block + group * self.group_blocks

    def length(self, group: int) -> int:
        return min(self.group_blocks, self.blocks - self.begin(group))

    def has_super(self, group: int) -> bool:
        if self.backups is not None:
            return group == 0 or group in self.backups
        return not self.is_sparse or group <= 1 or group in _POWERS

    def head_blocks(self, group: int) -> int:
        """Return how many blocks superblock and descriptors take at the start of `group`."""
        has_super = self.has_super(group)
        meta = group // self.per_block
        if self.first_meta_group is None or meta < self.first_meta_group:
            if not has_super:
                return 0
            tables = self.first_meta_group
            if tables is None:
                tables = -(-self.groups // self.per_block) + self.reserved
            return 1 + tables
        place = group % self.per_block
        return has_super + (place in (0, 1, self.per_block - 1))

    def descriptors_at(self, meta: int) -> int:
        """Return the block with the descriptors of the groups from `meta` * `per_block` on."""
        if self.first_meta_group is None or meta < self.first_meta_group:
            return self.first_block + 1 + meta
        group = meta * self.per_block
        return self.begin(group) + self.has_super(group)


class _Groups:
    """What the descriptors say, in columns: a large disk has a hundred thousand groups."""

    def __init__(self) -> None:
        self.bitmap = array("Q")
        self.inode_bitmap = array("Q")
        self.table = array("Q")
        self.free = array("L")
        self.is_uninit = bytearray()

    def add(self, data: bytes, shape: _Shape) -> None:
        """Add the descriptors in `data`, one after the other."""
        uninit = _BLOCK_UNINIT if shape.may_be_uninit else 0
        wide = shape.descriptor_bytes >= 64
        layout = f"{_NARROW}{_WIDE}{shape.descriptor_bytes - 64}x" if wide else _NARROW
        for found in struct.iter_unpack(layout, data):
            bitmap, inodes, table, free, flags = found[:5]
            if wide:
                bitmap |= found[5] << 32
                inodes |= found[6] << 32
                table |= found[7] << 32
                free |= found[8] << 16
            self.bitmap.append(bitmap)
            self.inode_bitmap.append(inodes)
            self.table.append(table)
            self.free.append(free)
            self.is_uninit.append(bool(flags & uninit))


def used_extents(device: Path) -> Extents:
    """Return the used runs of the ext filesystem on `device`, opened for reading only.

    It has no bigalloc. Blocks before the first group, where boot code lies, are used. Raises
    SourceUnfit where bitmaps, group descriptors and superblock disagree.
    """
    with block.opened(device, os.O_RDONLY) as fd:
        disk = _Reader(fd, device)
        shape = _parse_super(disk.read(_SUPER_AT, 1024), device)
        free = _free_bounds(disk, shape, _read_groups(disk, shape))
        return Extents.between(free, shape.blocks * shape.block_bytes)


def _parse_super(data: bytes, device: Path) -> _Shape:
    def number(at: int, kind: str = "<I") -> int:
        return int(struct.unpack_from(kind, data, at)[0])

    compat, incompat, ro_compat = number(0x5C), number(0x60), number(0x64)
    block_bytes = 1024 << min(number(0x18), 10)
    wide = incompat & _64BIT
    inode_bytes = number(0x58, "<H") if number(0x4C) else 128
    shape = _Shape(
        block_bytes=block_bytes,
        blocks=number(0x4) | (number(0x150) << 32 if wide else 0),
        free_blocks=number(0xC) | (number(0x158) << 32 if wide else 0),
        first_block=number(0x14),
        group_blocks=number(0x20),
        table_blocks=-(-number(0x28) * inode_bytes // block_bytes),
        descriptor_bytes=number(0xFE, "<H") if wide else 32,
        reserved=number(0xCE, "<H"),
        first_meta_group=number(0x104) if incompat & _META_BG else None,
        backups=(number(0x24C), number(0x250)) if compat & _SPARSE_SUPER2 else None,
        is_sparse=bool(ro_compat & _SPARSE_SUPER),
        may_be_uninit=bool(ro_compat & (_GDT_CSUM | _METADATA_CSUM)),
    )
    if (
        number(0x38, "<H") != _MAGIC
        or block_bytes > _MAX_BLOCK_BYTES
        or not 0 < shape.group_blocks <= 8 * block_bytes
        or shape.descriptor_bytes not in (32, 64, 128, 256, 512, 1024)
        or not shape.first_block < shape.blocks <= block.size_bytes(device) // block_bytes
    ):
        raise SourceUnfit((f"the superblock of {device} cannot be right",))
    return shape


def _read_groups(disk: "_Reader", shape: _Shape) -> _Groups:
    groups, left = _Groups(), shape.groups
    for meta in range(-(-left // shape.per_block)):
        data = disk.read(shape.descriptors_at(meta) * shape.block_bytes, shape.block_bytes)
        groups.add(data[: min(left, shape.per_block) * shape.descriptor_bytes], shape)
        left -= shape.per_block
    return groups


def _free_bounds(disk: "_Reader", shape: _Shape, groups: _Groups) -> Iterator[tuple[int, int]]:
    """Yield the free runs as (offset, end) in bytes, in order; check every count."""
    taken = _metadata(shape, groups)
    total = 0
    for number, claimed in enumerate(groups.free):
        first, count = shape.begin(number), shape.length(number)
        if groups.is_uninit[number]:
            head = shape.head_blocks(number)
            runs = _without(taken.get(number, ()), head, count)
        else:
            at = groups.bitmap[number] * shape.block_bytes
            runs = _clear_bits(disk.read(at, -(-count // 8)), count)
        found = 0
        for start, end in runs:
            found += end - start
            yield (first + start) * shape.block_bytes, (first + end) * shape.block_bytes
        if found != claimed:
            raise _disagreement(disk.device, f"group {number} has {claimed}", found)
        total += found
    if total != shape.free_blocks:
        raise _disagreement(disk.device, f"the filesystem has {shape.free_blocks}", total)


def _metadata(shape: _Shape, groups: _Groups) -> dict[int, list[tuple[int, int]]]:
    """Return which blocks of groups without a bitmap hold bitmaps and inode tables, of any group.

    As (first, end), counted from the group's start.
    """
    taken: dict[int, list[tuple[int, int]]] = {}
    if not any(groups.is_uninit):
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
                if 0 <= inside < shape.groups and groups.is_uninit[inside]:
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
    if not any(bitmap):
        yield 0, count
        return
    bits = f"{int.from_bytes(bitmap, 'little'):0{len(bitmap) * 8}b}"[::-1]
    for found in _FREE.finditer(bits, 0, count):
        yield found.span()


def _disagreement(device: Path, claim: str, found: int) -> SourceUnfit:
    return SourceUnfit(
        (f"the bitmaps of {device} are not as described: {claim} free blocks, {found} are free",),
        hint=f"run: e2fsck -f {device}",
    )


class _Reader:
    """Reads small pieces of one device; neighbours come out of one read."""

    def __init__(self, fd: int, device: Path) -> None:
        self.device = device
        self._fd = fd
        self._at = 0
        self._window = b""

    def read(self, offset: int, size: int) -> bytes:
        start = offset - self._at
        if not 0 <= start <= len(self._window) - size:
            try:
                self._window = os.pread(self._fd, max(size, _WINDOW_BYTES), offset)
            except OSError as error:
                raise DiskError(
                    f"cannot read {self.device} at {offset}: {error.strerror}"
                ) from error
            self._at, start = offset, 0
            if len(self._window) < size:
                raise DiskError(f"{self.device} ends at {offset + len(self._window)}, too soon")
        return self._window[start : start + size]
