"""Old signatures: found by wipefs(8) and blkid(8), erased by zeros where all of them can lie."""

import os
from collections.abc import Iterable
from pathlib import Path

from agent.errors import AgentError, DiskError
from agent.system import block
from agent.system.command import Runner
from agent.tools.sfdisk import read_table
from agent.units import Extent, MiB

EDGE_BYTES = 8 * MiB
"""How much goes at each end of an old partition: more than any signature reaches."""
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


def find_signature_in(run: Runner, device: Path, extent: Extent) -> str | None:
    """Return what libblkid sees in a run of `device`, None if nothing.

    Needs no device node for the run, so it works where the kernel does not know the partition.
    """
    answer = run(
        [
            "blkid",
            "--probe",
            f"--offset={extent.offset}",
            f"--size={extent.size}",
            "--match-tag=TYPE",
            "--output=value",
            device,
        ],
        ok=(0, 2, 8),
    )
    if answer.status == 8:
        return "several signatures"
    return answer.text.strip() or None


def find_old_partitions(run: Runner, device: Path) -> tuple[Extent, ...]:
    """Return the runs of the partitions that the old table names, if there is one to read.

    A table that lies about the size of the disk is cut to it.
    """
    try:
        table = read_table(run, device)
    except AgentError:
        return ()  # a damaged table names nothing that could be found by it again
    if table is None:
        return ()
    size = block.size_bytes(device)
    return tuple(
        Extent(part.offset_bytes, min(part.size_bytes, size - part.offset_bytes))
        for part in table.partitions
        if part.offset_bytes < size and part.size_bytes > 0
    )


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
