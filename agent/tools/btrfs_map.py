"""The extent tree of a btrfs, read as it is: what is used of one of its devices, in bytes of it.

Each block group's count of used bytes, and the sum of all, must be those that its item and the
superblock have. Where the bytes of a chunk are: the kernel's fs/btrfs/volumes.c, btrfs_map_block.
"""

import os
import struct
import uuid
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agent.errors import AgentError, SourceUnfit
from agent.model.extents import Extents
from agent.system import block
from agent.tools.bitmaps import read_at
from agent.units import GiB, KiB, MiB

_SUPER_AT: Final = 64 * KiB
_SUPER_BYTES: Final = 4096
_SUPER_COPIES: Final = (64 * MiB, 256 * GiB)
_RESERVED: Final = MiB
"""Of each device, before the first chunk: boot loaders live there."""
_MAGIC: Final = b"_BHRfS_M"
_HEADER: Final = 101
_EXTENT_TREE: Final = 2
_GROUP_TREE: Final = 11
_ROOT_ITEM: Final = 132
_EXTENT: Final = 168
_METADATA: Final = 169
_GROUP: Final = 192
_CHUNK: Final = 228
_RAID0: Final = 0x8
_RAID10: Final = 0x40
_RAID5: Final = 0x80
_RAID6: Final = 0x100
GROUP_TREE: Final = 0x8
"""Of the read-only compatible features: block groups have a tree of their own."""


@dataclass(frozen=True, slots=True)
class BtrfsFacts:
    """The superblock of a btrfs."""

    uuid: str
    label: str
    sector_bytes: int
    node_bytes: int
    size_bytes: int
    """Of this device."""
    used_bytes: int
    """By the files and the trees; what is kept twice counts once."""
    allocated_bytes: int
    """What this device has given to block groups."""
    generation: int
    devices: int
    log_root: int
    compat_ro: int
    incompat: int
    root: int
    root_level: int
    chunk_root: int
    chunk_root_level: int
    device_id: int
    system_chunks: bytes


@dataclass(frozen=True, slots=True)
class _Member:
    """One device of the filesystem, opened."""

    fd: int
    path: Path
    size_bytes: int


@dataclass(slots=True)
class _Chunk:
    """A run of logical addresses, and where its bytes are."""

    begin: int
    size: int
    places: tuple[tuple[int, int], ...]
    """Device and offset of each stripe."""
    stripe_bytes: int
    width: int
    """How many stripes a row has for data: 0 if each has all, as a copy of its own."""
    profile: int
    used: int | None = None
    """By its block group's item."""
    found: "array[int]" = field(default_factory=lambda: array("Q"))
    """Begin and end of each used run, counted from `begin`."""
    total: int = 0

    def place_of(self, address: int) -> tuple[int, int]:
        """Return the device and the offset there of a logical address, of its first copy."""
        at, count = address - self.begin, len(self.places)
        if not self.width:
            device, place = self.places[0]
            return device, place + at
        number, inside = divmod(at, self.stripe_bytes)
        row, column = divmod(number, self.width)
        if self.profile & (_RAID5 | _RAID6):
            column = (column + row) % count  # parity goes round
        else:
            column *= count // self.width
        device, place = self.places[column]
        return device, place + row * self.stripe_bytes + inside

    def runs(self) -> "array[int]":
        """Return begin and end of each used run of each stripe, in bytes from its start.

        Of striped data whole rows: then the parity, too, is that of what is there.
        """
        if not self.width:
            return self.found
        row = self.stripe_bytes * self.width
        rows = array("Q")
        numbers = iter(self.found)
        for begin, end in zip(numbers, numbers, strict=True):
            first, last = begin // row * self.stripe_bytes, -(-end // row) * self.stripe_bytes
            if rows and first <= rows[-1]:
                rows[-1] = max(rows[-1], last)
            else:
                rows.extend((first, last))
        return rows


def _superblock(device: Path) -> bytes:
    with block.opened(device, os.O_RDONLY) as fd:
        return read_at(fd, _SUPER_AT, _SUPER_BYTES, device)


def btrfs_facts(device: Path) -> BtrfsFacts:
    """Return what the superblock of `device` says. Raises AgentError if it is no btrfs."""
    data = _superblock(device)
    if data[64:72] != _MAGIC:
        raise AgentError(f"{device} holds no btrfs")
    generation, root, chunk_root, log_root = struct.unpack_from("<QQQQ", data, 72)
    used, _, devices, sector, node = struct.unpack_from("<QQQII", data, 120)
    _, compat_ro, incompat = struct.unpack_from("<QQQ", data, 172)
    device_id, size, allocated = struct.unpack_from("<QQQ", data, 201)
    (chunks_bytes,) = struct.unpack_from("<I", data, 160)
    if node not in (4096, 8192, 16384, 32768, 65536) or chunks_bytes > 2048:
        raise AgentError(f"the superblock of {device} cannot be right")
    return BtrfsFacts(
        uuid=str(uuid.UUID(bytes=data[32:48])),
        label=data[299:555].split(b"\0")[0].decode("utf-8", "replace"),
        sector_bytes=sector,
        node_bytes=node,
        size_bytes=size,
        used_bytes=used,
        allocated_bytes=allocated,
        generation=generation,
        devices=devices,
        log_root=log_root,
        compat_ro=compat_ro,
        incompat=incompat,
        root=root,
        root_level=data[198],
        chunk_root=chunk_root,
        chunk_root_level=data[199],
        device_id=device_id,
        system_chunks=data[811 : 811 + chunks_bytes],
    )


def used_extents(device: Path, others: Sequence[Path] = ()) -> Extents:
    """Return the used runs of `device`, which with `others` is all that the btrfs is on.

    Raises SourceUnfit where extents and counts disagree, AgentError if a device is missing.
    """
    facts = btrfs_facts(device)
    with ExitStack() as stack:
        members = {}
        for path in (device, *others):
            one = btrfs_facts(path)
            if (one.uuid, one.generation) != (facts.uuid, facts.generation):
                raise AgentError(f"{path} and {device} do not have the same state of one btrfs")
            fd = stack.enter_context(block.opened(path, os.O_RDONLY))
            members[one.device_id] = _Member(fd, path, one.size_bytes)
        trees = _Trees(members, device, facts)
        trees.read()
    total = 0
    for chunk in trees.chunks:
        if chunk.total != (chunk.used or 0):
            claim = f"block group {chunk.begin} has {chunk.used or 0}"
            raise _disagreement(device, claim, chunk.total)
        total += chunk.total
    if total != facts.used_bytes:
        raise _disagreement(device, f"the superblock has {facts.used_bytes}", total)
    return Extents.of_bounds(_merged(trees.chunks, facts))


def _merged(chunks: list[_Chunk], facts: BtrfsFacts) -> Iterator[tuple[int, int]]:
    """Yield what is used of one device, in its order."""
    size_bytes = facts.size_bytes
    places = [
        (place, chunk.runs())
        for chunk in chunks
        for device, place in chunk.places
        if device == facts.device_id
    ]
    copies = [(at, array("Q", (0, _SUPER_BYTES))) for at in _SUPER_COPIES]
    done = 0
    for place, found in sorted([(0, array("Q", (0, _RESERVED))), *places, *copies]):
        numbers = iter(found)
        for begin, end in zip(numbers, numbers, strict=True):
            start, stop = max(place + begin, done), min(place + end, size_bytes)
            if start < stop:
                yield start, stop
                done = stop


class _Trees:
    """Walks the trees of one filesystem."""

    def __init__(self, members: dict[int, _Member], device: Path, facts: BtrfsFacts) -> None:
        self._members, self._device, self._facts = members, device, facts
        self.chunks: list[_Chunk] = []
        self._begins: list[int] = []

    def read(self) -> None:
        facts = self._facts
        at = 0
        while at < len(facts.system_chunks):
            (begin,) = struct.unpack_from("<Q", facts.system_chunks, at + 9)
            at += 17 + self._add_chunk(begin, facts.system_chunks[at + 17 :])
        found = list(self._items(facts.chunk_root, facts.chunk_root_level))
        self.chunks, self._begins = [], []
        for _, kind, begin, data in found:
            if kind == _CHUNK:
                self._add_chunk(begin, data)
        roots = dict(self._roots())
        for tree in (_EXTENT_TREE, *([_GROUP_TREE] if facts.compat_ro & GROUP_TREE else [])):
            if tree not in roots:
                raise self._bad(f"it has no tree {tree}")
            for begin, kind, offset, data in self._items(*roots[tree]):
                self._take(begin, kind, offset, data)

    def _roots(self) -> Iterator[tuple[int, tuple[int, int]]]:
        for number, kind, _, data in self._items(self._facts.root, self._facts.root_level):
            if kind == _ROOT_ITEM and number in (_EXTENT_TREE, _GROUP_TREE):
                yield number, (struct.unpack_from("<Q", data, 176)[0], data[238])

    def _take(self, begin: int, kind: int, offset: int, data: bytes) -> None:
        if kind == _GROUP:
            self._chunk_of(begin, offset).used = struct.unpack_from("<Q", data)[0]
            return
        if kind not in (_EXTENT, _METADATA):
            return
        size = offset if kind == _EXTENT else self._facts.node_bytes
        chunk = self._chunk_of(begin, size)
        first = begin - chunk.begin
        if chunk.found and first < chunk.found[-1]:
            raise self._bad(f"two extents share the address {begin}")
        if chunk.found and first == chunk.found[-1]:
            chunk.found[-1] = first + size
        else:
            chunk.found.extend((first, first + size))
        chunk.total += size

    def _add_chunk(self, begin: int, data: bytes) -> int:
        """Take one more chunk and return how long its item is."""
        size, _, stripe_bytes, profile = struct.unpack_from("<QQQQ", data)
        stripes = int.from_bytes(data[44:46], "little")
        copies = int.from_bytes(data[46:48], "little")
        width = _data_stripes(profile, stripes, copies)
        if width < 0 or not stripes or len(data) < 48 + 32 * stripes:
            raise self._bad("a chunk has too few stripes")
        if width and (stripe_bytes < self._facts.node_bytes or size % (stripe_bytes * width)):
            raise self._bad("a chunk is not whole stripes")
        each = size // width if width else size
        places = []
        for number in range(stripes):
            device_id, place = struct.unpack_from("<QQ", data, 48 + 32 * number)
            if device_id not in self._members:
                raise self._bad(f"its device {device_id} is missing")
            if place + each > self._members[device_id].size_bytes:
                raise self._bad("a chunk lies outside of the device")
            places.append((device_id, place))
        if self._begins and begin < self._begins[-1] + self.chunks[-1].size:
            raise self._bad("its chunks do not ascend")
        self.chunks.append(_Chunk(begin, size, tuple(places), stripe_bytes, width, profile))
        self._begins.append(begin)
        return 48 + 32 * stripes

    def _chunk_of(self, begin: int, size: int) -> _Chunk:
        """Return the chunk that holds all of these logical addresses."""
        number = bisect_right(self._begins, begin) - 1
        if number < 0 or begin + size > self._begins[number] + self.chunks[number].size:
            raise self._bad(f"no chunk holds the address {begin}")
        return self.chunks[number]

    def _items(self, address: int, level: int) -> Iterator[tuple[int, int, int, bytes]]:
        """Yield (object, kind, offset, data) of each item of a tree, in order."""
        data = self._node(address, level)
        (count,) = struct.unpack_from("<I", data, 96)
        if level:
            if _HEADER + 33 * count > len(data):
                raise self._bad("a tree's node is too full")
            for number in range(count):
                (child,) = struct.unpack_from("<Q", data, _HEADER + 33 * number + 17)
                yield from self._items(child, level - 1)
            return
        if _HEADER + 25 * count > len(data):
            raise self._bad("a tree's leaf is too full")
        for number in range(count):
            key = struct.unpack_from("<QBQII", data, _HEADER + 25 * number)
            begin, end = _HEADER + key[3], _HEADER + key[3] + key[4]
            if end > len(data):
                raise self._bad("an item ends outside of its leaf")
            yield key[0], key[1], key[2], data[begin:end]

    def _node(self, address: int, level: int) -> bytes:
        size = self._facts.node_bytes
        device_id, place = self._chunk_of(address, size).place_of(address)
        member = self._members[device_id]
        data = read_at(member.fd, place, size, member.path)
        if struct.unpack_from("<Q", data, 48)[0] != address or data[100] != level or level > 7:
            raise self._bad(f"there is no node of a tree at {address}")
        return data

    def _bad(self, what: str) -> AgentError:
        return AgentError(f"the btrfs on {self._device} cannot be read: {what}")


def _data_stripes(profile: int, stripes: int, copies: int) -> int:
    """Return how many of a row are data: 0 if nothing is striped, -1 if there are too few."""
    if profile & _RAID0:
        return stripes
    if profile & _RAID10:
        return stripes // copies if copies > 0 and stripes % copies == 0 else -1
    if profile & (_RAID5 | _RAID6):
        least = stripes - (1 if profile & _RAID5 else 2)
        return least if least > 0 else -1
    return 0


def _disagreement(device: Path, claim: str, found: int) -> SourceUnfit:
    return SourceUnfit(
        (f"the extents of {device} are not as described: {claim} used bytes, {found} are used",),
        hint=f"run: btrfs check --readonly {device}",
    )
