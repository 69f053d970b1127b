"""What chattr(1) sets of files that are copied: inode flags, and the project that quotas count.

A target knows some of them. What it does not take is returned, for the reader of the log.
"""

import fcntl
import os
import struct
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.errors import DiskError
from agent.system.inode_flags import KEPT, KNOWN, NOCOW, letters, read_flags, set_flags

_FSGETXATTR: Final = 0x801C581F
_FSSETXATTR: Final = 0x401C5820
_FSXATTR: Final = struct.Struct("IIIII8s")
_PROJECT_FIELD: Final = 3


@dataclass(frozen=True, slots=True)
class Flagged:
    """A file or folder with inode flags or a project. `path` is relative to the root of a copy."""

    path: bytes
    flags: int
    project: int = 0
    is_folder: bool = False


@dataclass(frozen=True, slots=True)
class Lost:
    """What a path did not get on the target, as chattr writes it: `+C`, `project 7`."""

    path: str
    what: str


def find_flagged(fd: int, path: bytes, *, is_folder: bool) -> Flagged | None:
    """Return the flags and the project of an open file or folder; None if it has none."""
    flags = (read_flags(fd) or 0) & KNOWN
    project = _project(fd)
    return Flagged(path, flags, project, is_folder) if flags or project else None


def make_places(target: Path, flagged: Collection[Flagged]) -> None:
    """Make empty files in place of those without copy on write: it must be set before the data.

    cp(1) fills them, and gives them and their folders the attributes.
    """
    top = os.fsencode(target)
    for one in flagged:
        if not one.flags & NOCOW or one.is_folder:
            continue
        place = top + b"/" + one.path
        try:
            os.makedirs(os.path.dirname(place), mode=0o700, exist_ok=True)  # noqa: PTH103, PTH120
            words = os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(place, words, 0o600)
        except OSError as error:
            raise DiskError(f"could not make {shown(one.path)}: {error.strerror}") from error
        set_flags(fd, NOCOW)  # if it is not taken, `restore_flags` says so
        os.close(fd)


def restore_flags(target: Path, flagged: Collection[Flagged]) -> tuple[Lost, ...]:
    """Give the copies below `target` their flags and projects; return what they did not get.

    Only when nothing is to be copied any more: a locked folder takes no new file.
    """
    top = os.fsencode(target)
    lost = []
    for one in flagged:
        with opened(top + b"/" + one.path if one.path else top) as fd:
            if one.project and not _set_project(fd, one.project):
                lost.append(Lost(shown(one.path), f"project {one.project}"))
            missing = set_flags(fd, one.flags & KEPT) | one.flags & ~KEPT & ~(read_flags(fd) or 0)
            if missing:
                lost.append(Lost(shown(one.path), letters(missing)))
    return tuple(lost)


def lost_lines(lost: Collection[Lost]) -> Iterator[str]:
    """Yield a line for each kind of flag that was lost, with the first file that lost it."""
    counts = Counter(one.what for one in lost)
    for what, count in sorted(counts.items()):
        first = next(one.path for one in lost if one.what == what)
        who = "1 file loses" if count == 1 else f"{count} files lose"
        yield f"{who} the flag {what}, which the new filesystem does not take: {first}" + (
            "" if count == 1 else ", …"
        )


@contextmanager
def opened(path: bytes) -> Iterator[int]:
    """Yield a descriptor of a file or folder, for reading. Raises DiskError with its path."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise DiskError(f"could not open {shown(path)}: {error.strerror}") from error
    try:
        yield fd
    finally:
        os.close(fd)


def shown(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace") or "/"


def _project(fd: int) -> int:
    try:
        answer = fcntl.ioctl(fd, _FSGETXATTR, bytes(_FSXATTR.size))
    except OSError:
        return 0
    return int(_FSXATTR.unpack(answer)[_PROJECT_FIELD])


def _set_project(fd: int, project: int) -> bool:
    with suppress(OSError):
        fields = list(_FSXATTR.unpack(fcntl.ioctl(fd, _FSGETXATTR, bytes(_FSXATTR.size))))
        fields[_PROJECT_FIELD] = project
        fcntl.ioctl(fd, _FSSETXATTR, _FSXATTR.pack(*fields))
    return _project(fd) == project
