"""A cover over a device of the source: it reads as the device, and what is written stays in RAM.

It is a dm snapshot. The kernel opens the device below for reading only, and it is write-protected
besides.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from agent.errors import DiskError
from agent.system import block
from agent.system.command import Runner
from agent.units import MiB

_COVER_BYTES: Final = 64 * MiB
"""Room for what is written. It is taken only as it is used; when full, reads fail."""
_CHUNK_SECTORS: Final = 256
_SECTOR_BYTES: Final = 512


@contextmanager
def covered(run: Runner, device: Path, name: str) -> Iterator[Path]:
    """Yield a device that reads as `device` and takes writes in RAM."""
    if not block.is_block_device(device):
        raise DiskError(f"{device} is not a block device")
    sectors = block.size_bytes(device) // _SECTOR_BYTES
    was_read_only = block.is_read_only(device)
    number = device.stat().st_rdev
    below = f"{os.major(number)}:{os.minor(number)}"
    with ExitStack() as stack:
        block.set_read_only(device, True)
        if not was_read_only:
            stack.callback(block.set_read_only, device, False)
        loop = stack.enter_context(_area_in_ram(run))
        table = f"0 {sectors} snapshot {below} {loop} N {_CHUNK_SECTORS}"
        run(["dmsetup", "create", name, "--table", table])
        stack.callback(run, ["dmsetup", "remove", "--retry", name])
        yield Path("/dev/mapper") / name


@contextmanager
def _area_in_ram(run: Runner) -> Iterator[Path]:
    # /run is in RAM, whatever /tmp is.
    with tempfile.NamedTemporaryFile(dir="/run", prefix="metalcast-cover-") as file:
        file.truncate(_COVER_BYTES)
        loop = Path(run(["losetup", "--find", "--show", file.name]).text.strip())
    try:
        yield loop
    finally:
        run(["losetup", "--detach", loop])
