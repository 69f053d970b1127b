"""Block devices by system call: size, sectors, read-only, flush, discard, direct I/O.

Each function takes a regular file as well, so that tests and image files go the same way.
The ioctl numbers are those of <linux/fs.h>.
"""

import contextlib
import ctypes
import errno
import fcntl
import functools
import mmap
import os
import re
import stat
import struct
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Final

from agent.errors import DiskError
from agent.system.command import Runner
from agent.units import Extent

StrPath = str | PathLike[str]

FILE_SECTOR_BYTES: Final = 512
"""The sector size that a regular file is given unless the caller says otherwise."""

_BLKROSET: Final = 0x125D
_BLKROGET: Final = 0x125E
_BLKRRPART: Final = 0x125F
_BLKFLSBUF: Final = 0x1261
_BLKSSZGET: Final = 0x1268
_BLKDISCARD: Final = 0x1277
_BLKPBSZGET: Final = 0x127B
_BLKGETSIZE64: Final = 0x80081272
_FALLOC_PUNCH_HOLE: Final = 0x02
_FALLOC_KEEP_SIZE: Final = 0x01
_REREAD_TRIES: Final = 20
_REREAD_PAUSE_S: Final = 0.5
_NODE_PAUSE_S: Final = 0.05


def is_block_device(path: StrPath) -> bool:
    try:
        return stat.S_ISBLK(Path(path).stat().st_mode)
    except OSError as error:
        raise _failed("look at", path, error) from error


@contextmanager
def opened(path: StrPath, flags: int) -> Iterator[int]:
    """Yield a descriptor of `path`, closed afterwards. Raises DiskError if it cannot be opened."""
    try:
        fd = os.open(path, flags | os.O_CLOEXEC)
    except OSError as error:
        raise _failed("open", path, error) from error
    try:
        yield fd
    finally:
        os.close(fd)


def size_bytes(path: StrPath) -> int:
    """Return the size of the device or file."""
    if not is_block_device(path):
        return Path(path).stat().st_size
    with opened(path, os.O_RDONLY) as fd:
        return int(struct.unpack("Q", _ask(fd, _BLKGETSIZE64, 8, path))[0])


def sector_bytes(path: StrPath, *, of_file: int = FILE_SECTOR_BYTES) -> int:
    """Return the logical sector size; `of_file` if `path` is a regular file."""
    if not is_block_device(path):
        return of_file
    with opened(path, os.O_RDONLY) as fd:
        return int(struct.unpack("i", _ask(fd, _BLKSSZGET, 4, path))[0])


def physical_sector_bytes(path: StrPath, *, of_file: int = FILE_SECTOR_BYTES) -> int:
    """Return the physical sector size; `of_file` if `path` is a regular file."""
    if not is_block_device(path):
        return of_file
    with opened(path, os.O_RDONLY) as fd:
        return int(struct.unpack("I", _ask(fd, _BLKPBSZGET, 4, path))[0])


def set_read_only(path: StrPath, read_only: bool) -> bool:
    """Make the kernel refuse, or allow, writes to a block device.

    Returns whether the kernel now holds to it: False for a regular file, which has no such switch.
    The switch is on this device alone, so a disk's partitions must be set one by one.
    """
    if not is_block_device(path):
        return False
    with opened(path, os.O_RDONLY) as fd:
        try:
            fcntl.ioctl(fd, _BLKROSET, struct.pack("i", int(read_only)))
        except OSError as error:
            raise _failed("set read-only", path, error) from error
    return True


def is_read_only(path: StrPath) -> bool:
    """Return whether the kernel refuses writes; for a file, whether we may not write it."""
    if not is_block_device(path):
        return not os.access(path, os.W_OK)
    with opened(path, os.O_RDONLY) as fd:
        return bool(struct.unpack("i", _ask(fd, _BLKROGET, 4, path))[0])


def reread_table(path: StrPath) -> None:
    """Make the kernel read the partition table again; nothing to do for a regular file.

    udev opens a disk for a moment after each write, so "busy" is tried again for ten seconds.
    Call `settle` afterwards, before the partitions' device nodes are used.
    """
    if not is_block_device(path):
        return
    for attempt in range(_REREAD_TRIES):
        with opened(path, os.O_RDONLY) as fd:
            try:
                fcntl.ioctl(fd, _BLKRRPART)
            except OSError as error:
                if error.errno != errno.EBUSY or attempt == _REREAD_TRIES - 1:
                    raise _failed("read the partition table of", path, error) from error
            else:
                return
        time.sleep(_REREAD_PAUSE_S)


def settle(run: Runner, timeout_s: int = 30) -> None:
    """Wait until udev has handled what the kernel told it."""
    run(["udevadm", "settle", f"--timeout={timeout_s}"], timeout_s=timeout_s + 10)


def wait_for_node(path: Path, timeout_s: float = 10.0) -> None:
    """Wait until the kernel shows a device. Raises DiskError if it does not.

    Without udev: while disks are held, its queue never empties (`agent.system.hold`).
    """
    until = time.monotonic() + timeout_s
    while not path.exists():
        if time.monotonic() > until:
            raise DiskError(f"{path} did not appear within {timeout_s:.0f} s")
        time.sleep(_NODE_PAUSE_S)


def flush(path: StrPath) -> None:
    """Write what the kernel still holds for `path`, then drop its cache of the device.

    Afterwards a read comes from the medium.
    """
    with opened(path, os.O_RDONLY) as fd:
        try:
            os.fsync(fd)
            if is_block_device(path):
                fcntl.ioctl(fd, _BLKFLSBUF)
            else:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        except OSError as error:
            raise _failed("flush", path, error) from error


def expect(fd: int, extents: Iterable[Extent]) -> None:
    """Let the page cache fetch `extents`, all at once. If it cannot, reading them will say why."""
    for run in extents:
        with contextlib.suppress(OSError):
            os.posix_fadvise(fd, run.offset, run.size, os.POSIX_FADV_WILLNEED)


def discard(path: StrPath, extent: Extent) -> bool:
    """Tell the device that `extent` is unused; in a file, make a hole.

    Returns False if the device cannot do that. What a discarded run reads as is the device's
    choice: never count on zeros.
    """
    with opened(path, os.O_WRONLY) as fd:
        try:
            if is_block_device(path):
                fcntl.ioctl(fd, _BLKDISCARD, struct.pack("QQ", extent.offset, extent.size))
            else:
                punch_hole(fd, extent)
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL):
                return False
            raise _failed("discard on", path, error) from error
    return True


def open_direct(path: StrPath, flags: int) -> int:
    """Return a descriptor that bypasses the page cache, or a plain one where that is refused.

    Some filesystems refuse O_DIRECT when a file is opened, others at its first read: both are
    tried here. With it, offsets, lengths and buffers must be whole sectors (`aligned_buffer`).
    """
    try:
        fd = os.open(path, flags | os.O_DIRECT | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise _failed("open", path, error) from error
    else:
        if _direct_read_works(path):
            return fd
        os.close(fd)
    try:
        return os.open(path, flags | os.O_CLOEXEC)
    except OSError as error:
        raise _failed("open", path, error) from error


def is_direct(fd: int) -> bool:
    """Return whether `fd` bypasses the page cache."""
    return bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT)


def aligned_buffer(size: int) -> mmap.mmap:
    """Return a zeroed buffer that begins on a page, as O_DIRECT wants it. Reuse it, close it."""
    return mmap.mmap(-1, size)


def partition_path(disk: StrPath, number: int) -> str:
    """Return the device node of partition `number`: `/dev/sda1`, `/dev/nvme0n1p1`, `…-part1`."""
    text = os.fspath(disk)
    if text.startswith("/dev/disk/"):
        return f"{text}-part{number}"
    if not Path(text).name[:1].isalpha() or number < 1:
        raise ValueError(f"no partition {number} of {text!r}")
    return f"{text}p{number}" if re.search(r"\d$", text) else f"{text}{number}"


def partition_nodes(disk: StrPath) -> tuple[Path, ...]:
    """Return the device nodes of the partitions that the kernel now sees on `disk`, sorted."""
    below = Path("/sys/class/block") / Path(disk).name
    if not below.is_dir():
        return ()
    names = (entry.name for entry in below.iterdir() if (entry / "partition").exists())
    return tuple(sorted(Path("/dev") / name for name in names))


def _ask(fd: int, request: int, answer_bytes: int, path: StrPath) -> bytes:
    try:
        return fcntl.ioctl(fd, request, b"\0" * answer_bytes)
    except OSError as error:
        raise _failed("ask", path, error) from error


def _direct_read_works(path: StrPath) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
    except PermissionError:
        return True  # not ours to read; the first write will tell
    except OSError:
        return False
    try:
        with aligned_buffer(mmap.PAGESIZE) as buffer:
            os.preadv(fd, [buffer], 0)
    except OSError as error:
        return error.errno != errno.EINVAL
    finally:
        os.close(fd)
    return True


def punch_hole(fd: int, extent: Extent) -> None:
    """Make `extent` of a regular file a hole: it reads as zeros. Raises OSError."""
    mode = _FALLOC_PUNCH_HOLE | _FALLOC_KEEP_SIZE
    offset, size = ctypes.c_int64(extent.offset), ctypes.c_int64(extent.size)
    if _libc().fallocate64(fd, mode, offset, size) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _failed(action: str, path: StrPath, error: OSError) -> DiskError:
    return DiskError(f"could not {action} {os.fspath(path)}: {error.strerror}")
