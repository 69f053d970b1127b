"""Inode flags, as chattr(1) sets them. The numbers are those of <linux/fs.h>."""

import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_GETFLAGS: Final = 0x80086601
_SETFLAGS: Final = 0x40086602
SYNC: Final = 0x00000008
IMMUTABLE: Final = 0x00000010
APPEND: Final = 0x00000020
NODUMP: Final = 0x00000040
NOATIME: Final = 0x00000080
DIRSYNC: Final = 0x00010000
NOCOW: Final = 0x00800000
PROJECT: Final = 0x20000000
LOCKS: Final = IMMUTABLE | APPEND
"""What keeps even root from changing a file."""
LETTERS: Final = {
    IMMUTABLE: "i",
    APPEND: "a",
    NODUMP: "d",
    NOATIME: "A",
    SYNC: "S",
    DIRSYNC: "D",
    NOCOW: "C",
    PROJECT: "P",
    0x00000004: "c",
    0x00004000: "j",
    0x02000000: "x",
    0x40000000: "F",
}
"""By chattr's letter: c is compressed, j journalled data, x DAX, F folded case."""
KEPT: Final = LOCKS | NODUMP | NOATIME | SYNC | DIRSYNC | NOCOW | PROJECT
"""What has a meaning on another filesystem."""
KNOWN: Final = sum(LETTERS)


def read_flags(fd: int) -> int | None:
    """Return the flags of a file or folder, None if its filesystem has none."""
    try:
        return int(struct.unpack("l", fcntl.ioctl(fd, _GETFLAGS, bytes(8)))[0])
    except OSError:
        return None


def set_flags(fd: int, flags: int) -> int:
    """Set each of `flags` beside those that are there; return those that were not taken.

    Some are taken in silence and not kept, so they are read again. What locks the file is last.
    """
    for one in sorted(LETTERS, key=lambda flag: flag & LOCKS):
        if flags & one:
            with suppress(OSError):
                _write(fd, (read_flags(fd) or 0) | one)
    return flags & ~(read_flags(fd) or 0)


def letters(flags: int) -> str:
    """Return flags as they are written for chattr: `+ia`."""
    return "+" + "".join(letter for flag, letter in LETTERS.items() if flags & flag)


@dataclass(frozen=True, slots=True)
class Lifted:
    """What of a folder and of a name in it was in the way of a change."""

    folder: int
    own: int


@contextmanager
def unlocked(parent: int, name: str) -> Iterator[Lifted]:
    """Let `name`, in the folder that `parent` is open on, be changed in spite of +i and +a.

    Afterwards a file or folder of that name has its flags again, also if it is another now, and
    so has the folder. Raises OSError.
    """
    folder = _lift(parent)
    before = 0
    try:
        with opened(parent, name) as fd:
            if fd is not None:
                before = (read_flags(fd) or 0) & KEPT
                _lift(fd)
        yield Lifted(folder, before & LOCKS)
    finally:
        try:
            with opened(parent, name) as fd:
                if fd is not None and before and set_flags(fd, before) & LOCKS:
                    raise OSError(1, f"could not set {letters(before & LOCKS)} again")
        finally:
            if folder and set_flags(parent, folder):
                raise OSError(1, f"could not set {letters(folder)} of its folder again")


@contextmanager
def unlocked_below(top: Path) -> Iterator[dict[str, int]]:
    """Let programs change all that is in `top` and itself; yield which paths had +i or +a.

    Paths are relative to `top`. What has such a path afterwards gets the flags again.
    """
    found: dict[str, int] = {}
    for folder, folders, files in os.walk(top):
        at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if Path(folder) == top and (locks := _lift(at)):
                found["."] = locks
            for name in (*folders, *files):
                with opened(at, name) as fd:
                    if fd is not None and (locks := _lift(fd)):
                        found[os.path.relpath(os.path.join(folder, name), top)] = locks  # noqa: PTH118
        finally:
            os.close(at)
    try:
        yield found
    finally:
        for path, locks in reversed(found.items()):
            if os.path.lexists(top / path):
                with opened(-1, str(top / path)) as fd:
                    if fd is not None:
                        set_flags(fd, locks)


@contextmanager
def opened(parent: int, name: str) -> Iterator[int | None]:
    """Yield a descriptor of the file or folder `name`; None for what is neither, or not there."""
    fd = _open(parent, name)
    try:
        yield fd
    finally:
        if fd is not None:
            os.close(fd)


def _open(parent: int, name: str) -> int | None:
    where = None if parent < 0 else parent
    try:
        mode = os.stat(name, dir_fd=where, follow_symlinks=False).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            return None  # to open a device may do something
        words = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        return os.open(name, words, dir_fd=where)
    except FileNotFoundError:
        return None


def _lift(fd: int) -> int:
    """Take +i and +a away; return which of them were there."""
    flags = read_flags(fd) or 0
    if flags & LOCKS:
        _write(fd, flags & ~LOCKS)
    return flags & LOCKS


def _write(fd: int, flags: int) -> None:
    fcntl.ioctl(fd, _SETFLAGS, struct.pack("l", flags))
