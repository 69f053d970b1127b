"""The file of a blob that is being written, past the page cache wherever that is possible."""

import errno
import fcntl
import mmap
import os
from pathlib import Path
from typing import Final

from agent.units import MiB

_BUFFER_BYTES: Final = 4 * MiB


class BlobFile:
    """A new file that takes bytes in order. Every failure is the OSError of the system.

    Through the page cache a large blob would be copied, push out what is of use, and keep the
    disk from those who read it when all of it is written back at the end.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        self._buffer = mmap.mmap(-1, _BUFFER_BYTES)  # begins on a page, as O_DIRECT wants it
        self._filled = 0
        self._go_direct(True)

    def write(self, data: bytes) -> None:
        """Append `data`; it is on its way to the disk whenever the buffer is full."""
        done = 0
        while done < len(data):
            took = min(len(data) - done, _BUFFER_BYTES - self._filled)
            self._buffer[self._filled : self._filled + took] = data[done : done + took]
            self._filled += took
            done += took
            if self._filled == _BUFFER_BYTES:
                self._empty()

    def sync(self) -> None:
        """Wait until all is on the medium. No more can be written then."""
        self._go_direct(False)  # what is left is no whole sectors
        self._empty()
        os.fsync(self._fd)

    def close(self) -> None:
        """Close it. Without `sync` it is not known how much of it is there. May be repeated."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._buffer.close()
            os.close(fd)

    def _empty(self) -> None:
        with memoryview(self._buffer) as buffer:
            done = 0
            while done < self._filled:
                try:
                    with buffer[done : self._filled] as rest:
                        wrote = os.write(self._fd, rest)
                    if not wrote:
                        raise OSError(errno.EIO, "the file takes no bytes")
                    done += wrote
                except OSError as error:
                    # some filesystems refuse it only here, and none goes on inside a sector
                    if error.errno != errno.EINVAL or not self._go_direct(False):
                        raise
        self._filled = 0

    def _go_direct(self, direct: bool) -> bool:
        """Write past the page cache, or through it, from now on; return whether that is new."""
        before = fcntl.fcntl(self._fd, fcntl.F_GETFL)
        after = before | os.O_DIRECT if direct else before & ~os.O_DIRECT
        try:
            fcntl.fcntl(self._fd, fcntl.F_SETFL, after)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return False
        return after != before
