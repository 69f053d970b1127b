"""The directories of a FAT filesystem, read from bytes: no mount, no program.

Needed before the commit, when the head of the ESP is still in memory and nothing could mount it.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from agent.errors import DiskError

Read = Callable[[int, int], bytes]
"""(offset, size) in bytes of the volume → exactly so many bytes."""

_DIRECTORY: Final = 0x10
_VOLUME_LABEL: Final = 0x08
_LONG_NAME: Final = 0x0F
_DELETED: Final = 0xE5
_LONG_RUNS: Final = ((1, 11), (14, 26), (28, 32))
_MAX_CLUSTERS: Final = 4096
"""A directory of more clusters is a loop or no directory of ours."""


@dataclass(frozen=True, slots=True)
class Entry:
    name: str
    cluster: int
    is_directory: bool
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Fat:
    """The geometry of one FAT volume, from its boot sector."""

    read: Read
    sector_bytes: int
    cluster_bytes: int
    fat_offset: int
    root_offset: int
    root_bytes: int
    data_offset: int
    bits: int
    root_cluster: int


def open_fat(read: Read) -> Fat:
    """Return the volume that `read` reads. Raises DiskError if it is not FAT."""
    boot = read(0, 512)
    sector, per_cluster, reserved, fats, root_entries = struct.unpack_from("<HBHBH", boot, 11)
    total16, fat16 = struct.unpack_from("<H", boot, 19)[0], struct.unpack_from("<H", boot, 22)[0]
    total32, fat32 = struct.unpack_from("<I", boot, 32)[0], struct.unpack_from("<I", boot, 36)[0]
    if boot[510:512] != b"\x55\xaa" or sector not in (512, 1024, 2048, 4096) or not per_cluster:
        raise DiskError("not a FAT filesystem")
    fat_bytes = (fat16 or fat32) * sector
    root_offset = reserved * sector + fats * fat_bytes
    root_bytes = -(-root_entries * 32 // sector) * sector
    data_offset = root_offset + root_bytes
    clusters = ((total16 or total32) * sector - data_offset) // (per_cluster * sector)
    bits = 12 if clusters < 4085 else 16 if clusters < 65525 else 32
    root_cluster = struct.unpack_from("<I", boot, 44)[0] if bits == 32 else 0
    return Fat(
        read,
        sector,
        per_cluster * sector,
        reserved * sector,
        root_offset,
        root_bytes,
        data_offset,
        bits,
        root_cluster,
    )


def find_file(fat: Fat, path: str) -> Entry | None:
    """Return the file at `path` (`EFI/BOOT/BOOTX64.EFI`; case is ignored), None if absent."""
    cluster = fat.root_cluster
    found: Entry | None = None
    for word in path.strip("/").split("/"):
        if found is not None and not found.is_directory:
            return None
        found = next(
            (entry for entry in entries(fat, cluster) if entry.name.lower() == word.lower()), None
        )
        if found is None:
            return None
        cluster = found.cluster
    return found


def find_directory(fat: Fat, path: str) -> tuple[Entry, ...]:
    """Return what the directory at `path` holds; nothing if there is none."""
    found = find_file(fat, path)
    if found is None or not found.is_directory:
        return ()
    return tuple(entries(fat, found.cluster))


def entries(fat: Fat, cluster: int) -> Iterator[Entry]:
    """Yield what a directory holds; cluster 0 is the root."""
    long_name = ""
    if cluster:
        data = b"".join(_clusters(fat, cluster))
    else:
        data = fat.read(fat.root_offset, fat.root_bytes)
    for at in range(0, len(data) - 31, 32):
        raw = data[at : at + 32]
        if raw[0] == 0:
            return
        if raw[0] == _DELETED:
            long_name = ""
        elif raw[11] & 0x3F == _LONG_NAME:
            piece = b"".join(raw[start:end] for start, end in _LONG_RUNS)
            text = piece.decode("utf-16-le", "replace").split("\0")[0]
            long_name = text if raw[0] & 0x40 else text + long_name  # the last piece comes first
        else:
            if not raw[11] & _VOLUME_LABEL:
                high = struct.unpack_from("<H", raw, 20)[0] if fat.bits == 32 else 0
                low, size = struct.unpack_from("<HI", raw, 26)
                start = low | high << 16
                is_directory = bool(raw[11] & _DIRECTORY)
                name = long_name or _short_name(raw)
                if name not in (".", ".."):
                    yield Entry(name, start, is_directory, size)
            long_name = ""


def _short_name(raw: bytes) -> str:
    base = raw[:8].decode("ascii", "replace").rstrip()
    extension = raw[8:11].decode("ascii", "replace").rstrip()
    return f"{base}.{extension}" if extension else base


def _clusters(fat: Fat, cluster: int) -> Iterator[bytes]:
    end = {12: 0xFF7, 16: 0xFFF7, 32: 0x0FFFFFF7}[fat.bits]
    for _ in range(_MAX_CLUSTERS):
        if not 2 <= cluster < end:
            return
        yield fat.read(fat.data_offset + (cluster - 2) * fat.cluster_bytes, fat.cluster_bytes)
        cluster = _next_cluster(fat, cluster)
    raise DiskError("the FAT filesystem has a directory without an end")


def _next_cluster(fat: Fat, cluster: int) -> int:
    if fat.bits == 32:
        raw = fat.read(fat.fat_offset + cluster * 4, 4)
        return int(struct.unpack("<I", raw)[0]) & 0x0FFFFFFF
    if fat.bits == 16:
        return int(struct.unpack("<H", fat.read(fat.fat_offset + cluster * 2, 2))[0])
    pair = int(struct.unpack("<H", fat.read(fat.fat_offset + cluster * 3 // 2, 2))[0])
    return pair >> 4 if cluster & 1 else pair & 0xFFF
