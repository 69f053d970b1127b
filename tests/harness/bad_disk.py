"""A disk with bad sectors: QEMU's storage daemon answers EIO where it is told to.

What it exports is a file (FUSE); reads and writes of the sectors named fail there as on a disk.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from agent.units import Extent
from tests.harness.daemons import storage_daemon

SECTOR_BYTES = 512
_EIO = 5


@contextmanager
def bad_disk(
    base: Path,
    node: Path,
    *,
    unreadable: Sequence[Extent] = (),
    unwritable: Sequence[Extent] = (),
    no_flush: bool = False,
) -> Iterator[Path]:
    """Yield `node`, a file that is the disk `base`, whole sectors of which fail with EIO.

    Writes reach `base` on the way; nothing between caches them. Do not count on what large writes
    leave there: the daemon of QEMU 7.2 mixes up the pieces that the kernel cuts them into.
    """
    options = ["driver=blkdebug,node-name=bad,image=base"]
    for kind, runs in (("read", unreadable), ("write", unwritable)):
        for run in runs:
            first, end = run.offset // SECTOR_BYTES, -(-run.end // SECTOR_BYTES)
            for sector in range(first, end):
                rule = f"inject-error.{len(options) - 1}"
                options.append(
                    f"{rule}.event=none,{rule}.iotype={kind},{rule}.sector={sector},"
                    f"{rule}.errno={_EIO},{rule}.immediately=on"
                )
    if no_flush:
        rule = f"inject-error.{len(options) - 1}"
        options.append(f"{rule}.event=none,{rule}.iotype=flush,{rule}.errno={_EIO}")
    blockdevs = [f"driver=file,filename={base},node-name=base", ",".join(options)]
    with storage_daemon(blockdevs, "bad", node, base) as disk:
        yield disk
