"""A source that cannot be read everywhere: which bytes are lost, found without wearing it out.

Where a read fails, it is tried again in smaller and smaller pieces, down to sectors; what still
cannot be read becomes zeros and is a hole of the template. A dying disk takes seconds for each
read that fails, so there is an end to that: see `Bounds`.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from agent.errors import DiskError
from agent.model.template import Hole
from agent.stream.blocks import UNREADABLE, DiskFile, overlap, without
from agent.stream.chunks import VolumeSource
from agent.units import Extent, KiB, MiB, align_down, format_bytes

_PIECES: Final = (64 * KiB, 4 * KiB)
"""Sizes to try again with, after a whole run; sectors come last."""

_ENOUGH_PAGES: Final = 4

Read = Callable[[Extent, memoryview], None]


@dataclass(frozen=True, slots=True)
class Bounds:
    """When a disk is too far gone to be captured."""

    holes: int = 1000
    bytes: int = 64 * MiB
    failing_s: float = 1800.0
    """Spent in reads that failed, over all threads."""


class Damage:
    """What of the sources of one capture is lost. Any thread may use it."""

    def __init__(self, bounds: Bounds | None = None) -> None:
        self._bounds = bounds or Bounds()
        self._lock = threading.Lock()
        self._lost: dict[str, list[Extent]] = {}
        self._told: set[str] = set()
        self._failing_s = 0.0
        self._pages: dict[str, int] = {}
        """By disk, pages of which each sector failed; below zero once a page failed in part."""

    @property
    def holes(self) -> tuple[Hole, ...]:
        """What was lost, by volume and offset; runs that touch are one."""
        with self._lock:
            return tuple(
                Hole(volume=volume, offset=run.offset, size=run.size)
                for volume, lost in self._lost.items()
                for run in joined(lost)
            )

    def news(self) -> tuple[str, ...]:
        """Return a warning for each volume that is found damaged for the first time."""
        with self._lock:
            fresh = self._lost.keys() - self._told
            self._told |= fresh
            return tuple(
                f"{volume} cannot be read at {self._lost[volume][0].offset}: "
                "what is lost becomes zeros"
                for volume in sorted(fresh)
            )

    def salvage(self, disk: DiskFile, source: VolumeSource) -> Read:
        """Return a `read` for the volume that gives zeros where the disk gives nothing.

        Raises DiskError beyond the bounds.
        """

        def read(extent: Extent, into: memoryview) -> None:
            if self._fails(disk, extent, into):
                self._in_pieces(disk, source, extent, into, _PIECES)

        return read

    def repeat(self, disk: DiskFile, source: VolumeSource) -> Read:
        """Return a `read` that gives once more what `salvage` gave: no hole is tried again."""

        def read(extent: Extent, into: memoryview) -> None:
            with self._lock:
                lost = joined(self._lost.get(source.volume.id, []))
            holes = [
                common
                for hole in lost
                if (common := overlap(Extent(source.offset_bytes + hole.offset, hole.size), extent))
            ]
            for hole in holes:
                _blank(hole, extent, into)
            for part in without((extent,), holes):
                at = part.offset - extent.offset
                disk.read(part, into[at : at + part.size])

        return read

    def _in_pieces(
        self,
        disk: DiskFile,
        source: VolumeSource,
        extent: Extent,
        into: memoryview,
        sizes: tuple[int, ...],
    ) -> int:
        """Read what can be read of `extent`, where a read has failed; return how much is lost."""
        sector = disk.sector_bytes
        size = sizes[0] if sizes else sector
        lost = 0
        for piece in _cut(extent, max(size, sector)):
            at = piece.offset - extent.offset
            part = into[at : at + piece.size]
            if not self._fails(disk, piece, part):
                continue
            if sizes and piece.size > sector and not self._is_whole(disk, piece):
                lost += self._in_pieces(disk, source, piece, part, sizes[1:])
            else:
                self._lose(disk, source, piece)
                _blank(piece, piece, part)
                lost += piece.size
        if not sizes and extent.size > sector:
            with self._lock:
                seen = self._pages.get(disk.name, 0)
                self._pages[disk.name] = seen + 1 if lost == extent.size and seen >= 0 else -1
        return lost

    def _is_whole(self, disk: DiskFile, piece: Extent) -> bool:
        """Return whether `piece` fails as a whole, as far as we have seen of this disk.

        Where some pages failed whole and none in part, there is no use in trying each sector.
        """
        with self._lock:
            seen = self._pages.get(disk.name, 0)
        return seen >= _ENOUGH_PAGES and piece.size <= _PIECES[-1]

    def _fails(self, disk: DiskFile, extent: Extent, into: memoryview) -> bool:
        began = time.monotonic()
        try:
            disk.read_once(extent, into)
        except OSError as error:
            if error.errno not in UNREADABLE:
                raise DiskError(
                    f"cannot read {disk.name} at {extent.offset}: {error.strerror}"
                ) from error
            with self._lock:
                self._failing_s += time.monotonic() - began
                waited = self._failing_s
            if waited > self._bounds.failing_s:
                why = f"{waited:.0f} s went by in failing reads"
                raise self._too_far(disk, extent, why) from error
            return True
        return False

    def _lose(self, disk: DiskFile, source: VolumeSource, extent: Extent) -> None:
        there = Extent(extent.offset - source.offset_bytes, extent.size)
        with self._lock:
            lost = self._lost.setdefault(source.volume.id, [])
            lost.append(there)
            if len(lost) > self._bounds.holes:
                lost[:] = joined(lost)
            count = sum(len(runs) for runs in self._lost.values())
            size = sum(run.size for runs in self._lost.values() for run in runs)
        if count > self._bounds.holes:
            raise self._too_far(disk, extent, f"more than {self._bounds.holes} unreadable runs")
        if size > self._bounds.bytes:
            limit = format_bytes(self._bounds.bytes)
            raise self._too_far(disk, extent, f"more than {limit} unreadable")

    def _too_far(self, disk: DiskFile, extent: Extent, why: str) -> DiskError:
        return DiskError(
            f"{disk.name} is too damaged to be captured: {why}, the last at {extent.offset}",
            hint="copy it to a sound disk with ddrescue, and capture that",
        )


def joined(runs: list[Extent]) -> list[Extent]:
    """Return `runs` in order, those that touch made one."""
    found: list[Extent] = []
    for run in sorted(runs):
        if found and found[-1].end == run.offset:
            run = Extent(found[-1].offset, found.pop().size + run.size)
        found.append(run)
    return found


def _cut(extent: Extent, size: int) -> list[Extent]:
    """Return `extent` in pieces that end at multiples of `size`."""
    pieces: list[Extent] = []
    offset = extent.offset
    while offset < extent.end:
        end = min(align_down(offset, size) + size, extent.end)
        pieces.append(Extent(offset, end - offset))
        offset = end
    return pieces


def _blank(part: Extent, whole: Extent, into: memoryview) -> None:
    at = part.offset - whole.offset
    into[at : at + part.size] = bytes(part.size)
