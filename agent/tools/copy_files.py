"""All files of one filesystem into another, with every attribute: GNU cp(1) and what it leaves out.

cp and not rsync: it is in coreutils, asks nothing of the target, and fails with the path of each
file that it could not copy. What cp does not know is done here: inode flags (chattr), free room
before the first write, write errors that only a sync shows.

What is shared between files on the source (reflinks, snapshots) is written once for each file:
no call shares blocks between two filesystems. `Needs` counts them so.
"""

import ctypes
import fcntl
import os
import stat
import struct
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Final

from agent.errors import CommandFailed, DiskError, Refused
from agent.model.event import Level, Logged, Progress, Progressed
from agent.report import Report, silent
from agent.system.command import Runner
from agent.units import format_bytes

_COPY_TIMEOUT_S: Final = 7 * 24 * 3600.0
_EVERY_S: Final = 0.5
_STAT_BLOCK: Final = 512

# <linux/fs.h>: what chattr(1) sets and what has a meaning on another filesystem.
_GETFLAGS: Final = 0x80086601
_SETFLAGS: Final = 0x40086602
_SYNC: Final = 0x00000008
_IMMUTABLE: Final = 0x00000010
_APPEND: Final = 0x00000020
_NODUMP: Final = 0x00000040
_NOATIME: Final = 0x00000080
_DIRSYNC: Final = 0x00010000
_NOCOW: Final = 0x00800000
_KEPT_FLAGS: Final = _SYNC | _IMMUTABLE | _APPEND | _NODUMP | _NOATIME | _DIRSYNC | _NOCOW


@dataclass(frozen=True, slots=True)
class Flagged:
    """A file or folder with inode flags. `path` is relative to the root of the copy."""

    path: bytes
    flags: int


@dataclass(frozen=True, slots=True)
class Needs:
    """What a tree takes on a target: allocated bytes and inodes, hard links counted once."""

    bytes: int
    inodes: int
    flagged: tuple[Flagged, ...] = ()


@dataclass(frozen=True, slots=True)
class Room:
    """What a filesystem has left for root. `inodes` is None where they are made as needed."""

    bytes: int
    inodes: int | None
    block_bytes: int


def objections(needs: Needs, room: Room) -> tuple[str, ...]:
    """Return why a tree does not fit, in words; nothing if it does."""
    found = []
    wanted = needs.bytes + needs.inodes * min(room.block_bytes, 512)
    if wanted > room.bytes:
        found.append(
            f"the files need {format_bytes(wanted)}, the new filesystem has "
            f"{format_bytes(room.bytes)} free"
        )
    if room.inodes is not None and needs.inodes > room.inodes:
        found.append(
            f"there are {needs.inodes} files and folders, the new filesystem has room for "
            f"{room.inodes} more"
        )
    return tuple(found)


def find_needs(source: Path, *, block_bytes: int = 4096) -> Needs:
    """Return what the files below `source` need on a filesystem with such blocks.

    Other filesystems below are left out. Only metadata is read. Raises DiskError with the path of
    what cannot be read.
    """
    top = os.fsencode(source)
    device = _stat(top).st_dev
    knows_flags = _flags_of(top) is not None
    total, inodes = 0, 0
    flagged: list[Flagged] = []
    linked: set[int] = set()
    folders = [b""]
    while folders:
        folder = folders.pop()
        for name in _names(_below(top, folder)):
            path = _below(folder, name)
            found = _stat(_below(top, path))
            is_folder, is_file = stat.S_ISDIR(found.st_mode), stat.S_ISREG(found.st_mode)
            if found.st_dev != device or found.st_ino in linked:
                continue
            if is_folder:
                folders.append(path)
            elif found.st_nlink > 1:
                linked.add(found.st_ino)
            if knows_flags and (is_folder or is_file):
                flags = (_flags_of(_below(top, path)) or 0) & _KEPT_FLAGS
                if flags:
                    flagged.append(Flagged(path, flags))
            inodes += 1
            taken = max(found.st_blocks * _STAT_BLOCK, block_bytes if is_folder else 0)
            total += -(-taken // block_bytes) * block_bytes
    if knows_flags and (flags := (_flags_of(top) or 0) & _KEPT_FLAGS):
        flagged.append(Flagged(b"", flags))
    return Needs(total, inodes, tuple(flagged))


def needs_bytes(source: Path) -> int:
    """Return the bytes that the files below `source` need, and those of their inodes."""
    needs = find_needs(source)
    return needs.bytes + needs.inodes * 512


def find_room(target: Path) -> Room:
    """Return what the filesystem at `target` has left."""
    found = os.statvfs(target)
    # btrfs and vfat have no table of inodes and say 0.
    inodes = found.f_ffree if found.f_files else None
    return Room(found.f_bfree * found.f_frsize, inodes, found.f_frsize)


@dataclass(frozen=True, slots=True)
class Copied:
    """What was copied. `flags_lost` are paths whose inode flags the target does not know."""

    bytes: int
    inodes: int
    flags_lost: tuple[str, ...]


def copy_tree(
    run: Runner,
    source: Path,
    target: Path,
    report: Report = silent,
    *,
    what: str = "copy files",
    stop: threading.Event | None = None,
    is_plain: bool = False,
) -> Copied:
    """Copy all that is in `source` into the folder `target`, that folder's own attributes too.

    Kept: owners, modes, times, xattrs of every kind, ACLs, capabilities, hard links, holes,
    symbolic links, device nodes, fifos, inode flags, names of any bytes; if it `is_plain` (vfat,
    exfat), contents and times. Stays on the one filesystem. On return all is on the medium.
    `report` is called by this thread only; what it raises, and `stop`, ends the copy.

    Raises Refused before the first write if there is no room; DiskError naming the first path
    that could not be copied.
    """
    return copy_parts(run, (Part(source, target),), report, what=what, stop=stop, is_plain=is_plain)


@dataclass(frozen=True, slots=True)
class Part:
    """A tree and the folder of the target filesystem that it goes to."""

    source: Path
    target: Path
    prepare: Callable[[], None] = lambda: None
    """Called before this part is copied and after those before it were: makes `target`."""


def copy_parts(
    run: Runner,
    parts: Sequence[Part],
    report: Report = silent,
    *,
    what: str = "copy files",
    stop: threading.Event | None = None,
    is_plain: bool = False,
) -> Copied:
    """Copy several trees into one filesystem, as `copy_tree` does; the first holds the others."""
    top = parts[0].target
    room = find_room(top)
    each = [find_needs(part.source, block_bytes=room.block_bytes) for part in parts]
    needs = Needs(sum(one.bytes for one in each), sum(one.inodes for one in each))
    if reasons := objections(needs, room):
        raise Refused(reasons, hint="choose a larger target for this volume")
    lost: list[str] = []
    with _Synced(top) as synced:
        with _Ticker(what, needs.bytes, top, room, report) as ticker:
            for part in parts:
                part.prepare()
                words = copy_words(part.source, part.target, is_plain=is_plain)
                ticker.watch(run, words, stop or threading.Event())
            ticker.finish()
        # An immutable folder would take nothing more: so all flags last.
        for part, one in zip(parts, each, strict=True):
            lost += _restore_flags(part.target, one.flagged)
        synced.sync()
    if lost:
        text = f"{len(lost)} files lose some of their inode flags, the first is {lost[0]}"
        report(Logged(level=Level.WARNING, message=text))
    return Copied(needs.bytes, needs.inodes, tuple(lost))


def copy_words(source: Path, target: Path, *, is_plain: bool = False) -> list[str]:
    """Return the command that copies what is in `source` into `target`.

    xattr is named besides --archive, which by itself says nothing when one is lost. With holes
    as the source has them (auto) a swap file keeps its blocks; "always" would make it useless.
    """
    kept = ["--archive", "--preserve=mode,ownership,timestamps,links,xattr"]
    # SELinux labels go as the xattr that they are, whether or not our kernel has SELinux.
    kept += ["--no-preserve=context"]
    return [
        "cp",
        *(["--recursive", "--preserve=timestamps"] if is_plain else kept),
        "--one-file-system",
        "--sparse=auto",
        "--reflink=auto",
        "--no-target-directory",
        "--",
        f"{source}",
        f"{target}",
    ]


def first_complaint(stderr: str) -> str:
    """Return what cp said first, and how much more there was."""
    lines = [line.removeprefix("cp: ") for line in stderr.splitlines() if line.strip()]
    if not lines:
        return "cp failed and did not say why"
    return lines[0] if len(lines) == 1 else f"{lines[0]} (and {len(lines) - 1} more)"


class _Ticker:
    """Runs the copy in a thread; tells how far it is by what the target has taken."""

    def __init__(self, what: str, total: int, target: Path, room: Room, report: Report) -> None:
        self._what = what
        self._total = total
        self._target = target
        self._free_before = room.bytes
        self._report = report
        self._began = monotonic()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="copy")

    def __enter__(self) -> "_Ticker":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def watch(self, run: Runner, words: list[str], stop: threading.Event) -> None:
        """Run a copy to its end. Raises DiskError if it failed, and what the report raises."""
        job = self._pool.submit(run, words, timeout_s=_COPY_TIMEOUT_S, stop=stop, ok=(0, 1))
        try:
            while not wait((job,), timeout=_EVERY_S).done:
                self._tell(self._taken())
        except BaseException:
            stop.set()
            raise
        try:
            output = job.result()
        except CommandFailed as error:
            raise DiskError(f"could not copy the files: {error}") from error
        if output.status:
            raise DiskError(f"could not copy the files: {first_complaint(output.stderr)}")

    def finish(self) -> None:
        self._tell(self._total)

    def _taken(self) -> int:
        return min(max(self._free_before - find_room(self._target).bytes, 0), self._total)

    def _tell(self, done: int) -> None:
        rate = int(done / max(monotonic() - self._began, 0.001))
        left = -(-(self._total - done) // rate) if rate else None
        progress = Progress(
            what=self._what,
            done_bytes=done,
            total_bytes=self._total,
            rate=rate,
            seconds_left=left,
        )
        self._report(Progressed(progress=progress))


class _Synced:
    """An open folder of a filesystem: its sync tells of every write that failed since."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> "_Synced":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def sync(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syncfs(self._fd) != 0:
            reason = os.strerror(ctypes.get_errno())
            raise DiskError(f"could not write all files to {self._folder}: {reason}")


def _restore_flags(target: Path, flagged: Collection[Flagged]) -> list[str]:
    """Set inode flags; return the paths that did not get all of theirs."""
    top = os.fsencode(target)
    lost = []
    for one in flagged:
        with _opened(_below(top, one.path)) as fd:
            if not _set_flags(fd, one.flags):
                # btrfs takes "no copy on write" only while a file is empty, others not at all.
                if rest := one.flags & ~_NOCOW:
                    _set_flags(fd, rest)
                lost.append(_shown(one.path))
    return lost


def _set_flags(fd: int, flags: int) -> bool:
    try:
        before = struct.unpack("l", fcntl.ioctl(fd, _GETFLAGS, bytes(8)))[0]
        fcntl.ioctl(fd, _SETFLAGS, struct.pack("l", before | flags))
    except OSError:
        return False
    return True


def _flags_of(path: bytes) -> int | None:
    """Return the inode flags of a file or folder, None if its filesystem has none."""
    with _opened(path) as fd:
        try:
            return int(struct.unpack("l", fcntl.ioctl(fd, _GETFLAGS, bytes(8)))[0])
        except OSError:
            return None


@contextmanager
def _opened(path: bytes) -> Iterator[int]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise DiskError(f"could not open {_shown(path)}: {error.strerror}") from error
    try:
        yield fd
    finally:
        os.close(fd)


def _below(folder: bytes, path: bytes) -> bytes:
    return folder + b"/" + path if folder and path else folder or path


def _names(folder: bytes) -> list[bytes]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries]
    except OSError as error:
        raise DiskError(f"could not list {_shown(folder)}: {error.strerror}") from error


def _stat(path: bytes) -> os.stat_result:
    try:
        return os.lstat(path)
    except OSError as error:
        raise DiskError(f"could not look at {_shown(path)}: {error.strerror}") from error


def _shown(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace") or "/"
