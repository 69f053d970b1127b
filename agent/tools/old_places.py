"""Where old tables, arrays and groups say that something begins or ends. Only reads.

For erasing, so everything is believed that could be true: an MBR beside a GPT, a backup GPT that
contradicts the first, a table inside of an array on the whole disk. What is damaged names nothing.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Final

from agent.errors import AgentError
from agent.units import Extent, align_down

Reader = Callable[[int, int], bytes]
"""Returns that many bytes from an offset of the device. May raise AgentError."""

_ENTRIES_AT: Final = 446
_EXTENDED: Final = (0x05, 0x0F, 0x85)
_PROTECTIVE: Final = 0xEE
_LINKS_AT_MOST: Final = 256
_GPT_ENTRIES_AT_MOST: Final = 1024
_DEPTH: Final = 3
_MD_MAGIC: Final = 0xA92B4EFC
_MD_SECTOR: Final = 512
SECTORS: Final = (512, 4096)


def old_places(
    read: Reader, size_bytes: int, sectors: Sequence[int] = SECTORS
) -> tuple[Extent, ...]:
    """Return the whole device and every run in it that something old began or ended at.

    A run that is one sector long is a table, or a piece of one. Tables are read as if written for
    each size of `sectors`: an old one may come from another machine. Ordered, each once.
    """
    whole = Extent(0, size_bytes)
    return tuple(sorted({whole, *_within(read, whole, sectors, _DEPTH)}))


def _within(read: Reader, area: Extent, sectors: Sequence[int], depth: int) -> Iterator[Extent]:
    if depth == 0:
        return
    looks = [partial(look, read, area) for look in (_md, _physical_volume)]
    looks += [partial(look, read, area, unit) for look in (_mbr, _gpt) for unit in sectors]
    found: list[Extent] = []
    for look in looks:
        try:
            found += look()
        except (AgentError, IndexError, ValueError):
            continue  # unreadable or nonsense: nothing can be found by it again
    for run in _cut(found, area):
        yield run
        if run != area:
            yield from _within(read, run, sectors, depth - 1)


def _cut(runs: Iterable[Extent], area: Extent) -> Iterator[Extent]:
    """Yield `runs` as far as they lie in `area`: a table may lie about the size of its disk."""
    for run in dict.fromkeys(runs):
        if area.offset <= run.offset < area.end:
            yield Extent(run.offset, min(run.size, area.end - run.offset))


def _mbr(read: Reader, area: Extent, unit: int) -> Iterator[Extent]:
    sector = read(area.offset, 512)
    if sector[510:512] != b"\x55\xaa":
        return
    for kind, start, size in _entries(sector):
        if kind == _PROTECTIVE:
            continue
        run = Extent(area.offset + start * unit, size * unit)
        yield run
        if kind in _EXTENDED and run.offset < area.end:
            yield from _links(read, area, run, unit)


def _entries(sector: bytes) -> Iterator[tuple[int, int, int]]:
    for at in range(_ENTRIES_AT, 510, 16):
        kind = sector[at + 4]
        start = int.from_bytes(sector[at + 8 : at + 12], "little")
        size = int.from_bytes(sector[at + 12 : at + 16], "little")
        if kind and start and size:
            yield kind, start, size


def _links(read: Reader, area: Extent, box: Extent, unit: int) -> Iterator[Extent]:
    """Yield the logical partitions in `box`, and the sector that says where each is."""
    at = box.offset
    for _ in range(_LINKS_AT_MOST):
        if not area.offset <= at < area.end - unit:
            return
        sector = read(at, 512)
        if sector[510:512] != b"\x55\xaa":
            return
        yield Extent(at, unit)
        following = None
        for kind, start, size in _entries(sector):
            if kind in _EXTENDED:
                following = box.offset + start * unit
            else:
                yield Extent(at + start * unit, size * unit)
        if following is None:
            return
        at = following


def _gpt(read: Reader, area: Extent, unit: int) -> Iterator[Extent]:
    last = area.offset + align_down(area.size, unit) - unit
    for at in (area.offset + unit, last):
        header = read(at, 92)
        if header[:8] != b"EFI PART":
            continue
        other = int.from_bytes(header[32:40], "little")
        yield Extent(at, unit)
        yield Extent(area.offset + other * unit, unit)  # of a disk, or array, that was smaller
        yield from _gpt_partitions(read, area, header, unit)


def _gpt_partitions(read: Reader, area: Extent, header: bytes, unit: int) -> Iterator[Extent]:
    at = area.offset + int.from_bytes(header[72:80], "little") * unit
    count = int.from_bytes(header[80:84], "little")
    entry_bytes = int.from_bytes(header[84:88], "little")
    if not (0 < count <= _GPT_ENTRIES_AT_MOST and 128 <= entry_bytes <= 4096):
        return
    data = read(at, count * entry_bytes)
    for entry in range(0, len(data), entry_bytes):
        first = int.from_bytes(data[entry + 32 : entry + 40], "little")
        last = int.from_bytes(data[entry + 40 : entry + 48], "little")
        if any(data[entry : entry + 16]) and 0 < first <= last:
            yield Extent(area.offset + first * unit, (last - first + 1) * unit)


def _md(read: Reader, area: Extent) -> Iterator[Extent]:
    """Yield what an array's member holds behind (or in front of) a superblock of version 1."""
    at_end = align_down(area.size - 8192, 4096)
    for at in (0, 4096, at_end):
        block = read(area.offset + at, 256)
        magic, version = (int.from_bytes(block[n : n + 4], "little") for n in (0, 4))
        if magic == _MD_MAGIC and version == 1:
            start, size = (int.from_bytes(block[n : n + 8], "little") for n in (128, 136))
            yield Extent(area.offset + start * _MD_SECTOR, size * _MD_SECTOR)


def _physical_volume(read: Reader, area: Extent) -> Iterator[Extent]:
    """Yield where the extents of an LVM physical volume lie."""
    head = read(area.offset, 2048)
    for at in range(0, 2048, 512):
        label = head[at : at + 512]
        if label[:8] != b"LABELONE" or label[24:32] != b"LVM2 001":
            continue
        pointer = int.from_bytes(label[20:24], "little")
        for where in range(pointer + 40, len(label) - 16, 16):
            start, size = (int.from_bytes(label[n : n + 8], "little") for n in (where, where + 8))
            if start == 0:
                break
            yield Extent(area.offset + start, size or area.size - start)
