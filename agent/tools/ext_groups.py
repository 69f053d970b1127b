"""The superblock and the group descriptors of an ext filesystem, read as they are.

The format: Linux, Documentation/filesystems/ext4, super.rst, group_descr.rst and checksums.rst.
"""

import os
import struct
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Final, Literal

from agent.errors import DiskError, SourceUnfit
from agent.system import block
from agent.units import Extent

_SUPER_AT: Final = 1024
_MAGIC: Final = 0xEF53
_SPARSE_SUPER2: Final = 0x200  # compatible
_META_BG: Final = 0x10  # incompatible, as are the next two
_64BIT: Final = 0x80
_CSUM_SEED: Final = 0x2000
_SPARSE_SUPER: Final = 0x1  # read-only compatible, as are the next three
_GDT_CSUM: Final = 0x10
_BIGALLOC: Final = 0x200
_METADATA_CSUM: Final = 0x400
INODE_UNINIT: Final = 0x1
"""Flags of a group, as are the next two: it has no bitmap of inodes, and no inode in use."""
BLOCK_UNINIT: Final = 0x2
"""It has no bitmap of blocks: in use is what the layout of the filesystem says."""
INODE_ZEROED: Final = 0x4
"""What was never used of its table of inodes is zeros."""
_MAX_BLOCK_BYTES: Final = 65536
_WINDOW_BYTES: Final = 64 * 1024
"""Bitmaps of neighbouring groups mostly lie side by side."""
_BATCH: Final = 4096
"""Groups whose descriptors are taken at once."""
_AHEAD: Final = 256
"""Places that a disk is asked for at once: it reads them in its own order, and side by side."""
_POWERS: Final = frozenset(base**power for base in (3, 5, 7) for power in range(1, 21))
"""Groups with a copy of the superblock where copies are sparse."""
_FLAGS_AT: Final = 0x12
_CHECKSUM_AT: Final = 0x1E
_CRC32C: Final = 0x82F63B78  # reflected, as is the next
_CRC16: Final = 0xA001


@dataclass(frozen=True, slots=True)
class Shape:
    """The numbers of a superblock that say where things are. In blocks, if nothing else."""

    block_bytes: int
    blocks: int
    free_blocks: int
    first_block: int
    group_blocks: int
    cluster_blocks: int
    """What a bit of a bitmap stands for, and what a group counts its free space in: with bigalloc,
    more than one."""
    group_inodes: int
    inode_bytes: int
    descriptor_bytes: int
    reserved: int
    first_meta_group: int | None
    """None: all descriptors lie together, and copies of them in several groups."""
    backups: tuple[int, int] | None
    is_sparse: bool
    crc: int | None
    """The polynomial of the descriptors' checksums; without them, flags of a group say nothing."""
    crc_start: int

    @property
    def table_blocks(self) -> int:
        """Return the blocks of each group's table of inodes."""
        return -(-self.group_inodes * self.inode_bytes // self.block_bytes)

    @property
    def groups(self) -> int:
        return -(-(self.blocks - self.first_block) // self.group_blocks)

    @property
    def per_block(self) -> int:
        """Descriptors in one block."""
        return self.block_bytes // self.descriptor_bytes

    @property
    def super_block(self) -> int:
        """Return the block that the superblock is in: with bigalloc, block 0 may be before it."""
        return max(self.first_block, _SUPER_AT // self.block_bytes)

    def begin(self, group: int) -> int:
        return self.first_block + group * self.group_blocks

    def clusters(self, group: int) -> int:
        """Return how many `group` has: the last one may be short."""
        return -(-min(self.group_blocks, self.blocks - self.begin(group)) // self.cluster_blocks)

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

    def headed(self) -> Iterator[int]:
        """Yield each group of which `head_blocks` is not 0; in no order, some of them twice."""
        backups = range(self.groups) if not self.is_sparse else (1, *_POWERS)
        yield from (group for group in (0, *(self.backups or backups)) if group < self.groups)
        if self.first_meta_group is not None:
            step = self.per_block
            for first in range(self.first_meta_group * step, self.groups, step):
                places = (first, first + 1, first + step - 1)
                yield from (group for group in places if group < self.groups)

    def descriptors_at(self, meta: int) -> int:
        """Return the block with the descriptors of the groups from `meta` * `per_block` on."""
        if self.first_meta_group is None or meta < self.first_meta_group:
            return self.super_block + 1 + meta
        group = meta * self.per_block
        return self.begin(group) + self.has_super(group)


class Groups:
    """What the descriptors say, in columns: a large disk has a hundred thousand groups."""

    def __init__(self) -> None:
        self.bitmap = array("Q")
        self.inode_bitmap = array("Q")
        self.table = array("Q")
        self.free = array("I")
        self.unused_inodes = array("I")
        """Inodes at the end of the table that were never used."""
        self.flags = bytearray()

    def add(self, data: bytes, shape: Shape) -> None:
        """Add the descriptors in `data`, one after the other."""
        size = shape.descriptor_bytes
        self.bitmap += _column("Q", data, size, 0x0, 0x20)
        self.inode_bitmap += _column("Q", data, size, 0x4, 0x24)
        self.table += _column("Q", data, size, 0x8, 0x28)
        self.free += _column("I", data, size, 0xC, 0x2C)
        unused = _column("I", data, size, 0x1C, 0x32)
        self.unused_inodes += unused if shape.crc else array("I", bytes(4 * len(unused)))
        known = INODE_UNINIT | BLOCK_UNINIT | INODE_ZEROED if shape.crc else 0
        self.flags += data[_FLAGS_AT::size].translate(bytes(flags & known for flags in range(256)))


def _column(kind: Literal["Q", "I"], data: bytes, size: int, low: int, high: int) -> "array[int]":
    """Return a number of each descriptor of `size` bytes in `data`: its halves are at `low` and
    `high`, if it reaches so far."""
    column = array(kind, bytes(array(kind).itemsize * (len(data) // size)))
    half: Literal["I", "H"] = "I" if kind == "Q" else "H"
    halves, words = memoryview(column).cast("B").cast(half), memoryview(data).cast(half)
    width = halves.itemsize
    halves[::2] = words[low // width :: size // width]
    if high < size:
        halves[1::2] = words[high // width :: size // width]
    return column


class Reader:
    """Reads small pieces of one device; a neighbour, and those behind it, come out of one read."""

    def __init__(self, fd: int, device: Path) -> None:
        self.device = device
        self._fd = fd
        self._at = 0
        self._end = -1
        """Where what was asked for last ended: what begins there may go on so."""
        self._window = b""

    def read(self, offset: int, size: int) -> bytes:
        start = offset - self._at
        ahead = _WINDOW_BYTES if offset == self._end else 0
        self._end = offset + size
        if not 0 <= start <= len(self._window) - size:
            try:
                self._window = os.pread(self._fd, max(size, ahead), offset)
            except OSError as error:
                raise DiskError(
                    f"cannot read {self.device} at {offset}: {error.strerror}"
                ) from error
            self._at, start = offset, 0
            if len(self._window) < size:
                raise DiskError(f"{self.device} ends at {offset + len(self._window)}, too soon")
        return self._window[start : start + size]

    def read_all(self, places: Iterable[Extent]) -> Iterator[bytes]:
        """Yield what is at each of `places`; the disk hears of many ahead."""
        left = iter(places)
        while some := tuple(islice(left, _AHEAD)):
            block.expect(self._fd, some)
            for place in some:
                yield self.read(place.offset, place.size)


def read_shape(disk: Reader) -> Shape:
    """Return what the superblock says. Raises SourceUnfit if it cannot be right."""
    data = disk.read(_SUPER_AT, 1024)

    def number(at: int, kind: str = "<I") -> int:
        return int(struct.unpack_from(kind, data, at)[0])

    compat, incompat, ro_compat = number(0x5C), number(0x60), number(0x64)
    block_bytes = 1024 << min(number(0x18), 10)
    wide = incompat & _64BIT
    crc, start = None, 0
    if ro_compat & _METADATA_CSUM:
        seed = (
            number(0x270) if incompat & _CSUM_SEED else _crc(_CRC32C, 0xFFFFFFFF, data[0x68:0x78])
        )
        crc, start = _CRC32C, seed
    elif ro_compat & _GDT_CSUM:
        crc, start = _CRC16, _crc(_CRC16, 0xFFFF, data[0x68:0x78])
    shape = Shape(
        block_bytes=block_bytes,
        blocks=number(0x4) | (number(0x150) << 32 if wide else 0),
        free_blocks=number(0xC) | (number(0x158) << 32 if wide else 0),
        first_block=number(0x14),
        group_blocks=number(0x20),
        cluster_blocks=1 << max(0, min(number(0x1C) - number(0x18), 16))
        if ro_compat & _BIGALLOC
        else 1,
        group_inodes=number(0x28),
        inode_bytes=number(0x58, "<H") if number(0x4C) else 128,
        descriptor_bytes=number(0xFE, "<H") if wide else 32,
        reserved=number(0xCE, "<H"),
        first_meta_group=number(0x104) if incompat & _META_BG else None,
        backups=(number(0x24C), number(0x250)) if compat & _SPARSE_SUPER2 else None,
        is_sparse=bool(ro_compat & _SPARSE_SUPER),
        crc=crc,
        crc_start=start,
    )
    if (
        number(0x38, "<H") != _MAGIC
        or block_bytes > _MAX_BLOCK_BYTES
        or not 0 < shape.group_blocks <= 8 * block_bytes * shape.cluster_blocks
        or shape.group_blocks % shape.cluster_blocks
        or (shape.cluster_blocks > 1 and shape.first_block)
        or not 0 < shape.group_inodes <= 8 * block_bytes
        or shape.descriptor_bytes not in (32, 64, 128, 256, 512, 1024)
        or not shape.first_block < shape.blocks <= block.size_bytes(disk.device) // block_bytes
    ):
        raise SourceUnfit((f"the superblock of {disk.device} cannot be right",))
    return shape


def read_groups(disk: Reader, shape: Shape) -> Groups:
    """Return all descriptors. Raises SourceUnfit where one does not have its checksum."""
    groups, waiting, first = Groups(), bytearray(), 0
    for meta in range(-(-shape.groups // shape.per_block)):
        at = shape.descriptors_at(meta) * shape.block_bytes
        left = shape.groups - meta * shape.per_block
        data = disk.read(at, shape.block_bytes)
        waiting += data[: min(left, shape.per_block) * shape.descriptor_bytes]
        count = len(waiting) // shape.descriptor_bytes
        if count >= _BATCH or left <= shape.per_block:
            descriptors = bytes(waiting)
            if (bad := wrong_checksum(descriptors, first, shape)) is not None:
                raise SourceUnfit(
                    (f"group {bad} of {disk.device} is not as its checksum says",),
                    hint=f"run: e2fsck -f {disk.device}",
                )
            groups.add(descriptors, shape)
            first += count
            waiting.clear()
    return groups


def wrong_checksum(data: bytes, first: int, shape: Shape) -> int | None:
    """Return the first group whose descriptor in `data`, from group `first` on, has another.

    A checksum is made of the group's number and its descriptor. It is linear: each byte adds what
    its value does at its place, so all groups are done at once, a column of bytes after another.
    """
    if shape.crc is None:
        return None
    size = shape.descriptor_bytes
    count = len(data) // size
    numbers = struct.pack(f"<{count}I", *range(first, first + count))
    columns = [numbers[at::4] for at in range(4)]
    for at in range(size):
        if at in (_CHECKSUM_AT, _CHECKSUM_AT + 1):
            if shape.crc == _CRC16:
                continue  # it is passed over, where crc32c takes it as zero
            columns.append(bytes(count))
        else:
            columns.append(data[at::size])
    start = _crc(shape.crc, shape.crc_start, bytes(len(columns)))
    tables = _places(shape.crc, len(columns))
    halves: list[bytes] = []
    for half in (0, 1):
        sums = int.from_bytes(bytes((start >> 8 * half & 0xFF,)) * count)
        for column, table in zip(columns, tables, strict=True):
            sums ^= int.from_bytes(column.translate(table[half]))
        halves.append(sums.to_bytes(count))
    stored = [data[_CHECKSUM_AT::size], data[_CHECKSUM_AT + 1 :: size]]
    if halves == stored:
        return None
    groups = enumerate(zip(*halves, *stored, strict=True), start=first)
    return next(number for number, sums in groups if sums[:2] != sums[2:])


@lru_cache(maxsize=2)
def _table(polynomial: int) -> tuple[int, ...]:
    made: list[int] = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (polynomial if value & 1 else 0)
        made.append(value)
    return tuple(made)


def _crc(polynomial: int, start: int, data: bytes) -> int:
    """Return the register, that began as `start`, behind `data`; nothing is inverted."""
    table = _table(polynomial)
    for byte in data:
        start = start >> 8 ^ table[(start ^ byte) & 0xFF]
    return start


@lru_cache(maxsize=4)
def _places(polynomial: int, length: int) -> tuple[tuple[bytes, bytes], ...]:
    """Return for each place in `length` bytes what a byte adds there: low and high 8 of 16 bits."""
    table = _table(polynomial)
    adds = list(table)
    places: list[tuple[bytes, bytes]] = []
    for _ in range(length):
        places.append((bytes(one & 0xFF for one in adds), bytes(one >> 8 & 0xFF for one in adds)))
        adds = [one >> 8 ^ table[one & 0xFF] for one in adds]
    return tuple(reversed(places))
