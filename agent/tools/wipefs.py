"""Old signatures: found by wipefs(8) and libblkid, erased by zeros where all of them can lie."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from agent.errors import DiskError
from agent.system import block
from agent.system.command import Runner
from agent.system.libblkid import find_all
from agent.tools.old_places import old_places
from agent.units import Extent, GiB, KiB, MiB

EDGE_BYTES = 8 * MiB
"""How much goes at each end of an old partition: more than any signature reaches."""
_MIRRORS = (64 * MiB, 256 * GiB)
"""Where btrfs keeps copies of its superblock."""
_MIRROR_BYTES = 4 * KiB
_PIECE = bytes(MiB)


def both_ends(extent: Extent, edge_bytes: int = EDGE_BYTES) -> tuple[Extent, ...]:
    """Return the first and the last `edge_bytes` of `extent`: one run if they meet."""
    if extent.size <= 2 * edge_bytes:
        return (extent,)
    return (Extent(extent.offset, edge_bytes), Extent(extent.end - edge_bytes, edge_bytes))


def find_signatures(run: Runner, device: Path) -> tuple[str, ...]:
    """Return what libblkid still sees on `device` itself: `gpt at 512`."""
    answer = run(["wipefs", "--no-act", "--noheadings", "--output=TYPE,OFFSET", device])
    lines = answer.text.splitlines()
    return tuple(" at ".join(line.split()) for line in lines if line.strip())


def find_signature_in(device: Path, extent: Extent) -> str | None:
    """Return what libblkid sees in a run of `device`, None if nothing.

    Needs no device node for the run, so it works where the kernel does not know the partition.
    """
    return ", ".join(one.what for one in find_all(device, extent)) or None


def signature_runs(extent: Extent) -> tuple[Extent, ...]:
    """Return every run of an old volume where a signature of it can lie."""
    mirrors = (
        Extent(extent.offset + at, _MIRROR_BYTES)
        for at in _MIRRORS
        if at + _MIRROR_BYTES <= extent.size
    )
    return (*both_ends(extent), *mirrors)


def find_old_places(device: Path) -> tuple[Extent, ...]:
    """Return the whole device and what every old table, array and group on it names.

    See `agent.tools.old_places`: two tables that contradict each other are both believed.
    """
    with block.opened(device, os.O_RDONLY) as fd:

        def read(offset: int, size: int) -> bytes:
            try:
                return os.pread(fd, size, offset)
            except OSError as error:
                raise DiskError(
                    f"could not read {device} at offset {offset}: {error.strerror}"
                ) from error

        return old_places(read, block.size_bytes(device))


def erase_signatures(run: Runner, device: Path, planned: Iterable[Extent]) -> None:
    """Erase `planned`, and wherever old tables, arrays and groups say that something was.

    The old table goes first, and to the medium, so that no half-erased old system boots. Raises
    DiskError if libblkid still sees something on the device itself.
    """
    old = find_old_places(device)
    erase_runs(device, both_ends(Extent(0, block.size_bytes(device)), MiB))
    runs = [run for place in old for run in signature_runs(place)]
    erase_runs(device, _merged([*runs, *planned]))
    block.flush(device)
    if left := find_signatures(run, device):
        raise DiskError(f"{device} still holds {', '.join(left)} after it was erased")


def _merged(runs: Iterable[Extent]) -> Iterator[Extent]:
    """Yield what `runs` cover, in disk order, nothing twice."""
    end = 0
    for run in sorted(runs):
        if run.end > end:
            start = max(run.offset, end)
            yield Extent(start, run.end - start)
            end = run.end


def erase_runs(device: Path, runs: Iterable[Extent]) -> None:
    """Write zeros over `runs` and flush. Raises DiskError naming the offset."""
    with block.opened(device, os.O_WRONLY) as fd:
        for run in runs:
            at = run.offset
            try:
                while at < run.end:
                    at += os.pwrite(fd, _PIECE[: run.end - at], at)
            except OSError as error:
                raise DiskError(
                    f"could not erase {device} at offset {at}: {error.strerror}"
                ) from error
        try:
            os.fsync(fd)
        except OSError as error:
            raise DiskError(f"could not flush {device}: {error.strerror}") from error
