"""Would a firmware boot from this disk? Read from the bytes, by rules of firmware, not by ours.

A BIOS runs any sector 0 that ends in 55 AA. A UEFI firmware tries every FAT that a valid GPT
(first or second copy) or an MBR shows, whatever the partition's type, and a FAT without a table.
"""

import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from agent.tools.boot_sector import PENDING_STUB

Read = Callable[[int, int], bytes]


def boots(disk: Path, sector_bytes: int = 512) -> set[str]:
    """Return the firmware modes that would start something from `disk`: `bios`, `uefi`."""

    def read(offset: int, size: int) -> bytes:
        with disk.open("rb") as file:
            file.seek(offset)
            return file.read(size)

    with disk.open("rb") as file:
        size_bytes = file.seek(0, 2)
    return boots_from(read, size_bytes, sector_bytes)


def boots_from(read: Read, size_bytes: int, sector_bytes: int = 512) -> set[str]:
    """The same for a disk that is only known by how to read it."""
    found = set()
    first = read(0, 512)
    code = first[:440]
    if first[510:512] == b"\x55\xaa" and any(code) and code != PENDING_STUB:
        found.add("bios")
    if any(_is_fat(read, at) for at in (0, *_partitions(read, size_bytes, first, sector_bytes))):
        found.add("uefi")
    return found


def _partitions(read: Read, size: int, mbr: bytes, sector: int) -> Iterator[int]:
    for header_lba in (1, size // sector - 1):
        yield from _gpt(read, header_lba, sector)
    if mbr[510:512] == b"\x55\xaa":
        for number in range(4):
            entry = mbr[446 + 16 * number :][:16]
            if entry[4] not in (0, 0xEE):
                yield int(struct.unpack_from("<I", entry, 8)[0]) * sector


def _gpt(read: Read, lba: int, sector: int) -> Iterator[int]:
    head = read(lba * sector, sector)
    if head[:8] != b"EFI PART":
        return
    size, crc = struct.unpack_from("<II", head, 12)
    if not 92 <= size <= sector or zlib.crc32(head[:16] + bytes(4) + head[20:size]) != crc:
        return
    entries_lba, count, entry_bytes, entries_crc = struct.unpack_from("<QIII", head, 72)
    entries = read(entries_lba * sector, count * entry_bytes)
    if zlib.crc32(entries) != entries_crc:
        return
    for at in range(0, len(entries), entry_bytes):
        if any(entries[at : at + 16]):
            yield int(struct.unpack_from("<Q", entries, at + 32)[0]) * sector


def _is_fat(read: Read, offset: int) -> bool:
    head = read(offset, 512)
    if len(head) < 512 or head[510:512] != b"\x55\xaa":
        return False
    sector, per_cluster = struct.unpack_from("<HB", head, 11)
    return sector in (512, 1024, 2048, 4096) and per_cluster in (1, 2, 4, 8, 16, 32, 64, 128)
