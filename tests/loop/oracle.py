"""Would a firmware boot from this disk? Read from the bytes, by rules of firmware, not by ours.

A BIOS runs any sector 0 that ends in 55 AA. A UEFI firmware tries every FAT that a valid GPT
(first or second copy) or an MBR shows, whatever the partition's type, and a FAT without a table.
"""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from agent.tools.boot_sector import PENDING_STUB


def boots(disk: Path, sector_bytes: int = 512) -> set[str]:
    """Return the firmware modes that would start something from `disk`: `bios`, `uefi`."""
    found = set()
    with disk.open("rb") as file:
        first = file.read(512)
        code = first[:440]
        if first[510:512] == b"\x55\xaa" and any(code) and code != PENDING_STUB:
            found.add("bios")
        if any(_is_fat(file, start) for start in (0, *_partitions(file, first, sector_bytes))):
            found.add("uefi")
    return found


def _partitions(file: BinaryIO, mbr: bytes, sector: int) -> Iterator[int]:
    size = file.seek(0, 2)
    for header_lba in (1, size // sector - 1):
        yield from _gpt(file, header_lba, sector)
    if mbr[510:512] == b"\x55\xaa":
        for number in range(4):
            entry = mbr[446 + 16 * number :][:16]
            if entry[4] not in (0, 0xEE):
                yield struct.unpack_from("<I", entry, 8)[0] * sector


def _gpt(file: BinaryIO, lba: int, sector: int) -> Iterator[int]:
    file.seek(lba * sector)
    head = file.read(sector)
    if head[:8] != b"EFI PART":
        return
    size, crc = struct.unpack_from("<II", head, 12)
    if not 92 <= size <= sector or zlib.crc32(head[:16] + bytes(4) + head[20:size]) != crc:
        return
    entries_lba, count, entry_bytes, entries_crc = struct.unpack_from("<QIII", head, 72)
    file.seek(entries_lba * sector)
    entries = file.read(count * entry_bytes)
    if zlib.crc32(entries) != entries_crc:
        return
    for at in range(0, len(entries), entry_bytes):
        if any(entries[at : at + 16]):
            yield struct.unpack_from("<Q", entries, at + 32)[0] * sector


def _is_fat(file: BinaryIO, offset: int) -> bool:
    file.seek(offset)
    head = file.read(512)
    if len(head) < 512 or head[510:512] != b"\x55\xaa":
        return False
    sector, per_cluster = struct.unpack_from("<HB", head, 11)
    return sector in (512, 1024, 2048, 4096) and per_cluster in (1, 2, 4, 8, 16, 32, 64, 128)
