"""FAT filesystems by their own table: what is used, and whether the last unmount was clean.

The table is small and its form is simple, so it is read here; partclone is the second opinion.
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.errors import AgentError, DiskError, SourceUnfit
from agent.model.extents import Extents
from agent.system import block
from agent.units import Extent, MiB

_BOOT_BYTES: Final = 512
_MAX_TABLE_BYTES: Final = 64 * MiB
_FAT12_CLUSTERS: Final = 4085
_FAT16_CLUSTERS: Final = 65525
_DIRTY: Final = 1


@dataclass(frozen=True, slots=True)
class FatShape:
    """Where the parts of a FAT filesystem are, in bytes."""

    bits: int
    """12, 16 or 32 a cluster in the table."""
    table_offset: int
    table_bytes: int
    data_offset: int
    cluster_bytes: int
    clusters: int
    size_bytes: int
    sector_bytes: int
    uuid: str
    """The volume id as libblkid writes it: `93E1-EE89`."""
    is_dirty: bool
    """Linux and Windows set this mark while the filesystem is mounted for writing."""


def fat_shape(boot: bytes) -> FatShape:
    """Return the shape that a boot sector gives. Raises AgentError if it is not that of a FAT."""
    if len(boot) < _BOOT_BYTES or boot[510:512] != b"\x55\xaa":
        raise AgentError("not a FAT boot sector: its signature is missing")
    sector, per_cluster, reserved, tables, root_entries, sectors16 = struct.unpack_from(
        "<HBHBHH", boot, 11
    )
    table16 = struct.unpack_from("<H", boot, 22)[0]
    sectors32 = struct.unpack_from("<I", boot, 32)[0]
    table32 = struct.unpack_from("<I", boot, 36)[0]
    table_sectors = table16 or table32
    sectors = sectors16 or sectors32
    if sector not in (512, 1024, 2048, 4096) or per_cluster.bit_count() != 1:
        raise AgentError(f"not a FAT boot sector: {sector} bytes, {per_cluster} sectors a cluster")
    root_sectors = -(-root_entries * 32 // sector)
    data_sector = reserved + tables * table_sectors + root_sectors
    clusters = (sectors - data_sector) // per_cluster
    if not (reserved and tables and table_sectors) or clusters < 1:
        raise AgentError("not a FAT boot sector: it has no room for data")
    bits = 12 if clusters < _FAT12_CLUSTERS else 16 if clusters < _FAT16_CLUSTERS else 32
    if table_sectors * sector < -(-(clusters + 2) * bits // 8):
        raise AgentError("not a FAT boot sector: the table is too short for its clusters")
    serial = struct.unpack_from("<I", boot, 0x43 if bits == 32 else 0x27)[0]
    return FatShape(
        bits=bits,
        table_offset=reserved * sector,
        table_bytes=table_sectors * sector,
        data_offset=data_sector * sector,
        cluster_bytes=per_cluster * sector,
        clusters=clusters,
        size_bytes=sectors * sector,
        sector_bytes=sector,
        uuid=f"{serial >> 16:04X}-{serial & 0xFFFF:04X}",
        is_dirty=bool(boot[0x41 if bits == 32 else 0x25] & _DIRTY),
    )


def parse_table(shape: FatShape, table: bytes) -> Iterator[Extent]:
    """Yield the used runs: all before the data area, each run of clusters not free, the rest.

    The rest is what is too short for a cluster at the end: no one writes there, but it is kept.
    """
    offset, end = 0, shape.data_offset
    for number, is_used in enumerate(_used_flags(shape, table)):
        if not is_used:
            continue
        at = shape.data_offset + number * shape.cluster_bytes
        if at != end:
            yield Extent(offset, end - offset)
            offset = at
        end = at + shape.cluster_bytes
    rest = shape.data_offset + shape.clusters * shape.cluster_bytes
    if rest < shape.size_bytes:
        if rest != end:
            yield Extent(offset, end - offset)
            offset = rest
        end = shape.size_bytes
    yield Extent(offset, end - offset)


def fat_used_extents(device: Path) -> tuple[FatShape, Extents]:
    """Return shape and used extents of the FAT filesystem on `device`, opened for reading only.

    Raises SourceUnfit, with the command that helps, if it was not unmounted cleanly.
    """
    shape, used = read_fat(device)
    check_clean(shape, device)
    return shape, used


def check_clean(shape: FatShape, device: Path) -> None:
    """Raise SourceUnfit, with the command that helps, if it was not unmounted cleanly."""
    if shape.is_dirty:
        raise SourceUnfit(
            (f"the FAT filesystem on {device} was not unmounted cleanly",),
            hint=f"start that system and shut it down cleanly, or run: fsck.vfat -a {device}",
        )


def read_fat(device: Path) -> tuple[FatShape, Extents]:
    """Return shape and used extents of a FAT filesystem, clean or not."""
    with block.opened(device, os.O_RDONLY) as fd:
        shape = fat_shape(_read(fd, 0, _BOOT_BYTES, device))
        if shape.size_bytes > block.size_bytes(device) or shape.table_bytes > _MAX_TABLE_BYTES:
            raise AgentError(f"the FAT filesystem on {device} is larger than it can be")
        table = _read(fd, shape.table_offset, shape.table_bytes, device)
    return shape, Extents(parse_table(shape, table))


def _used_flags(shape: FatShape, table: bytes) -> Iterator[bool]:
    """Yield for each cluster, from number 2 on, whether it is used."""
    if shape.bits == 12:
        for number in range(2, shape.clusters + 2):
            pair = table[number * 3 // 2] | table[number * 3 // 2 + 1] << 8
            yield bool(pair >> 4 if number % 2 else pair & 0xFFF)
        return
    step, kind, mask = (2, "<H", 0xFFFF) if shape.bits == 16 else (4, "<I", 0x0FFFFFFF)
    wanted = memoryview(table)[2 * step : (shape.clusters + 2) * step]
    for (value,) in struct.iter_unpack(kind, wanted):
        yield bool(value & mask)


def _read(fd: int, offset: int, size: int, device: Path) -> bytes:
    try:
        data = os.pread(fd, size, offset)
    except OSError as error:
        raise DiskError(f"cannot read {device} at {offset}: {error.strerror}") from error
    if len(data) != size:
        raise DiskError(f"{device} ends at {offset + len(data)}, too soon")
    return data
