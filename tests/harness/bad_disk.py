"""A disk with bad sectors: QEMU's storage daemon answers EIO where it is told to.

What it exports is a file (FUSE); reads and writes of the sectors named fail there as on a disk.
"""

import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from agent.units import Extent

SECTOR_BYTES = 512
_START_S = 20.0
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
    node.write_bytes(b"")
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
    process = subprocess.Popen(
        [
            "qemu-storage-daemon",
            *("--blockdev", f"driver=file,filename={base},node-name=base"),
            *("--blockdev", ",".join(options)),
            *("--export", f"type=fuse,id=disk,node-name=bad,mountpoint={node},writable=on"),
        ],
        stderr=subprocess.PIPE,
    )
    try:
        deadline = time.monotonic() + _START_S
        while node.stat().st_size != base.stat().st_size:
            if process.poll() is not None or time.monotonic() > deadline:
                said = process.stderr.read().decode() if process.stderr else ""
                raise RuntimeError(f"qemu-storage-daemon did not start: {said}")
            time.sleep(0.02)
        yield node
    finally:
        process.terminate()
        process.wait(timeout=30)
