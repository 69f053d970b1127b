"""All files of one filesystem into another, with every attribute: GNU cp(1) and what it leaves out.

cp and not rsync: it is in coreutils, asks nothing of the target, and fails with the path of each
file that it could not copy. What cp does not know is done here and in `copy_flags`: inode flags
and projects (chattr), free room before the first write, write errors that only a sync shows.

What is shared between files on the source (reflinks) is written once for each file, for no call
shares blocks between two filesystems, and `Needs` counts it so; then the copies share it again
(`copy_shares`).
"""

import ctypes
import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Final

from agent.errors import CommandFailed, DiskError, Refused
from agent.model.event import Level, Logged, Progress, Progressed
from agent.report import Report, silent
from agent.system.command import Runner
from agent.tools.copy_flags import (
    Flagged,
    Lost,
    find_flagged,
    lost_lines,
    make_places,
    opened,
    restore_flags,
)
from agent.tools.copy_shares import share_again
from agent.tools.copy_walk import below, walk
from agent.units import format_bytes

_COPY_TIMEOUT_S: Final = 7 * 24 * 3600.0
_EVERY_S: Final = 0.5
_STAT_BLOCK: Final = 512


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
    total, inodes = 0, 0
    flagged: list[Flagged] = []
    for path, found in walk(top):
        is_folder, is_file = stat.S_ISDIR(found.st_mode), stat.S_ISREG(found.st_mode)
        if is_folder or is_file:
            flagged += _flagged(top, path, is_folder=is_folder)
        inodes += 1
        taken = max(found.st_blocks * _STAT_BLOCK, block_bytes if is_folder else 0)
        total += -(-taken // block_bytes) * block_bytes
    flagged += _flagged(top, b"", is_folder=True)
    return Needs(total, inodes, tuple(flagged))


def _flagged(top: bytes, path: bytes, *, is_folder: bool) -> list[Flagged]:
    with opened(below(top, path)) as fd:
        found = find_flagged(fd, path, is_folder=is_folder)
    return [found] if found else []


def find_room(target: Path) -> Room:
    """Return what the filesystem at `target` has left."""
    found = os.statvfs(target)
    # btrfs and vfat have no table of inodes and say 0.
    inodes = found.f_ffree if found.f_files else None
    return Room(found.f_bfree * found.f_frsize, inodes, found.f_frsize)


@dataclass(frozen=True, slots=True)
class Copied:
    """What was copied. `flagged` are files whose flags `finish_flags` is to set at the end."""

    bytes: int
    inodes: int
    target: Path
    flagged: tuple[Flagged, ...] = ()


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
    symbolic links, device nodes, fifos, names of any bytes; if it `is_plain` (vfat, exfat),
    contents and times. Inode flags and projects follow by `finish_flags`. Stays on the one
    filesystem. On return all is on the medium. `report` is called by this thread only; what it
    raises, and `stop`, ends the copy.

    Raises Refused before the first write if there is no room; DiskError naming the first path
    that could not be copied.
    """
    room = find_room(target)
    needs = find_needs(source, block_bytes=room.block_bytes)
    if reasons := objections(needs, room):
        raise Refused(reasons, hint="choose a larger target for this volume")
    with _Synced(target) as synced:
        if not is_plain:
            make_places(target, needs.flagged)
        with _Ticker(what, needs.bytes, target, room, report) as ticker:
            words = copy_words(source, target, is_plain=is_plain)
            ticker.watch(run, words, stop or threading.Event())
            ticker.finish()
        synced.sync()
        if not is_plain and (saved := share_again(source, target, stop or threading.Event())):
            text = f"{what}: {format_bytes(saved)} are shared between files, as on the source"
            report(Logged(level=Level.INFO, message=text))
            synced.sync()
    return Copied(needs.bytes, needs.inodes, target, needs.flagged)


def finish_flags(copied: Copied, report: Report = silent) -> tuple[Lost, ...]:
    """Give the copies their inode flags; report and return what the target does not take.

    Last of all copies: with +i on it, not even a mount point would take anything more.
    """
    with _Synced(copied.target) as synced:
        lost = restore_flags(copied.target, copied.flagged)
        synced.sync()
    for line in lost_lines(lost):
        report(Logged(level=Level.WARNING, message=line))
    return lost


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
        self._report(Progressed(progress=Progress.at(self._what, done, self._total, rate)))


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
