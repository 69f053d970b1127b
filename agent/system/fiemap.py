"""Where a file's bytes are on its filesystem: the FIEMAP ioctl of <linux/fiemap.h>."""

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from typing import Final

from agent.errors import AgentError
from agent.units import Extent

_FS_IOC_FIEMAP: Final = 0xC020660B
_HEADER: Final = struct.Struct("=QQIIII")
_EXTENT: Final = struct.Struct("=QQQQQIIII")
_EXTENTS_A_CALL: Final = (1024 - _HEADER.size) // _EXTENT.size
"""With more than 1024 bytes, `fcntl.ioctl` keeps Python's lock; the kernel may wait for a thread of
ours meanwhile, of which it reads this filesystem (agent.system.nbd)."""

_SYNC: Final = 0x1
_LAST: Final = 0x1
_UNKNOWN: Final = 0x2
_DELALLOC: Final = 0x4
_ENCODED: Final = 0x8
_ENCRYPTED: Final = 0x80
_NOT_ALIGNED: Final = 0x100
_INLINE: Final = 0x200
_TAIL: Final = 0x400
_UNWRITTEN: Final = 0x800
_SHARED: Final = 0x2000
_NO_PLACE: Final = _UNKNOWN | _DELALLOC | _ENCODED | _ENCRYPTED | _NOT_ALIGNED | _INLINE | _TAIL


class NoPlace(AgentError):
    """A file whose bytes have no place of their own on the volume."""


def file_extents(fd: int, name: str) -> tuple[Extent, ...]:
    """Return the runs of the volume that belong to the open file `fd`, in the file's order.

    Preallocated runs are among them: what they hold is somebody's old data. Raises NoPlace for a
    file kept inside its inode, compressed, or not yet written: zeroing those would do harm.
    """
    found = []
    for _, extent, flags in _mapped(fd, name):
        if flags & _NO_PLACE:
            raise NoPlace(f"the bytes of {name} have no blocks of their own (flags {flags:#x})")
        found.append(extent)
    return tuple(found)


def shared_runs(fd: int, name: str) -> Iterator[tuple[int, Extent]]:
    """Yield what of the open file other files may have too: (offset in it, run of the volume)."""
    for offset, extent, flags in _mapped(fd, name):
        if flags & _SHARED and not flags & (_NO_PLACE | _UNWRITTEN):
            yield offset, extent


def _mapped(fd: int, name: str) -> Iterator[tuple[int, Extent, int]]:
    """Yield (offset in the file, run of the volume, flags)."""
    at, end = 0, os.fstat(fd).st_size
    if end == 0:
        return
    while True:
        asked = _HEADER.pack(at, 2**64 - 1 - at, _SYNC, 0, _EXTENTS_A_CALL, 0)
        room = bytes(_EXTENTS_A_CALL * _EXTENT.size)
        try:
            buffer = fcntl.ioctl(fd, _FS_IOC_FIEMAP, asked + room)
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.ENOTTY):
                raise NoPlace(f"the filesystem does not say where {name} is") from error
            raise AgentError(f"could not find the place of {name}: {error.strerror}") from error
        count = _HEADER.unpack_from(buffer, 0)[3]
        if count == 0:
            return
        flags = 0
        for number in range(count):
            logical, physical, size, _, _, flags, *_ = _EXTENT.unpack_from(
                buffer, _HEADER.size + number * _EXTENT.size
            )
            yield logical, Extent(physical, size), flags
            at = logical + size
        if flags & _LAST:
            return
