"""Subvolumes of btrfs, copied file by file: made again in another btrfs, or merged as folders.

Both filesystems are mounted at their top (`subvolid=5`), so that every subvolume is below.
"""

import os
import re
import threading
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from agent.errors import DiskError
from agent.report import Report, silent
from agent.system.command import Runner
from agent.tools.copy_files import Copied, Part, copy_parts

_LINE: Final = re.compile(rb"ID (\d+) gen \d+ top level (\d+) path (.+)")
_DEFAULT: Final = re.compile(rb"ID (\d+) ")


@dataclass(frozen=True, slots=True)
class Subvolume:
    """One subvolume. `path` is relative to the top of the filesystem."""

    id: int
    path: bytes
    is_read_only: bool = False
    is_default: bool = False


def parse_subvolumes(listing: bytes, read_only: bytes, default: bytes) -> tuple[Subvolume, ...]:
    """Return the subvolumes, each behind the one that it is in.

    The texts are those of `btrfs subvolume list`, the same with `-r`, and `get-default`.
    """
    locked = {number for number, _ in _lines(read_only)}
    found = _DEFAULT.match(default)
    if found is None:
        raise DiskError(f"btrfs names no default subvolume: {default[:80]!r}")
    subvolumes = [
        Subvolume(number, path, number in locked, number == int(found[1]))
        for number, path in _lines(listing)
    ]
    return tuple(sorted(subvolumes, key=lambda one: one.path.split(b"/")))


def find_subvolumes(run: Runner, mounted: Path) -> tuple[Subvolume, ...]:
    """Return the subvolumes below the top of a btrfs, which is mounted at `mounted`."""
    listing = run(["btrfs", "subvolume", "list", mounted]).stdout
    read_only = run(["btrfs", "subvolume", "list", "-r", mounted]).stdout
    default = run(["btrfs", "subvolume", "get-default", mounted]).stdout
    return parse_subvolumes(listing, read_only, default)


def copy_subvolumes(
    run: Runner,
    source: Path,
    target: Path,
    report: Report = silent,
    *,
    is_btrfs: bool,
    what: str = "copy files",
    stop: threading.Event | None = None,
) -> Copied:
    """Copy a btrfs, mounted at `source`, with all its subvolumes into the filesystem at `target`.

    If that `is_btrfs`, subvolumes are made again: nested as they were, the read-only ones
    read-only, the default one by its path. Else they become folders. What snapshots share is
    copied once for each of them. Raises as `copy_tree` does.
    """
    subvolumes = find_subvolumes(run, source)
    parts = [Part(source, target)]
    for one in subvolumes:
        below = os.fsdecode(one.path)
        make = partial(_make_place, run, source / below, target / below, is_btrfs)
        parts.append(Part(source / below, target / below, make))
    copied = copy_parts(run, parts, report, what=what, stop=stop)
    if is_btrfs:
        for one in reversed(subvolumes):
            place = target / os.fsdecode(one.path)
            if one.is_default:
                run(["btrfs", "subvolume", "set-default", place])
            if one.is_read_only:
                run(["btrfs", "property", "set", "-t", "subvol", place, "ro", "true"])
    return copied


def _make_place(run: Runner, source: Path, place: Path, is_btrfs: bool) -> None:
    """Make the subvolume or folder, instead of the empty folder that the copy of its parent left.

    That one's default ACL would reach the files; the parent gets back the times that it had.
    """
    try:
        place.rmdir()
        if is_btrfs:
            run(["btrfs", "subvolume", "create", place])
        else:
            place.mkdir()
        times = source.parent.stat()
        os.utime(place.parent, ns=(times.st_atime_ns, times.st_mtime_ns))
    except OSError as error:
        raise DiskError(f"could not make {place}: {error.strerror}") from error


def _lines(text: bytes) -> list[tuple[int, bytes]]:
    found = []
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if match is None:
            raise DiskError(f"btrfs lists what we do not understand: {line[:80]!r}")
        found.append((int(match[1]), match[3]))
    return found
