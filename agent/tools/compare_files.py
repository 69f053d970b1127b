"""Copied files read back and compared with those that they were copied from.

The target is mounted anew for it, so that its files come from the medium and not from memory. What
the kernel says of owners and modes is cp's own work; here it is about contents.
"""

import errno
import os
import stat
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Final

from agent.errors import DiskError
from agent.model.event import Progress, Progressed
from agent.model.job import Verify
from agent.report import Report, silent
from agent.tools.copy_flags import shown
from agent.units import MiB

_STRATUM: Final = 20
"""A sample has the files of one folder of so many, and all of /boot."""
_PIECE: Final = MiB
_EVERY_S: Final = 0.5
_STAT_BLOCK: Final = 512
_BAD: Final = "the disk, its cable or its controller is bad"


@dataclass(frozen=True, slots=True)
class Compared:
    """What was read back and found to be right."""

    files: int
    bytes: int


def compare_trees(
    source: Path,
    target: Path,
    mode: Verify,
    report: Report = silent,
    *,
    seed: str,
    where: str = "/",
    others: Collection[str] = (),
    what: str = "read back files",
) -> Compared:
    """Compare the files below `source` with their copies below `target`.

    `where` is the place of both in the system; a sample is drawn by `seed` and has all of /boot.
    Stays on the one filesystem, and away from `others`: where other trees were copied over it.
    Raises DiskError naming the first path that differs.
    """
    chosen = _chooser(mode, seed, where)
    top, copy = os.fsencode(source), os.fsencode(target)
    apart = _relative(others, where)
    total = sum(_taken(found) for path, found in _files(top, apart) if chosen(path))
    told = _Told(what, total, report)
    files = 0
    linked: dict[int, int] = {}
    for path, found in _files(top, apart):
        if chosen(path):
            files += 1
            _compare(top + b"/" + path, copy + b"/" + path, path, found, told, linked)
    told.finish()
    return Compared(files, told.read)


def _chooser(mode: Verify, seed: str, where: str) -> Callable[[bytes], bool]:
    """Return which paths, relative to the tree at `where`, are compared.

    By folders: their files lie together, and single files would fetch every chunk of the template.
    """
    prefix = os.fsencode(where.rstrip("/") + "/")

    def chosen(path: bytes) -> bool:
        if mode is not Verify.SAMPLE or (prefix + path).startswith(b"/boot/"):
            return mode is not Verify.NONE
        folder = (prefix + path).rpartition(b"/")[0]
        said = blake2b(folder, key=seed.encode()[:64], digest_size=8).digest()
        return int.from_bytes(said, "big") % _STRATUM == 0

    return chosen


def _relative(others: Collection[str], where: str) -> frozenset[bytes]:
    prefix = where.rstrip("/") + "/"
    return frozenset(
        os.fsencode(other.removeprefix(prefix)) for other in others if other.startswith(prefix)
    )


def _files(top: bytes, apart: Collection[bytes]) -> Iterator[tuple[bytes, os.stat_result]]:
    """Yield regular files and links below `top`, relative to it, in the order of the folders."""
    try:
        device = os.lstat(top).st_dev
        folders = [b""]
        while folders:
            folder = folders.pop()
            with os.scandir(top + b"/" + folder) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
            for entry in listed:
                path = folder + b"/" + entry.name if folder else entry.name
                found = entry.stat(follow_symlinks=False)
                if found.st_dev != device:
                    continue
                if stat.S_ISDIR(found.st_mode):
                    folders += [] if path in apart else [path]
                elif stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode):
                    yield path, found
    except OSError as error:
        raise DiskError(f"could not list the files to compare: {error}") from error


def _compare(
    one: bytes,
    other: bytes,
    path: bytes,
    found: os.stat_result,
    told: "_Told",
    linked: dict[int, int],
) -> None:
    """Compare one path. `linked` has the copy's inode for files that have several names."""
    try:
        copy = os.lstat(other)
    except OSError as error:
        raise DiskError(f"{shown(path)} is not there any more: {error.strerror}") from error
    if (stat.S_IFMT(copy.st_mode), copy.st_size) != (stat.S_IFMT(found.st_mode), found.st_size):
        raise _differs(path, "its kind or size")
    try:
        if stat.S_ISLNK(found.st_mode):
            if os.readlink(one) != os.readlink(other):  # noqa: PTH115, names of any bytes
                raise _differs(path, "where it leads")
        elif linked.get(found.st_ino) != copy.st_ino:
            _compare_contents(one, other, path, found.st_size, told)
    except OSError as error:
        raise DiskError(f"could not read {shown(path)} back: {error.strerror}") from error
    if found.st_nlink > 1:
        linked.setdefault(found.st_ino, copy.st_ino)


def _compare_contents(one: bytes, other: bytes, path: bytes, size: int, told: "_Told") -> None:
    """Compare all that is data in either: what is a hole in both is zeros in both."""
    with ExitStack() as stack:
        ours, theirs = (
            stack.enter_context(open(name, "rb", buffering=0))  # noqa: PTH123
            for name in (one, other)
        )
        fds = (ours.fileno(), theirs.fileno())
        for start, end in _joined(run for fd in fds for run in data_runs(fd, size)):
            for at in range(start, end, _PIECE):
                length = min(_PIECE, end - at)
                if os.pread(fds[0], length, at) != os.pread(fds[1], length, at):
                    raise _differs(path, f"what is in it at {at}")
                told.add(length)


def data_runs(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield where a file has data, from (start) up to; all of it where nobody says."""
    at = 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
            end = os.lseek(fd, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno != errno.ENXIO:  # only a hole is left
                yield at, size
            return
        yield start, min(end, size)
        at = end


def _joined(runs: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for start, end in sorted(runs):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    yield from joined


def _taken(found: os.stat_result) -> int:
    return min(found.st_size, found.st_blocks * _STAT_BLOCK) if found.st_size else 0


def _differs(path: bytes, what: str) -> DiskError:
    return DiskError(
        f"{shown(path)} does not come back as it was copied: {what} differs", hint=_BAD
    )


@dataclass(slots=True)
class _Told:
    """Tells twice a second how far the comparison is."""

    what: str
    total: int
    report: Report
    read: int = 0
    _began: float = field(default_factory=time.monotonic)
    _last: float = 0.0

    def add(self, count: int) -> None:
        self.read += count
        if time.monotonic() - self._last >= _EVERY_S:
            self._tell(min(self.read, self.total))

    def finish(self) -> None:
        self._tell(self.total)

    def _tell(self, done: int) -> None:
        self._last = time.monotonic()
        rate = int(done / max(self._last - self._began, 0.001))
        self.report(Progressed(progress=Progress.at(self.what, done, self.total, rate)))
