"""An initramfs archive (cpio "newc"), the same bytes for the same files on every machine.

Sorted names, one fixed time, owner root, no device or inode numbers of the building machine. Device
nodes are only numbers in the archive, so writing one needs no privilege.
"""

import stat
from collections.abc import Mapping
from io import BytesIO
from typing import BinaryIO

import zstandard

from images.tree import Entry

_MAGIC = b"070701"
_TRAILER = "TRAILER!!!"


def write_cpio(out: BinaryIO, entries: Mapping[str, Entry], epoch: int) -> None:
    """Write `entries`, by path, to `out`. Folders come before what is in them."""
    for number, name in enumerate(sorted(entries), start=1):
        entry = entries[name]
        _write_record(out, name, entry.mode, entry.body, number, epoch, entry.device)
    _write_record(out, _TRAILER, 0, b"", 0, 0, (0, 0))


def cpio_bytes(entries: Mapping[str, Entry], epoch: int) -> bytes:
    """Return the archive of `entries`, padded so that another one may follow."""
    out = BytesIO()
    write_cpio(out, entries, epoch)
    return padded(out.getvalue())


def compressed(archive: bytes) -> bytes:
    """Return `archive` as the kernel can unpack it, smaller, and padded like it."""
    return padded(zstandard.ZstdCompressor(level=19, threads=0).compress(archive))


def padded(data: bytes, to: int = 512) -> bytes:
    """Return `data` with zeros to a multiple of `to`: the kernel skips those between archives."""
    return data + b"\0" * (-len(data) % to)


def _write_record(
    out: BinaryIO,
    name: str,
    mode: int,
    body: bytes,
    inode: int,
    epoch: int,
    device: tuple[int, int],
) -> None:
    links = 2 if stat.S_ISDIR(mode) else 1
    raw_name = name.encode() + b"\0"
    fields = (
        *(inode, mode, 0, 0, links, epoch, len(body)),
        *(0, 0, *device, len(raw_name), 0),
    )
    header = _MAGIC + b"".join(b"%08x" % field for field in fields)
    out.write(_aligned(header + raw_name))
    out.write(_aligned(body))


def _aligned(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
